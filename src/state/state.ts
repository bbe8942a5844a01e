/**
 * The interface of shared volatile state: keys that may vanish, counters, windows, holds, and a bus. Every promise here
 * holds in memory, on the bus of a node and on Redis alike. Nothing of value lives here: a message may be lost, late or
 * doubled, and a key may be gone; callers stay correct without them. Kinds of keys do not meet: a window, a holder set
 * and a plain key may have one name.
 */
import type { Taken } from './window.ts'

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
  /**
   * Takes `n` from a sliding window if its sum stays within the limit: no stretch of `windowMs` holds more than `limit`,
   * over all nodes that share the store. What was taken counts for `windowMs`, and up to a hundredth longer.
   * @param q.n a whole number from 0 up; 0 takes nothing and asks whether 1 could be taken
   * @returns `used`: the sum, with what was just taken; `retryAfterMs`: when as much can be taken if nobody else takes
   *   (0 if it was; `windowMs` if `n` is beyond the limit). Without a reachable store: the node's share of the limit.
   */
  take(key: string, q: WindowQuery): Promise<Taken>
  /**
   * Adds to a window whatever its limit. A negative `n` gives back what an estimate took too much, never more than is
   * there; the caller leaves it out when the estimate was taken longer than `windowMs` ago, since it has left by itself.
   */
  correct(key: string, q: { readonly n: number; readonly windowMs: number }): Promise<void>
  /**
   * At most `limit` holders at once. A hold ends by `release`, or `ttlMs` after it was last taken: the same holder may take
   * it again at any time, which renews it, also when the limit has been lowered since.
   * @returns whether it holds now
   */
  hold(key: string, q: HoldQuery): Promise<boolean>
  /** Ends a hold; one that is not there is no error. */
  release(key: string, holder: string): Promise<void>
  /** Tells every subscriber of a topic, the publisher's own included. Resolves when sent, never rejects. */
  publish(topic: string, message: string): Promise<void>
  /** @returns a function that ends the subscription; a listener that throws is logged and harms no other */
  subscribe(topic: string, listener: (message: string) => void): () => void
  /** Is the shared store reachable? Always true where it is this process or this node. */
  isUp(): boolean
  /** What the store is, for people: `memory`, `node`, or the form of Redis that was found; `away` while it cannot be reached. */
  form(): string
  close(): Promise<void>
}

export interface WindowQuery {
  readonly n: number
  readonly limit: number
  readonly windowMs: number
}

export interface HoldQuery {
  /** Unique among all that hold the key, such as a request id. */
  readonly holder: string
  readonly limit: number
  readonly ttlMs: number
}
