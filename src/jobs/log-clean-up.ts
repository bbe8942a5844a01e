/** The task that deletes old call records: `{ target_timestamp, batch_size }` → `{ deleted_count }`. */
import type { LogCleanUp, LogCleanUpState } from '../domain/usage/index.ts'
import type { Task } from './task.ts'

/** Rows per statement, if the payload does not say. */
export const LOG_CLEAN_UP_BATCH = 200
const MOST_BATCH_SIZE = 5_000

/** @param clean deletes, and gives how many there were */
export const logCleanUpTask = (
  clean: (
    wanted: LogCleanUp,
    run: {
      readonly from: { readonly processed: number } | undefined
      readonly signal: AbortSignal
      readonly progress: (state: LogCleanUpState) => Promise<void>
    },
  ) => Promise<number>,
): Task => ({
  type: 'log_cleanup',
  isResumable: true,
  async run({ payload, state, progress, signal }) {
    const { target_timestamp: beforeSec, batch_size: batchSize } = fieldsOf(payload)
    if (!beforeSec) throw new Error('the payload names no target_timestamp')
    const { processed } = fieldsOf(state)
    const deleted = await clean(
      { beforeSec, batchSize: Math.min(batchSize || LOG_CLEAN_UP_BATCH, MOST_BATCH_SIZE) },
      { from: processed === undefined ? undefined : { processed }, signal, progress },
    )
    return { deleted_count: deleted }
  },
})

/** Positive whole numbers of an object that was read from the database. */
function fieldsOf(value: unknown): Readonly<Record<string, number | undefined>> {
  if (typeof value !== 'object' || value === null) return {}
  return Object.fromEntries(
    Object.entries(value).filter(([, field]) => Number.isSafeInteger(field) && Number(field) > 0),
  )
}
