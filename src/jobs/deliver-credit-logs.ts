/** Brings the log rows of credits to a log database of its own; they are queued where the money is. */
import type { Job } from './job.ts'

export const deliverCreditLogsJob = (deliver: (signal: AbortSignal) => Promise<number>): Job => ({
  name: 'deliver-credit-logs',
  everyMs: 2_000,
  on: 'master',
  timeoutMs: 60_000,
  run: async (signal) => void (await deliver(signal)),
})
