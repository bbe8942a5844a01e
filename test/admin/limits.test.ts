/**
 * Limits of the API and the pages: exact over nodes, by the address that a trusted proxy vouches for or by user, with the
 * time to wait; what asks whether a node lives is never refused, and a store that is away never makes an error.
 */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { createMemoryState } from '../../src/state/index.ts'
import { openApp } from '../support/app.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { createTestNode, newUser, setUp, type TestNode } from './harness.ts'

const LIMIT = 10
const engine = ENGINES[0]

describe('over two nodes that share a state', () => {
  let testDb: TestDb
  let nodes: readonly TestNode[]
  let root: string
  let lastIp = 0
  const freshIp = (): string => `198.51.100.${++lastIp}`

  beforeAll(async () => {
    if (!engine) throw new Error('no engine')
    testDb = await engine.freshDb()
    const state = createMemoryState({ clock: systemClock, log: silentLog })
    const limit = { count: LIMIT, windowSec: 180 }
    const webLimits = { api: limit, web: limit, critical: { count: 8, windowSec: 1200 }, search: limit }
    nodes = [
      await createTestNode(testDb.db, { state, webLimits }),
      await createTestNode(testDb.db, { state, webLimits }),
    ]
    root = await setUp(nodes[0]!)
  }, 60_000)
  afterAll(async () => {
    for (const node of nodes) await node.close()
    await testDb.close()
  })

  /** Asks the nodes in turn, all at once. */
  const burst = (size: number, path: string, ip: string | (() => string), token?: string) =>
    Promise.all(
      Array.from({ length: size }, (_, n) =>
        nodes[n % 2]!.call('GET', path, {
          headers: { 'x-test-ip': typeof ip === 'string' ? ip : ip() },
          ...(token !== undefined && { token }),
        }),
      ),
    )
  const count = (replies: Awaited<ReturnType<typeof burst>>, status: number): number =>
    replies.filter((reply) => reply.status === status).length

  test('an address has as many requests to the API as the limit, whatever it asks, and then the time to wait', async () => {
    const ip = freshIp()
    const replies = [
      ...(await burst(4, '/api/notice', ip)),
      ...(await burst(2, '/api/no-such-path', ip)),
      ...(await burst(20, '/api/about', ip)),
    ]
    expect([count(replies, 200), count(replies, 404), count(replies, 429)]).toEqual([LIMIT - 2, 2, 16])
    const refused = replies.find((reply) => reply.status === 429)
    expect(refused?.json).toMatchObject({ success: false, code: 'rate_limit_exceeded' })
    expect(refused?.headers.get('x-oneapi-request-id')).toBeTruthy()
    const waitSec = Number(refused?.headers.get('retry-after'))
    expect(waitSec).toBeGreaterThan(100)
    expect(waitSec).toBeLessThanOrEqual(182)
    expect(count(await burst(1, '/api/notice', freshIp()), 200)).toBe(1)
  })

  test('the status is never refused and never counted', async () => {
    const ip = freshIp()
    const status = [...(await burst(3 * LIMIT, '/api/status', ip)), ...(await burst(LIMIT, '/api/status/', ip))]
    expect(count(status, 200)).toBe(4 * LIMIT)
    expect(count(await burst(LIMIT + 1, '/api/notice', ip), 200)).toBe(LIMIT)
    expect(count(await burst(LIMIT, '/api/status', ip), 200)).toBe(LIMIT)
  })

  test('pages have a limit of their own; those who read bills count as the API; both refuse without a body', async () => {
    const ip = freshIp()
    const pages = await burst(LIMIT + 3, '/', ip)
    expect([count(pages, 200), count(pages, 429)]).toEqual([LIMIT, 3])
    const bills = await burst(LIMIT + 3, '/v1/dashboard/billing/usage', ip)
    expect([count(bills, 401), count(bills, 429)]).toEqual([LIMIT, 3])
    for (const replies of [pages, bills]) {
      const refused = replies.find((reply) => reply.status === 429)
      expect(refused?.text).toBe('')
      expect(Number(refused?.headers.get('retry-after'))).toBeGreaterThan(100)
    }
  })

  test('searches count for the user, from whatever address', async () => {
    const [one, other] = [await newUser(nodes[0]!, root), await newUser(nodes[0]!, root)]
    const replies = await burst(2 * LIMIT, '/api/token/search?keyword=a', freshIp, one.token)
    expect([count(replies, 200), count(replies, 429)]).toEqual([LIMIT, LIMIT])
    expect(count(await burst(1, '/api/token/search?keyword=a', freshIp, other.token), 200)).toBe(1)
  })

  test('critical routes count for the address, and a new access token for the user too', async () => {
    const user = await newUser(nodes[0]!, root)
    const replies = await burst(12, '/api/user/token', freshIp, user.token)
    expect([count(replies, 200), count(replies, 429)]).toEqual([8, 4])
  })
})

describe('on a real node', () => {
  const ask = (url: string, path: string, forwarded: string): Promise<number> =>
    fetch(`${url}${path}`, { headers: { 'x-forwarded-for': forwarded } }).then(async (reply) => {
      await reply.text()
      return reply.status
    })
  const limits = { GLOBAL_API_RATE_LIMIT_ENABLE: 'true', GLOBAL_API_RATE_LIMIT: '40' }
  const all = (url: string, forwarded: (n: number) => string) =>
    Promise.all(Array.from({ length: 60 }, (_, n) => ask(url, '/api/notice', forwarded(n))))
  const count = (statuses: readonly number[], status: number) => statuses.filter((each) => each === status).length

  test('an address that a client writes itself makes no other client of it', async () => {
    if (!engine) throw new Error('no engine')
    const app = await openApp(engine, { env: { ...limits, TRUSTED_PROXIES: 'none' } })
    try {
      const statuses = await all(app.url, (n) => `203.0.113.${n}`)
      expect(count(statuses, 200)).toBeLessThan(40)
      expect(count(statuses, 200) + count(statuses, 429)).toBe(60)
      // Whoever asks whether it lives still gets an answer.
      for (const path of ['/healthz', '/readyz', '/api/status']) expect(await ask(app.url, path, '')).toBe(200)
    } finally {
      await app.stop()
    }
  }, 60_000)

  test('behind a trusted proxy the address counts that the proxy saw, not what stands left of it', async () => {
    if (!engine) throw new Error('no engine')
    const app = await openApp(engine, { env: { ...limits, TRUSTED_PROXIES: '127.0.0.0/8,::1' } })
    try {
      const [one, other] = await Promise.all([
        all(app.url, (n) => `203.0.113.${n}, 198.51.100.1`),
        all(app.url, (n) => `203.0.113.${n}, 198.51.100.2`),
      ])
      expect([count(one, 200), count(one, 429), count(other, 200), count(other, 429)]).toEqual([40, 20, 40, 20])
    } finally {
      await app.stop()
    }
  }, 60_000)

  test('without the Redis that it should have, a node limits by itself and answers no error', async () => {
    if (!engine) throw new Error('no engine')
    const env = { ...limits, TRUSTED_PROXIES: '127.0.0.0/8,::1', REDIS_CONN_STRING: 'redis://127.0.0.1:1' }
    const app = await openApp(engine, { env })
    try {
      const statuses = await all(app.url, () => '198.51.100.1')
      expect([count(statuses, 200), count(statuses, 429)]).toEqual([40, 20])
    } finally {
      await app.stop()
    }
  }, 60_000)
})
