import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { and, eq } from 'drizzle-orm'
import type { Db } from '../../src/db/index.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { createTestNode, newUser, type ReplyJson, setUp, type TestNode } from './harness.ts'

const inAnHour = (): number => Math.floor(Date.now() / 1000) + 3600

for (const engine of ENGINES) {
  describe(`redemption codes on ${engine.name}`, () => {
    let testDb: TestDb
    let db: Db
    let node: TestNode
    let other: TestNode
    let root: string
    beforeAll(async () => {
      testDb = await engine.freshDb()
      db = testDb.db
      node = await createTestNode(db)
      other = await createTestNode(db)
      root = await setUp(node)
    }, 120_000)
    afterAll(async () => {
      await other.close()
      await node.close()
      await testDb.close()
    })

    const create = (body: Record<string, unknown> = {}): Promise<string[]> =>
      node.ok('POST', '/api/redemption/', { token: root, body: { name: 'promo', count: 1, quota: 500, ...body } })
    const redeem = (token: string, key: string, on = node) =>
      on.call('POST', '/api/user/topup', { token, body: { key } })
    const quotaOf = async (token: string): Promise<number> => (await node.ok('GET', '/api/user/self', { token })).quota
    const byKey = async (key: string): Promise<ReplyJson> => {
      const { items } = await node.ok('GET', '/api/redemption/?page_size=100', { token: root })
      return items.find((item: ReplyJson) => item.key === key)
    }

    test('a code is turned into balance once, with its row of type 1 in the log', async () => {
      const user = await newUser(node, root)
      const [key = ''] = await create({ expired_time: inAnHour() })
      expect(key).toMatch(/^[0-9a-f]{32}$/)
      expect((await redeem(user.token, ` ${key}\n`)).json).toEqual({ success: true, message: '', data: 500 })
      expect(await quotaOf(user.token)).toBe(500)
      const code = await byKey(key)
      expect(code).toEqual({
        id: expect.any(Number),
        user_id: 1,
        key,
        status: 3,
        name: 'promo',
        quota: 500,
        created_time: expect.any(Number),
        redeemed_time: expect.any(Number),
        count: 0,
        used_user_id: user.id,
        DeletedAt: null,
        expired_time: expect.any(Number),
      })
      expect(code.redeemed_time).toBeGreaterThan(0)
      expect((await redeem(user.token, key)).json.code).toBe('redemption_failed')
      const { logs } = db.tables
      const rows = await db
        .select()
        .from(logs)
        .where(and(eq(logs.type, 1), eq(logs.userId, user.id)))
      expect(rows).toHaveLength(1)
      expect(rows[0]?.content).not.toContain(key)
    })

    test('of a hundred parallel tries by several users on two nodes exactly one gets the money', async () => {
      const users = await Promise.all(Array.from({ length: 4 }, () => newUser(node, root)))
      const [key = ''] = await create({ quota: 1234 })
      const tries = Array.from({ length: 100 }, (_, i) => redeem(users[i % 4]?.token ?? '', key, i % 2 ? node : other))
      const replies = await Promise.all(tries)
      expect(replies.filter((reply) => reply.json.success)).toHaveLength(1)
      expect(replies.filter((reply) => reply.json.code === 'redemption_failed')).toHaveLength(99)
      const quotas = await Promise.all(users.map((user) => quotaOf(user.token)))
      expect(quotas.reduce((sum, quota) => sum + quota, 0)).toBe(1234)
      const { logs } = db.tables
      expect(
        await db.$count(
          logs,
          and(eq(logs.type, 1), eq(logs.quota, 0), eq(logs.content, `redemption code ${(await byKey(key)).id}: 1234`)),
        ),
      ).toBe(1)
    }, 60_000)

    test('different codes in parallel are all credited', async () => {
      const user = await newUser(node, root)
      const keys = await create({ count: 20, quota: 7 })
      const replies = await Promise.all(keys.map((key, i) => redeem(user.token, key, i % 2 ? node : other)))
      expect(replies.filter((reply) => reply.json.success)).toHaveLength(20)
      expect(await quotaOf(user.token)).toBe(140)
    }, 60_000)

    test('unknown, disabled, expired, deleted and misspelt codes fail alike and credit nothing', async () => {
      const user = await newUser(node, root)
      const [disabled = '', expired = '', deleted = '', good = ''] = await create({ count: 4 })
      await node.ok('PUT', '/api/redemption/?status_only=true', {
        token: root,
        body: { id: (await byKey(disabled)).id, status: 2 },
      })
      await db.update(db.tables.redemptions).set({ expiredTime: 1 }).where(eq(db.tables.redemptions.key, expired))
      await node.ok('DELETE', `/api/redemption/${(await byKey(deleted)).id}`, { token: root })
      const hostile = [
        '',
        ' ',
        '%',
        "' or 1=1 -- ",
        'x'.repeat(32),
        '0'.repeat(32),
        good.toUpperCase(),
        `${good}0`,
        good.slice(1),
      ]
      const wrong = hostile.filter((key) => key !== good)
      const texts = new Set<string>()
      for (const key of [disabled, expired, deleted, ...wrong]) {
        const reply = await redeem(user.token, key)
        expect(reply.json.code).toBe('redemption_failed')
        texts.add(reply.json.message)
      }
      expect(texts.size).toBe(1)
      expect(await quotaOf(user.token)).toBe(0)
    })

    test('input is checked', async () => {
      const refused = (body: Record<string, unknown>) =>
        node.refused('POST', '/api/redemption/', {
          token: root,
          body: { name: 'promo', count: 1, quota: 500, ...body },
        })
      expect(await refused({ name: '' })).toBe('redemption_name_invalid')
      expect(await refused({ name: 'x'.repeat(21) })).toBe('redemption_name_invalid')
      for (const count of [0, 101, -1]) expect(await refused({ count })).toBe('amount_invalid')
      for (const quota of [0, -5, 2_147_483_648]) expect(await refused({ quota })).toBe('amount_invalid')
      expect(await refused({ count: 1.5 })).toBe('invalid_parameters')
      expect(await refused({ expired_time: 1 })).toBe('redemption_expiry_invalid')
      expect(await create({ name: '名'.repeat(20), count: 100 })).toHaveLength(100)
    })

    test('codes are edited, and a used one does not come back', async () => {
      const user = await newUser(node, root)
      const [key = ''] = await create()
      const { id } = await byKey(key)
      const edited = await node.ok('PUT', '/api/redemption/', {
        token: root,
        body: { id, name: 'changed', quota: 9, expired_time: 0, status: 3, key: 'f'.repeat(32), used_user_id: 1 },
      })
      expect(edited).toMatchObject({ id, key, name: 'changed', quota: 9, status: 1, used_user_id: 0 })
      await redeem(user.token, key)
      const revive = { token: root, body: { id, status: 1 } }
      expect(await node.refused('PUT', '/api/redemption/?status_only=true', revive)).toBe('redemption_failed')
      expect((await redeem(user.token, key)).json.code).toBe('redemption_failed')
      expect(
        await node.refused('PUT', '/api/redemption/', { token: root, body: { id: 999_999, name: 'x', quota: 1 } }),
      ).toBe('redemption_not_found')
    })

    test('search by id, beginning of the name and status; invalid ones are cleared together', async () => {
      const [a = '', b = '', c = ''] = await create({ name: 'find%me', count: 3 })
      await db.update(db.tables.redemptions).set({ expiredTime: 1 }).where(eq(db.tables.redemptions.key, b))
      const { id } = await byKey(c)
      await node.ok('PUT', '/api/redemption/?status_only=true', { token: root, body: { id, status: 2 } })
      const search = async (query: Record<string, string>) => {
        const { items } = await node.ok('GET', `/api/redemption/search?${new URLSearchParams(query)}`, { token: root })
        return items.map((item: ReplyJson) => item.key) as string[]
      }
      expect((await search({ keyword: 'find%' })).sort()).toEqual([a, b, c].sort())
      expect(await search({ keyword: 'findXme' })).toEqual([])
      expect(await search({ keyword: String(id) })).toContain(c)
      expect(await search({ keyword: 'find', status: '1' })).toEqual([a])
      expect(await search({ keyword: 'find', status: 'expired' })).toEqual([b])
      expect(await search({ keyword: 'find', status: '2' })).toEqual([c])
      expect(await node.ok('DELETE', '/api/redemption/invalid', { token: root })).toBeGreaterThanOrEqual(2)
      expect(await search({ keyword: 'find' })).toEqual([a])
    })

    test('what administrators do with codes is noted, without the codes', async () => {
      const [key = ''] = await create({ name: 'noted' })
      const { logs } = db.tables
      const rows = await db
        .select()
        .from(logs)
        .where(and(eq(logs.type, 3), eq(logs.content, 'redemption.create')))
      const note = rows.find((row) => row.other?.includes('noted'))
      expect(JSON.parse(note?.other ?? '{}').op.params).toMatchObject({ name: 'noted', count: 1, quota: 500 })
      expect(rows.some((row) => row.other?.includes(key))).toBe(false)
    })
  })

  describe(`redemption with a log database of its own on ${engine.name}`, () => {
    test('the log row of a credit is queued in the transaction of the credit', async () => {
      const main = await engine.freshDb()
      const logs = await engine.freshDb({ only: 'logs' })
      const node = await createTestNode(main.db, { logDb: logs.db })
      try {
        const root = await setUp(node)
        const user = await newUser(node, root)
        const [key] = await node.ok('POST', '/api/redemption/', {
          token: root,
          body: { name: 'q', count: 1, quota: 5 },
        })
        await node.ok('POST', '/api/user/topup', { token: user.token, body: { key } })
        const queued = await main.db.select().from(main.db.tables.ledgerLogQueue)
        expect(queued.map((row) => JSON.parse(row.row))).toMatchObject([{ type: 1, userId: user.id }])
        expect(await logs.db.$count(logs.db.tables.logs, eq(logs.db.tables.logs.type, 3))).toBe(2)
      } finally {
        await node.close()
        await logs.close()
        await main.close()
      }
    }, 60_000)
  })
}
