/**
 * A node needs no Redis: without one it starts and serves, and while Redis is refused, silent, emptied or replaced, under
 * Sentinels and in a Redis Cluster, no call of a client fails, also of one whose limits are counted there. When Redis is back,
 * the node uses it again. Times are printed.
 */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createAdminClient, type MadeKey } from '../support/admin-client.ts'
import { HAS_SERVERS } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { createNode, type RealNode } from '../support/node.ts'
import { type RedisNode, startClusterRedis, startRedisNode, startSentinelRedis } from '../support/redis-services.ts'
import { openTcpProxy } from '../support/tcp-proxy.ts'
import { startUpstreamProcess, type UpstreamProcess } from '../support/upstream-process.ts'

const ROUNDS = process.env['SOAK'] ? 5 : 1
/** The state's own tests have all of them in each run; with a whole node the worst is enough. */
const FAULTS = process.env['SOAK'] ? (['SIGSTOP', 'kill -9', 'fail-over on command'] as const) : (['SIGSTOP'] as const)
const SLOW_MACHINE_MS = 60_000
const CALLERS = 6
const MODEL = 'served'
/** Far beyond what is asked, also as a part: it is counted, and never refuses. */
const COUNTED = { rpm_limit: 100_000_000, tpm_limit: 2_000_000_000, concurrency_limit: 100_000 }

if (HAS_SERVERS)
  describe('a node', () => {
    let folder: string
    let upstream: UpstreamProcess
    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'headgate-redis-loss-'))
      upstream = await startUpstreamProcess(folder)
    }, 60_000)
    afterAll(async () => {
      await upstream.stop()
      await rm(folder, { recursive: true, force: true })
    }, 60_000)

    /** A node of one worker, set up, with a key whose limits are counted, and calls all the time. */
    async function withNode(
      env: Readonly<Record<string, string>>,
      work: (node: RealNode, load: ReturnType<typeof startLoad>) => Promise<void>,
    ): Promise<void> {
      const node = await createNode({ env: { CRITICAL_RATE_LIMIT_ENABLE: 'false', ...env } })
      try {
        node.start()
        await node.ready(60_000)
        const admin = createAdminClient(() => node.url)
        await admin.setUp()
        await admin.options({ ModelRatio: { [MODEL]: 1 } })
        await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [MODEL] })
        const key = await admin.apiKey(await admin.user(2_000_000_000), { fields: COUNTED })
        const load = startLoad(node.url, key)
        try {
          await load.isServing()
          await work(node, load)
        } finally {
          await load.stop()
        }
        load.expectUnharmed('in all')
        expect(await node.stop()).toBe(0)
      } finally {
        await node.remove()
      }
    }

    /** The node writes and listens there. */
    const isUsed = async (redis: RedisNode): Promise<boolean> => {
      const channels = (await redis.call('PUBSUB', 'CHANNELS', 'headgate:*')) as unknown[]
      return channels.length > 0 && (await keysOf(redis)).some((key) => key.includes('window:'))
    }
    const normal = async (what: string, redis: () => Promise<RedisNode>): Promise<void> => {
      const startedAt = performance.now()
      await eventually(`${what}: Redis is used`, async () => isUsed(await redis()), {
        withinMs: SLOW_MACHINE_MS,
        everyMs: 25,
      })
      console.log(`${what}: normal after ${Math.round(performance.now() - startedAt)} ms`)
    }

    test(
      'starts without Redis, and loses it in every way, without a failed call',
      async () => {
        const redis = await startRedisNode()
        const proxy = await openTcpProxy({ host: '127.0.0.1', port: redis.port })
        proxy.refuse()
        const env = { REDIS_CONN_STRING: `redis://127.0.0.1:${proxy.port}` }
        try {
          await withNode(env, async (_node, load) => {
            load.expectUnharmed('started without Redis')
            proxy.admit()
            await normal('Redis comes', async () => redis)
            for (let round = 0; round < ROUNDS; round++) {
              proxy.freeze()
              await load.calls(300)
              load.expectUnharmed('a black hole')
              await redis.call('FLUSHALL')
              proxy.thaw()
              await normal('the black hole ends', async () => redis)
              proxy.refuse()
              await load.calls(300)
              load.expectUnharmed('refused')
              await redis.call('FLUSHALL')
              proxy.admit()
              await normal('it is admitted again', async () => redis)
              await redis.call('SCRIPT', 'FLUSH')
              await redis.call('FLUSHALL')
              await normal('scripts and keys are flushed', async () => redis)
              await redis.kill()
              await load.calls(300)
              load.expectUnharmed('killed')
              await redis.restart()
              await normal('it is started again', async () => redis)
            }
          })
        } finally {
          await proxy.close()
          await redis.remove()
        }
      },
      180_000 * ROUNDS,
    )

    if (process.env['SOAK'])
      test.concurrent('outlives the loss of the primary of Sentinels without a failed call', async () => {
        for (const fault of FAULTS) {
          const group = await startSentinelRedis({ password: 'data', sentinelPassword: 'sentinel' })
          try {
            await withNode(group.env, async (_node, load) => {
              await normal('Sentinels', group.primary)
              const old = await group.primary()
              if (fault === 'fail-over on command') await group.failOver()
              else if (fault === 'kill -9') await old.kill()
              else old.freeze()
              await eventually(
                'a primary is promoted',
                async () => {
                  const now = await group.primary()
                  return now !== old && String(await now.call('ROLE')).startsWith('master')
                },
                { withinMs: SLOW_MACHINE_MS },
              )
              await normal(`Sentinels, ${fault}`, group.primary)
              await load.calls(100)
              load.expectUnharmed(`Sentinels, ${fault}`)
            })
          } finally {
            await group.remove()
          }
        }
      }, 300_000)

    if (process.env['SOAK'])
      test.concurrent('outlives the loss of a primary of a Redis Cluster without a failed call', async () => {
        const redis = await startClusterRedis({ password: 'data' })
        try {
          await withNode(redis.env, async (_node, load) => {
            const livingPrimaries = async (): Promise<readonly RedisNode[]> => {
              const slots = await Promise.all([0, 1, 2].map((n) => redis.primaryOf(`{${n}}`)))
              return [...new Set(slots)]
            }
            // The key's windows and places are on one of them.
            const holderOf = async (): Promise<RedisNode | undefined> => {
              for (const node of await livingPrimaries())
                if ((await keysOf(node)).some((key) => key.includes('window:'))) return node
              return undefined
            }
            for (const fault of FAULTS) {
              const old = await eventually('the limits are counted', holderOf, { withinMs: SLOW_MACHINE_MS })
              const [held = ''] = (await keysOf(old)).filter((key) => key.includes('window:'))
              if (fault === 'kill -9') await old.kill()
              else if (fault === 'SIGSTOP') old.freeze()
              else await redis.failOver(old)
              const promoted = async (): Promise<RedisNode> => redis.primaryOf(held)
              await eventually('a primary is promoted', async () => (await promoted()) !== old, {
                withinMs: SLOW_MACHINE_MS,
              })
              const startedAt = performance.now()
              const before = Number(await (await promoted()).call('HLEN', held))
              await eventually(
                'the limits are counted at the new one',
                async () => Number(await (await promoted()).call('HLEN', held)) > before,
                { withinMs: SLOW_MACHINE_MS },
              )
              console.log(`Redis Cluster, ${fault}: normal after ${Math.round(performance.now() - startedAt)} ms`)
              load.expectUnharmed(`Redis Cluster, ${fault}`)
              if (fault === 'kill -9') await old.restart()
              else if (fault === 'SIGSTOP') old.thaw()
              await redis.settled()
            }
          })
        } finally {
          await redis.remove()
        }
      }, 180_000)
  })

