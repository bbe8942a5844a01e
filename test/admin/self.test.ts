import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import type { Db } from '../../src/db/index.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { createTestNode, logIn, newUser, ROOT, setUp, type TestNode } from './harness.ts'

for (const engine of ENGINES) {
  describe(`the own account on ${engine.name}`, () => {
    let testDb: TestDb
    let db: Db
    let node: TestNode
    let root: string
    beforeAll(async () => {
      testDb = await engine.freshDb()
      db = testDb.db
      node = await createTestNode(db)
      root = await setUp(node)
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
    const settingOf = async (id: number) => JSON.parse((await rowOf(id)).setting ?? '{}')

    test('the self object has every field the console reads, with permissions by role', async () => {
      const user = await newUser(node, root)
      const admin = await newUser(node, root, 10)
      const self = await node.ok('GET', '/api/user/self', { token: user.token })
      expect(Object.keys(self).sort()).toEqual(
        [
          ...[
            'id',
            'username',
            'display_name',
            'role',
            'status',
            'email',
            'github_id',
            'discord_id',
            'oidc_id',
            'wechat_id',
          ],
          ...[
            'telegram_id',
            'linux_do_id',
            'group',
            'quota',
            'used_quota',
            'request_count',
            'aff_code',
            'aff_count',
            'aff_quota',
          ],
          ...['rpm_limit', 'tpm_limit', 'concurrency_limit'],
          ...['aff_history_quota', 'inviter_id', 'setting', 'stripe_customer', 'sidebar_modules', 'permissions'],
        ].sort(),
      )
      expect(self.permissions).toEqual({
        sidebar_settings: true,
        sidebar_modules: { admin: false },
        admin_permissions: {
          channel: { read: false, operate: false, write: false, sensitive_write: false, secret_view: false },
        },
      })
      expect((await node.ok('GET', '/api/user/self', { token: admin.token })).permissions).toEqual({
        sidebar_settings: true,
        sidebar_modules: { admin: { setting: false } },
        admin_permissions: {
          channel: { read: true, operate: true, write: true, sensitive_write: false, secret_view: false },
        },
      })
      expect((await node.ok('GET', '/api/user/self', { token: root })).permissions).toEqual({
        sidebar_settings: false,
        sidebar_modules: {},
        admin_permissions: {
          channel: { read: true, operate: true, write: true, sensitive_write: true, secret_view: true },
        },
      })
      expect(JSON.parse(self.sidebar_modules)).toHaveProperty('console.token', true)
    })

    test('side bar, language and settings are kept beside each other and beside what we do not know', async () => {
      const { id, token } = await newUser(node, root)
      await db
        .update(db.tables.users)
        .set({ setting: '{"billing_preference":"wallet_only","unknown":[1]}' })
        .where(eq(db.tables.users.id, id))
      expect((await node.call('PUT', '/api/user/self', { token, body: { language: 'zh-CN' } })).json.data).toBeNull()
      expect(
        (await node.call('PUT', '/api/user/self', { token, body: { sidebar_modules: '{"a":1}' } })).json.data,
      ).toBeNull()
      const change = {
        notify_type: 'webhook',
        webhook_url: 'https://hook.example.com',
        quota_warning_threshold: 5,
        record_ip_log: true,
      }
      expect((await node.call('PUT', '/api/user/setting', { token, body: change })).json).toEqual({
        success: true,
        message: '',
        data: null,
      })
      expect(await settingOf(id)).toEqual({
        billing_preference: 'wallet_only',
        unknown: [1],
        language: 'zh-CN',
        sidebar_modules: '{"a":1}',
        ...change,
      })
    })

    test('a setting that cannot work is refused', async () => {
      const { id, token } = await newUser(node, root)
      const before = await settingOf(id)
      const cases = [
        { notify_type: 'pigeon' },
        { notify_type: 'webhook' },
        { notify_type: 'bark', bark_url: '' },
        { notify_type: 'gotify', gotify_url: 'https://g.example.com' },
        { notify_type: 'webhook', webhook_url: 'javascript:alert(1)' },
        { quota_warning_threshold: 0 },
        { quota_warning_threshold: -1 },
      ]
      for (const body of cases)
        expect(await node.refused('PUT', '/api/user/setting', { token, body })).toBe('setting_invalid')
      expect(await settingOf(id)).toEqual(before)
      await node.ok('PUT', '/api/user/setting', {
        token,
        body: { gotify_priority: 77, upstream_model_update_notify_enabled: true },
      })
      expect(await settingOf(id)).toEqual({ ...before, gotify_priority: 5 })
    })

    test('a settings change reaches the callers of this user at once', async () => {
      const { token } = await newUser(node, root)
      const { key } = await node.ok('POST', '/api/token/', { token, body: { name: 'k', unlimited_quota: true } })
      expect((await node.accounts.authenticate(key, () => '127.0.0.1')).recordsIp).toBe(false)
      await node.ok('PUT', '/api/user/setting', { token, body: { record_ip_log: true } })
      expect((await node.accounts.authenticate(key, () => '127.0.0.1')).recordsIp).toBe(true)
    })

    test('empty texts of the profile leave a field as it is', async () => {
      const user = await newUser(node, root)
      const body = { username: '', display_name: 'New', password: '', original_password: '' }
      const reply = await node.call('PUT', '/api/user/self', { token: user.token, body })
      expect(reply.json).toEqual({ success: true, message: '' })
      expect(await rowOf(user.id)).toMatchObject({ username: user.username, displayName: 'New' })
      await logIn(node, user)
    })

    test('a new password needs the old one, ends all other sessions and carries this one over', async () => {
      const user = await newUser(node, root)
      const other = await logIn(node, user)
      const change = (original: string, password = 'a new password') =>
        node.call('PUT', '/api/user/self', { token: user.token, body: { password, original_password: original } })
      expect((await change('wrong')).json.code).toBe('original_password_wrong')
      expect((await change('')).json.code).toBe('original_password_wrong')
      expect((await change(user.password, 'short')).json.code).toBe('password_invalid')
      expect((await node.call('GET', '/api/user/self', { token: other })).status).toBe(200)
      const { data } = (await change(user.password)).json
      expect(data).toMatchObject({ token_type: 'Bearer', session: { current: true } })
      expect(data).not.toHaveProperty('user')
      expect((await node.call('GET', '/api/user/self', { token: data.access_token })).status).toBe(200)
      expect(await node.refused('GET', '/api/user/self', { token: user.token })).toBe('AUTH_SESSION_REVOKED')
      expect(await node.refused('GET', '/api/user/self', { token: other })).toBe('AUTH_SESSION_REVOKED')
      expect(await node.refused('POST', '/api/user/login', { body: user })).toBe('login_failed')
      await logIn(node, { username: user.username, password: 'a new password' })
    })

    test('the session that changed the password can still refresh', async () => {
      const user = await newUser(node, root)
      const opened = await node.call('POST', '/api/user/login', { body: user })
      const cookie = /new_api_refresh=[^;]+/.exec(opened.headers.get('set-cookie') ?? '')?.[0] ?? ''
      await node.ok('PUT', '/api/user/self', {
        token: opened.json.data.access_token,
        body: { password: 'a new password', original_password: user.password },
      })
      expect((await node.call('POST', '/api/user/auth/refresh', { headers: { cookie } })).status).toBe(200)
    })

    test('the invitation code is made once, also when asked for in parallel', async () => {
      const { id, token } = await newUser(node, root)
      await db.update(db.tables.users).set({ affCode: null }).where(eq(db.tables.users.id, id))
      const codes = await Promise.all(Array.from({ length: 5 }, () => node.ok('GET', '/api/user/aff', { token })))
      expect(new Set(codes).size).toBe(1)
      expect(codes[0]).toMatch(/^[A-Za-z0-9]{4}$/)
    })

    test('leaving deletes softly and ends everything that was issued', async () => {
      const user = await newUser(node, root)
      const personal = await node.ok('GET', '/api/user/token', { token: user.token })
      const { key } = await node.ok('POST', '/api/token/', {
        token: user.token,
        body: { name: 'k', unlimited_quota: true },
      })
      await node.ok('DELETE', '/api/user/self', { token: user.token })
      expect((await rowOf(user.id)).deletedAt).toBeInstanceOf(Date)
      for (const token of [user.token, personal])
        expect((await node.call('GET', '/api/user/self', { token })).status).toBe(401)
      await expect(node.accounts.authenticate(key, () => '127.0.0.1')).rejects.toThrow('invalid_api_key')
    })

    test('messages follow the user’s language, else the request’s', async () => {
      const { token } = await newUser(node, root)
      const message = async (acceptLanguage?: string) => {
        const headers: Record<string, string> = acceptLanguage ? { 'accept-language': acceptLanguage } : {}
        return (await node.call('GET', '/api/token/999999', { token, headers })).json.message
      }
      expect(await message()).toBe('No such API key')
      expect(await message('zh-CN,zh;q=0.9,en;q=0.8')).toBe('令牌不存在')
      expect(await message('de,en;q=0.9,zh;q=0.8')).toBe('No such API key')
      expect(await message('fr;q=1, zh-TW;q=0.5, en;q=0.4')).toBe('令牌不存在')
      await node.ok('PUT', '/api/user/self', { token, body: { language: 'zh-TW' } })
      expect(await message('en')).toBe('令牌不存在')
      await node.ok('PUT', '/api/user/self', { token, body: { language: 'en' } })
      expect(await message('zh')).toBe('No such API key')
      const anonymous = await node.call('POST', '/api/user/login', { body: ROOT, headers: { 'accept-language': 'zh' } })
      expect(anonymous.json.success).toBe(true)
      const failed = await node.call('POST', '/api/user/login', {
        body: { ...ROOT, password: 'no' },
        headers: { 'accept-language': 'zh' },
      })
      expect(failed.json.message).toBe('用户名或密码错误，或用户已被封禁')
    })
  })
}
