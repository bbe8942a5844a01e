/**
 * Brings the log rows of credits to a log database of its own; they are queued where the money is. A row that has arrived is
 * not inserted again, so it needs no fence.
 */
import type { Job } from './job.ts'

export const deliverCreditLogsJob = (deliver: (signal: AbortSignal) => Promise<number>): Job => ({
  name: 'deliver-credit-logs',
  everyMs: 2_000,
  on: 'master',
  timeoutMs: 60_000,
  run: async (signal) => void (await deliver(signal)),
})
