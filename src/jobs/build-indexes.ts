/** Builds indexes that the start left out because their table is big. An index that is there is left alone, so it needs no fence. */
import type { Job } from './job.ts'

export const buildIndexesJob = (build: (signal: AbortSignal) => Promise<number>): Job => ({
  name: 'build-indexes',
  everyMs: 60_000,
  on: 'master',
  timeoutMs: 6 * 3_600_000,
  run: async (signal) => void (await build(signal)),
})
