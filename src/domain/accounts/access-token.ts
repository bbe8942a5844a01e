/**
 * The bearer token of a login session: a JWT signed with HS256 by a key derived from the session secret. It lives 15
 * minutes and names the versions of user and session it was issued for, so that either can end it early.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'

export interface AccessClaims {
  readonly userId: number
  readonly sid: string
  /** `users.auth_version` */
  readonly userVersion: number
  /** `user_sessions.version` */
  readonly sessionVersion: number
}

export type ReadToken =
  | { readonly kind: 'valid'; readonly claims: AccessClaims }
  | { readonly kind: 'expired' }
  | { readonly kind: 'invalid' }

export const ACCESS_TOKEN_SEC = 15 * 60

const ISSUER = 'new-api'
const AUDIENCE = 'new-api-dashboard'
/** Clocks of nodes may differ by this. */
const SKEW_SEC = 5

/**
 * @param secrets all are accepted, so that a secret can be replaced without logging anyone out
 * @param signing position of the one that signs
 */
export function createAccessTokens(secrets: readonly string[], nowMs: () => number, signing = (): number => 0) {
  const keys = secrets.map((secret) => createHmac('sha256', secret).update('new-api/auth/access/v1').digest())
  const sign = (key: Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest()

  return {
    issue(claims: AccessClaims): { readonly token: string; readonly expiresAtSec: number } {
      const nowSec = Math.floor(nowMs() / 1000)
      const expiresAtSec = nowSec + ACCESS_TOKEN_SEC
      const payload = {
        iss: ISSUER,
        aud: AUDIENCE,
        sub: String(claims.userId),
        token_use: 'access',
        sid: claims.sid,
        uv: claims.userVersion,
        sv: claims.sessionVersion,
        iat: nowSec,
        nbf: nowSec - SKEW_SEC,
        exp: expiresAtSec,
        jti: crypto.randomUUID(),
      }
      const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(payload)}`
      return { token: `${text}.${sign(keys[signing()]!, text).toString('base64url')}`, expiresAtSec }
    },

    /** Only HS256 by one of our keys counts, whatever the token's header says. */
    read(token: string): ReadToken {
      const parts = token.split('.')
      const [header, payload, signature] = parts
      if (parts.length !== 3 || !header || !payload || !signature) return { kind: 'invalid' }
      const given = Buffer.from(signature, 'base64url')
      const isSigned = keys.some((key) => isEqual(sign(key, `${header}.${payload}`), given))
      const claims = isSigned && decode(header)?.['alg'] === 'HS256' ? decode(payload) : undefined
      if (!claims || claims['iss'] !== ISSUER || claims['aud'] !== AUDIENCE || claims['token_use'] !== 'access')
        return { kind: 'invalid' }
      const { sub, sid, uv, sv, exp, nbf } = claims
      const userId = Number(sub)
      if (!Number.isSafeInteger(userId) || typeof sid !== 'string' || typeof uv !== 'number' || typeof sv !== 'number')
        return { kind: 'invalid' }
      const nowSec = Math.floor(nowMs() / 1000)
      if (typeof exp !== 'number' || typeof nbf !== 'number' || nbf > nowSec + SKEW_SEC) return { kind: 'invalid' }
      if (exp <= nowSec) return { kind: 'expired' }
      return { kind: 'valid', claims: { userId, sid, userVersion: uv, sessionVersion: sv } }
    },
  }
}
export type AccessTokens = ReturnType<typeof createAccessTokens>

/** Three dotted parts are a login session's token; a personal access token has no dots. */
export const looksLikeAccessToken = (credential: string): boolean => credential.split('.').length === 3

/** In constant time for inputs of equal length. */
export const isEqual = (a: Buffer, b: Buffer): boolean => a.length === b.length && timingSafeEqual(a, b)

const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')

function decode(part: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(part, 'base64url').toString('utf8'))
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    // Not JSON: not a token of ours.
    return undefined
  }
}
