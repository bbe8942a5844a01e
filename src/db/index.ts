/**
 * Opens the database, whichever engine the address names, and lists what others may use of this folder. The driver of
 * MySQL is loaded when an address names such a server: it is a third of the program, in time to start and in memory. So
 * `backup.ts`, which needs it either way, is imported by its commands alone.
 */
import { and, asc, eq, gt, lt, lte, sql } from 'drizzle-orm'
import type { Log } from '../lib/log.ts'
import type { Checkpoint } from '../lib/wal.ts'
import { utcDateTime, zonedDateTime } from './datetime.ts'
import { createDb, type Db } from './db.ts'
import { parseDsn, parseSqlitePath } from './dsn.ts'
import { DbError } from './error.ts'
import { createMysqlKit, createSqliteKit } from './kit.ts'
import { openSqlite } from './sqlite.ts'
import { defineTables, LOG_TABLES, type TableName, type Tables } from './tables/index.ts'
import { together } from './together.ts'

export type { Db, InsertInto, InsertQuery } from './db.ts'
export { type Dsn, type MysqlDsn, maskDsn, parseDsn, parseSqlitePath } from './dsn.ts'
export { DbError, type DbErrorKind } from './error.ts'
export { createLeaseRow, type LeaseRow } from './lease.ts'
export type { PoolUse } from './mysql-pool.ts'
export type { Index } from './schema.ts'
export { readServerFacts, type ServerFacts } from './server.ts'
export {
  buildIndexes,
  findMissing,
  pendingIndexes,
  readClusterId,
  type SyncOptions,
  syncSchema,
  waitForSchema,
} from './sync-schema.ts'
export type { TableName, Tables } from './tables/index.ts'
export { together } from './together.ts'

export interface DbPool {
  /** most connections that may lie idle; 100 */
  readonly maxIdle?: number
  /** most connections at all; 1,000 */
  readonly maxOpen?: number
  /** 60,000; 0 = for ever */
  readonly maxLifetimeMs?: number
  /** statements that take longer are logged; 200; 0 = none */
  readonly slowMs?: number
}

export interface OpenDbOptions {
  /** Go form or URL form; empty, absent or `local…`: SQLite */
  readonly dsn?: string
  /** `one-api.db` if absent; may carry `?_busy_timeout=<ms>` */
  readonly sqlitePath?: string
  readonly pool?: DbPool
  readonly log: Log
  /** how long to try again while the database is away or full; 0 */
  readonly waitMs?: number
  /** how long one statement outside a transaction may take, ms; as the address says, else 30,000 */
  readonly statementDeadlineMs?: number
  /** of another process, for SQLite; this one does it if not given */
  readonly checkpoint?: Checkpoint | undefined
  /** a log database: only the tables that belong there are synced */
  readonly only?: 'logs'
}

const SQLITE_PATH = 'one-api.db'
const BUSY_TIMEOUT_MS = 5_000
const STATEMENT_DEADLINE_MS = 30_000
const RETRY_MS = 500

/**
 * Opens, and asks the server once so that a wrong address or password shows at once; a log database, which may be away
 * without stopping a start, is not asked. Does not sync the schema.
 * @throws DbError `unavailable` when the database cannot be reached (in time), `other` for an address that is wrong
 */
export async function openDb(options: OpenDbOptions): Promise<Db> {
  const endAt = performance.now() + (options.waitMs ?? 0)
  for (;;) {
    try {
      return await openOnce(options)
    } catch (error) {
      const isAway = error instanceof DbError && error.kind === 'unavailable'
      if (!isAway || performance.now() >= endAt) throw error
      options.log.warn('waiting for the database', { reason: error.message })
      await Bun.sleep(RETRY_MS)
    }
  }
}

