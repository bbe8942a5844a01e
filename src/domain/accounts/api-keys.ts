/**
 * API keys as their owners manage them. A key is shown masked but for two routes that reveal it. Money moves only by the
 * ledger's verbs, and an edit that sends a balance back as it was read moves none.
 */
import { and, count, desc, eq, inArray, isNull, type SQL, sql } from 'drizzle-orm'
import { alias } from 'drizzle-orm/mysql-core'
import { bumpTopic, type Db } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import { parseCidrs } from '../../lib/ip.ts'
import type { State, Topics } from '../../state/index.ts'
import { creditBalance, dropAllotments, quotaChanged, setBalance } from '../billing/index.ts'
import { type LimitInput, limitColumns, limitView } from '../limits/index.ts'
import { autoGroups, type Options, selectableGroups } from '../options/index.ts'
import { KEY_STATUS, parseGroupList, splitIps } from './api-key-owner.ts'
import { isExpired } from './authenticate.ts'
import { matchesText } from './search.ts'
import { lockUser, randomText } from './user-rules.ts'

export interface ApiKeysDeps {
  readonly db: Db
  readonly topics: Topics
  readonly bus: State
  readonly options: Options
  readonly clock: Clock
}

/** What an owner may set; an absent field keeps what is stored, or takes the default of a new key. */
export interface ApiKeyInput extends LimitInput {
  readonly name?: string
  /** Unix seconds; −1 or 0: never. */
  readonly expiredTime?: number
  readonly remainQuota?: number
  /** The counter as it stood where `remainQuota` was read; see `moveMoney`. */
  readonly usedQuota?: number
  readonly unlimitedQuota?: boolean
  readonly modelLimitsEnabled?: boolean
  readonly modelLimits?: string
  readonly allowIps?: string
  readonly group?: string
  readonly crossGroupRetry?: boolean
  /** null or empty: all of the system's. */
  readonly autoGroups?: readonly string[] | null
}

type KeyRow = Db['tables']['tokens']['$inferSelect']

const KEY_LENGTH = 48
const MAX_NAME_BYTES = 50
const MAX_GROUP = 191
const MAX_IPS = 191
const MAX_MODELS = 60_000
/** Quota of a key: at most this many US dollars, and what 31 bits hold. */
const MAX_QUOTA_USD = 1_000_000_000
const MAX_QUOTA_UNITS = 2_147_483_647

