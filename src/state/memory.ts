/** State inside one process. Expired keys are dropped when met and, a few per write, in passing: no timer. */
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { createListeners } from './listeners.ts'
import type { State } from './state.ts'
import { correctIn, stepMsOf, takeFrom, type Window } from './window.ts'

interface Entry<T> {
  value: T
  /** On the monotonic clock; Infinity for a key without an end. */
  expiresAtMs: number
}

/** Entries looked at per write: two, so that the sweep always outruns the writes. */
const SWEEP_STEPS = 2

export function createMemoryState({ clock, log }: { readonly clock: Clock; readonly log: Log }): State {
  const values = createEntries<string>(clock)
  const windows = createEntries<Window>(clock)
  /** Holder → end of its hold. */
  const holders = createEntries<Map<string, number>>(clock)
  const listeners = createListeners(log)
  const expiry = (ttlMs: number | undefined): number => (ttlMs === undefined ? Infinity : clock.monotonic() + ttlMs)

  /** Changes a window, which lives on while there is something in it. */
  const inWindow = <R>(key: string, windowMs: number, work: (window: Window, nowMs: number) => R): R => {
    const nowMs = clock.monotonic()
    const entry = windows.find(key) ?? { value: new Map(), expiresAtMs: 0 }
    const result = work(entry.value, nowMs)
    entry.expiresAtMs = nowMs + windowMs + stepMsOf(windowMs)
    if (entry.value.size > 0) windows.write(key, entry)
    else windows.delete(key)
    return result
  }

  return {
    kind: 'memory',
    get: async (key) => values.find(key)?.value,
    set: async (key, value, ttlMs) => values.write(key, { value, expiresAtMs: expiry(ttlMs) }),
    delete: async (key) => values.delete(key),
    async add(key, n, ttlMs) {
      const entry = values.find(key)
      const sum = Number(entry?.value ?? 0) + n
      values.write(key, { value: String(sum), expiresAtMs: entry?.expiresAtMs ?? expiry(ttlMs) })
      return sum
    },
    take: async (key, q) => inWindow(key, q.windowMs, (window, nowMs) => takeFrom(window, q, nowMs)),
    correct: async (key, q) => inWindow(key, q.windowMs, (window, nowMs) => correctIn(window, q, nowMs)),
    async hold(key, { holder, limit, ttlMs }) {
      const nowMs = clock.monotonic()
      const entry = holders.find(key) ?? { value: new Map<string, number>(), expiresAtMs: 0 }
      for (const [other, endsAtMs] of entry.value) if (endsAtMs <= nowMs) entry.value.delete(other)
      if (!entry.value.has(holder) && entry.value.size >= limit) return false
      entry.value.set(holder, nowMs + ttlMs)
      entry.expiresAtMs = Math.max(entry.expiresAtMs, nowMs + ttlMs)
      holders.write(key, entry)
      return true
    },
    async release(key, holder) {
      const entry = holders.find(key)
      entry?.value.delete(holder)
      if (entry?.value.size === 0) holders.delete(key)
    },
    publish: async (topic, message) => listeners.deliver(topic, message),
    subscribe: listeners.add,
    isUp: () => true,
    form: () => 'memory',
    async close() {
      for (const entries of [values, windows, holders]) entries.clear()
      listeners.clear()
    },
  }
}

interface Entries<T> {
  find(key: string): Entry<T> | undefined
  write(key: string, entry: Entry<T>): void
  delete(key: string): void
  clear(): void
}

function createEntries<T>(clock: Clock): Entries<T> {
  const entries = new Map<string, Entry<T>>()
  let sweep = entries.entries()
  return {
    find(key) {
      const entry = entries.get(key)
      if (entry && entry.expiresAtMs <= clock.monotonic()) {
        entries.delete(key)
        return undefined
      }
      return entry
    },
    write(key, entry) {
      for (let i = 0; i < SWEEP_STEPS; i++) {
        const next = sweep.next()
        if (next.done) {
          sweep = entries.entries()
          break
        }
        if (next.value[1].expiresAtMs <= clock.monotonic()) entries.delete(next.value[0])
      }
      entries.set(key, entry)
    },
    delete: (key) => void entries.delete(key),
    clear: () => entries.clear(),
  }
}
