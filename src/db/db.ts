/** The `Db` that everybody uses, made of an engine: Drizzle's shared surface and what differs between engines. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { count, type SQL } from 'drizzle-orm'
import type { MySqlInsertValue as InsertValue, MySqlColumn, MySqlTable } from 'drizzle-orm/mysql-core'
import {
  answerOf,
  type Builders,
  type Engine,
  type Executor,
  headerOf,
  type Result,
  type StatementKind,
} from './engine.ts'
import { DbError } from './error.ts'
import { planInsert } from './insert.ts'
import type { PoolUse } from './mysql-pool.ts'
import type { TableName, Tables } from './tables/index.ts'

/** An insert that may be awaited, or given to `changes`. */
export type InsertQuery = PromiseLike<unknown>

export interface InsertInto<T extends MySqlTable> {
  /** All of the rows or none, also 1,000 of any table. */
  values(rows: InsertValue<T> | InsertValue<T>[]): InsertQuery
}

export interface Db {
  /** Only for `doctor` and display: nobody outside db/ decides by it. */
  readonly engine: 'sqlite' | 'mysql'
  readonly tables: Tables
  readonly select: Builders['select']
  readonly selectDistinct: Builders['selectDistinct']
  readonly update: Builders['update']
  readonly delete: Builders['delete']
  insert<T extends MySqlTable>(table: T): InsertInto<T>
  $count(table: MySqlTable, where?: SQL): Promise<number>
  /** Database time, ms: what all nodes agree on. */
  now(): Promise<number>
  /**
   * All or nothing. Repeats `work` when the database asks for it (deadlock, lock wait, certification failure), so `work`
   * must only touch memory in ways that may be repeated. Uses `tx` alone: a write through the outer `Db` is refused.
   * @param options.deadlineMs for all attempts together, 5,000 if not given
   * @throws DbError, or what `work` threw after everything was rolled back
   */
  transaction<T>(work: (tx: Db) => Promise<T>, options?: { readonly deadlineMs?: number }): Promise<T>
  /**
   * All reads of `work` through this `Db` see the database as it was at the first of them, also behind a proxy that spreads
   * reads over servers of which some are late. For reading alone.
   */
  readTogether<T>(work: () => Promise<T>): Promise<T>
  /** Runs an update, delete or insert. @returns rows matched, removed or inserted (an update without effect counts) */
  changes(query: PromiseLike<unknown>): Promise<number>
  /**
   * Inserts rows that have their `id`; where it is there, `columns` of that row grow by the new row's. For tables without
   * another unique key.
   */
  addUp<T extends MySqlTable>(
    table: T,
    rows: readonly (InsertValue<T> & { readonly id: number })[],
    columns: readonly MySqlColumn[],
  ): Promise<void>
  /** Inserts one row. @returns its auto-increment id */
  insertId<T extends MySqlTable>(table: T, row: InsertValue<T>): Promise<number>
  /** @returns rows inserted; rows that a unique key refuses are left out. Outside a transaction not atomic. */
  insertIgnore<T extends MySqlTable>(table: T, rows: InsertValue<T> | readonly InsertValue<T>[]): Promise<number>
  /**
   * Inserts the row or, if its key is there, changes the row that has it.
   * @param rule.key columns of one unique key; on MySQL any unique key of the table counts, so give rows only one
   * @param rule.set at least one column; values may be SQL over the table's columns (the old values). MySQL assigns from
   * left to right: do not read a column that is set before
   */
  upsert<T extends MySqlTable>(
    table: T,
    row: InsertValue<T>,
    rule: { readonly key: readonly MySqlColumn[]; readonly set: Partial<InsertValue<T>> },
  ): Promise<void>
  /** `select … for update`, in a transaction. SQLite's transactions lock everything from their start. */
  lock<Q>(query: Q): Q
  /**
   * Makes what was committed until now survive a power cut, where a commit alone does not (SQLite). On a server that is
   * the server's setting.
   * @returns false: not yet, try again later
   */
  sync(): Promise<boolean>
  /** How busy the connections are; undefined where there is no pool. */
  poolUse(): PoolUse | undefined
  close(): Promise<void>
}

/** For db/ itself: SQL text of one dialect. */
export interface EngineDb extends Db {
  raw(sql: string, params?: readonly unknown[], kind?: StatementKind): Promise<Result>
  /** The tables this database holds: all, or those of a log database. */
  readonly tableNames: readonly TableName[]
}

/** Safe because `createDb` makes every `Db` there is. */
export const asEngineDb = (db: Db): EngineDb => db as EngineDb

const DEADLINE_MS = 5_000
const READ_DEADLINE_MS = 30_000

