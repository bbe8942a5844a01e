/**
 * A gateway under measurement: a real node with one worker, set up over HTTP, everything on that a user has on. Knows when
 * all that was called has come to the database, so that a figure has the whole cost of its calls.
 */
import { Database } from 'bun:sqlite'
import { mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import mysql from 'mysql2/promise'
import { createAdminClient } from '../support/admin-client.ts'
import { eventually } from '../support/eventually.ts'
import { createNode } from '../support/node.ts'
import { mariadb, redis } from '../support/services.ts'
import { MODEL } from './wire.ts'

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
  /** Waits until the database has exactly these calls more than before. @throws Error when it has others, or wrong sums */
  settled(calls: number): Promise<void>
  /** How many it has served so far, that were waited for. */
  served(): number
  /** Ends it as an operator would, and removes it. */
  close(): Promise<void>
}

export interface GatewayOptions {
  /** Where its database goes, if that is a file. */
  readonly folder: string
  readonly engine: Engine
  readonly upstreamUrl: string
  /** Several share one port, which needs a cluster; 1 if not given. */
  readonly workers?: number
  readonly users?: number
  readonly keysPerUser?: number
  readonly channels?: number
  /** Models with an upstream of their own. */
  readonly others?: readonly { readonly model: string; readonly upstreamUrl: string }[]
  readonly env?: Readonly<Record<string, string>>
}

/** Users, keys and channels that small calls are spread over. */
export const SPREAD = { users: 50, keysPerUser: 2, channels: 5 } as const

/** Quota units; the most that one grant may be. */
const WALLET = 2_000_000_000
const SETTLE_MS = 60_000

export async function openGateway(options: GatewayOptions): Promise<Gateway> {
  const { engine, upstreamUrl, workers = 1, users = 1, keysPerUser = 1, channels = 1, others = [] } = options
  const folder = await mkdtemp(join(options.folder, 'gateway-'))
  const database = engine === 'cluster' ? await clusterServers() : fileDatabase(join(folder, 'bench.db'))
  const node = await createNode({
    env: { WORKERS: String(workers), LOG_LEVEL: 'info', ...database.env, ...options.env },
  })
  try {
    node.start()
    await node.ready(60_000)
    const admin = createAdminClient(() => node.url)
    await admin.setUp()
    for (let number = 1; number <= channels; number++)
      await admin.channel({ name: `upstream ${number}`, baseUrl: upstreamUrl, models: [MODEL] })
    for (const other of others)
      await admin.channel({ name: `upstream of ${other.model}`, baseUrl: other.upstreamUrl, models: [other.model] })
    const keys: string[] = []
    for (let number = 0; number < users; number++) {
      const user = await admin.user(WALLET)
      for (let each = 0; each < keysPerUser; each++) keys.push((await admin.apiKey(user, { quota: WALLET })).key)
    }
    const [workerPid] = await node.workerPids()
    const books = await database.open()
    const settled = createSettled(books.number)
    let served = 0
    return {
      engine,
      workers,
      url: node.url,
      supervisorPid: node.supervisorPid(),
      workerPid: workerPid!,
      serverPids: database.pids,
      keys,
      async settled(calls) {
        await settled(calls)
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

async function clusterServers(): Promise<BenchDatabase> {
  const server = await mariadb()
  const shared = await redis()
  const name = `bench_${crypto.randomUUID().replaceAll('-', '')}`
  await server.execute(`create database ${name}`)
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
    remove: () => server.execute(`drop database ${name}`),
  }
}

/** Nothing is won by leaving something out: each call is counted, has its row, and was paid. */
function createSettled(number: (query: string) => Promise<number>): (calls: number) => Promise<void> {
  const before = { requests: 0, quota: 0, logId: 0 }
  return async (calls) => {
    const requests = before.requests + calls
    const rowsAfter = `from logs where type = 2 and id > ${before.logId}`
    await eventually(
      'every call has come to the database',
      async () =>
        (await number('select coalesce(sum(request_count), 0) from users')) >= requests &&
        (await number(`select count(*) ${rowsAfter}`)) >= calls,
      { withinMs: SETTLE_MS, everyMs: 50 },
    )
    const rows = await number(`select count(*) ${rowsAfter}`)
    const quota = await number('select sum(used_quota) from users')
    const logged = await number(`select coalesce(sum(quota), 0) ${rowsAfter}`)
    if (rows !== calls || quota - before.quota !== logged || logged === 0)
      throw new Error(`${calls} calls left ${rows} rows; ${quota - before.quota} units were charged, ${logged} logged`)
    Object.assign(before, { requests, quota, logId: await number('select max(id) from logs') })
  }
}
