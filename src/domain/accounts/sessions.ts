/**
 * Log-in sessions: a row each, a short access token beside a refresh secret that is replaced at every use. The secret
 * before the last stays good for a moment (two tabs may refresh at once) and yields the same successor; later it is a
 * sign of theft and ends the session. Also answers whose a dashboard credential is.
 */
import { createHmac } from 'node:crypto'
import { and, count, desc, eq, gt, gte, inArray, lt, or } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Audit } from '../audit.ts'
import type { Options } from '../options/index.ts'
import { createAccessTokens, isEqual, looksLikeAccessToken } from './access-token.ts'
import { type Actor, USER_STATUS } from './actor.ts'
import { lockUser, randomText, revokeSessions, type UserRow, verifyPassword } from './user-rules.ts'
import { parseUserSetting, settingLanguage } from './user-setting.ts'

export interface SessionLimits {
  /** Live sessions of a user. */
  readonly active: number
  /** Sessions issued to a user in a window. */
  readonly issuance: number
  readonly issuanceWindowSec: number
  readonly revokedRetentionSec: number
}

export interface SessionsDeps {
  readonly db: Db
  readonly options: Options
  readonly audit: Audit
  readonly clock: Clock
  /** All are accepted. */
  readonly secrets: readonly string[]
  /** Position of the secret that signs: the first, unless another node does not know it yet. */
  readonly signing?: () => number
  readonly limits: SessionLimits
}

/** Where a request came from, as a session remembers it. */
export interface Origin {
  readonly ip: string
  readonly userAgent: string
  readonly requestId: string
}

export interface SessionView {
  readonly sid: string
  readonly current: boolean
  readonly login_method: string
  readonly ip: string
  readonly user_agent: string
  readonly created_at: number
  readonly last_active_at: number
  readonly expires_at: number
}

/** What a client gets after a log-in, a refresh or a rotation. */
export interface Issued {
  readonly userId: number
  readonly accessToken: string
  readonly accessExpiresAtSec: number
  readonly session: SessionView
  /** Absent when the client's cookie stays as it is. */
  readonly cookie?: { readonly value: string; readonly maxAgeSec: number }
}

const SESSION_SEC = 30 * 24 * 3600
const GRACE_SEC = 30
const SECRET_LENGTH = 64
const MAX_LISTED = 100
/** Width of `users.access_token`. */
const MAX_PERSONAL_TOKEN = 32

