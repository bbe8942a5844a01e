/**
 * Brings a database to the declared schema by adding what is missing: tables, columns, indexes. It never drops, renames,
 * narrows or converts, so older and newer releases run on the result. One master at a time, under a lease row; each
 * statement may be repeated, so a sync that was killed is simply run again.
 */
import { eq } from 'drizzle-orm'
import type { Log } from '../lib/log.ts'
import { DATA_STEPS } from './data-steps.ts'
import { asEngineDb, type Db, type EngineDb } from './db.ts'
import { DbError } from './error.ts'
import { createLeaseRow } from './lease.ts'
import {
  addColumn,
  type Charset,
  createIndex,
  createTable,
  declaredTables,
  hasIndex,
  type Index,
  type LiveSchema,
  readCharset,
  readLiveSchema,
  type Table,
} from './schema.ts'
import { keepIds } from './sqlite-ids.ts'

export interface SyncOptions {
  readonly log: Log
  /** release that is written down as the one that set the system up; '' if not given */
  readonly version?: string
  /** names this node in the lease row; random if not given */
  readonly holder?: string
  /** how long a node that dies in the sync keeps others waiting; 15,000 */
  readonly leaseMs?: number
  /** how long to wait for another node's sync; 120,000 */
  readonly waitMs?: number
}

/** Rows from which on a missing index is left to `buildIndexes`. */
const BIG_TABLE_ROWS = 50_000
/** A step may touch every user. */
const STEP = { deadlineMs: 120_000 } as const

/**
 * @throws DbError `unavailable` if another node's sync does not end in time
 */
export async function syncSchema(anyDb: Db, options: SyncOptions): Promise<void> {
  const db = asEngineDb(anyDb)
  await underLease(db, options, async (keep) => {
    const charset = await readCharset(db)
    const live = await readLiveSchema(db)
    for (const table of declaredTables(db)) {
      await addMissing(db, table, live, charset, options.log)
      await keep()
    }
    if (db.engine === 'sqlite') await keepIds(db)
    if (db.tableNames.includes('schemaSteps')) await runSteps(db, options)
  })
}

async function addMissing(
  db: EngineDb,
  table: Table,
  live: LiveSchema,
  charset: Charset | undefined,
  log: Log,
): Promise<void> {
  const there = live.get(table.name)
  if (!there) {
    for (const statement of createTable(db, table, charset)) await applied(db, statement)
    log.info('table created', { table: table.name })
    return
  }
  for (const column of table.columns) {
    if (there.columns.has(column.name.toLowerCase())) continue
    await applied(db, addColumn(db, table, column))
    log.info('column added', { table: table.name, column: column.name })
  }
  const missing = table.indexes.filter((index) => !hasIndex(there, index))
  if (missing.length === 0) return
  if (await isBig(db, table)) {
    log.info('indexes left for later', { table: table.name, indexes: missing.map(({ name }) => name) })
    return
  }
  for (const index of missing) await addIndex(db, index, log)
}

/** Runs DDL; that another node was faster is fine. */
async function applied(db: EngineDb, statement: string): Promise<void> {
  try {
    await db.raw(statement, [], 'schema')
  } catch (error) {
    if (!isThereAlready(error)) throw error
  }
}

/** MySQL: table, column, key name exist. SQLite says it in words. */
function isThereAlready(error: unknown): boolean {
  const { errno } = ((error as DbError).cause ?? {}) as { errno?: unknown }
  return (
    errno === 1050 || errno === 1060 || errno === 1061 || /duplicate column name|already exists/.test(String(error))
  )
}

/** @returns whether the index is there now; rows that a unique index does not allow are told and stay */
async function addIndex(db: EngineDb, index: Index, log: Log): Promise<boolean> {
  try {
    await applied(db, createIndex(db, index))
    log.info('index created', { table: index.table, index: index.name })
    return true
  } catch (error) {
    if (!(error instanceof DbError) || (error.kind !== 'duplicate' && error.kind !== 'content')) throw error
    log.warn('a unique index cannot be created: rows of the table repeat', {
      table: index.table,
      index: index.name,
      error,
    })
    return false
  }
}

async function isBig(db: EngineDb, table: Table): Promise<boolean> {
  const q = db.engine === 'mysql' ? '`' : '"'
  const { rows } = await db.raw(`select 1 from ${q}${table.name}${q} limit 1 offset ${BIG_TABLE_ROWS}`, [], 'read')
  return rows.length > 0
}

async function runSteps(db: EngineDb, { log, version = '' }: SyncOptions): Promise<void> {
  const { schemaSteps } = db.tables
  const done = new Set((await db.select({ step: schemaSteps.step }).from(schemaSteps)).map(({ step }) => step))
  for (const step of DATA_STEPS) {
    if (done.has(step.step)) continue
    await db.transaction(async (tx) => {
      const nowMs = await tx.now()
      // First the mark: of two nodes the second waits here and finds it.
      if ((await tx.insertIgnore(schemaSteps, { step: step.step, name: step.name, appliedAtMs: nowMs })) === 0) return
      await step.run(tx, { nowMs, version })
    }, STEP)
    log.info('data step done', { step: step.step, name: step.name })
  }
}

