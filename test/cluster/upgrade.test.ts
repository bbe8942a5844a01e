/**
 * Releases with different tables beside each other: a node waits for what an older database lacks until a master has added
 * it, however many start at once; and nodes go on, start and stop on a database to which a newer release has added more.
 */
import { expect, test } from 'bun:test'
import { asEngineDb } from '../../src/db/db.ts'
import { findMissing } from '../../src/db/index.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { createNode } from '../support/node.ts'
import { openWorld } from './database-world.ts'

/** What an older release did not have yet. */
const OLDER = [
  'drop table ledger_quarantine',
  'alter table logs drop column upstream_request_id',
  'alter table tokens drop column cross_group_retry, drop column model_limits',
  'alter table channels drop column header_override',
  'delete from schema_steps where step = 3',
]
/** What a newer one adds: first in the row, so that whoever counts columns instead of naming them is found out. */
const NEWER = [
  ...['users', 'tokens', 'channels', 'logs', 'quota_data', 'options', 'quota_allotments', 'ledger_applied'].map(
    (table) => `alter table ${table} add column of_next_release varchar(64) not null default 'unknown' first`,
  ),
  'alter table cluster_instances add column of_next_release bigint first',
  'create table next_things (id bigint auto_increment primary key, of_next_release json)',
  'create index idx_next_release on logs (of_next_release)',
  "insert into schema_steps (step, name, applied_at_ms) values (9000, 'of the next release', 1)",
]

const engine = SERVER_ENGINE
if (engine)
  test('nodes are upgraded in either order under load: they wait for what is missing and do not mind what is new', async () => {
    const testDb = await engine.freshDb()
    const raw = asEngineDb(testDb.db)
    for (const statement of OLDER) await raw.raw(statement, [], 'schema')
    const dsn = testDb.env.SQL_DSN ?? ''
    const env = { SQL_DSN: dsn, CRYPTO_SECRET: 'a crypto secret of tests, long enough', WORKERS: '1' }
    const early = await createNode({ env: { ...env, NODE_TYPE: 'slave', NODE_NAME: 'early' } })
    let world: Awaited<ReturnType<typeof openWorld>> | undefined
    const served = async (calls: number): Promise<void> => {
      const before = world?.load.ends.complete ?? 0
      await eventually('calls are served', () => (world?.load.ends.complete ?? 0) >= before + calls, {
        withinMs: 60_000,
      })
    }
    try {
      early.start()
      // A worker that has begun and is not ready: it waits for the tables.
      await eventually('the slave waits', async () => (await early.workerPids()).length === 1, { withinMs: 30_000 })
      await expect(early.ready(2_000)).rejects.toThrow('not within')
      expect((await findMissing(testDb.db)).length).toBeGreaterThan(4)
      // Both are masters, and both want to add what is missing.
      world = await openWorld(dsn, { env: { NODE_TYPE: 'master' } })
      await early.ready(60_000)
      expect(await findMissing(testDb.db)).toEqual([])
      await served(20)
      for (const statement of NEWER) await raw.raw(statement, [], 'schema')
      await served(20)
      // A node of this release starts, and one stops, on what the next one left.
      expect(await early.stop()).toBe(0)
      early.start()
      await early.ready(60_000)
      await served(20)
      expect(await early.stop()).toBe(0)
      console.log(`older and newer tables under load: ${await world.finish(dsn)}`)
    } finally {
      await world?.remove()
      await early.remove()
      await testDb.close()
    }
  }, 240_000)
