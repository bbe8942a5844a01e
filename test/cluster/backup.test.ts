/**
 * A backup that is taken under load by the command itself, and restored to an empty database with fresh data folders: once
 * swept, every account has what it was given, less what its log rows say, and what is lacking can be named.
 */
import { expect, test } from 'bun:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inArray } from 'drizzle-orm'
import { openDb } from '../../src/db/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import { TEST_ENV } from '../support/app.ts'
import { expectAudit } from '../support/auditor.ts'
import { dsnOf, startSingle } from '../support/database-clusters.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { createNode } from '../support/node.ts'
import { openWorld } from './database-world.ts'

const MAIN = join(import.meta.dir, '..', '..', 'src', 'main.ts')
const SECRETS = { CRYPTO_SECRET: 'a crypto secret of tests, long enough', LEDGER_LEASE: '3' }

/** Runs a command of the gateway. @returns what it said */
async function run(folder: string, dsn: string, ...words: readonly string[]): Promise<string> {
  const child = Bun.spawn([process.execPath, '--no-env-file', MAIN, ...words], {
    cwd: folder,
    env: { PATH: process.env['PATH'] ?? '', ...TEST_ENV, ...SECRETS, DATA_DIR: folder, SQL_DSN: dsn },
    stdin: 'ignore',
    stdout: 'ignore',
    stderr: 'pipe',
  })
  const said = await new Response(child.stderr).text()
  if ((await child.exited) !== 0) throw new Error(`${words.join(' ')}: ${said}`)
  return said
}

if (SERVER_ENGINE)
  test('a backup taken under load and restored to an empty server adds up once swept, and lacks only what came after', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'headgate-backups-'))
    const server = await startSingle('headgate')
    const world = await openWorld(dsnOf(server, 'headgate'), { env: SECRETS })
    try {
      await eventually('calls are served', () => world.load.ends.complete >= 60, { withinMs: 30_000 })
      const file = join(folder, 'copy.sql.gz')
      const before = new Set(world.load.complete)
      const said = await run(folder, dsnOf(server, 'headgate'), 'backup', file)
      expect(said).not.toContain('half')
      await eventually('calls go on', () => world.load.ends.complete >= before.size + 30, { withinMs: 30_000 })
      await world.finish(dsnOf(server, 'headgate'))

      await server.query('create database fresh character set utf8mb4')
      const restored = await run(folder, dsnOf(server, 'fresh'), 'restore', file)
      expect(restored).toContain('empty data folders')
      const db = await openDb({ dsn: dsnOf(server, 'fresh'), log: silentLog })
      const node = await createNode({ env: { SQL_DSN: dsnOf(server, 'fresh'), WORKERS: '1', ...SECRETS } })
      try {
        const { quotaAllotments, clusterInstances, logs } = db.tables
        const parked = (await db.select().from(quotaAllotments)).filter(({ amount }) => amount > 0).length
        node.start()
        await node.ready(60_000)
        await eventually(
          'what is parked by nodes that are not here is returned',
          async () => {
            const working = await db.$count(clusterInstances, inArray(clusterInstances.state, ['live', 'draining']))
            return working === 1 && (await db.select().from(quotaAllotments)).every(({ amount }) => amount === 0)
          },
          { withinMs: 60_000, everyMs: 100 },
        )
        expect(await node.stop()).toBe(0)
        const report = await expectAudit(db, db, { granted: world.admin.granted })
        const there = new Set((await db.select({ id: logs.requestId }).from(logs)).map(({ id }) => id))
        const lacking = [...before].filter((id) => !there.has(id))
        console.log(
          `restored: ${report.logRows} charges, ${parked} allotments returned; of ${before.size} calls that were complete ` +
            `before the backup ${lacking.length} were still in journals alone: ${lacking.join(', ')}`,
        )
        expect(report.logRows).toBeGreaterThan(30)
        expect(lacking.length).toBeLessThan(before.size / 2)
      } finally {
        await node.remove()
        await db.close()
      }
    } finally {
      await world.remove()
      await server.remove()
      await rm(folder, { recursive: true, force: true })
    }
  }, 240_000)
