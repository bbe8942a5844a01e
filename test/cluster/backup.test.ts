/**
 * A backup that is taken under load by the command itself, and restored to an empty database with fresh data folders: once
 * swept, every account has what it was given, less what its log rows say, and what is lacking can be named.
 */
import { expect, test } from 'bun:test'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
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
import { openWorld, type Place } from './database-world.ts'

const MAIN = join(import.meta.dir, '..', '..', 'src', 'main.ts')
const SECRETS = { CRYPTO_SECRET: 'a crypto secret of tests, long enough', LEDGER_LEASE: '2' }

/** Runs a command of the gateway. @returns what it said @throws Error with that, when it fails */
async function run(
  folder: string,
  env: Readonly<Record<string, string>>,
  ...words: readonly string[]
): Promise<string> {
  const child = Bun.spawn([process.execPath, '--no-env-file', MAIN, ...words], {
    cwd: folder,
    env: { PATH: process.env['PATH'] ?? '', ...TEST_ENV, ...SECRETS, DATA_DIR: folder, ...env },
    stdin: 'ignore',
    stdout: 'ignore',
    stderr: 'pipe',
  })
  const said = await new Response(child.stderr).text()
  if ((await child.exited) !== 0) throw new Error(`${words.join(' ')}: ${said}`)
  return said
}

interface Places {
  readonly name: string
  /** Variables by which nodes and commands find each database. */
  readonly from: Readonly<Record<string, string>>
  readonly to: Readonly<Record<string, string>>
  readonly file: string
  /** Makes the empty database `to`. */
  prepare(): Promise<void>
}

const placeOf = (env: Readonly<Record<string, string>>): Place =>
  env['SQL_DSN'] || { sqlitePath: env['SQLITE_PATH'] ?? '' }

/** Backs up under load, restores, starts a node with an empty folder, and has the auditor look once all is swept. */
async function roundTrip(folder: string, places: Places): Promise<void> {
  const { from, to } = places
  const file = join(folder, places.file)
  const world = await openWorld(from['SQL_DSN'] ?? '', { nodes: 1, env: { ...SECRETS, ...from } })
  try {
    await eventually('calls are served', () => world.load.ends.complete >= 60, { withinMs: 60_000 })
    const before = new Set(world.load.complete)
    const said = await run(folder, from, 'backup', file)
    expect(said).not.toContain('half')
    await eventually('calls go on', () => world.load.ends.complete >= before.size + 30, { withinMs: 60_000 })
    // A database that is in use is never restored into.
    await expect(run(folder, from, 'restore', file, '--force')).rejects.toThrow(/node is running|stop every node/)
    await world.finish(placeOf(from))

    await places.prepare()
    const restored = await run(folder, to, 'restore', file)
    expect(restored).toContain('empty data folders')
    const place = placeOf(to)
    const db = await openDb({ ...(typeof place === 'string' ? { dsn: place } : place), log: silentLog })
    const node = await createNode({ env: { WORKERS: '1', ...SECRETS, ...to } })
    try {
      const { quotaAllotments, clusterInstances, logs } = db.tables
      const parked = (await db.select().from(quotaAllotments)).filter(({ amount }) => amount > 0).length
      node.start()
      await node.ready(60_000)
      await eventually(
        'what is parked by nodes that are not here is returned',
        async () => {
          const working = await db.$count(clusterInstances, inArray(clusterInstances.state, ['live', 'draining']))
          return working <= 1 && (await db.select().from(quotaAllotments)).every(({ amount }) => amount === 0)
        },
        { withinMs: 60_000, everyMs: 100 },
      )
      expect(await node.stop()).toBe(0)
      const report = await expectAudit(db, db, { granted: world.admin.granted })
      const there = new Set((await db.select({ id: logs.requestId }).from(logs)).map(({ id }) => id))
      const lacking = [...before].filter((id) => !there.has(id))
      console.log(
        `${places.name} restored: ${report.logRows} charges, ${parked} allotments returned; of ${before.size} calls that were ` +
          `complete before the backup ${lacking.length} were still in journals alone: ${lacking.join(', ')}`,
      )
      expect(report.logRows).toBeGreaterThan(30)
      expect(lacking.length).toBeLessThan(before.size / 2)
    } finally {
      await node.remove()
      await db.close()
    }
  } finally {
    await world.remove()
  }
}

const inFolder = async (work: (folder: string) => Promise<void>): Promise<void> => {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-backups-'))
  try {
    await work(folder)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

test(
  'a backup of SQLite taken under load and restored elsewhere adds up, and lacks only what came after',
  () =>
    inFolder(async (folder) => {
      for (const name of ['from', 'to']) await mkdir(join(folder, name))
      await roundTrip(folder, {
        name: 'SQLite',
        from: { SQLITE_PATH: join(folder, 'from', 'one.db') },
        to: { SQLITE_PATH: join(folder, 'to', 'one.db') },
        file: 'copy.db.gz',
        prepare: async () => {},
      })
    }),
  240_000,
)

// This server is MariaDB's own kind.
if (SERVER_ENGINE?.name === 'mariadb')
  test(
    'a backup of a server taken under load and restored to an empty one adds up once swept, and lacks only what came after',
    () =>
      inFolder(async (folder) => {
        const server = await startSingle('headgate')
        try {
          await roundTrip(folder, {
            name: 'MariaDB',
            from: { SQL_DSN: dsnOf(server, 'headgate') },
            to: { SQL_DSN: dsnOf(server, 'fresh') },
            file: 'copy.sql.gz',
            prepare: async () => {
              await server.query('create database fresh character set utf8mb4')
            },
          })
        } finally {
          await server.remove()
        }
      }),
    240_000,
  )
