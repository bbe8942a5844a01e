/** What an engine must offer for `createDb` to make a `Db` of it. The only place where a statement is SQL text. */
import type { MySqlColumn, MySqlTable } from 'drizzle-orm/mysql-core'
import type { MySqlRemoteDatabase } from 'drizzle-orm/mysql-proxy'
import type { InsertRows } from './insert.ts'
import type { PoolUse } from './mysql-pool.ts'

export interface Result {
  /** rows of values in the order of the selected columns; empty for a write */
  readonly rows: unknown[][]
  /** rows matched (update), removed or inserted */
  readonly affectedRows: number
  readonly insertId: number
}

/** `schema`: DDL, which may take as long as it needs. */
export type StatementKind = 'read' | 'write' | 'schema'

export interface Executor {
  /** @throws DbError */
  run(sql: string, params: readonly unknown[], kind: StatementKind): Promise<Result>
  /** All of the rows or none; where it fails for more than a few, the transaction around it cannot go on. @throws DbError */
  insert(insert: InsertRows): Promise<Result>
}

/** Drizzle's builders, typed as MySQL's. */
export type Builders = MySqlRemoteDatabase<Record<string, never>>

export interface Dialect {
  readonly engine: 'sqlite' | 'mysql'
  builders(executor: Executor): Builders
  /** Database time, ms. */
  now(executor: Executor): Promise<number>
  lock<Q>(query: Q): Q
  /** Rows as they are to be inserted: an engine may have to give them their ids. */
  rows(table: MySqlTable, rows: readonly Record<string, unknown>[]): readonly Record<string, unknown>[]
  upsert(
    builders: Builders,
    table: MySqlTable,
    row: Record<string, unknown>,
    key: readonly MySqlColumn[],
    set: Record<string, unknown>,
  ): PromiseLike<unknown>
  /** Follows the rows of an insert: where an id is there, these columns of its row grow by the new row's. */
  addUp(columns: readonly string[]): string
  /**
   * Inserts but for the rows that a unique key refuses; everything else that is wrong is an error.
   * @param insert inserts rows in one statement, and says how many
   * @returns rows inserted
   */
  insertIgnore(
    builders: Builders,
    table: MySqlTable,
    rows: readonly Record<string, unknown>[],
    insert: (rows: readonly Record<string, unknown>[]) => Promise<number>,
  ): Promise<number>
}

export interface Engine {
  readonly dialect: Dialect
  /** Runs each statement by itself. */
  readonly executor: Executor
  /** @throws what `work` threw, or DbError; past the deadline the transaction is over, whatever `work` still does */
  transaction<T>(work: (executor: Executor) => Promise<T>, deadlineMs: number): Promise<T>
  /** As `Db.sync`. Absent: a commit is as durable as it gets. */
  readonly sync?: () => Promise<boolean>
  /** Absent: there is no pool. */
  readonly poolUse?: () => PoolUse
  close(): Promise<void>
}

/** What a write gives back through either dialect of Drizzle: MySQL's hands on the rows, SQLite's the whole answer. */
interface Header {
  readonly affectedRows: number
  readonly insertId: number
}

/** The header of a write as awaiting it gives it. */
export const answerOf = ({ affectedRows, insertId }: Result): readonly Header[] => [{ affectedRows, insertId }]

/** Wraps a result so that both proxy drivers of Drizzle pass the header of a write through untouched. */
export const proxyAnswer = (result: Result, kind: StatementKind): { rows: unknown[] } => ({
  rows:
    kind === 'read' ? result.rows : [{ affectedRows: result.affectedRows, insertId: result.insertId } satisfies Header],
})

/** @param answered what awaiting an insert, update or delete gave */
export function headerOf(answered: unknown): Header {
  const rows = Array.isArray(answered) ? answered : (answered as { rows?: unknown[] } | undefined)?.rows
  const header = rows?.[0] as Partial<Header> | undefined
  if (typeof header?.affectedRows !== 'number') throw new TypeError('not the answer of an insert, update or delete')
  return { affectedRows: header.affectedRows, insertId: header.insertId ?? 0 }
}

/**
 * Drizzle wraps every failure into an error that carries the statement's parameters, secrets among them. Ours pass as they are.
 * @param session a session of either proxy driver, changed in place: the method is internal to Drizzle and has no type
 */
export function passErrors<S extends object>(session: S): S {
  const open = session as unknown as { prepareQuery: (...args: unknown[]) => object }
  const prepare = open.prepareQuery.bind(session)
  const queryWithCache = (_sql: string, _params: unknown[], run: () => Promise<unknown>) => run()
  open.prepareQuery = (...args) => Object.assign(prepare(...args), { queryWithCache })
  return session
}
