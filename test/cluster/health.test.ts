/**
 * The health of channels is one view of three nodes: an upstream that fails is left alone by all of them, tried out by one
 * call at a time, told of once; a flapping one flaps no more; keys of a channel take fair turns on each node.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { seeded } from '../protocol/random.ts'
import type { MadeKey } from '../support/admin-client.ts'
import { type Cluster, openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { startUpstream, type Upstream } from '../support/upstream.ts'

const SEED = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))
const MODEL = 'asked-for'
const TURNS = 'in-turns'
const KEYS = ['k-0', 'k-1', 'k-2', 'k-3', 'k-4']
const SECONDS = {
  coolDown: 'channel_health_setting.cool_down_seconds',
  most: 'channel_health_setting.max_cool_down_seconds',
}
const LONG = { [SECONDS.coolDown]: 600, [SECONDS.most]: 600 }

interface Status {
  readonly data: { readonly footer_html: string }
}

interface World extends Cluster {
  readonly key: MadeKey
  readonly scripted: Upstream
  /** Ids of the channel that fails and of the one that serves. */
  readonly sick: number
  readonly told: readonly { readonly kind: string; readonly key: string }[]
  /** Sets options; every node has them. */
  set(options: Readonly<Record<string, unknown>>): Promise<void>
  /** Calls one node. @returns the status */
  ask(node: number, model?: string): Promise<number>
  hits(): number
}

const openWorld = async (redis: 'own' | 'none'): Promise<World> => {
  // Without Redis the workers of a node have a bus of their own, and the nodes none.
  const cluster = await openCluster({
    redis,
    envOf: (node) => ({ WORKERS: node === 0 || redis === 'own' ? '1' : '2' }),
  })
  const scripted = startUpstream()
  const told: { kind: string; key: string }[] = []
  const catcher = Bun.serve({
    port: 0,
    hostname: '127.0.0.1',
    async fetch(request) {
      told.push((await request.json()) as { kind: string; key: string })
      return new Response()
    },
  })
  const { admin, nodes } = cluster
  const remove = async (): Promise<void> => {
    await cluster.remove()
    await scripted.stop()
    await catcher.stop(true)
  }
  try {
    const key = await admin.apiKey(await admin.user(1_000_000_000))
    await admin.options({
      ...LONG,
      ModelRatio: { [MODEL]: 1 },
      RetryTimes: 1,
      AutomaticDisableChannelEnabled: 'true',
      'alert_setting.webhook_url': `http://127.0.0.1:${catcher.port}/`,
    })
    const channel = (name: string) =>
      admin.channel({ name, baseUrl: scripted.url, models: [MODEL], modelMapping: { [MODEL]: name } })
    const sick = await channel('sick')
    await channel('well')
    const ask = async (node: number, model = MODEL): Promise<number> => {
      const reply = await fetch(`${nodes[node]?.url}/v1/chat/completions`, {
        method: 'POST',
        // A connection of its own meets any of the workers.
        headers: { authorization: `Bearer ${key.key}`, connection: 'close' },
        body: JSON.stringify({ model, user: `node-${node}`, messages: [{ role: 'user', content: 'hi' }] }),
      })
      await reply.arrayBuffer()
      return reply.status
    }
    let marks = 0
    const set = async (options: Readonly<Record<string, unknown>>): Promise<void> => {
      const mark = `options ${++marks}`
      await admin.options({ ...options, Footer: mark })
      await eventually('every worker has the options', async () => {
        const urls = nodes.flatMap(({ url }) => Array.from({ length: 12 }, () => url))
        const replies = await Promise.all(urls.map((url) => fetch(`${url}/api/status`, { keepalive: false })))
        const shown = await Promise.all(replies.map((reply) => reply.json() as Promise<Status>))
        return shown.every(({ data }) => data.footer_html === mark)
      })
    }
    const hits = (): number => scripted.requests.filter(({ model }) => model === 'sick').length
    await eventually(
      'every node serves by both channels',
      async () => {
        for (const [node] of nodes.entries()) if ((await ask(node)) !== 200) return false
        return hits() > 2
      },
      { withinMs: 20_000 },
    )
    // A second worker of a node may be late: it has the channels when it has what was changed after them.
    await cluster.settled(redis === 'own' ? 3 : 5)
    await set({})
    return { ...cluster, key, scripted, sick, told, set, ask, hits, remove }
  } catch (error) {
    await remove()
    throw error
  }
}

