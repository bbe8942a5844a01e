import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { channelRoutes } from '../../src/admin/channel-routes.ts'
import { configRoutes } from '../../src/admin/config-routes.ts'
import { dataRoutes } from '../../src/admin/data-routes.ts'
import { logRoutes } from '../../src/admin/log-routes.ts'
import { optionRoutes } from '../../src/admin/option-routes.ts'
import { pricingRoutes } from '../../src/admin/pricing-routes.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { createTestNode, logIn, newUser, ROOT, setUp, type TestNode } from './harness.ts'

/** Every route and the least role it asks for; 0 is everyone. A route that is not here fails the test. */
const LEAST_ROLE: Readonly<Record<string, 0 | 1 | 10 | 100>> = {
  'GET /api/setup/': 0,
  'POST /api/setup/': 0,
  'GET /api/status': 0,
  'GET /api/status/test': 10,
  'GET /api/notice': 0,
  'GET /api/about': 0,
  'GET /api/home_page_content': 0,
  'GET /api/user-agreement': 0,
  'GET /api/privacy-policy': 0,
  'POST /api/user/login': 0,
  'POST /api/user/auth/refresh': 0,
  'POST /api/user/auth/logout': 0,
  'GET /api/user/logout': 0,
  'GET /api/user/sessions': 1,
  'DELETE /api/user/sessions/:sid': 1,
  'POST /api/user/sessions/revoke-others': 1,
  'GET /api/user/self': 1,
  'PUT /api/user/self': 1,
  'DELETE /api/user/self': 1,
  'PUT /api/user/setting': 1,
  'GET /api/user/token': 1,
  'GET /api/user/aff': 1,
  'GET /api/user/': 10,
  'GET /api/user/search': 10,
  'GET /api/user/:id': 10,
  'POST /api/user/': 10,
  'PUT /api/user/': 10,
  'POST /api/user/manage': 10,
  'DELETE /api/user/:id': 10,
  'GET /api/token/': 1,
  'GET /api/token/search': 1,
  'GET /api/token/auto-groups': 1,
  'GET /api/token/:id': 1,
  'POST /api/token/:id/key': 1,
  'POST /api/token/': 1,
  'PUT /api/token/': 1,
  'POST /api/token/batch': 1,
  'POST /api/token/batch/keys': 1,
  'DELETE /api/token/:id': 1,
  'GET /api/redemption/': 10,
  'GET /api/redemption/search': 10,
  'GET /api/redemption/:id': 10,
  'POST /api/redemption/': 10,
  'PUT /api/redemption/': 10,
  'DELETE /api/redemption/invalid': 10,
  'DELETE /api/redemption/:id': 10,
  'POST /api/user/topup': 1,
  'GET /api/channel/': 10,
  'GET /api/channel/search': 10,
  'GET /api/channel/models': 10,
  'GET /api/channel/models_enabled': 10,
  'GET /api/channel/ops': 10,
  'GET /api/channel/tag/models': 10,
  'GET /api/channel/fetch_models/:id': 10,
  'POST /api/channel/fetch_models': 10,
  'GET /api/channel/update_balance': 10,
  'GET /api/channel/update_balance/:id': 10,
  'GET /api/channel/test': 10,
  'GET /api/channel/test/:id': 10,
  'GET /api/channel/:id': 10,
  'POST /api/channel/': 10,
  'PUT /api/channel/': 10,
  'DELETE /api/channel/disabled': 10,
  'DELETE /api/channel/:id': 10,
  'POST /api/channel/batch': 10,
  'POST /api/channel/batch/tag': 10,
  'POST /api/channel/:id/status': 10,
  'POST /api/channel/status/batch': 10,
  'POST /api/channel/tag/:state': 10,
  'PUT /api/channel/tag': 10,
  'POST /api/channel/copy/:id': 10,
  'POST /api/channel/fix': 10,
  'POST /api/channel/:id/key': 10,
  'POST /api/channel/multi_key/manage': 10,
  'GET /api/data/': 10,
  'GET /api/data/users': 10,
  'GET /api/data/self': 1,
  'GET /api/data/flow': 10,
  'GET /api/data/flow/self': 1,
  'GET /api/log/': 10,
  'GET /api/log/self': 1,
  'GET /api/log/stat': 10,
  'GET /api/log/self/stat': 1,
  'GET /api/log/token': 0,
  'OPTIONS /api/log/token': 0,
  'GET /api/log/search': 10,
  'GET /api/log/self/search': 1,
  'GET /api/config/': 100,
  'GET /api/option/': 100,
  'PUT /api/option/': 100,
  'POST /api/option/batch': 100,
  'POST /api/option/rest_model_ratio': 100,
  'GET /api/group': 10,
  'GET /api/user/self/groups': 1,
  'GET /api/user/groups': 0,
  'GET /api/user/models': 1,
  'GET /api/models': 1,
  'GET /api/pricing': 0,
  'GET /api/ratio_config': 0,
  'ALL /api/*': 0,
  'GET /dashboard/billing/subscription': 0,
  'GET /v1/dashboard/billing/subscription': 0,
  'GET /dashboard/billing/usage': 0,
  'GET /v1/dashboard/billing/usage': 0,
  'OPTIONS /api/usage/token': 0,
  'GET /api/usage/token': 0,
  'GET /': 0,
  'GET /api/openapi.json': 0,
}

