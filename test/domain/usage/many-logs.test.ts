/**
 * Pages of call records over many rows: totals are exact up to ten thousand and end there, a page reads about what it shows
 * and counts, and sums over long ranges come from the hourly sums. SOAK takes millions of rows.
 */
import { expect, test } from 'bun:test'
import { asEngineDb } from '../../../src/db/db.ts'
import { buildIndexes } from '../../../src/db/index.ts'
import { createLogReads, type LogFilter } from '../../../src/domain/usage/index.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { SERVER_ENGINE } from '../../support/engines.ts'

const ROWS = process.env['SOAK'] ? 3_000_000 : 200_000
const SEED_ROWS = 10_000
const NOW_SEC = 1_786_000_000
const MAX_COUNTED = 10_000
const HOUR_SEC = 3_600
const clock = { now: () => NOW_SEC * 1000, monotonic: () => 0 }

if (SERVER_ENGINE) {
  const engine = SERVER_ENGINE
  test(`pages and sums over ${ROWS} call records`, async () => {
    const testDb = await engine.freshDb()
    try {
      const { db } = testDb
      const raw = asEngineDb(db)
      const { logs, quotaData } = db.tables
      // A row each second, the newest now; user 7 has few, user 1 every fifth.
      await db.insert(logs).values(
        Array.from({ length: SEED_ROWS }, (_, n) => ({
          createdAt: NOW_SEC - n,
          type: n % 50 === 0 ? 5 : 2,
          userId: n % 1_000 === 0 ? 7 : n % 5,
          username: n % 1_000 === 0 ? 'rare' : `user${n % 5}`,
          tokenName: `key${n % 20}`,
          tokenId: n % 20,
          modelName: `model-${n % 10}`,
          channelId: n % 8,
          group: n % 3 === 0 ? 'vip' : 'default',
          quota: 10,
          requestId: `request-${n}`,
          upstreamRequestId: `upstream-${n}`,
        })),
      )
      // Rows come faster without the indexes, which are built as for any big table.
      const { rows: indexes } = await raw.raw(
        "select distinct index_name from information_schema.statistics where table_schema = database() and table_name = 'logs' and index_name <> 'PRIMARY'",
        [],
        'read',
      )
      await raw.raw(`alter table logs ${indexes.map(([name]) => `drop index \`${name}\``).join(', ')}`, [], 'schema')
      for (let rows = SEED_ROWS; rows < ROWS; rows += SEED_ROWS)
        await raw.raw(
          `insert into logs (created_at, type, user_id, username, token_name, token_id, model_name, channel_id, \`group\`, quota, request_id, upstream_request_id)
           select created_at - ${rows}, type, user_id, username, token_name, token_id, model_name, channel_id, \`group\`, quota, concat(request_id, '-${rows}'), upstream_request_id
           from logs where id <= ${SEED_ROWS}`,
        )
      expect(await buildIndexes(db, { log: silentLog })).toBe(indexes.length)
      expect(await db.$count(logs)).toBe(ROWS)
      await raw.raw('analyze table logs', [], 'schema')
      const consumed = await raw.raw('select sum(quota), min(created_at) from logs where type = 2', [], 'read')
      const oldestHourSec = Math.floor((NOW_SEC - ROWS) / HOUR_SEC) * HOUR_SEC
      // What the hourly sums say differs from the rows, so that it shows where a sum came from.
      await db.insert(quotaData).values(
        Array.from({ length: Math.floor((NOW_SEC - oldestHourSec) / HOUR_SEC) }, (_, n) => ({
          userId: 1,
          username: 'user1',
          modelName: 'model-1',
          createdAt: oldestHourSec + n * HOUR_SEC,
          quota: 1_000_000,
          count: 1,
        })),
      )
      let exported = true
      const reads = createLogReads({ db, logDb: db, clock, isExported: () => exported })

      /** Rows and index entries that the server has looked at so far. */
      const rowsRead = async (): Promise<number> =>
        (await raw.raw("show global status like 'Handler\\_read%'", [], 'read')).rows.reduce(
          (sum, [, value]) => sum + Number(value),
          0,
        )
      const times: string[] = []
      const page = async (name: string, filter: LogFilter, offset = 0) => {
        const before = await rowsRead()
        const startedAt = performance.now()
        const found = await reads.list(filter, { offset, size: 100 })
        const took = Math.round(performance.now() - startedAt)
        const rows = (await rowsRead()) - before
        times.push(`${name} ${took} ms (${rows} rows)`)
        // Each row that is shown, skipped or counted, and not the table.
        expect({ name, isBounded: rows < 4 * MAX_COUNTED + 4 * offset }).toEqual({ name, isBounded: true })
        return found
      }
      const newest = await page('all', {})
      expect(newest).toMatchObject({ total: MAX_COUNTED, isTotalCapped: true })
      expect(newest.items.map((row) => row.createdAtSec)).toEqual(Array.from({ length: 100 }, (_, n) => NOW_SEC - n))
      expect((await page('deep', {}, 5_000)).items[0]?.createdAtSec).toBe(NOW_SEC - 5_000)
      expect((await page('one hour', { fromSec: NOW_SEC - 3_599, toSec: NOW_SEC })).total).toBe(3_600)
      expect((await page('a user', { userId: 1 })).total).toBe(MAX_COUNTED)
      expect((await page('a user with few', { userId: 7 })).total).toBe(Math.min(MAX_COUNTED, ROWS / 1_000))
      expect(await page('a request', { requestId: 'request-77' })).toMatchObject({ total: 1, isTotalCapped: false })
      expect((await page('a request upstream', { upstreamRequestId: 'upstream-77' })).total).toBe(ROWS / SEED_ROWS)
      expect((await page('a model', { modelName: 'model-3' })).total).toBe(Math.min(MAX_COUNTED, ROWS / 10))
      expect((await page('a channel', { channelId: 3 })).total).toBe(MAX_COUNTED)
      expect((await page('a key', { apiKeyName: 'key3' })).total).toBe(Math.min(MAX_COUNTED, ROWS / 20))
      expect((await page('a name', { username: 'user3' })).total).toBe(MAX_COUNTED)
      expect((await page('errors', { type: 5 })).total).toBe(Math.min(MAX_COUNTED, ROWS / 50))
      expect((await page('log-ins', { type: 7 })).total).toBe(0)
      const early = { fromSec: NOW_SEC - ROWS / 2, toSec: NOW_SEC - ROWS / 4 }
      expect((await page('a user, long ago', { username: 'user2', ...early })).total).toBe(MAX_COUNTED)
      expect((await page('a user and a model, long ago', { userId: 1, modelName: 'model-1', ...early })).total).toBe(
        Math.min(MAX_COUNTED, Math.floor(ROWS / 40)),
      )
      expect(
        (await page('errors of a model, long ago', { type: 5, modelName: 'model-0', ...early })).total,
      ).toBeGreaterThan(0)
      expect((await page('errors of an hour', { type: 5, fromSec: NOW_SEC - 3_599 })).total).toBe(72)

      // A long range: whole hours from the sums, the present hour from the rows.
      const presentHourSec = Math.floor(NOW_SEC / HOUR_SEC) * HOUR_SEC
      const inPresentHour = await raw.raw(
        `select sum(quota) from logs where type = 2 and created_at >= ${presentHourSec}`,
        [],
        'read',
      )
      const hours = (presentHourSec - oldestHourSec) / HOUR_SEC
      const before = await rowsRead()
      const long = await reads.sums({})
      expect(long.quota).toBe(hours * 1_000_000 + Number(inPresentHour.rows[0]?.[0]))
      expect((await rowsRead()) - before).toBeLessThan(ROWS / 4)
      expect((await reads.sums({ username: 'user2' })).quota).toBeLessThan(1_000_000)
      // Where the hours cannot tell, or are not kept, and in a short range, the rows do.
      const perKey = await raw.raw("select sum(quota) from logs where type = 2 and token_name = 'key3'", [], 'read')
      expect((await reads.sums({ apiKeyName: 'key3' })).quota).toBe(Number(perKey.rows[0]?.[0]))
      expect((await reads.sums({ fromSec: NOW_SEC - 99 })).quota).toBe(98 * 10)
      exported = false
      expect((await reads.sums({})).quota).toBe(Number(consumed.rows[0]?.[0]))
      console.log(`${ROWS} call records: ${times.join(', ')}`)
    } finally {
      await testDb.close()
    }
  }, 900_000)
}
