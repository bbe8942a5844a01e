/**
 * Nothing grows: whatever callers, operators and a flapping Redis do, what a node keeps for them goes when they have gone.
 * And a node that has more than it can serve says so, judged by its own processes.
 */
import { expect, test } from 'bun:test'
import { readdir, readFile } from 'node:fs/promises'
import { createAdminClient, type MadeKey } from '../support/admin-client.ts'
import { expectAudit } from '../support/auditor.ts'
import { type Cluster, openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { createNode, type RealNode } from '../support/node.ts'
import { startUpstream } from '../support/upstream.ts'

const isSoak = Boolean(process.env['SOAK'])
const LEASE_SEC = 2
const ROUNDS = isSoak ? 150 : 8
/** Pools fill and code is compiled in these. */
const WARM_UP = isSoak ? 20 : 2
const CALLERS = isSoak ? 40 : 10
const CALLS_EACH = isSoak ? 12 : 6
const CROWD = isSoak ? 20 : 6
const LONG_STREAMS = 4
const PATIENT = { withinMs: 120_000, everyMs: 250 } as const

if (SERVER_ENGINE) {
  test(
    'callers that come and go, leave, stall, fail and are limited, edits and a flapping Redis leave nothing behind',
    async () => {
      const cluster = await openCluster({
        slaves: 1,
        env: { LEDGER_LEASE: String(LEASE_SEC), SYNC_FREQUENCY: '1', ERROR_LOG_ENABLED: 'true' },
      })
      try {
        const crowd = await createCrowd(cluster)
        const before = await sampleOf(cluster)
        const samples: Sample[] = []
        for (let round = 0; round < ROUNDS; round += 1) {
          await crowd.round(round)
          samples.push(await sampleOf(cluster))
        }
        const rest = samples.slice(WARM_UP)
        const [first, second] = [rest.slice(0, rest.length >> 1), rest.slice(rest.length >> 1)]
        const flat = (figure: 'files' | 'megabytes') => ({
          first: median(first.map((sample) => sample[figure])),
          second: median(second.map((sample) => sample[figure])),
        })
        const [files, megabytes] = [flat('files'), flat('megabytes')]
        console.log(
          `${ROUNDS} rounds, ${crowd.statuses()}; of two nodes, first half against second: open files ${files.first} → ${files.second}, ` +
            `resident ${megabytes.first} → ${megabytes.second} MB; most kept: ${JSON.stringify(mostOf(samples))}`,
        )
        // Pools of connections fill for a while; what leaks with each call or each round would be hundreds.
        expect(files.second).toBeLessThanOrEqual(files.first + 40)
        expect(megabytes.second).toBeLessThanOrEqual(megabytes.first * 1.25 + 30)
        expect(await endlessKeys(cluster)).toEqual([])

        await crowd.leave()
        for (const [index, node] of cluster.nodes.entries()) {
          const last = await eventually(
            `what node ${index} kept for callers and channels is gone`,
            async () => {
              const now = await figuresOf(node)
              const isGone =
                now.accounts <= 2 && now.apiKeys === 0 && now.channelHealth <= 2 && now.running === 0 && now.holds === 0
              // Charges stay on the disk for ten leases, in case a database loses them.
              const isSmall = !isSoak || now.outboxBytes <= before.outboxBytes + 256 * 1024
              if (!isGone || !isSmall || now.held > 0 || now.unflushed > 0) throw new Error(JSON.stringify(now))
              return now
            },
            PATIENT,
          )
          console.log(`node ${index} in the end: ${JSON.stringify(last)}`)
        }
        await eventually(
          'no more connections are open than pools keep',
          async () => (await sampleOf(cluster)).files <= before.files + 60,
          PATIENT,
        )
        await cluster.stop()
      } catch (error) {
        for (const node of cluster.nodes) console.log(await node.output())
        throw error
      } finally {
        await cluster.remove()
      }
    },
    isSoak ? 3_600_000 : 240_000,
  )
}

const engine = SERVER_ENGINE
if (engine)
  test('a node that is overloaded refuses calls in both dialects, before anybody pays; streams under way go on', async () => {
    const testDb = await engine.freshDb({ isEmpty: true })
    const upstream = startUpstream()
    const node = await createNode({ env: { ...testDb.env, WORKERS: '2' } })
    try {
      node.start()
      await node.ready(60_000)
      const admin = createAdminClient(() => node.url)
      await admin.setUp()
      await admin.options({ ModelRatio: { short: 1, 'long?chunks=100000&pace=20': 1 } })
      await admin.channel({ name: 'all', baseUrl: upstream.url, models: ['short', 'long?chunks=100000&pace=20'] })
      const key = await admin.apiKey(await admin.user(100_000_000))
      const under = await call(node, key.key, 'long?chunks=100000&pace=20', { isStream: true })
      expect(under.status).toBe(200)
      const reader = under.body!.getReader()
      await reader.read()

      // Any work at all is too much from now on.
      await admin.options({ 'performance_setting.monitor_cpu_threshold': 1 })
      const refusal = await eventually(
        'the node refuses',
        async () => {
          const replies = await Promise.all(Array.from({ length: 8 }, () => call(node, key.key, 'short')))
          const refused = replies.find(({ status }) => status === 503)
          for (const reply of replies) if (reply !== refused) await reply.body?.cancel()
          return refused
        },
        { withinMs: 60_000, everyMs: 0 },
      )
      expect(refusal.headers.get('retry-after')).toBe('5')
      expect(await refusal.json()).toMatchObject({ error: { code: 'system_cpu_overloaded' } })
      const { value } = await reader.read()
      expect(new TextDecoder().decode(value)).toContain('data: ')
      expect(await (await fetch(`${node.url}/metrics`)).text()).toMatch(
        /calls_total\{protocol="openai-chat",operation="chat",ending="refused",code="system_cpu_overloaded"\} [1-9]/,
      )
      const stats = await admin.call<Stats>('GET', '/api/performance/stats')
      expect(stats.config).toMatchObject({ monitor_enabled: true, monitor_cpu_threshold: 1 })
      expect(stats.memory_stats.sys).toBeGreaterThan(2 * 50_000_000)
      expect(stats.load.memory_percent).toBeGreaterThan(0)

      await eventually(
        'a Claude client hears it in its dialect',
        async () => {
          const reply = await fetch(`${node.url}/v1/messages`, {
            method: 'POST',
            headers: { 'x-api-key': key.key, 'content-type': 'application/json' },
            body: JSON.stringify({ model: 'short', max_tokens: 9, messages: [{ role: 'user', content: 'hi' }] }),
          })
          const said = (await reply.json()) as { readonly type: string; readonly error?: { readonly type: string } }
          return reply.status === 503 && said.type === 'error' && said.error?.type === 'overloaded_error'
        },
        { withinMs: 60_000, everyMs: 0 },
      )

      await admin.options({ 'performance_setting.monitor_enabled': 'false' })
      await eventually('switched off, calls are served at once', async () => {
        const replies = await Promise.all(Array.from({ length: 4 }, () => call(node, key.key, 'short')))
        for (const reply of replies) await reply.body?.cancel()
        return replies.every(({ status }) => status === 200)
      })
      await reader.cancel()
      expect(await node.stop()).toBe(0)
      await expectAudit(testDb.db, testDb.db, { granted: admin.granted })
    } catch (error) {
      console.log(await node.output())
      throw error
    } finally {
      await node.remove()
      await upstream.stop()
      await testDb.close()
    }
  }, 240_000)

interface Stats {
  readonly config: Readonly<Record<string, unknown>>
  readonly memory_stats: { readonly sys: number }
  readonly load: { readonly memory_percent: number }
}

/** Everybody who can make a node keep something, each round anew. */
async function createCrowd({ nodes, admin, upstream, redisProxy }: Cluster) {
  const counts = new Map<number, number>()
  const user = await admin.user(1_000_000_000)
  const endless = 'endless?endless&pace=50'
  await admin.options({ ModelRatio: { [endless]: 0.001 } })
  await admin.channel({ name: 'endless', baseUrl: upstream.url, models: [endless] })
  const longKey = await admin.apiKey(user)
  const leaving = new AbortController()
  const at = (index: number): RealNode => nodes[index % nodes.length]!
  const count = (reply: Response): Response => {
    counts.set(reply.status, (counts.get(reply.status) ?? 0) + 1)
    return reply
  }
  const whole = async (index: number, key: string, model: string): Promise<void> => {
    await count(await call(at(index), key, model)).bytes()
  }
  /** Streams to readers that are slow to the end of the node's own patience: they read only to see each stream alive. */
  const long = await Promise.all(
    Array.from({ length: LONG_STREAMS }, async (_, index) => {
      const reply = await call(at(index), longKey.key, endless, { isStream: true, signal: leaving.signal })
      expect(reply.status).toBe(200)
      return reply.body!.getReader()
    }),
  )

  return {
    statuses: () => [...counts].map(([status, times]) => `${times} × ${status}`).join(', '),
    async round(round: number): Promise<void> {
      const [good, slow, bad] = [`good-${round}`, `slow-${round}?chunks=2000&size=400000`, `bad-${round}?status=500`]
      await admin.options({ ModelRatio: { [endless]: 0.001, [good]: 1, [slow]: 0.001, [bad]: 1 } })
      const channels = await Promise.all([
        admin.channel({ name: `good ${round}`, baseUrl: upstream.url, models: [good, slow] }),
        admin.channel({ name: `bad ${round}`, baseUrl: upstream.url, models: [bad] }),
      ])
      const keys: MadeKey[] = []
      for (let n = 0; n < CALLERS; n += 1) keys.push(await admin.apiKey(user, { quota: 1_000_000 }))
      const limited = await admin.apiKey(user, { fields: { rpm_limit: 1 } })
      if (round % 2 === 1) redisProxy?.refuse()

      const busy = keys.flatMap((key, index) =>
        Array.from({ length: CALLS_EACH }, (_, n) => whole(index + n, key.key, good)),
      )
      const others = Array.from({ length: CROWD }, async (_, index) => {
        const { key } = keys[index % keys.length]!
        await whole(index, key, bad)
        await whole(index, limited.key, good)
        await whole(index, key, `unknown-${crypto.randomUUID()}`)
        await whole(index, `sk-${crypto.randomUUID()}`, good)
        // One leaves after the first bytes; one does not read, until the round is over.
        const leaver = await call(at(index), key, slow, { isStream: true })
        await leaver.body!.getReader().cancel()
        return count(await call(at(index + 1), key, slow, { isStream: true }))
      })
      const stalled = await Promise.all(others)
      await Promise.all(busy)
      for (const reader of long) await reader.read()
      for (const reply of stalled) await reply.body?.cancel()
      redisProxy?.admit()
      for (const channel of channels) await admin.call('DELETE', `/api/channel/${channel}`)
      for (const node of nodes)
        await eventually(
          'only the long streams are open',
          async () => (await figuresOf(node)).running <= LONG_STREAMS,
          {
            withinMs: 60_000,
            everyMs: 50,
          },
        )
    },
    async leave(): Promise<void> {
      leaving.abort()
      await Promise.all(long.map((reader) => reader.cancel().catch(() => undefined)))
    },
  }
}

const call = (
  { url }: RealNode,
  key: string,
  model: string,
  { isStream = false, signal }: { readonly isStream?: boolean; readonly signal?: AbortSignal } = {},
): Promise<Response> =>
  fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    keepalive: false,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model, stream: isStream, messages: [{ role: 'user', content: 'hello' }] }),
    ...(signal && { signal }),
  })

