/** A sync may be killed anywhere, run twice at once, and wait for others; big tables get their indexes later. */
import { afterEach, describe, expect, test } from 'bun:test'
import { join } from 'node:path'
import { asEngineDb } from '../../src/db/db.ts'
import {
  buildIndexes,
  createLeaseRow,
  type Db,
  DbError,
  findMissing,
  pendingIndexes,
  readClusterId,
  syncSchema,
  waitForSchema,
} from '../../src/db/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import { ENGINES, SERVER_ENGINE, type TestDb } from '../support/engines.ts'
import { fillNewApi, photograph } from './taken-over.ts'

const log = silentLog
const CHILD = join(import.meta.dir, 'sync-child.ts')
const KILLS = 12

let open: TestDb[] = []
afterEach(async () => {
  for (const testDb of open) await testDb.close()
  open = []
})

/** A process that syncs a database. */
function startSync(testDb: TestDb): Bun.Subprocess<'ignore', 'pipe', 'inherit'> {
  return Bun.spawn([process.execPath, CHILD], {
    env: { ...process.env, ...testDb.env },
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'inherit',
  })
}

/** Kills a sync after it has told of so many changes. @returns the changes it told of */
async function killAfter(child: ReturnType<typeof startSync>, changes: number): Promise<number> {
  let seen = 0
  for await (const chunk of child.stdout) {
    seen += new TextDecoder().decode(chunk).split('\n').length - 1
    if (seen > changes) child.kill('SIGKILL')
  }
  await child.exited
  return seen
}

for (const engine of ENGINES) {
  const fresh = async (): Promise<TestDb> => {
    const testDb = await engine.freshDb({ isEmpty: true, charset: 'utf8mb4' })
    open.push(testDb)
    return testDb
  }

  describe(`schema sync on ${engine.name}`, () => {
    test(`killed at ${KILLS} random points and run again, it ends complete and no row has changed`, async () => {
      const cuts: number[] = []
      for (let round = 0; round < KILLS; round++) {
        const testDb = await fresh()
        const { db } = testDb
        await fillNewApi(db, 'old', '中文 😀')
        const before = await photograph(db)
        cuts.push(await killAfter(startSync(testDb), Math.floor(Math.random() * 60)))
        const again = startSync(testDb)
        expect(await again.exited).toBe(0)
        expect(await findMissing(db)).toEqual([])
        expect(await pendingIndexes(db)).toEqual([])
        const after = await photograph(db, before)
        for (const [table, rows] of before) if (table !== 'options') expect(after.get(table)).toEqual([...rows])
        expect(after.get('options')).toEqual(expect.arrayContaining([...before.get('options')!]))
      }
      console.log(`  killed after ${cuts.join(', ')} changes`)
    }, 180_000)

    test('several masters at once make one schema, one cluster id, one row of set-up', async () => {
      const testDb = await fresh()
      await fillNewApi(testDb.db, 'old', 'x')
      const others = engine.isServer ? [await testDb.open(), await testDb.open()] : []
      const child = startSync(testDb)
      await Promise.all([testDb.db, ...others].map((db) => syncSchema(db, { log })))
      expect(await child.exited).toBe(0)
      for (const db of others) await db.close()
      const { db } = testDb
      expect(await findMissing(db)).toEqual([])
      expect(await readClusterId(db)).toMatch(/^[0-9a-f-]{36}$/)
      expect(await db.$count(db.tables.setups)).toBe(1)
      // The lease is free again: the next one need not wait.
      const next = createLeaseRow(db, { name: 'schema', holder: 'next', ttlMs: 1_000 })
      expect(await next.take()).toBeGreaterThan(0)
    }, 60_000)

    test('a node that does not sync waits until the schema is complete, and says what is missing at the end of its patience', async () => {
      const { db } = await fresh()
      const impatient = waitForSchema(db, { log, waitMs: 50, everyMs: 10 })
      const error = await impatient.then(
        () => undefined,
        (thrown: unknown) => thrown,
      )
      expect(error).toBeInstanceOf(DbError)
      expect((error as DbError).message).toContain('table users')
      const told: unknown[] = []
      const patient = waitForSchema(db, {
        log: { ...log, info: (_, fields) => told.push(fields?.['missing']) },
        everyMs: 10,
      })
      await syncSchema(db, { log })
      await patient
      expect(told.length).toBeGreaterThan(0)
    }, 60_000)

    test('indexes of a big table are left for later and built then', async () => {
      const { db } = await fresh()
      await syncSchema(db, { log })
      const raw = asEngineDb(db)
      await raw.raw(
        db.engine === 'mysql' ? 'drop index idx_logs_token_id on logs' : 'drop index idx_logs_token_id',
        [],
        'schema',
      )
      await db.insert(db.tables.logs).values({ userId: 1, content: 'x' })
      for (let rows = 1; rows <= 50_000; rows *= 2)
        await raw.raw('insert into logs (user_id, content) select user_id, content from logs')
      await syncSchema(db, { log })
      expect((await pendingIndexes(db)).map(({ name }) => name)).toEqual(['idx_logs_token_id'])
      expect(await buildIndexes(db, { log })).toBe(1)
      expect(await pendingIndexes(db)).toEqual([])
      expect(await buildIndexes(db, { log })).toBe(0)
    }, 60_000)

    test('a log database gets the tables of a log database and no others', async () => {
      const testDb = await engine.freshDb({ only: 'logs' })
      open.push(testDb)
      const names = [...(await photograph(testDb.db)).keys()].filter((name) => !name.startsWith('sqlite'))
      expect(names.sort()).toEqual(['leases', 'ledger_applied', 'ledger_quarantine', 'logs'])
      await waitForSchema(testDb.db, { log, waitMs: 100 })
    }, 60_000)
  })
}

if (SERVER_ENGINE) {
  const engine = SERVER_ENGINE
  describe(`the lease of the schema sync on ${engine.name}`, () => {
    const withLease = async (ttlMs: number, work: (db: Db) => Promise<void>): Promise<void> => {
      const testDb = await engine.freshDb()
      open.push(testDb)
      const lease = createLeaseRow(testDb.db, { name: 'schema', holder: 'another', ttlMs })
      expect(await lease.take()).toBeGreaterThan(0)
      await work(testDb.db)
    }

    test(
      'is waited for, and the wait has an end',
      () =>
        withLease(60_000, async (db) => {
          const error = await syncSchema(db, { log, waitMs: 200 }).then(
            () => undefined,
            (thrown: DbError) => thrown.kind,
          )
          expect(error).toBe('unavailable')
        }),
      60_000,
    )

    test(
      'of a node that died runs out',
      () =>
        withLease(300, async (db) => {
          await syncSchema(db, { log, waitMs: 30_000 })
        }),
      60_000,
    )
  })
}
