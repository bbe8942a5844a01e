/**
 * One connection to a MySQL server: with a hard end, and no answer that never comes: whoever waits on a connection that
 * breaks or is destroyed hears of it.
 */
import { createConnection as createSocket, type Socket } from 'node:net'
import mysql, { type ConnectionOptions, type ResultSetHeader } from 'mysql2'
import { createBag, type Placed } from '../lib/bag.ts'
import type { MysqlDsn } from './dsn.ts'
import type { Result } from './engine.ts'
import { DbError } from './error.ts'

export interface WireOptions {
  readonly host: string
  readonly port: number
  readonly socketPath?: string
  readonly user: string
  readonly password: string
  readonly database: string
  /** `preferred`: encrypted without a look at the certificate if the server can, else in clear */
  readonly tls: 'off' | 'verify' | 'skip-verify' | 'preferred'
  readonly connectTimeoutMs: number
  /** a collation of utf8mb4 for the connection */
  readonly collation?: string
  readonly isCompressed?: boolean
}

/** How an address is connected to. */
export function wireOf(dsn: MysqlDsn): WireOptions {
  const { host, port, socketPath, user, password, database, collation, isCompressed, tls } = dsn
  return {
    host,
    port,
    user,
    password,
    database,
    tls,
    isCompressed,
    connectTimeoutMs: dsn.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
    ...(socketPath === undefined ? {} : { socketPath }),
    ...(collation === undefined ? {} : { collation }),
  }
}

export interface Wire {
  readonly bornAt: number
  /** When the server last said something, on the monotonic clock, ms. */
  heardAt(): number
  isOpen(): boolean
  /**
   * What `work` comes to; rejects with the reason as soon as the connection has ended, however it did. Not a race against
   * a promise of the connection: that would keep each result as long as the connection lives.
   */
  whileOpen<T>(work: Promise<T>): Promise<T>
  /** One statement as text. @throws the driver's error; that of a lost connection has `fatal` */
  say(sql: string): Promise<Result>
  /**
   * Statements in one packet: one round trip for all of them. The server stops at the first that fails; then nobody knows
   * which of them were done, and it throws that one's error.
   */
  sayAll(statements: readonly string[]): Promise<readonly Result[]>
  /** Rows as they come and as the server wrote them, for whole tables. Nothing else may be said meanwhile. */
  stream(sql: string): AsyncGenerator<readonly (Buffer | null)[]>
  /** Asks for a sign of life. Rejects when there is none; a server that is silent keeps it waiting. */
  ping(): Promise<void>
  /** Ends the connection at once; what waits on it fails with `reason`. */
  destroy(reason: Error): void
  /** Says good-bye to the server. */
  close(): void
}

interface Waiter extends Placed {
  fail(error: unknown): void
}

const CONNECT_TIMEOUT_MS = 10_000
/** Rows that a stream reads ahead. */
const STREAMED_ROWS = 200
/** How long a server has to answer the good-bye. */
const GOODBYE_MS = 1_000

/**
 * Opens one connection.
 * @param onEnd called once when it is gone
 * @throws the driver's error when the server cannot be reached or refuses
 */
export type OpenWire = (onEnd: (wire: Wire) => void) => Promise<Wire>

export function createWireOpener(options: WireOptions): OpenWire {
  // One object for all connections, so that certificates are parsed once.
  const ssl = options.tls === 'off' ? undefined : { rejectUnauthorized: options.tls === 'verify' }
  return async (onEnd) => {
    try {
      return await openWire(options, ssl, onEnd)
    } catch (error) {
      const isRefused = (error as { code?: unknown }).code === 'HANDSHAKE_NO_SSL_SUPPORT'
      if (options.tls !== 'preferred' || !isRefused) throw error
      return openWire(options, undefined, onEnd)
    }
  }
}

type Ssl = { readonly rejectUnauthorized: boolean } | undefined