interface Figures {
  readonly accounts: number
  readonly apiKeys: number
  readonly channelHealth: number
  readonly running: number
  readonly holds: number
  readonly held: number
  readonly unflushed: number
  readonly outboxBytes: number
}

async function figuresOf({ url }: RealNode): Promise<Figures> {
  const text = await (await fetch(`${url}/metrics`, { keepalive: false })).text()
  const figure = (name: string): number => {
    const line = text.split('\n').find((each) => each.startsWith(`headgate_${name} `))
    if (!line) throw new Error(`no figure ${name}`)
    return Number(line.slice(line.lastIndexOf(' ')))
  }
  return {
    accounts: figure('kept_entries{of="accounts"}'),
    apiKeys: figure('kept_entries{of="api_keys"}'),
    channelHealth: figure('kept_entries{of="channel_health"}'),
    running: figure('calls_running'),
    holds: figure('open_holds'),
    held: figure('held_quota'),
    unflushed: figure('outbox_charges{part="main"}') + figure('outbox_charges{part="log"}'),
    outboxBytes: figure('outbox_bytes'),
  }
}

/** Of all nodes together, after they have collected what they could. */
interface Sample extends Pick<Figures, 'accounts' | 'apiKeys' | 'channelHealth' | 'outboxBytes'> {
  readonly files: number
  readonly megabytes: number
}

