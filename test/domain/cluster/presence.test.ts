/** Nodes that only call their Redis alike, such as each machine its own `localhost`, are shown as apart. */
import { describe, expect, test } from 'bun:test'
import { type ClusterView, createPresence } from '../../../src/domain/cluster/index.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { createMemoryState, openRedisState, type State } from '../../../src/state/index.ts'
import { HAS_SERVERS } from '../../support/engines.ts'
import { type RedisServer, redis, startRedis } from '../../support/services.ts'

const log = silentLog

const viewOf = (...ids: readonly string[]): ClusterView => ({
  nowMs: 0,
  nodes: ids.map((id) => ({
    id,
    name: `node ${id}`,
    role: 'slave',
    version: '1',
    state: id === 'lost' ? 'lost' : 'live',
    startedAtMs: 0,
    workers: [],
  })),
  parkedElsewhere: 0,
  leases: [],
  jobs: [],
  topics: {},
  differences: [],
})

describe('presence', () => {
  const closers: (() => Promise<void>)[] = []
  const close = async (): Promise<void> => {
    for (let next = closers.pop(); next; next = closers.pop()) await next()
  }
  const nodeOn = async (id: string, state: State) => {
    const presence = createPresence({ state, nodeId: id, node: `node ${id}`, log })
    closers.push(presence.stop)
    await presence.show()
    return presence
  }
  const memory = (): State => createMemoryState({ clock: systemClock, log })
  const open = async (server: RedisServer): Promise<State> => {
    const state = await openRedisState({ address: server.url, prefix: 'presence:', fallback: memory(), log })
    closers.push(state.close)
    return state
  }

  if (HAS_SERVERS)
    test('who is on another Redis is named, from either side; who is lost is not asked for', async () => {
      const [one, other] = [await redis(), await startRedis()]
      try {
        const a = await nodeOn('a', await open(one))
        await nodeOn('b', await open(one))
        expect((await a.compare(viewOf('a', 'b'))).differences).toEqual([])
        const c = await nodeOn('c', await open(other))
        const view = viewOf('a', 'b', 'c', 'lost')
        expect((await a.compare(view)).differences).toEqual([
          { name: 'Redis', values: [{ value: 'not the Redis of node a', nodes: ['node c'] }] },
        ])
        expect((await c.compare(view)).differences).toEqual([
          { name: 'Redis', values: [{ value: 'not the Redis of node c', nodes: ['node a', 'node b'] }] },
        ])
      } finally {
        await close()
      }
    }, 30_000)

  test('without Redis nothing is said about it', async () => {
    try {
      const view = viewOf('a', 'b')
      expect(await (await nodeOn('a', memory())).compare(view)).toBe(view)
    } finally {
      await close()
    }
  })
})
