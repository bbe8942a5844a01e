/**
 * Nodes far from their database and Redis: 150 ms to each and back. Calls whose key is known and whose money is here do not
 * wait for either, and no lease is lost.
 */
import { expect, test } from 'bun:test'
import { chat } from '../support/chat.ts'
import { openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE } from '../support/engines.ts'

const ROUND_TRIP_MS = 150
const MODEL = 'near'
const CALLS = 300

if (SERVER_ENGINE)
  test('the path of a call and the leases do not feel the distance to database and Redis', async () => {
    const cluster = await openCluster({ slaves: 1 })
    try {
      const { admin, nodes, upstream, databaseProxy, redisProxy, testDb } = cluster
      await admin.options({ ModelRatio: { [MODEL]: 1 } })
      await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [MODEL] })
      const key = await admin.apiKey(await admin.user(1_000_000_000))
      const ask = async (url: string): Promise<number> => {
        const startedMs = performance.now()
        expect((await chat(url, key, MODEL, { maxTokens: 20 })).status).toBe(200)
        return performance.now() - startedMs
      }
      const inTurn = async (calls: number): Promise<readonly number[]> => {
        const tookMs: number[] = []
        for (let n = 0; n < calls; n += 1) {
          tookMs.push(await ask(nodes[n % nodes.length]?.url ?? ''))
          await Bun.sleep(10)
        }
        return tookMs
      }
      const instances = () => testDb.db.select().from(testDb.db.tables.clusterInstances)
      const before = (await instances()).map(({ id }) => id)
      databaseProxy.delay(ROUND_TRIP_MS / 2)
      redisProxy?.delay(ROUND_TRIP_MS / 2)
      // What every node meets once, and how far the database is, is known after these.
      await inTurn(CALLS)
      const tookMs = (await inTurn(CALLS)).toSorted((a, b) => a - b)
      const waited = tookMs.filter((ms) => ms >= ROUND_TRIP_MS).length
      console.log(
        `with ${ROUND_TRIP_MS} ms to database and Redis: ${Math.round(tookMs[CALLS / 2] ?? 0)} ms per call (p50), ` +
          `${Math.round(tookMs.at(-1) ?? 0)} ms (longest); ${waited} of ${CALLS} waited for a round trip`,
      )
      // A lone slow call is the machine's; waiting for money would show in each refill.
      expect(waited).toBeLessThanOrEqual(2)
      databaseProxy.delay(0)
      redisProxy?.delay(0)
      expect((await instances()).filter(({ state }) => state === 'live').map(({ id }) => id)).toEqual(before)
      await cluster.stop()
    } finally {
      await cluster.remove()
    }
  }, 120_000)
