/**
 * A value loaded from the database and held in memory: hot paths read it without waiting. A failed reload keeps the last
 * good value, so that a database that is away never looks like an empty one.
 */
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import type { Topics } from './topics.ts'

export interface Snapshot<T> {
  /** The last good value. Throws before the first load. */
  get(): T
  /** Resolves when a value is there; the first call loads it. Rejects if that load fails, and may be called again. */
  ready(): Promise<void>
  /** Loads now. Rejects if that fails; the last good value stays. */
  reload(): Promise<void>
  /** Calls `listener` after each load but the first. @returns a function that ends this */
  onChange(listener: () => void): () => void
  /** Milliseconds since the last good load began; Infinity before the first. */
  ageMs(): number
  close(): void
}

export function createSnapshot<T>(deps: {
  readonly name: string
  readonly topic: string
  /** @param isFull everything, whatever changed */
  readonly load: (isFull: boolean) => Promise<T>
  readonly topics: Topics
  readonly log: Log
  readonly clock: Clock
}): Snapshot<T> {
  const { name, topic, load, topics, log, clock } = deps
  const listeners = new Set<() => void>()
  let current: { readonly value: T; readonly loadedAtMs: number } | undefined
  let first: Promise<void> | undefined

  const tracked = topics.track(topic, async (isFull) => {
    const loadedAtMs = clock.monotonic()
    const value = await load(isFull)
    const isFirst = current === undefined
    current = { value, loadedAtMs }
    if (!isFirst) for (const listener of [...listeners]) notify(listener)
  })
  const notify = (listener: () => void): void => {
    try {
      listener()
    } catch (error) {
      log.error('a listener of a snapshot failed', { snapshot: name, error })
    }
  }

  return {
    get() {
      if (!current) throw new Error(`snapshot ${name} is read before its first load`)
      return current.value
    },
    ready() {
      if (current) return Promise.resolve()
      first ??= tracked.refresh().finally(() => {
        first = undefined
      })
      return first
    },
    reload: tracked.refresh,
    onChange(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    ageMs: () => (current ? clock.monotonic() - current.loadedAtMs : Infinity),
    close() {
      tracked.close()
      listeners.clear()
    },
  }
}
