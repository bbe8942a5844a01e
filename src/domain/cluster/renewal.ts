/** Keeps what was taken for a time renewed while the work on it goes on, and tells the work to end before it can be another's. */
import { createLoop } from '../../lib/loop.ts'

export interface Renewal {
  /** Aborts when it was lost, or may be soon: no renewal has been confirmed for half of its time. */
  readonly signal: AbortSignal
  /** No renewal begins any more. @returns when one under way has ended */
  stop(): Promise<void>
}

/**
 * One failed renewal costs nothing: there is one each sixth of the time.
 * @param options.renew false: it is another's now. Rejects when nobody can tell
 */
export function keepRenewed(options: {
  readonly what: string
  readonly ttlMs: number
  /** Before it was asked for, on the monotonic clock: its time may run since then. */
  readonly sinceMs: number
  readonly renew: () => Promise<boolean>
}): Renewal {
  const { what, ttlMs, sinceMs, renew } = options
  const lost = new AbortController()
  const lose = (): void => lost.abort(new Error(`${what} was lost`))
  // Not only looked at when an answer comes: in a black hole none does.
  const armedUntil = (fromMs: number) => setTimeout(lose, Math.max(0, ttlMs / 2 - (performance.now() - fromMs)))
  let watchdog = armedUntil(sinceMs)
  const loop = createLoop({
    everyMs: ttlMs / 6,
    run: async () => {
      const askedAtMs = performance.now()
      if (!(await renew())) return lose()
      clearTimeout(watchdog)
      watchdog = armedUntil(askedAtMs)
    },
    onError: () => undefined,
  })
  return {
    signal: lost.signal,
    async stop() {
      await loop.stop()
      clearTimeout(watchdog)
    },
  }
}
