/** What a database server says of itself, for `doctor`: settings and state that decide how it gets on with the gateway. */
import { asEngineDb, type Db } from './db.ts'

export interface ServerFacts {
  /** Variables of a session, by lower-case name; those that a server does not know are absent. */
  readonly variables: ReadonlyMap<string, string>
  /** Global status, likewise. */
  readonly status: ReadonlyMap<string, string>
}

const VARIABLES = [
  'binlog_format',
  'innodb_autoinc_lock_mode',
  'innodb_lock_wait_timeout',
  'max_allowed_packet',
  'max_connections',
  'read_only',
  'super_read_only',
  'transaction_isolation',
  'tx_isolation',
  'wait_timeout',
  'wsrep_on',
]
const STATUS = [
  'slave_running',
  'threads_connected',
  'wsrep_cluster_size',
  'wsrep_cluster_status',
  'wsrep_local_state_comment',
  'wsrep_ready',
]

/** @returns undefined for a file. @throws DbError */
export async function readServerFacts(db: Db): Promise<ServerFacts | undefined> {
  if (db.engine === 'sqlite') return undefined
  const read = async (what: 'variables' | 'global status', names: readonly string[]) => {
    const list = names.map((name) => `'${name}'`).join(', ')
    const { rows } = await asEngineDb(db).raw(`show ${what} where variable_name in (${list})`, [], 'read')
    return new Map(rows.map(([name, value]) => [String(name).toLowerCase(), String(value)]))
  }
  return { variables: await read('variables', VARIABLES), status: await read('global status', STATUS) }
}
