/**
 * Deadlines of everything that is under way, looked at by one timer: thousands of streams move their deadline with every
 * chunk, which is one store here and would be a timer, or at least a look at the clock, otherwise. The timer runs only while something is watched.
 */
import { createBag, type Placed } from '../lib/bag.ts'
import type { Clock } from '../lib/clock.ts'

export interface Watched extends Placed {
  /** Monotonic milliseconds; Infinity for never. May be moved at any time. */
  dueAtMs: number
  /** Set when something happened, which is all that a chunk costs; noticed at the next look, before the deadline. */
  isTouched: boolean
  touched(nowMs: number): void
  /** Called once the deadline has passed; must move it or leave the watch, and must not throw. */
  due(nowMs: number): void
}

export interface Watch {
  add(watched: Watched): void
  delete(watched: Watched): void
  readonly size: number
}

/** @param everyMs how late a deadline may be noticed */
export function createWatch(clock: Clock, everyMs: number): Watch {
  const all = createBag<Watched>()
  let timer: ReturnType<typeof setInterval> | undefined

  const look = () => {
    const now = clock.monotonic()
    all.each((watched) => {
      if (watched.isTouched) {
        watched.isTouched = false
        watched.touched(now)
      }
      if (watched.dueAtMs <= now) watched.due(now)
    })
  }
  return {
    add(watched) {
      all.add(watched)
      timer ??= setInterval(look, everyMs)
    },
    delete(watched) {
      if (!all.delete(watched) || all.size > 0) return
      clearInterval(timer)
      timer = undefined
    },
    get size() {
      return all.size
    },
  }
}
