/** One worker of one node at a time does a piece of work: a lease row, renewed while the work runs, given back after it. */
import { createLeaseRow, type Db } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { createLoop } from '../../lib/loop.ts'

/** Renewed at a sixth of it. A holder that dies keeps others waiting for this long. */
const TTL_MS = 60_000

export type UnderLease = (
  name: string,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<void>,
) => Promise<boolean>

/**
 * @param deps.holder names this process, and no other
 * @returns a function that runs `work` if the lease is free, and aborts it when the lease is lost; false if another has it
 */
export function createUnderLease(deps: {
  readonly db: Db
  readonly holder: string
  readonly log: Log
  readonly clock: Clock
}): UnderLease {
  const { db, holder, log, clock } = deps
  return async (name, signal, work) => {
    const lease = createLeaseRow(db, { name, holder, ttlMs: TTL_MS })
    if ((await lease.take()) === undefined) return false
    const lost = new AbortController()
    let renewedAtMs = clock.monotonic()
    const renewing = createLoop({
      everyMs: TTL_MS / 6,
      run: async () => {
        const askedAtMs = clock.monotonic()
        if (await lease.renew()) renewedAtMs = askedAtMs
        else lost.abort(new Error(`the lease ${name} was lost`))
      },
      // One failed renewal costs nothing; the work ends before another holder may begin.
      onError: (error) => {
        if (clock.monotonic() - renewedAtMs > TTL_MS / 2) lost.abort(error)
      },
    })
    try {
      await work(AbortSignal.any([signal, lost.signal]))
      return true
    } finally {
      await renewing.stop()
      await lease.release().catch((error: unknown) => log.warn('a lease was not given back', { lease: name, error }))
    }
  }
}
