/**
 * How attempts ended at one channel, or with one key, within the last stretch of time: those of this process, counted in
 * steps of a tenth of it, and those that other processes tell of.
 */

export interface Counts {
  readonly good: number
  readonly bad: number
}

export interface Outcomes {
  add(isGood: boolean, nowMs: number, windowMs: number): void
  own(nowMs: number, windowMs: number): Counts
  /** What another process counts now, in place of what it said before. */
  hear(from: string, counts: Counts, nowMs: number): void
  /** Own and others'. */
  total(nowMs: number, windowMs: number): Counts
  /** A new stretch begins. */
  clear(): void
}

const STEPS = 10

export function createOutcomes(): Outcomes {
  const good: number[] = Array.from({ length: STEPS }, () => 0)
  const bad: number[] = Array.from({ length: STEPS }, () => 0)
  const others = new Map<string, Counts & { readonly atMs: number }>()
  let last = 0

  /** Drops the steps that are past. @returns where to count */
  const turn = (nowMs: number, windowMs: number): number => {
    const step = Math.floor((nowMs * STEPS) / windowMs)
    if (step !== last) {
      // Another length of the stretch counts in other steps: it begins anew, as one that has passed does.
      const isFar = step < last || step - last >= STEPS
      for (let past = isFar ? step - STEPS + 1 : last + 1; past <= step; past++) {
        good[past % STEPS] = 0
        bad[past % STEPS] = 0
      }
      last = step
    }
    return step % STEPS
  }
  const own = (nowMs: number, windowMs: number): Counts => {
    turn(nowMs, windowMs)
    return { good: sum(good), bad: sum(bad) }
  }
  return {
    add(isGood, nowMs, windowMs) {
      const at = turn(nowMs, windowMs)
      const counts = isGood ? good : bad
      counts[at] = (counts[at] ?? 0) + 1
    },
    own,
    hear: (from, counts, nowMs) => void others.set(from, { ...counts, atMs: nowMs }),
    total(nowMs, windowMs) {
      let { good: goods, bad: bads } = own(nowMs, windowMs)
      for (const [from, counts] of others) {
        if (nowMs - counts.atMs > windowMs) {
          others.delete(from)
          continue
        }
        goods += counts.good
        bads += counts.bad
      }
      return { good: goods, bad: bads }
    },
    clear() {
      good.fill(0)
      bad.fill(0)
      others.clear()
    },
  }
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0)
