/** Shared volatile state and what is kept in step through it. Nothing outside this folder reaches past this file. */
export { createMemoryState } from './memory.ts'
export { createNodeState, type NodeReply, type NodeRequest, serveNodeState } from './node.ts'
export { openRedisState, type RedisStateOptions } from './redis.ts'
export { parseRedisAddress } from './redis-address.ts'
export type { RedisSettings } from './redis-find.ts'
export { createSnapshot, type Snapshot } from './snapshot.ts'
export type { State } from './state.ts'
export { createTopics, type Topics, type Tracked } from './topics.ts'