/** Routes whose verbs are not mounted here: only that they refuse is asked of them. */
const isElsewhere = (path: string): boolean =>
  /^\/api\/(channel|config|data|log|option|group|models|pricing|ratio_config)/.test(path) ||
  /^\/api\/user\/(self\/groups|models|groups)/.test(path)

const engine = ENGINES[0]

describe('every route by every role', () => {
  let testDb: TestDb
  let node: TestNode
  beforeAll(async () => {
    if (!engine) throw new Error('no engine')
    testDb = await engine.freshDb()
    node = await createTestNode(testDb.db, {
      // A refusal must come before anything of a resource is touched: there is nothing behind these to touch.
      resources: ({ http, options }) => [
        channelRoutes({ http, options } as never),
        configRoutes({ http } as never),
        dataRoutes({ http } as never),
        logRoutes({ http } as never),
        optionRoutes({ http, options } as never),
        pricingRoutes({ http, options, channelTypes: [] } as never),
      ],
    })
    await setUp(node)
  }, 60_000)
  afterAll(async () => {
    await node.close()
    await testDb.close()
  })

  test('the table knows every route there is, and no others', () => {
    const routes = node.app.routes.map(({ method, path }) => `${method} ${path}`).sort()
    expect(routes).toEqual(Object.keys(LEAST_ROLE).sort())
  })

  const known = new Map<number, string>()
  const personal = new Map<number, string>()
  /** A live session of a role; some routes end the one they are called with. */
  const tokenOf = async (role: number): Promise<string> => {
    const token = known.get(role)
    if (token && (await node.call('GET', '/api/user/self', { token })).status === 200) return token
    const fresh = role === 100 ? await logIn(node, ROOT) : (await newUser(node, await tokenOf(100), role)).token
    known.set(role, fresh)
    personal.delete(role)
    return fresh
  }
  const personalOf = async (role: number): Promise<string> => {
    const token = personal.get(role) ?? (await node.ok('GET', '/api/user/token', { token: await tokenOf(role) }))
    personal.set(role, token)
    return token
  }

  const rows = Object.entries(LEAST_ROLE).filter(([route]) => !route.startsWith('ALL') && !route.startsWith('OPTIONS'))
  const addressOf = (path: string): string => path.replace(/:\w+/g, '1')
  const callAs = (route: string, token: string | undefined, body: unknown = {}) => {
    const [method = '', path = ''] = route.split(' ')
    return node.call(method, addressOf(path), { ...(token && { token }), ...(method !== 'GET' && { body }) })
  }

  test.each(rows.filter(([, least]) => least > 0))(
    '%s is closed to visitors and to invalid credentials',
    async (route) => {
      for (const token of [undefined, 'nobody', 'a.b.c', `sk-${'x'.repeat(48)}`, "' or 1=1"]) {
        expect(await callAs(route, token)).toMatchObject({
          status: 401,
          json: { success: false, code: 'AUTH_UNAUTHORIZED' },
        })
      }
    },
  )

  test.each(rows.filter(([, least]) => least > 1))('%s is closed to roles below %d', async (route, least) => {
    for (const role of [1, 10].filter((lower) => lower < least)) {
      const token = await tokenOf(role)
      for (const credential of [token, await personalOf(role)]) {
        for (const body of [{}, { id: 1, action: 'disable', key: 'SystemName', value: 'x' }, 'not an object']) {
          expect(await callAs(route, credential, body)).toMatchObject({
            status: 403,
            json: { success: false, code: 'AUTH_INSUFFICIENT_PRIVILEGE' },
          })
        }
      }
    }
  })

  const isOfKeys = (route: string): boolean => /billing|usage/.test(route)
  const open = rows.filter(([route]) => !isElsewhere(route.split(' ')[1] ?? '') && !isOfKeys(route))
  test.each(open)('%s is open from role %d on', async (route, least) => {
    const roles = [1, 10, 100].filter((role) => role >= least)
    const tokens = await Promise.all(roles.map(tokenOf))
    for (const token of least === 0 ? [undefined, ...tokens] : tokens) {
      const reply = await callAs(route, token)
      expect(reply.status).not.toBe(403)
      expect(reply.status).toBeLessThan(500)
      if (least > 0) expect(reply.json?.code ?? '').not.toStartWith('AUTH_UNAUTHORIZED')
    }
  })

  test('other spellings of a path do not get around a check', async () => {
    const token = await tokenOf(1)
    const spellings = [
      '/api/user',
      '/api/user//',
      '//api/user/',
      '/api//user/',
      '/api/./user/',
      '/api/x/../user/',
      '/api/user/%2e%2e/user/',
      '/api%2fuser/',
      '/api/user%2f',
      '/API/USER/',
      '/api/user;x=1/',
      '/api/user/?x=/api/status',
      '/api/option',
      '/api/option/%2e',
      '/api/status/../option/',
      '/api/status/..%2foption',
    ]
    for (const path of spellings) {
      const reply = await node.call('GET', path, { token })
      expect([401, 403, 404, 200]).toContain(reply.status)
      if (reply.status === 200) expect(reply.json).toMatchObject({ success: false })
      expect(reply.text).not.toContain('Root User')
      expect(reply.text).not.toContain('SystemName')
    }
  })

  test('the host of a request decides nothing', async () => {
    const token = await tokenOf(1)
    for (const host of ['localhost:1', 'api', 'evil.example.com', '127.0.0.1/api/status?']) {
      const reply = await node.call('GET', '/api/user/', {
        token,
        headers: { host, 'x-forwarded-host': host, 'x-original-url': '/api/status' },
      })
      expect(reply.status).toBe(403)
    }
  })
})
