/**
 * The health of channels is one view of three nodes: an upstream that fails is left alone by all of them, tried out by one
 * call at a time, told of once; a flapping one flaps no more; keys of a channel take fair turns on each node.
 */
import { expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import type { MadeKey } from '../support/admin-client.ts'
import { type Cluster, openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { startUpstream, type Upstream } from '../support/upstream.ts'

const MODEL = 'asked-for'
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
  ask(node: number): Promise<number>
  hits(): number
}

const withWorld = async (redis: 'own' | 'none', work: (world: World) => Promise<void>): Promise<void> => {
  const cluster = await openCluster({ redis })
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
  try {
    const { admin, nodes } = cluster
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
    const ask = async (node: number): Promise<number> => {
      const reply = await fetch(`${nodes[node]?.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key.key}` },
        body: JSON.stringify({ model: MODEL, messages: [{ role: 'user', content: 'hi' }] }),
      })
      await reply.arrayBuffer()
      return reply.status
    }
    let marks = 0
    const set = async (options: Readonly<Record<string, unknown>>): Promise<void> => {
      const mark = `options ${++marks}`
      await admin.options({ ...options, Footer: mark })
      await eventually('every node has the options', async () => {
        const replies = await Promise.all(nodes.map(({ url }) => fetch(`${url}/api/status`)))
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
    await work({ ...cluster, key, scripted, sick, told, set, ask, hits })
    await cluster.stop({ granted: admin.granted })
  } catch (error) {
    for (const node of cluster.nodes) console.log(await node.output())
    throw error
  } finally {
    await cluster.remove()
    await scripted.stop()
    await catcher.stop(true)
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
    test(
      `an upstream that fails is left alone by all nodes and tried by one call at a time, Redis: ${redis}`,
      () =>
        withWorld(redis, async (world) => {
          const { admin, ask, hits, nodes, scripted, set, sick, told } = world

          // A third of failures is within what retries are for.
          let asked = 0
          scripted.on('sick', () => (asked++ % 10 < 3 ? { status: 500 } : {}))
          for (let n = 0; n < 60; n++) expect(await ask(n % 3)).toBe(200)
          expect(await rowOf(world)).toBeUndefined()

          // All of them, seen by one node alone.
          await recovered(world)
          scripted.on('sick', { status: 500 })
          await eventually('the channel is left alone', async () => (await ask(0)) === 200 && (await rowOf(world)))
          const sinceMs = performance.now()
          const fromOthers = hits()
          let lateMs = 0
          let last = hits()
          for (let n = 0; n < 40; n++) {
            for (const node of [1, 2]) expect(await ask(node)).toBe(200)
            if (hits() !== last) lateMs = performance.now() - sinceMs
            last = hits()
            await Bun.sleep(40)
          }
          console.log(
            `Redis: ${redis}: the others' last call to a failing upstream began within ${Math.round(lateMs)} ms, after ${hits() - fromOthers} failures of theirs`,
          )
          // Fewer than each would have needed to find out by itself.
          expect(hits() - fromOthers).toBeLessThan(10)
          await eventually('it is told of', () => told.length > 0)

          // Half open: many callers, and never two of their calls at the upstream.
          await recovered(world)
          await set({ [SECONDS.coolDown]: 0.3, [SECONDS.most]: 0.3 })
          scripted.on('sick', { status: 500, delayMs: 120 })
          const crowd = traffic(world, 3)
          await eventually('the channel is left alone', async () => (await rowOf(world))?.state === 'open')
          // What was under way when it happened ends before the first probe may begin.
          const probedFrom = Date.now() + 250
          await eventually('it is tried again and again', () => probes(scripted, probedFrom).length >= 5, {
            withinMs: 20_000,
          })
          scripted.on('sick', { delayMs: 120 })
          await eventually('it serves again', async () => (await rowOf(world))?.state === 'closed', {
            withinMs: 20_000,
          })
          expect((await crowd.stop()).filter((status) => status !== 200)).toEqual([])
          expect(overlaps(probes(scripted, probedFrom))).toBe(0)

          // Up and down many times a second: each time alone for longer, never for less than the least.
          await recovered(world)
          await set({ [SECONDS.coolDown]: 0.4, [SECONDS.most]: 1.6 })
          scripted.on('sick', () => (Math.floor(Date.now() / 150) % 2 === 0 ? { status: 500 } : {}))
          const flapping = traffic(world, 2)
          const lengths = new Map<number, number>()
          await eventually(
            'it is left alone for the most',
            async () => {
              const row = await rowOf(world)
              if (row?.state === 'open') lengths.set(row.version, row.untilMs - row.changedAtMs)
              return [...lengths.values()].includes(1_600)
            },
            { withinMs: 30_000 },
          )
          expect((await flapping.stop()).filter((status) => status !== 200)).toEqual([])
          const seen = [...lengths.values()]
          console.log(`Redis: ${redis}: a flapping upstream was left alone for ${seen.join(', ')} ms`)
          expect(seen).toEqual([...seen].sort((a, b) => a - b))
          expect(Math.min(...seen)).toBeGreaterThanOrEqual(400)

          // A fault of the account: disabled, once, by whichever of the nodes.
          await recovered(world)
          await set(LONG)
          expect(told.map(({ key }) => key)).toEqual([`channel:${sick}:cooling`])
          scripted.on('sick', { status: 401, delayMs: 50 })
          await eventually(
            'the channel is disabled',
            async () => {
              await Promise.all(nodes.flatMap((_, node) => [ask(node), ask(node), ask(node)]))
              return (await admin.call<{ status: number }>('GET', `/api/channel/${sick}`)).status === 3
            },
            { withinMs: 20_000 },
          )
          await eventually('it is told of', () => told.length > 1)
          // By hand it stays, whatever the upstream says, and however often.
          await admin.call('POST', `/api/channel/${sick}/status`, { status: 2 })
          const before = hits()
          for (let n = 0; n < 30; n++) expect(await ask(n % 3)).toBe(200)
          expect(hits() - before).toBeLessThan(10)
          expect((await admin.call<{ status: number }>('GET', `/api/channel/${sick}`)).status).toBe(2)
          expect(told.map(({ kind }) => kind)).toEqual(['channel-disabled', 'channel-disabled'])
        }),
      180_000,
    )

if (SERVER_ENGINE)
  test('keys of a channel take turns, each as often as any other on a node, over its workers', async () => {
    const cluster = await openCluster({ redis: 'none', envOf: (node) => ({ WORKERS: node === 0 ? '1' : '2' }) })
    const scripted = startUpstream()
    try {
      const { admin, nodes } = cluster
      const key = await admin.apiKey(await admin.user(1_000_000_000))
      await admin.options({ ModelRatio: { [MODEL]: 1 } })
      await admin.call('POST', '/api/channel/', {
        mode: 'multi_to_single',
        multi_key_mode: 'polling',
        channel: {
          name: 'many',
          type: 1,
          key: 'k-0\nk-1\nk-2\nk-3\nk-4',
          base_url: scripted.url,
          models: MODEL,
          group: 'default',
        },
      })
      const ask = async (node: number): Promise<number> => {
        const reply = await fetch(`${nodes[node]?.url}/v1/chat/completions`, {
          method: 'POST',
          // A connection of its own meets any of the workers.
          headers: { authorization: `Bearer ${key.key}`, connection: 'close' },
          body: JSON.stringify({ model: MODEL, user: `node-${node}`, messages: [{ role: 'user', content: 'hi' }] }),
        })
        await reply.arrayBuffer()
        return reply.status
      }
      for (const [node] of nodes.entries())
        await eventually('the node serves', async () => (await ask(node)) === 200, { withinMs: 20_000 })
      for (let round = 0; round < 12; round++)
        await Promise.all(nodes.flatMap((_, node) => Array.from({ length: 4 }, () => ask(node))))
      for (const [node] of nodes.entries()) {
        const keys = scripted.requests
          .filter((request) => request.json()['user'] === `node-${node}`)
          .map(({ headers }) => headers['authorization'])
        const counts = [0, 1, 2, 3, 4].map((index) => keys.filter((one) => one === `Bearer k-${index}`).length)
        console.log(`node ${node}: calls per key ${counts.join(', ')}`)
        expect(counts.reduce((sum, count) => sum + count, 0)).toBeGreaterThanOrEqual(48)
        expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1)
      }
      await cluster.stop({ granted: admin.granted })
    } finally {
      await cluster.remove()
      await scripted.stop()
    }
  }, 120_000)

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
