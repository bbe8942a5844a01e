/**
 * Removes what the cluster keeps of long ago: ended instances, nodes that never came back, tasks that ended. What is gone is
 * gone, so it needs no fence.
 */
import type { Job } from './job.ts'

/** @param parts each may be repeated: what is gone is gone */
export const cleanClusterJob = (parts: readonly ((signal: AbortSignal) => Promise<unknown>)[]): Job => ({
  name: 'clean-cluster',
  everyMs: 3_600_000,
  on: 'master',
  timeoutMs: 300_000,
  async run(signal) {
    for (const part of parts) await part(signal)
  },
})
