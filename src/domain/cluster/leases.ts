/**
 * Turns of jobs: one worker of one node at a time does a piece of work, under a lease row that is renewed while it runs and
 * given back after it. The row also keeps how the last run went and when the next is due, all by the database's time: so
 * the cluster as a whole runs a job once per period, whoever holds it.
 */
import { and, eq, gt, lte, or, sql } from 'drizzle-orm'
import { createLeaseRow, type Db, type LeaseRow } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { keepRenewed } from './renewal.ts'

/** What the work of a turn may need: proof that the turn is still its own. */
export interface Turn {
  /**
   * In a transaction: nobody else begins a turn before it ends, so what it writes is written in turn. For work that may
   * not be done by two, or not by one that was frozen; work that may be repeated can do without.
   * @throws DbError if somebody has taken the turn over
   */
  fence(tx: Db): Promise<void>
}

export interface TurnOutcome {
  /** False when it is not due, or another has it. */
  readonly isRun: boolean
  /** When to ask again, milliseconds from now. */
  readonly againMs: number
}

export interface TurnRequest {
  readonly name: string
  /** From the end of one run to the start of the next, over all nodes. */
  readonly periodMs: number
  /** Runs though it is not due. */
  readonly isNow?: boolean
}

export type TakeTurn = (
  request: TurnRequest,
  signal: AbortSignal,
  work: (signal: AbortSignal, turn: Turn) => Promise<void>,
) => Promise<TurnOutcome>

/** A turn that is free for another is looked at again after this at the soonest. */
const LEAST_LOOK_MS = 20
/** A run that failed is repeated after this, then after twice as long, and so on. */
const FIRST_RETRY_MS = 5_000
/** … until the period, or this for jobs that come more often. */
const MOST_RETRY_MS = 15_000
const RELEASE_TRIES = 3
const LAST_ERROR_CHARS = 512

/**
 * @param deps.holder names this process, and no other
 * @param deps.ttlMs a holder that dies keeps others waiting for this long; renewed at a sixth of it
 * @returns a function that runs `work` if it is due and the lease is free, and aborts it when the lease is lost. It rejects
 * as the work does, after it has written that down; and when the database cannot be asked.
 */
export function createTakeTurn(deps: {
  readonly db: Db
  readonly holder: string
  readonly ttlMs: number
  readonly log: Log
  readonly clock: Clock
}): TakeTurn {
  const { db, holder, ttlMs, log, clock } = deps
  const { leases } = db.tables

  /** How long until the turn may be free and due (0: try to take it), and how often in a row it has failed. */
  const look = async ({ name, periodMs, isNow }: TurnRequest): Promise<{ waitMs: number; failures: number }> => {
    const [row] = await db.select().from(leases).where(eq(leases.name, name))
    if (!row) return { waitMs: 0, failures: 0 }
    const nowMs = await db.now()
    const { failures } = row
    const isHeld = row.holder !== '' && row.holder !== holder && row.expiresAtMs > nowMs
    if (isHeld) return { waitMs: Math.max(LEAST_LOOK_MS, row.expiresAtMs - nowMs), failures }
    if (isNow || row.endedAtMs > nowMs) return { waitMs: 0, failures }
    const dueAtMs = failures > 0 ? row.dueAtMs : Math.min(row.dueAtMs, row.endedAtMs + periodMs)
    return { waitMs: Math.max(0, dueAtMs - nowMs), failures }
  }

  const take = (lease: LeaseRow, { periodMs, isNow }: TurnRequest) =>
    lease.take((nowMs) => ({
      // As `look` has it; asked again because another may have been faster. A time that lies ahead was not this clock's.
      where: isNow
        ? undefined
        : or(
            lte(leases.dueAtMs, nowMs),
            gt(leases.endedAtMs, nowMs),
            and(eq(leases.failures, 0), lte(leases.endedAtMs, nowMs - periodMs)),
          ),
      set: { startedAtMs: nowMs, ranOn: holder },
    }))

  /** What was done must be on record, or it would be done again. */
  const record = async (lease: LeaseRow, name: string, set: Parameters<LeaseRow['release']>[0]): Promise<void> => {
    for (let tries = 1; ; tries++) {
      try {
        if (!(await lease.release(set)))
          log.warn('a job was taken over by another node while it ran here', { job: name })
        return
      } catch (error) {
        if (tries < RELEASE_TRIES) continue
        log.warn('a lease was not given back', { job: name, error })
        return
      }
    }
  }

  return async (request, signal, work) => {
    const { name, periodMs } = request
    const lease = createLeaseRow(db, { name, holder, ttlMs })
    const { waitMs, failures } = await look(request)
    if (waitMs > 0) return { isRun: false, againMs: waitMs }
    const sinceMs = performance.now()
    if ((await take(lease, request)) === undefined)
      return { isRun: false, againMs: Math.max(LEAST_LOOK_MS, (await look(request)).waitMs) }

    const begunAtMs = clock.monotonic()
    const renewal = keepRenewed({ what: `the lease of the job ${name}`, ttlMs, sinceMs, renew: lease.renew })
    try {
      await work(AbortSignal.any([signal, renewal.signal]), { fence: lease.fence })
      // Work that ended quietly because it was told to has not been done.
      renewal.signal.throwIfAborted()
      signal.throwIfAborted()
    } catch (error) {
      await renewal.stop()
      await record(lease, name, (nowMs) =>
        // Cut short because the node stops, it has not failed: the next node may begin at once.
        signal.aborted
          ? {}
          : {
              endedAtMs: nowMs,
              dueAtMs: nowMs + retryMs(failures, periodMs),
              durationMs: Math.round(clock.monotonic() - begunAtMs),
              failures: failures + 1,
              lastError: String(error).slice(0, LAST_ERROR_CHARS),
            },
      )
      throw error
    }
    await renewal.stop()
    await record(lease, name, (nowMs) => ({
      endedAtMs: nowMs,
      goodAtMs: nowMs,
      dueAtMs: nowMs + Math.max(0, periodMs),
      durationMs: Math.round(clock.monotonic() - begunAtMs),
      runs: sql`${leases.runs} + 1`,
      failures: 0,
      lastError: '',
    }))
    return { isRun: true, againMs: periodMs }
  }
}

/** @param failures in a row before this one */
const retryMs = (failures: number, periodMs: number): number =>
  Math.min(Math.min(FIRST_RETRY_MS, periodMs) * 2 ** Math.min(failures, 16), Math.max(MOST_RETRY_MS, periodMs))
