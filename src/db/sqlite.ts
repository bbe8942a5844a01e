/**
 * SQLite: one file, one reader and one writer connection. A transaction holds the writer under a mutex from
 * `begin immediate` to its end; reads outside a transaction use the reader and see what is committed.
 */
import { Database, type SQLQueryBindings, type Statement } from 'bun:sqlite'
import { getTableName } from 'drizzle-orm'
import { SQLiteAsyncDialect, type SQLiteColumn, type SQLiteTable } from 'drizzle-orm/sqlite-core'
import { SQLiteRemoteSession, SqliteRemoteDatabase } from 'drizzle-orm/sqlite-proxy'
import { messageOf } from '../lib/error-text.ts'
import { createMutex } from '../lib/mutex.ts'
import { type Checkpoint, createWal } from '../lib/wal.ts'
import {
  type Builders,
  type Dialect,
  type Engine,
  type Executor,
  headerOf,
  passErrors,
  proxyAnswer,
  type Result,
  type StatementKind,
} from './engine.ts'
import { DbError } from './error.ts'
import { type InsertRows, insertHead } from './insert.ts'
import { asMysql } from './kit.ts'
import { createIdGiver } from './sqlite-ids.ts'

export interface SqliteOptions {
  readonly path: string
  /** How long a statement waits for another process's lock, ms. The wait stops the whole process. */
  readonly busyTimeoutMs: number
  /** another process's; this one checkpoints if not given */
  readonly checkpoint?: Checkpoint | undefined
}

/** A write-ahead log longer than this, in pages, is copied into the file when somebody syncs. */
const MAX_FRAMES = 4_000
/** Where nobody syncs, a commit copies it, in the way of all calls. */
const MAX_FRAMES_UNSYNCED = 16_000
/** Statements kept prepared per connection, and the longest text worth keeping. */
const KEPT_STATEMENTS = 200
const KEPT_CHARS = 4_096
/**
 * Rows of an insert that go in one statement: so few that it stays prepared, and it costs less than one row at a time.
 * To prepare a statement for all of them takes as long as to run it.
 */
const ROWS_AT_ONCE = 8
/** An insert of more, outside a transaction, is a transaction of its own; it may take so long, ms. */
const INSERT_DEADLINE_MS = 30_000
/** A transaction that has kept the process to itself for so long lets others have their turn, ms. A call needs several turns. */
const TURN_MS = 0.5
/** It gets at least so much of the time that others take for theirs: else, on a busy process, it would never end. */
const SHARE = 0.5

export function openSqlite({ path, busyTimeoutMs, checkpoint }: SqliteOptions): Engine {
  const writer = openConnection(path, busyTimeoutMs, false)
  const reader = openConnection(path, busyTimeoutMs, true)
  const mutex = createMutex()
  const wal = createWal({ db: reader.database, maxFrames: MAX_FRAMES, checkpoint, quietly: mutex.run })

  return {
    dialect: sqliteDialect((table) => {
      const found = writer.run("select sql from sqlite_master where type = 'table' and name = ?", [table], 'read')
      return found.rows[0]?.[0]
    }),
    executor: {
      async run(sql, params, kind) {
        if (kind === 'read') return reader.run(sql, params, kind)
        return mutex.run(async () => writer.run(sql, params, kind))
      },
      insert: (insert) =>
        insert.rows.length <= ROWS_AT_ONCE
          ? mutex.run(async () => writer.inserter(insert)(0))
          : mutex.run(() => runTransaction(writer, (executor) => executor.insert(insert), INSERT_DEADLINE_MS)),
    },
    transaction: (work, deadlineMs) => mutex.run(() => runTransaction(writer, work, deadlineMs)),
    async sync() {
      try {
        await wal.sync()
        return true
      } catch (error) {
        throw asDbError(error)
      }
    },
    async close() {
      // What runs still ends first; the writer goes last, as its close folds the write-ahead log into the file.
      await mutex.run(async () => {
        wal.close()
        reader.close()
        writer.close()
      })
    },
  }
}

