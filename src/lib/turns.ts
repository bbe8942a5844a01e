/** Long work takes turns with everything else: one piece of it in each round of the event loop. */
import type { Clock } from './clock.ts'

export interface Turns {
  /** Resolves in a round of its own, in the order of asking. What is done then without waiting should be short. */
  next(): Promise<void>
  /** Has this turn taken long enough? */
  isOver(): boolean
}

/** A small call needs several rounds, and so waits for a few turns. */
const TURN_MS = 0.5

export function createTurns(clock: Pick<Clock, 'monotonic'>): Turns {
  let last: Promise<void> = Promise.resolve()
  let startedAtMs = Number.NEGATIVE_INFINITY
  const round = (): Promise<void> =>
    new Promise((resolve) => {
      setImmediate(() => {
        startedAtMs = clock.monotonic()
        resolve()
      })
    })
  return {
    next() {
      last = last.then(round)
      return last
    },
    isOver: () => clock.monotonic() - startedAtMs >= TURN_MS,
  }
}
