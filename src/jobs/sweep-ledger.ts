/** Ends instances that were silent for too long and returns what they had parked. */
import type { Job } from './job.ts'

/**
 * Not fenced: an instance is ended only if its beat is still as it was seen, and a row goes back once, whoever does it.
 * @param leaseMs of the ledger
 */
export const sweepLedgerJob = (sweep: (signal: AbortSignal) => Promise<void>, leaseMs: number): Job => ({
  name: 'sweep-ledger',
  everyMs: leaseMs / 9,
  on: 'master',
  // What a dead instance had of many accounts goes back one by one.
  timeoutMs: 600_000,
  run: sweep,
})
