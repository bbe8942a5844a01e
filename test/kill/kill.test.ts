/**
 * Money under `kill -9`: while many clients call, workers and the whole node are killed at random moments, again and again.
 * In the end every account adds up, and whatever a client has seen complete is charged once. KILLS sets the number of kills
 * on each engine, SEED repeats a run.
 */
import { expect, test } from 'bun:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inArray } from 'drizzle-orm'
import { seeded } from '../protocol/random.ts'
import { createAdminClient } from '../support/admin-client.ts'
import { ENGINES } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { createNode } from '../support/node.ts'
import { startUpstreamProcess } from '../support/upstream-process.ts'
import { killAtRandom } from './kills.ts'
import { startLoad } from './load.ts'
import { expectExactBooks, furnish, MODELS } from './money.ts'

const KILLS = Number(process.env['KILLS'] ?? 25)
const SEED = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))
const CLIENTS = 24
const MS_PER_KILL = 6_000
for (const engine of ENGINES)
  test(
    `${KILLS} kills on ${engine.name} leave every account exact`,
    async () => {
      console.log(`kill test on ${engine.name}: SEED=${SEED} KILLS=${KILLS}`)
      const random = seeded(SEED)
      const folder = await mkdtemp(join(tmpdir(), 'headgate-kill-'))
      const testDb = await engine.freshDb({ isEmpty: true })
      const upstream = await startUpstreamProcess(folder)
      const workers = engine.isServer ? 2 : 1
      const node = await createNode({ env: { ...testDb.env, WORKERS: String(workers) } })
      try {
        node.start()
        await node.ready()
        const admin = createAdminClient(() => node.url)
        await admin.setUp()
        const keys = await furnish(admin, upstream.url)
        const load = startLoad({ urls: [node.url], keys, models: MODELS, clients: CLIENTS, seed: SEED })
        const kills = await killAtRandom([node], { workers, count: KILLS, random })
        await load.stop()
        // What starts again returns what its earlier life had parked.
        const { clusterInstances } = testDb.db.tables
        await eventually(
          'every worker is back',
          async () =>
            (await testDb.db.$count(clusterInstances, inArray(clusterInstances.state, ['live', 'draining']))) ===
            workers,
          { withinMs: 60_000, everyMs: 100 },
        )
        expect(await node.stop()).toBe(0)

        const books = await expectExactBooks(testDb.db, {
          granted: admin.granted,
          load,
          upstream,
          kills: kills.moments,
        })
        console.log(`kill test on ${engine.name}: ${kills.workers} workers and ${kills.nodes} nodes killed; ${books}`)
        expect(kills.workers + kills.nodes).toBe(KILLS)
        expect(load.complete.size).toBeGreaterThan(KILLS * 10)
      } catch (error) {
        console.log(await node.output())
        throw error
      } finally {
        await node.remove()
        await upstream.stop()
        await testDb.close()
        await rm(folder, { recursive: true, force: true })
      }
    },
    60_000 + KILLS * MS_PER_KILL,
  )
