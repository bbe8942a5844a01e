/**
 * Users as administrators manage them. Every change of role, status, group or password raises the user's version and ends
 * the sessions; money moves only by the ledger's verbs, so no edit can undo spending.
 */
import { and, asc, count, desc, eq, inArray, isNotNull, isNull, or, type SQL, sql } from 'drizzle-orm'
import { bumpTopic, type Db } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { State, Topics } from '../../state/index.ts'
import { creditBalance, creditLog, dropAllotments, quotaChanged, readBalances, setBalance } from '../billing/index.ts'
import { type LimitInput, limitColumns } from '../limits/index.ts'
import type { Options } from '../options/index.ts'
import { type Actor, mayManage, ROLE, USER_STATUS } from './actor.ts'
import { containsPattern } from './search.ts'
import {
  checkDisplayName,
  checkUsername,
  endSessions,
  hashPassword,
  lockUser,
  type RevokeReason,
  type UserRow,
} from './user-rules.ts'
import { type UserView, userView } from './user-view.ts'
import { guardName, insertUser, newUser, softDelete } from './user-writes.ts'

export interface UsersDeps {
  readonly db: Db
  readonly topics: Topics
  readonly bus: State
  readonly options: Options
  readonly clock: Clock
  /** Log rows live in another database than users. */
  readonly isLogSeparate: boolean
}

export interface UserQuery {
  readonly keyword?: string
  readonly group?: string
  readonly role?: number
  /** 1, 2, or −1 for deleted users. */
  readonly status?: number
  readonly sortBy?: string
  readonly isAscending?: boolean
  readonly offset: number
  readonly limit: number
}

export interface UserEdit extends LimitInput {
  readonly id: number
  readonly username?: string
  readonly displayName?: string
  readonly group?: string
  readonly remark?: string
  /** Empty keeps the password. */
  readonly password?: string
  readonly role?: number
}

export interface ManageUser {
  readonly id: number
  readonly action: string
  /** Of `add_quota`: `add`, `subtract`, `override`. */
  readonly mode?: string
  readonly value?: number
}

/** For the log row of a change of money. */
export interface Trail {
  readonly ip: string
  readonly requestId: string
}

const LOG_TYPE = { manage: 3, system: 4 } as const
const MAX_GROUP = 64
const MAX_REMARK = 255
/** Beyond it a balance is no longer exact. */
const MAX_QUOTA = Number.MAX_SAFE_INTEGER

