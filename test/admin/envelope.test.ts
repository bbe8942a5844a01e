import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { and, eq } from 'drizzle-orm'
import { Elysia, t } from 'elysia'
import { createAdminHttp, envelope, ok, parsePage } from '../../src/admin/http.ts'
import { adminRoutes } from '../../src/admin/index.ts'
import { GatewayError } from '../../src/errors.ts'
import { preferredLanguage } from '../../src/lib/headers.ts'
import { silentLog } from '../../src/lib/log.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { createTestNode, newUser, setUp, type TestNode } from './harness.ts'

const engine = ENGINES[0]

/** An admin API with one resource, next to a relay-like plugin, as they stand side by side in the gateway. */
function sideBySide() {
  const lines: string[] = []
  const http = createAdminHttp({
    identify: async () => {
      throw new GatewayError('AUTH_UNAUTHORIZED')
    },
    recordAudit: async () => {},
    clientIp: () => '127.0.0.1',
    now: () => Date.now(),
  })
  const resource = new Elysia({ prefix: '/api/status' }).get('/', ({ query }) => {
    if (query['kind'] === 'refusal') throw new GatewayError('user_not_found')
    if (query['kind'] === 'failure') throw new Error('secret detail: sk-abc')
    if (query['kind'] === 'database') throw Object.assign(new Error('gone'), { name: 'DbError', kind: 'unavailable' })
    return ok('fine')
  })
  const liar = new Elysia().get('/api/notice', () => ({ success: true, data: 'text' }) as never, {
    response: envelope(t.Integer()),
  })
  const relay = new Elysia()
    .onError(({ error }) => new Response(`relay: ${error instanceof Error ? error.message : ''}`, { status: 418 }))
    .get('/v1/fails', () => {
      throw new GatewayError('model_not_found', { params: { model: 'm', group: 'g' } })
    })
  const log = { ...silentLog, error: (msg: string) => void lines.push(msg) }
  const admin = adminRoutes({
    http,
    recordAudit: async () => {},
    log,
    version: 'v',
    limits: { anonymousBodyBytes: 100, bodyBytes: 1_000 },
    resources: [resource, liar],
    plain: [],
  })
  const before = new Elysia().get('/before', () => {
    throw new GatewayError('user_not_found')
  })
  const app = new Elysia().use(before).use(admin).use(relay)
  return { lines, get: (path: string) => app.handle(new Request(`http://localhost${path}`)) }
}

describe('the shape of answers', () => {
  test('errors of a mounted resource come in the envelope, and the hook reaches no plugin beside it', async () => {
    const { get } = sideBySide()
    const refused = await get('/api/status?kind=refusal')
    expect(refused.status).toBe(200)
    expect(await refused.json()).toEqual({ success: false, message: 'No such user', code: 'user_not_found' })
    const relay = await get('/v1/fails')
    expect(relay.status).toBe(418)
    expect(await relay.text()).toStartWith('relay: model_not_found')
    expect(relay.headers.get('x-oneapi-request-id')).toBeNull()
    expect((await get('/before')).headers.get('x-oneapi-request-id')).toBeNull()
  })

  test('an unforeseen failure is a 500 that tells nothing, with a line in the log', async () => {
    const { get, lines } = sideBySide()
    const reply = await get('/api/status?kind=failure')
    expect(reply.status).toBe(500)
    const text = await reply.text()
    expect(JSON.parse(text)).toEqual({ success: false, message: 'Internal error', code: 'internal_error' })
    expect(text).not.toContain('sk-abc')
    expect(lines).toHaveLength(1)
  })

  test('a database that is away is a 503 that asks to come again', async () => {
    const reply = await sideBySide().get('/api/status?kind=database')
    expect(reply.status).toBe(503)
    expect(reply.headers.get('retry-after')).toBe('1')
  })

  test('a reply that breaks its own schema is our failure, not the caller’s', async () => {
    const reply = await sideBySide().get('/api/notice')
    expect(reply.status).toBe(500)
    expect(await reply.json()).toMatchObject({ success: false, code: 'internal_error' })
  })

  test('pages are read leniently', () => {
    expect(parsePage({})).toEqual({ page: 1, size: 10, offset: 0 })
    expect(parsePage({ p: '3', page_size: '20' })).toEqual({ page: 3, size: 20, offset: 40 })
    expect(parsePage({ p: '0', page_size: '0', ps: '', size: '7' })).toEqual({ page: 1, size: 7, offset: 0 })
    expect(parsePage({ p: '-2', page_size: '-5' })).toEqual({ page: 1, size: 10, offset: 0 })
    expect(parsePage({ p: 'x', page_size: '1000' })).toEqual({ page: 1, size: 100, offset: 0 })
    expect(parsePage({ p: '9'.repeat(30) }).offset).toBeLessThan(Number.MAX_SAFE_INTEGER)
    expect(parsePage({}, 20).size).toBe(20)
  })

  test.each([
    [null, 'en'],
    ['', 'en'],
    ['zh', 'zh'],
    ['zh-TW', 'zh'],
    ['de', 'en'],
    ['de, zh;q=0.1', 'zh'],
    ['en;q=0.5, zh;q=0.6', 'zh'],
    ['zh;q=0, en;q=0.1', 'en'],
    ['*', 'en'],
    [',;q=,zh;;', 'zh'],
  ] as const)('Accept-Language %s is %s', (header, language) => {
    expect(preferredLanguage(header)).toBe(language)
  })
})

