/**
 * All nodes have one view: a change is in force everywhere in a moment, a lost message is noticed, what was revoked stays
 * so, settings saved together are seen together, and a database that is away takes nothing from memory.
 */
import { expect, test } from 'bun:test'
import { seeded } from '../protocol/random.ts'
import { type AdminClient, createAdminClient, type MadeKey } from '../support/admin-client.ts'
import { chat, modelsOf } from '../support/chat.ts'
import { type Cluster, openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'

const SEED = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))
const EDITS = { own: process.env['SOAK'] ? 300 : 80, none: process.env['SOAK'] ? 300 : 10 }
/** Only messages and versions can carry a change in time. */
const NEVER = { SYNC_FREQUENCY: '86400' }
/** Far beyond what is promised; the measured figures are printed. */
const SLOW_MACHINE_MS = 10_000
const MODEL = 'shared'

const withCluster = async (
  options: Parameters<typeof openCluster>[0],
  work: (cluster: Cluster, anywhere: AdminClient) => Promise<void>,
): Promise<void> => {
  const cluster = await openCluster(options)
  try {
    // Each request meets the next node.
    let turn = 0
    const anywhere = createAdminClient(() => cluster.nodes[turn++ % cluster.nodes.length]?.url ?? '')
    await work(cluster, anywhere)
    await cluster.stop({ granted: new Map([...cluster.admin.granted, ...anywhere.granted]) })
  } finally {
    await cluster.remove()
  }
}

