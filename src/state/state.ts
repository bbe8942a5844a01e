/**
 * The interface of shared volatile state: keys that may vanish, counters, and a bus. Every promise here holds in memory,
 * on the bus of a node and on Redis alike. Nothing of value lives here: a message may be lost, late or doubled, and
 * a key may be gone; callers stay correct without them.
 */

export interface State {
  readonly kind: 'memory' | 'node' | 'redis'
  /** @returns undefined when the key is absent, expired, or the store cannot be asked (logged once, not thrown) */
  get(key: string): Promise<string | undefined>
  /** @param ttlMs milliseconds until the key is gone; without it the key stays until deleted */
  set(key: string, value: string, ttlMs?: number): Promise<void>
  delete(key: string): Promise<void>
  /**
   * Adds `n` to a counter that starts at 0 and lives for `ttlMs` from its creation (later adds do not prolong it).
   * @returns the sum after this add; without a reachable store it is counted in this process alone
   */
  add(key: string, n: number, ttlMs: number): Promise<number>
  /** Tells every subscriber of a topic, the publisher's own included. Resolves when sent, never rejects. */
  publish(topic: string, message: string): Promise<void>
  /** @returns a function that ends the subscription; a listener that throws is logged and harms no other */
  subscribe(topic: string, listener: (message: string) => void): () => void
  /** Is the shared store reachable? Always true where it is this process or this node. */
  isUp(): boolean
  close(): Promise<void>
}
