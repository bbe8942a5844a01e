/** The promises of shared state hold alike in memory, among the workers of a node, and on Redis. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import {
  createMemoryState,
  createNodeState,
  type NodeReply,
  openRedisState,
  type RedisSettings,
  type State,
  serveNodeState,
} from '../../src/state/index.ts'
import { HAS_SERVERS } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { startClusterRedis, startSentinelRedis } from '../support/redis-services.ts'
import { redis } from '../support/services.ts'

/** Two ends of one state, as two processes would have them, with a prefix of their own. */
interface Pair {
  readonly a: State
  readonly b: State
  close(): Promise<void>
}

const memoryPair = async (): Promise<Pair> => {
  const state = createMemoryState({ clock: systemClock, log: silentLog })
  return { a: state, b: state, close: () => state.close() }
}

const nodePair = async (): Promise<Pair> => {
  const store = createMemoryState({ clock: systemClock, log: silentLog })
  const ends: ReturnType<typeof createNodeState>[] = []
  const open = (): State => {
    const end = createNodeState({
      log: silentLog,
      // Through JSON and a later turn, as between processes.
      send: (request) => {
        const copy = JSON.parse(JSON.stringify(request))
        const later = (to: typeof end) => (reply: NodeReply) =>
          setImmediate(() => to.receive(JSON.parse(JSON.stringify(reply))))
        void serveNodeState(store, copy, later(end), (reply) => {
          for (const other of ends) if (other !== end) later(other)(reply)
        })
      },
    })
    ends.push(end)
    return end
  }
  return {
    a: open(),
    b: open(),
    close: async () => {
      for (const end of ends) await end.close()
    },
  }
}

const redisPair = async (settings: RedisSettings): Promise<Pair> => {
  const prefix = `test:${crypto.randomUUID()}:`
  // As two nodes would: each with a state of its own behind it, one with several connections.
  const open = (connections: number): Promise<State> =>
    openRedisState({
      ...settings,
      prefix,
      fallback: createMemoryState({ clock: systemClock, log: silentLog }),
      connections,
      log: silentLog,
      connectWaitMs: 20_000,
    })
  const [a, b] = [await open(1), await open(3)]
  return {
    a,
    b,
    close: async () => {
      await a.close()
      await b.close()
    },
  }
}

const singlePair = async (): Promise<Pair> => redisPair({ address: (await redis()).url })
const sentinelPair = async (): Promise<Pair> =>
  redisPair((await startSentinelRedis({ password: 'data', sentinelPassword: 'sentinel' })).settings)
const clusterPair = async (): Promise<Pair> => redisPair((await startClusterRedis({ password: 'data' })).settings)

const KINDS: readonly (readonly [string, State['kind'], () => Promise<Pair>])[] = [
  ['memory', 'memory', memoryPair],
  ['node', 'node', nodePair],
  ...(HAS_SERVERS
    ? ([
        ['one Redis', 'redis', singlePair],
        ['Sentinels', 'redis', sentinelPair],
        ['a Redis Cluster', 'redis', clusterPair],
      ] as const)
    : []),
]