export function createApiKeys(deps: ApiKeysDeps) {
  const { db, topics, bus, options, clock } = deps
  const { tokens } = db.tables
  const nowSec = (): number => Math.floor(clock.now() / 1000)
  const maxQuota = (): number => Math.min(MAX_QUOTA_USD * options.get('QuotaPerUnit'), MAX_QUOTA_UNITS)

  const own = (userId: number, where: SQL): SQL =>
    and(eq(tokens.userId, userId), isNull(tokens.deletedAt), where) as SQL // `and` of something is something.

  const views = async (from: Db, rows: readonly KeyRow[]) => {
    const money = await readMoney(
      from,
      rows.map((row) => row.id),
    )
    return rows.map((row) => keyView(row, money.get(row.id), clock.now()))
  }

  const page = async (where: SQL, limit: number, offset: number) => {
    const [total] = await db.select({ n: count() }).from(tokens).where(where)
    const rows = await db.select().from(tokens).where(where).orderBy(desc(tokens.id)).limit(limit).offset(offset)
    return { items: await views(db, rows), total: total?.n ?? 0 }
  }

  /** @throws GatewayError api_key_not_found */
  const get = async (userId: number, id: number): Promise<KeyView> => {
    const rows = await db
      .select()
      .from(tokens)
      .where(own(userId, eq(tokens.id, id)))
    const [view] = await views(db, rows)
    if (!view) throw new GatewayError('api_key_not_found')
    return view
  }

  const lockKey = async (tx: Db, userId: number, id: number): Promise<KeyRow> => {
    const [row] = await tx.lock(
      tx
        .select()
        .from(tokens)
        .where(own(userId, eq(tokens.id, id))),
    )
    if (!row) throw new GatewayError('api_key_not_found')
    return row
  }

  /** The columns that an input sets, checked; money is not among them. */
  const columnsOf = (
    input: ApiKeyInput,
    userGroup: string,
    stored: { readonly group: string | null; readonly autoGroups: string | null },
  ) => {
    if (Buffer.byteLength(input.name ?? '') > MAX_NAME_BYTES)
      throw new GatewayError('api_key_name_too_long', { params: { max: MAX_NAME_BYTES } })
    const group = input.group?.trim().slice(0, MAX_GROUP)
    const isAuto = (group ?? stored.group) === 'auto'
    return {
      ...(input.name !== undefined && { name: input.name }),
      ...(input.expiredTime !== undefined && { expiredTime: checkExpiry(input.expiredTime) }),
      ...(input.unlimitedQuota !== undefined && { unlimitedQuota: input.unlimitedQuota }),
      ...(input.modelLimitsEnabled !== undefined && { modelLimitsEnabled: input.modelLimitsEnabled }),
      ...(input.modelLimits !== undefined && {
        modelLimits: checkLength('model_limits', input.modelLimits, MAX_MODELS),
      }),
      ...(input.allowIps !== undefined && { allowIps: checkIps(input.allowIps) }),
      ...(group !== undefined && { group }),
      ...limitColumns(input),
      crossGroupRetry: isAuto ? input.crossGroupRetry : false,
      autoGroups: !isAuto
        ? ''
        : input.autoGroups === undefined
          ? stored.autoGroups
          : checkGroups(input.autoGroups ?? [], userGroup),
    }
  }

  const checkGroups = (groups: readonly string[], userGroup: string): string => {
    const max = options.get('MaxTokenAutoGroups')
    const selectable = selectableGroups(options, userGroup)
    const isValid =
      groups.length <= max && new Set(groups).size === groups.length && groups.every((group) => selectable.has(group))
    if (!isValid) throw new GatewayError('api_key_groups_invalid', { params: { max } })
    return groups.length === 0 ? '' : JSON.stringify(groups)
  }

  const checkQuota = (quota: number): number => {
    const max = maxQuota()
    if (!Number.isSafeInteger(quota) || quota < 0 || quota > max)
      throw new GatewayError('api_key_quota_invalid', { params: { max } })
    return quota
  }

  /**
   * Brings a key's balance to what an edit asks for, without undoing what was spent since the form was read.
   * - With `usedQuota`, the counter that was shown beside the balance: both together are what was ever granted, and
   *   spending does not change their sum. So only the difference of the sums is applied; a row sent back as read moves nothing.
   * - Without it, a balance equal to the present one moves nothing, and any other is set.
   * - A key that was unlimited until now takes the balance as given.
   * @returns whether money moved
   */
  const moveMoney = async (tx: Db, before: KeyRow, input: ApiKeyInput): Promise<boolean> => {
    const { remainQuota, usedQuota } = input
    if (remainQuota === undefined || (input.unlimitedQuota ?? before.unlimitedQuota)) return false
    const account = { kind: 'api-key', id: before.id } as const
    const now = (await readMoney(tx, [before.id])).get(before.id) ?? { remain: 0, used: 0 }
    const wanted = usedQuota === undefined || before.unlimitedQuota ? remainQuota : remainQuota + usedQuota - now.used
    if (wanted === now.remain) return false
    checkQuota(remainQuota)
    if (usedQuota === undefined || before.unlimitedQuota) await setBalance(tx, account, wanted)
    else await creditBalance(tx, account, wanted - now.remain)
    return true
  }

  return {
    list: (userId: number, limit: number, offset: number) => page(own(userId, sql`1 = 1`), limit, offset),

    /** @param query.token the key or a part of it, with or without `sk-` @throws GatewayError search_pattern_invalid */
    search(
      userId: number,
      query: { readonly keyword?: string; readonly token?: string; readonly limit: number; readonly offset: number },
    ) {
      const key = query.token?.trim().replace(/^sk-/, '')
      const where = and(
        query.keyword ? matchesText(tokens.name, query.keyword) : undefined,
        key ? matchesText(tokens.key, key) : undefined,
      )
      return page(own(userId, where ?? sql`1 = 1`), query.limit, query.offset)
    },

    get,

    /** Full keys, without `sk-`; ids that are not the user's are left out. */
    async reveal(userId: number, ids: readonly number[]): Promise<ReadonlyMap<number, string>> {
      if (ids.length === 0) return new Map()
      const rows = await db
        .select({ id: tokens.id, key: tokens.key })
        .from(tokens)
        .where(own(userId, inArray(tokens.id, [...ids])))
      return new Map(rows.map((row) => [row.id, row.key ?? '']))
    },

    /** @throws GatewayError api_key_… */
    async create(userId: number, input: ApiKeyInput): Promise<{ readonly id: number; readonly key: string }> {
      const key = randomText(KEY_LENGTH)
      const unlimited = input.unlimitedQuota ?? false
      const remainQuota = unlimited ? Math.max(0, input.remainQuota ?? 0) : checkQuota(input.remainQuota ?? 0)
      const id = await db.transaction(async (tx) => {
        const user = await lockUser(tx, userId)
        const columns = columnsOf(input, user.group ?? '', { group: '', autoGroups: '' })
        const max = options.get('token_setting.max_user_tokens')
        const [held] = await tx.select({ n: count() }).from(tokens).where(own(userId, sql`1 = 1`))
        if ((held?.n ?? 0) >= max) throw new GatewayError('api_key_limit_reached', { params: { max } })
        return tx.insertId(tokens, {
          userId,
          key,
          status: KEY_STATUS.enabled,
          name: '',
          createdTime: nowSec(),
          accessedTime: nowSec(),
          expiredTime: -1,
          usedQuota: 0,
          modelLimitsEnabled: false,
          modelLimits: '',
          allowIps: '',
          group: '',
          ...columns,
          unlimitedQuota: unlimited,
          remainQuota: Math.min(remainQuota, MAX_QUOTA_UNITS),
          crossGroupRetry: columns.crossGroupRetry ?? false,
          autoGroups: columns.autoGroups ?? '',
        })
      })
      return { id, key }
    },

    /** @throws GatewayError api_key_… */
    async edit(userId: number, id: number, input: ApiKeyInput): Promise<KeyView> {
      const hasMoved = await db.transaction(async (tx) => {
        const user = await lockUser(tx, userId)
        const before = await lockKey(tx, userId, id)
        const { crossGroupRetry, ...columns } = columnsOf(input, user.group ?? '', before)
        await tx
          .update(tokens)
          .set({
            ...columns,
            ...(crossGroupRetry !== undefined && { crossGroupRetry }),
            // Nothing can exhaust an unlimited key.
            ...(input.unlimitedQuota && before.status === KEY_STATUS.exhausted && { status: KEY_STATUS.enabled }),
          })
          .where(eq(tokens.id, id))
        const moved = await moveMoney(tx, before, input)
        await bumpTopic(tx, 'api-keys', [id])
        return moved
      })
      await topics.changed('api-keys')
      if (hasMoved) await quotaChanged(bus, { kind: 'api-key', id })
      return get(userId, id)
    },

    /** @throws GatewayError api_key_not_found, api_key_expired, api_key_exhausted, invalid_parameters */
    async setStatus(userId: number, id: number, status: number): Promise<KeyView> {
      if (status !== KEY_STATUS.enabled && status !== KEY_STATUS.disabled) {
        throw new GatewayError('invalid_parameters', { params: { reason: 'body.status: 1 or 2' } })
      }
      await db.transaction(async (tx) => {
        const before = await lockKey(tx, userId, id)
        if (status === KEY_STATUS.enabled) {
          if (isExpired({ expiresAtSec: before.expiredTime ?? 0 }, clock.now()))
            throw new GatewayError('api_key_expired')
          const money = (await readMoney(tx, [id])).get(id)
          if (!before.unlimitedQuota && (money?.remain ?? 0) <= 0) throw new GatewayError('api_key_exhausted')
        }
        await tx.update(tokens).set({ status }).where(eq(tokens.id, id))
        await bumpTopic(tx, 'api-keys', [id])
      })
      await topics.changed('api-keys')
      return get(userId, id)
    },

    /** @returns how many were deleted; ids that are not the user's are left out */
    async remove(userId: number, ids: readonly number[]): Promise<number> {
      if (ids.length === 0) return 0
      const removed = await db.transaction(async (tx) => {
        const rows = await tx.lock(
          tx
            .select({ id: tokens.id })
            .from(tokens)
            .where(own(userId, inArray(tokens.id, [...ids])))
            .orderBy(tokens.id),
        )
        for (const { id } of rows) {
          await tx
            .update(tokens)
            .set({ deletedAt: new Date(clock.now()) })
            .where(eq(tokens.id, id))
          await dropAllotments(tx, { kind: 'api-key', id })
        }
        const gone = rows.map((row) => row.id)
        if (gone.length > 0) await bumpTopic(tx, 'api-keys', gone)
        return gone
      })
      if (removed.length > 0) await topics.changed('api-keys')
      for (const id of removed) await quotaChanged(bus, { kind: 'api-key', id })
      return removed.length
    },

    /** Groups that a key of group `auto` may list. */
    selectableAutoGroups: (userGroup: string) => ({
      groups: [...autoGroups(options, userGroup)],
      max_count: options.get('MaxTokenAutoGroups'),
    }),

    /** Balance and counter of one key as people see them. */
    async money(id: number): Promise<KeyMoney> {
      return (await readMoney(db, [id])).get(id) ?? { remain: 0, used: 0 }
    },
  }
}
export type ApiKeys = ReturnType<typeof createApiKeys>