async function sampleOf({ nodes }: Cluster): Promise<Sample> {
  const each = await Promise.all(
    nodes.map(async (node) => {
      const [pid] = await node.workerPids()
      const figures = await figuresOf(node)
      const status = await readFile(`/proc/${pid}/status`, 'utf8')
      return {
        ...figures,
        files: (await readdir(`/proc/${pid}/fd`)).length,
        megabytes: Math.round(Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024),
      }
    }),
  )
  const sum = (value: (one: (typeof each)[number]) => number): number => each.reduce((n, one) => n + value(one), 0)
  return {
    accounts: sum(({ accounts }) => accounts),
    apiKeys: sum(({ apiKeys }) => apiKeys),
    channelHealth: sum(({ channelHealth }) => channelHealth),
    outboxBytes: sum(({ outboxBytes }) => outboxBytes),
    files: sum(({ files }) => files),
    megabytes: sum(({ megabytes }) => megabytes),
  }
}

/** Keys of Redis that would stay there for ever. */
async function endlessKeys({ redis }: Cluster): Promise<readonly string[]> {
  const client = new Bun.RedisClient(redis?.url ?? '')
  try {
    const keys = (await client.send('KEYS', ['*'])) as readonly string[]
    const left = await Promise.all(keys.map(async (key) => ({ key, ms: Number(await client.send('PTTL', [key])) })))
    expect(keys.length).toBeGreaterThan(0)
    // -2: it has just expired.
    return left.filter(({ ms }) => ms === -1).map(({ key }) => key)
  } finally {
    client.close()
  }
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN

const mostOf = (samples: readonly Sample[]) => ({
  accounts: Math.max(...samples.map(({ accounts }) => accounts)),
  apiKeys: Math.max(...samples.map(({ apiKeys }) => apiKeys)),
  channelHealth: Math.max(...samples.map(({ channelHealth }) => channelHealth)),
  outboxBytes: Math.max(...samples.map(({ outboxBytes }) => outboxBytes)),
})