async function openWire(options: WireOptions, ssl: Ssl, onEnd: (wire: Wire) => void): Promise<Wire> {
  let socket: Socket | undefined
  const connection = mysql.createConnection({
    ...driverOptions(options, ssl),
    // The socket is ours, so that it can be ended whatever the driver's state.
    stream: () => {
      socket = options.socketPath
        ? createSocket({ path: options.socketPath })
        : createSocket({
            host: options.host,
            port: options.port,
            noDelay: true,
            keepAlive: true,
            keepAliveInitialDelay: 30_000,
          })
      return socket
    },
  })

  const waiting = createBag<Waiter>()
  let isOpen = true
  let endedBy: unknown
  let heardAt = performance.now()
  const end = (error: unknown): void => {
    if (!isOpen) return
    isOpen = false
    endedBy = error
    socket?.destroy()
    waiting.each((waiter) => waiter.fail(error))
    onEnd(wire)
  }
  /** Runs a driver call whose callback may never come. */
  const ask = <T>(call: (done: (error: unknown, value: T) => void) => void): Promise<T> =>
    new Promise<T>((resolve, reject) => {
      if (!isOpen) return reject(closedConnection())
      const waiter = { place: -1, fail: reject }
      waiting.add(waiter)
      call((error, value) => {
        waiting.delete(waiter)
        heardAt = performance.now()
        if (!error) return resolve(value)
        reject(error)
        if ((error as { fatal?: unknown }).fatal === true) end(error)
      })
    })

  const wire: Wire = {
    bornAt: performance.now(),
    heardAt: () => heardAt,
    isOpen: () => isOpen,
    whileOpen: (work) =>
      new Promise((resolve, reject) => {
        if (!isOpen) reject(endedBy)
        const waiter = { place: -1, fail: reject }
        waiting.add(waiter)
        work.finally(() => waiting.delete(waiter)).then(resolve, reject)
      }),
    async say(sql) {
      return resultOf(await ask<unknown>((done) => connection.query({ sql, rowsAsArray: true }, done)))
    },
    async sayAll(statements) {
      const [only] = statements
      if (statements.length === 1 && only !== undefined) return [await wire.say(only)]
      const sql = statements.join(';\n')
      const answers = await ask<unknown>((done) => connection.query({ sql, rowsAsArray: true }, done))
      return (answers as readonly unknown[]).map(resultOf)
    },
    async *stream(sql) {
      if (!isOpen) throw closedConnection()
      const rows = connection
        .query({ sql, rowsAsArray: true, typeCast: false })
        .stream({ highWaterMark: STREAMED_ROWS })
      const waiter = { place: -1, fail: (error: unknown): void => void rows.destroy(error as Error) }
      waiting.add(waiter)
      try {
        for await (const row of rows) yield row as readonly (Buffer | null)[]
      } finally {
        waiting.delete(waiter)
      }
    },
    ping: () => ask<void>((done) => connection.ping((error) => done(error, undefined))),
    destroy: end,
    close() {
      if (!isOpen) return
      isOpen = false
      connection.end(() => socket?.destroy())
      // A server that does not answer the good-bye must not keep the process.
      setTimeout(() => socket?.destroy(), GOODBYE_MS).unref()
      onEnd(wire)
    },
  }

  connection.on('error', end)
  connection.on('end', () => end(lostConnection()))
  socket?.on('close', () => end(lostConnection()))
  const timer = setTimeout(() => end(timedOut(options.connectTimeoutMs)), options.connectTimeoutMs)
  try {
    await ask<void>((done) => connection.connect((error) => done(error, undefined)))
    await readOwnWrites(wire)
  } catch (error) {
    end(error)
    throw error
  } finally {
    clearTimeout(timer)
  }
  return wire
}

/** The server does not know the variable: it is no member of a Galera cluster. */
const UNKNOWN_VARIABLE = 1193

/**
 * A member of a Galera cluster shows what another member has committed a moment later, so who writes through one and
 * reads through another may miss its own write. This has a read wait for what was committed before it. Where a proxy
 * forgets it nothing breaks: then reads are as late as the cluster is.
 * @throws the server's error, also that of a member that is not ready
 * @source https://mariadb.com/kb/en/galera-cluster-system-variables/#wsrep_sync_wait
 */
async function readOwnWrites(wire: Wire): Promise<void> {
  let isMember: boolean
  try {
    isMember = Number((await wire.say('select @@wsrep_on')).rows[0]?.[0]) === 1
  } catch (error) {
    if ((error as { errno?: unknown }).errno === UNKNOWN_VARIABLE) return
    throw error
  }
  if (isMember) await wire.say('set session wsrep_sync_wait = 1')
}

const closedConnection = (): DbError => new DbError('unavailable', 'the connection to the database is closed')

const lostConnection = (): Error =>
  Object.assign(new Error('the connection to the database was lost'), { code: 'PROTOCOL_CONNECTION_LOST', fatal: true })

const timedOut = (afterMs: number): Error =>
  Object.assign(new Error(`the database did not answer within ${afterMs} ms`), { code: 'ETIMEDOUT', fatal: true })

function driverOptions(options: WireOptions, ssl: Ssl): ConnectionOptions {
  return {
    user: options.user,
    password: options.password,
    database: options.database,
    ...(options.socketPath ? { socketPath: options.socketPath } : { host: options.host, port: options.port }),
    ...(ssl ? { ssl } : {}),
    compress: options.isCompressed ?? false,
    charset: options.collation ?? 'utf8mb4',
    // FOUND_ROWS: an update counts the rows it matched. Never let a server ask for local files.
    flags: ['FOUND_ROWS', '-LOCAL_FILES'],
    // Ours go several to a packet; values never become text but through the literals of this folder.
    multipleStatements: true,
    connectTimeout: options.connectTimeoutMs,
    supportBigNumbers: true,
    decimalNumbers: true,
    dateStrings: true,
    jsonStrings: true,
  }
}

function resultOf(answer: unknown): Result {
  if (Array.isArray(answer)) return { rows: answer as unknown[][], affectedRows: 0, insertId: 0 }
  const { affectedRows, insertId } = answer as ResultSetHeader
  return { rows: [], affectedRows, insertId }
}