export interface KeyMoney {
  /** Balance and parked parts, quota units. */
  readonly remain: number
  readonly used: number
}

/**
 * What is left and what was spent of keys, by one statement: a flush moves both at once, so their sum is that of one moment.
 */
async function readMoney(db: Db, ids: readonly number[]): Promise<Map<number, KeyMoney>> {
  if (ids.length === 0) return new Map()
  const { tokens, quotaAllotments } = db.tables
  const parked = alias(quotaAllotments, 'parked')
  const rows = await db
    .select({
      id: tokens.id,
      balance: tokens.remainQuota,
      used: tokens.usedQuota,
      parked: sql<number | string>`coalesce(sum(${parked.amount}), 0)`,
    })
    .from(tokens)
    .leftJoin(parked, eq(parked.account, sql`concat('t:', ${tokens.id})`))
    .where(inArray(tokens.id, [...ids]))
    .groupBy(tokens.id, tokens.remainQuota, tokens.usedQuota)
  return new Map(rows.map((row) => [row.id, { remain: (row.balance ?? 0) + Number(row.parked), used: row.used ?? 0 }]))
}

const MASK = '*'.repeat(10)
const maskKey = (key: string): string => (key.length <= 8 ? MASK : `${key.slice(0, 4)}${MASK}${key.slice(-4)}`)