if (SERVER_ENGINE) {
  for (const redis of ['own', 'none'] as const)
    test(
      `an edit on any node is in force on every node, Redis: ${redis}`,
      () =>
        withCluster({ redis, env: NEVER }, async ({ nodes, upstream, redis: server }, anywhere) => {
          console.log(`edits: SEED=${SEED}`)
          const random = seeded(SEED)
          const user = await anywhere.user(1_000_000)
          const [probe, toggled] = [await anywhere.apiKey(user), await anywhere.apiKey(user)]
          const other = await anywhere.user(1_000_000)
          const othersKey = await anywhere.apiKey(other)
          // A model without a price is not listed.
          await anywhere.options({
            ModelRatio: Object.fromEntries(Array.from({ length: EDITS[redis] }, (_, n) => [`model-${n}`, 1])),
          })
          const channelId = await anywhere.channel({ name: 'chat', baseUrl: upstream.url, models: [MODEL] })
          let isOn = { key: true, user: true }
          const edits = {
            option: async (n: number) => {
              await anywhere.options({ Footer: `edit ${n}` })
              return async (url: string) => (await statusOf(url)).footer_html === `edit ${n}`
            },
            channel: async (n: number) => {
              await anywhere.call('PUT', '/api/channel/', { id: channelId, models: `${MODEL},model-${n}` })
              return async (url: string) => (await modelsOf(url, probe)).includes(`model-${n}`)
            },
            key: async () => {
              isOn = { ...isOn, key: !isOn.key }
              const wanted = isOn.key ? 200 : 401
              await anywhere.call(
                'PUT',
                '/api/token/?status_only=true',
                { id: toggled.id, status: isOn.key ? 1 : 2 },
                user,
              )
              return async (url: string) => (await ask(url, toggled)) === wanted
            },
            user: async () => {
              isOn = { ...isOn, user: !isOn.user }
              const wanted = isOn.user ? 200 : 403
              const action = isOn.user ? 'enable' : 'disable'
              await anywhere.call('POST', '/api/user/manage', { id: other.id, action })
              return async (url: string) => (await ask(url, othersKey)) === wanted
            },
          }
          const tookMs: number[] = []
          for (let n = 0; n < EDITS[redis]; n += 1) {
            if (n === Math.floor(EDITS[redis] / 2) && server) await killSubscribers(server.url)
            const kind = random.pick(Object.keys(edits) as (keyof typeof edits)[])
            const isInForce = await edits[kind](n)
            const sinceMs = performance.now()
            await Promise.all(
              nodes.map(async ({ url }) => {
                await eventually(`${kind} ${n} is in force`, () => isInForce(url), {
                  withinMs: SLOW_MACHINE_MS,
                  everyMs: 5,
                })
                tookMs.push(performance.now() - sinceMs)
              }),
            )
          }
          tookMs.sort((a, b) => a - b)
          const part = (share: number) => Math.round(tookMs[Math.floor((tookMs.length - 1) * share)] ?? 0)
          console.log(
            `${EDITS[redis]} edits, Redis: ${redis}: in force on a node after ${part(0.5)} ms (p50), ${part(0.99)} ms (p99)`,
          )
        }),
      300_000,
    )

  test(
    'a key or user that was revoked is accepted nowhere a second later, whatever was being read meanwhile',
    () =>
      withCluster({ env: NEVER }, async ({ nodes, databaseProxy }, anywhere) => {
        const owners = await Promise.all(Array.from({ length: 4 }, () => anywhere.user(1_000)))
        const [first, second, third, fourth] = owners
        const [keyOff, keyGone, userOff, userGone] = await Promise.all(owners.map((user) => anywhere.apiKey(user)))
        if (!third || !fourth || !keyOff || !keyGone || !userOff || !userGone) throw new Error('no keys')
        const keys = [keyOff, keyGone, userOff, userGone]
        const accepted = new Map<string, number>()
        let isOver = false
        const hammer = nodes.flatMap(({ url }) =>
          keys.map(async (key) => {
            while (!isOver) {
              const startedMs = performance.now()
              if ((await ask(url, key)) === 200) accepted.set(key.key, Math.max(startedMs, accepted.get(key.key) ?? 0))
              await Bun.sleep(5)
            }
          }),
        )
        await eventually('each key is in use', () => accepted.size === keys.length)
        // What is read now is old when it arrives.
        databaseProxy.delay(150)
        const revocations = [
          {
            key: keyOff,
            revoke: () => anywhere.call('PUT', '/api/token/?status_only=true', { id: keyOff.id, status: 2 }, first),
          },
          { key: keyGone, revoke: () => anywhere.call('DELETE', `/api/token/${keyGone.id}`, undefined, second) },
          {
            key: userOff,
            revoke: () => anywhere.call('POST', '/api/user/manage', { id: third.id, action: 'disable' }),
          },
          { key: userGone, revoke: () => anywhere.call('DELETE', `/api/user/${fourth.id}`) },
        ]
        const revokedMs = new Map<string, number>()
        try {
          await Promise.all(
            revocations.map(async ({ key, revoke }) => {
              await revoke()
              revokedMs.set(key.key, performance.now())
            }),
          )
          await Bun.sleep(4_000)
        } finally {
          isOver = true
          await Promise.all(hammer)
        }
        databaseProxy.delay(0)
        for (const key of keys) {
          const late = (accepted.get(key.key) ?? 0) - (revokedMs.get(key.key) ?? 0)
          console.log(`the last call that was accepted began ${Math.round(late)} ms after the revocation`)
          expect(late).toBeLessThan(1_000)
          for (const { url } of nodes) expect(await ask(url, key)).not.toBe(200)
        }
      }),
    120_000,
  )

  test(
    'a database that is away during reloads takes no channel, option or key from memory',
    () =>
      withCluster({ env: { SYNC_FREQUENCY: '1' } }, async ({ nodes, upstream, databaseProxy }, anywhere) => {
        const key = await anywhere.apiKey(await anywhere.user(100_000_000))
        // Free of charge: whether money can be held without a database is another matter.
        await anywhere.options({ ModelRatio: { [MODEL]: 0 }, Footer: 'before' })
        await anywhere.channel({ name: 'chat', baseUrl: upstream.url, models: [MODEL] })
        const callAll = () => Promise.all(nodes.map(async ({ url }) => (await chat(url, key, MODEL)).status))
        await eventually('every node serves', async () => (await callAll()).every((status) => status === 200))
        databaseProxy.refuse()
        const untilMs = performance.now() + 4_000
        let calls = 0
        while (performance.now() < untilMs) {
          expect(await callAll()).toEqual(nodes.map(() => 200))
          calls += nodes.length
          await Bun.sleep(50)
        }
        expect(calls).toBeGreaterThan(10)
        for (const { url } of nodes) {
          expect((await statusOf(url)).footer_html).toBe('before')
          // Longer than it takes to look: whoever watches a node sees that it reads something old.
          expect(await snapshotAgeSec(url)).toBeGreaterThan(2)
        }
        databaseProxy.admit()
        await eventually(
          'edits work again',
          async () => {
            await anywhere.options({ Footer: 'after' })
            return true
          },
          { withinMs: 20_000 },
        )
        await eventually(
          'every node has the edit',
          async () =>
            (await Promise.all(nodes.map(({ url }) => statusOf(url)))).every(
              (status) => status.footer_html === 'after',
            ),
          { withinMs: SLOW_MACHINE_MS },
        )
        for (const { url } of nodes)
          await eventually('what a node reads is fresh', async () => (await snapshotAgeSec(url)) < 2, {
            withinMs: SLOW_MACHINE_MS,
          })
      }),
    120_000,
  )

  test(
    'settings that were saved together are seen together, and so is what was deleted together',
    () =>
      withCluster({ env: NEVER }, async ({ nodes, upstream }, anywhere) => {
        const pair = (n: number) => ({ Footer: `pair ${n}`, SystemName: `pair ${n}` })
        await anywhere.options(pair(0))
        let isOver = false
        let seen = 0
        const mixed: unknown[] = []
        const readers = nodes.map(async ({ url }) => {
          await eventually('the first pair is there', async () => (await statusOf(url)).footer_html === 'pair 0')
          while (!isOver) {
            const { footer_html, system_name } = await statusOf(url)
            if (footer_html !== system_name) mixed.push({ footer_html, system_name })
            seen += 1
          }
        })
        for (let n = 1; n <= 40; n += 1) await anywhere.options(pair(n))
        await eventually(
          'the last pair is everywhere',
          async () =>
            (await Promise.all(nodes.map(({ url }) => statusOf(url)))).every(
              (status) => status.footer_html === 'pair 40',
            ),
          { withinMs: SLOW_MACHINE_MS },
        )
        isOver = true
        await Promise.all(readers)
        expect(mixed).toEqual([])
        expect(seen).toBeGreaterThan(100)

        const probe = await anywhere.apiKey(await anywhere.user(1_000))
        const twins = ['twin-a', 'twin-b']
        await anywhere.options({ ModelRatio: Object.fromEntries(twins.map((model) => [model, 1])) })
        const ids: number[] = []
        for (const name of twins) ids.push(await anywhere.channel({ name, baseUrl: upstream.url, models: [name] }))
        const shown = async (url: string): Promise<number> =>
          (await modelsOf(url, probe)).filter((model) => twins.includes(model)).length
        for (const { url } of nodes) await eventually('both are there', async () => (await shown(url)) === 2)
        const counts = nodes.map(async ({ url }) => {
          const own: number[] = []
          while (own.at(-1) !== 0) own.push(await shown(url))
          return new Set(own)
        })
        await anywhere.call('POST', '/api/channel/batch', { ids })
        for (const count of await Promise.all(counts)) expect(count.has(1)).toBe(false)
      }),
    120_000,
  )
}

async function statusOf(url: string): Promise<{ footer_html: string; system_name: string }> {
  const { data } = (await (await fetch(`${url}/api/status`)).json()) as {
    data: { footer_html: string; system_name: string }
  }
  return data
}

async function snapshotAgeSec(url: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  return Number(/^headgate_snapshot_age_seconds (\S+)$/m.exec(text)?.[1])
}

const listModels = (url: string, { key }: MadeKey): Promise<Response> =>
  fetch(`${url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })

async function ask(url: string, key: MadeKey): Promise<number> {
  const reply = await listModels(url, key)
  await reply.bytes()
  return reply.status
}

async function killSubscribers(url: string): Promise<void> {
  const client = new Bun.RedisClient(url)
  const killed = Number(await client.send('CLIENT', ['KILL', 'TYPE', 'pubsub']))
  client.close()
  expect(killed).toBeGreaterThan(0)
}