export function createUsers(deps: UsersDeps) {
  const { db, topics, bus, options, clock, isLogSeparate } = deps
  const nowSec = (): number => Math.floor(clock.now() / 1000)

  const views = async (rows: readonly UserRow[]): Promise<UserView[]> => {
    const balances = await readBalances(
      db,
      'user',
      rows.map((row) => row.id),
    )
    return rows.map((row) => userView(row, balances.get(row.id) ?? row.quota ?? 0))
  }

  /** The user, locked, whom the actor may manage. */
  const lockManageable = async (tx: Db, actor: Actor, id: number): Promise<UserRow> => {
    const user = await lockUser(tx, id)
    if (!mayManage(actor, user.role ?? 0)) throw new GatewayError('user_not_manageable')
    return user
  }

  /** Changes a user's security state and ends what was issued under the old one. */
  const secure = async (
    actor: Actor,
    id: number,
    reason: RevokeReason,
    change: (user: UserRow) => Partial<UserRow>,
  ): Promise<UserRow> => {
    const { users } = db.tables
    const user = await db.transaction(async (tx) => {
      const before = await lockManageable(tx, actor, id)
      const set = change(before)
      await tx.update(users).set(set).where(eq(users.id, id))
      await endSessions(tx, id, reason, { nowMs: clock.now() })
      await bumpTopic(tx, 'users', [id])
      return { ...before, ...set }
    })
    await topics.changed('users')
    return user
  }

  const addQuota = async (actor: Actor, edit: ManageUser, trail: Trail): Promise<void> => {
    const { mode = 'add', value = 0 } = edit
    const isOverride = mode === 'override'
    if (!['add', 'subtract', 'override'].includes(mode))
      throw new GatewayError('user_action_unknown', { params: { action: mode } })
    const min = isOverride ? -MAX_QUOTA : 1
    if (!Number.isSafeInteger(value) || value < min)
      throw new GatewayError('amount_invalid', { params: { min, max: MAX_QUOTA } })
    const account = { kind: 'user', id: edit.id } as const
    await db.transaction(async (tx) => {
      const user = await lockManageable(tx, actor, edit.id)
      const done = isOverride
        ? await setBalance(tx, account, value)
        : await creditBalance(tx, account, mode === 'add' ? value : -value)
      const params = { id: user.id, username: user.username, mode, value }
      await creditLog(
        tx,
        {
          type: LOG_TYPE.manage,
          userId: user.id,
          username: user.username,
          createdAt: nowSec(),
          content: `quota ${mode} ${value}`,
          isStream: false,
          ip: trail.ip,
          requestId: trail.requestId,
          other: JSON.stringify({
            op: { action: 'user.quota_add', params },
            admin_info: {
              admin_id: actor.userId,
              admin_username: actor.username,
              admin_role: actor.role,
              auth_method: actor.authMethod,
              ...(done === 'saturated' && { is_balance_saturated: true }),
            },
          }),
        },
        isLogSeparate,
      )
    })
    await quotaChanged(bus, account)
  }

  return {
    /** Soft-deleted users are in the list. */
    async list(query: UserQuery): Promise<{ readonly items: UserView[]; readonly total: number }> {
      const { users } = db.tables
      const where = filterOf(db, query)
      const [total] = await db.select({ n: count() }).from(users).where(where)
      const rows = await db
        .select()
        .from(users)
        .where(where)
        .orderBy(...orderOf(db, query))
        .limit(query.limit)
        .offset(query.offset)
      return { items: await views(rows), total: total?.n ?? 0 }
    },

    /** @throws GatewayError user_not_found, user_not_manageable */
    async get(actor: Actor, id: number): Promise<UserView> {
      const { users } = db.tables
      const [row] = await db.select().from(users).where(eq(users.id, id))
      if (!row || row.deletedAt) throw new GatewayError('user_not_found')
      if (!mayManage(actor, row.role ?? 0) && actor.userId !== id) throw new GatewayError('user_not_manageable')
      return (await views([row]))[0]!
    },

    /** @returns the new user's id @throws GatewayError username_invalid, username_taken, password_invalid, user_role_not_allowed */
    async create(
      actor: Actor,
      input: {
        readonly username: string
        readonly password: string
        readonly displayName?: string
        readonly role?: number
      },
      trail: Trail,
    ): Promise<number> {
      const role = input.role || ROLE.user
      if (role >= actor.role || ![ROLE.user, ROLE.admin].some((known) => known === role))
        throw new GatewayError('user_role_not_allowed')
      const username = checkUsername(input.username)
      const password = await hashPassword(input.password)
      const gift = options.get('QuotaForNewUser')
      const row = newUser({
        username,
        password,
        displayName: checkDisplayName(input.displayName || username),
        role,
        quota: gift,
        nowSec: nowSec(),
      })
      return insertUser(db, row, async (tx, userId) => {
        if (gift === 0) return
        await creditLog(
          tx,
          {
            type: LOG_TYPE.system,
            userId,
            username,
            createdAt: nowSec(),
            content: `new user: ${gift}`,
            isStream: false,
            ip: trail.ip,
            requestId: trail.requestId,
            other: JSON.stringify({ op: { action: 'user.gift', params: { quota: gift } } }),
          },
          isLogSeparate,
        )
      })
    },

    /** Changes what is given. The balance is never among it. @throws GatewayError user_…, username_… */
    async edit(actor: Actor, edit: UserEdit): Promise<void> {
      const password = edit.password ? await hashPassword(edit.password) : undefined
      const { users } = db.tables
      const isChanged = await guardName(db, edit.username, edit.id, () =>
        db.transaction(async (tx) => {
          const before = await lockManageable(tx, actor, edit.id)
          if (edit.role && edit.role !== before.role) throw new GatewayError('user_role_fixed')
          const set: Partial<UserRow> = {
            ...(edit.username ? { username: checkUsername(edit.username) } : {}),
            ...(edit.displayName !== undefined && { displayName: checkDisplayName(edit.displayName) }),
            ...(edit.group ? { group: edit.group.slice(0, MAX_GROUP) } : {}),
            ...(edit.remark !== undefined && { remark: edit.remark.slice(0, MAX_REMARK) }),
            ...(password && { password }),
            ...limitColumns(edit),
          }
          if (Object.keys(set).length === 0) return false
          await tx.update(users).set(set).where(eq(users.id, edit.id))
          const isSecurity = password !== undefined || (set.group !== undefined && set.group !== before.group)
          if (isSecurity) await endSessions(tx, edit.id, 'admin_user_update', { nowMs: clock.now() })
          await bumpTopic(tx, 'users', [edit.id])
          return true
        }),
      )
      if (isChanged) await topics.changed('users')
    },

    /**
     * One of the actions of user management.
     * @returns role and status after it, for the actions that change them
     * @throws GatewayError user_…, root_protected, amount_invalid
     */
    async manage(
      actor: Actor,
      edit: ManageUser,
      trail: Trail,
    ): Promise<{ readonly role: number; readonly status: number } | undefined> {
      const stateOf = (user: UserRow) => ({ role: user.role ?? 0, status: user.status ?? 0 })
      const notRoot = (user: UserRow): void => {
        if ((user.role ?? 0) >= ROLE.root) throw new GatewayError('root_protected')
      }
      switch (edit.action) {
        case 'enable':
          return stateOf(await secure(actor, edit.id, 'admin_user_update', () => ({ status: USER_STATUS.enabled })))
        case 'disable':
          return stateOf(
            await secure(actor, edit.id, 'admin_user_update', (user) => {
              notRoot(user)
              return { status: USER_STATUS.disabled }
            }),
          )
        case 'promote':
          if (actor.role < ROLE.root) throw new GatewayError('user_role_not_allowed')
          return stateOf(
            await secure(actor, edit.id, 'admin_user_update', (user) => {
              notRoot(user)
              return { role: ROLE.admin }
            }),
          )
        case 'demote':
          return stateOf(
            await secure(actor, edit.id, 'admin_demote', (user) => {
              notRoot(user)
              return { role: ROLE.user }
            }),
          )
        case 'delete':
          await softDelete(deps, edit.id, async (tx) => notRoot(await lockManageable(tx, actor, edit.id)))
          return undefined
        case 'add_quota':
          await addQuota(actor, edit, trail)
          return undefined
        default:
          throw new GatewayError('user_action_unknown', { params: { action: edit.action.slice(0, 50) } })
      }
    },

    /** Removes the user and all that only the user had; logs and payments stay. @throws GatewayError user_…, root_protected */
    async remove(actor: Actor, id: number): Promise<void> {
      const keyIds = await db.transaction(async (tx) => {
        const user = await lockUser(tx, id)
        if ((user.role ?? 0) >= actor.role)
          throw new GatewayError((user.role ?? 0) >= ROLE.root ? 'root_protected' : 'user_not_manageable')
        const { users, tokens, userSessions, authFlows } = tx.tables
        // All accounts are locked before any of their allotments, as everywhere else.
        const keys = await tx.lock(
          tx.select({ id: tokens.id }).from(tokens).where(eq(tokens.userId, id)).orderBy(tokens.id),
        )
        const ids = keys.map((key) => key.id)
        for (const keyId of ids) await dropAllotments(tx, { kind: 'api-key', id: keyId })
        await dropAllotments(tx, { kind: 'user', id })
        if (ids.length > 0) await tx.delete(tokens).where(inArray(tokens.id, ids))
        await tx.delete(userSessions).where(eq(userSessions.userId, id))
        await tx.delete(authFlows).where(eq(authFlows.userId, id))
        await tx.delete(users).where(eq(users.id, id))
        await bumpTopic(tx, 'users', [id])
        return ids
      })
      await topics.changed('users')
      await quotaChanged(bus, { kind: 'user', id })
      for (const keyId of keyIds) await quotaChanged(bus, { kind: 'api-key', id: keyId })
    },
  }
}
export type Users = ReturnType<typeof createUsers>