const keysOf = async (redis: RedisNode): Promise<readonly string[]> =>
  ((await redis.call('KEYS', 'headgate:*')) as readonly unknown[]).map(String)

function startLoad(url: string, { key }: MadeKey) {
  const counts = { done: 0, sinceFault: 0, longestMs: 0, failures: [] as string[] }
  let isOver = false
  const call = async (): Promise<void> => {
    const startedAt = performance.now()
    try {
      const reply = await fetch(`${url}/v1/chat/completions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ model: MODEL, max_tokens: 20, messages: [{ role: 'user', content: 'hello' }] }),
      })
      const text = await reply.text()
      if (reply.status !== 200) counts.failures.push(`${reply.status} ${text.slice(0, 300)}`)
    } catch (error) {
      counts.failures.push(String(error))
    }
    counts.longestMs = Math.max(counts.longestMs, performance.now() - startedAt)
    counts.done++
    counts.sinceFault++
  }
  const callers = Array.from({ length: CALLERS }, async () => {
    while (!isOver) {
      await call()
      await Bun.sleep(10)
    }
  })
  const calls = async (n: number): Promise<void> => {
    const until = counts.done + n
    await eventually(`${n} more calls end`, () => counts.done >= until, { withinMs: SLOW_MACHINE_MS })
  }
  return {
    calls,
    isServing: () => calls(CALLERS),
    expectUnharmed(what: string): void {
      const { sinceFault, longestMs, failures } = counts
      console.log(`${what}: ${sinceFault} calls, ${failures.length} failed, longest ${Math.round(longestMs)} ms`)
      expect(failures).toEqual([])
      counts.sinceFault = 0
      counts.longestMs = 0
    },
    async stop(): Promise<void> {
      isOver = true
      await Promise.all(callers)
    },
  }
}
