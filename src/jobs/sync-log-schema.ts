/**
 * Brings the log database's schema up to date. It never stops a start, so it is tried until it is done. The sync has a lease
 * of its own in that database, so it needs no fence.
 */
import type { Job } from './job.ts'

export function syncLogSchemaJob(sync: () => Promise<void>): Job {
  let isDone = false
  return {
    name: 'sync-log-schema',
    everyMs: () => (isDone ? 0 : 1_000),
    on: 'master',
    timeoutMs: 3_600_000,
    async run() {
      await sync()
      isDone = true
    },
  }
}
