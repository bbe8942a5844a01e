/**
 * The one lease that all master jobs of a cluster run under: whoever holds it does the work, and another master takes
 * over when it ends or dies. Kept by the database's time; judged lost here by this process's own clock, from before the
 * last confirmed renewal was sent, so that two holders never overlap.
 */
import { createLeaseRow, type Db } from '../db/index.ts'
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'

export interface MasterLease {
  /**
   * Runs `work` while this process holds the lease (taking it if it is free); its signal aborts when the lease is lost.
   * @returns false if another holds it, and nothing was run
   */
  run(signal: AbortSignal, work: (signal: AbortSignal) => Promise<void>): Promise<boolean>
  /** Gives the lease up, free for the next master at once. Call it when no work runs any more. */
  close(): Promise<void>
}

const TTL_MS = 30_000
const LEASE_NAME = 'master-jobs'

export function createMasterLease(deps: {
  readonly db: Db
  /** Names this process alone. */
  readonly holder: string
  readonly log: Log
  readonly clock: Clock
  readonly ttlMs?: number
}): MasterLease {
  const { db, holder, log, clock, ttlMs = TTL_MS } = deps
  const row = createLeaseRow(db, { name: LEASE_NAME, holder, ttlMs })
  let held: { readonly lost: AbortController; safeUntilMs: number; timer?: ReturnType<typeof setTimeout> } | undefined
  let taking: Promise<boolean> | undefined

  const drop = (why: string): void => {
    if (!held) return
    clearTimeout(held.timer)
    held.lost.abort(new Error(why))
    held = undefined
    log.warn('the lease of the master jobs is lost', { why })
  }
  const take = async (): Promise<boolean> => {
    const askedAtMs = clock.monotonic()
    const fencing = await row.take()
    if (fencing === undefined) return false
    held = { lost: new AbortController(), safeUntilMs: askedAtMs + ttlMs }
    log.info('this node runs the master jobs', { fencing })
    keepRenewed()
    return true
  }
  /** A failed renewal is tried again while the last confirmed one still covers us. */
  const keepRenewed = (): void => {
    if (!held) return
    const current = held
    current.timer = setTimeout(async () => {
      const askedAtMs = clock.monotonic()
      const outcome = await row.renew().catch(() => 'unknown' as const)
      if (held !== current) return
      if (outcome === false) return drop('another node has it')
      if (outcome === true) current.safeUntilMs = askedAtMs + ttlMs
      if (clock.monotonic() >= current.safeUntilMs) return drop('it could not be renewed in time')
      keepRenewed()
    }, ttlMs / 6)
  }

  return {
    async run(signal, work) {
      if (!held) {
        taking ??= take().finally(() => {
          taking = undefined
        })
        if (!(await taking)) return false
      }
      // It may have been lost while others waited with us.
      if (!held) return false
      if (clock.monotonic() >= held.safeUntilMs) {
        drop('this process stood still for longer than the lease')
        return false
      }
      const { lost } = held
      await work(AbortSignal.any([signal, lost.signal]))
      // What was done after the loss may have been done twice: the caller should see that.
      lost.signal.throwIfAborted()
      return true
    },
    async close() {
      if (!held) return
      clearTimeout(held.timer)
      held = undefined
      await row.release()
    },
  }
}
