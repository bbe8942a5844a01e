/** Hourly usage finds its rows without reading those of others: of what comes once nothing is looked for. */
import { expect, test } from 'bun:test'
import type { Db } from '../../../src/db/index.ts'
import type { Charge } from '../../../src/domain/billing/charge.ts'
import { createUsageRows } from '../../../src/domain/billing/usage-rows.ts'
import { ENGINES } from '../../support/engines.ts'

const HOUR_SEC = 1_800_000_000

const chargeOf = (channelId: number): Charge => ({
  requestId: `r${channelId}`,
  type: 2,
  createdAtSec: HOUR_SEC + 5,
  userId: 1,
  username: 'user',
  apiKeyId: 1,
  apiKeyName: 'key',
  modelName: 'model',
  channelId,
  group: 'default',
  ip: '',
  content: '',
  promptTokens: 1,
  completionTokens: 2,
  useTimeSec: 0,
  isStream: false,
  isCounted: true,
  quota: 10,
  accounts: ['u:1'],
  node: 'node',
  other: '',
})

for (const engine of ENGINES)
  test(`a thousand channels that each serve a call, on ${engine.name}`, async () => {
    const testDb = await engine.freshDb()
    try {
      const { db } = testDb
      const { quotaData } = db.tables
      let looks = 0
      const counted: Db = {
        ...db,
        select: ((...fields: Parameters<Db['select']>) => {
          looks++
          return db.select(...fields)
        }) as Db['select'],
      }
      const usage = createUsageRows({ db: counted })
      const locate = (channels: readonly number[]) => usage.locate(channels.map(chargeOf), (text) => text)
      for (let from = 0; from < 1_000; from += 100) {
        const { known, fresh } = await locate(Array.from({ length: 100 }, (_, n) => from + n))
        expect([known.length, fresh.length, looks]).toEqual([0, 100, 0])
        await db.insert(quotaData).values([...fresh])
      }
      // What comes again is found, once for all, and nothing beside it.
      const again = await locate([7, 500, 2_000])
      expect([again.known.length, again.fresh.length, looks]).toEqual([2, 1, 1])
      expect((await locate([7, 500])).known.length).toBe(2)
      expect(looks).toBe(1)
      // Somebody cleaned up: what is not there any more is a new row.
      await db.delete(quotaData)
      usage.forget()
      const after = await locate([7, 500])
      expect([after.known.length, after.fresh.length]).toEqual([0, 2])
    } finally {
      await testDb.close()
    }
  })
