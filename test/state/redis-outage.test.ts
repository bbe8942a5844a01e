/** Redis may be away, refuse or fall silent: callers get the node's own answers soon, never an error, and Redis again when it is back. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { systemClock } from '../../src/lib/clock.ts'
import { createLog, silentLog } from '../../src/lib/log.ts'
import {
  createMemoryState,
  createSnapshot,
  createTopics,
  openRedisState,
  type RedisStateOptions,
  type State,
} from '../../src/state/index.ts'
import { HAS_SERVERS } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { startRedisNode } from '../support/redis-services.ts'
import { freePort } from '../support/services.ts'
import { openTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts'

/** What is promised is 5 s; a machine that is busy gets more. */
const BACK_MS = 15_000
const PATIENCE_MS = 6_000

const open = (port: number, options: Partial<RedisStateOptions> = {}): Promise<State> =>
  openRedisState({
    address: `redis://127.0.0.1:${port}`,
    prefix: 'test:',
    fallback: createMemoryState({ clock: systemClock, log: silentLog }),
    log: silentLog,
    connectWaitMs: 300,
    ...options,
  })

/** Every operation answers, without each of them waiting for a server: that would be a second for each of a dozen. */
async function expectServed(state: State): Promise<void> {
  const startedAt = performance.now()
  const own = crypto.randomUUID()
  await state.set('key', 'own')
  expect(await state.get('key')).toBe('own')
  expect(await state.add(`sum ${own}`, 2, 60_000)).toBe(2)
  expect(await state.take(own, { n: 1, limit: 2, windowMs: 60_000 })).toMatchObject({ taken: true, used: 1 })
  await state.correct(own, { n: -1, windowMs: 60_000 })
  expect(await state.take(own, { n: 0, limit: 2, windowMs: 60_000 })).toMatchObject({ taken: true, used: 0 })
  expect(await state.hold(own, { holder: 'me', limit: 1, ttlMs: 60_000 })).toBe(true)
  expect(await state.hold(own, { holder: 'you', limit: 1, ttlMs: 60_000 })).toBe(false)
  await state.release(own, 'me')
  expect(await state.hold(own, { holder: 'you', limit: 1, ttlMs: 60_000 })).toBe(true)
  const heard = Promise.withResolvers<string>()
  const end = state.subscribe(own, heard.resolve)
  await eventually('a message is heard', async () => {
    await state.publish(own, 'message')
    return Promise.race([heard.promise, Bun.sleep(10)])
  })
  end()
  await state.delete('key')
  expect(await state.get('key')).toBeUndefined()
  expect(performance.now() - startedAt).toBeLessThan(PATIENCE_MS)
}

const back = (what: string, ...states: readonly State[]): Promise<unknown> =>
  eventually(what, () => states.every((state) => state.isUp()), { withinMs: BACK_MS })

test('a node starts without its Redis and serves', async () => {
  const state = await open(await freePort())
  expect(state.isUp()).toBe(false)
  await expectServed(state)
  await state.close()
})

test('without Redis each node grants its share of a limit, at least one and never more than all', async () => {
  let nodes = 3
  const state = await open(await freePort(), { share: () => nodes })
  const grants = async (key: string, limit: number): Promise<number> => {
    let taken = 0
    while ((await state.take(key, { n: 1, limit, windowMs: 60_000 })).taken) taken++
    return taken
  }
  expect(await grants('a', 10)).toBe(3)
  expect(await grants('b', 2)).toBe(1)
  expect(await grants('c', 0)).toBe(0)
  expect(await state.hold('d', { holder: '1', limit: 4, ttlMs: 60_000 })).toBe(true)
  expect(await state.hold('d', { holder: '2', limit: 4, ttlMs: 60_000 })).toBe(false)
  // The others are gone: what they had is this node's.
  nodes = 1
  expect(await grants('a', 10)).toBe(7)
  await state.close()
})

