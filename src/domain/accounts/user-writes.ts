/** Writes of user rows that several verbs share: making, naming and deleting one. */
import { eq } from 'drizzle-orm'
import { bumpTopic, type Db, DbError } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { State, Topics } from '../../state/index.ts'
import { dropAllotments, quotaChanged } from '../billing/index.ts'
import { USER_STATUS } from './actor.ts'
import { endSessions, randomText } from './user-rules.ts'
import { defaultSidebar } from './user-setting.ts'

const AFF_CODE_LENGTH = 4

/** A complete row for a new account; its invitation code is random. */
export const newUser = (input: {
  readonly username: string
  readonly password: string
  readonly displayName: string
  readonly role: number
  readonly quota: number
  readonly nowSec: number
}) => ({
  username: input.username,
  password: input.password,
  displayName: input.displayName,
  role: input.role,
  status: USER_STATUS.enabled,
  email: '',
  githubId: '',
  discordId: '',
  oidcId: '',
  wechatId: '',
  telegramId: '',
  linuxDoId: '',
  accessToken: null,
  quota: input.quota,
  usedQuota: 0,
  requestCount: 0,
  group: 'default',
  affCode: randomText(AFF_CODE_LENGTH),
  affCount: 0,
  affQuota: 0,
  affHistory: 0,
  inviterId: 0,
  setting: JSON.stringify({ sidebar_modules: defaultSidebar(input.role) }),
  remark: '',
  stripeCustomer: '',
  createdAt: input.nowSec,
  lastLoginAt: 0,
  authVersion: 1,
})
type NewUser = ReturnType<typeof newUser>

const INSERT_TRIES = 5

/**
 * Inserts a user; a code that is taken is drawn again.
 * @param also runs in the same transaction
 * @throws GatewayError username_taken
 */
export async function insertUser(db: Db, row: NewUser, also: (tx: Db, id: number) => Promise<void>): Promise<number> {
  const { users } = db.tables
  for (let attempt = 1; ; attempt++) {
    const affCode = attempt === 1 ? row.affCode : randomText(AFF_CODE_LENGTH + attempt)
    try {
      return await guardName(db, row.username, undefined, () =>
        db.transaction(async (tx) => {
          const id = await tx.insertId(users, { ...row, affCode })
          await also(tx, id)
          return id
        }),
      )
    } catch (error) {
      if (!(error instanceof DbError && error.kind === 'duplicate') || attempt === INSERT_TRIES) throw error
    }
  }
}

/** Turns the database's refusal of a name that is in use (also by a deleted user, or in another case) into ours. */
export async function guardName<T>(
  db: Db,
  username: string | undefined,
  ownId: number | undefined,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (!(error instanceof DbError && error.kind === 'duplicate') || !username) throw error
    const { users } = db.tables
    const taken = await db.select({ id: users.id }).from(users).where(eq(users.username, username))
    if (taken.some((row) => row.id !== ownId)) throw new GatewayError('username_taken', { cause: error })
    throw error
  }
}

/** Marks a user deleted; name and codes stay taken, what is parked of the wallet is dropped. */
export async function softDelete(
  deps: { readonly db: Db; readonly topics: Topics; readonly bus: State; readonly clock: Clock },
  id: number,
  check: (tx: Db) => Promise<void>,
): Promise<void> {
  const { db, topics, bus, clock } = deps
  await db.transaction(async (tx) => {
    await check(tx)
    const { users } = tx.tables
    await tx
      .update(users)
      .set({ deletedAt: new Date(clock.now()) })
      .where(eq(users.id, id))
    await endSessions(tx, id, 'user_deleted', { nowMs: clock.now() })
    await dropAllotments(tx, { kind: 'user', id })
    await bumpTopic(tx, 'users', [id])
  })
  await topics.changed('users')
  await quotaChanged(bus, { kind: 'user', id })
}
