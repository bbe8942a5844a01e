/** The admin routes as people with given roles see them, without sessions: the credential is the person's name. */
import type { AnyElysia } from 'elysia'
import { createAdminHttp } from '../../src/admin/http.ts'
import { adminRoutes } from '../../src/admin/index.ts'
import type { AuditRow } from '../../src/domain/audit.ts'
import { GatewayError } from '../../src/errors.ts'
import { silentLog } from '../../src/lib/log.ts'

export const PEOPLE = {
  root: { userId: 1, username: 'root', role: 100, group: 'default', authMethod: 'session' },
  admin: { userId: 2, username: 'admin', role: 10, group: 'default', authMethod: 'session' },
  alice: { userId: 3, username: 'alice', role: 1, group: 'vip', authMethod: 'pat' },
} as const
export type Person = keyof typeof PEOPLE

export interface Answer {
  readonly status: number
  readonly headers: Headers
  // The shape is what the tests look at.
  readonly json: {
    readonly success?: boolean
    readonly message?: string
    readonly code?: string
    readonly data?: unknown
  } & Record<string, unknown>
}

export function asPeople(resources: (http: ReturnType<typeof createAdminHttp>) => readonly AnyElysia[]) {
  const audited: AuditRow[] = []
  const recordAudit = async (row: AuditRow): Promise<void> => void audited.push(row)
  const http = createAdminHttp({
    identify: async (credential) => {
      const actor = PEOPLE[credential as Person]
      if (!actor) throw new GatewayError('AUTH_UNAUTHORIZED')
      return actor
    },
    recordAudit,
    clientIp: () => '203.0.113.9',
    now: () => Date.now(),
  })
  const app = adminRoutes({
    http,
    recordAudit,
    log: silentLog,
    version: 'test',
    limits: { anonymousBodyBytes: 100_000, bodyBytes: 1_000_000 },
    resources: resources(http),
    plain: [],
  })
  const ask = async (person: string, method: string, path: string, body?: unknown): Promise<Answer> => {
    const response = await app.handle(
      new Request(`http://localhost${path}`, {
        method,
        headers: { ...(person === '' ? {} : { authorization: `Bearer ${person}` }), 'accept-language': 'en' },
        ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      }),
    )
    const text = await response.text()
    return { status: response.status, headers: response.headers, json: text === '' ? {} : JSON.parse(text) }
  }
  return { ask, audited }
}
