/**
 * Limits hold over all nodes: with Redis exactly, without it by the node's share, for all workers of a node together. What a
 * node that was killed had running is given back.
 */
import { expect, test } from 'bun:test'
import type { MadeKey } from '../support/admin-client.ts'
import { type Cluster, openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'

const PLENTY = 1_000_000_000
const BURST = process.env['SOAK'] ? 900 : 180
/** A third of a burst, and a whole number for each of three nodes. */
const LIMIT = BURST / 3
const QUICK = 'quick'
/** Named so that the scripted upstream streams for a minute. */
const LONG = 'long?chunks=1200&pace=50'

const ask = (url: string, { key }: MadeKey, model: string, stream = false): Promise<Response> =>
  fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model, stream, max_tokens: 1, messages: [{ role: 'user', content: 'Hello' }] }),
  })

const statusOf = async (url: string, key: MadeKey): Promise<number> => {
  const response = await ask(url, key, QUICK)
  await response.text()
  return response.status
}

async function withCluster(
  options: Parameters<typeof openCluster>[0],
  work: (cluster: Cluster) => Promise<void>,
): Promise<void> {
  const cluster = await openCluster(options)
  try {
    const { admin, upstream } = cluster
    await admin.options({ ModelRatio: { [QUICK]: 1, [LONG]: 1 }, RetryTimes: 0 })
    await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [QUICK, LONG] })
    await work(cluster)
  } finally {
    await cluster.remove()
  }
}

/** Calls all nodes at once. @returns how many got which status, and how many each node served */
async function burst({ nodes }: Cluster, key: MadeKey) {
  const statuses = await Promise.all(
    Array.from({ length: BURST }, async (_, n) => {
      const node = n % nodes.length
      return { node, status: await statusOf(nodes[node]!.url, key) }
    }),
  )
  const served = statuses.filter(({ status }) => status === 200)
  return {
    served: served.length,
    refused: statuses.filter(({ status }) => status === 429).length,
    byNode: nodes.map((_, node) => served.filter((each) => each.node === node).length),
  }
}

if (SERVER_ENGINE) {
  test(
    'with Redis a limit of L serves L calls over three nodes, and a killed node’s running calls are given back',
    () =>
      withCluster({}, async (cluster) => {
        const { admin, nodes } = cluster
        const user = await admin.user(PLENTY)
        const key = await admin.apiKey(user, { fields: { rpm_limit: LIMIT } })
        const { served, refused } = await burst(cluster, key)
        expect({ served, refused }).toEqual({ served: LIMIT, refused: BURST - LIMIT })

        // A limit that is edited on one node binds on all. What shows that a node knows of it counts already.
        const other = await admin.user(PLENTY)
        const unbounded = await admin.apiKey(other)
        for (const { url } of nodes) expect(await statusOf(url, unbounded)).toBe(200)
        await admin.call('PUT', '/api/user/', { id: other.id, rpm_limit: LIMIT })
        for (const { url } of nodes)
          await eventually('the node knows of the limit', async () => {
            const response = await ask(url, unbounded, QUICK)
            await response.text()
            return response.headers.get('x-ratelimit-limit-requests') === String(LIMIT)
          })
        expect((await burst(cluster, unbounded)).served).toBe(LIMIT - nodes.length)

        const stranger = await admin.user(PLENTY)
        const narrow = await admin.apiKey(stranger, { fields: { concurrency_limit: 4 } })
        const running = await Promise.all([0, 1, 2, 2].map((node) => ask(nodes[node]!.url, narrow, LONG, true)))
        expect(running.map(({ status }) => status)).toEqual([200, 200, 200, 200])
        expect(await statusOf(nodes[0]!.url, narrow)).toBe(429)
        await nodes[2]?.kill()
        const killedAtMs = performance.now()
        // Two places were the killed node's. A second stream proves that both are free, not one of them twice.
        const more: Response[] = []
        await eventually(
          'the places of the killed node are free',
          async () => {
            const response = await ask(nodes[1]!.url, narrow, LONG, true)
            if (response.status === 200) more.push(response)
            else await response.text()
            return more.length === 2
          },
          { withinMs: 60_000, everyMs: 200 },
        )
        console.log(`places of a killed node were free after ${Math.round(performance.now() - killedAtMs)} ms`)
        expect(await statusOf(nodes[0]!.url, narrow)).toBe(429)
        await Promise.all([...running, ...more].map((response) => response.body?.cancel().catch(() => undefined)))
      }),
    120_000,
  )

  test(
    'without Redis each node serves its share, with all of its workers together',
    () =>
      withCluster({ redis: 'none', env: { WORKERS: '2', LEDGER_LEASE: '30' } }, async (cluster) => {
        const user = await cluster.admin.user(PLENTY)
        // A node that has just come knows of the others after a heartbeat.
        await eventually(
          'every node knows of three',
          async () => {
            const key = await cluster.admin.apiKey(user, { fields: { rpm_limit: LIMIT } })
            const { served, byNode } = await burst(cluster, key)
            return served === LIMIT && byNode.every((each) => each === LIMIT / 3)
          },
          { withinMs: 60_000, everyMs: 500 },
        )
        for (let n = 0; n < 3; n += 1) {
          const key = await cluster.admin.apiKey(user, { fields: { rpm_limit: LIMIT } })
          expect((await burst(cluster, key)).byNode).toEqual([LIMIT / 3, LIMIT / 3, LIMIT / 3])
        }
      }),
    120_000,
  )
}