if (HAS_SERVERS) {
  describe('a server that fails', () => {
    let server: Awaited<ReturnType<typeof startRedisNode>>
    let proxy: TcpProxy
    let states: State[]
    /** Two nodes of a cluster, through the proxy. */
    const openTwo = async (options: Partial<RedisStateOptions> = {}): Promise<readonly [State, State]> => {
      const two = [await open(proxy.port, options), await open(proxy.port, options)] as const
      states.push(...two)
      await back('Redis is used', ...two)
      return two
    }
    /** What one says, the other hears. */
    const expectJoined = async (a: State, b: State): Promise<void> => {
      const heard: string[] = []
      const end = b.subscribe('across', (text) => heard.push(text))
      await eventually('the other node hears', async () => {
        await a.publish('across', 'hello')
        return heard.length > 0
      })
      end()
      await a.set('across', 'one')
      expect(await b.get('across')).toBe('one')
    }

    beforeAll(async () => {
      server = await startRedisNode()
    }, 60_000)
    beforeEach(async () => {
      states = []
      proxy = await openTcpProxy({ host: '127.0.0.1', port: server.port })
    })
    afterEach(async () => {
      for (const state of states) await state.close()
      await proxy.close()
    })
    afterAll(() => server.remove())

    test('is a black hole when a node starts: the start does not hang, and it is used when it answers', async () => {
      proxy.freeze()
      const startedAt = performance.now()
      const state = await open(proxy.port)
      states.push(state)
      expect(performance.now() - startedAt).toBeLessThan(PATIENCE_MS)
      await expectServed(state)
      proxy.thaw()
      await back('Redis is used', state)
    }, 30_000)

    test('becomes a black hole: one call waits a second, none fails, none waits again', async () => {
      const [a, b] = await openTwo()
      proxy.freeze()
      await expectServed(a)
      await expectServed(a)
      // Nobody asks the other one; it finds out by itself.
      await eventually('the silence is noticed', () => !b.isUp())
      proxy.thaw()
      await back('Redis is used again', a, b)
      await expectJoined(a, b)
    }, 40_000)

    test('freezes: it accepts connections and says nothing', async () => {
      const [a, b] = await openTwo()
      server.freeze()
      await expectServed(a)
      await expectServed(a)
      server.thaw()
      await back('Redis is used again', a, b)
      await expectJoined(a, b)
    }, 40_000)

    test('refuses connections, then takes them again', async () => {
      const [a, b] = await openTwo()
      proxy.refuse()
      await eventually('the outage is noticed', () => !a.isUp() && !b.isUp())
      await expectServed(a)
      proxy.admit()
      await back('Redis is used again', a, b)
      await expectJoined(a, b)
    }, 40_000)

    test('is killed and comes back', async () => {
      const [a, b] = await openTwo()
      await server.kill()
      await eventually('the outage is noticed', () => !a.isUp() && !b.isUp())
      await expectServed(a)
      await server.restart()
      await back('Redis is used again', a, b)
      await expectJoined(a, b)
    }, 40_000)

    test('is on another continent: it is used, only later', async () => {
      proxy.delay(75)
      const [a, b] = await openTwo({ connectWaitMs: 10_000 })
      await expectJoined(a, b)
    }, 40_000)

    test('forgets its scripts: windows and holds go on as they were', async () => {
      const [a, b] = await openTwo()
      await a.take('kept', { n: 3, limit: 5, windowMs: 60_000 })
      await server.call('SCRIPT', 'FLUSH')
      expect(await b.take('kept', { n: 3, limit: 5, windowMs: 60_000 })).toMatchObject({ taken: false, used: 3 })
      await server.call('SCRIPT', 'FLUSH')
      expect(await b.hold('kept', { holder: 'me', limit: 1, ttlMs: 60_000 })).toBe(true)
      expect(await a.hold('kept', { holder: 'you', limit: 1, ttlMs: 60_000 })).toBe(false)
      expect([a.isUp(), b.isUp()]).toEqual([true, true])
    })

    test('forgets everything: nothing fails, limits begin anew', async () => {
      const [a, b] = await openTwo()
      await a.take('lost', { n: 5, limit: 5, windowMs: 60_000 })
      await server.call('FLUSHALL')
      expect(await b.take('lost', { n: 5, limit: 5, windowMs: 60_000 })).toMatchObject({ taken: true, used: 5 })
      await expectServed(a)
      expect(a.isUp()).toBe(true)
    })

    test('takes no writes any more: it is left until it does', async () => {
      const [a, b] = await openTwo()
      await server.call('REPLICAOF', '127.0.0.1', await freePort())
      await expectServed(a)
      expect(a.isUp()).toBe(false)
      await server.call('REPLICAOF', 'NO', 'ONE')
      await back('Redis is used again', a, b)
      await expectJoined(a, b)
    }, 40_000)

    test('has no memory left: its messages still flow, and what it cannot keep the node keeps', async () => {
      const [a, b] = await openTwo()
      await server.call('CONFIG', 'SET', 'maxmemory', 1)
      expect(await a.take('full', { n: 1, limit: 1, windowMs: 60_000 })).toMatchObject({ taken: true })
      expect(await a.take('full', { n: 1, limit: 1, windowMs: 60_000 })).toMatchObject({ taken: false })
      const heard: string[] = []
      const end = b.subscribe('full', (text) => heard.push(text))
      await eventually('the other node hears', async () => {
        await a.publish('full', 'hello')
        return heard.length > 0
      })
      end()
      expect([a.isUp(), b.isUp()]).toEqual([true, true])
      await server.call('CONFIG', 'SET', 'maxmemory', 0)
    })

    test('drops its subscribers: they are back at once, and a change that was said meanwhile is found', async () => {
      const [a, b] = await openTwo()
      const stored = { value: 'first', version: 1 }
      const topicsOf = (state: State) =>
        createTopics({
          state,
          readVersions: async () => new Map([['things', stored.version]]),
          fullReloadMs: 3_600_000,
          log: silentLog,
          clock: systemClock,
        })
      const [here, there] = [topicsOf(a), topicsOf(b)]
      const snapshot = createSnapshot({
        name: 'things',
        topic: 'things',
        load: async () => stored.value,
        topics: there,
        log: silentLog,
        clock: systemClock,
      })
      await snapshot.ready()
      there.start()
      for (let round = 0; round < 3; round++) {
        await server.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
        stored.value = `round ${round}`
        stored.version++
        await here.changed('things')
        await eventually('the change is found', () => snapshot.get() === `round ${round}`)
      }
      await expectJoined(a, b)
      await Promise.all([here.stop(), there.stop()])
    }, 30_000)

    test('wants a password that the node has not: the node serves, and says why without the one it tried', async () => {
      const lines: string[] = []
      const log = createLog({
        level: 'debug',
        sinks: [{ write: (text) => void lines.push(text), close: async () => {} }],
      })
      const locked = await startRedisNode({ password: 'the right one' })
      const state = await open(locked.port, { password: 'hunter2-wrong', log })
      expect(state.isUp()).toBe(false)
      await expectServed(state)
      await eventually('it is said', () => lines.join('').includes('WRONGPASS'))
      await log.close()
      expect(lines.join('')).not.toContain('hunter2')
      await state.close()
      await locked.remove()
    }, 30_000)
  })
}
