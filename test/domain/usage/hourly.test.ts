import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createHourlyReads, createModelCatalog, type HourlyReads } from '../../../src/domain/usage/index.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'

const HOUR = 1_786_003_200

for (const engine of ENGINES) {
  describe(`hourly sums on ${engine.name}`, () => {
    let testDb: TestDb
    let hourly: HourlyReads
    beforeAll(async () => {
      testDb = await engine.freshDb()
      const { db } = testDb
      hourly = createHourlyReads({ db })
      await db.insert(db.tables.channels).values({ id: 5, key: 'k', name: 'main', type: 1, models: 'b, a,,a' })
      await db.insert(db.tables.tokens).values({ id: 3, userId: 1, key: 'key-3', name: 'demo' })
      const row = {
        userId: 1,
        username: 'root',
        modelName: 'gpt-4o',
        createdAt: HOUR,
        useGroup: 'default',
        tokenId: 3,
        channelId: 5,
        nodeName: 'n1',
        tokenUsed: 10,
        count: 1,
        quota: 100,
      }
      await db.insert(db.tables.quotaData).values([
        row,
        row, // stored twice: two nodes flushed at the same moment
        { ...row, nodeName: 'n2', quota: 1000 },
        { ...row, createdAt: HOUR + 3600, quota: 7 },
        {
          ...row,
          userId: 2,
          username: 'alice',
          tokenId: 0,
          channelId: 0,
          modelName: 'claude-x',
          quota: 9_000_000_000_000,
        },
      ])
    }, 120_000)
    afterAll(() => testDb.close())

    const range = { fromSec: HOUR, toSec: HOUR }

    test('by model and hour, parts of a row summed', async () => {
      expect([...(await hourly.byModel(range))].sort((a, b) => a.quota - b.quota)).toEqual([
        { modelName: 'gpt-4o', createdAtSec: HOUR, userId: 0, username: '', count: 3, quota: 1200, tokenUsed: 30 },
        {
          modelName: 'claude-x',
          createdAtSec: HOUR,
          userId: 0,
          username: '',
          count: 1,
          quota: 9_000_000_000_000,
          tokenUsed: 10,
        },
      ])
      expect(await hourly.byModel({ fromSec: 0, toSec: 0, username: 'alice' })).toMatchObject([
        { userId: 2, username: 'alice' },
      ])
      expect(await hourly.byModel({ fromSec: HOUR + 1, toSec: 0, userId: 1 })).toMatchObject([{ userId: 1, quota: 7 }])
      expect(await hourly.byModel({ fromSec: HOUR + 9999, toSec: 0 })).toEqual([])
    })

    test('by user and hour', async () => {
      expect([...(await hourly.byUser(range))].sort((a, b) => a.quota - b.quota)).toEqual([
        { username: 'root', createdAtSec: HOUR, count: 3, quota: 1200, tokenUsed: 30 },
        { username: 'alice', createdAtSec: HOUR, count: 1, quota: 9_000_000_000_000, tokenUsed: 10 },
      ])
    })

    test('flows by the dimensions asked for, the largest first, with the names of channels and keys', async () => {
      const flows = await hourly.flows(range, ['user', 'group', 'model', 'channel', 'node', 'apiKey'])
      expect(flows.map(({ quota }) => quota)).toEqual([9_000_000_000_000, 1000, 200])
      expect(flows[2]).toEqual({
        userId: 1,
        username: 'root',
        useGroup: 'default',
        modelName: 'gpt-4o',
        channelId: 5,
        channelName: 'main',
        nodeName: 'n1',
        apiKeyId: 3,
        apiKeyName: 'demo',
        count: 2,
        quota: 200,
        tokenUsed: 20,
      })
      const own = await hourly.flows({ ...range, userId: 1 }, ['group', 'model', 'apiKey'])
      expect(own).toEqual([
        {
          userId: 0,
          username: '',
          useGroup: 'default',
          modelName: 'gpt-4o',
          channelId: 0,
          channelName: '',
          nodeName: '',
          apiKeyId: 3,
          apiKeyName: 'demo',
          count: 3,
          quota: 1200,
          tokenUsed: 30,
        },
      ])
    })

    test('models are described by their own name first, then by the longest rule that fits', async () => {
      const { db } = testDb
      await db.insert(db.tables.vendors).values([
        { id: 1, name: 'OpenAI', icon: 'OpenAI', status: 1 },
        { id: 2, name: 'Off', status: 0 },
      ])
      await db.insert(db.tables.models).values([
        { modelName: 'gpt', nameRule: 1, description: 'prefix', status: 1, vendorId: 1, endpoints: '["openai"]' },
        {
          modelName: 'gpt-4',
          nameRule: 1,
          description: 'longer prefix',
          status: 1,
          endpoints: '{"x":{"path":"/x","method":"GET"}}',
        },
        { modelName: 'gpt-4o', nameRule: 0, description: 'exact', status: 1, endpoints: 'oops' },
        { modelName: 'mini', nameRule: 3, description: 'suffix', status: 1 },
        { modelName: 'o1', nameRule: 0, description: 'switched off', status: 0 },
      ])
      const { vendors, describe: of } = await createModelCatalog({ db, clock: systemClock }).load()
      expect(vendors).toEqual([{ id: 1, name: 'OpenAI', icon: 'OpenAI' }])
      expect(of('gpt-4o')).toMatchObject({ description: 'exact', endpoints: undefined })
      expect(of('gpt-4o-mini')).toMatchObject({
        description: 'longer prefix',
        endpoints: { x: { path: '/x', method: 'GET' } },
      })
      expect(of('gpt-5')).toMatchObject({
        description: 'prefix',
        vendorId: 1,
        endpoints: { openai: { method: 'POST' } },
      })
      expect(of('o4-mini')).toMatchObject({ description: 'suffix' })
      expect(of('o1')).toBeUndefined()
      expect(await createModelCatalog({ db, clock: systemClock }).byChannelType()).toEqual(new Map([[1, ['a', 'b']]]))
    })
  })
}