export function createSessions(deps: SessionsDeps) {
  const { db, options, audit, clock, limits, signing = () => 0 } = deps
  const accessTokens = createAccessTokens(deps.secrets, () => clock.now(), signing)
  const keys = deps.secrets.map((secret) => ({
    digest: createHmac('sha256', secret).update('new-api/auth/refresh/v1').digest(),
    rotate: createHmac('sha256', secret).update('headgate/auth/rotate/v1').digest(),
  }))
  const hashes = (secret: string): string[] => keys.map((key) => hmac(key.digest, secret))
  /** What is stored: nodes that are a secret behind must find it. */
  const hashOf = (secret: string): string => hashes(secret)[signing()]!
  const successors = (sid: string, secret: string): string[] => keys.map((key) => hmac(key.rotate, `${sid}.${secret}`))
  const nowSec = (): number => Math.floor(clock.now() / 1000)

  const issue = (
    session: SessionRow,
    user: { readonly id: number; readonly authVersion: number },
    secret?: string,
  ): Issued => {
    const { token, expiresAtSec } = accessTokens.issue({
      userId: user.id,
      sid: session.sid,
      userVersion: user.authVersion,
      sessionVersion: session.version,
    })
    return {
      userId: user.id,
      accessToken: token,
      accessExpiresAtSec: expiresAtSec,
      session: viewOf(session, session.sid),
      ...(secret !== undefined && {
        cookie: { value: `${session.sid}.${secret}`, maxAgeSec: Math.max(session.expiresAt - nowSec(), 0) },
      }),
    }
  }

  /** Under the user's lock, so that parallel log-ins cannot pass a limit together. */
  const open = async (userId: number, method: string, from: Origin): Promise<Issued> => {
    const secret = randomText(SECRET_LENGTH)
    return db.transaction(async (tx) => {
      const user = await lockUser(tx, userId)
      if (user.status !== USER_STATUS.enabled) throw new GatewayError('login_failed')
      const now = nowSec()
      const { users, userSessions } = tx.tables
      const [live] = await tx
        .select({ n: count() })
        .from(userSessions)
        .where(and(eq(userSessions.userId, userId), eq(userSessions.status, 'active'), gt(userSessions.expiresAt, now)))
      if ((live?.n ?? 0) >= limits.active) throw new GatewayError('AUTH_SESSION_LIMIT')
      const [issued] = await tx
        .select({ n: count() })
        .from(userSessions)
        .where(and(eq(userSessions.userId, userId), gte(userSessions.createdAt, now - limits.issuanceWindowSec)))
      if ((issued?.n ?? 0) >= limits.issuance) throw new GatewayError('AUTH_SESSION_ISSUANCE_LIMIT')
      const session: SessionRow = {
        sid: crypto.randomUUID(),
        userId,
        version: 1,
        userAuthVersion: user.authVersion,
        status: 'active',
        refreshHash: hashOf(secret),
        previousRefreshHash: null,
        previousValidUntil: 0,
        loginMethod: method,
        ip: from.ip.slice(0, 64),
        userAgent: from.userAgent.slice(0, 512),
        createdAt: now,
        lastActiveAt: now,
        expiresAt: now + SESSION_SEC,
        revokedAt: 0,
        revokedReason: null,
      }
      await tx.insert(userSessions).values(session)
      await tx.update(users).set({ lastLoginAt: now }).where(eq(users.id, userId))
      return issue(session, user, secret)
    })
  }

  const findByName = async (name: string): Promise<UserRow | undefined> => {
    const { users } = db.tables
    const email = name.toLowerCase()
    const rows = await db
      .select()
      .from(users)
      .where(or(eq(users.username, name), eq(users.email, name), eq(users.email, email)))
      .limit(20)
    const live = rows.filter((row) => !row.deletedAt)
    return (
      live.find((row) => row.username === name) ??
      live.find((row) => row.email !== '' && row.email?.toLowerCase() === email)
    )
  }

  /** A session with its user, if both are in order. @throws GatewayError 401 `AUTH_…` */
  const alive = async (
    tx: Db,
    session: SessionRow | undefined,
  ): Promise<{ readonly session: SessionRow; readonly user: UserRow }> => {
    if (session?.status !== 'active' || session.expiresAt <= nowSec()) throw new GatewayError('AUTH_SESSION_REVOKED')
    const { users } = tx.tables
    const [user] = await tx.select().from(users).where(eq(users.id, session.userId))
    if (!user || user.deletedAt) throw new GatewayError('AUTH_USER_INVALID')
    if (user.status !== USER_STATUS.enabled) throw new GatewayError('AUTH_USER_DISABLED')
    if (user.authVersion !== session.userAuthVersion) throw new GatewayError('AUTH_SESSION_REVOKED')
    return { session, user }
  }

  const findSession = async (tx: Db, sid: string, isLocked: boolean): Promise<SessionRow | undefined> => {
    const { userSessions } = tx.tables
    const query = tx.select().from(userSessions).where(eq(userSessions.sid, sid))
    const [row] = await (isLocked ? tx.lock(query) : query)
    return row?.sid === sid ? row : undefined
  }

  const byAccessToken = async (
    credential: string,
  ): Promise<{ readonly session: SessionRow; readonly user: UserRow }> => {
    const read = accessTokens.read(credential)
    if (read.kind === 'expired') throw new GatewayError('AUTH_TOKEN_EXPIRED')
    if (read.kind === 'invalid') throw new GatewayError('AUTH_UNAUTHORIZED')
    const { userId, sid, userVersion, sessionVersion } = read.claims
    const { session, user } = await alive(db, await findSession(db, sid, false))
    if (user.id !== userId) throw new GatewayError('AUTH_USER_INVALID')
    if (session.version !== sessionVersion || user.authVersion !== userVersion)
      throw new GatewayError('AUTH_SESSION_REVOKED')
    return { session, user }
  }

  const byPersonalToken = async (credential: string): Promise<UserRow> => {
    const { users } = db.tables
    const rows =
      credential.length > MAX_PERSONAL_TOKEN
        ? []
        : await db.select().from(users).where(eq(users.accessToken, credential))
    const user = rows.find((row) => isEqual(Buffer.from(row.accessToken?.trimEnd() ?? ''), Buffer.from(credential)))
    if (!user || user.deletedAt) throw new GatewayError('AUTH_UNAUTHORIZED')
    if (user.status !== USER_STATUS.enabled) throw new GatewayError('AUTH_USER_DISABLED')
    return user
  }

  return {
    /**
     * Opens a session.
     * @param name user name or e-mail address
     * @throws GatewayError login_failed (also for disabled users), password_login_disabled, `AUTH_SESSION_LIMIT`, `AUTH_SESSION_ISSUANCE_LIMIT`
     */
    async login(name: string, password: string, from: Origin): Promise<Issued> {
      if (!options.get('PasswordLoginEnabled')) throw new GatewayError('password_login_disabled')
      const user = name.trim() === '' ? undefined : await findByName(name.trim())
      const isRight = await verifyPassword(password, user?.password)
      if (!user || !isRight || user.status !== USER_STATUS.enabled) throw new GatewayError('login_failed')
      const issued = await open(user.id, 'password', from)
      await audit.login({ userId: user.id, username: user.username ?? '', method: 'password', ...from })
      return issued
    },

    /**
     * Replaces the refresh secret.
     * @param expectedSid the session the client believes to have
     * @throws GatewayError 401 `AUTH_…`, 409 `AUTH_SESSION_MISMATCH`, 409 `AUTH_REFRESH_RACE`
     */
    async refresh(cookie: string, expectedSid?: string): Promise<Issued> {
      const { sid, secret } = splitCookie(cookie)
      if (expectedSid !== undefined && expectedSid !== sid) throw new GatewayError('AUTH_SESSION_MISMATCH')
      const given = hashes(secret)
      const outcome = await db.transaction(async (tx): Promise<Issued | 'reused'> => {
        const { session, user } = await alive(tx, await findSession(tx, sid, true))
        const { userSessions } = tx.tables
        if (matches(given, session.refreshHash)) {
          const next = successors(sid, secret)[signing()]!
          const change = {
            refreshHash: hashOf(next),
            previousRefreshHash: session.refreshHash,
            previousValidUntil: nowSec() + GRACE_SEC,
            lastActiveAt: nowSec(),
          }
          await tx.update(userSessions).set(change).where(eq(userSessions.sid, sid))
          return issue({ ...session, ...change }, user, next)
        }
        if (!matches(given, session.previousRefreshHash ?? '')) throw new GatewayError('AUTH_UNAUTHORIZED')
        if (session.previousValidUntil >= nowSec()) {
          const current = successors(sid, secret).find((next) => matches(hashes(next), session.refreshHash))
          if (current === undefined) throw new GatewayError('AUTH_REFRESH_RACE')
          return issue(session, user, current)
        }
        await tx
          .update(userSessions)
          .set({ status: 'revoked', revokedAt: nowSec(), revokedReason: 'refresh_reuse' })
          .where(eq(userSessions.sid, sid))
        return 'reused'
      })
      if (outcome === 'reused') throw new GatewayError('AUTH_SESSION_REVOKED')
      return outcome
    },

    /**
     * Ends the session of the cookie, or of the access token, or of both if they are the same one.
     * @returns the id of the session that an access token named
     * @throws GatewayError 409 `AUTH_SESSION_MISMATCH`
     */
    async logout(given: {
      readonly cookie?: string
      readonly credential?: string
      readonly expectedSid?: string
    }): Promise<string | undefined> {
      const fromToken =
        given.credential && looksLikeAccessToken(given.credential) ? accessTokens.read(given.credential) : undefined
      const tokenSid = fromToken?.kind === 'valid' ? fromToken.claims.sid : undefined
      const cookie = given.cookie ? splitCookie(given.cookie) : undefined
      if (cookie && given.expectedSid !== undefined && given.expectedSid !== cookie.sid)
        throw new GatewayError('AUTH_SESSION_MISMATCH')
      await db.transaction(async (tx) => {
        const { userSessions } = tx.tables
        const ended: string[] = tokenSid === undefined ? [] : [tokenSid]
        if (cookie) {
          // The id alone proves nothing: it is shown in lists.
          const session = await findSession(tx, cookie.sid, true)
          const given = hashes(cookie.secret)
          if (session && (matches(given, session.refreshHash) || matches(given, session.previousRefreshHash ?? '')))
            ended.push(cookie.sid)
        }
        if (ended.length === 0) return
        await tx
          .update(userSessions)
          .set({ status: 'revoked', revokedAt: nowSec(), revokedReason: 'logout' })
          .where(and(inArray(userSessions.sid, ended), eq(userSessions.status, 'active')))
      })
      return tokenSid
    },

    /** Whose credential of the admin API this is. @throws GatewayError 401 `AUTH_…` */
    async identify(credential: string): Promise<Actor> {
      if (!looksLikeAccessToken(credential)) return actorOf(await byPersonalToken(credential), 'pat')
      const { session, user } = await byAccessToken(credential)
      return actorOf(user, 'session', session.sid)
    },

    /** Live sessions of a user, the current one first, then by latest activity. */
    async list(userId: number, currentSid: string): Promise<SessionView[]> {
      const { userSessions } = db.tables
      const rows = await db
        .select()
        .from(userSessions)
        .where(
          and(eq(userSessions.userId, userId), eq(userSessions.status, 'active'), gt(userSessions.expiresAt, nowSec())),
        )
        .orderBy(desc(userSessions.lastActiveAt))
        .limit(MAX_LISTED)
      const views = rows.map((row) => viewOf(row, currentSid))
      return [...views.filter((view) => view.current), ...views.filter((view) => !view.current)]
    },

    /** @throws GatewayError 404 `AUTH_SESSION_NOT_FOUND`, also for another user's session */
    async revoke(userId: number, sid: string): Promise<void> {
      const { userSessions } = db.tables
      const revoked = await db.changes(
        db
          .update(userSessions)
          .set({ status: 'revoked', revokedAt: nowSec(), revokedReason: 'user_revoked' })
          .where(and(eq(userSessions.sid, sid), eq(userSessions.userId, userId), eq(userSessions.status, 'active'))),
      )
      if (revoked === 0) throw new GatewayError('AUTH_SESSION_NOT_FOUND')
    },

    /** @returns how many were ended */
    revokeOthers: (userId: number, sid: string): Promise<number> =>
      db.transaction((tx) => revokeSessions(tx, userId, 'user_revoked_others', { nowMs: clock.now(), exceptSid: sid })),

    /**
     * Carries the acting session over a change of security state: inside the transaction that raised the user's version
     * and ended all other sessions.
     * @returns a new access token; the cookie stays
     */
    async rotate(tx: Db, userId: number, sid: string): Promise<Issued> {
      const { users, userSessions } = tx.tables
      const session = await findSession(tx, sid, true)
      const [user] = await tx
        .select({ id: users.id, authVersion: users.authVersion })
        .from(users)
        .where(eq(users.id, userId))
      if (!session || !user || session.userId !== userId || session.status !== 'active')
        throw new GatewayError('AUTH_SESSION_REVOKED')
      const change = { version: session.version + 1, userAuthVersion: user.authVersion, lastActiveAt: nowSec() }
      await tx.update(userSessions).set(change).where(eq(userSessions.sid, sid))
      return issue({ ...session, ...change }, user)
    },

    /** Deletes rows that no limit counts and nobody can use any more. @returns how many */
    async sweep(): Promise<number> {
      const { userSessions } = db.tables
      const oldest = nowSec() - Math.max(limits.revokedRetentionSec, limits.issuanceWindowSec)
      return db.changes(
        db
          .delete(userSessions)
          .where(
            or(
              and(eq(userSessions.status, 'revoked'), lt(userSessions.revokedAt, oldest)),
              lt(userSessions.expiresAt, oldest),
            ),
          ),
      )
    },
  }
}
export type Sessions = ReturnType<typeof createSessions>

