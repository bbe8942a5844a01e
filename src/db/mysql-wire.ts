/**
 * One connection to a MySQL server: statements with exact integers, a hard end, and no answer that never comes: whoever
 * waits on a connection that breaks or is destroyed hears of it.
 */
import { createConnection as createSocket, type Socket } from 'node:net'
import mysql, { type ConnectionOptions, type ResultSetHeader } from 'mysql2'
import type { Result } from './engine.ts'
import { DbError } from './error.ts'

export interface WireOptions {
  readonly host: string
  readonly port: number
  readonly socketPath?: string
  readonly user: string
  readonly password: string
  readonly database: string
  /** absent: no encryption. One object for all connections, so that certificates are parsed once */
  readonly ssl?: { readonly rejectUnauthorized: boolean }
  readonly connectTimeoutMs: number
  /** a collation of utf8mb4 for the connection */
  readonly collation?: string
  readonly isCompressed?: boolean
}

export interface Wire {
  readonly bornAt: number
  isOpen(): boolean
  /** Rejects with the reason when the connection has ended, however it did. */
  readonly gone: Promise<never>
  /** A prepared statement. @throws the driver's error; a lost connection is one with `fatal` */
  run(sql: string, params: readonly unknown[]): Promise<Result>
  /** A statement without parameters or rows, e.g. `commit`. */
  say(sql: string): Promise<void>
  /** Ends the connection at once; what waits on it fails with `reason`. */
  destroy(reason: Error): void
  /** Says good-bye to the server. */
  close(): void
}

/** Texts up to this length stay prepared on the connection; longer ones (inserts of many rows) are closed after use. */
const KEPT_CHARS = 4_096

/** @throws the driver's error when the server cannot be reached or refuses */
export async function openWire(options: WireOptions, onEnd: (wire: Wire) => void): Promise<Wire> {
  let socket: Socket | undefined
  const connection = mysql.createConnection({
    ...driverOptions(options),
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

  const gone = Promise.withResolvers<never>()
  gone.promise.catch(() => {})
  const waiting = new Set<(error: unknown) => void>()
  let isOpen = true
  const end = (error: unknown): void => {
    if (!isOpen) return
    isOpen = false
    socket?.destroy()
    for (const fail of waiting) fail(error)
    waiting.clear()
    gone.reject(error)
    onEnd(wire)
  }
  /** Runs a driver call whose callback may never come. */
  const ask = <T>(call: (done: (error: unknown, value: T) => void) => void): Promise<T> =>
    new Promise<T>((resolve, reject) => {
      if (!isOpen) return reject(new DbError('unavailable', 'the connection to the database is closed'))
      waiting.add(reject)
      call((error, value) => {
        waiting.delete(reject)
        if (!error) return resolve(value)
        reject(error)
        if ((error as { fatal?: unknown }).fatal === true) end(error)
      })
    })

  /** Closes a prepared statement; the driver finds it by the options it was made with, which its types do not say. */
  const forget = (sql: string): void => {
    connection.unprepare({ sql, rowsAsArray: true } as unknown as string)
  }

  const wire: Wire = {
    bornAt: performance.now(),
    isOpen: () => isOpen,
    gone: gone.promise,
    async run(sql, params) {
      const values = params.map(bindable)
      const answer = await ask<unknown>((done) => connection.execute({ sql, values, rowsAsArray: true }, done))
      if (sql.length > KEPT_CHARS && isOpen) forget(sql)
      return resultOf(answer)
    },
    say: (sql) => ask<void>((done) => connection.query(sql, (error) => done(error, undefined))),
    destroy: end,
    close() {
      if (!isOpen) return
      isOpen = false
      connection.end(() => socket?.destroy())
      onEnd(wire)
    },
  }

  connection.on('error', end)
  connection.on('end', () => end(lostConnection()))
  socket?.on('close', () => end(lostConnection()))
  const timer = setTimeout(() => end(timedOut(options.connectTimeoutMs)), options.connectTimeoutMs)
  try {
    await ask<void>((done) => connection.connect((error) => done(error, undefined)))
  } catch (error) {
    end(error)
    throw error
  } finally {
    clearTimeout(timer)
  }
  return wire
}

const lostConnection = (): Error =>
  Object.assign(new Error('the connection to the database was lost'), { code: 'PROTOCOL_CONNECTION_LOST', fatal: true })

const timedOut = (afterMs: number): Error =>
  Object.assign(new Error(`the database did not answer within ${afterMs} ms`), { code: 'ETIMEDOUT', fatal: true })

function driverOptions(options: WireOptions): ConnectionOptions {
  return {
    user: options.user,
    password: options.password,
    database: options.database,
    ...(options.socketPath ? { socketPath: options.socketPath } : { host: options.host, port: options.port }),
    ...(options.ssl ? { ssl: options.ssl } : {}),
    compress: options.isCompressed ?? false,
    charset: options.collation ?? 'utf8mb4',
    // FOUND_ROWS: an update counts the rows it matched. Never let a server ask for local files.
    flags: ['FOUND_ROWS', '-LOCAL_FILES'],
    connectTimeout: options.connectTimeoutMs,
    supportBigNumbers: true,
    decimalNumbers: true,
    dateStrings: true,
    jsonStrings: true,
    maxPreparedStatements: 200,
  }
}

/** Integers travel as integers: the driver would send a double, which MySQL refuses in `limit` and rounds in arithmetic. */
function bindable(value: unknown): unknown {
  if (typeof value === 'number' && Number.isSafeInteger(value)) return mysql.TypedParameter.LONGLONG(value)
  if (value === undefined) return null
  return value instanceof Uint8Array && !Buffer.isBuffer(value) ? Buffer.from(value) : value
}

function resultOf(answer: unknown): Result {
  if (Array.isArray(answer)) return { rows: answer as unknown[][], affectedRows: 0, insertId: 0 }
  const { affectedRows, insertId } = answer as ResultSetHeader
  return { rows: [], affectedRows, insertId }
}