describe('requests and answers of the admin API', () => {
  let testDb: TestDb
  let node: TestNode
  let root: string
  beforeAll(async () => {
    if (!engine) throw new Error('no engine')
    testDb = await engine.freshDb()
    node = await createTestNode(testDb.db)
    root = await setUp(node)
  }, 60_000)
  afterAll(async () => {
    await node.close()
    await testDb.close()
  })

  test('every answer has an id and the version; those to a credential are not to be stored', async () => {
    const [open, closed, missing, own] = [
      await node.call('GET', '/api/status'),
      await node.call('GET', '/api/user/self'),
      await node.call('GET', '/api/nowhere'),
      await node.call('GET', '/api/user/self', { token: root }),
    ]
    for (const { headers } of [open, closed, missing, own]) {
      expect(headers.get('x-oneapi-request-id')).toMatch(/^20\d{12}\d{9}[0-9a-f]{16}$/)
      expect(headers.get('x-new-api-version')).toBe('v-test')
    }
    expect(own.headers.get('auth-version')).toBe('864b7076dbcd0a3c01b5520316720ebf')
    expect(own.headers.get('cache-control')).toBe('no-store')
    expect(open.headers.get('auth-version')).toBeNull()
    expect(open.headers.get('cache-control')).toBeNull()
    expect(open.headers.get('x-oneapi-request-id')).not.toBe(own.headers.get('x-oneapi-request-id'))
  })

  test('both spellings of a path answer', async () => {
    const { id } = await node.ok('POST', '/api/token', { token: root, body: { name: 'slash' } })
    for (const path of [
      '/api/status',
      '/api/setup',
      '/api/user/self',
      '/api/user',
      '/api/token',
      '/api/redemption',
      `/api/token/${id}`,
    ]) {
      for (const spelling of [path, `${path}/`]) {
        expect((await node.call('GET', spelling, { token: root })).json).toMatchObject({ success: true })
      }
    }
  })

  test('unknown paths and methods are 404 in the shape that clients know', async () => {
    for (const [method, path] of [
      ['GET', '/api/nowhere'],
      ['POST', '/api/user/nowhere'],
      ['PATCH', '/api/token/'],
      ['DELETE', '/api/status'],
    ] as const) {
      const reply = await node.call(method, path, { token: root })
      expect(reply.status).toBe(404)
      expect(reply.json).toEqual({
        error: { message: `Invalid URL (${method} ${path})`, type: 'invalid_request_error', param: '', code: '' },
      })
    }
  })

  test('wrong types are refused with the place and the reason; malformed JSON is a 400', async () => {
    const wrong = await node.call('POST', '/api/token/', { token: root, body: { name: 5 } })
    expect(wrong).toMatchObject({ status: 200, json: { success: false, code: 'invalid_parameters' } })
    expect(wrong.json.message).toContain('body.name')
    for (const text of ['{', '{"name":', 'name=k', '[1,2', '\u0000', '{"a":1}{']) {
      expect(await node.call('POST', '/api/token/', { token: root, text })).toMatchObject({
        status: 400,
        json: { code: 'malformed_body' },
      })
    }
    for (const text of ['null', '5', '"text"', '[]', '[{"name":"k"}]']) {
      expect((await node.call('POST', '/api/token/', { token: root, text })).json.success).toBe(false)
    }
  })

  test('a body is JSON whatever its content type says', async () => {
    for (const type of [
      'application/x-www-form-urlencoded',
      'text/plain',
      'multipart/form-data',
      'application/json; charset=utf-8',
    ]) {
      const reply = await node.call('POST', '/api/token/', {
        token: root,
        body: { name: 'typed' },
        headers: { 'content-type': type },
      })
      expect(reply.json.success).toBe(true)
    }
  })

  test('names of prototypes in a body are only names', async () => {
    const text = '{"name":"proto","__proto__":{"role":100},"constructor":{"prototype":{"role":100}}}'
    await node.ok('POST', '/api/token/', { token: root, text })
    expect(({} as { role?: unknown }).role).toBeUndefined()
  })

  test('a visitor’s body is limited, a known caller’s is limited later, a stranger’s is not read at all', async () => {
    const big = { username: 'x', password: 'y'.repeat(5_000) }
    expect(await node.call('POST', '/api/user/login', { body: big })).toMatchObject({
      status: 413,
      json: { code: 'body_too_large' },
    })
    expect(
      (await node.call('PUT', '/api/user/self', { token: root, body: { display_name: 'z'.repeat(5_000) } })).json.code,
    ).toBe('display_name_invalid')
    const huge = { display_name: 'z'.repeat(70_000) }
    expect(await node.call('PUT', '/api/user/self', { token: root, body: huge })).toMatchObject({ status: 413 })
    expect(await node.call('PUT', '/api/user/self', { body: huge })).toMatchObject({ status: 401 })
  })

  test('a body that grows past the limit without saying its length is cut', async () => {
    let sent = 0
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        sent++
        controller.enqueue(new Uint8Array(1_024).fill(32))
      },
    })
    const reply = await node.app.handle(new Request('http://localhost/api/user/login', { method: 'POST', body }))
    expect(reply.status).toBe(413)
    expect(sent).toBeLessThan(20)
  })

  test('fuzzed headers never fail a request, and never let one in', async () => {
    const values = [
      '',
      ' ',
      'Bearer',
      'Bearer ',
      'Bearer  x',
      'Basic cm9vdDpyb290',
      'bearer\tx',
      'Bearer a.b.c',
      'Bearer ..',
      'Bearer %00',
    ]
    values.push(
      'x'.repeat(8_000),
      "Bearer ' or 1=1 -- ",
      'Bearer {"a":1}',
      'Bearer \u00e4\u00f6',
      `Bearer ${'.'.repeat(500)}`,
    )
    for (const authorization of values) {
      const reply = await node.call('GET', '/api/user/self', {
        headers: { authorization, 'new-api-user': '1', cookie: 'session=root' },
      })
      expect(reply).toMatchObject({ status: 401, json: { success: false } })
    }
    const noisy = {
      'accept-language': ',,;q=zh;q=9,',
      'x-auth-session': '\t',
      cookie: '=;;new_api_refresh',
      'user-agent': 'x'.repeat(9_000),
    }
    expect((await node.call('POST', '/api/user/auth/refresh', { headers: noisy })).status).toBe(401)
  })

  test('a write of an administrator without a note of its own leaves a generic one; a refused write and a read do not', async () => {
    const { logs } = testDb.db.tables
    const admin = await newUser(node, root, 10)
    const notes = async () => {
      const rows = await testDb.db
        .select()
        .from(logs)
        .where(and(eq(logs.type, 3), eq(logs.userId, admin.id)))
      return rows.map((row) => JSON.parse(row.other ?? '{}'))
    }
    await node.call('GET', '/api/user/', { token: admin.token })
    await node.call('POST', '/api/token/', { token: admin.token, body: { name: 'own' } })
    await node.call('PUT', '/api/user/self', { token: admin.token, body: { display_name: 'own' } })
    const { token } = await newUser(node, root)
    await node.call('POST', '/api/user/manage', { token, body: { id: 1, action: 'disable' } })
    expect(await notes()).toEqual([])
    await node.call('POST', '/api/user/manage', { token: admin.token, body: { id: 999_999, action: 'disable' } })
    expect(await notes()).toMatchObject([
      {
        op: { action: 'generic', params: { method: 'POST', route: '/api/user/manage' } },
        audit_info: { method: 'POST', path: '/api/user/manage', status: 200, success: false },
        admin_info: { admin_id: admin.id },
      },
    ])
  })

  test('a log database that is away does not fail what was done', async () => {
    const broken = await createTestNode(testDb.db, {
      logDb: {
        ...testDb.db,
        insert: () => {
          throw new Error('the log database is away')
        },
      },
    })
    const body = { username: `nolog${Date.now() % 1e6}`, password: 'password a' }
    expect((await broken.call('POST', '/api/user/', { token: root, body })).json.success).toBe(true)
    await broken.close()
  })
})