type SessionRow = Db['tables']['userSessions']['$inferSelect']

const hmac = (key: Buffer, text: string): string => createHmac('sha256', key).update(text).digest('hex')

const matches = (candidates: readonly string[], stored: string): boolean =>
  candidates.some((candidate) => isEqual(Buffer.from(candidate), Buffer.from(stored.trimEnd())))

/** @throws GatewayError `AUTH_UNAUTHORIZED` for what is no refresh cookie */
function splitCookie(cookie: string): { readonly sid: string; readonly secret: string } {
  const match = /^([\w-]{1,64})\.([\w-]{64})$/.exec(cookie)
  if (!match) throw new GatewayError('AUTH_UNAUTHORIZED')
  return { sid: match[1]!, secret: match[2]! }
}

const viewOf = (row: SessionRow, currentSid: string): SessionView => ({
  sid: row.sid,
  current: row.sid === currentSid,
  login_method: row.loginMethod,
  ip: row.ip ?? '',
  user_agent: row.userAgent ?? '',
  created_at: row.createdAt ?? 0,
  last_active_at: row.lastActiveAt,
  expires_at: row.expiresAt,
})

function actorOf(user: UserRow, authMethod: Actor['authMethod'], sid?: string): Actor {
  const language = settingLanguage(parseUserSetting(user.setting))
  return {
    userId: user.id,
    username: user.username ?? '',
    role: user.role ?? 0,
    group: user.group ?? '',
    authMethod,
    ...(sid !== undefined && { sid }),
    ...(language && { language }),
  }
}