describe.each(KINDS)('state: %s', (_name, kind, open) => {
  let pair: Pair
  beforeAll(async () => {
    pair = await open()
  }, 120_000)
  afterAll(() => pair.close())

  test('says what it is, and that it can be reached', () => {
    expect(pair.a.kind).toBe(kind)
    expect(pair.a.isUp()).toBe(true)
  })

  test('a key that one process sets, the other reads, until it is deleted; an absent key is undefined', async () => {
    const { a, b } = pair
    expect(await a.get('absent')).toBeUndefined()
    await a.set('shared', '值 with "quotes"')
    expect(await b.get('shared')).toBe('值 with "quotes"')
    await b.set('shared', '')
    expect(await a.get('shared')).toBe('')
    await b.delete('shared')
    expect(await a.get('shared')).toBeUndefined()
    await a.delete('absent')
  })

  test('a key with a time to live is gone after it, one without stays', async () => {
    const { a, b } = pair
    await a.set('short', 'x', 60)
    await a.set('long', 'y')
    expect(await b.get('short')).toBe('x')
    await eventually('the key is gone', async () => (await b.get('short')) === undefined)
    expect(await b.get('long')).toBe('y')
  })

  test('adds of many at once are all counted, and each sees a sum of its own', async () => {
    const { a, b } = pair
    const sums = await Promise.all(Array.from({ length: 100 }, (_, i) => (i % 2 ? a : b).add('counter', 1, 60_000)))
    expect(sums.toSorted((x, y) => x - y)).toEqual(Array.from({ length: 100 }, (_, i) => i + 1))
    expect(await a.add('counter', -30, 60_000)).toBe(70)
  })

  test('a counter lives from its first add: later adds do not prolong it', async () => {
    const { a, b } = pair
    const startedAt = performance.now()
    await a.add('window', 1, 150)
    await eventually('the window has ended', async () => (await b.add('window', 1, 60_000)) === 1, { withinMs: 2_000 })
    expect(performance.now() - startedAt).toBeGreaterThan(140)
  })

  test('takes of many at once fill a window exactly, in whatever amounts', async () => {
    const { a, b } = pair
    const takes = await Promise.all(
      Array.from({ length: 100 }, (_, i) => (i % 2 ? a : b).take('rate', { n: 1, limit: 40, windowMs: 60_000 })),
    )
    expect(takes.filter(({ taken }) => taken).map(({ used }) => used)).toEqual(
      expect.arrayContaining(Array.from({ length: 40 }, (_, i) => i + 1)),
    )
    expect(takes.filter(({ taken }) => taken)).toHaveLength(40)
    const big = { limit: 2_000_000_000_000, windowMs: 60_000 }
    expect(await a.take('amounts', { ...big, n: 1_999_999_999_000 })).toMatchObject({ taken: true })
    expect(await b.take('amounts', { ...big, n: 1_001 })).toMatchObject({ taken: false, used: 1_999_999_999_000 })
    expect(await b.take('amounts', { ...big, n: 1_000 })).toEqual({
      taken: true,
      used: 2_000_000_000_000,
      retryAfterMs: 0,
    })
  })

  test('a full window says when there will be room; to take nothing asks for it', async () => {
    const { a, b } = pair
    const q = { limit: 10, windowMs: 60_000 }
    expect(await a.take('asked', { ...q, n: 0 })).toEqual({ taken: true, used: 0, retryAfterMs: 0 })
    await a.take('asked', { ...q, n: 10 })
    for (const n of [0, 1, 10]) {
      const refused = await b.take('asked', { ...q, n })
      expect(refused).toMatchObject({ taken: false, used: 10 })
      expect(refused.retryAfterMs).toBeGreaterThan(30_000)
      expect(refused.retryAfterMs).toBeLessThanOrEqual(60_600)
      expect(refused.retryAfterMs).toBeInteger()
    }
    expect(await b.take('asked', { ...q, n: 11 })).toEqual({ taken: false, used: 10, retryAfterMs: 60_000 })
  })

  test('no stretch of a window holds more than the limit, at no edge, and what left makes room', async () => {
    const { a, b } = pair
    const q = { n: 1, limit: 4, windowMs: 200 }
    const taken: { readonly askedAtMs: number; readonly answeredAtMs: number }[] = []
    await eventually(
      'three windows are filled',
      async () => {
        const askedAtMs = performance.now()
        const answer = await (taken.length % 2 ? a : b).take('sliding', q)
        if (answer.taken) taken.push({ askedAtMs, answeredAtMs: performance.now() })
        return taken.length === 3 * q.limit
      },
      { withinMs: 10_000, everyMs: 3 },
    )
    for (const [i, later] of taken.slice(q.limit).entries())
      expect(later.answeredAtMs - taken[i]!.askedAtMs).toBeGreaterThanOrEqual(q.windowMs - 1)
  })

  test('a correction counts whatever the limit, or gives back, never more than is there', async () => {
    const { a, b } = pair
    const q = { limit: 100, windowMs: 60_000 }
    await a.take('tokens', { ...q, n: 80 })
    await b.correct('tokens', { n: 50, windowMs: q.windowMs })
    expect(await a.take('tokens', { ...q, n: 1 })).toMatchObject({ taken: false, used: 130 })
    await b.correct('tokens', { n: -60, windowMs: q.windowMs })
    expect(await a.take('tokens', { ...q, n: 30 })).toMatchObject({ taken: true, used: 100 })
    await a.correct('tokens', { n: -1_000, windowMs: q.windowMs })
    expect(await b.take('tokens', { ...q, n: 101 })).toMatchObject({ taken: false, used: 0 })
    expect(await b.take('tokens', { ...q, n: 100 })).toMatchObject({ taken: true, used: 100 })
  })

  test('holds of many at once never go beyond the limit; a release makes room, and only its own', async () => {
    const { a, b } = pair
    const q = { limit: 3, ttlMs: 60_000 }
    const held = await Promise.all(
      Array.from({ length: 20 }, (_, i) => (i % 2 ? a : b).hold('calls', { ...q, holder: `call ${i}` })),
    )
    const holders = held.flatMap((isHeld, i) => (isHeld ? [`call ${i}`] : []))
    expect(holders).toHaveLength(3)
    await b.release('calls', 'nobody')
    expect(await a.hold('calls', { ...q, holder: 'late' })).toBe(false)
    // Renewed by any end, and also when fewer may hold than do.
    expect(await b.hold('calls', { ...q, limit: 1, holder: holders[0]! })).toBe(true)
    await b.release('calls', holders[0]!)
    expect(await a.hold('calls', { ...q, holder: 'late' })).toBe(true)
    expect(await a.hold('calls', { ...q, holder: 'later' })).toBe(false)
    expect(await a.hold('none', { ...q, limit: 0, holder: 'any' })).toBe(false)
  })

  test('a hold that is not renewed ends by itself, one that is stays', async () => {
    const { a, b } = pair
    const q = { limit: 2, ttlMs: 60_000 }
    await a.hold('crashed', { ...q, holder: 'alive', ttlMs: 150 })
    const startedAt = performance.now()
    await a.hold('crashed', { ...q, holder: 'gone', ttlMs: 150 })
    await a.hold('crashed', { ...q, holder: 'alive' })
    await eventually('the place is free', () => b.hold('crashed', { ...q, holder: 'next' }))
    expect(performance.now() - startedAt).toBeGreaterThan(148)
    expect(await a.hold('crashed', { ...q, holder: 'third' })).toBe(false)
  })

  test('a key, a window and holders of one name do not meet', async () => {
    const { a } = pair
    await a.set('name', 'text')
    await a.take('name', { n: 1, limit: 1, windowMs: 60_000 })
    await a.hold('name', { holder: 'me', limit: 1, ttlMs: 60_000 })
    expect(await a.get('name')).toBe('text')
    expect(await a.take('name', { n: 0, limit: 2, windowMs: 60_000 })).toMatchObject({ used: 1 })
  })

  test("a message reaches every subscriber of its topic, the publisher's own too, and nobody else", async () => {
    const { a, b } = pair
    const heard: string[] = []
    const ends = [
      a.subscribe('news', (text) => heard.push(`a ${text}`)),
      b.subscribe('news', (text) => heard.push(`b ${text}`)),
      a.subscribe('other', () => heard.push('wrong')),
    ]
    // A subscription may take a moment to reach a server; messages before that may be missed.
    await eventually('both hear', async () => {
      await a.publish('news', 'hello')
      return heard.includes('a hello') && heard.includes('b hello')
    })
    expect(heard).not.toContain('wrong')
    for (const end of ends) end()
    heard.length = 0
    const done = Promise.withResolvers<void>()
    const last = b.subscribe('last', () => done.resolve())
    await eventually('the last message is heard', async () => {
      await a.publish('news', 'late')
      await a.publish('last', '')
      return Promise.race([done.promise.then(() => true), Bun.sleep(20).then(() => false)])
    })
    last()
    expect(heard).toEqual([])
  })

  test('a listener that throws harms neither the publisher nor the next listener', async () => {
    const { a } = pair
    const heard: string[] = []
    const ends = [
      a.subscribe('fragile', () => {
        throw new Error('listener')
      }),
      a.subscribe('fragile', (text) => heard.push(text)),
    ]
    await eventually('the second hears', async () => {
      await a.publish('fragile', 'x')
      return heard.length > 0
    })
    for (const end of ends) end()
  })
})
