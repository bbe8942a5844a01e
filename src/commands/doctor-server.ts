/** What `doctor` makes of a database server's settings and state: time-outs, room, replication, membership of a cluster. */
import type { Config } from '../config.ts'
import type { ServerFacts } from '../db/index.ts'
import type { Finding } from './doctor.ts'

/** A frozen node keeps its rows locked until the server gives its connection up. */
const LONG_WAIT_SEC = 3_600
const LONG_LOCK_WAIT_SEC = 60
/** Transactions of the gateway have five seconds. */
const SHORT_LOCK_WAIT_SEC = 3
const PACKET_BYTES = 8 * 1024 * 1024
const MIN_CONNECTIONS_PER_WORKER = 2

/** @param name of the variable that holds the address */
export function judgeServer({ variables, status }: ServerFacts, config: Config, name: string): readonly Finding[] {
  const findings: Finding[] = []
  const warn = (text: string, advice: string): void => {
    findings.push({ level: 'warning', text: `${name}: ${text}`, advice })
  }
  const refuse = (text: string, advice: string): void => {
    findings.push({ level: 'problem', text: `${name}: ${text}`, advice })
  }
  const number = (variable: string): number => Number(variables.get(variable))
  const isOn = (value: string | undefined): boolean => value === 'ON' || value === '1'

  const waitSec = number('wait_timeout')
  if (waitSec > LONG_WAIT_SEC)
    warn(`wait_timeout is ${waitSec} s`, 'a frozen node keeps its rows locked that long; 600 is enough')
  if (waitSec <= config.sqlMaxLifetimeSec)
    warn(
      `wait_timeout is ${waitSec} s, no longer than SQL_MAX_LIFETIME`,
      'the server closes idle connections under the nodes; lower SQL_MAX_LIFETIME or raise wait_timeout',
    )
  const lockSec = number('innodb_lock_wait_timeout')
  if (lockSec > LONG_LOCK_WAIT_SEC) warn(`innodb_lock_wait_timeout is ${lockSec} s`, 'use 50 or less')
  if (lockSec < SHORT_LOCK_WAIT_SEC)
    warn(`innodb_lock_wait_timeout is ${lockSec} s`, 'use 5 or more: what waits shorter is only repeated')
  const isolation = variables.get('transaction_isolation') ?? variables.get('tx_isolation')
  if (isolation !== 'REPEATABLE-READ')
    warn(
      `the transaction isolation is ${isolation}`,
      'use REPEATABLE-READ: with less, settings that were saved together may be read apart; with more, nodes wait for each other',
    )
  if (number('max_allowed_packet') < PACKET_BYTES)
    warn(`max_allowed_packet is ${variables.get('max_allowed_packet')} bytes`, 'use 16 MiB or more')

  const connections = number('max_connections')
  if (connections < config.sqlMaxOpenConns)
    warn(
      `max_connections is ${connections}, and SQL_MAX_OPEN_CONNS lets this node alone open ${config.sqlMaxOpenConns}`,
      'nodes share a full server and wait for it; better keep the sum of SQL_MAX_OPEN_CONNS of all nodes below max_connections',
    )
  if (config.sqlMaxOpenConns < config.workers * MIN_CONNECTIONS_PER_WORKER)
    warn(
      `SQL_MAX_OPEN_CONNS is ${config.sqlMaxOpenConns} for ${config.workers} workers`,
      `each takes ${MIN_CONNECTIONS_PER_WORKER} all the same; raise it or lower WORKERS`,
    )

  if (isOn(variables.get('read_only')) || isOn(variables.get('super_read_only')))
    refuse('the server takes no writes (read_only)', 'the address must lead to the primary, not to a replica')
  else if (isOn(status.get('slave_running')))
    warn(
      'the server is a replica of another one that takes writes as well',
      'the address must lead to the primary; what is written here is not written there',
    )

  if (isOn(variables.get('wsrep_on'))) judgeMember(variables, status, { warn, refuse })
  return findings
}

type Say = (text: string, advice: string) => void

/** @source https://galeracluster.com/library/documentation/galera-status-variables.html */
function judgeMember(
  variables: ServerFacts['variables'],
  status: ServerFacts['status'],
  { warn, refuse }: { readonly warn: Say; readonly refuse: Say },
): void {
  const state = status.get('wsrep_local_state_comment')
  if (status.get('wsrep_cluster_status') !== 'Primary' || status.get('wsrep_ready') !== 'ON')
    refuse(
      `this member of the Galera cluster is not ready (${status.get('wsrep_cluster_status')}, ${state})`,
      'it has lost the others, or joins them just now; see its log',
    )
  else if (state !== 'Synced') warn(`this member of the Galera cluster is ${state}`, 'wait until it is Synced')
  const size = Number(status.get('wsrep_cluster_size'))
  if (size < 3 || size % 2 === 0)
    warn(
      `the Galera cluster has ${size} members`,
      'with three or five a half never stands against the other; an arbitrator (garbd) counts as one',
    )
  if (variables.get('innodb_autoinc_lock_mode') !== '2')
    warn(`innodb_autoinc_lock_mode is ${variables.get('innodb_autoinc_lock_mode')}`, 'Galera needs 2')
  if (variables.get('binlog_format') !== 'ROW')
    warn(`binlog_format is ${variables.get('binlog_format')}`, 'Galera needs ROW')
}
