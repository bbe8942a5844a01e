import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { eq, sql } from 'drizzle-orm'
import type { Db } from '../../src/db/index.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { createTestNode, newUser, type ReplyJson, setUp, type TestNode } from './harness.ts'

const IP = '127.0.0.1'

for (const engine of ENGINES) {
  describe(`API keys on ${engine.name}`, () => {
    let testDb: TestDb
    let db: Db
    let node: TestNode
    let root: string
    let user: Awaited<ReturnType<typeof newUser>>
    beforeAll(async () => {
      testDb = await engine.freshDb()
      db = testDb.db
      node = await createTestNode(db)
      root = await setUp(node)
      user = await newUser(node, root)
    }, 120_000)
    afterAll(async () => {
      await node.close()
      await testDb.close()
    })

    const create = (body: Record<string, unknown> = {}, token = user.token): Promise<{ id: number; key: string }> =>
      node.ok('POST', '/api/token/', { token, body: { name: 'k', ...body } })
    const read = (id: number): Promise<ReplyJson> => node.ok('GET', `/api/token/${id}`, { token: user.token })
    const put = (body: Record<string, unknown>, query = '') =>
      node.call('PUT', `/api/token/${query}`, { token: user.token, body })
    const rowOf = async (id: number) => {
      const [row] = await db.select().from(db.tables.tokens).where(eq(db.tables.tokens.id, id))
      if (!row) throw new Error('no such row')
      return row
    }
    /** What a flush does with a charge on a key: the balance falls as the counter rises. */
    const spend = async (id: number, amount: number, from: 'balance' | 'allotment' = 'balance'): Promise<void> => {
      const { tokens, quotaAllotments } = db.tables
      await db.transaction(async (tx) => {
        await tx
          .update(tokens)
          .set({
            usedQuota: sql`${tokens.usedQuota} + ${amount}`,
            ...(from === 'balance' && { remainQuota: sql`${tokens.remainQuota} - ${amount}` }),
          })
          .where(eq(tokens.id, id))
        if (from === 'allotment') {
          await tx
            .update(quotaAllotments)
            .set({ amount: sql`${quotaAllotments.amount} - ${amount}` })
            .where(eq(quotaAllotments.account, `t:${id}`))
        }
      })
    }

    test('a new key is 48 random letters and digits, shown once and masked afterwards, and works at once', async () => {
      const { id, key } = await create({ unlimited_quota: true })
      expect(key).toMatch(/^[A-Za-z0-9]{48}$/)
      expect(await read(id)).toEqual({
        id,
        user_id: user.id,
        key: `${key.slice(0, 4)}**********${key.slice(-4)}`,
        status: 1,
        name: 'k',
        created_time: expect.any(Number),
        accessed_time: expect.any(Number),
        expired_time: -1,
        remain_quota: 0,
        unlimited_quota: true,
        model_limits_enabled: false,
        model_limits: '',
        allow_ips: '',
        used_quota: 0,
        group: '',
        cross_group_retry: false,
        DeletedAt: null,
        auto_groups: null,
        rpm_limit: 0,
        tpm_limit: 0,
        concurrency_limit: 0,
      })
      for (const path of ['/api/token/', '/api/token/search?keyword=k', `/api/token/${id}`]) {
        expect((await node.call('GET', path, { token: user.token })).text).not.toContain(key)
      }
      expect(await node.ok('POST', `/api/token/${id}/key`, { token: user.token })).toEqual({ key })
      expect((await node.accounts.authenticate(`sk-${key}`, () => IP)).apiKeyId).toBe(id)
    })

    test('every key is drawn anew', async () => {
      const keys = await Promise.all(Array.from({ length: 20 }, async () => (await create()).key))
      expect(new Set(keys).size).toBe(20)
    })

    test('nobody sees, changes, reveals or deletes another user’s key', async () => {
      const { id, key } = await create({ unlimited_quota: true })
      for (const token of [(await newUser(node, root)).token, root]) {
        expect(await node.refused('GET', `/api/token/${id}`, { token })).toBe('api_key_not_found')
        expect(await node.refused('POST', `/api/token/${id}/key`, { token })).toBe('api_key_not_found')
        expect(await node.refused('PUT', '/api/token/', { token, body: { id, name: 'mine' } })).toBe(
          'api_key_not_found',
        )
        expect(await node.refused('PUT', '/api/token/?status_only=true', { token, body: { id, status: 2 } })).toBe(
          'api_key_not_found',
        )
        expect(await node.refused('DELETE', `/api/token/${id}`, { token })).toBe('api_key_not_found')
        expect(await node.ok('POST', '/api/token/batch', { token, body: { ids: [id] } })).toBe(0)
        expect(await node.ok('POST', '/api/token/batch/keys', { token, body: { ids: [id] } })).toEqual({ keys: {} })
        expect((await node.call('GET', '/api/token/', { token })).json.data.items).toEqual([])
        expect((await node.ok('GET', `/api/token/search?token=${key}`, { token })).items).toEqual([])
      }
      expect((await rowOf(id)).name).toBe('k')
    })

    test('fields that are not of the form are ignored and never stored', async () => {
      const { id, key } = await create({ key: 'chosen', user_id: 1, used_quota: 99, id: 1, status: 4, created_time: 5 })
      expect(key).not.toBe('chosen')
      const reply = await put({ id, key: 'chosen', user_id: 1, created_time: 5, deleted_at: '2020-01-01', status: 2 })
      expect(reply.json.success).toBe(true)
      expect(await rowOf(id)).toMatchObject({ key, userId: user.id, usedQuota: 0, status: 1, deletedAt: null })
      expect((await rowOf(id)).createdTime).toBeGreaterThan(5)
    })

    test('limits of calls are numbers from 0 up, set one by one, and kept where an edit does not name them', async () => {
      const { id } = await create({ rpm_limit: 60, concurrency_limit: 5 })
      expect(await read(id)).toMatchObject({ rpm_limit: 60, tpm_limit: 0, concurrency_limit: 5 })
      await put({ id, tpm_limit: 2_147_483_647, name: 'renamed' })
      expect(await read(id)).toMatchObject({ rpm_limit: 60, tpm_limit: 2_147_483_647, concurrency_limit: 5 })
      await put({ id, rpm_limit: 0 })
      expect(await rowOf(id)).toMatchObject({ rpmLimit: 0, tpmLimit: 2_147_483_647, concurrencyLimit: 5 })
      for (const wrong of [-1, 1.5, 2_147_483_648, 'many', null])
        expect((await put({ id, rpm_limit: wrong })).json.code).toBe('invalid_parameters')
      expect((await read(id)).rpm_limit).toBe(0)
    })

    test('limits of names, quotas, expiry, addresses and groups', async () => {
      const refused = (body: Record<string, unknown>) =>
        node.refused('POST', '/api/token/', { token: user.token, body: { name: 'k', ...body } })
      expect(await refused({ name: 'x'.repeat(51) })).toBe('api_key_name_too_long')
      expect(await refused({ name: '名'.repeat(17) })).toBe('api_key_name_too_long')
      expect(await refused({ remain_quota: -1 })).toBe('api_key_quota_invalid')
      expect(await refused({ remain_quota: 2_147_483_648 })).toBe('api_key_quota_invalid')
      expect(await refused({ remain_quota: 1.5 })).toBe('invalid_parameters')
      expect(await refused({ remain_quota: 'many' })).toBe('invalid_parameters')
      expect(await refused({ expired_time: -2 })).toBe('invalid_parameters')
      expect(await refused({ allow_ips: '10.0.0.1\nnot-an-address' })).toBe('api_key_ips_invalid')
      expect(await refused({ allow_ips: '10.0.0.0/33' })).toBe('api_key_ips_invalid')
      expect(await refused({ group: 'auto', auto_groups: ['default', 'default'] })).toBe('api_key_groups_invalid')
      expect(await refused({ group: 'auto', auto_groups: ['nowhere'] })).toBe('api_key_groups_invalid')
      expect(await refused({ model_limits: 'x'.repeat(60_001) })).toBe('invalid_parameters')
      const { id } = await create({
        remain_quota: 2_147_483_647,
        expired_time: 0,
        allow_ips: '10.0.0.1, 10.1.0.0/16',
        model_limits: null,
        group: null,
      })
      expect(await read(id)).toMatchObject({
        remain_quota: 2_147_483_647,
        expired_time: -1,
        allow_ips: '10.0.0.1\n10.1.0.0/16',
      })
    })

    test('parallel creations cannot pass the limit of keys together', async () => {
      const someone = await newUser(node, root)
      await node.options.set({ 'token_setting.max_user_tokens': '3' })
      const replies = await Promise.all(
        Array.from({ length: 8 }, () =>
          node.call('POST', '/api/token/', { token: someone.token, body: { name: 'k' } }),
        ),
      )
      await node.options.set({ 'token_setting.max_user_tokens': '1000' })
      expect(replies.filter((reply) => reply.json.success)).toHaveLength(3)
      expect(replies.filter((reply) => reply.json.code === 'api_key_limit_reached')).toHaveLength(5)
    })

    test('automatic groups stay when an edit leaves them out, and go with null or another group', async () => {
      await node.options.set({ UserUsableGroups: '{"default":"d","vip":"v","auto":"a"}' })
      const { id } = await create({ group: 'auto', auto_groups: ['vip', 'default'], cross_group_retry: true })
      expect(await read(id)).toMatchObject({ auto_groups: ['vip', 'default'], cross_group_retry: true, group: 'auto' })
      await put({ id, name: 'renamed' })
      expect(await read(id)).toMatchObject({
        auto_groups: ['vip', 'default'],
        cross_group_retry: true,
        name: 'renamed',
      })
      await put({ id, group: 'auto', auto_groups: null })
      expect(await read(id)).toMatchObject({ auto_groups: null, group: 'auto' })
      await put({ id, group: 'auto', auto_groups: ['vip'] })
      await put({ id, group: 'default' })
      expect(await read(id)).toMatchObject({ auto_groups: null, cross_group_retry: false, group: 'default' })
      const { groups, max_count } = await node.ok('GET', '/api/token/auto-groups', { token: user.token })
      expect(groups).toEqual(['default'])
      expect(max_count).toBe(5)
    })

    test('switching off ends calls at once; switching on needs time and quota', async () => {
      const { id, key } = await create({ unlimited_quota: true })
      const status = (body: Record<string, unknown>) => put({ id, ...body }, '?status_only=true')
      const reply = await status({ status: 2, name: 'not changed' })
      expect(reply.json.data).toMatchObject({ status: 2, name: 'k' })
      await expect(node.accounts.authenticate(key, () => IP)).rejects.toThrow('invalid_api_key')
      expect((await status({ status: 1 })).json.data.status).toBe(1)
      await node.accounts.authenticate(key, () => IP)
      for (const bad of [0, 3, 4, 5, -1]) expect((await status({ status: bad })).json.code).toBe('invalid_parameters')
      await put({ id, expired_time: 1 })
      expect((await read(id)).status).toBe(3)
      expect((await status({ status: 1 })).json.code).toBe('api_key_expired')
      await put({ id, expired_time: -1, unlimited_quota: false, remain_quota: 0 })
      expect((await status({ status: 1 })).json.code).toBe('api_key_exhausted')
      await put({ id, remain_quota: 5 })
      expect((await status({ status: 1 })).json.data.status).toBe(1)
    })

    test('raising the quota of a used-up key, or making it unlimited, enables it again; a disabled one stays so', async () => {
      const { tokens } = db.tables
      const used = async (status: number) => {
        const { id } = await create({ remain_quota: 0 })
        await db.update(tokens).set({ status }).where(eq(tokens.id, id))
        return id
      }
      const [raised, unlimited, disabled] = [await used(4), await used(4), await used(2)]
      await put({ id: raised, remain_quota: 10 })
      await put({ id: unlimited, unlimited_quota: true })
      await put({ id: disabled, remain_quota: 10 })
      expect([(await read(raised)).status, (await read(unlimited)).status, (await read(disabled)).status]).toEqual([
        1, 1, 2,
      ])
    })

    test('a row sent back as it was read undoes no spending, however the charges were paid', async () => {
      const { id } = await create({ remain_quota: 10_000 })
      await db
        .insert(db.tables.quotaAllotments)
        .values({ instanceId: 'spender', account: `t:${id}`, amount: 3_000, version: 1 })
      await db.update(db.tables.tokens).set({ remainQuota: 7_000 }).where(eq(db.tables.tokens.id, id))
      const seen = await read(id)
      expect(seen).toMatchObject({ remain_quota: 10_000, used_quota: 0 })
      for (let i = 1; i <= 10; i++) {
        await spend(id, 70, i % 2 ? 'allotment' : 'balance')
        const { json } = await put({ ...seen, name: `renamed ${i}` })
        expect(json.data).toMatchObject({ name: `renamed ${i}`, remain_quota: 10_000 - 70 * i, used_quota: 70 * i })
      }
    })

    test('renaming in a loop while charges are paid leaves exactly granted minus spent', async () => {
      const { id } = await create({ remain_quota: 100_000 })
      const edits = (async () => {
        for (let i = 0; i < 15; i++) {
          const seen = await read(id)
          await put({ ...seen, name: `n${i}` })
        }
      })()
      for (let i = 0; i < 30; i++) await spend(id, 11)
      await edits
      expect(await read(id)).toMatchObject({ remain_quota: 100_000 - 330, used_quota: 330 })
    }, 20_000)

    test('a balance that was raised in the form is raised by as much, with the counter as read', async () => {
      const { id } = await create({ remain_quota: 1_000 })
      const seen = await read(id)
      await spend(id, 400)
      const { json } = await put({ ...seen, remain_quota: seen.remain_quota + 500 })
      expect(json.data).toMatchObject({ remain_quota: 1_100, used_quota: 400 })
    })

    test('without the counter a balance is what the key has afterwards; without a balance nothing moves', async () => {
      const { id } = await create({ remain_quota: 1_000 })
      await spend(id, 400)
      expect((await put({ id, name: 'x' })).json.data.remain_quota).toBe(600)
      expect((await put({ id, remain_quota: 900 })).json.data.remain_quota).toBe(900)
      expect((await put({ id, remain_quota: -1 })).json.code).toBe('api_key_quota_invalid')
      expect((await put({ id, remain_quota: 2_147_483_648 })).json.code).toBe('api_key_quota_invalid')
      expect((await read(id)).remain_quota).toBe(900)
    })

    test('an overdrawn key can be renamed with its row as read', async () => {
      const { id } = await create({ remain_quota: 10 })
      await spend(id, 25)
      const seen = await read(id)
      expect(seen.remain_quota).toBe(-15)
      expect((await put({ ...seen, name: 'renamed' })).json.data).toMatchObject({ name: 'renamed', remain_quota: -15 })
    })

    test('an unlimited key that becomes limited has the balance that was given', async () => {
      const { id } = await create({ unlimited_quota: true })
      await spend(id, 400)
      const seen = await read(id)
      const { json } = await put({ ...seen, unlimited_quota: false, remain_quota: 50 })
      expect(json.data).toMatchObject({ unlimited_quota: false, remain_quota: 50 })
    })

    test('deleting is soft, drops what is parked, and ends calls; several at once', async () => {
      const made = [await create({ unlimited_quota: true }), await create(), await create()]
      const ids = made.map(({ id }) => id)
      const { quotaAllotments } = db.tables
      await db.insert(quotaAllotments).values({ instanceId: 'del', account: `t:${ids[0]}`, amount: 5 })
      await node.accounts.authenticate(made[0]?.key ?? '', () => IP)
      await node.ok('DELETE', `/api/token/${ids[0]}/`, { token: user.token })
      await expect(node.accounts.authenticate(made[0]?.key ?? '', () => IP)).rejects.toThrow('invalid_api_key')
      expect((await rowOf(ids[0] ?? 0)).deletedAt).toBeInstanceOf(Date)
      expect(await db.$count(quotaAllotments, eq(quotaAllotments.instanceId, 'del'))).toBe(0)
      expect(await node.refused('DELETE', `/api/token/${ids[0]}`, { token: user.token })).toBe('api_key_not_found')
      expect(await node.ok('POST', '/api/token/batch', { token: user.token, body: { ids: [...ids, 999_999] } })).toBe(2)
      expect(await node.ok('POST', '/api/token/batch', { token: user.token, body: { ids: [] } })).toBe(0)
    })

    test('several keys are revealed at once, at most a hundred', async () => {
      const [one, two] = [await create(), await create()]
      const reveal = (ids: number[]) => node.call('POST', '/api/token/batch/keys', { token: user.token, body: { ids } })
      expect((await reveal([one.id, two.id])).json.data).toEqual({ keys: { [one.id]: one.key, [two.id]: two.key } })
      expect((await reveal(Array.from({ length: 101 }, (_, i) => i))).json.code).toBe('invalid_parameters')
    })

    test('the search takes a name or a key, exactly or with bounded wildcards', async () => {
      const someone = await newUser(node, root)
      const one = await create({ name: 'alpha_1' }, someone.token)
      await create({ name: 'alphaX1' }, someone.token)
      const search = async (query: Record<string, string>) => {
        const reply = await node.call('GET', `/api/token/search?${new URLSearchParams(query)}`, {
          token: someone.token,
        })
        return reply.json.success ? reply.json.data.items.map((item: ReplyJson) => item.name).sort() : reply.json.code
      }
      expect(await search({ keyword: 'alpha_1' })).toEqual(['alpha_1'])
      expect(await search({ keyword: 'alpha' })).toEqual([])
      expect(await search({ keyword: 'alpha%' })).toEqual(['alphaX1', 'alpha_1'])
      expect(await search({ keyword: '%a_1' })).toEqual(['alpha_1'])
      expect(await search({ token: `sk-${one.key}` })).toEqual(['alpha_1'])
      expect(await search({ token: `${one.key.slice(0, 20)}%` })).toEqual(['alpha_1'])
      for (const keyword of ['%', '%a%', 'a%%b', '%a%b%c%', '%%%'])
        expect(await search({ keyword })).toBe('search_pattern_invalid')
      expect(await search({ keyword: "' or '1'='1" })).toEqual([])
      expect(await search({ token: "' or '1'='1" })).toEqual([])
    })

    test('pages are newest first and count only live keys', async () => {
      const someone = await newUser(node, root)
      const made: number[] = []
      for (let i = 0; i < 5; i++) made.push((await create({}, someone.token)).id)
      await node.ok('DELETE', `/api/token/${made[2]}`, { token: someone.token })
      const page = await node.ok('GET', '/api/token/?p=1&size=3', { token: someone.token })
      expect(page).toMatchObject({ page: 1, page_size: 3, total: 4 })
      expect(page.items.map((item: ReplyJson) => item.id)).toEqual([made[4], made[3], made[1]])
    })
  })
}
