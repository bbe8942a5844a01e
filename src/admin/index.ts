/**
 * Mounts the admin resources and gives all of them one shape: the envelope for errors, the headers of every answer, the
 * body limits, the generic audit note. Routes answer with and without a trailing slash (the router is tolerant).
 * The hooks are local: they reach the resources mounted here and nothing beside them.
 */
import { type AnyElysia, Elysia } from 'elysia'
import type { AuditRow } from '../domain/audit.ts'
import { asGatewayError, GatewayError } from '../errors.ts'
import type { Log } from '../lib/log.ts'
import { leastRole } from './access.ts'
import { type AdminHttp, type Exchange, needsGenericAudit, type PeerSource } from './http.ts'

export interface AdminRoutesDeps {
  readonly http: AdminHttp & { begin(request: Request, server: PeerSource | null): Exchange }
  readonly recordAudit: (row: AuditRow) => Promise<void>
  readonly log: Log
  readonly version: string
  readonly limits: {
    /** Body of a route that anyone may call, bytes. */
    readonly anonymousBodyBytes: number
    /** Body of any other, bytes. */
    readonly bodyBytes: number
  }
  /** Resources that answer in the envelope. */
  readonly resources: readonly AnyElysia[]
  /** Resources with an error shape of their own; they get only the headers. */
  readonly plain: readonly AnyElysia[]
}

/** The constant by which the console recognises the generation of the authentication API. */
const AUTH_VERSION = '864b7076dbcd0a3c01b5520316720ebf'

export function adminRoutes(deps: AdminRoutesDeps) {
  const { http, log } = deps

  const stamp = (headers: Record<string, string | number>, request: Request, exchange: Exchange): void => {
    headers['x-oneapi-request-id'] = exchange.id
    headers['x-new-api-version'] = deps.version
    if (exchange.resolved) headers['auth-version'] = AUTH_VERSION
    // Whatever was asked for with a credential, or changes something, is nobody else's to keep.
    if (request.method !== 'GET' || request.headers.has('authorization')) headers['cache-control'] ??= 'no-store'
  }

  const genericAudit = async (
    request: Request,
    path: string,
    route: string,
    status: number,
    isSuccess: boolean,
  ): Promise<void> => {
    const exchange = http.begin(request, null)
    if (!exchange.resolved || !needsGenericAudit(request, exchange)) return
    exchange.isAudited = true
    await deps.recordAudit({
      actor: exchange.resolved,
      action: 'generic',
      params: { method: request.method, route },
      ip: exchange.ip,
      requestId: exchange.id,
      auditInfo: { method: request.method, route, path, status, success: isSuccess },
    })
  }

  /** The first thing that happens to a request: how often, and who calls, if the area asks; nothing of it is read before. */
  const admit = async (request: Request, server: PeerSource | null, route: string): Promise<void> => {
    http.begin(request, server)
    await http.limit(request)
    const role = leastRole(route)
    if (role > 0) await http.actor(request, role)
  }

  const enveloped = new Elysia({ name: 'admin' })
    .onParse(async ({ request, server, route }) => {
      await admit(request, server, route)
      const { anonymousBodyBytes, bodyBytes } = deps.limits
      return readJson(request, leastRole(route) > 0 ? bodyBytes : anonymousBodyBytes)
    })
    .onTransform(async ({ request, server, set, route }) => {
      await admit(request, server, route)
      stamp(set.headers as Record<string, string>, request, http.begin(request, server))
    })
    .onAfterHandle(async ({ request, set, path, route }) => {
      stamp(set.headers as Record<string, string>, request, http.begin(request, null))
      await genericAudit(request, path, route, Number(set.status ?? 200), true)
    })
    .onError(async ({ error, request, server, set, path, route }) => {
      const exchange = http.begin(request, server)
      const failure = toGatewayError(error)
      if (failure.status >= 500) log.error('an admin request failed', { requestId: exchange.id, route, error: failure })
      set.status = failure.status
      stamp(set.headers as Record<string, string>, request, exchange)
      if (failure.retryAfterSec !== undefined) set.headers['retry-after'] = String(failure.retryAfterSec)
      await genericAudit(request, path, route, failure.status, false)
      const message = http.language(request) === 'zh' ? failure.publicZh : failure.public
      return Response.json({ success: false, message, code: failure.code }, { status: failure.status })
    })
  for (const resource of deps.resources) enveloped.use(resource)
  enveloped.all(
    '/api/*',
    ({ request, path, set }) => {
      set.status = 404
      return Response.json(unknownPath(request.method, path), { status: 404 })
    },
    { detail: { hide: true }, parse: 'none' },
  )

  const plain = new Elysia({ name: 'admin-plain' })
    .onTransform(({ request, server, set }) =>
      stamp(set.headers as Record<string, string>, request, http.begin(request, server)),
    )
    .onBeforeHandle(async ({ request, set }) => {
      const refusal = await http.limit(request).catch(asGatewayError)
      if (!refusal) return
      // Whatever these answer otherwise, New API's clients know this one without a body.
      set.headers['retry-after'] = String(refusal.retryAfterSec ?? 1)
      return new Response(null, { status: refusal.status })
    })
  for (const resource of deps.plain) plain.use(resource)

  return new Elysia().use(enveloped).use(plain)
}