async function runTransaction<T>(
  writer: Connection,
  work: (executor: Executor) => Promise<T>,
  deadlineMs: number,
): Promise<T> {
  writer.run('begin immediate', [], 'write')
  let ended: DbError | undefined
  const expired = Promise.withResolvers<never>()
  const timer = setTimeout(() => {
    ended = new DbError('unavailable', `the transaction took longer than ${deadlineMs} ms`)
    expired.reject(ended)
  }, deadlineMs)
  let turnEndsAt = performance.now() + TURN_MS
  const inTurn = async <R>(statement: () => R): Promise<R> => {
    // Of several that wait for one turn, the first begins the next.
    while (performance.now() >= turnEndsAt) {
      const endedAt = turnEndsAt
      const leftAt = performance.now()
      await new Promise(setImmediate)
      if (turnEndsAt !== endedAt) continue
      const now = performance.now()
      turnEndsAt = now + Math.max(TURN_MS, (now - leftAt) * SHARE)
    }
    if (ended) throw ended
    return statement()
  }
  const executor: Executor = {
    run: (sql, params, kind) => inTurn(() => writer.run(sql, params, kind)),
    async insert(insert) {
      const insertFrom = writer.inserter(insert)
      let affectedRows = 0
      let insertId = 0
      try {
        for (let at = 0; at < insert.rows.length; at += ROWS_AT_ONCE) {
          const done = await inTurn(() => insertFrom(at))
          affectedRows += done.affectedRows
          insertId = done.insertId
        }
      } catch (error) {
        // Some of the rows may be there.
        if (insert.rows.length > ROWS_AT_ONCE) ended ??= error instanceof DbError ? error : asDbError(error)
        throw error
      }
      return { rows: [], affectedRows, insertId }
    },
  }
  try {
    const result = await Promise.race([work(executor), expired.promise])
    if (ended) throw ended
    commit(writer)
    return result
  } catch (error) {
    // Some failures (a full disk) have rolled back already.
    if (writer.inTransaction()) writer.run('rollback', [], 'write')
    throw error
  } finally {
    clearTimeout(timer)
    ended ??= new DbError('other', 'the transaction has ended')
  }
}

function commit(writer: Connection): void {
  try {
    writer.run('commit', [], 'write')
  } catch (error) {
    // A disk that failed in the middle of a commit may or may not have it.
    if (codeOf(error instanceof DbError ? error.cause : error).startsWith('SQLITE_IOERR'))
      throw new DbError('unknown-outcome', 'the disk failed while committing', error)
    throw error
  }
}

interface Connection {
  readonly database: Database
  run(sql: string, params: readonly unknown[], kind: StatementKind): Result
  /** @returns what inserts `ROWS_AT_ONCE` of the rows, those from `at` on */
  inserter(insert: InsertRows): (at: number) => Result
  inTransaction(): boolean
  close(): void
}

function openConnection(path: string, busyTimeoutMs: number, isReader: boolean): Connection {
  let database: Database
  try {
    database = new Database(path, { create: true, readwrite: true })
    database.run(`pragma busy_timeout = ${Math.trunc(busyTimeoutMs)}`)
    if (isReader) database.run('pragma query_only = 1')
    else {
      database.run('pragma journal_mode = wal')
      // A commit that waits for the disk would stop the whole process for it; who needs that certainty calls `sync`.
      database.run('pragma synchronous = normal')
      // Each index of a log row is written at many places: the fewer copies of the log into the file, the more of them are one.
      database.run(`pragma wal_autocheckpoint = ${MAX_FRAMES_UNSYNCED}`)
      database.run('pragma cache_size = -16000')
    }
  } catch (error) {
    throw new DbError('unavailable', `cannot open the SQLite file ${path}: ${messageOf(error)}`, error)
  }
  const kept = new Map<string, Statement>()

  const statementFor = (sql: string): { statement: Statement; isKept: boolean } => {
    const known = kept.get(sql)
    if (known) {
      kept.delete(sql)
      kept.set(sql, known)
      return { statement: known, isKept: true }
    }
    const statement = database.prepare(sql)
    if (sql.length > KEPT_CHARS) return { statement, isKept: false }
    kept.set(sql, statement)
    const oldest = kept.entries().next().value
    if (kept.size > KEPT_STATEMENTS && oldest) {
      kept.delete(oldest[0])
      oldest[1].finalize()
    }
    return { statement, isKept: true }
  }

  const run: Connection['run'] = (sql, params, kind) => {
    try {
      const { statement, isKept } = statementFor(sql)
      try {
        const bindings = params.map(bindable)
        if (kind === 'read') return { rows: statement.values(...bindings), affectedRows: 0, insertId: 0 }
        const done = statement.run(...bindings)
        return { rows: [], affectedRows: done.changes, insertId: Number(done.lastInsertRowid) }
      } finally {
        if (!isKept) statement.finalize()
      }
    } catch (error) {
      throw asDbError(error)
    }
  }

  return {
    database,
    run,
    inserter(insert) {
      const head = insertHead(insert, '"')
      const row = `(${insert.columns.map(() => '?').join(', ')})`
      const textOf = (count: number): string => head + new Array(count).fill(row).join(', ') + (insert.tail ?? '')
      const full = insert.rows.length < ROWS_AT_ONCE ? '' : textOf(ROWS_AT_ONCE)
      return (at) => {
        const end = Math.min(at + ROWS_AT_ONCE, insert.rows.length)
        const values: unknown[] = []
        for (let index = at; index < end; index++) for (const value of insert.rows[index]!) values.push(value)
        return run(end - at === ROWS_AT_ONCE ? full : textOf(end - at), values, 'write')
      }
    },
    inTransaction: () => database.inTransaction,
    close() {
      for (const statement of kept.values()) statement.finalize()
      kept.clear()
      database.close()
    },
  }
}

