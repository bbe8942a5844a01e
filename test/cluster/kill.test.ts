/**
 * Money under `kill -9` in a cluster: while clients call three nodes, workers and whole nodes are killed at random moments,
 * and Redis goes away now and then. In the end every account adds up, and whatever a client saw complete is charged once.
 * KILLS sets the number of kills, SEED repeats a run.
 */
import { expect, test } from 'bun:test'
import { killAtRandom } from '../kill/kills.ts'
import { startLoad } from '../kill/load.ts'
import { expectExactBooks, furnish, MODELS } from '../kill/money.ts'
import { seeded } from '../protocol/random.ts'
import { openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE } from '../support/engines.ts'

const KILLS = Number(process.env['KILLS'] ?? 18)
const SEED = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))
const WORKERS = 2

if (SERVER_ENGINE)
  test(
    `${KILLS} kills in a cluster leave every account exact`,
    async () => {
      console.log(`kills in a cluster: SEED=${SEED} KILLS=${KILLS}`)
      const random = seeded(SEED)
      const cluster = await openCluster({ env: { WORKERS: String(WORKERS) } })
      try {
        const { nodes, admin, upstream, redisProxy } = cluster
        const keys = await furnish(admin, upstream.url)
        const load = startLoad({ urls: nodes.map(({ url }) => url), keys, models: MODELS, clients: 24, seed: SEED })
        const kills = await killAtRandom(nodes, {
          workers: WORKERS,
          count: KILLS,
          random,
          async around(kill) {
            if (random.chance(0.2)) redisProxy?.refuse()
            await kill()
            if (random.chance(0.5)) redisProxy?.admit()
          },
        })
        redisProxy?.admit()
        await load.stop()
        await cluster.settled(nodes.length * WORKERS)
        for (const node of nodes) expect(await node.stop()).toBe(0)
        const books = await expectExactBooks(cluster.testDb.db, {
          granted: admin.granted,
          load,
          upstream,
          kills: kills.moments,
        })
        console.log(`in a cluster: ${kills.workers} workers and ${kills.nodes} nodes killed; ${books}`)
        expect(kills.workers + kills.nodes).toBe(KILLS)
        expect(load.complete.size).toBeGreaterThan(KILLS * 10)
      } catch (error) {
        for (const node of cluster.nodes) console.log(await node.output())
        throw error
      } finally {
        await cluster.remove()
      }
    },
    120_000 + KILLS * 6_000,
  )