async function openOnce(options: OpenDbOptions): Promise<Db> {
  const dsn = parseDsn(options.dsn ?? '')
  if (dsn.kind === 'problem') throw new DbError('other', dsn.problem)
  const names = options.only === 'logs' ? LOG_TABLES : undefined
  if (dsn.kind === 'sqlite') {
    const { path, busyTimeoutMs = BUSY_TIMEOUT_MS } = parseSqlitePath(options.sqlitePath || SQLITE_PATH)
    if (path === ':memory:')
      throw new DbError('other', 'SQLITE_PATH must name a file: a database in memory would be lost')
    const tables = defineTables(createSqliteKit())
    return createDb(
      openSqlite({ path, busyTimeoutMs, checkpoint: options.checkpoint }),
      tables,
      names ?? namesOf(tables),
    )
  }
  for (const warning of dsn.warnings) options.log.warn(warning)
  const { maxIdle = 100, maxOpen = 1_000, maxLifetimeMs = 60_000, slowMs = 200 } = options.pool ?? {}
  const [{ openMysql }, { createWireOpener, wireOf }] = await Promise.all([
    import('./mysql.ts'),
    import('./mysql-wire.ts'),
  ])
  const tables = defineTables(createMysqlKit(dsn.zone === undefined ? utcDateTime : zonedDateTime(dsn.zone)))
  const engine = openMysql({
    open: createWireOpener(wireOf(dsn)),
    pool: { maxIdle, maxOpen, maxLifetimeMs },
    statementDeadlineMs: options.statementDeadlineMs ?? dsn.readTimeoutMs ?? STATEMENT_DEADLINE_MS,
    slowMs,
    log: options.log,
  })
  const db = createDb(engine, tables, names ?? namesOf(tables))
  if (options.only === 'logs') return db
  try {
    await db.now()
  } catch (error) {
    await db.close()
    throw error
  }
  return db
}

const namesOf = (tables: Tables): readonly TableName[] => Object.keys(tables) as TableName[]

/**
 * Raises the version of a topic, in the transaction that changed what the topic is about. Nodes that miss the message of
 * the bus find it by reading the versions.
 * @param items ids of all rows that were changed, made or deleted, so that nodes load these alone; absent: all is loaded
 */
export async function bumpTopic(tx: Db, topic: string, items?: readonly number[]): Promise<void> {
  const { topicVersions, topicChanges } = tx.tables
  const raised = await tx.changes(
    tx
      .update(topicVersions)
      .set({ version: sql`${topicVersions.version} + 1` })
      .where(eq(topicVersions.topic, topic)),
  )
  if (raised === 0)
    await tx.upsert(
      topicVersions,
      { topic, version: 1 },
      { key: [topicVersions.topic], set: { version: sql`${topicVersions.version} + 1` } },
    )
  const named = [...new Set(items)]
  if (named.length === 0 || named.length > MOST_ITEMS) return
  // The version's row is ours until the transaction ends, so nobody else writes changes of this topic.
  const [row] = await tx
    .select({ version: topicVersions.version })
    .from(topicVersions)
    .where(eq(topicVersions.topic, topic))
  const version = row?.version ?? 0
  const old = await tx
    .select()
    .from(topicChanges)
    .where(and(eq(topicChanges.topic, topic), lt(topicChanges.version, version - KEPT_VERSIONS)))
    .orderBy(asc(topicChanges.version))
    .limit(named.length + 1)
  await together(
    () => tx.insert(topicChanges).values(named.map((item) => ({ topic, version, item }))),
    // Each by its key: a range would also lock what lies beside it, where other topics write, and they would wait in a circle.
    ...old.map(
      (change) => () =>
        tx
          .delete(topicChanges)
          .where(
            and(
              eq(topicChanges.topic, topic),
              eq(topicChanges.version, change.version),
              eq(topicChanges.item, change.item),
            ),
          ),
    ),
  )
}

/** More rows than this are loaded with all others. */
const MOST_ITEMS = 200
/** A node that is further behind loads everything: far from where changes are being removed, row by row. */
const MOST_VERSIONS = 250
const KEPT_VERSIONS = 500

export async function readTopicVersion(db: Db, topic: string): Promise<number> {
  const { topicVersions } = db.tables
  const [row] = await db
    .select({ version: topicVersions.version })
    .from(topicVersions)
    .where(eq(topicVersions.topic, topic))
  return row?.version ?? 0
}

/** @returns ids of all that was changed after one version up to another; undefined when it may be anything */
export async function readTopicChanges(
  db: Db,
  topic: string,
  range: { readonly after: number; readonly upTo: number },
): Promise<readonly number[] | undefined> {
  const { topicChanges: changes } = db.tables
  const { after, upTo } = range
  if (upTo === after) return []
  if (upTo < after || upTo - after > MOST_VERSIONS) return undefined
  const rows = await db
    .select({ version: changes.version, item: changes.item })
    .from(changes)
    .where(and(eq(changes.topic, topic), gt(changes.version, after), lte(changes.version, upTo)))
  const versions = new Set(rows.map(({ version }) => version))
  return versions.size === upTo - after ? [...new Set(rows.map(({ item }) => item))] : undefined
}

/** @returns topic → version; a topic nobody changed yet is absent */
export async function readTopicVersions(db: Db): Promise<ReadonlyMap<string, number>> {
  const rows = await db.select().from(db.tables.topicVersions)
  return new Map(rows.map(({ topic, version }) => [topic, version]))
}
