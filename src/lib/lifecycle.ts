/**
 * The list of what has been opened, to be closed in reverse. Call `defer` on the line after each open: a start that
 * fails half-way then closes exactly what it had opened.
 */
import type { Log } from './log.ts'

/** A step that finds the deadline already past still gets this long, so that a slow drain does not keep later parts from closing. */
const LAST_CHANCE_MS = 1_000

/** @param remainingMs what is left of the deadline of the whole stop, at least the last chance of a late step */
export type Close = (remainingMs: number) => unknown

export interface Lifecycle {
  /** Adds a closing step. Once a stop has begun, the step runs at once. */
  defer(name: string, close: Close): void
  /**
   * Runs the steps, last one first, each awaited before the next. A step that throws or takes too long is logged and
   * left behind; the others still run. Never rejects. A second call gives the promise of the first.
   */
  stop(deadlineMs: number): Promise<void>
}

export function createLifecycle(log: Log): Lifecycle {
  const steps: { readonly name: string; readonly close: Close }[] = []
  let stopping: Promise<void> | undefined
  let deadlineAt = 0

  const run = async (name: string, close: Close): Promise<void> => {
    const remainingMs = Math.max(deadlineAt - performance.now(), LAST_CHANCE_MS)
    const late = Promise.withResolvers<'late'>()
    const timer = setTimeout(() => late.resolve('late'), remainingMs)
    try {
      const result = await Promise.race([Promise.resolve(remainingMs).then(close), late.promise])
      if (result === 'late') log.error('a part did not stop in time and is left behind', { part: name })
    } catch (error) {
      log.error('a part failed while stopping', { part: name, error })
    } finally {
      clearTimeout(timer)
    }
  }

  const runAll = async (): Promise<void> => {
    for (let step = steps.pop(); step; step = steps.pop()) await run(step.name, step.close)
  }

  return {
    defer(name, close) {
      if (stopping) void run(name, close)
      else steps.push({ name, close })
    },
    stop(deadlineMs) {
      if (!stopping) {
        deadlineAt = performance.now() + deadlineMs
        stopping = runAll()
      }
      return stopping
    },
  }
}
