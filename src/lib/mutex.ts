/** A mutual exclusion lock for asynchronous work inside one process: first come, first served. */

export interface Mutex {
  /** Runs `work` when all work given earlier has ended, however it ended. Not re-entrant: a nested run waits for itself. */
  run<T>(work: () => Promise<T>): Promise<T>
}

export function createMutex(): Mutex {
  let tail: Promise<unknown> = Promise.resolve()
  return {
    run(work) {
      const result = tail.then(work)
      tail = result.then(
        () => undefined,
        () => undefined,
      )
      return result
    },
  }
}