/** Clients of New API know unknown paths by this shape, not by the envelope. */
const unknownPath = (method: string, path: string) => ({
  error: { message: `Invalid URL (${method} ${path})`, type: 'invalid_request_error', param: '', code: '' },
})

/** What a hook or the framework threw → a catalogued error with a text that says what is wrong with the input. */
function toGatewayError(thrown: unknown): GatewayError {
  if (thrown instanceof GatewayError) return thrown
  const { code, cause } = (thrown ?? {}) as { code?: unknown; cause?: unknown }
  if (code === 'PARSE')
    return cause instanceof GatewayError
      ? cause
      : new GatewayError('malformed_body', { params: { reason: 'it cannot be read' } })
  if (code === 'VALIDATION') return invalidInput(thrown as { type?: unknown; all?: unknown })
  if (isDatabaseAway(thrown)) return new GatewayError('dependency_unavailable', { cause: thrown, retryAfterSec: 1 })
  return asGatewayError(thrown)
}

/** The database's own error, known by its shape: this folder does not look at the database. */
function isDatabaseAway(thrown: unknown): boolean {
  const { name, kind } = (thrown ?? {}) as { name?: unknown; kind?: unknown }
  return name === 'DbError' && (kind === 'unavailable' || kind === 'unknown-outcome')
}

/** A wrong type or a missing field is a refusal in the envelope; a reply of ours that breaks its own schema is our fault. */
function invalidInput(error: { readonly type?: unknown; readonly all?: unknown }): GatewayError {
  if (error.type === 'response') return new GatewayError('internal_error', { cause: error })
  const first = (Array.isArray(error.all) ? error.all[0] : undefined) as
    | { path?: string; message?: string; summary?: string }
    | undefined
  const place = [String(error.type), ...(first?.path ?? '').split('/').filter((part) => part !== '')].join('.')
  return new GatewayError('invalid_parameters', {
    params: { reason: `${place}: ${first?.message ?? first?.summary ?? 'unexpected value'}` },
  })
}

/**
 * The body as a JSON object whatever its content type says, as the clients of this API expect.
 * @returns `{}` for an empty body
 * @throws GatewayError 413 `body_too_large`, 400 `malformed_body`, `invalid_parameters` for other JSON
 */
async function readJson(request: Request, maxBytes: number): Promise<unknown> {
  const tooLarge = () => new GatewayError('body_too_large', { params: { bytes: maxBytes } })
  if (Number(request.headers.get('content-length') ?? 0) > maxBytes) throw tooLarge()
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of request.body ?? []) {
    size += chunk.byteLength
    if (size > maxBytes) throw tooLarge()
    chunks.push(chunk)
  }
  if (size === 0) return {}
  const value = parseJson(Buffer.concat(chunks).toString('utf8'))
  // The framework would make an object of whatever comes, and every field of it would be absent.
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new GatewayError('invalid_parameters', { params: { reason: 'body: an object is expected' } })
  }
  return value
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new GatewayError('malformed_body', {
      params: { reason: error instanceof Error ? error.message : String(error) },
    })
  }
}
