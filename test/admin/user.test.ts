import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { and, desc, eq } from 'drizzle-orm'
import type { Db } from '../../src/db/index.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { createTestNode, logIn, newUser, type ReplyJson, ROOT, setUp, type TestNode } from './harness.ts'

for (const engine of ENGINES) {
  describe(`user administration on ${engine.name}`, () => {
    let testDb: TestDb
    let db: Db
    let node: TestNode
    let root: string
    let admin: Awaited<ReturnType<typeof newUser>>
    beforeAll(async () => {
      testDb = await engine.freshDb()
      db = testDb.db
      node = await createTestNode(db)
      root = await setUp(node)
      admin = await newUser(node, root, 10)
    }, 120_000)
    afterAll(async () => {
      await node.close()
      await testDb.close()
    })

    const rowOf = async (id: number) => {
      const [row] = await db.select().from(db.tables.users).where(eq(db.tables.users.id, id))
      if (!row) throw new Error('no such row')
      return row
    }
    const view = (id: number): Promise<ReplyJson> => node.ok('GET', `/api/user/${id}`, { token: root })
    const lastNote = async (userId: number): Promise<ReplyJson> => {
      const { logs } = db.tables
      const [row] = await db
        .select()
        .from(logs)
        .where(and(eq(logs.type, 3), eq(logs.userId, userId)))
        .orderBy(desc(logs.id))
        .limit(1)
      return row && { ...row, other: JSON.parse(row.other ?? '{}') }
    }
    const manage = (token: string, body: Record<string, unknown>) =>
      node.call('POST', '/api/user/manage', { token, body })

    test('a created user has the defaults of a new account, and the note names who made it', async () => {
      await node.options.set({ QuotaForNewUser: '777' })
      const { id } = await node.ok('POST', '/api/user/', {
        token: admin.token,
        body: { username: 'alice', password: 'password a', display_name: 'Alice' },
      })
      await node.options.set({ QuotaForNewUser: '0' })
      expect(await view(id)).toMatchObject({
        id,
        username: 'alice',
        display_name: 'Alice',
        role: 1,
        status: 1,
        group: 'default',
        quota: 777,
        password: '',
        original_password: '',
        verification_code: '',
        DeletedAt: null,
        admin_permissions: { channel: { read: false, write: false } },
      })
      expect(await lastNote(admin.id)).toMatchObject({
        content: 'user.create',
        other: {
          op: { action: 'user.create', params: { id, username: 'alice', role: 1 } },
          admin_info: { admin_id: admin.id, admin_username: admin.username, admin_role: 10, auth_method: 'session' },
        },
      })
      const gifts = await db
        .select()
        .from(db.tables.logs)
        .where(and(eq(db.tables.logs.type, 4), eq(db.tables.logs.userId, id)))
      expect(gifts).toHaveLength(1)
    })

    test('a reply never holds the password hash, the personal token or the version', async () => {
      await node.ok('GET', '/api/user/token', { token: admin.token })
      const { accessToken, password } = await rowOf(admin.id)
      for (const path of ['/api/user/', `/api/user/${admin.id}`, '/api/user/search?keyword=user']) {
        const { text } = await node.call('GET', path, { token: root })
        expect(text).not.toContain(accessToken ?? 'none')
        expect(text).not.toContain(password)
        expect(text).not.toContain('auth_version')
      }
    })

    test('nobody gives a role that is not below the own one, and roles are known ones', async () => {
      const body = (role: number) => ({
        username: `r${role}x${Math.random()}`.slice(0, 20),
        password: 'password a',
        role,
      })
      const create = (token: string, role: number) => node.call('POST', '/api/user/', { token, body: body(role) })
      for (const role of [10, 11, 100, 101, -1, 5]) {
        expect((await create(admin.token, role)).json.code).toBe('user_role_not_allowed')
      }
      for (const role of [100, 99, 50]) expect((await create(root, role)).json.code).toBe('user_role_not_allowed')
      const { id } = (await create(root, 10)).json.data
      expect((await rowOf(id)).role).toBe(10)
      const zero = (await create(root, 0)).json.data
      expect((await rowOf(zero.id)).role).toBe(1)
    })

    test('fields that are not of the form are ignored and never stored', async () => {
      const extra = {
        quota: 9_999_999,
        used_quota: -1,
        status: 2,
        aff_quota: 5,
        group: 'vip',
        access_token: 'x'.repeat(32),
        id: 1,
        authVersion: 9,
      }
      const { id } = await node.ok('POST', '/api/user/', {
        token: root,
        body: { username: 'mass', password: 'password a', ...extra },
      })
      const edit = {
        role: 1,
        quota: 5_555,
        used_quota: 5,
        status: 2,
        deleted_at: '2020-01-01',
        accessToken: 'y'.repeat(32),
        authVersion: 99,
      }
      await node.ok('PUT', '/api/user/', { token: root, body: { id, display_name: 'M', ...edit } })
      expect(await rowOf(id)).toMatchObject({
        role: 1,
        quota: 0,
        usedQuota: 0,
        status: 1,
        affQuota: 0,
        group: 'default',
        accessToken: null,
        deletedAt: null,
        displayName: 'M',
        authVersion: 1,
      })
    })

    test('a user cannot raise the own role or balance by any route of the own account', async () => {
      const user = await newUser(node, root)
      const wish = { role: 100, quota: 1e9, group: 'vip', status: 1, display_name: 'me', id: 1 }
      await node.ok('PUT', '/api/user/self', { token: user.token, body: wish })
      await node.ok('PUT', '/api/user/setting', { token: user.token, body: { ...wish, record_ip_log: true } })
      expect(await rowOf(user.id)).toMatchObject({ role: 1, quota: 0, group: 'default', displayName: 'me' })
      expect((await rowOf(user.id)).setting).not.toContain('quota')
      expect((await rowOf(1)).displayName).toBe('Root User')
    })

    test('names are unique, also against deleted users, and refusals say so', async () => {
      const user = await newUser(node, root)
      const other = await newUser(node, root)
      const create = { username: user.username, password: 'password a' }
      expect(await node.refused('POST', '/api/user/', { token: root, body: create })).toBe('username_taken')
      const rename = { id: other.id, username: user.username }
      expect(await node.refused('PUT', '/api/user/', { token: root, body: rename })).toBe('username_taken')
      expect(
        await node.refused('PUT', '/api/user/self', { token: other.token, body: { username: user.username } }),
      ).toBe('username_taken')
      await manage(root, { id: user.id, action: 'delete' })
      expect(await node.refused('POST', '/api/user/', { token: root, body: create })).toBe('username_taken')
      await node.ok('PUT', '/api/user/', { token: root, body: { id: other.id, username: other.username } })
    })

    test('bad names and passwords are refused', async () => {
      const create = (body: unknown) => node.refused('POST', '/api/user/', { token: root, body })
      expect(await create({ username: '', password: 'password a' })).toBe('username_invalid')
      expect(await create({ username: 'a b', password: 'password a' })).toBe('username_invalid')
      expect(await create({ username: 'x'.repeat(21), password: 'password a' })).toBe('username_invalid')
      expect(await create({ username: 'ok', password: 'short' })).toBe('password_invalid')
      expect(await create({ username: 'ok', password: 'password a', display_name: 'x'.repeat(21) })).toBe(
        'display_name_invalid',
      )
      expect(await create({ username: 'ok' })).toBe('invalid_parameters')
      expect(await create({ username: ['ok'], password: 'password a' })).toBe('invalid_parameters')
    })

    test('an administrator manages only lower roles', async () => {
      const peer = await newUser(node, root, 10)
      for (const id of [peer.id, admin.id, 1]) {
        for (const action of ['disable', 'enable', 'delete', 'promote', 'demote', 'add_quota']) {
          const reply = await manage(admin.token, { id, action, mode: 'add', value: 1 })
          expect(['user_not_manageable', 'user_role_not_allowed']).toContain(reply.json.code)
        }
        const edit = { id, display_name: 'pwned', password: 'password b' }
        expect(await node.refused('PUT', '/api/user/', { token: admin.token, body: edit })).toBe('user_not_manageable')
        expect(['user_not_manageable', 'root_protected']).toContain(
          await node.refused('DELETE', `/api/user/${id}`, { token: admin.token }),
        )
      }
      expect(await node.refused('GET', '/api/user/1', { token: admin.token })).toBe('user_not_manageable')
      expect((await rowOf(peer.id)).status).toBe(1)
    })

    test('root cannot be disabled, deleted or demoted, not even by root', async () => {
      for (const action of ['disable', 'delete', 'demote', 'promote']) {
        expect((await manage(root, { id: 1, action })).json.code).toBe('root_protected')
      }
      expect(await node.refused('DELETE', '/api/user/1', { token: root })).toBe('root_protected')
      expect(await node.refused('DELETE', '/api/user/self', { token: root })).toBe('root_protected')
      expect(await rowOf(1)).toMatchObject({ role: 100, status: 1, deletedAt: null })
    })

    test('promote and demote change the role, end the sessions and are noted', async () => {
      const user = await newUser(node, root)
      expect((await manage(admin.token, { id: user.id, action: 'promote' })).json.code).toBe('user_role_not_allowed')
      expect((await manage(root, { id: user.id, action: 'promote' })).json.data).toEqual({ role: 10, status: 1 })
      expect(await node.refused('GET', '/api/user/self', { token: user.token })).toBe('AUTH_SESSION_REVOKED')
      expect(await lastNote(1)).toMatchObject({ other: { op: { action: 'user.promote', params: { id: user.id } } } })
      const token = await logIn(node, user)
      expect((await node.call('GET', '/api/user/', { token })).status).toBe(200)
      expect((await manage(root, { id: user.id, action: 'demote' })).json.data).toEqual({ role: 1, status: 1 })
      expect((await node.call('GET', '/api/user/', { token })).status).toBe(401)
    })

    test('balances are added to, taken from and set, with one note that names operator, mode and amount', async () => {
      const user = await newUser(node, root)
      const { logs } = db.tables
      const quota = async () => (await view(user.id)).quota
      await manage(admin.token, { id: user.id, action: 'add_quota', mode: 'add', value: 500 })
      expect(await quota()).toBe(500)
      await manage(admin.token, { id: user.id, action: 'add_quota', mode: 'subtract', value: 200 })
      expect(await quota()).toBe(300)
      await manage(admin.token, { id: user.id, action: 'add_quota', mode: 'override', value: -7 })
      expect(await quota()).toBe(-7)
      await manage(admin.token, { id: user.id, action: 'add_quota', value: 10 })
      expect(await quota()).toBe(3)
      for (const value of [0, -1, 1.5, 2 ** 53, 'five', null]) {
        const reply = await manage(admin.token, { id: user.id, action: 'add_quota', mode: 'add', value })
        expect(reply.json.success).toBe(false)
      }
      expect(
        (await manage(admin.token, { id: user.id, action: 'add_quota', mode: 'steal', value: 1 })).json.success,
      ).toBe(false)
      expect(await quota()).toBe(3)
      const rows = await db
        .select()
        .from(logs)
        .where(and(eq(logs.type, 3), eq(logs.userId, user.id)))
        .orderBy(logs.id)
      expect(rows.map((row) => JSON.parse(row.other ?? '{}').op.params)).toMatchObject([
        { mode: 'add', value: 500 },
        { mode: 'subtract', value: 200 },
        { mode: 'override', value: -7 },
        { mode: 'add', value: 10 },
      ])
      expect(JSON.parse(rows[0]?.other ?? '{}').admin_info.admin_id).toBe(admin.id)
    })

    test('what people see is the balance with what is parked, and set means what they see', async () => {
      const user = await newUser(node, root)
      await manage(root, { id: user.id, action: 'add_quota', mode: 'add', value: 1000 })
      const { users, quotaAllotments } = db.tables
      await db.update(users).set({ quota: 600 }).where(eq(users.id, user.id))
      await db.insert(quotaAllotments).values({ instanceId: 'i1', account: `u:${user.id}`, amount: 400, version: 1 })
      expect((await view(user.id)).quota).toBe(1000)
      expect((await node.ok('GET', '/api/user/self', { token: user.token })).quota).toBe(1000)
      const { items } = await node.ok('GET', `/api/user/search?keyword=${user.username}`, { token: root })
      expect(items[0].quota).toBe(1000)
      await manage(root, { id: user.id, action: 'add_quota', mode: 'override', value: 150 })
      expect((await view(user.id)).quota).toBe(150)
      expect((await rowOf(user.id)).quota).toBe(-250)
    })

    test('editing every field under load undoes no spending', async () => {
      const user = await newUser(node, root)
      await manage(root, { id: user.id, action: 'add_quota', mode: 'add', value: 10_000 })
      const seen = await view(user.id)
      const { users } = db.tables
      for (let i = 0; i < 10; i++) {
        await db.transaction(async (tx) => {
          const [row] = await tx.lock(tx.select({ quota: users.quota }).from(users).where(eq(users.id, user.id)))
          await tx
            .update(users)
            .set({ quota: (row?.quota ?? 0) - 100 })
            .where(eq(users.id, user.id))
        })
        await node.ok('PUT', '/api/user/', {
          token: root,
          body: { ...seen, password: '', remark: `edit ${i}`, display_name: `d${i}` },
        })
      }
      expect((await view(user.id)).quota).toBe(9_000)
      expect(await view(user.id)).toMatchObject({ remark: 'edit 9', display_name: 'd9' })
    })

    test('a new group or password ends the sessions; a new name or remark does not', async () => {
      const user = await newUser(node, root)
      const edit = (body: Record<string, unknown>) =>
        node.ok('PUT', '/api/user/', { token: root, body: { id: user.id, ...body } })
      await edit({ display_name: 'Other', remark: 'note', password: '', group: 'default' })
      expect((await node.call('GET', '/api/user/self', { token: user.token })).status).toBe(200)
      await edit({ rpm_limit: 60, tpm_limit: 9_000 })
      // Only administrators set what bounds a user, who sees it.
      await node.call('PUT', '/api/user/self', { token: user.token, body: { rpm_limit: 0, display_name: 'Other' } })
      const own = { rpm_limit: 60, tpm_limit: 9_000, concurrency_limit: 0 }
      expect(await node.ok('GET', '/api/user/self', { token: user.token })).toMatchObject(own)
      expect(await view(user.id)).toMatchObject(own)
      await edit({ group: 'vip' })
      expect(await node.refused('GET', '/api/user/self', { token: user.token })).toBe('AUTH_SESSION_REVOKED')
      const token = await logIn(node, user)
      await edit({ password: 'brand new one' })
      expect(await node.refused('GET', '/api/user/self', { token })).toBe('AUTH_SESSION_REVOKED')
      expect(await node.refused('POST', '/api/user/login', { body: user })).toBe('login_failed')
      await logIn(node, { username: user.username, password: 'brand new one' })
      expect(await node.refused('PUT', '/api/user/', { token: root, body: { id: user.id, role: 10 } })).toBe(
        'user_role_fixed',
      )
    })

    test('whoever is deleted takes what is parked along, and every instance is told', async () => {
      const [soft, hard] = [await newUser(node, root), await newUser(node, root)]
      const key = async (): Promise<number> =>
        (await node.ok('POST', '/api/token/', { token: hard.token, body: { name: 'k', unlimited_quota: true } })).id
      const [first, second] = [await key(), await key()]
      const told: string[] = []
      const unsubscribe = node.state.subscribe('quota.changed', (message) => told.push(JSON.parse(message).account))
      await manage(root, { id: soft.id, action: 'delete' })
      await node.ok('DELETE', `/api/token/${first}`, { token: hard.token })
      const { quotaAllotments } = db.tables
      await db
        .insert(quotaAllotments)
        .values([`u:${hard.id}`, `t:${second}`].map((account) => ({ instanceId: 'told', account, amount: 1 })))
      await node.ok('DELETE', `/api/user/${hard.id}`, { token: root })
      unsubscribe()
      // A key that was deleted before goes with its user, too.
      expect(told).toEqual([`u:${soft.id}`, `t:${first}`, `u:${hard.id}`, `t:${first}`, `t:${second}`])
      expect(await db.$count(quotaAllotments, eq(quotaAllotments.instanceId, 'told'))).toBe(0)
    })

    test('a credit past the largest balance says in its row that something is lost', async () => {
      const user = await newUser(node, root)
      const add = (value: number) => manage(root, { id: user.id, action: 'add_quota', mode: 'add', value })
      await add(5)
      expect((await lastNote(user.id)).other.admin_info.is_balance_saturated).toBeUndefined()
      await add(Number.MAX_SAFE_INTEGER)
      expect((await lastNote(user.id)).other.admin_info.is_balance_saturated).toBe(true)
    })

    test('the action delete keeps the row, DELETE removes it with its keys and sessions, logs stay', async () => {
      const soft = await newUser(node, root)
      await manage(root, { id: soft.id, action: 'delete' })
      expect((await rowOf(soft.id)).deletedAt).toBeInstanceOf(Date)
      expect((await node.call('GET', '/api/user/self', { token: soft.token })).status).toBe(401)
      expect(await node.refused('POST', '/api/user/login', { body: soft })).toBe('login_failed')
      expect(await node.refused('DELETE', `/api/user/${soft.id}`, { token: root })).toBe('user_not_found')
      expect((await manage(root, { id: soft.id, action: 'enable' })).json.code).toBe('user_not_found')

      const hard = await newUser(node, root)
      const { id: keyId } = await node.ok('POST', '/api/token/', {
        token: hard.token,
        body: { name: 'k', remain_quota: 5 },
      })
      const { tokens, userSessions, users, quotaAllotments, logs } = db.tables
      await db.insert(quotaAllotments).values([
        { instanceId: 'i2', account: `u:${hard.id}`, amount: 1 },
        { instanceId: 'i2', account: `t:${keyId}`, amount: 1 },
      ])
      await node.ok('DELETE', `/api/user/${hard.id}/`, { token: root })
      expect(await db.$count(users, eq(users.id, hard.id))).toBe(0)
      expect(await db.$count(tokens, eq(tokens.userId, hard.id))).toBe(0)
      expect(await db.$count(userSessions, eq(userSessions.userId, hard.id))).toBe(0)
      expect(await db.$count(quotaAllotments, eq(quotaAllotments.instanceId, 'i2'))).toBe(0)
      expect(await db.$count(logs, and(eq(logs.userId, hard.id), eq(logs.type, 7)))).toBe(1)
      await node.ok('POST', '/api/user/', { token: root, body: { username: hard.username, password: 'password a' } })
    })

    test('disabling a user ends the calls of its API keys at once', async () => {
      const user = await newUser(node, root)
      const { key } = await node.ok('POST', '/api/token/', {
        token: user.token,
        body: { name: 'k', unlimited_quota: true },
      })
      expect((await node.accounts.authenticate(`sk-${key}`, () => '127.0.0.1')).userId).toBe(user.id)
      await manage(root, { id: user.id, action: 'disable' })
      await expect(node.accounts.authenticate(`sk-${key}`, () => '127.0.0.1')).rejects.toThrow('disabled')
    })

    test('pages, filters and orders of the list', async () => {
      const list = (query: string) => node.ok('GET', `/api/user/?${query}`, { token: admin.token })
      const all = await list('page_size=1000')
      expect(all).toMatchObject({ page: 1, page_size: 100 })
      const ids = all.items.map((user: ReplyJson) => user.id)
      expect(ids).toEqual([...ids].sort((a, b) => b - a))
      expect((await list('page_size=2&p=2')).items.map((user: ReplyJson) => user.id)).toEqual(ids.slice(2, 4))
      expect((await list('ps=3')).items).toHaveLength(3)
      expect((await list('size=4&p=0')).items).toHaveLength(4)
      expect(await list('p=100000')).toMatchObject({ items: [], total: all.total })
      expect((await list('p=-5&page_size=-1')).page_size).toBe(10)
      const byName = (await list('sort_by=username&sort_order=asc&page_size=100')).items.map((user: ReplyJson) =>
        user.username.toLowerCase(),
      )
      expect(byName).toEqual([...byName].sort())
      expect((await list('sort_by=password&page_size=100')).items.map((user: ReplyJson) => user.id)).toEqual(ids)
    })

    test('the search takes wildcards and quotes literally', async () => {
      const search = async (query: Record<string, string>) => {
        const { items } = await node.ok('GET', `/api/user/search?${new URLSearchParams(query)}`, { token: root })
        return items.map((user: ReplyJson) => user.username) as string[]
      }
      await node.ok('POST', '/api/user/', { token: root, body: { username: '100%_sure!', password: 'password a' } })
      expect(await search({ keyword: '100%_s' })).toEqual(['100%_sure!'])
      expect(await search({ keyword: '!' })).toEqual(['100%_sure!'])
      expect(await search({ keyword: '1000_s' })).toEqual([])
      expect(await search({ keyword: "' or 1=1 -- " })).toEqual([])
      expect(await search({ keyword: '%' })).toEqual(['100%_sure!'])
      expect(await search({ keyword: String(admin.id), role: '10' })).toContain(admin.username)
      expect(await search({ role: '100' })).toEqual([ROOT.username])
      expect(await search({ status: '-1', page_size: '100' })).not.toContain(ROOT.username)
      expect((await search({ status: '-1' })).length).toBeGreaterThan(0)
      expect(await search({ group: 'nobody' })).toEqual([])
    })

    test('an unknown, malformed or absent id is a refusal, not a failure', async () => {
      expect(await node.refused('GET', '/api/user/999999', { token: root })).toBe('user_not_found')
      for (const id of ['x', '-1', '1.5', '0', '1e3', '%27']) {
        const reply = await node.call('GET', `/api/user/${id}`, { token: root })
        expect(reply.status).toBe(200)
        expect(reply.json.success).toBe(false)
      }
      expect((await manage(root, { id: 999_999, action: 'disable' })).json.code).toBe('user_not_found')
      expect((await manage(root, { id: admin.id, action: 'explode' })).json.code).toBe('user_action_unknown')
      expect((await manage(root, { action: 'disable' })).json.code).toBe('invalid_parameters')
    })
  })
}
