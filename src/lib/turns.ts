/** Long work takes turns with everything else: one piece of it in each round of the event loop. */

export interface Turns {
  /** Resolves in a round of its own, in the order of asking. What is done then without waiting should take a millisecond. */
  next(): Promise<void>
}

export function createTurns(): Turns {
  let last: Promise<void> = Promise.resolve()
  return {
    next() {
      last = last.then(() => new Promise((resolve) => setImmediate(resolve)))
      return last
    },
  }
}