const rowOf = async ({ testDb, sick }: World) => {
  const { channelBreakers } = testDb.db.tables
  return (
    await testDb.db
      .select()
      .from(channelBreakers)
      .where(eq(channelBreakers.subject, `${sick}`))
  )[0]
}
/** Enabling it by hand forgets what was held against it; every node knows. */
const recovered = async ({ admin, ask, hits, nodes, sick, scripted }: World): Promise<void> => {
  scripted.on('sick', {})
  await admin.call('POST', `/api/channel/${sick}/status`, { status: 1 })
  for (const [node] of nodes.entries()) {
    const before = hits()
    await eventually('the channel serves again', async () => (await ask(node)) === 200 && hits() > before)
  }
}
/** One call at a time on each node, until told to stop. @returns statuses */
const traffic = (world: World, inParallel: number) => {
  let isOver = false
  const statuses: number[] = []
  const call = async (node: number): Promise<void> => {
    while (!isOver) {
      statuses.push(await world.ask(node))
      await Bun.sleep(10)
    }
  }
  const callers = world.nodes.flatMap((_, node) => Array.from({ length: inParallel }, () => call(node)))
  // A failure is told when it is asked for.
  for (const caller of callers) caller.catch(() => {})
  return {
    statuses,
    stop: async () => {
      isOver = true
      await Promise.all(callers)
      return statuses
    },
  }
}

