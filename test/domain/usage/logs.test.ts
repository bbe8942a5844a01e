import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createLogReads, type LogFilter, type LogReads } from '../../../src/domain/usage/index.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'

const NOW_SEC = 1_786_000_000
const clock = { now: () => NOW_SEC * 1000, monotonic: () => 0 }
const ALL = { offset: 0, size: 100 }

for (const engine of ENGINES) {
  describe(`call records on ${engine.name}`, () => {
    // Two databases, as with LOG_SQL_DSN: what joined them would fail here.
    let main: TestDb
    let logDb: TestDb
    let logs: LogReads

    type Row = Partial<TestDb['db']['tables']['logs']['$inferInsert']>
    const insert = async (...rows: readonly Row[]): Promise<void> => {
      await logDb.db.insert(logDb.db.tables.logs).values(rows.map((row) => ({ createdAt: NOW_SEC, type: 2, ...row })))
    }
    const found = async (filter: LogFilter): Promise<readonly string[]> =>
      (await logs.list(filter, ALL)).items.map(({ requestId }) => requestId).sort()

    beforeAll(async () => {
      ;[main, logDb] = await Promise.all([engine.freshDb(), engine.freshDb({ only: 'logs' })])
      logs = createLogReads({ db: main.db, logDb: logDb.db, clock })
      await main.db.insert(main.db.tables.channels).values([
        { id: 5, key: 'k', name: 'openai-main' },
        { id: 6, key: 'k', name: 'other' },
      ])
      await insert(
        {
          requestId: 'a',
          userId: 1,
          username: 'root',
          modelName: 'gpt-4o',
          channelId: 5,
          tokenId: 3,
          tokenName: 'demo',
          group: 'vip',
          quota: 100,
          promptTokens: 10,
          completionTokens: 5,
          isStream: true,
          useTime: 2,
          upstreamRequestId: 'up-a',
          content: '中文 😀',
          other: '{"model_ratio":1}',
        },
        {
          requestId: 'b',
          userId: 2,
          username: 'alice',
          modelName: 'gpt-4o-mini',
          channelId: 6,
          tokenId: 4,
          tokenName: 'b_b',
          group: 'default',
          quota: 20,
          promptTokens: 1,
          completionTokens: 1,
          createdAt: NOW_SEC - 30,
        },
        {
          requestId: 'c',
          userId: 2,
          username: 'alice',
          modelName: 'gpt_4o',
          channelId: 99,
          tokenId: 4,
          tokenName: 'bxb',
          group: 'default',
          quota: 3,
          createdAt: NOW_SEC - 3600,
        },
        {
          requestId: 'd',
          userId: 2,
          username: 'alice',
          type: 5,
          modelName: 'claude-x',
          createdAt: NOW_SEC - 10,
          quota: 7,
        },
        {
          requestId: 'e',
          userId: null,
          username: null,
          type: 3,
          modelName: null,
          createdAt: NOW_SEC - 5,
          other: null,
          content: null,
          isStream: null,
          quota: null,
        },
      )
    }, 120_000)
    afterAll(async () => {
      await Promise.all([main.close(), logDb.close()])
    })

    test('a record is read whole, with the name its channel has now', async () => {
      const { items, total } = await logs.list({ requestId: 'a' }, ALL)
      expect(total).toBe(1)
      expect(items).toEqual([
        {
          id: expect.any(Number),
          userId: 1,
          createdAtSec: NOW_SEC,
          type: 2,
          content: '中文 😀',
          username: 'root',
          apiKeyName: 'demo',
          modelName: 'gpt-4o',
          quota: 100,
          promptTokens: 10,
          completionTokens: 5,
          useTimeSec: 2,
          isStream: true,
          channelId: 5,
          channelName: 'openai-main',
          apiKeyId: 3,
          group: 'vip',
          ip: '',
          requestId: 'a',
          upstreamRequestId: 'up-a',
          other: '{"model_ratio":1}',
        },
      ])
    })

    test('NULL of older rows reads as the empty value, a deleted channel has no name', async () => {
      const { items } = await logs.list({ requestId: 'e' }, ALL)
      expect(items[0]).toMatchObject({
        userId: 0,
        username: '',
        content: '',
        quota: 0,
        isStream: false,
        channelName: '',
        other: '',
      })
      expect((await logs.list({ requestId: 'c' }, ALL)).items[0]).toMatchObject({ channelId: 99, channelName: '' })
    })

    test('newest first', async () => {
      const { items } = await logs.list({}, ALL)
      expect(items.map(({ requestId }) => requestId)).toEqual(['a', 'e', 'd', 'b', 'c'])
      const page = await logs.list({}, { offset: 1, size: 2 })
      expect(page.items.map(({ requestId }) => requestId)).toEqual(['e', 'd'])
      expect(page.total).toBe(5)
    })

    test.each<[LogFilter, readonly string[]]>([
      [{ type: 5 }, ['d']],
      [{ type: 0, username: '', channelId: 0 }, ['a', 'b', 'c', 'd', 'e']],
      [{ fromSec: NOW_SEC - 30, toSec: NOW_SEC - 5 }, ['b', 'd', 'e']],
      [{ userId: 2 }, ['b', 'c', 'd']],
      [{ username: 'alice', type: 2 }, ['b', 'c']],
      [{ apiKeyName: 'b_b' }, ['b']],
      [{ apiKeyId: 4 }, ['b', 'c']],
      [{ channelId: 5 }, ['a']],
      [{ group: 'vip' }, ['a']],
      [{ upstreamRequestId: 'up-a' }, ['a']],
      [{ modelName: 'gpt-4o' }, ['a']],
      [{ modelName: 'gpt-4o%' }, ['a', 'b']],
      [{ modelName: '%4o%' }, ['a', 'b', 'c']],
      [{ modelName: 'gpt_4o%' }, ['c']],
      [{ username: 'ali%' }, ['b', 'c', 'd']],
      [{ modelName: "x' or '1'='1" }, []],
    ])('filter %j', async (filter, expected) => {
      expect(await found(filter)).toEqual([...expected])
    })

    test.each(['%%', '%a%', 'gpt%%4o', '%g%p%t', 'a%'])(
      'a pattern that would read everything is refused: %s',
      async (modelName) => {
        await expect(logs.list({ modelName }, ALL)).rejects.toThrow('search_pattern_invalid')
      },
    )

    test('sums: quota of consumption in the range; calls and tokens of the last minute whatever the range', async () => {
      expect(await logs.sums({})).toEqual({ quota: 123, rpm: 2, tpm: 17 })
      expect(await logs.sums({ type: 5, userId: 2 })).toEqual({ quota: 23, rpm: 1, tpm: 2 })
      expect(await logs.sums({ toSec: NOW_SEC - 3600 })).toEqual({ quota: 3, rpm: 2, tpm: 17 })
      expect(await logs.sums({ username: 'nobody' })).toEqual({ quota: 0, rpm: 0, tpm: 0 })
    })

    test('the records of one key', async () => {
      expect((await logs.ofApiKey(4)).map(({ requestId }) => requestId)).toEqual(['c', 'b'])
    })

    test('a total is exact up to 10,000 and stops there; later rows can still be read', async () => {
      const many = [...Array(2_000).keys()].map((n) => ({
        userId: 77,
        username: 'many',
        promptTokens: n,
        createdAt: NOW_SEC - 100_000 - n,
      }))
      for (let round = 0; round < 4; round++) await insert(...many)
      expect((await logs.list({ userId: 77 }, ALL)).total).toBe(8_000)
      for (let round = 0; round < 2; round++) await insert(...many)
      const { total, items } = await logs.list({ userId: 77 }, { offset: 11_990, size: 100 })
      expect(total).toBe(10_000)
      expect(items).toHaveLength(10)
    }, 60_000)
  })
}
