/**
 * A gateway under measurement: a real node with one worker, set up over HTTP, everything on that a user has on. Knows when
 * all that was called has come to the database, so that a figure has the whole cost of its calls.
 */
import { Database } from 'bun:sqlite'
import { mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import mysql from 'mysql2/promise'
import { type AdminClient, createAdminClient } from '../support/admin-client.ts'
import { eventually } from '../support/eventually.ts'
import { createNode } from '../support/node.ts'
import { mariadb, redis, type SqlServer } from '../support/services.ts'
import { LEDGER_PATH, MODEL, type MockLedger } from './wire.ts'

/** What a node stands on: a file, as it does by default, or what every node of a cluster has. */
export type Engine = 'sqlite' | 'cluster'

export interface Gateway {
  readonly engine: Engine
  readonly workers: number
  readonly url: string
  readonly supervisorPid: number
  /** Of the first worker. */
  readonly workerPid: number
  /** Processes of MariaDB and of Redis; absent on SQLite. */
  readonly serverPids: readonly number[]
  /** Limited keys, spread over users. */
  readonly keys: readonly string[]
  /** From its start until it was ready. */
  readonly startMs: number
  /** Its set-up and whatever else an operator does. */
  readonly admin: AdminClient
  /**
   * Waits until the database has exactly these calls more than before.
   * @param unknown how many of them the mock did not serve to the end: else their usage must be what it says, to the token
   * @throws Error when it has others, or wrong sums
   */
  settled(calls: number, unknown?: number): Promise<void>
  /** How many it has served so far, that were waited for. */
  served(): number
  /** Ends it as an operator would, and removes it. */
  close(): Promise<void>
}

/** One user, one key and one channel where nothing else is said. */
export interface GatewayOptions extends Partial<Spread> {
  /** Where its database goes, if that is a file. */
  readonly folder: string
  readonly engine: Engine
  readonly upstreamUrl: string
  /** Several share one port, which needs a cluster; 1 if not given. */
  readonly workers?: number
  /** A database that is there and stays, with its keys: nothing is set up. Or another server than the one that is shared. */
  readonly on?: { readonly server: SqlServer; readonly database?: string; readonly keys?: readonly string[] }
  readonly env?: Readonly<Record<string, string>>
}

/** Users, keys and channels that small calls are spread over. */
export interface Spread {
  readonly users: number
  readonly keysPerUser: number
  readonly channels: number
}

/** Quota units; the most that one grant may be. */
const WALLET = 2_000_000_000
const SETTLE_MS = 60_000
/** Of channels that were made otherwise. */
const UPSTREAM_KEY = 'upstream-key'

export async function openGateway(options: GatewayOptions): Promise<Gateway> {
  const { engine, upstreamUrl, workers = 1, users = 1, keysPerUser = 1, channels = 1 } = options
  const folder = await mkdtemp(join(options.folder, 'gateway-'))
  // The mock keeps its ledger by key. One that was made before has the key that it was made with.
  const upstreamKey = options.on?.keys ? UPSTREAM_KEY : `upstream ${crypto.randomUUID()}`
  const database = engine === 'cluster' ? await clusterServers(options.on) : fileDatabase(join(folder, 'bench.db'))
  const node = await createNode({
    env: { WORKERS: String(workers), LOG_LEVEL: 'info', ...database.env, ...options.env },
  })
  try {
    const startedAtMs = performance.now()
    node.start()
    await node.ready(60_000)
    const startMs = performance.now() - startedAtMs
    const admin = createAdminClient(() => node.url)
    const keys = options.on?.keys ?? (await setUp(admin, { upstreamUrl, upstreamKey, users, keysPerUser, channels }))
    const [workerPid] = await node.workerPids()
    const books = await database.open()
    const settled = await createSettled(books.number, new URL(LEDGER_PATH, upstreamUrl).href, upstreamKey)
    let served = 0
    return {
      engine,
      workers,
      url: node.url,
      supervisorPid: node.supervisorPid(),
      workerPid: workerPid!,
      serverPids: database.pids,
      keys,
      startMs,
      admin,
      async settled(calls, unknown) {
        await settled(calls, unknown)
        served += calls
      },
      served: () => served,
      async close() {
        await books.close()
        await node.stop()
        await node.remove()
        await database.remove()
      },
    }
  } catch (error) {
    await node.remove()
    throw error
  }
}

/** @returns the keys */
async function setUp(
  admin: AdminClient,
  made: Required<Pick<GatewayOptions, 'upstreamUrl' | 'users' | 'keysPerUser' | 'channels'>> & {
    readonly upstreamKey: string
  },
): Promise<readonly string[]> {
  await admin.setUp()
  for (let number = 1; number <= made.channels; number++)
    await admin.channel({
      name: `upstream ${number}`,
      baseUrl: made.upstreamUrl,
      key: made.upstreamKey,
      models: [MODEL],
    })
  // Side by side, because most of it is hashing passwords.
  const keys = await Promise.all(
    Array.from({ length: made.users }, async () => {
      const user = await admin.user(WALLET)
      const make = async () => (await admin.apiKey(user, { quota: WALLET })).key
      return Promise.all(Array.from({ length: made.keysPerUser }, make))
    }),
  )
  return keys.flat()
}

interface BenchDatabase {
  readonly env: Readonly<Record<string, string>>
  readonly pids: readonly number[]
  /** Another connection, to read beside the gateway. */
  open(): Promise<{ number(query: string): Promise<number>; close(): Promise<void> }>
  remove(): Promise<void>
}

function fileDatabase(path: string): BenchDatabase {
  return {
    env: { SQLITE_PATH: path },
    pids: [],
    async open() {
      const db = new Database(path, { readonly: true })
      return {
        number: async (query) => Number(Object.values(db.query<Record<string, unknown>, []>(query).get() ?? {})[0]),
        close: async () => db.close(),
      }
    },
    // The rig removes the folder.
    remove: async () => {},
  }
}

async function clusterServers(on: GatewayOptions['on']): Promise<BenchDatabase> {
  const server = on?.server ?? (await mariadb())
  const shared = await redis()
  const name = on?.database ?? `bench_${crypto.randomUUID().replaceAll('-', '')}`
  if (on?.database === undefined) await server.execute(`create database ${name}`)
  return {
    env: {
      SQL_DSN: server.dsn(name),
      REDIS_CONN_STRING: shared.url,
      CRYPTO_SECRET: 'a crypto secret of measurements',
    },
    pids: [server.process.pid, shared.process.pid],
    async open() {
      const connection = await mysql.createConnection({
        socketPath: server.socketPath,
        user: 'root',
        database: name,
      })
      return {
        async number(query) {
          const [rows] = await connection.query<mysql.RowDataPacket[]>(query)
          return Number(Object.values(rows[0] ?? {})[0])
        },
        close: () => connection.end(),
      }
    },
    remove: async () => void (on?.database === undefined && (await server.execute(`drop database ${name}`))),
  }
}

/** Nothing is won by leaving something out: each call is counted, has its row, and was paid for what the mock says it took. */
async function createSettled(number: (query: string) => Promise<number>, ledgerUrl: string, upstreamKey: string) {
  const requestsNow = () => number('select coalesce(sum(request_count), 0) from users')
  const quotaNow = () => number('select sum(used_quota) from users')
  const lastLogId = () => number('select coalesce(max(id), 0) from logs')
  /** A row for each worker, so that the database does not work for who waits; log rows come last. */
  const appliedNow = () => number("select coalesce(sum(seq), 0) from ledger_applied where part = 'log'")
  const ledgerNow = async (): Promise<MockLedger> => {
    const ledger = (await (await fetch(ledgerUrl)).json()) as Readonly<Record<string, MockLedger>>
    return ledger[`Bearer ${upstreamKey}`] ?? { calls: 0, promptTokens: 0, completionTokens: 0 }
  }
  const look = async () => ({
    requests: await requestsNow(),
    quota: await quotaNow(),
    logId: await lastLogId(),
    applied: await appliedNow(),
    ledger: await ledgerNow(),
  })
  let before = await look()
  return async (calls: number, unknown = 0): Promise<void> => {
    await eventually(
      'every call has come to the database',
      async () => (await appliedNow()) >= before.applied + calls,
      {
        withinMs: SETTLE_MS,
        everyMs: 50,
      },
    )
    const after = await look()
    const logged = (what: string): Promise<number> =>
      number(`select coalesce(${what}, 0) from logs where type = 2 and id > ${before.logId}`)
    const rows = await logged('count(*)')
    const quota = await logged('sum(quota)')
    const charged = after.quota - before.quota
    if (rows !== calls || after.requests - before.requests !== calls || charged !== quota || quota === 0)
      throw new Error(`${calls} calls left ${rows} rows; ${charged} units were charged, ${quota} logged`)
    const said = JSON.stringify({
      calls: after.ledger.calls - before.ledger.calls,
      promptTokens: after.ledger.promptTokens - before.ledger.promptTokens,
      completionTokens: after.ledger.completionTokens - before.ledger.completionTokens,
    } satisfies MockLedger)
    const metered = JSON.stringify({
      calls,
      promptTokens: await logged('sum(prompt_tokens)'),
      completionTokens: await logged('sum(completion_tokens)'),
    } satisfies MockLedger)
    if (unknown === 0 && said !== metered) throw new Error(`the mock has served ${said}; metered were ${metered}`)
    before = after
  }
}
