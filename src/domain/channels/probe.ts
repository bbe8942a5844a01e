/**
 * The one call that shows whether an upstream works again. A permit for it is taken from the database in the background,
 * when calls would have come this way; the next call has it. It is given back unused, or kept until the call's outcome.
 */

export interface Permit {
  /** `handed`: to a call that is about to start. */
  state: 'free' | 'handed' | 'started'
  /** Since when it is in this state, on the monotonic clock. */
  sinceMs: number
  /** Until when the database keeps the others away. */
  endsMs: number
}

/** What the database is asked for. A call under way renews it. */
export const PERMIT_MS = 30_000
/** Room for slow answers and clocks that run apart. */
const MARGIN_MS = 5_000
/** A call that was handed a permit starts at once, or not at all: its purse was empty. */
const HANDED_MS = 5_000
/** Longer than any call that still says something. */
const STARTED_MS = 15 * 60_000

/** @param askedAtMs before the database was asked */
export const newPermit = (askedAtMs: number, nowMs: number): Permit => ({
  state: 'free',
  sinceMs: nowMs,
  endsMs: askedAtMs + PERMIT_MS - MARGIN_MS,
})

/** The next thing to do about it. */
export const dutyOf = (permit: Permit, nowMs: number): 'wait' | 'renew' | 'end' => {
  const ageMs = nowMs - permit.sinceMs
  if (permit.state === 'handed' && ageMs > HANDED_MS) return 'end'
  if (permit.state === 'started') {
    if (ageMs > STARTED_MS) return 'end'
    return permit.endsMs - nowMs < PERMIT_MS / 2 ? 'renew' : 'wait'
  }
  return nowMs > permit.endsMs ? 'end' : 'wait'
}