if (SERVER_ENGINE)
  for (const redis of ['own', 'none'] as const)
    describe(`Redis: ${redis}`, () => {
      let world: World
      beforeAll(async () => {
        world = await openWorld(redis)
      }, 120_000)
      afterAll(async () => {
        try {
          await world.stop({ granted: world.admin.granted })
        } finally {
          await world.remove()
        }
      }, 120_000)
      beforeEach(() => recovered(world), 60_000)

      test('a third of failures is within what retries are for', async () => {
        const { ask, scripted } = world
        for (let n = 0; n < 24; n++) expect(await ask(n % 3)).toBe(200)
        let asked = 0
        scripted.on('sick', () => (asked++ % 10 < 3 ? { status: 500 } : {}))
        for (let n = 0; n < 60; n++) expect(await ask(n % 3)).toBe(200)
        expect((await rowOf(world))?.state).toBe('closed')
      }, 60_000)

      test('an upstream that one node has seen fail is left alone by all', async () => {
        const { ask, hits, scripted, sick, told } = world
        scripted.on('sick', { status: 500 })
        await eventually(
          'the channel is left alone',
          async () => (await ask(0)) === 200 && (await rowOf(world))?.state === 'open',
        )
        // From now on nobody could find out by trying.
        scripted.on('sick', {})
        const sinceMs = performance.now()
        let before = hits()
        await eventually(
          'no node goes there any more',
          async () => {
            before = hits()
            for (let n = 0; n < 10; n++) for (const node of [0, 1, 2]) expect(await ask(node)).toBe(200)
            return hits() === before
          },
          { withinMs: 20_000 },
        )
        const last = Math.max(...scripted.ledger.filter(({ model }) => model === 'sick').map(({ atMs }) => atMs))
        const lateMs = Math.max(0, Math.round(last - (performance.timeOrigin + sinceMs)))
        console.log(`Redis: ${redis}: the last call to a failing upstream ended ${lateMs} ms after one node knew`)
        await eventually('it is told of', () => told.length > 0)
        expect(told.map(({ key }) => key)).toEqual([`channel:${sick}:cooling`])
      }, 60_000)

      test('half open, there are never two calls at the upstream, however many callers', async () => {
        const { scripted, set } = world
        await set({ [SECONDS.coolDown]: 0.3, [SECONDS.most]: 0.3 })
        scripted.on('sick', { status: 500, delayMs: 120 })
        const crowd = traffic(world, 3)
        // By now all have heard of it, though some only by looking at the database; what was under way before has ended.
        await eventually('it has been tried in vain', async () => ((await rowOf(world))?.level ?? 0) >= 2, {
          withinMs: 20_000,
        })
        const probedFrom = Date.now()
        await eventually('it is tried again and again', () => probes(scripted, probedFrom).length >= 3, {
          withinMs: 20_000,
        })
        scripted.on('sick', { delayMs: 120 })
        await eventually('it serves again', async () => (await rowOf(world))?.state === 'closed', { withinMs: 20_000 })
        expect((await crowd.stop()).filter((status) => status !== 200)).toEqual([])
        expect(overlaps(probes(scripted, probedFrom))).toBe(0)
      }, 60_000)

      test('one that flaps is left alone for longer each time, and never for less than the least', async () => {
        const { scripted, set } = world
        const random = seeded(SEED)
        console.log(`a flapping upstream: SEED=${SEED}`)
        await set({ [SECONDS.coolDown]: 0.4, [SECONDS.most]: 1.6 })
        // Up and down at random: a steady beat could be in step with the probes for ever.
        scripted.on('sick', () => (random.chance(0.7) ? { status: 500 } : {}))
        const crowd = traffic(world, 2)
        const lengths = new Map<number, number>()
        await eventually(
          'it is left alone for the most',
          async () => {
            const row = await rowOf(world)
            if (row?.state === 'open') lengths.set(row.version, row.untilMs - row.changedAtMs)
            return [...lengths.values()].includes(1_600)
          },
          { withinMs: 90_000 },
        )
        expect((await crowd.stop()).filter((status) => status !== 200)).toEqual([])
        const seen = [...lengths.values()]
        console.log(`Redis: ${redis}: a flapping upstream was left alone for ${seen.join(', ')} ms`)
        expect(seen).toEqual([...seen].sort((a, b) => a - b))
        expect(Math.min(...seen)).toBeGreaterThanOrEqual(400)
      }, 120_000)

      test('a fault of the account disables the channel, told of once; disabled by hand it stays so', async () => {
        const { admin, ask, hits, nodes, scripted, set, sick, told } = world
        const status = async () => (await admin.call<{ status: number }>('GET', `/api/channel/${sick}`)).status
        await set(LONG)
        const toldBefore = told.length
        scripted.on('sick', { status: 401, delayMs: 50 })
        await eventually(
          'the channel is disabled',
          async () => {
            await Promise.all(nodes.flatMap((_, node) => [ask(node), ask(node), ask(node)]))
            return (await status()) === 3
          },
          { withinMs: 20_000 },
        )
        await eventually('it is told of', () => told.length > toldBefore)
        await admin.call('POST', `/api/channel/${sick}/status`, { status: 2 })
        const before = hits()
        for (let n = 0; n < 30; n++) expect(await ask(n % 3)).toBe(200)
        expect(hits() - before).toBeLessThan(10)
        expect(await status()).toBe(2)
        expect(told.slice(toldBefore).map(({ key }) => key.split('@')[0])).toEqual([`channel:${sick}`])
      }, 60_000)

      test('keys of a channel take turns: on each node each serves as often as any other, give or take one', async () => {
        const { admin, ask, nodes, scripted } = world
        await admin.options({ ModelRatio: { [MODEL]: 1, [TURNS]: 1 } })
        await admin.call('POST', '/api/channel/', {
          mode: 'multi_to_single',
          multi_key_mode: 'polling',
          channel: {
            ...{ name: TURNS, type: 1, models: TURNS, group: 'default' },
            ...{ key: KEYS.join('\n'), base_url: scripted.url },
          },
        })
        for (const [node] of nodes.entries())
          await eventually('every worker of the node serves', async () => {
            const statuses = await Promise.all(Array.from({ length: 8 }, () => ask(node, TURNS)))
            return statuses.every((one) => one === 200)
          })
        for (let round = 0; round < 12; round++)
          await Promise.all(nodes.flatMap((_, node) => Array.from({ length: 4 }, () => ask(node, TURNS))))
        for (const [node] of nodes.entries()) {
          const keys = scripted.requests
            .filter((request) => request.model === TURNS && request.json()['user'] === `node-${node}`)
            .map(({ headers }) => headers['authorization'])
          const counts = KEYS.map((key) => keys.filter((one) => one === `Bearer ${key}`).length)
          console.log(`Redis: ${redis}: node ${node}: calls per key ${counts.join(', ')}`)
          expect(keys.length).toBeGreaterThanOrEqual(48)
          expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1)
        }
      }, 60_000)
    })

/** Calls that failed at the upstream and began since. */
const probes = (scripted: Upstream, sinceMs: number) =>
  scripted.ledger.filter(
    ({ model, status, atMs, tookMs }) => model === 'sick' && status === 500 && atMs - tookMs >= sinceMs,
  )

/** How many began before another had ended; the upstream answers before the node has the answer. */
const overlaps = (calls: ReturnType<typeof probes>): number => {
  const inOrder = calls.map(({ atMs, tookMs }) => ({ from: atMs - tookMs, to: atMs })).sort((a, b) => a.from - b.from)
  return inOrder.filter(({ from }, index) => index > 0 && from < (inOrder[index - 1]?.to ?? 0)).length
}
