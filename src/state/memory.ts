/** State inside one process. Expired keys are dropped when met and, a few per write, in passing: no timer. */
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { createListeners } from './listeners.ts'
import type { State } from './state.ts'

interface Entry {
  readonly value: string
  /** On the monotonic clock; Infinity for a key without an end. */
  readonly expiresAtMs: number
}

/** Entries looked at per write: two, so that the sweep always outruns the writes. */
const SWEEP_STEPS = 2

export function createMemoryState({ clock, log }: { readonly clock: Clock; readonly log: Log }): State {
  const entries = new Map<string, Entry>()
  const listeners = createListeners(log)
  let sweep = entries.entries()

  const find = (key: string): Entry | undefined => {
    const entry = entries.get(key)
    if (entry && entry.expiresAtMs <= clock.monotonic()) {
      entries.delete(key)
      return undefined
    }
    return entry
  }
  const write = (key: string, entry: Entry): void => {
    for (let i = 0; i < SWEEP_STEPS; i++) {
      const next = sweep.next()
      if (next.done) {
        sweep = entries.entries()
        break
      }
      if (next.value[1].expiresAtMs <= clock.monotonic()) entries.delete(next.value[0])
    }
    entries.set(key, entry)
  }
  const expiry = (ttlMs: number | undefined): number => (ttlMs === undefined ? Infinity : clock.monotonic() + ttlMs)

  return {
    kind: 'memory',
    get: async (key) => find(key)?.value,
    set: async (key, value, ttlMs) => write(key, { value, expiresAtMs: expiry(ttlMs) }),
    delete: async (key) => void entries.delete(key),
    async add(key, n, ttlMs) {
      const entry = find(key)
      const sum = Number(entry?.value ?? 0) + n
      write(key, { value: String(sum), expiresAtMs: entry?.expiresAtMs ?? expiry(ttlMs) })
      return sum
    },
    publish: async (topic, message) => listeners.deliver(topic, message),
    subscribe: listeners.add,
    isUp: () => true,
    async close() {
      entries.clear()
      listeners.clear()
    },
  }
}
