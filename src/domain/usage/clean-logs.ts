/**
 * Deletes call records older than a moment: few rows per statement, found by an index and deleted by their ids, with a pause
 * as long as each statement took. So inserts meet no lock but on rows that go, and the database keeps half of its time.
 */
import { asc, inArray, lt } from 'drizzle-orm'
import { type Db, DbError } from '../../db/index.ts'

export interface LogCleanUp {
  /** Unix seconds, exclusive. */
  readonly beforeSec: number
  /** Rows per statement. */
  readonly batchSize: number
}

/** `total`, `processed` and `remaining` are rows, `progress` is a percentage. */
export interface LogCleanUpState {
  readonly total: number
  readonly processed: number
  readonly remaining: number
  readonly progress: number
}

/** A database that is away is waited for this often in a row. */
const TRIES = 30
const RETRY_MS = 1_000
const LEAST_PAUSE_MS = 2

/**
 * May be repeated, and run twice at once: what is gone is gone.
 * @param from how far an earlier run came
 * @returns rows deleted, those of the earlier run included
 * @throws DbError when the database stays away; what `signal` was aborted with
 */
export async function cleanLogs(
  logDb: Db,
  { beforeSec, batchSize }: LogCleanUp,
  run: {
    readonly from?: Pick<LogCleanUpState, 'processed'> | undefined
    readonly signal: AbortSignal
    readonly progress: (state: LogCleanUpState) => Promise<void>
  },
): Promise<number> {
  const { logs } = logDb.tables
  const { signal, progress } = run
  let processed = run.from?.processed ?? 0

  const deleteSome = async (): Promise<number> => {
    const rows = await logDb
      .select({ id: logs.id })
      .from(logs)
      .where(lt(logs.createdAt, beforeSec))
      .orderBy(asc(logs.createdAt), asc(logs.id))
      .limit(batchSize)
    const ids = rows.map(({ id }) => id)
    if (ids.length === 0) return 0
    await logDb.delete(logs).where(inArray(logs.id, ids))
    return ids.length
  }
  const patiently = async <T>(work: () => Promise<T>): Promise<T> => {
    for (let tries = 1; ; tries++) {
      signal.throwIfAborted()
      try {
        return await work()
      } catch (error) {
        const isAway = error instanceof DbError && error.kind === 'unavailable'
        if (!isAway || tries === TRIES) throw error
        await Bun.sleep(RETRY_MS)
      }
    }
  }

  const total = processed + (await patiently(() => logDb.$count(logs, lt(logs.createdAt, beforeSec))))
  const report = (): Promise<void> => {
    const remaining = Math.max(0, total - processed)
    return progress({
      total,
      processed,
      remaining,
      progress: total === 0 ? 100 : Math.floor((processed / total) * 100),
    })
  }
  await report()
  for (;;) {
    const begunAtMs = performance.now()
    const deleted = await patiently(deleteSome)
    if (deleted === 0) break
    processed = Math.min(processed + deleted, Number.MAX_SAFE_INTEGER)
    await report()
    if (deleted < batchSize) break
    await Bun.sleep(Math.max(LEAST_PAUSE_MS, performance.now() - begunAtMs))
  }
  await report()
  return processed
}
