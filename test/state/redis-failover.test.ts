/**
 * A primary that is replaced, killed or frozen costs its callers nothing but a moment: under Sentinels and in a Redis
 * Cluster no operation fails, none waits long, and the new primary is used soon after its promotion. Times are printed.
 */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { createMemoryState, openRedisState, type RedisSettings, type State } from '../../src/state/index.ts'
import { HAS_SERVERS } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import {
  type ClusterRedis,
  type RedisNode,
  type SentinelRedis,
  startClusterRedis,
  startSentinelRedis,
} from '../support/redis-services.ts'

const ROUNDS = process.env['SOAK'] ? 10 : 1
const SLOW_MACHINE_MS = 60_000
/** A command that is lost waits a second; the rest is for a machine that is busy. */
const WAIT_MS = 5_000
const KEYS = Array.from({ length: 12 }, (_, n) => `key ${n}`)

type Loaded = Awaited<ReturnType<typeof openLoaded>>

/** Two nodes of a cluster, one of which is asked all the time. */
async function openLoaded(settings: RedisSettings) {
  const prefix = `test:${crypto.randomUUID()}:`
  const open = (): Promise<State> =>
    openRedisState({
      ...settings,
      prefix,
      fallback: createMemoryState({ clock: systemClock, log: silentLog }),
      log: silentLog,
      connections: 2,
      connectWaitMs: 20_000,
    })
  const [a, b] = [await open(), await open()]
  const counts = { done: 0, longestMs: 0, failures: [] as unknown[] }
  let isOver = false
  const ask = async (key: string): Promise<void> => {
    const work: readonly (() => Promise<unknown>)[] = [
      () => a.set(key, 'x', 60_000),
      () => a.get(key),
      () => a.add(`sum ${key}`, 1, 60_000),
      () => a.take(key, { n: 1, limit: 1_000_000, windowMs: 1_000 }),
      () => a.hold(key, { holder: 'me', limit: 2, ttlMs: 10_000 }),
      () => a.release(key, 'me'),
      () => a.publish('load', key),
    ]
    while (!isOver) {
      for (const each of work) {
        const startedAt = performance.now()
        await each().catch((error: unknown) => counts.failures.push(error))
        counts.longestMs = Math.max(counts.longestMs, performance.now() - startedAt)
        counts.done++
      }
      await Bun.sleep(20)
    }
  }
  const load = KEYS.map(ask)
  return {
    a,
    b,
    prefix,
    /** From when a primary has been promoted until both nodes use it. */
    async normalAfter(what: string, isPromoted: () => Promise<boolean>): Promise<void> {
      await eventually(`${what}: a primary is promoted`, isPromoted, { withinMs: SLOW_MACHINE_MS })
      const promotedAt = performance.now()
      const own = crypto.randomUUID()
      await eventually(
        `${what}: both nodes use it`,
        async () => {
          if (!a.isUp() || !b.isUp()) return false
          // Every shard of a cluster, and the messages too.
          for (const key of KEYS) {
            await a.set(`${own} ${key}`, own, 60_000)
            if ((await b.get(`${own} ${key}`)) !== own) return false
          }
          const heard = Promise.withResolvers<boolean>()
          const end = b.subscribe(own, () => heard.resolve(true))
          await Bun.sleep(5)
          await a.publish(own, '')
          const isHeard = await Promise.race([heard.promise, Bun.sleep(50)])
          end()
          return isHeard
        },
        { withinMs: SLOW_MACHINE_MS },
      )
      console.log(`${what}: normal ${Math.round(performance.now() - promotedAt)} ms after the promotion`)
    },
    expectUnharmed(what: string): void {
      console.log(
        `${what}: ${counts.done} operations, ${counts.failures.length} failed, longest ${Math.round(counts.longestMs)} ms`,
      )
      expect(counts.failures).toEqual([])
      expect(counts.done).toBeGreaterThan(10)
      expect(counts.longestMs).toBeLessThan(WAIT_MS)
      counts.done = 0
      counts.longestMs = 0
    },
    async close(): Promise<void> {
      isOver = true
      await Promise.all(load)
      await a.close()
      await b.close()
    },
  }
}

