/**
 * Counters that the processes of one node share through a mapped file: counting is a processor instruction, not a call to
 * anybody. They survive restarts, which nobody relies on.
 */
import { closeSync, ftruncateSync, mkdirSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Log } from './log.ts'

export interface Counters {
  /** Counts up. @returns the count before, from 0; it wraps around after 2^32 */
  next(slot: number): number
}

/** Counters of this process alone. */
export const ownCounters = (): Counters => {
  const counts = new Map<number, number>()
  return {
    next(slot) {
      const count = counts.get(slot) ?? 0
      counts.set(slot, count + 1)
      return count
    },
  }
}

/** A sparse file: it takes no room on the disk but for the pages in use. Slots beyond it share with lower ones. */
const SLOTS = 2 ** 18

/**
 * @param path of a file that is made if it is not there; where it cannot be mapped this process counts alone
 */
export function openCounters(path: string, log: Log): Counters {
  try {
    const counts = mapped(path)
    return { next: (slot) => Atomics.add(counts, slot % SLOTS, 1) }
  } catch (error) {
    log.warn('a file cannot be shared among the workers of this node', { path, error })
    return ownCounters()
  }
}

const mapped = (path: string): Uint32Array => {
  mkdirSync(dirname(path), { recursive: true })
  const file = openSync(path, 'a')
  try {
    ftruncateSync(file, SLOTS * Uint32Array.BYTES_PER_ELEMENT)
  } finally {
    closeSync(file)
  }
  const bytes = Bun.mmap(path, { shared: true })
  return new Uint32Array(bytes.buffer, bytes.byteOffset, SLOTS)
}
