/** What people do with their own account: profile, password, settings, personal access token, invitation code, leaving. */
import { and, eq, isNull, or } from 'drizzle-orm'
import { bumpTopic, type Db, DbError } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { State, Topics } from '../../state/index.ts'
import { readBalances } from '../billing/index.ts'
import { type Actor, ROLE } from './actor.ts'
import type { Issued, Sessions } from './sessions.ts'
import {
  checkDisplayName,
  checkUsername,
  endSessions,
  hashPassword,
  lockUser,
  randomText,
  type UserRow,
  verifyPassword,
} from './user-rules.ts'
import { patchUserSetting, type UserSetting } from './user-setting.ts'
import { type SelfView, selfView } from './user-view.ts'
import { guardName, softDelete } from './user-writes.ts'

export interface SelfDeps {
  readonly db: Db
  readonly topics: Topics
  readonly bus: State
  readonly clock: Clock
  readonly sessions: Sessions
}

/** Empty texts leave a field as it is. */
export interface ProfileEdit {
  readonly username?: string
  readonly displayName?: string
  readonly password?: string
  readonly originalPassword?: string
}

const PERSONAL_TOKEN_LENGTH = 32
const AFF_CODE_LENGTH = 4
const MAX_SETTING_BYTES = 16_000
const MAX_PRIORITY = 10
const DEFAULT_PRIORITY = 5

