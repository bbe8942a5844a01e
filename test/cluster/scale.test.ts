/**
 * A cluster grows by a node that has nothing but its environment, and shrinks by one that dies and does not come back: who is
 * there is seen on every node, and what the dead one had parked serves the others.
 */
import { expect, test } from 'bun:test'
import { eq, gt } from 'drizzle-orm'
import { createAdminClient } from '../support/admin-client.ts'
import { chatUntilDecided } from '../support/chat.ts'
import { openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'

const LEASE_SEC = 2
const HEARTBEAT_MS = (LEASE_SEC * 1000) / 3
const UNITS_PER_DOLLAR = 500_000
const MODEL = 'fixed'
const PRICE_DOLLAR = 0.002
const PRICE = PRICE_DOLLAR * UNITS_PER_DOLLAR
const CALLS = 60
const patience = { withinMs: 60_000, everyMs: 20 }

interface View {
  readonly nodes: readonly { readonly name: string; readonly role: string; readonly state: string }[]
}

if (SERVER_ENGINE)
  test('a new node serves as soon as it is ready, a dead one is seen at once, and all money is spent by those who live', async () => {
    const cluster = await openCluster({ slaves: 1, env: { LEDGER_LEASE: String(LEASE_SEC) } })
    try {
      const { admin, nodes, testDb, upstream } = cluster
      const [master, dying] = nodes
      if (!master || !dying) throw new Error('there are not two nodes')
      await admin.options({ ModelPrice: { [MODEL]: PRICE_DOLLAR }, RetryTimes: 0 })
      await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [MODEL] })
      const key = await admin.apiKey(await admin.user(CALLS * PRICE))
      let bought = 0
      const buy = async (url: string, calls: number): Promise<void> => {
        for (let n = 0; n < calls; n += 1) expect(await chatUntilDecided(url, key, MODEL)).toBe(200)
        bought += calls
      }
      await buy(master.url, 5)
      await buy(dying.url, 5)

      const grown = await cluster.addNode({ NODE_NAME: 'grown' })
      await grown.ready(60_000)
      await buy(grown.url, 5)
      const clients = new Map(nodes.map(({ url }) => [url, createAdminClient(() => url)]))
      const stateOn = async (url: string, name: string): Promise<string> => {
        const { nodes: seen } = await (clients.get(url) ?? admin).call<View>('GET', '/api/cluster')
        return seen.flatMap((node) => (node.name === name ? [`${node.role} ${node.state}`] : [])).join()
      }
      for (const { url } of nodes)
        await eventually(
          'the new node is in the list',
          async () => (await stateOn(url, 'grown')) === 'slave live',
          patience,
        )

      const { clusterInstances, quotaAllotments, logs } = testDb.db.tables
      await eventually(
        'all charges are in the database',
        async () => (await testDb.db.$count(logs, eq(logs.type, 2))) === bought,
        patience,
      )
      await dying.kill()
      const killedAtMs = performance.now()
      await eventually(
        'the dead node is seen',
        async () => (await stateOn(grown.url, 'node-1')) !== 'slave live',
        patience,
      )
      const seenMs = performance.now() - killedAtMs
      await eventually(
        'it is ended',
        async () => (await testDb.db.$count(clusterInstances, eq(clusterInstances.state, 'reclaimed'))) === 1,
        patience,
      )
      // Nobody has given its part back but the others; what is left buys all the rest, and not one call more.
      const left = CALLS - bought
      const statuses = await Promise.all(
        Array.from({ length: left + 6 }, (_, n) => chatUntilDecided(n % 2 === 0 ? master.url : grown.url, key, MODEL)),
      )
      expect(statuses.filter((status) => status === 200)).toHaveLength(left)
      expect(statuses.filter((status) => status === 403)).toHaveLength(6)
      const [ended] = await testDb.db.select().from(clusterInstances).where(eq(clusterInstances.state, 'reclaimed'))
      const parked = await testDb.db.select().from(quotaAllotments).where(gt(quotaAllotments.amount, 0))
      expect(parked.filter(({ instanceId }) => instanceId === ended?.id)).toEqual([])
      console.log(
        `heartbeats each ${Math.round(HEARTBEAT_MS)} ms: a dead node was seen after ${Math.round(seenMs)} ms; ${left} calls bought with what it had left`,
      )
      dying.start()
      await dying.ready(60_000)
      const report = await cluster.stop({ upstream: upstream.ledger().map(({ requestId }) => requestId) })
      expect(report.unlogged).toEqual([])
      expect(report.logRows).toBe(CALLS)
    } finally {
      await cluster.remove()
    }
  }, 180_000)
