/** A clock that a test moves by hand, and a sweeper that watches while it does. */
import type { Ledger } from '../../../src/domain/billing/index.ts'
import { type Clock, systemClock } from '../../../src/lib/clock.ts'

export interface HandClock extends Clock {
  /** Both clocks go on by so much. */
  pass(ms: number): void
  passMonotonic(ms: number): void
  passWall(ms: number): void
  /** Both stand still from now on, as in a suspended machine whose clocks are stopped. */
  stop(): void
}

export function handClock(): HandClock {
  let aheadMs = 0
  let wallAheadMs = 0
  let stopped: { readonly monotonic: number; readonly now: number } | undefined
  const clock: HandClock = {
    monotonic: () => stopped?.monotonic ?? systemClock.monotonic() + aheadMs,
    now: () => stopped?.now ?? systemClock.now() + wallAheadMs,
    pass(ms) {
      aheadMs += ms
      wallAheadMs += ms
    },
    passMonotonic(ms) {
      aheadMs += ms
    },
    passWall(ms) {
      wallAheadMs += ms
    },
    stop() {
      stopped = { monotonic: clock.monotonic(), now: clock.now() }
    },
  }
  return clock
}

const NEVER = new AbortController().signal

/**
 * Sweeps again and again while so much time passes on the sweeper's clock, and once more in the end.
 * @param around called before each look, e.g. to keep other instances alive
 */
export async function sweepFor(
  sweeper: Pick<Ledger, 'sweep'>,
  clock: HandClock,
  ms: number,
  leaseMs: number,
  around: () => Promise<unknown> = async () => {},
): Promise<void> {
  const stepMs = leaseMs / 4
  for (let left = ms; ; left -= stepMs) {
    await around()
    await sweeper.sweep(NEVER)
    if (left <= 0) return
    clock.pass(Math.min(stepMs, left))
  }
}
