/** Removes what the cluster keeps of long ago: instances that ended, whose money is back. Marks of what was applied stay for ever. */
import { and, inArray, lt, notInArray } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { WORKING_STATES } from './instances.ts'

/** Longer than anybody leaves a machine suspended and expects it to go on. */
const KEEP_MS = 30 * 24 * 3_600_000
const BATCH_ROWS = 500

/** May be repeated. @returns how many */
export async function pruneInstances(db: Db, signal: AbortSignal): Promise<number> {
  const { clusterInstances: instances, quotaAllotments } = db.tables
  const beforeMs = (await db.now()) - KEEP_MS
  const isOver = and(
    notInArray(instances.state, [...WORKING_STATES]),
    lt(instances.seenAtMs, beforeMs),
    lt(instances.statusAtMs, beforeMs),
    notInArray(instances.id, db.select({ id: quotaAllotments.instanceId }).from(quotaAllotments)),
  )
  let removed = 0
  while (!signal.aborted) {
    const ids = (await db.select({ id: instances.id }).from(instances).where(isOver).limit(BATCH_ROWS)).map(
      ({ id }) => id,
    )
    if (ids.length > 0) removed += await db.changes(db.delete(instances).where(inArray(instances.id, ids)))
    if (ids.length < BATCH_ROWS) break
  }
  return removed
}
