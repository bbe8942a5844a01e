/**
 * What every admin resource shares: the envelope, pages, who is calling, in which language to answer, and the audit
 * trail. A resource asks `actor()` first and then calls one verb; what it throws is answered by `index.ts`.
 */
import { type Static, type TSchema, t } from 'elysia'
import { type Actor, ROLE } from '../domain/accounts/index.ts'
import type { AuditAction, AuditRow } from '../domain/audit.ts'
import type { WebLimits } from '../domain/limits/index.ts'
import { asGatewayError, GatewayError } from '../errors.ts'
import { bearerOf, type Language, newRequestId, preferredLanguage } from '../lib/headers.ts'

export type { Actor } from '../domain/accounts/index.ts'

/** The part of Bun's server that tells whose connection this is; null under `app.handle()`. */
export interface PeerSource {
  requestIP(request: Request): { readonly address: string } | null
}

export interface AdminHttp {
  /**
   * Who is calling.
   * @throws GatewayError 401 `AUTH_…` without a valid credential, 403 below `minRole` or with a personal access token
   * where `sessionOnly` asks for a login session, 503 while the database cannot say
   */
  actor(request: Request, minRole: number, options?: { readonly sessionOnly?: boolean }): Promise<Actor>
  /** Who is calling, or undefined for nobody; an invalid credential counts as nobody. */
  optionalActor(request: Request): Promise<Actor | undefined>
  /** The user's own language once `actor` was asked, else that of the request. */
  language(request: Request): Language
  /** Normalised address of the client, behind trusted proxies. */
  ip(request: Request): string
  requestId(request: Request): string
  /**
   * Notes an action in the log, type 3. Params must hold no secret. Best effort: a log database that is away does not
   * undo what was done. A write of an administrator without any note gets a generic one.
   */
  audit(actor: Actor, action: AuditAction, params?: Readonly<Record<string, unknown>>): Promise<void>
  /** This request has left its note elsewhere, such as in the transaction of a credit: no generic one is written. */
  audited(actor: Actor): void
  /**
   * Counts a request for the API or a page of its address, once however often it is called. What asks whether the node
   * lives is never refused.
   * @throws GatewayError 429 `rate_limit_exceeded`
   */
  limit(request: Request): Promise<void>
  /**
   * Counts one call of a critical route, for its address.
   * @param by counts it also for this user and purpose, from whatever address
   * @throws GatewayError 429 `rate_limit_exceeded`
   */
  limitCritical(request: Request, by?: { readonly userId: number; readonly purpose: string }): Promise<void>
  /** Counts one search of a user. @throws GatewayError 429 `rate_limit_exceeded` */
  limitSearch(actor: Actor): Promise<void>
}

/** What is known of one request while it is answered. */
export interface Exchange {
  readonly id: string
  readonly ip: string
  actor?: Promise<Actor>
  resolved?: Actor
  /** The highest role that a handler asked for. */
  minRole: number
  isAudited: boolean
  /** Whether it is within the limit of its address. */
  limited?: Promise<void>
}

export interface AdminHttpDeps {
  /** @throws GatewayError 401 `AUTH_…` or 503 `dependency_unavailable` */
  identify(credential: string): Promise<Actor>
  recordAudit(row: AuditRow): Promise<void>
  clientIp(request: Request, server: PeerSource | null): string
  /** Absent: nothing is limited. */
  readonly limits?: WebLimits
  now(): number
}

const API_PATH = /^\/(?:api|dashboard|v1\/dashboard)(?:\/|$)/
/** What health checks ask. */
const NEVER_LIMITED = /^\/api\/status\/?$/

