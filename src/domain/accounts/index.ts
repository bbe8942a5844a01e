/** Users, API keys, sessions, set-up and redemption codes: who may call, who may manage, and who pays. */
import type { Db } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import type { State, Topics } from '../../state/index.ts'
import type { Audit } from '../audit.ts'
import type { Options } from '../options/index.ts'
import { createApiKeys } from './api-keys.ts'
import { createAuthenticator } from './authenticate.ts'
import { credentialOf } from './credential.ts'
import { createRedemptions } from './redemptions.ts'
import { createSelf } from './self.ts'
import { createSessions, type SessionLimits } from './sessions.ts'
import { createSetup } from './setup.ts'
import { createUsers } from './users.ts'

export { type Actor, channelPermissions, mayManage, ROLE, USER_STATUS } from './actor.ts'
export type { KeyOwner } from './api-key-owner.ts'
export type { ApiKeyInput, ApiKeys, KeyView } from './api-keys.ts'
export type { Caller } from './authenticate.ts'
export { credentialOf } from './credential.ts'
export type { CodeView, Redemptions } from './redemptions.ts'
export { containsPattern, matchesText, prefixPattern } from './search.ts'
export type { Self } from './self.ts'
export type { Issued, SessionLimits, Sessions, SessionView } from './sessions.ts'
export type { Setup } from './setup.ts'
export type { UserSetting } from './user-setting.ts'
export type { SelfView, UserView } from './user-view.ts'
export type { Trail, Users } from './users.ts'

export interface AccountsDeps {
  readonly db: Db
  readonly topics: Topics
  readonly bus: State
  readonly options: Options
  readonly audit: Audit
  readonly log: Log
  readonly clock: Clock
  readonly version: string
  /** Session secrets: all are accepted. */
  readonly secrets: readonly string[]
  /** Position of the session secret that signs; the first if not given. */
  readonly signing?: () => number
  readonly sessionLimits: SessionLimits
  /** How long an API key is taken for true without asking again, ms (`SYNC_FREQUENCY`). */
  readonly freshMs: number
  /** How much longer while the database is gone, ms. */
  readonly leaseMs: number
  /** Log rows live in another database. */
  readonly isLogSeparate: boolean
}

export function createAccounts(deps: AccountsDeps) {
  const authenticator = createAuthenticator(deps)
  const sessions = createSessions({ ...deps, limits: deps.sessionLimits })
  const setup = createSetup(deps)
  return {
    /** Whose API key this is, and what it may do. See `authenticate.ts`. */
    authenticate: authenticator.authenticate,
    identifyKey: authenticator.identifyKey,
    /** API keys in memory. */
    cachedKeys: authenticator.size,
    credentialOf,
    sessions,
    setup,
    self: createSelf({ ...deps, sessions }),
    users: createUsers(deps),
    apiKeys: createApiKeys(deps),
    redemptions: createRedemptions(deps),
    /** Resolves when what is answered from memory is known. @throws DbError */
    ready: () => setup.ready(),
    close(): void {
      authenticator.close()
      setup.close()
    },
  }
}
export type Accounts = ReturnType<typeof createAccounts>
