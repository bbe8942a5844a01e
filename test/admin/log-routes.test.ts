import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { dataRoutes } from '../../src/admin/data-routes.ts'
import { logRoutes } from '../../src/admin/log-routes.ts'
import { createHourlyReads, createLogReads } from '../../src/domain/usage/index.ts'
import { GatewayError } from '../../src/errors.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { asPeople } from './as-people.ts'

const NOW_SEC = 1_786_000_000
const clock = { now: () => NOW_SEC * 1000, monotonic: () => 0 }
const OTHER = {
  model_ratio: 1.25,
  channel_id: 5,
  channel_name: 'main',
  channel_type: 1,
  admin_info: { attempts: [{ channel: 5 }] },
  audit_info: { route: '/x' },
}

for (const engine of ENGINES) {
  describe(`log and dashboard routes on ${engine.name}`, () => {
    let testDb: TestDb
    let people: ReturnType<typeof asPeople>

    beforeAll(async () => {
      testDb = await engine.freshDb()
      const { db } = testDb
      people = asPeople((http) => [
        logRoutes({
          logs: createLogReads({ db, logDb: db, clock }),
          http,
          async readableApiKey(request) {
            const credential = request.headers.get('authorization')
            if (credential === 'Bearer sk-down') throw new GatewayError('dependency_unavailable')
            if (credential !== 'Bearer sk-alice') throw new GatewayError('invalid_api_key')
            return { apiKeyId: 30 }
          },
        }),
        dataRoutes({ hourly: createHourlyReads({ db }), http }),
      ])
      await db.insert(db.tables.channels).values({ id: 5, key: 'secret-key', name: 'main' })
      await db.insert(db.tables.tokens).values({ id: 30, userId: 3, key: 'k30', name: 'laptop' })
      const mine = {
        userId: 3,
        username: 'alice',
        tokenId: 30,
        tokenName: 'laptop',
        createdAt: NOW_SEC,
        type: 2,
        modelName: 'gpt-4o',
        group: 'vip',
        channelId: 5,
      }
      await db.insert(db.tables.logs).values([
        {
          ...mine,
          requestId: 'r1',
          quota: 10,
          promptTokens: 4,
          completionTokens: 2,
          isStream: true,
          other: JSON.stringify(OTHER),
          upstreamRequestId: 'up',
        },
        { ...mine, requestId: 'r2', quota: 5, type: 5, other: '' },
        { ...mine, userId: 1, username: 'root', tokenId: 1, requestId: 'r3', quota: 100, other: '{broken' },
      ])
      const hour = {
        userId: 3,
        username: 'alice',
        modelName: 'gpt-4o',
        createdAt: 1_785_999_600,
        useGroup: 'vip',
        tokenId: 30,
        channelId: 5,
        nodeName: 'n1',
        tokenUsed: 6,
        count: 1,
        quota: 10,
      }
      await db
        .insert(db.tables.quotaData)
        .values([hour, { ...hour, userId: 1, username: 'root', tokenId: 0, quota: 100 }])
    }, 120_000)
    afterAll(() => testDb.close())

    const page = async (person: string, path: string) => {
      const { json } = await people.ask(person, 'GET', path)
      return json.data as {
        total: number
        page: number
        page_size: number
        is_total_capped: boolean
        items: Record<string, unknown>[]
      }
    }

    test('administrators see every record whole, in the types that clients parse', async () => {
      const { items, ...rest } = await page('admin', '/api/log/?p=1&page_size=20&request_id=r1')
      expect(rest).toEqual({ page: 1, page_size: 20, total: 1, is_total_capped: false })
      expect(items[0]).toEqual({
        id: expect.any(Number),
        user_id: 3,
        created_at: NOW_SEC,
        type: 2,
        content: '',
        username: 'alice',
        token_name: 'laptop',
        model_name: 'gpt-4o',
        quota: 10,
        prompt_tokens: 4,
        completion_tokens: 2,
        use_time: 0,
        is_stream: true,
        channel: 5,
        channel_name: 'main',
        token_id: 30,
        group: 'vip',
        ip: '',
        request_id: 'r1',
        upstream_request_id: 'up',
        other: JSON.stringify(OTHER),
      })
      expect((await page('admin', '/api/log?username=root')).items[0]).not.toHaveProperty('upstream_request_id')
    })

    test('users see their own records only, without channels and what is for administrators', async () => {
      const { items, total } = await page('alice', '/api/log/self?username=root&channel=7')
      expect(total).toBe(2)
      expect(items.map(({ id, request_id }) => [id, request_id])).toEqual([
        [1, 'r2'],
        [2, 'r1'],
      ])
      expect(items.map(({ channel, channel_name }) => [channel, channel_name])).toEqual([
        [0, ''],
        [0, ''],
      ])
      expect(items.map(({ other }) => other)).toEqual(['null', '{"model_ratio":1.25}'])
    })

    test('running numbers go on over pages', async () => {
      expect((await page('alice', '/api/log/self?p=2&page_size=1')).items).toMatchObject([{ id: 2, request_id: 'r1' }])
    })

    test('what cannot be cleaned is not shown to users', async () => {
      expect((await page('root', '/api/log/self')).items[0]).toMatchObject({ other: 'null' })
      expect((await page('root', '/api/log/?request_id=r3')).items[0]).toMatchObject({ other: '{broken' })
    })

    test('sums for all, and for one’s own', async () => {
      const sums = async (person: string, path: string) => (await people.ask(person, 'GET', path)).json.data
      expect(await sums('admin', '/api/log/stat?type=0')).toEqual({ quota: 110, rpm: 2, tpm: 6 })
      expect(await sums('alice', '/api/log/self/stat?username=root')).toEqual({ quota: 10, rpm: 1, tpm: 6 })
    })

    test('roles: everyone’s records and sums are for administrators', async () => {
      for (const path of ['/api/log/', '/api/log/stat', '/api/data/', '/api/data/users', '/api/data/flow']) {
        expect((await people.ask('alice', 'GET', path)).status).toBe(403)
        expect((await people.ask('', 'GET', path)).status).toBe(401)
      }
    })

    test('a costly pattern and the withdrawn search say why', async () => {
      expect((await people.ask('admin', 'GET', '/api/log/?model_name=%25%25')).json).toMatchObject({
        success: false,
        code: 'search_pattern_invalid',
      })
      expect((await people.ask('admin', 'GET', '/api/log/search?keyword=x')).json).toMatchObject({
        success: false,
        code: 'withdrawn',
      })
      expect((await people.ask('alice', 'GET', '/api/log/self/search')).json.message).toContain('/api/log/self/')
    })

    test('an API key reads its own records from a page of any origin; another is 401 without a code', async () => {
      const own = await people.ask('sk-alice', 'GET', '/api/log/token')
      expect(own.headers.get('access-control-allow-origin')).toBe('*')
      expect((own.json.data as { request_id: string }[]).map(({ request_id }) => request_id)).toEqual(['r2', 'r1'])
      expect(JSON.stringify(own.json)).not.toContain('admin_info')
      const refused = await people.ask('sk-nobody', 'GET', '/api/log/token')
      expect([refused.status, Object.keys(refused.json).sort()]).toEqual([401, ['message', 'success']])
      expect((await people.ask('sk-down', 'GET', '/api/log/token')).status).toBe(503)
      expect((await people.ask('', 'OPTIONS', '/api/log/token')).headers.get('access-control-allow-headers')).toContain(
        'authorization',
      )
    })

    test('the dashboard: by model, by user, own', async () => {
      const rows = async (person: string, path: string) => (await people.ask(person, 'GET', path)).json.data
      const span = 'start_timestamp=1785999600&end_timestamp=1786003200&default_time=hour'
      const zero = { id: 0, use_group: '', token_id: 0, channel_id: 0, node_name: '', created_at: 1_785_999_600 }
      expect(await rows('admin', `/api/data?${span}`)).toEqual([
        { ...zero, user_id: 0, username: '', model_name: 'gpt-4o', token_used: 12, count: 2, quota: 110 },
      ])
      expect(await rows('admin', `/api/data/?${span}&username=alice`)).toMatchObject([
        { user_id: 3, username: 'alice', quota: 10 },
      ])
      expect(await rows('admin', `/api/data/users?${span}`)).toHaveLength(2)
      expect(await rows('alice', `/api/data/self?${span}`)).toMatchObject([
        { user_id: 3, model_name: 'gpt-4o', quota: 10 },
      ])
    })

    test('flows: keys and nodes for root only, own flows without channels, a month at most', async () => {
      const span = 'start_timestamp=1785999600&end_timestamp=1786003200'
      const rows = async (person: string, path: string) => (await people.ask(person, 'GET', path)).json.data
      const base = { use_group: 'vip', model_name: 'gpt-4o', token_used: 6, count: 1 }
      const channel = { channel_id: 5, channel_name: 'main' }
      expect(await rows('admin', `/api/data/flow?${span}`)).toEqual([
        { ...base, ...channel, user_id: 1, username: 'root', quota: 100 },
        { ...base, ...channel, user_id: 3, username: 'alice', quota: 10 },
      ])
      expect(await rows('root', `/api/data/flow?${span}&username=alice`)).toEqual([
        {
          ...base,
          ...channel,
          user_id: 3,
          username: 'alice',
          quota: 10,
          node_name: 'n1',
          token_id: 30,
          token_name: 'laptop',
        },
      ])
      expect(await rows('alice', `/api/data/flow/self?${span}`)).toEqual([
        { ...base, token_id: 30, token_name: 'laptop', quota: 10 },
      ])
      for (const path of [
        'flow',
        'flow/self',
        'flow/self?start_timestamp=1&end_timestamp=9999999',
        'self?start_timestamp=1&end_timestamp=9999999',
      ])
        expect((await people.ask('root', 'GET', `/api/data/${path}`)).json).toMatchObject({
          success: false,
          code: 'time_range_invalid',
        })
    })
  })
}
