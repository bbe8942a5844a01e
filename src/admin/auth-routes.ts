/**
 * Logging in and out, refreshing, and the list of sessions. The refresh secret travels in a cookie that only these paths
 * get; all else is done with the access token.
 */
import { cookie } from '@elysiajs/cookie'
import { Elysia, t } from 'elysia'
import { type Accounts, type Issued, ROLE } from '../domain/accounts/index.ts'
import { asGatewayError, GatewayError } from '../errors.ts'
import { bearerOf } from '../lib/headers.ts'
import { type AdminHttp, envelope, ok, plainEnvelope } from './http.ts'
import { bundleJson, sessionJson } from './schemas.ts'

const COOKIE = 'new_api_refresh'
const COOKIE_PATH = '/api/user/auth'

export const issuedView = (issued: Issued) => ({
  access_token: issued.accessToken,
  token_type: 'Bearer' as const,
  access_expires_at: issued.accessExpiresAtSec,
  session: issued.session,
})

export const authRoutes = (deps: {
  readonly accounts: Pick<Accounts, 'sessions' | 'self'>
  readonly http: AdminHttp
  /** `SESSION_COOKIE_SECURE`: the cookie needs https, and refresh and logout an origin that is known. */
  readonly isCookieSecure: boolean
  /** Origins allowed beside the own one, such as `https://console.example.com`. */
  readonly trustedOrigins: readonly string[]
}) => {
  const { accounts, http, isCookieSecure, trustedOrigins } = deps
  const { sessions } = accounts
  const attributes = { path: COOKIE_PATH, httpOnly: true, sameSite: 'strict', secure: isCookieSecure } as const

  const bundle = async (issued: Issued) => ok({ ...issuedView(issued), user: await accounts.self.view(issued.userId) })

  const checkOrigin = (request: Request): void => {
    if (!isCookieSecure) return
    const origin = originOf(request.headers.get('origin') ?? request.headers.get('referer'))
    const own = `https://${request.headers.get('host') ?? ''}`
    if (origin === undefined || (origin !== own && !trustedOrigins.includes(origin)))
      throw new GatewayError('AUTH_ORIGIN_FORBIDDEN')
  }

  return (
    new Elysia({ prefix: '/api/user', detail: { tags: ['log-in'] } })
      // Its hooks are local to itself unless they are lifted into this plugin; they must not reach further.
      .use(cookie(attributes).as('scoped'))
      .post(
        '/login',
        async ({ request, body, setCookie }) => {
          await http.limitCritical(request)
          const issued = await sessions.login(body.username, body.password, {
            ip: http.ip(request),
            userAgent: request.headers.get('user-agent') ?? '',
            requestId: http.requestId(request),
          })
          if (issued.cookie) setCookie(COOKIE, issued.cookie.value, { maxAge: issued.cookie.maxAgeSec })
          return bundle(issued)
        },
        {
          body: t.Object({
            username: t.String({ description: 'User name or e-mail address' }),
            password: t.String(),
          }),
          response: envelope(bundleJson),
          detail: { summary: 'Log in with a password' },
        },
      )
      .post(
        '/auth/refresh',
        async ({ request, cookie, setCookie }) => {
          await http.limitCritical(request)
          checkOrigin(request)
          try {
            const value = cookie[COOKIE]
            if (!value) throw new GatewayError('AUTH_UNAUTHORIZED')
            const issued = await sessions.refresh(value, request.headers.get('x-auth-session') ?? undefined)
            if (issued.cookie) setCookie(COOKIE, issued.cookie.value, { maxAge: issued.cookie.maxAgeSec })
            return await bundle(issued)
          } catch (error) {
            // A secret that is no good will not become good again.
            if (asGatewayError(error).code === 'AUTH_UNAUTHORIZED' && cookie[COOKIE])
              setCookie(COOKIE, '', { maxAge: 0, expires: new Date(0) })
            throw error
          }
        },
        { response: envelope(bundleJson), detail: { summary: 'A new access token for the session of the cookie' } },
      )
      .post(
        '/auth/logout',
        async ({ request, cookie, setCookie }) => {
          await http.limitCritical(request)
          checkOrigin(request)
          const sid = await endSession(request, cookie[COOKIE])
          setCookie(COOKIE, '', { maxAge: 0, expires: new Date(0) })
          return sid === undefined ? ok() : ok({ revoked_sid: sid, cookie_cleared: true })
        },
        {
          response: envelope(t.Object({ revoked_sid: t.String(), cookie_cleared: t.Boolean() })),
          detail: { summary: 'Log out' },
        },
      )
      // Older tools log out by this address. The cookie is not sent to it, so it ends the session of the access token.
      .get(
        '/logout',
        async ({ request, setCookie }) => {
          await endSession(request, undefined)
          setCookie(COOKIE, '', { maxAge: 0, expires: new Date(0) })
          return ok()
        },
        { response: plainEnvelope, detail: { summary: 'Log out (older form)' } },
      )
      .get(
        '/sessions',
        async ({ request }) => {
          const { userId, sid = '' } = await http.actor(request, ROLE.user, { sessionOnly: true })
          return ok(await sessions.list(userId, sid))
        },
        { response: envelope(t.Array(sessionJson)), detail: { summary: 'Sessions of the caller' } },
      )
      .delete(
        '/sessions/:sid',
        async ({ request, params }) => {
          const { userId, sid } = await http.actor(request, ROLE.user, { sessionOnly: true })
          await sessions.revoke(userId, params.sid)
          return ok({ revoked_sid: params.sid, current: params.sid === sid })
        },
        {
          params: t.Object({ sid: t.String({ maxLength: 64 }) }),
          response: envelope(t.Object({ revoked_sid: t.String(), current: t.Boolean() })),
          detail: { summary: 'End a session' },
        },
      )
      .post(
        '/sessions/revoke-others',
        async ({ request }) => {
          const { userId, sid = '' } = await http.actor(request, ROLE.user, { sessionOnly: true })
          return ok({ revoked_count: await sessions.revokeOthers(userId, sid) })
        },
        {
          response: envelope(t.Object({ revoked_count: t.Integer() })),
          detail: { summary: 'End all other sessions' },
        },
      )
  )

  function endSession(request: Request, cookieValue: string | undefined): Promise<string | undefined> {
    const credential = bearerOf(request.headers)
    const expectedSid = request.headers.get('x-auth-session')
    return sessions.logout({
      ...(cookieValue && { cookie: cookieValue }),
      ...(credential && { credential }),
      ...(expectedSid && { expectedSid }),
    })
  }
}

/** @returns undefined for what is no address */
function originOf(text: string | null): string | undefined {
  return text && URL.canParse(text) ? new URL(text).origin : undefined
}
