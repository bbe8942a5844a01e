/** The two clocks the gateway lives by, passed as an argument wherever behaviour depends on time. */

export interface Clock {
  /** Wall clock, milliseconds since 1970. May jump. */
  now(): number
  /** Milliseconds since some fixed moment. Never goes back; stands still while the machine is suspended. */
  monotonic(): number
}

export const systemClock: Clock = { now: () => Date.now(), monotonic: () => performance.now() }
