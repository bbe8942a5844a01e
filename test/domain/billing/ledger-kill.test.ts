/** Killed at random under load, a worker loses nothing that a client saw complete, and bills nothing twice. */
import { describe, expect, test } from 'bun:test'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ENGINES } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import type { SpenderTask } from './spender.ts'
import { createWorld } from './world.ts'

/** `KILLS=200 bun test …` for a longer run. */
const KILLS = Number(process.env['KILLS'] ?? 20)

for (const engine of ENGINES)
  describe(`kills on ${engine.name}`, () => {
    test(
      `${KILLS} kills -9 end with every book even`,
      async () => {
        const world = await createWorld(engine)
        const channelId = await world.channel()
        const payers = [
          await world.payer({ wallet: 4_000_000, key: 3_000_000 }),
          await world.payer({ wallet: 4_000_000 }),
          await world.payer({ wallet: 20_000, key: 1_000_000 }),
        ]
        const task = (worker: number): SpenderTask => ({
          ...(engine.isServer ? { dsn: world.testDb.env.SQL_DSN! } : { sqlitePath: world.testDb.env.SQLITE_PATH! }),
          dataDir: join(world.folder, 'data'),
          worker,
          payers,
          channelId,
          upstreamPath: join(world.folder, 'upstream'),
          completePath: join(world.folder, 'complete'),
          callers: 6,
          isBatch: worker === 1,
        })
        for (const name of ['upstream', 'complete']) writeFileSync(join(world.folder, name), '')
        const start = async (worker: number) => {
          const child = Bun.spawn(
            [process.execPath, join(import.meta.dir, 'spender.ts'), JSON.stringify(task(worker))],
            {
              stdin: 'pipe',
              stdout: 'pipe',
              stderr: 'inherit',
            },
          )
          const out = child.stdout.getReader()
          const { value } = await out.read()
          expect(new TextDecoder().decode(value)).toBe('open\n')
          return { child, out }
        }
        /** One process on SQLite; two that share a data directory on a server. */
        const workers = await Promise.all((engine.isServer ? [0, 1] : [0]).map(start))
        for (let kill = 0; kill < KILLS; kill++) {
          await Bun.sleep(20 + Math.random() * 250)
          const worker = kill % workers.length
          const { child, out } = workers[worker]!
          child.kill('SIGKILL')
          await child.exited
          await out.cancel()
          workers[worker] = await start(worker)
        }
        await Promise.all(
          workers.map(async ({ child, out }) => {
            child.stdin.write('stop\n')
            child.stdin.end()
            await child.exited
            expect(child.exitCode).toBe(0)
            await out.cancel()
          }),
        )
        // What the last life of one worker left is adopted by the next start on this directory.
        const last = await world.ledger({
          dataDir: join(world.folder, 'data'),
          isSingleNode: !engine.isServer,
          leaseMs: 900,
        })
        await eventually('nothing is left to flush', () => last.stats().unflushedMain + last.stats().unflushedLog === 0)
        const ids = (name: string): string[] => readFileSync(join(world.folder, name), 'utf8').trim().split('\n')
        const complete = ids('complete')
        const report = await world.close({ complete, upstream: ids('upstream') })
        expect(complete.length).toBeGreaterThan(KILLS)
        console.log(
          `${engine.name}: ${KILLS} kills, ${complete.length} calls complete, ${report?.logRows} logged, ${report?.unlogged.length} in flight at a kill`,
        )
      },
      60_000 + KILLS * 3_000,
    )
  })