export function createSelf(deps: SelfDeps) {
  const { db, topics, clock, sessions } = deps
  const { users } = db.tables

  /** One change of the own row, seen at once by every node. */
  const change = async <T>(userId: number, work: (tx: Db, user: UserRow) => Promise<T>): Promise<T> => {
    const result = await db.transaction(async (tx) => {
      const done = await work(tx, await lockUser(tx, userId))
      await bumpTopic(tx, 'users', [userId])
      return done
    })
    await topics.changed('users')
    return result
  }

  const patchSetting = (userId: number, patch: UserSetting): Promise<void> =>
    change(userId, async (tx, user) => {
      const setting = patchUserSetting(user.setting, patch)
      if (Buffer.byteLength(setting) > MAX_SETTING_BYTES)
        throw new GatewayError('setting_invalid', { params: { field: 'too long' } })
      await tx.update(users).set({ setting }).where(eq(users.id, userId))
    })

  return {
    /** @throws GatewayError user_not_found */
    async view(userId: number): Promise<SelfView> {
      const [user] = await db
        .select()
        .from(users)
        .where(and(eq(users.id, userId), isNull(users.deletedAt)))
      if (!user) throw new GatewayError('user_not_found')
      const balances = await readBalances(db, 'user', [userId])
      return selfView(user, balances.get(userId) ?? user.quota ?? 0)
    },

    /** Is this the user's password? The proof that something secret is shown for. */
    async isPassword(userId: number, password: string): Promise<boolean> {
      const [user] = await db
        .select({ password: users.password })
        .from(users)
        .where(and(eq(users.id, userId), isNull(users.deletedAt)))
      return verifyPassword(password, user?.password)
    },

    setSidebar: (userId: number, modules: string): Promise<void> => patchSetting(userId, { sidebar_modules: modules }),
    setLanguage: (userId: number, language: string): Promise<void> =>
      patchSetting(userId, { language: language.slice(0, 16) }),

    /** Lays a notification and call setting over the stored one; what it does not name stays. @throws GatewayError setting_invalid */
    async updateSetting(actor: Actor, input: UserSetting): Promise<void> {
      const { upstream_model_update_notify_enabled: notifies, ...rest } = checkSetting(input)
      await patchSetting(actor.userId, {
        ...rest,
        ...(notifies !== undefined && actor.role >= ROLE.admin && { upstream_model_update_notify_enabled: notifies }),
      })
    },

    /**
     * Changes name and password. A new password ends all other sessions and carries the acting one over.
     * @returns what the client must take over when the password changed
     * @throws GatewayError original_password_wrong, `AUTH_SESSION_REQUIRED`, username_…, password_invalid
     */
    async updateProfile(actor: Actor, edit: ProfileEdit): Promise<Issued | undefined> {
      const { userId } = actor
      const set = {
        ...(edit.username ? { username: checkUsername(edit.username) } : {}),
        ...(edit.displayName ? { displayName: checkDisplayName(edit.displayName) } : {}),
      }
      if (!edit.password) {
        if (Object.keys(set).length === 0) return undefined
        await guardName(db, set.username, userId, () =>
          change(userId, async (tx) => void (await tx.update(users).set(set).where(eq(users.id, userId)))),
        )
        return undefined
      }
      const { sid } = actor
      if (sid === undefined) throw new GatewayError('AUTH_SESSION_REQUIRED')
      const [known] = await db.select({ password: users.password }).from(users).where(eq(users.id, userId))
      // An account made without a password has none to ask for.
      const isRight = known?.password === '' || (await verifyPassword(edit.originalPassword ?? '', known?.password))
      if (!known || !isRight) throw new GatewayError('original_password_wrong')
      const password = await hashPassword(edit.password)
      return guardName(db, set.username, userId, () =>
        change(userId, async (tx, user) => {
          if (user.password !== known.password) throw new GatewayError('original_password_wrong')
          await tx
            .update(users)
            .set({ ...set, password })
            .where(eq(users.id, userId))
          await endSessions(tx, userId, 'password_changed', { nowMs: clock.now(), exceptSid: sid })
          return sessions.rotate(tx, userId, sid)
        }),
      )
    },

    /** Replaces the personal access token. @returns the new one, in clear, this once */
    async issuePersonalToken(userId: number): Promise<string> {
      const token = randomText(PERSONAL_TOKEN_LENGTH)
      await db.transaction(async (tx) => {
        await lockUser(tx, userId)
        await tx.update(users).set({ accessToken: token }).where(eq(users.id, userId))
      })
      return token
    },

    /** The invitation code; made when there is none yet. */
    async invitationCode(userId: number): Promise<string> {
      for (let length = AFF_CODE_LENGTH; ; length++) {
        try {
          return await db.transaction(async (tx) => {
            const user = await lockUser(tx, userId)
            if (user.affCode) return user.affCode
            const affCode = randomText(length)
            await tx
              .update(users)
              .set({ affCode })
              .where(and(eq(users.id, userId), or(isNull(users.affCode), eq(users.affCode, ''))))
            return affCode
          })
        } catch (error) {
          // Taken by someone else: a longer one is free soon.
          if (!(error instanceof DbError && error.kind === 'duplicate') || length > AFF_CODE_LENGTH + 8) throw error
        }
      }
    },

    /** @throws GatewayError root_protected */
    leave: (userId: number): Promise<void> =>
      softDelete(deps, userId, async (tx) => {
        const user = await lockUser(tx, userId)
        if ((user.role ?? 0) >= ROLE.root) throw new GatewayError('root_protected')
      }),
  }
}
export type Self = ReturnType<typeof createSelf>

/** Which address or token each way of notification cannot do without. */
const NEEDS = {
  email: [],
  webhook: ['webhook_url'],
  bark: ['bark_url'],
  gotify: ['gotify_url', 'gotify_token'],
} as const satisfies Record<string, readonly (keyof UserSetting)[]>

/** @throws GatewayError setting_invalid */
function checkSetting(input: UserSetting): UserSetting {
  const refuse = (field: string): GatewayError => new GatewayError('setting_invalid', { params: { field } })
  const { notify_type: type, quota_warning_threshold: threshold } = input
  if (type !== undefined) {
    if (!Object.hasOwn(NEEDS, type)) throw refuse('notify_type')
    const missing = NEEDS[type as keyof typeof NEEDS].find((field) => !input[field]) // Checked on the line above.
    if (missing) throw refuse(missing)
  }
  if (threshold !== undefined && !(threshold > 0 && Number.isFinite(threshold))) throw refuse('quota_warning_threshold')
  for (const field of ['webhook_url', 'bark_url', 'gotify_url'] as const) {
    if (input[field] && !/^https?:\/\//.test(input[field])) throw refuse(field)
  }
  const priority = input.gotify_priority
  if (priority === undefined) return input
  return { ...input, gotify_priority: priority >= 0 && priority <= MAX_PRIORITY ? priority : DEFAULT_PRIORITY }
}
