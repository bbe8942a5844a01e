/**
 * Brings the log rows of credits and edits from the main database, where they were written together with the money, to a
 * separate log database: each once. Work for one node at a time, but safe on several.
 */
import { and, asc, eq, inArray, sql } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import type { CreditLogRow } from './balances.ts'

/** Key of the row in the log database that is the mutex of deliveries. */
const MUTEX = { instanceId: 'credit-logs', part: 'log' } as const
const BATCH = 200

/**
 * @param signal ends the work between two batches
 * @returns how many log rows were delivered
 * @throws DbError; what was not delivered stays in the queue
 */
export async function deliverCreditLogs(deps: {
  readonly db: Db
  readonly logDb: Db
  readonly signal?: AbortSignal
}): Promise<number> {
  const { db, logDb, signal } = deps
  const { ledgerLogQueue } = db.tables
  const { ledgerApplied } = logDb.tables
  let delivered = 0
  let isMutexThere = false
  while (!signal?.aborted) {
    const queued = await db.select().from(ledgerLogQueue).orderBy(asc(ledgerLogQueue.id)).limit(BATCH)
    if (queued.length === 0) break
    if (!isMutexThere) await logDb.insertIgnore(ledgerApplied, { ...MUTEX })
    isMutexThere = true
    delivered += await logDb.transaction(async (tx) => {
      const isMutex = and(eq(ledgerApplied.instanceId, MUTEX.instanceId), eq(ledgerApplied.part, MUTEX.part))
      // Written, not only locked: members of a database cluster compare what two transactions wrote, not what they locked.
      await tx
        .update(ledgerApplied)
        .set({ seq: sql`${ledgerApplied.seq} + 1` })
        .where(isMutex)
      return insertMissing(
        tx,
        queued.map(({ requestId: creditId, row }) => ({ creditId, row: JSON.parse(row) as CreditLogRow })),
      )
    })
    // Only now, so that a crash in between finds them in both places and inserts nothing.
    await db.delete(ledgerLogQueue).where(
      inArray(
        ledgerLogQueue.id,
        queued.map((row) => row.id),
      ),
    )
  }
  return delivered
}

async function insertMissing(
  tx: Db,
  queued: readonly { readonly creditId: string; readonly row: CreditLogRow }[],
): Promise<number> {
  const { logs } = tx.tables
  const requestIds = new Set(queued.map(({ row }) => row.requestId ?? ''))
  // A locking read: a plain one could be older than the commit of whoever had the mutex before.
  const found = await tx.lock(
    tx
      .select({ other: logs.other })
      .from(logs)
      .where(inArray(logs.requestId, [...requestIds])),
  )
  // The ids are random, so a look at the text is enough.
  const missing = queued.filter(({ creditId }) => !found.some(({ other }) => other?.includes(creditId)))
  if (missing.length > 0) await tx.insert(logs).values(missing.map(({ row }) => row))
  return missing.length
}
