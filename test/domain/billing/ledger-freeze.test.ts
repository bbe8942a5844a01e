/**
 * Nodes that are frozen at random, for shorter and longer than the others wait, killed, and cut off from the database, while
 * a sweeper ends whom it does not hear of: every call is charged once. FREEZES sets how often, SEED repeats a run.
 */
import { expect, test } from 'bun:test'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { and, eq, inArray } from 'drizzle-orm'
import { createLoop } from '../../../src/lib/loop.ts'
import { seeded } from '../../protocol/random.ts'
import { SERVER_ENGINE, sqlServer } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { openTcpProxy } from '../../support/tcp-proxy.ts'
import type { SpenderTask } from './spender.ts'
import { createWorld } from './world.ts'

const FREEZES = Number(process.env['FREEZES'] ?? (process.env['SOAK'] ? 150 : 4))
const SEED = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))
/** Not less: a machine that is busy with all this must still look at the beats in time. */
const LEASE_MS = 1_200
const NODES = 3

if (SERVER_ENGINE)
  test(
    `${FREEZES} freezes, kills and cuts leave every book even`,
    async () => {
      console.log(`freezes: SEED=${SEED} FREEZES=${FREEZES}`)
      const random = seeded(SEED)
      const world = await createWorld(SERVER_ENGINE!)
      const server = await sqlServer()
      // The server lets go of rows that a node locked in a transaction and froze.
      await server.execute('set global wait_timeout = 4')
      const proxy = await openTcpProxy(server)
      const channelId = await world.channel()
      // More than can be spent: what a frozen node held and others spent meanwhile may take a poor one below zero.
      const plenty = 10_000_000 + FREEZES * 5_000_000
      const payers = [
        await world.payer({ wallet: plenty, key: plenty }),
        await world.payer({ wallet: plenty }),
        await world.payer({ wallet: plenty, key: plenty }),
      ]
      for (const name of ['upstream', 'complete']) writeFileSync(join(world.folder, name), '')
      const start = async (node: number) => {
        const task: SpenderTask = {
          dsn: (world.testDb.env.SQL_DSN ?? '').replace(/\(([^)]*):\d+\)/, `(127.0.0.1:${proxy.port})`),
          dataDir: join(world.folder, `frozen-${node}`),
          worker: 0,
          payers,
          channelId,
          upstreamPath: join(world.folder, 'upstream'),
          completePath: join(world.folder, 'complete'),
          callers: 4,
          isBatch: node === 1,
          leaseMs: LEASE_MS,
        }
        const child = Bun.spawn([process.execPath, join(import.meta.dir, 'spender.ts'), JSON.stringify(task)], {
          stdin: 'pipe',
          stdout: 'pipe',
          stderr: 'inherit',
        })
        const out = child.stdout.getReader()
        expect(new TextDecoder().decode((await out.read()).value)).toBe('open\n')
        return { child, out }
      }
      const { clusterInstances } = world.db.tables
      const working = (node: string) =>
        world.db.$count(
          clusterInstances,
          and(eq(clusterInstances.node, node), inArray(clusterInstances.state, ['live', 'draining'])),
        )
      const nodes = await Promise.all(Array.from({ length: NODES }, (_, node) => start(node)))
      const sweeper = await world.ledger({ leaseMs: LEASE_MS })
      const stopping = new AbortController()
      const sweeping = createLoop({
        everyMs: LEASE_MS / 9,
        run: () => sweeper.sweep(stopping.signal),
        onError: (error) => console.log(String(error)),
      })
      const counts = { short: 0, long: 0, killed: 0, cut: 0 }
      try {
        for (let n = 0; n < FREEZES; n++) {
          const node = random.int(NODES)
          const { child, out } = nodes[node]!
          await Bun.sleep(50 + random.int(200))
          if (random.chance(0.2)) {
            proxy.cutAll()
            counts.cut++
          }
          const isLong = n === 0 || random.chance(0.5)
          counts[isLong ? 'long' : 'short']++
          child.kill('SIGSTOP')
          // Until the sweeper has ended it, or shorter than a lease.
          if (isLong)
            await eventually('it is ended', async () => (await working(`frozen-${node}`)) === 0, { withinMs: 30_000 })
          else await Bun.sleep(20 + random.int(LEASE_MS / 2))
          child.kill('SIGCONT')
          if (random.chance(0.7)) continue
          counts.killed++
          child.kill('SIGKILL')
          await child.exited
          await out.cancel()
          nodes[node] = await start(node)
        }
        await Promise.all(
          nodes.map(async ({ child, out }) => {
            child.stdin.write('stop\n')
            child.stdin.end()
            expect(await child.exited).toBe(0)
            await out.cancel()
          }),
        )
        // What a kill left in an outbox is flushed by the start that followed it; what is parked, by then or by the sweeper.
        const { quotaAllotments } = world.db.tables
        await eventually(
          'nothing is parked',
          async () => (await world.db.select().from(quotaAllotments)).every((row) => row.amount === 0),
          { withinMs: 30_000 },
        )
        const ended = await world.db.$count(clusterInstances, eq(clusterInstances.state, 'reclaimed'))
        expect(ended).toBeGreaterThan(0)
        stopping.abort()
        await sweeping.stop()
        await proxy.close()
        const ids = (name: string): string[] => readFileSync(join(world.folder, name), 'utf8').trim().split('\n')
        const complete = ids('complete')
        const report = await world.close({ complete, upstream: ids('upstream') })
        expect(complete.length).toBeGreaterThan(FREEZES)
        console.log(
          `freezes: ${counts.short} short, ${counts.long} long, ${counts.killed} kills, ${counts.cut} cuts; ${ended} instances reclaimed, ${complete.length} calls complete, ${report?.logRows} logged, ${report?.unlogged.length} in flight at a kill`,
        )
      } finally {
        for (const { child } of nodes) child.kill('SIGKILL')
        await sweeping.stop()
        await server.execute('set global wait_timeout = default')
      }
    },
    90_000 + FREEZES * 5_000,
  )
