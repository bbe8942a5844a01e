/** One node of the account routes over a test database: its own bus and snapshots, real HTTP requests without a port. */
import { expect } from 'bun:test'
import type { AnyElysia } from 'elysia'
import { apiKeyRoutes } from '../../src/admin/api-key-routes.ts'
import { authRoutes } from '../../src/admin/auth-routes.ts'
import { billingCompatRoutes } from '../../src/admin/billing-compat-routes.ts'
import { homeRoutes } from '../../src/admin/home-routes.ts'
import { type AdminHttp, createAdminHttp } from '../../src/admin/http.ts'
import { adminRoutes } from '../../src/admin/index.ts'
import { openApiRoutes } from '../../src/admin/openapi-routes.ts'
import { redemptionRoutes } from '../../src/admin/redemption-routes.ts'
import { selfRoutes } from '../../src/admin/self-routes.ts'
import { setupRoutes } from '../../src/admin/setup-routes.ts'
import { statusRoutes } from '../../src/admin/status-routes.ts'
import { userRoutes } from '../../src/admin/user-routes.ts'
import { type Db, readTopicVersions } from '../../src/db/index.ts'
import { type Accounts, createAccounts } from '../../src/domain/accounts/index.ts'
import { createAudit } from '../../src/domain/audit.ts'
import { createWebLimits } from '../../src/domain/limits/index.ts'
import { createBaseUrl, createOptions, type Options } from '../../src/domain/options/index.ts'
import { type Clock, systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { createMemoryState, createTopics, type State, type Topics } from '../../src/state/index.ts'

/** A clock that tests move by hand. */
export interface TestClock extends Clock {
  advance(ms: number): void
}

export function testClock(startMs = Date.now()): TestClock {
  let passedMs = 0
  return {
    now: () => startMs + passedMs,
    monotonic: () => passedMs,
    advance: (ms) => {
      passedMs += ms
    },
  }
}

export interface Reply {
  readonly status: number
  // A reply is looked into field by field; its shape is what the test asserts.
  readonly json: ReplyJson
  readonly headers: Headers
  readonly text: string
}
// biome-ignore lint/suspicious/noExplicitAny: replies are asserted field by field
export type ReplyJson = any

export interface CallOptions {
  readonly token?: string
  readonly body?: unknown
  /** Sent as it is, instead of `body`. */
  readonly text?: string
  readonly headers?: Readonly<Record<string, string>>
}

export interface TestNode {
  readonly db: Db
  readonly accounts: Accounts
  readonly options: Options
  readonly state: State
  readonly topics: Topics
  readonly app: AnyElysia
  call(method: string, path: string, options?: CallOptions): Promise<Reply>
  /** Calls and expects `success: true`. @returns `data` */
  ok(method: string, path: string, options?: CallOptions): Promise<ReplyJson>
  /** Calls and expects a refusal. @returns its code */
  refused(method: string, path: string, options?: CallOptions): Promise<string>
  close(): Promise<void>
}

export const SECRET = 'a secret of the tests, long enough'

/** @param settings.state shared by several nodes, as over Redis */
export async function createTestNode(
  db: Db,
  settings: {
    readonly clock?: Clock
    readonly state?: State
    readonly logDb?: Db
    readonly secrets?: readonly string[]
    readonly isCookieSecure?: boolean
    readonly trustedOrigins?: readonly string[]
    readonly webLimits?: Parameters<typeof createWebLimits>[0]['limits']
    readonly sessionLimits?: Partial<{ readonly active: number; readonly issuance: number }>
    readonly freshMs?: number
    readonly leaseMs?: number
    readonly resources?: (parts: {
      readonly db: Db
      readonly options: Options
      readonly accounts: Accounts
      readonly http: AdminHttp
    }) => readonly AnyElysia[]
  } = {},
): Promise<TestNode> {
  const clock = settings.clock ?? systemClock
  const log = silentLog
  const state = settings.state ?? createMemoryState({ clock: systemClock, log })
  const topics = createTopics({
    state,
    readVersions: () => readTopicVersions(db),
    everyMs: 20,
    fullReloadMs: 3_600_000,
    log,
    clock: systemClock,
  })
  const options = createOptions({ db, topics, log, clock })
  const audit = createAudit({ logDb: settings.logDb ?? db, clock, log })
  const accounts = createAccounts({
    db,
    topics,
    bus: state,
    options,
    audit,
    log,
    clock,
    version: 'v-test',
    secrets: settings.secrets ?? [SECRET],
    sessionLimits: {
      active: 50,
      issuance: 100,
      issuanceWindowSec: 86_400,
      revokedRetentionSec: 604_800,
      ...settings.sessionLimits,
    },
    freshMs: settings.freshMs ?? 60_000,
    leaseMs: settings.leaseMs ?? 90_000,
    isLogSeparate: settings.logDb !== undefined,
  })
  await options.ready()
  const baseUrl = createBaseUrl('', options)
  await accounts.ready()
  topics.start()

  const http = createAdminHttp({
    identify: accounts.sessions.identify,
    recordAudit: audit.record,
    clientIp: (request) => request.headers.get('x-test-ip') ?? '127.0.0.1',
    limits: createWebLimits({ counts: state, limits: settings.webLimits ?? {} }),
    now: clock.now,
  })
  const app: AnyElysia = adminRoutes({
    http,
    recordAudit: audit.record,
    log,
    version: 'v-test',
    limits: { anonymousBodyBytes: 4_096, bodyBytes: 65_536 },
    resources: [
      setupRoutes({ accounts, http, databaseType: db.engine }),
      statusRoutes({
        accounts,
        options,
        http,
        version: 'v-test',
        startTimeSec: 1,
        isBatchUpdate: false,
        baseUrl,
        pingDb: () => db.now(),
        activeConnections: () => 0,
        clock: systemClock,
      }),
      authRoutes({
        accounts,
        http,
        isCookieSecure: settings.isCookieSecure ?? false,
        trustedOrigins: settings.trustedOrigins ?? [],
      }),
      selfRoutes({ accounts, http }),
      userRoutes({ accounts, http }),
      apiKeyRoutes({ accounts, http }),
      redemptionRoutes({ accounts, http }),
      ...(settings.resources?.({ db, options, accounts, http }) ?? []),
    ],
    plain: [
      billingCompatRoutes({ accounts, options, http }),
      homeRoutes({ accounts, options, baseUrl }),
      openApiRoutes({ documented: () => app, version: 'v-test' }),
    ],
  })

  const call: TestNode['call'] = async (method, path, { token, body, text, headers = {} } = {}) => {
    const reply = await app.handle(
      new Request(`http://localhost${path}`, {
        method,
        headers: { ...(token && { authorization: `Bearer ${token}` }), ...headers },
        ...(text !== undefined ? { body: text } : body !== undefined ? { body: JSON.stringify(body) } : {}),
      }),
    )
    const answer = await reply.text()
    return { status: reply.status, headers: reply.headers, text: answer, json: readJson(answer) }
  }
  return {
    db,
    accounts,
    options,
    state,
    topics,
    app,
    call,
    async ok(method, path, callOptions) {
      const reply = await call(method, path, callOptions)
      if (reply.status !== 200 || reply.json?.success !== true)
        throw new Error(`${method} ${path}: ${reply.status} ${reply.text}`)
      return reply.json.data
    },
    async refused(method, path, callOptions) {
      const reply = await call(method, path, callOptions)
      expect(reply.json?.success).toBe(false)
      return String(reply.json.code)
    },
    async close() {
      accounts.close()
      options.close()
      await topics.stop()
      if (!settings.state) await state.close()
    },
  }
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export const ROOT = { username: 'root', password: 'correct horse' } as const

/** Sets the node up. @returns root's access token */
export async function setUp(node: TestNode): Promise<string> {
  if (!node.accounts.setup.isDone())
    await node.ok('POST', '/api/setup', { body: { ...ROOT, confirmPassword: ROOT.password } })
  return logIn(node, ROOT)
}

/** @returns an access token */
export async function logIn(
  node: TestNode,
  who: { readonly username: string; readonly password: string },
): Promise<string> {
  const { access_token } = await node.ok('POST', '/api/user/login', { body: who })
  return access_token
}

let made = 0

/** A new user of a role, logged in. */
export async function newUser(
  node: TestNode,
  rootToken: string,
  role = 1,
): Promise<{ readonly id: number; readonly username: string; readonly password: string; readonly token: string }> {
  made++
  const username = `user${made}x${Math.floor(Math.random() * 1e6)}`
  const password = `password ${made}`
  const { id } = await node.ok('POST', '/api/user/', { token: rootToken, body: { username, password, role } })
  return { id, username, password, token: await logIn(node, { username, password }) }
}