type Row = Record<string, unknown>
/** Rows of any table, whose types the caller has checked. */
const listOf = (rows: unknown): readonly Row[] => (Array.isArray(rows) ? rows : [rows]) as readonly Row[]

export function createDb(engine: Engine, tables: Tables, tableNames: readonly TableName[]): EngineDb {
  const { dialect } = engine
  /** Marks what runs inside a transaction, so that a use of the outer `Db` fails at once and does not wait for itself. */
  const scope = new AsyncLocalStorage<{ isLive: boolean; reader?: Executor | undefined }>()

  const refuseInside = (what: string): void => {
    if (scope.getStore()?.isLive) throw new DbError('other', `${what} inside a transaction must go through its tx`)
  }
  const outer: Executor = {
    async run(sql, params, kind) {
      if (kind !== 'read') refuseInside('a write')
      const reader = kind === 'read' ? scope.getStore()?.reader : undefined
      return (reader ?? engine.executor).run(sql, params, kind)
    },
    async insert(insert) {
      refuseInside('a write')
      return engine.executor.insert(insert)
    },
  }

  const readTogether = async <T>(work: () => Promise<T>): Promise<T> => {
    // One process reads an SQLite file, and always its last state.
    if (dialect.engine === 'sqlite' || scope.getStore()?.reader) return work()
    let done: { readonly value: T } | undefined
    try {
      return await engine.transaction(async (executor) => {
        const mark: { isLive: boolean; reader?: Executor | undefined } = { isLive: false, reader: executor }
        try {
          done = { value: await scope.run(mark, work) }
        } finally {
          // What `work` left running reads on by itself.
          mark.reader = undefined
        }
        return done.value
      }, READ_DEADLINE_MS)
    } catch (error) {
      // Nothing was written: how the transaction ended makes no difference.
      if (done) return done.value
      throw error
    }
  }

  const surface = (executor: Executor, transaction: Db['transaction']): EngineDb => {
    const builders = dialect.builders(executor)
    const insertInto = (table: MySqlTable, rows: readonly Row[]): InsertQuery => {
      const given = dialect.rows(table, rows)
      const plan = planInsert(table, given)
      if (!plan) return builders.insert(table).values([...given])
      return {
        // biome-ignore lint/suspicious/noThenProperty: it is awaited like Drizzle's queries, and runs when it is
        then: (done, failed) => executor.insert(plan).then(answerOf).then(done, failed),
      }
    }
    return {
      engine: dialect.engine,
      tables,
      tableNames,
      select: builders.select.bind(builders) as Builders['select'],
      selectDistinct: builders.selectDistinct.bind(builders) as Builders['selectDistinct'],
      update: builders.update.bind(builders),
      delete: builders.delete.bind(builders),
      insert: (table) => ({ values: (rows) => insertInto(table, listOf(rows)) }),
      $count: async (table, where) => {
        const rows = await builders.select({ n: count() }).from(table).where(where)
        return rows[0]?.n ?? 0
      },
      now: () => dialect.now(executor),
      transaction,
      readTogether,
      changes: async (query) => headerOf(await query).affectedRows,
      addUp: async (table, rows, columns) => {
        const plan = planInsert(table, listOf(rows))
        if (!plan) throw new DbError('other', 'what is added up must be values')
        await executor.insert({ ...plan, tail: dialect.addUp(columns.map(({ name }) => name)) })
      },
      insertId: async (table, row) => headerOf(await insertInto(table, listOf(row))).insertId,
      insertIgnore: async (table, rows) => {
        const list = listOf(rows)
        if (list.length === 0) return 0
        return dialect.insertIgnore(
          builders,
          table,
          dialect.rows(table, list),
          async (some) => headerOf(await insertInto(table, some)).affectedRows,
        )
      },
      upsert: async (table, row, { key, set }) => {
        await dialect.upsert(builders, table, row, key, set)
      },
      lock: dialect.lock,
      sync: engine.sync ?? (async () => true),
      poolUse: () => engine.poolUse?.(),
      raw: (sql, params = [], kind = 'write') => executor.run(sql, params, kind),
      close: engine.close,
    }
  }

  return surface(outer, async (work, options = {}) => {
    refuseInside('a transaction')
    return engine.transaction((executor) => {
      const mark = { isLive: true }
      const tx = surface(executor, async () => {
        throw new DbError('other', 'a transaction cannot be nested')
      })
      return scope.run(mark, async () => {
        try {
          return await work(tx)
        } finally {
          mark.isLive = false
        }
      })
    }, options.deadlineMs ?? DEADLINE_MS)
  })
}