/** How a key is shown in lists. An enabled key past its time is shown as expired. */
const keyView = (row: KeyRow, money: KeyMoney | undefined, nowMs: number) => ({
  id: row.id,
  user_id: row.userId ?? 0,
  key: maskKey(row.key ?? ''),
  status:
    row.status === KEY_STATUS.enabled && isExpired({ expiresAtSec: row.expiredTime ?? 0 }, nowMs)
      ? KEY_STATUS.expired
      : (row.status ?? 0),
  name: row.name ?? '',
  created_time: row.createdTime ?? 0,
  accessed_time: row.accessedTime ?? 0,
  expired_time: row.expiredTime ?? 0,
  remain_quota: money?.remain ?? row.remainQuota ?? 0,
  unlimited_quota: row.unlimitedQuota ?? false,
  model_limits_enabled: row.modelLimitsEnabled ?? false,
  model_limits: row.modelLimits ?? '',
  allow_ips: row.allowIps ?? '',
  used_quota: money?.used ?? row.usedQuota ?? 0,
  group: row.group ?? '',
  cross_group_retry: row.crossGroupRetry ?? false,
  DeletedAt: null,
  auto_groups: parseGroupList(row.autoGroups) ?? null,
  ...limitView(row),
})
export type KeyView = ReturnType<typeof keyView>

function checkExpiry(expiredTime: number): number {
  if (expiredTime === 0) return -1
  if (!Number.isSafeInteger(expiredTime) || expiredTime < -1) {
    throw new GatewayError('invalid_parameters', { params: { reason: 'body.expired_time: Unix seconds or -1' } })
  }
  return expiredTime
}

function checkLength(field: string, text: string, max: number): string {
  if (Buffer.byteLength(text) > max)
    throw new GatewayError('invalid_parameters', { params: { reason: `body.${field}: more than ${max} bytes` } })
  return text
}

function checkIps(text: string): string {
  const entries = splitIps(text)
  const [entry] = parseCidrs(entries).invalid
  if (entry !== undefined) throw new GatewayError('api_key_ips_invalid', { params: { entry: entry.slice(0, 64) } })
  return checkLength('allow_ips', entries.join('\n'), MAX_IPS)
}
