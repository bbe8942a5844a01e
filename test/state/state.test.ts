/** The promises of shared state hold alike in memory, among the workers of a node, and on Redis. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import {
  createMemoryState,
  createNodeState,
  type NodeReply,
  openRedisState,
  type State,
  serveNodeState,
} from '../../src/state/index.ts'
import { HAS_SERVERS } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
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

const redisPair = async (): Promise<Pair> => {
  const { url } = await redis()
  const prefix = `test:${crypto.randomUUID()}:`
  const fallback = createMemoryState({ clock: systemClock, log: silentLog })
  const open = (): Promise<State> => openRedisState({ address: url, prefix, fallback, log: silentLog })
  const [a, b] = [await open(), await open()]
  return {
    a,
    b,
    close: async () => {
      await a.close()
      await b.close()
    },
  }
}

const KINDS: readonly (readonly [string, () => Promise<Pair>])[] = [
  ['memory', memoryPair],
  ['node', nodePair],
  ...(HAS_SERVERS ? [['redis', redisPair] as const] : []),
]

describe.each(KINDS)('state: %s', (kind, open) => {
  let pair: Pair
  beforeAll(async () => {
    pair = await open()
  }, 30_000)
  afterAll(() => pair.close())

  test('says what it is, and that it can be reached', () => {
    expect(pair.a.kind as string).toBe(kind)
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
