/**
 * Is this installation set up, and the one act that does it. The answer is kept in memory, since it is asked without a
 * credential and never turns back to no.
 */
import { eq } from 'drizzle-orm'
import { bumpTopic, type Db, DbError } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Topics } from '../../state/index.ts'
import type { Options } from '../options/index.ts'
import { ROLE } from './actor.ts'
import { checkUsername, hashPassword } from './user-rules.ts'
import { guardName, newUser } from './user-writes.ts'

export interface SetupDeps {
  readonly db: Db
  readonly topics: Topics
  readonly options: Options
  readonly clock: Clock
  readonly version: string
}

export interface SetupInput {
  /** Of the first administrator. */
  readonly username?: string
  readonly password?: string
  readonly confirmPassword?: string
  readonly isSelfUse: boolean
  readonly isDemo: boolean
}

const ROOT_QUOTA = 100_000_000
const ROOT_DISPLAY_NAME = 'Root User'
/** The row every node tries to insert: the primary key lets only one through. */
const SETUP_ROW = 1

export function createSetup(deps: SetupDeps) {
  const { db, topics, options, clock } = deps
  const { setups, users } = db.tables
  let isDone = false

  const load = async (): Promise<void> => {
    if (isDone) return
    const [row] = await db.select({ id: setups.id }).from(setups).limit(1)
    const [root] = await db.select({ id: users.id }).from(users).where(eq(users.role, ROLE.root)).limit(1)
    // A database taken over from before this table existed has its root user: that is set-up enough.
    if (!row && root) await db.insertIgnore(setups, rowOf())
    isDone = row !== undefined || root !== undefined
  }
  const rowOf = () => ({
    id: SETUP_ROW,
    version: deps.version.slice(0, 50),
    initializedAt: Math.floor(clock.now() / 1000),
  })
  const unwatch = topics.watch('users', load)

  return {
    /** Resolves after the first look. @throws DbError */
    ready: load,
    isDone: (): boolean => isDone,

    /**
     * Creates the root user and marks the installation as set up; of several nodes doing so at once, one succeeds.
     * @throws GatewayError setup_done, username_invalid, password_invalid, password_mismatch
     */
    async run(input: SetupInput): Promise<void> {
      await load()
      if (isDone) throw new GatewayError('setup_done')
      const username = checkUsername(input.username ?? '')
      if (input.password !== input.confirmPassword) throw new GatewayError('password_mismatch')
      const password = await hashPassword(input.password ?? '')
      const root = newUser({
        username,
        password,
        displayName: ROOT_DISPLAY_NAME,
        role: ROLE.root,
        quota: ROOT_QUOTA,
        nowSec: Math.floor(clock.now() / 1000),
      })
      try {
        await guardName(db, username, undefined, () =>
          db.transaction(async (tx) => {
            await tx.insert(setups).values(rowOf())
            await tx.insert(users).values(root)
            await bumpTopic(tx, 'users')
          }),
        )
      } catch (error) {
        await load()
        const isRefusal = error instanceof GatewayError || (error instanceof DbError && error.kind === 'duplicate')
        if (isDone && isRefusal) throw new GatewayError('setup_done', { cause: error })
        throw error
      }
      await topics.changed('users')
      await options.set({ SelfUseModeEnabled: String(input.isSelfUse), DemoSiteEnabled: String(input.isDemo) })
    },
    close: unwatch,
  }
}
export type Setup = ReturnType<typeof createSetup>
