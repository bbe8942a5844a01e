/**
 * Shared volatile state and what is kept in step through it. Nothing outside this folder reaches past this file, but
 * `doctor`, which looks at Redis itself. The client of Redis is loaded by whoever has a Redis: a node without one and every
 * supervisor would start later and keep its memory for nothing.
 */
import type { RedisStateOptions } from './redis.ts'
import type { State } from './state.ts'

export { createMemoryState } from './memory.ts'
export { createNodeState, type NodeReply, type NodeRequest, serveNodeState } from './node.ts'
export type { RedisStateOptions } from './redis.ts'
export { parseRedisAddress } from './redis-address.ts'
export type { RedisSettings } from './redis-find.ts'
export { createSnapshot, type Snapshot } from './snapshot.ts'
export type { State } from './state.ts'
export { createTopics, type Topics, type Tracked } from './topics.ts'

/** Never rejects for a server's sake: without one it comes up in degraded mode and goes on trying. @throws on an address that cannot be read */
export const openRedisState = async (options: RedisStateOptions): Promise<State> =>
  (await import('./redis.ts')).openRedisState(options)
