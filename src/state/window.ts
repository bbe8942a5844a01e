/**
 * A sliding window over amounts: how much was taken within its length, to a hundredth of it. What is in the window
 * leaves late rather than early, so no stretch of its length ever holds more than the limit. `scripts.ts` has the same for Redis.
 */

/** Amounts by the beginning of their step, ms on the store's clock. */
export type Window = Map<number, number>

/** What of `take` answers; see `State`. */
export interface Taken {
  readonly taken: boolean
  readonly used: number
  readonly retryAfterMs: number
}

const STEPS = 100

/** Amounts of one step count as one, as if all were taken at its end. */
export const stepMsOf = (windowMs: number): number => Math.max(1, Math.ceil(windowMs / STEPS))

export function takeFrom(
  window: Window,
  { n, limit, windowMs }: { readonly n: number; readonly limit: number; readonly windowMs: number },
  nowMs: number,
): Taken {
  const used = dropPast(window, windowMs, nowMs)
  const wanted = Math.max(n, 1)
  if (used + wanted <= limit) {
    add(window, n, windowMs, nowMs)
    return { taken: true, used: used + n, retryAfterMs: 0 }
  }
  return { taken: false, used, retryAfterMs: waitFor(window, { excess: used + wanted - limit, windowMs }, nowMs) }
}

/** A negative amount is taken off the oldest part, so that what is left of it stays long enough; never below nothing. */
export function correctIn(
  window: Window,
  { n, windowMs }: { readonly n: number; readonly windowMs: number },
  nowMs: number,
): void {
  dropPast(window, windowMs, nowMs)
  if (n > 0) add(window, n, windowMs, nowMs)
  let rest = Math.max(0, -n)
  for (const [start, amount] of byAge(window)) {
    if (rest === 0) return
    const off = Math.min(amount, rest)
    rest -= off
    if (off === amount) window.delete(start)
    else window.set(start, amount - off)
  }
}

/** @returns the sum of what is left */
function dropPast(window: Window, windowMs: number, nowMs: number): number {
  let used = 0
  for (const [start, amount] of window) {
    if (start + stepMsOf(windowMs) + windowMs <= nowMs) window.delete(start)
    else used += amount
  }
  return used
}

function add(window: Window, n: number, windowMs: number, nowMs: number): void {
  if (n === 0) return
  const stepMs = stepMsOf(windowMs)
  const start = Math.floor(nowMs / stepMs) * stepMs
  window.set(start, (window.get(start) ?? 0) + n)
}

/** How long until so much has left; the whole window if it never will have. */
function waitFor(
  window: Window,
  { excess, windowMs }: { readonly excess: number; readonly windowMs: number },
  nowMs: number,
): number {
  let rest = excess
  for (const [start, amount] of byAge(window)) {
    rest -= amount
    if (rest <= 0) return Math.ceil(start + stepMsOf(windowMs) + windowMs - nowMs)
  }
  return windowMs
}

const byAge = (window: Window): readonly (readonly [number, number])[] => [...window].sort(([a], [b]) => a - b)
