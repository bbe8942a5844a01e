import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { and, desc, eq } from 'drizzle-orm'
import type { Db } from '../../src/db/index.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import {
  createTestNode,
  logIn,
  newUser,
  type Reply,
  setUp,
  type TestClock,
  type TestNode,
  testClock,
} from './harness.ts'

const DAY_MS = 86_400_000

/** @returns the value of the refresh cookie that a reply sets; '' when it is taken away */
function cookieOf(reply: Reply): string | undefined {
  const header = reply.headers.get('set-cookie')
  return header === null ? undefined : /^new_api_refresh=([^;]*)/.exec(header)?.[1]
}

for (const engine of ENGINES) {
  describe(`log-in and sessions on ${engine.name}`, () => {
    let testDb: TestDb
    let db: Db
    let node: TestNode
    let clock: TestClock
    let root: string
    beforeAll(async () => {
      testDb = await engine.freshDb()
      db = testDb.db
      clock = testClock()
      node = await createTestNode(db, { clock })
      root = await setUp(node)
    }, 120_000)
    afterAll(async () => {
      await node.close()
      await testDb.close()
    })

    const login = (who: { username: string; password: string }): Promise<Reply> =>
      node.call('POST', '/api/user/login', {
        body: who,
        headers: { 'user-agent': 'test agent', 'x-test-ip': '203.0.113.9' },
      })
    const refresh = (cookie: string, headers: Record<string, string> = {}): Promise<Reply> =>
      node.call('POST', '/api/user/auth/refresh', {
        headers: { cookie: `other=1; new_api_refresh=${cookie}`, ...headers },
      })
    const fresh = async () => {
      root = await logIn(node, { username: 'root', password: 'correct horse' })
      return newUser(node, root)
    }

    test('a log-in answers with token, session, user, and a cookie that scripts and other sites cannot use', async () => {
      const user = await fresh()
      const reply = await login(user)
      expect(reply.json.data).toMatchObject({
        token_type: 'Bearer',
        access_expires_at: Math.floor(clock.now() / 1000) + 900,
        session: { current: true, login_method: 'password', ip: '203.0.113.9', user_agent: 'test agent' },
        user: { id: user.id, username: user.username, role: 1 },
      })
      const header = reply.headers.get('set-cookie') ?? ''
      expect(header).toMatch(/^new_api_refresh=[\w-]{36}\.[\w-]{64}; /)
      expect(header).toContain('Path=/api/user/auth')
      expect(header).toContain('HttpOnly')
      expect(header).toContain('SameSite=Strict')
      expect(header).toContain('Max-Age=2592000')
      expect(header).not.toContain('Secure')
      expect(reply.headers.get('cache-control')).toBe('no-store')
      expect(reply.text).not.toMatch(/\$2[aby]\$/)
    })

    test('wrong password, unknown name, empty name and a disabled user are told alike', async () => {
      const user = await fresh()
      const wrong = await login({ username: user.username, password: 'wrong password' })
      const unknown = await login({ username: 'nobody here', password: 'wrong password' })
      const empty = await login({ username: ' ', password: '' })
      await node.ok('POST', '/api/user/manage', { token: root, body: { id: user.id, action: 'disable' } })
      const disabled = await login(user)
      for (const reply of [wrong, unknown, empty, disabled]) {
        expect(reply).toMatchObject({ status: 200, json: wrong.json })
        expect(reply.json).toMatchObject({ success: false, code: 'login_failed' })
        expect(cookieOf(reply)).toBeUndefined()
      }
    })

    test('one logs in by e-mail address too, and with a $2a$ hash of an older database', async () => {
      const user = await fresh()
      const hash = (await Bun.password.hash('old password', { algorithm: 'bcrypt', cost: 4 })).replace('$2b$', '$2a$')
      await db
        .update(db.tables.users)
        .set({ email: `${user.username}@Example.com`.toLowerCase(), password: hash })
        .where(eq(db.tables.users.id, user.id))
      const reply = await login({ username: `${user.username}@example.COM`, password: 'old password' })
      expect(reply.json.data.user.id).toBe(user.id)
    })

    test('an account without a password hash is nobody’s to log in to', async () => {
      const user = await fresh()
      for (const password of ['', '123456', user.password]) {
        await db
          .update(db.tables.users)
          .set({ password: password === user.password ? '' : password })
          .where(eq(db.tables.users.id, user.id))
        expect((await login({ username: user.username, password })).json.code).toBe('login_failed')
      }
    })

    test('a log-in leaves a row of type 7 with method, agent and address', async () => {
      const user = await fresh()
      await login(user)
      const { logs } = db.tables
      const [row] = await db
        .select()
        .from(logs)
        .where(and(eq(logs.type, 7), eq(logs.userId, user.id)))
        .orderBy(desc(logs.id))
        .limit(1)
      expect(row).toMatchObject({ username: user.username, ip: '203.0.113.9' })
      expect(JSON.parse(row?.other ?? '')).toEqual({
        login_method: 'password',
        user_agent: 'test agent',
        op: { action: 'login', params: { method: 'password' } },
      })
    })

    test('a refresh replaces the secret; the one before works for 30 seconds and gives the same successor', async () => {
      const first = cookieOf(await login(await fresh())) ?? ''
      const rotated = await refresh(first)
      const second = cookieOf(rotated) ?? ''
      expect(rotated.json.data).toMatchObject({ token_type: 'Bearer', session: { current: true }, user: { role: 1 } })
      expect(second).not.toBe(first)
      clock.advance(29_000)
      const again = await refresh(first)
      expect(cookieOf(again)).toBe(second)
      expect((await refresh(second)).status).toBe(200)
    })

    test('parallel refreshes of one secret all get the same successor', async () => {
      const first = cookieOf(await login(await fresh())) ?? ''
      const replies = await Promise.all(Array.from({ length: 10 }, () => refresh(first)))
      expect(replies.map((reply) => reply.status)).toEqual(replies.map(() => 200))
      expect(new Set(replies.map(cookieOf)).size).toBe(1)
    })

    test('a secret used again later is theft: the session ends, for the thief and the owner', async () => {
      const user = await fresh()
      const opened = await login(user)
      const first = cookieOf(opened) ?? ''
      const rotated = await refresh(first)
      clock.advance(31_000)
      const reused = await refresh(first)
      expect(reused).toMatchObject({ status: 401, json: { code: 'AUTH_SESSION_REVOKED' } })
      expect(await refresh(cookieOf(rotated) ?? '')).toMatchObject({
        status: 401,
        json: { code: 'AUTH_SESSION_REVOKED' },
      })
      const token = rotated.json.data.access_token
      expect(await node.call('GET', '/api/user/self', { token })).toMatchObject({
        status: 401,
        json: { code: 'AUTH_SESSION_REVOKED' },
      })
      const { userSessions } = db.tables
      const [row] = await db.select().from(userSessions).where(eq(userSessions.sid, opened.json.data.session.sid))
      expect(row).toMatchObject({ status: 'revoked', revokedReason: 'refresh_reuse' })
    })

    test('a guessed secret of a known session is refused, clears the cookie and leaves the session alone', async () => {
      const real = cookieOf(await login(await fresh())) ?? ''
      const [sid] = real.split('.')
      const guesses = [
        `${sid}.${'x'.repeat(64)}`,
        `${sid}.`,
        sid ?? '',
        'rubbish',
        `${sid}.${'x'.repeat(65)}`,
        "' or 1=1.",
      ]
      for (const guess of guesses) {
        const reply = await refresh(guess)
        expect(reply).toMatchObject({ status: 401, json: { code: 'AUTH_UNAUTHORIZED' } })
        expect(cookieOf(reply)).toBe('')
        expect(reply.headers.get('set-cookie')).toContain('Path=/api/user/auth')
      }
      expect((await refresh(real)).status).toBe(200)
      expect((await node.call('POST', '/api/user/auth/refresh')).status).toBe(401)
    })

    test('the session that a client names must be the one of its cookie', async () => {
      const cookie = cookieOf(await login(await fresh())) ?? ''
      const [sid = ''] = cookie.split('.')
      expect(await refresh(cookie, { 'x-auth-session': 'another' })).toMatchObject({
        status: 409,
        json: { code: 'AUTH_SESSION_MISMATCH' },
      })
      expect((await refresh(cookie, { 'x-auth-session': sid })).status).toBe(200)
    })

    test('an access token ends after 15 minutes, a session after 30 days', async () => {
      const opened = await login(await fresh())
      const token = opened.json.data.access_token
      clock.advance(899_000)
      expect((await node.call('GET', '/api/user/self', { token })).status).toBe(200)
      clock.advance(1_000)
      expect(await node.call('GET', '/api/user/self', { token })).toMatchObject({
        status: 401,
        json: { code: 'AUTH_TOKEN_EXPIRED' },
      })
      clock.advance(29 * DAY_MS)
      const late = await refresh(cookieOf(opened) ?? '')
      expect(late.status).toBe(200)
      expect(late.headers.get('set-cookie')).toMatch(/Max-Age=8\d{4};/)
      clock.advance(DAY_MS)
      expect(await refresh(cookieOf(late) ?? '')).toMatchObject({ status: 401, json: { code: 'AUTH_SESSION_REVOKED' } })
    })

    test('logging out ends the session and takes the cookie away; without a credential it succeeds, too', async () => {
      const opened = await login(await fresh())
      const cookie = cookieOf(opened) ?? ''
      const token = opened.json.data.access_token
      const reply = await node.call('POST', '/api/user/auth/logout', {
        token,
        headers: { cookie: `new_api_refresh=${cookie}` },
      })
      expect(reply.json.data).toEqual({ revoked_sid: opened.json.data.session.sid, cookie_cleared: true })
      expect(cookieOf(reply)).toBe('')
      expect(await node.call('GET', '/api/user/self', { token })).toMatchObject({
        status: 401,
        json: { code: 'AUTH_SESSION_REVOKED' },
      })
      expect((await refresh(cookie)).status).toBe(401)
      const bare = await node.call('POST', '/api/user/auth/logout')
      expect(bare).toMatchObject({ status: 200, json: { success: true } })
      expect(bare.json.data).toBeUndefined()
    })

    test('logging out by cookie needs its secret, not only the id of a session', async () => {
      const opened = await login(await fresh())
      const sid = opened.json.data.session.sid
      await node.call('POST', '/api/user/auth/logout', {
        headers: { cookie: `new_api_refresh=${sid}.${'x'.repeat(64)}` },
      })
      expect((await refresh(cookieOf(opened) ?? '')).status).toBe(200)
    })

    test('the older way of logging out ends the session of the token', async () => {
      const { json } = await login(await fresh())
      const token = json.data.access_token
      expect((await node.call('GET', '/api/user/logout', { token })).json.success).toBe(true)
      expect((await node.call('GET', '/api/user/self', { token })).status).toBe(401)
    })

    test('sessions are listed with the current one first, ended one by one, or all others at once', async () => {
      const user = await fresh()
      const one = (await login(user)).json.data
      const two = (await login(user)).json.data
      const list = await node.ok('GET', '/api/user/sessions', { token: one.access_token })
      expect(list).toHaveLength(3)
      expect(list[0]).toMatchObject({ sid: one.session.sid, current: true })
      expect(list.slice(1).every((session: { current: boolean }) => !session.current)).toBe(true)
      expect(await node.ok('DELETE', `/api/user/sessions/${two.session.sid}`, { token: one.access_token })).toEqual({
        revoked_sid: two.session.sid,
        current: false,
      })
      expect((await node.call('GET', '/api/user/self', { token: two.access_token })).status).toBe(401)
      expect(await node.ok('POST', '/api/user/sessions/revoke-others', { token: one.access_token })).toEqual({
        revoked_count: 1,
      })
      expect(await node.ok('GET', '/api/user/sessions', { token: one.access_token })).toHaveLength(1)
    })

    test('another user’s session is not there to be ended', async () => {
      const [mine, theirs] = [await fresh(), await fresh()]
      const { sid } = (await login(theirs)).json.data.session
      expect(await node.call('DELETE', `/api/user/sessions/${sid}`, { token: mine.token })).toMatchObject({
        status: 404,
        json: { code: 'AUTH_SESSION_NOT_FOUND' },
      })
    })

    test('a personal access token does what its user may, but not with sessions and passwords', async () => {
      const user = await fresh()
      const personal = await node.ok('GET', '/api/user/token', { token: user.token })
      expect(personal).toMatch(/^[A-Za-z0-9]{32}$/)
      for (const authorization of [personal, `Bearer ${personal}`, `bearer ${personal}`]) {
        const reply = await node.call('GET', '/api/user/self', { headers: { authorization, 'new-api-user': '999' } })
        expect(reply.json.data.id).toBe(user.id)
      }
      expect(await node.refused('GET', '/api/user/sessions', { token: personal })).toBe('AUTH_SESSION_REQUIRED')
      expect(await node.refused('POST', '/api/user/sessions/revoke-others', { token: personal })).toBe(
        'AUTH_SESSION_REQUIRED',
      )
      const change = { password: 'another password', original_password: user.password }
      expect(await node.refused('PUT', '/api/user/self', { token: personal, body: change })).toBe(
        'AUTH_SESSION_REQUIRED',
      )
      expect(await node.refused('GET', '/api/user/', { token: personal })).toBe('AUTH_INSUFFICIENT_PRIVILEGE')
      const second = await node.ok('GET', '/api/user/token', { token: personal })
      expect(await node.refused('GET', '/api/user/self', { token: personal })).toBe('AUTH_UNAUTHORIZED')
      expect((await node.call('GET', '/api/user/self', { token: second.toLowerCase() })).status).toBe(
        second === second.toLowerCase() ? 200 : 401,
      )
    })

    test('cookies never authenticate a call of the API', async () => {
      const opened = await login(await fresh())
      const cookie = `new_api_refresh=${cookieOf(opened)}; session=${opened.json.data.access_token}`
      expect(await node.call('GET', '/api/user/self', { headers: { cookie } })).toMatchObject({
        status: 401,
        json: { code: 'AUTH_UNAUTHORIZED' },
      })
    })

    test('a disabled user’s sessions and personal token end at once, and do not come back with the user', async () => {
      const user = await fresh()
      const personal = await node.ok('GET', '/api/user/token', { token: user.token })
      await node.ok('POST', '/api/user/manage', { token: root, body: { id: user.id, action: 'disable' } })
      expect(await node.refused('GET', '/api/user/self', { token: personal })).toBe('AUTH_USER_DISABLED')
      expect((await node.call('GET', '/api/user/self', { token: user.token })).status).toBe(401)
      await node.ok('POST', '/api/user/manage', { token: root, body: { id: user.id, action: 'enable' } })
      expect(await node.refused('GET', '/api/user/self', { token: user.token })).toBe('AUTH_SESSION_REVOKED')
      expect((await node.call('GET', '/api/user/self', { token: personal })).status).toBe(200)
    })

    test('an API key is no credential of the administration', async () => {
      const { token } = await fresh()
      const { key } = await node.ok('POST', '/api/token/', { token, body: { name: 'k', unlimited_quota: true } })
      for (const credential of [key, `sk-${key}`]) {
        expect(await node.refused('GET', '/api/user/self', { token: credential })).toBe('AUTH_UNAUTHORIZED')
      }
    })
  })

  describe(`limits and origins of sessions on ${engine.name}`, () => {
    let testDb: TestDb
    beforeAll(async () => {
      testDb = await engine.freshDb()
      const first = await createTestNode(testDb.db)
      await setUp(first)
      await first.close()
    }, 120_000)
    afterAll(() => testDb.close())

    const withNode = async (
      settings: Parameters<typeof createTestNode>[1],
      work: (node: TestNode) => Promise<void>,
    ) => {
      const node = await createTestNode(testDb.db, settings)
      try {
        await work(node)
      } finally {
        await node.close()
      }
    }
    const someone = async (node: TestNode) =>
      newUser(node, await logIn(node, { username: 'root', password: 'correct horse' }))

    test('parallel log-ins cannot pass the limit of live sessions together', async () => {
      let user = { username: '', password: '' }
      await withNode({}, async (node) => {
        user = await someone(node)
      })
      await withNode({ sessionLimits: { active: 3 } }, async (node) => {
        const replies = await Promise.all(
          Array.from({ length: 8 }, () => node.call('POST', '/api/user/login', { body: user })),
        )
        // One session is live from the making of the user.
        expect(replies.filter((reply) => reply.status === 200)).toHaveLength(2)
        expect(
          replies.filter((reply) => reply.json.code === 'AUTH_SESSION_LIMIT' && reply.status === 409),
        ).toHaveLength(6)
      })
    }, 20_000)

    test('sessions issued in a day are limited, ended ones included', async () => {
      await withNode({ sessionLimits: { issuance: 3 } }, async (node) => {
        let user = { username: '', password: '' }
        await withNode({}, async (other) => {
          user = await someone(other)
        })
        for (let i = 0; i < 2; i++) {
          const token = await logIn(node, user)
          await node.ok('POST', '/api/user/auth/logout', { token })
        }
        const reply = await node.call('POST', '/api/user/login', { body: user })
        expect(reply).toMatchObject({ status: 429, json: { code: 'AUTH_SESSION_ISSUANCE_LIMIT' } })
      })
    }, 20_000)

    test('with a secure cookie, refresh and log-out need the own origin or a trusted one', async () => {
      await withNode({ isCookieSecure: true, trustedOrigins: ['https://console.example.com'] }, async (node) => {
        const user = await someone(node)
        const opened = await node.call('POST', '/api/user/login', { body: user })
        expect(opened.headers.get('set-cookie')).toContain('Secure')
        const from = (headers: Record<string, string>) =>
          node.call('POST', '/api/user/auth/refresh', {
            headers: { host: 'gate.example.com', cookie: `new_api_refresh=${cookieOf(opened)}`, ...headers },
          })
        for (const headers of [
          {},
          { origin: 'https://evil.example.com' },
          { origin: 'http://gate.example.com' },
          { origin: 'null' },
          { origin: 'https://gate.example.com.evil.com' },
          { referer: 'https://evil.example.com/https://gate.example.com' },
        ]) {
          expect(await from(headers as Record<string, string>)).toMatchObject({
            status: 403,
            json: { code: 'AUTH_ORIGIN_FORBIDDEN' },
          })
        }
        expect((await from({ origin: 'https://gate.example.com' })).status).toBe(200)
        expect((await from({ origin: 'https://console.example.com' })).status).toBe(200)
        expect((await from({ referer: 'https://gate.example.com/console/' })).status).toBe(200)
      })
    })

    test('a replaced session secret logs nobody out; a foreign one knows nobody', async () => {
      let opened: Reply | undefined
      await withNode({ secrets: ['old secret'] }, async (node) => {
        opened = await node.call('POST', '/api/user/login', { body: await someone(node) })
      })
      const token = opened?.json.data.access_token
      const headers = { cookie: `new_api_refresh=${opened && cookieOf(opened)}` }
      await withNode({ secrets: ['foreign secret'] }, async (node) => {
        expect(await node.refused('GET', '/api/user/self', { token })).toBe('AUTH_UNAUTHORIZED')
        expect(await node.refused('POST', '/api/user/auth/refresh', { headers })).toBe('AUTH_UNAUTHORIZED')
      })
      await withNode({ secrets: ['new secret', 'old secret'] }, async (node) => {
        expect((await node.call('GET', '/api/user/self', { token })).status).toBe(200)
        const rotated = await node.call('POST', '/api/user/auth/refresh', { headers })
        expect(rotated.status).toBe(200)
        const again = await node.call('POST', '/api/user/auth/refresh', { headers })
        expect(cookieOf(again)).toBe(cookieOf(rotated) ?? 'none')
      })
    })

    test('each step of a session may meet another node', async () => {
      await withNode({}, async (one) => {
        await withNode({}, async (two) => {
          const opened = await one.call('POST', '/api/user/login', { body: await someone(two) })
          expect((await two.call('GET', '/api/user/self', { token: opened.json.data.access_token })).status).toBe(200)
          const headers = { cookie: `new_api_refresh=${cookieOf(opened)}` }
          const rotated = await two.call('POST', '/api/user/auth/refresh', { headers })
          expect(rotated.status).toBe(200)
          await one.ok('POST', '/api/user/auth/logout', { token: rotated.json.data.access_token })
          expect((await two.call('GET', '/api/user/self', { token: rotated.json.data.access_token })).status).toBe(401)
        })
      })
    })

    test('log-ins of one address are limited, with the reason and the time to wait', async () => {
      await withNode({ webLimits: { critical: { count: 2, windowSec: 1200 } } }, async (node) => {
        const attempt = (ip: string) =>
          node.call('POST', '/api/user/login', {
            body: { username: 'root', password: 'wrong' },
            headers: { 'x-test-ip': ip },
          })
        expect((await attempt('1.1.1.1')).status).toBe(200)
        expect((await attempt('1.1.1.1')).status).toBe(200)
        const refused = await attempt('1.1.1.1')
        expect(refused).toMatchObject({ status: 429, json: { success: false, code: 'rate_limit_exceeded' } })
        // The first of the two has left by then; a window is kept to a hundredth of its length.
        const waitSec = Number(refused.headers.get('retry-after'))
        expect(waitSec).toBeGreaterThan(1100)
        expect(waitSec).toBeLessThanOrEqual(1212)
        expect((await attempt('2.2.2.2')).status).toBe(200)
      })
    })

    test('rows that nobody can use any more are swept, live ones stay', async () => {
      const clock = testClock()
      await withNode({ clock }, async (node) => {
        const user = await someone(node)
        const { userSessions } = node.db.tables
        const rows = () => node.db.$count(userSessions, eq(userSessions.userId, user.id))
        await node.ok('POST', '/api/user/auth/logout', { token: await logIn(node, user) })
        expect(await rows()).toBe(2)
        clock.advance(8 * DAY_MS)
        await node.accounts.sessions.sweep()
        expect(await rows()).toBe(1)
        clock.advance(30 * DAY_MS)
        await node.accounts.sessions.sweep()
        expect(await rows()).toBe(0)
      })
    })
  })
}