function filterOf(db: Db, query: UserQuery): SQL | undefined {
  const { users } = db.tables
  const { keyword = '', group, role, status } = query
  const pattern = containsPattern(keyword)
  return and(
    keyword === ''
      ? undefined
      : or(
          sql`${users.username} like ${pattern} escape '!'`,
          sql`${users.email} like ${pattern} escape '!'`,
          sql`${users.displayName} like ${pattern} escape '!'`,
          /^\d{1,15}$/.test(keyword) ? eq(users.id, Number(keyword)) : undefined,
        ),
    group ? eq(users.group, group) : undefined,
    role === undefined ? undefined : eq(users.role, role),
    status === undefined
      ? undefined
      : status === -1
        ? isNotNull(users.deletedAt)
        : and(eq(users.status, status), isNull(users.deletedAt)),
  )
}

function orderOf(db: Db, query: UserQuery): SQL[] {
  const { users } = db.tables
  const columns = {
    id: users.id,
    username: users.username,
    quota: users.quota,
    group: users.group,
    created_at: users.createdAt,
    last_login_at: users.lastLoginAt,
  }
  const name = query.sortBy ?? ''
  if (!Object.hasOwn(columns, name)) return [desc(users.id)]
  const column = columns[name as keyof typeof columns] // Checked on the line above.
  return [query.isAscending ? asc(column) : desc(column), desc(users.id)]
}
