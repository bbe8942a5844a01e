import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { type Db, DbError } from '../../src/db/index.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { createTestNode, newUser, setUp, type TestNode } from './harness.ts'

const engine = ENGINES[0]

describe('what is open to visitors and to holders of an API key', () => {
  let testDb: TestDb
  let db: Db
  let node: TestNode
  let root: string
  beforeAll(async () => {
    if (!engine) throw new Error('no engine')
    testDb = await engine.freshDb()
    db = testDb.db
    node = await createTestNode(db)
    root = await setUp(node)
  }, 60_000)
  afterAll(async () => {
    await node.close()
    await testDb.close()
  })

  test('the status has the substring that health checks look for, and no secret', async () => {
    await node.options.set({
      TelegramBotToken: 'canary-token',
      GitHubClientSecret: 'canary-secret',
      EpayKey: 'canary-key',
    })
    const { text } = await node.call('GET', '/api/status')
    expect(text).toContain('"success":true')
    expect(text).not.toContain('canary')
  })

  test('the status is answered while the database is gone', async () => {
    let isGone = false
    const failing = await createTestNode({
      ...db,
      select: ((...fields: Parameters<Db['select']>) => {
        if (isGone) throw new DbError('unavailable', 'gone')
        return db.select(...fields)
      }) as Db['select'],
    })
    isGone = true
    expect((await failing.call('GET', '/api/status')).json).toMatchObject({ success: true, data: { setup: true } })
    expect((await failing.call('GET', '/api/setup')).json.data.status).toBe(true)
    const own = await failing.call('GET', '/api/user/self', { token: root })
    expect(own).toMatchObject({ status: 503, json: { code: 'dependency_unavailable' } })
    await failing.close()
  })

  test('panels show only while they are switched on, announcements newest first', async () => {
    const items = [
      { content: 'old', publishDate: '2026-01-01T00:00:00Z' },
      { content: 'new', publishDate: '2026-05-01T00:00:00Z' },
    ]
    await node.options.set({
      'console_setting.announcements': JSON.stringify(items),
      'console_setting.faq_enabled': 'false',
    })
    const { data } = (await node.call('GET', '/api/status')).json
    expect(data.announcements.map((item: { content: string }) => item.content)).toEqual(['new', 'old'])
    expect(data.announcements_enabled).toBe(true)
    expect(data.faq_enabled).toBe(false)
    expect(data).not.toHaveProperty('faq')
  })

  test('texts of the operator are served as they are', async () => {
    await node.options.set({
      Notice: '**hello**',
      About: 'about',
      HomePageContent: '<b>x</b>',
      'legal.user_agreement': 'agree',
    })
    const text = async (path: string) => (await node.call('GET', path)).json.data
    expect(await text('/api/notice')).toBe('**hello**')
    expect(await text('/api/about')).toBe('about')
    expect(await text('/api/home_page_content')).toBe('<b>x</b>')
    expect(await text('/api/user-agreement')).toBe('agree')
    expect(await text('/api/privacy-policy')).toBe('')
    expect((await node.call('GET', '/api/status')).json.data).toMatchObject({
      user_agreement_enabled: true,
      privacy_policy_enabled: false,
    })
  })

  test('the database test tells an administrator whether it answers', async () => {
    expect((await node.call('GET', '/api/status/test', { token: root })).json).toEqual({
      success: true,
      message: '',
      http_stats: { active_connections: 0 },
    })
  })

  const newKey = async (body: Record<string, unknown>) => {
    const user = await newUser(node, root)
    const made: { id: number; key: string } = await node.ok('POST', '/api/token/', {
      token: user.token,
      body: { name: 'k', ...body },
    })
    await db.update(db.tables.tokens).set({ usedQuota: 250_000 }).where(eq(db.tables.tokens.id, made.id))
    await db
      .update(db.tables.users)
      .set({ quota: 5_000_000, usedQuota: 1_000_000 })
      .where(eq(db.tables.users.id, user.id))
    return { ...made, authorization: `Bearer sk-${made.key}` }
  }

  test('old billing addresses report the key in dollars, or its user, or tokens', async () => {
    const { authorization } = await newKey({ remain_quota: 750_000, expired_time: 2_000_000_000 })
    const get = async (path: string) => (await node.call('GET', path, { headers: { authorization } })).json
    for (const prefix of ['', '/v1']) {
      expect(await get(`${prefix}/dashboard/billing/subscription`)).toEqual({
        object: 'billing_subscription',
        has_payment_method: true,
        soft_limit_usd: 2,
        hard_limit_usd: 2,
        system_hard_limit_usd: 2,
        access_until: 2_000_000_000,
      })
      expect(await get(`${prefix}/dashboard/billing/usage?start_date=2026-01-01`)).toEqual({
        object: 'list',
        total_usage: 50,
      })
    }
    await node.options.set({ DisplayTokenStatEnabled: 'false' })
    expect((await get('/dashboard/billing/subscription')).hard_limit_usd).toBe(12)
    expect((await get('/dashboard/billing/usage')).total_usage).toBe(200)
    await node.options.set({ DisplayTokenStatEnabled: 'true', 'general_setting.quota_display_type': 'CNY' })
    expect((await get('/dashboard/billing/subscription')).hard_limit_usd).toBeCloseTo(14.6)
    await node.options.set({ 'general_setting.quota_display_type': 'TOKENS' })
    expect((await get('/dashboard/billing/subscription')).hard_limit_usd).toBe(1_000_000)
    await node.options.set({ 'general_setting.quota_display_type': 'USD' })
    const unlimited = await newKey({ unlimited_quota: true })
    const reply = await node.call('GET', '/dashboard/billing/subscription', {
      headers: { authorization: unlimited.authorization },
    })
    expect(reply.json).toMatchObject({ hard_limit_usd: 100_000_000, access_until: 0 })
  })

  test('old billing addresses refuse in OpenAI’s shape', async () => {
    for (const authorization of ['', 'Bearer sk-nobody', `Bearer ${root}`]) {
      const reply = await node.call('GET', '/dashboard/billing/usage', { headers: { authorization } })
      expect(reply.status).toBe(401)
      expect(reply.json.error).toMatchObject({ type: 'new_api_error', code: 'invalid_api_key' })
      expect(reply.json.error.message).toContain(`request id: ${reply.headers.get('x-oneapi-request-id')}`)
    }
  })

  test('the usage of a key is read with the key itself, also when it is expired, from any origin', async () => {
    const { id, key, authorization } = await newKey({
      remain_quota: 100,
      model_limits_enabled: true,
      model_limits: 'a,b',
    })
    await db.update(db.tables.tokens).set({ expiredTime: 1 }).where(eq(db.tables.tokens.id, id))
    for (const path of ['/api/usage/token/', '/api/usage/token']) {
      const reply = await node.call('GET', path, { headers: { authorization } })
      expect(reply.json).toEqual({
        code: true,
        message: 'ok',
        data: {
          object: 'token_usage',
          name: 'k',
          total_granted: 250_100,
          total_used: 250_000,
          total_available: 100,
          unlimited_quota: false,
          model_limits: { a: true, b: true },
          model_limits_enabled: true,
          expires_at: 1,
        },
      })
      expect(reply.headers.get('access-control-allow-origin')).toBe('*')
    }
    const preflight = await node.call('OPTIONS', '/api/usage/token/')
    expect(preflight.status).toBe(204)
    expect(preflight.headers.get('access-control-allow-headers')).toBe('*')
    for (const wrong of [`sk-${key}`, 'Bearer sk-nobody', '']) {
      const reply = await node.call('GET', '/api/usage/token/', { headers: { authorization: wrong } })
      expect(reply.status).toBe(401)
      expect(Object.keys(reply.json).sort()).toEqual(['message', 'success'])
    }
  })

  test('the OpenAPI document describes every route by the schema it is checked with', async () => {
    const document = (await node.call('GET', '/api/openapi.json')).json
    expect(document.openapi).toStartWith('3.')
    const documented = new Set(
      Object.entries(document.paths as Record<string, object>).flatMap(([path, methods]) =>
        Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
      ),
    )
    const hidden = new Set(['GET /', 'GET /api/openapi.json'])
    const expected = node.app.routes
      .map(({ method, path }) => `${method} ${path.replace(/:(\w+)/g, '{$1}').replace(/\/$/, '') || '/'}`)
      .filter((route) => !hidden.has(route) && !/^(ALL|OPTIONS) /.test(route))
    expect(expected.filter((route) => !documented.has(route))).toEqual([])
    const create = document.paths['/api/token'].post
    expect(Object.keys(create.requestBody.content)).toEqual(['application/json'])
    expect(create.requestBody.content['application/json'].schema.properties).toHaveProperty('remain_quota')
    const text = JSON.stringify(document)
    for (const foreign of ['"nullable"', '"format":"integer"', '"format":"numeric"'])
      expect(text).not.toContain(foreign)
    expect(text).not.toMatch(/"type":"string","enum":\[\d/)
    for (const methods of Object.values(
      document.paths as Record<string, Record<string, { responses?: object; summary?: string }>>,
    )) {
      for (const operation of Object.values(methods)) {
        expect(operation.responses).toBeDefined()
        expect(operation.summary).toBeString()
      }
    }
  })

  test('a browser gets one page with the address it used, in its language, and nothing in it can run', async () => {
    const page = (headers: Record<string, string>) => node.call('GET', '/', { headers })
    const english = await page({ host: 'gate.example.com:3000' })
    expect(english.headers.get('content-type')).toBe('text/html; charset=utf-8')
    expect(english.text).toContain('curl -s http://gate.example.com:3000/api/user/login')
    expect(english.text).toContain('This gateway is set up.')
    expect(english.text).toContain('href="/api/openapi.json"')
    expect(english.text).not.toContain('/api/setup')
    expect(english.text).not.toContain('<script')
    expect((await page({ host: 'gate.example.com', 'x-forwarded-proto': 'https' })).text).toContain(
      'https://gate.example.com/v1/',
    )
    expect((await page({ 'accept-language': 'zh-CN' })).text).toContain('<html lang="zh-CN">')
    const policy = english.headers.get('content-security-policy') ?? ''
    expect(policy).toContain("default-src 'none'")
    const style = /<style>([\s\S]*)<\/style>/.exec(english.text)?.[1] ?? ''
    const hash = new Bun.CryptoHasher('sha256').update(style).digest('base64')
    expect(policy).toContain(`style-src 'sha256-${hash}'`)
  })

  test('nothing that an operator or a client sends gets into the page as markup', async () => {
    await node.options.set({ SystemName: '<script>alert(1)</script>', ServerAddress: 'https://x"><img src=x>' })
    const { text } = await node.call('GET', '/', { headers: { host: '"><svg onload=alert(1)>' } })
    expect(text).not.toContain('<script')
    expect(text).not.toContain('<img')
    await node.options.set({ ServerAddress: '' })
    expect((await node.call('GET', '/', { headers: { host: "x';rm -rf" } })).text).not.toContain('rm -rf')
    await node.options.set({ SystemName: 'New API' })
  })

  test('before the set-up the page says how, and the lines it shows work as they stand', async () => {
    if (!engine) throw new Error('no engine')
    const empty = await engine.freshDb()
    const fresh = await createTestNode(empty.db)
    const { text } = await fresh.call('GET', '/')
    expect(text).toContain('not set up yet')
    const lines = text
      .replaceAll('&quot;', '"')
      .replaceAll('&lt;', '<')
      .replaceAll('&gt;', '>')
      .replaceAll('&#39;', "'")
    const bodies = [...lines.matchAll(/-d '(\{[^']*\})'/g)].map((match) =>
      JSON.parse((match[1] ?? '').replaceAll('<password>', 'a long password')),
    )
    await fresh.ok('POST', '/api/setup', { body: bodies[0] })
    const token = (await fresh.ok('POST', '/api/user/login', { body: bodies[1] })).access_token
    expect((await fresh.ok('POST', '/api/token/', { token, body: bodies[3] })).key).toBeString()
    await fresh.close()
    await empty.close()
  })
})