/** @param work gets a function that it calls between its statements, and that throws when the lease was lost */
async function underLease(
  db: EngineDb,
  options: SyncOptions,
  work: (keep: () => Promise<void>) => Promise<void>,
): Promise<void> {
  const { log, holder = crypto.randomUUID(), leaseMs = 15_000, waitMs = 120_000 } = options
  const leases = declaredTables(db).find((table) => table.name === 'leases')
  if (!leases) throw new DbError('other', 'the table of leases is not declared')
  for (const statement of createTable(db, leases, undefined)) await applied(db, statement)
  // The one process that may have an SQLite file (its directory is locked) need not wait for a dead one.
  if (db.engine === 'sqlite') return work(async () => {})

  const lease = createLeaseRow(db, { name: 'schema', holder, ttlMs: leaseMs })
  const endAt = performance.now() + waitMs
  while ((await lease.take()) === undefined) {
    if (performance.now() >= endAt)
      throw new DbError('unavailable', `another node has been changing the schema for ${waitMs} ms`)
    await Bun.sleep(100)
  }
  let isLost = false
  const timer = setInterval(() => {
    lease.renew().then(
      (isOurs) => {
        isLost ||= !isOurs
      },
      (error: unknown) => log.warn('the lease of the schema sync could not be renewed', { error }),
    )
  }, leaseMs / 4)
  try {
    await work(async () => {
      if (isLost) throw new DbError('unavailable', 'another node took over the schema sync')
    })
  } finally {
    clearInterval(timer)
    await lease
      .release()
      .catch((error: unknown) => log.warn('the lease of the schema sync was not given back', { error }))
  }
}

/**
 * For a node that does not sync: waits until everything this release reads and writes is there.
 * @throws DbError `unavailable` naming what is missing, when the bound is over
 */
export async function waitForSchema(
  anyDb: Db,
  options: { readonly log: Log; readonly waitMs?: number; readonly everyMs?: number },
): Promise<void> {
  const db = asEngineDb(anyDb)
  const { log, waitMs = 120_000, everyMs = 500 } = options
  const endAt = performance.now() + waitMs
  let told = ''
  for (;;) {
    const missing = await findMissing(db)
    if (missing.length === 0) return
    const text = missing.slice(0, 5).join(', ') + (missing.length > 5 ? ` and ${missing.length - 5} more` : '')
    if (performance.now() >= endAt)
      throw new DbError(
        'unavailable',
        `the schema is not complete after ${waitMs} ms; start a master. Missing: ${text}`,
      )
    if (text !== told) log.info('waiting for a master to complete the schema', { missing: text })
    told = text
    await Bun.sleep(everyMs)
  }
}

/** @returns tables, columns and data steps this release needs and the database lacks, for people */
export async function findMissing(anyDb: Db): Promise<readonly string[]> {
  const db = asEngineDb(anyDb)
  const live = await readLiveSchema(db)
  const missing = declaredTables(db).flatMap((table) => {
    const there = live.get(table.name)
    if (!there) return [`table ${table.name}`]
    const absent = table.columns.filter(({ name }) => !there.columns.has(name.toLowerCase()))
    return absent.map(({ name }) => `column ${table.name}.${name}`)
  })
  if (missing.length > 0 || !db.tableNames.includes('schemaSteps')) return missing
  const { schemaSteps } = db.tables
  const done = new Set((await db.select({ step: schemaSteps.step }).from(schemaSteps)).map(({ step }) => step))
  return DATA_STEPS.filter(({ step }) => !done.has(step)).map(({ step, name }) => `data step ${step} (${name})`)
}

/** @returns indexes that are declared and not there: left out in the start because the table is big */
export async function pendingIndexes(anyDb: Db): Promise<readonly Index[]> {
  const db = asEngineDb(anyDb)
  const live = await readLiveSchema(db)
  return declaredTables(db).flatMap((table) => {
    const there = live.get(table.name)
    return there ? table.indexes.filter((index) => !hasIndex(there, index)) : []
  })
}

/**
 * Builds pending indexes, one after the other, for minutes if need be; the tables stay usable.
 * @returns how many were built
 */
export async function buildIndexes(
  anyDb: Db,
  options: SyncOptions & { readonly signal?: AbortSignal },
): Promise<number> {
  const db = asEngineDb(anyDb)
  let built = 0
  await underLease(db, options, async (keep) => {
    for (const index of await pendingIndexes(db)) {
      if (options.signal?.aborted) return
      await keep()
      if (await addIndex(db, index, options.log)) built++
    }
  })
  return built
}

/** The id that all nodes of a cluster share, made by the first sync. @throws DbError before that */
export async function readClusterId(db: Db): Promise<string> {
  const { clusterMeta } = db.tables
  const [row] = await db.select({ value: clusterMeta.value }).from(clusterMeta).where(eq(clusterMeta.key, 'cluster_id'))
  if (!row) throw new DbError('unavailable', 'the database has no cluster id yet; start a master')
  return row.value
}