function bindable(value: unknown): SQLQueryBindings {
  if (typeof value === 'boolean') return value ? 1 : 0
  if (value === undefined) return null
  return value as SQLQueryBindings
}

const codeOf = (error: unknown): string => {
  const code = (error as { code?: unknown } | undefined)?.code
  return typeof code === 'string' ? code : ''
}

/** @source https://www.sqlite.org/rescode.html */
function asDbError(error: unknown): DbError {
  const code = codeOf(error)
  const text = messageOf(error)
  if (
    code === 'SQLITE_CONSTRAINT_UNIQUE' ||
    code === 'SQLITE_CONSTRAINT_PRIMARYKEY' ||
    code === 'SQLITE_CONSTRAINT_ROWID'
  )
    return new DbError('duplicate', text, error)
  if (code.startsWith('SQLITE_CONSTRAINT') || code === 'SQLITE_MISMATCH' || code === 'SQLITE_TOOBIG')
    return new DbError('content', text, error)
  if (/^SQLITE_(BUSY|LOCKED|IOERR|FULL|READONLY|CANTOPEN|NOMEM|PROTOCOL)/.test(code))
    return new DbError('unavailable', text, error)
  return new DbError('other', text, error)
}

/** @param ddlOf gives the DDL of a table as SQLite keeps it */
const sqliteDialect = (ddlOf: (table: string) => unknown): Dialect => {
  const giveIds = createIdGiver(ddlOf)
  return {
    engine: 'sqlite',
    builders(executor) {
      const dialect = new SQLiteAsyncDialect()
      const session = new SQLiteRemoteSession(
        async (sql, params, method) => {
          const kind = method === 'run' ? 'write' : 'read'
          return proxyAnswer(await executor.run(sql, params, kind), kind)
        },
        dialect,
        undefined,
        undefined,
        {},
      )
      return asMysql<Builders>(new SqliteRemoteDatabase('async', dialect, passErrors(session), undefined))
    },
    /** The one process that has the file agrees with itself. */
    now: async () => Date.now(),
    lock: (query) => query,
    rows: (table, rows) => giveIds(getTableName(table), rows),
    upsert: (builders, table, row, key, set) =>
      asSqlite(builders)
        .insert(table as unknown as SQLiteTable)
        .values(row)
        .onConflictDoUpdate({ target: key as unknown as SQLiteColumn[], set }),
    addUp: (columns) =>
      ` on conflict ("id") do update set ${columns.map((name) => `"${name}" = coalesce("${name}", 0) + excluded."${name}"`).join(', ')}`,
    insertIgnore: async (builders, table, rows) =>
      headerOf(
        await asSqlite(builders)
          .insert(table as unknown as SQLiteTable)
          .values([...rows])
          .onConflictDoNothing(),
      ).affectedRows,
  }
}

/** Undoes `asMysql`: the builders of this file are SQLite's. */
const asSqlite = (builders: Builders): SqliteRemoteDatabase<Record<string, never>> =>
  builders as unknown as SqliteRemoteDatabase<Record<string, never>>