/** The exchange of a request is made by the first hook that sees it and lives as long as the request. */
export function createAdminHttp(
  deps: AdminHttpDeps,
): AdminHttp & { begin(request: Request, server: PeerSource | null): Exchange } {
  const exchanges = new WeakMap<Request, Exchange>()
  const exchangesByActor = new WeakMap<Actor, Exchange>()

  const begin = (request: Request, server: PeerSource | null): Exchange => {
    const known = exchanges.get(request)
    if (known) return known
    const exchange: Exchange = {
      id: newRequestId(deps.now()),
      ip: deps.clientIp(request, server),
      minRole: 0,
      isAudited: false,
    }
    exchanges.set(request, exchange)
    return exchange
  }
  const exchangeOf = (request: Request): Exchange => begin(request, null)

  const identify = (request: Request): Promise<Actor> => {
    const exchange = exchangeOf(request)
    exchange.actor ??= (async () => {
      const credential = bearerOf(request.headers)
      if (credential === '') throw new GatewayError('AUTH_UNAUTHORIZED')
      // A copy of its own, so that the actor leads back to this request.
      const actor = { ...(await deps.identify(credential)) }
      exchange.resolved = actor
      exchangesByActor.set(actor, exchange)
      return actor
    })()
    return exchange.actor
  }

  return {
    begin,
    async actor(request, minRole, options) {
      const actor = await identify(request)
      const exchange = exchangeOf(request)
      exchange.minRole = Math.max(exchange.minRole, minRole)
      if (actor.role < minRole) throw new GatewayError('AUTH_INSUFFICIENT_PRIVILEGE')
      if (options?.sessionOnly && actor.authMethod !== 'session') throw new GatewayError('AUTH_SESSION_REQUIRED')
      return actor
    },
    async optionalActor(request) {
      try {
        return await identify(request)
      } catch (error) {
        if (asGatewayError(error).status === 401) return undefined
        throw error
      }
    },
    language: (request) =>
      exchangeOf(request).resolved?.language ?? preferredLanguage(request.headers.get('accept-language')),
    ip: (request) => exchangeOf(request).ip,
    requestId: (request) => exchangeOf(request).id,
    async audit(actor, action, params = {}) {
      const exchange = exchangesByActor.get(actor)
      if (exchange) exchange.isAudited = true
      await deps.recordAudit({ actor, action, params, ip: exchange?.ip ?? '', requestId: exchange?.id ?? '' })
    },
    audited(actor) {
      const exchange = exchangesByActor.get(actor)
      if (exchange) exchange.isAudited = true
    },
    async limit(request) {
      const exchange = exchangeOf(request)
      const { pathname } = new URL(request.url)
      if (NEVER_LIMITED.test(pathname)) return
      exchange.limited ??= deps.limits?.check(API_PATH.test(pathname) ? 'api' : 'web', exchange.ip)
      await exchange.limited
    },
    async limitCritical(request, by) {
      await deps.limits?.check('critical', exchangeOf(request).ip)
      if (by) await deps.limits?.check('critical', `user ${by.userId} ${by.purpose}`)
    },
    limitSearch: async (actor) => deps.limits?.check('search', `user ${actor.userId}`),
  }
}

/** Did an administrator's write pass its role check without leaving a note of its own? */
export const needsGenericAudit = (request: Request, exchange: Exchange): boolean =>
  exchange.minRole >= ROLE.admin &&
  !exchange.isAudited &&
  exchange.resolved !== undefined &&
  exchange.resolved.role >= exchange.minRole &&
  ['POST', 'PUT', 'PATCH', 'DELETE'].includes(request.method)

/** The envelope of a success; without an argument `data` is left out. */
export function ok(): { success: true; message: string }
export function ok<T>(data: T, message?: string): { success: true; message: string; data: T }
export function ok(data?: unknown, message = ''): { success: true; message: string; data?: unknown } {
  return data === undefined ? { success: true, message } : { success: true, message, data }
}

/** Reply schema of the envelope; `data` is optional, since a refusal has none. */
export const envelope = <S extends TSchema>(data: S) =>
  t.Object({ success: t.Boolean(), message: t.Optional(t.String()), data: t.Optional(data) })

/** Reply schema of an envelope without data. */
export const plainEnvelope = t.Object({ success: t.Boolean(), message: t.Optional(t.String()) })

/** Query fields of a page, to be spread into a query schema. They are read leniently, so they are texts. */
export const pageFields = {
  p: t.Optional(t.String({ description: 'Page, from 1' })),
  page_size: t.Optional(t.String({ description: 'Rows of a page, at most 100 (default 10)' })),
  ps: t.Optional(t.String()),
  size: t.Optional(t.String()),
}
export const pageQuery = t.Object(pageFields)
export type PageQuery = Static<typeof pageQuery>

export interface Page {
  /** From 1. */
  readonly page: number
  readonly size: number
  readonly offset: number
}

const MAX_PAGE_SIZE = 100

/** Page and size are read leniently: what is no positive number takes the default, a size above 100 is 100. */
export function parsePage(query: PageQuery, defaultSize = 10): Page {
  const page = Math.min(positive(query.p) ?? 1, 1_000_000_000)
  const size = Math.min(
    positive(query.page_size) ?? positive(query.ps) ?? positive(query.size) ?? defaultSize,
    MAX_PAGE_SIZE,
  )
  return { page, size, offset: (page - 1) * size }
}

const positive = (text: string | undefined): number | undefined => {
  const value = Number.parseInt(text ?? '', 10)
  return value > 0 ? value : undefined
}

export const pageOf = <T>(items: readonly T[], total: number, page: Page) => ({
  page: page.page,
  page_size: page.size,
  total,
  items: [...items],
})

/** Reply schema of a page. */
export const pageSchema = <S extends TSchema>(item: S) =>
  t.Object({ page: t.Integer(), page_size: t.Integer(), total: t.Integer(), items: t.Array(item) })

/** Path parameter `id`. */
export const idParams = t.Object({ id: t.Numeric({ minimum: 1, multipleOf: 1 }) })
