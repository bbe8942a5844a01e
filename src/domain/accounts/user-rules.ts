/** What names, passwords and codes of users look like, and the statements that several verbs about users share. */
import { randomInt } from 'node:crypto'
import { and, eq, ne, sql } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'

export type UserRow = Db['tables']['users']['$inferSelect']

/** Why sessions ended; stored in `user_sessions.revoked_reason`. */
export type RevokeReason =
  | 'logout'
  | 'user_revoked'
  | 'user_revoked_others'
  | 'refresh_reuse'
  | 'password_changed'
  | 'user_security_changed'
  | 'user_deleted'
  | 'admin_user_update'
  | 'admin_demote'

const MAX_NAME = 20
/** bcrypt reads no further. */
const MAX_PASSWORD_BYTES = 72
const MIN_PASSWORD = 8
const BCRYPT_COST = 10
/** A hash of nothing anyone knows, so that an unknown name takes as long as a wrong password. */
const DECOY_HASH = '$2b$10$jXRXTBwO8cZZuKcpe2W3mu88sTKPaf6y5ivfaKCQRvAsnvBmvyZ5C'

const ALPHANUMERIC = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

/** @returns `length` characters of 62, each from the system's generator without bias */
export const randomText = (length: number): string =>
  Array.from({ length }, () => ALPHANUMERIC[randomInt(ALPHANUMERIC.length)]).join('')

/** @returns the name as stored @throws GatewayError username_invalid */
export function checkUsername(text: string): string {
  const name = text.trim()
  if (name === '' || [...name].length > MAX_NAME || /[\s\p{Cc}]/u.test(name)) {
    throw new GatewayError('username_invalid', { params: { max: MAX_NAME } })
  }
  return name
}

/** @throws GatewayError display_name_invalid */
export function checkDisplayName(text: string): string {
  const name = text.trim()
  if ([...name].length > MAX_NAME) throw new GatewayError('display_name_invalid', { params: { max: MAX_NAME } })
  return name
}

/** @throws GatewayError password_invalid */
export function hashPassword(password: string): Promise<string> {
  if ([...password].length < MIN_PASSWORD || Buffer.byteLength(password) > MAX_PASSWORD_BYTES) {
    throw new GatewayError('password_invalid', { params: { min: MIN_PASSWORD, max: MAX_PASSWORD_BYTES } })
  }
  return Bun.password.hash(password, { algorithm: 'bcrypt', cost: BCRYPT_COST })
}

/** Takes the same time with no hash to compare with; false then. */
export async function verifyPassword(password: string, hash: string | undefined): Promise<boolean> {
  try {
    const isRight = await Bun.password.verify(password, hash || DECOY_HASH)
    return isRight && !!hash
  } catch {
    // A stored text that is no hash, such as a placeholder: nobody logs in with it.
    return false
  }
}

/** @throws GatewayError user_not_found */
export async function lockUser(tx: Db, id: number): Promise<UserRow> {
  const { users } = tx.tables
  const [user] = await tx.lock(tx.select().from(users).where(eq(users.id, id)))
  if (!user || user.deletedAt) throw new GatewayError('user_not_found')
  return user
}

/** Ends what was issued to a user until now: a new version refuses every access token, and the sessions are revoked. */
export async function endSessions(
  tx: Db,
  userId: number,
  reason: RevokeReason,
  options: { readonly nowMs: number; readonly exceptSid?: string },
): Promise<void> {
  const { users } = tx.tables
  await tx
    .update(users)
    .set({ authVersion: sql`${users.authVersion} + 1` })
    .where(eq(users.id, userId))
  await revokeSessions(tx, userId, reason, options)
}

/** @returns how many live sessions were revoked */
export function revokeSessions(
  tx: Db,
  userId: number,
  reason: RevokeReason,
  { nowMs, exceptSid }: { readonly nowMs: number; readonly exceptSid?: string },
): Promise<number> {
  const { userSessions } = tx.tables
  return tx.changes(
    tx
      .update(userSessions)
      .set({ status: 'revoked', revokedAt: Math.floor(nowMs / 1000), revokedReason: reason })
      .where(
        and(
          eq(userSessions.userId, userId),
          eq(userSessions.status, 'active'),
          exceptSid === undefined ? undefined : ne(userSessions.sid, exceptSid),
        ),
      ),
  )
}
