/**
 * A balance B and a fixed price c buy exactly ⌊B ÷ c⌋ calls, however many clients ask how many nodes at once, and whatever
 * becomes of Redis meanwhile. A call that cannot be decided yet (503) asks again.
 */
import { expect, test } from 'bun:test'
import { chatUntilDecided, modelsOf } from '../support/chat.ts'
import { type Cluster, openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { type SentinelRedis, startSentinelRedis } from '../support/redis-services.ts'

const UNITS_PER_DOLLAR = 500_000
const MODEL = 'fixed'
const PRICE_DOLLAR = 0.002
const PRICE = PRICE_DOLLAR * UNITS_PER_DOLLAR
/** What B ÷ c leaves over. */
const REST = 1
const CALLS = process.env['SOAK'] ? 500 : 160
const AFFORDABLE = Math.floor(CALLS * 0.6)

interface Case {
  readonly name: string
  /** Left to the long run: a fail-over is the harder case of it. */
  readonly isLong?: boolean
  readonly redis?: 'own' | 'none'
  readonly env?: Readonly<Record<string, string>>
  /** Redis is a primary with a replica, and Sentinels. */
  readonly hasSentinels?: boolean
  /** Goes on while the calls are under way. */
  readonly trouble?: (cluster: Cluster, sentinels?: SentinelRedis) => Promise<void>
}

const CASES: readonly Case[] = [
  { name: 'calmly, several workers each', env: { WORKERS: '2' } },
  { name: 'while Redis forgets everything', trouble: async ({ redis }) => flushAll(redis?.url ?? '') },
  {
    name: 'while Redis goes away',
    isLong: true,
    trouble: async ({ redisProxy }) => {
      await Bun.sleep(50)
      redisProxy?.refuse()
    },
  },
  {
    name: 'while the primary of Redis is killed and its replica takes its place',
    redis: 'none',
    hasSentinels: true,
    async trouble(_cluster, sentinels) {
      const old = await sentinels?.primary()
      await old?.kill()
      await eventually('there is another primary', async () => (await sentinels?.primary()) !== old, {
        withinMs: 60_000,
        everyMs: 20,
      })
    },
  },
  { name: 'without Redis', redis: 'none' },
  { name: 'in batch mode', env: { BATCH_UPDATE_ENABLED: 'true', BATCH_UPDATE_INTERVAL: '2' } },
]

if (SERVER_ENGINE)
  for (const { name, trouble, hasSentinels = false, isLong = false, ...options } of CASES) {
    if (isLong && !process.env['SOAK']) continue
    test(`wallet and key buy what they can pay and no more: ${name}`, async () => {
      const sentinels = hasSentinels ? await startSentinelRedis() : undefined
      const cluster = await openCluster({ ...options, env: { ...options.env, ...sentinels?.env } })
      // Once: a group of Sentinels takes half a minute until it can do the next.
      let fault = trouble
      try {
        const { admin, upstream, nodes } = cluster
        await admin.options({ ModelPrice: { [MODEL]: PRICE_DOLLAR }, RetryTimes: 0 })
        await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [MODEL] })
        const wallet = await admin.user(AFFORDABLE * PRICE + REST)
        const rich = await admin.user(CALLS * PRICE * 10)
        const subjects = {
          wallet: await admin.apiKey(wallet),
          key: await admin.apiKey(rich, { quota: AFFORDABLE * PRICE + REST }),
        }
        // Without Redis a new channel takes a moment to every node.
        for (const { url } of nodes)
          await eventually('every node knows the model', async () =>
            (await modelsOf(url, subjects.key)).includes(MODEL),
          )
        for (const [subject, key] of Object.entries(subjects)) {
          const asked = Array.from({ length: CALLS }, (_, n) =>
            chatUntilDecided(nodes[n % nodes.length]?.url ?? '', key, MODEL),
          )
          const troubled = fault?.(cluster, sentinels)
          if (sentinels) fault = undefined
          const statuses = await Promise.all(asked)
          await troubled
          cluster.redisProxy?.admit()
          const count = (status: number) => statuses.filter((each) => each === status).length
          expect({ subject, ok: count(200), refused: count(403) }).toEqual({
            subject,
            ok: AFFORDABLE,
            refused: CALLS - AFFORDABLE,
          })
        }
        const report = await cluster.stop({ upstream: upstream.ledger().map((line) => line.requestId) })
        expect(report.unlogged).toEqual([])
        expect(report.logRows).toBe(AFFORDABLE * 2)
      } finally {
        await cluster.remove()
        await sentinels?.remove()
      }
    }, 120_000)
  }

async function flushAll(url: string): Promise<void> {
  const client = new Bun.RedisClient(url)
  for (let n = 0; n < 20; n += 1) {
    await client.send('FLUSHALL', [])
    await Bun.sleep(20)
  }
  client.close()
}
