/** Work that is repeated at a pace: one run at a time, stoppable, leaving no timer behind. */

export interface Loop {
  /** Runs soon, not waiting for the pause to pass; a run under way is followed by another. */
  wake(): void
  /** No further run begins. @returns when a run under way has ended */
  stop(): Promise<void>
}

/**
 * @param options.everyMs pause between the end of a run and the start of the next
 * @param options.run must not throw: what it throws goes to `onError`, and the pace stays
 */
export function createLoop(options: {
  readonly everyMs: number
  readonly run: () => unknown
  readonly onError: (error: unknown) => void
}): Loop {
  let timer: Timer | undefined
  let running: Promise<void> | undefined
  let isWoken = false
  let isStopped = false

  const schedule = (ms: number): void => {
    clearTimeout(timer)
    timer = isStopped ? undefined : setTimeout(start, ms)
  }
  const work = async (): Promise<void> => {
    try {
      await options.run()
    } catch (error) {
      options.onError(error)
    }
  }
  const start = (): void => {
    timer = undefined
    isWoken = false
    running = work().finally(() => {
      running = undefined
      schedule(isWoken ? 0 : options.everyMs)
    })
  }
  schedule(options.everyMs)
  return {
    wake() {
      isWoken = true
      if (!running) schedule(0)
    },
    async stop() {
      isStopped = true
      clearTimeout(timer)
      await running
    },
  }
}
