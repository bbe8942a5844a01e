/** The local half of every bus: who in this process listens to which topic. */
import type { Log } from '../lib/log.ts'

export interface Listeners {
  add(topic: string, listener: (message: string) => void): () => void
  deliver(topic: string, message: string): void
  has(topic: string): boolean
  topics(): readonly string[]
  clear(): void
}

export function createListeners(log: Log): Listeners {
  const byTopic = new Map<string, Set<(message: string) => void>>()
  return {
    add(topic, listener) {
      // A wrapper of its own per subscription: the same function may subscribe twice and leave twice.
      const own = (message: string): void => listener(message)
      const set = byTopic.get(topic) ?? new Set()
      set.add(own)
      byTopic.set(topic, set)
      return () => {
        set.delete(own)
        if (set.size === 0 && byTopic.get(topic) === set) byTopic.delete(topic)
      }
    },
    deliver(topic, message) {
      for (const listener of [...(byTopic.get(topic) ?? [])]) {
        try {
          listener(message)
        } catch (error) {
          log.error('a listener of the bus failed', { topic, error })
        }
      }
    },
    has: (topic) => byTopic.has(topic),
    topics: () => [...byTopic.keys()],
    clear: () => byTopic.clear(),
  }
}