if (HAS_SERVERS) {
  describe('Sentinels', () => {
    // A group of its own for each fault: after one, Sentinels take most of half a minute until they can do the next.
    const withGroup =
      (fault: (group: SentinelRedis, loaded: Loaded, round: number) => Promise<void>, rounds = ROUNDS) =>
      async () => {
        const group = await startSentinelRedis({ password: 'data', sentinelPassword: 'sentinel' })
        const loaded = await openLoaded({ ...group.settings })
        try {
          for (let round = 1; round <= rounds; round++) {
            await fault(group, loaded, round)
            if (round < rounds) await group.settled()
          }
        } finally {
          await loaded.close()
          await group.remove()
        }
      }
    const otherThan = (group: SentinelRedis, old: RedisNode) => async () => {
      const now = await group.primary()
      return now !== old && String(await now.call('ROLE')).startsWith('master')
    }

    test.concurrent(
      'the other one is made primary',
      withGroup(async (group, loaded) => {
        const old = await group.primary()
        await group.failOver()
        await loaded.normalAfter('SENTINEL failover', otherThan(group, old))
        loaded.expectUnharmed('SENTINEL failover')
      }),
      60_000 + 60_000 * ROUNDS,
    )

    test.concurrent(
      'the primary is killed; one Sentinel, too',
      withGroup(async (group, loaded, round) => {
        const old = await group.primary()
        const sentinel = group.sentinels[round % 3]!
        await Promise.all([old.kill(), sentinel.kill()])
        await loaded.normalAfter('kill -9 of the primary', otherThan(group, old))
        loaded.expectUnharmed('kill -9 of the primary')
        await Promise.all([old.restart(), sentinel.restart()])
      }),
      60_000 + 60_000 * ROUNDS,
    )

    test.concurrent(
      'the primary freezes, and wakes up when another has its place',
      withGroup(async (group, loaded) => {
        const old = await group.primary()
        old.freeze()
        await loaded.normalAfter('SIGSTOP of the primary', otherThan(group, old))
        old.thaw()
        loaded.expectUnharmed('SIGSTOP of the primary')
        await eventually('the new one is used', () => loaded.a.isUp() && loaded.b.isUp())
      }),
      60_000 + 60_000 * ROUNDS,
    )

    test.concurrent(
      'the primary is cut off from the Sentinels alone: who they choose instead is used',
      withGroup(async (group, loaded) => {
        const old = await group.primary()
        const there = new Bun.RedisClient(`redis://:data@127.0.0.1:${old.port}`)
        await there.send('CONFIG', ['SET', 'requirepass', 'another'])
        for (const [, id] of String(await there.send('CLIENT', ['LIST'])).matchAll(/^id=(\d+) .* name=sentinel-/gm))
          await there.send('CLIENT', ['KILL', 'ID', id!])
        await loaded.normalAfter('a primary cut off', async () => (await group.primary()) !== old)
        const chosen = await group.primary()
        await eventually('what is written is written there', async () => {
          const key = crypto.randomUUID()
          await loaded.a.set(key, 'x', 10_000)
          return (await chosen.call('EXISTS', `${loaded.prefix}${key}`)) === 1
        })
        // It lives on, and nobody is left there: neither commands nor messages.
        expect(String(await there.send('ROLE', []))).toStartWith('master')
        expect(await there.send('PUBSUB', ['CHANNELS', `${loaded.prefix}*`])).toEqual([])
        there.close()
        loaded.expectUnharmed('a primary cut off')
      }, 1),
      120_000,
    )
  })

  describe('a Redis Cluster', () => {
    let redis: ClusterRedis
    let loaded: Loaded
    beforeAll(async () => {
      redis = await startClusterRedis({ password: 'data' })
      loaded = await openLoaded(redis.settings)
    }, 120_000)
    afterAll(async () => {
      await loaded.close()
      await redis.remove()
    }, 60_000)

    const key = (): string => `${loaded.prefix}${KEYS[0]}`
    const otherThan = (old: RedisNode) => async () => (await redis.primaryOf(key())) !== old
    const faults: Readonly<Record<string, (primary: RedisNode) => Promise<() => Promise<void>>>> = {
      'CLUSTER FAILOVER': async (primary) => {
        await redis.failOver(primary)
        return async () => undefined
      },
      'kill -9 of a primary': async (primary) => {
        await primary.kill()
        return () => primary.restart()
      },
      'SIGSTOP of a primary': async (primary) => {
        primary.freeze()
        return async () => primary.thaw()
      },
    }
    for (const [what, fault] of Object.entries(faults))
      test(
        what,
        async () => {
          for (let round = 0; round < ROUNDS; round++) {
            const old = await redis.primaryOf(key())
            const mend = await fault(old)
            await loaded.normalAfter(what, otherThan(old))
            await mend()
            loaded.expectUnharmed(what)
            await redis.settled()
          }
        },
        60_000 + 60_000 * ROUNDS,
      )

    test('a slot moves to another primary: its keys are found there', async () => {
      const from = await redis.primaryOf(key())
      const slot = Number(await from.call('CLUSTER', 'KEYSLOT', key()))
      let to = from
      for (let n = 0; to === from; n++) to = await redis.primaryOf(`other ${n}`)
      const [fromId, toId] = [String(await from.call('CLUSTER', 'MYID')), String(await to.call('CLUSTER', 'MYID'))]
      await to.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', fromId)
      await from.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', toId)
      const keys = (await from.call('CLUSTER', 'GETKEYSINSLOT', slot, 100)) as string[]
      expect(keys.length).toBeGreaterThan(0)
      for (const each of keys)
        await from.call('MIGRATE', '127.0.0.1', to.port, each, 0, 5_000, 'REPLACE', 'AUTH', 'data')
      for (const node of [to, from]) await node.call('CLUSTER', 'SETSLOT', slot, 'NODE', toId)
      await loaded.normalAfter('a slot moves', otherThan(from))
      loaded.expectUnharmed('a slot moves')
    }, 120_000)
  })
}
