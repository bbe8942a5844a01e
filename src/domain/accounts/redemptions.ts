/**
 * Redemption codes: made by administrators, turned into balance once. The state of the code, the credit and its log row
 * change in one transaction under the code's lock.
 */
import { and, count, desc, eq, gt, isNull, lt, ne, or, type SQL, sql } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { State } from '../../state/index.ts'
import { creditBalance, creditLog, quotaChanged } from '../billing/index.ts'
import { prefixPattern } from './search.ts'
import { lockUser } from './user-rules.ts'
import type { Trail } from './users.ts'

export interface RedemptionsDeps {
  readonly db: Db
  readonly bus: State
  readonly clock: Clock
  readonly isLogSeparate: boolean
}

export interface RedemptionInput {
  readonly name: string
  /** Quota units. */
  readonly quota: number
  /** Unix seconds; 0 never. */
  readonly expiredTime: number
}

/** Values of `redemptions.status`. */
const CODE_STATUS = { unused: 1, disabled: 2, used: 3 } as const

const MAX_NAME = 20
const MAX_COUNT = 100
const MAX_QUOTA_UNITS = 2_147_483_647
const LOG_TYPE_TOPUP = 1
/** UUID without its dashes. */
const CODE = /^[0-9a-f]{32}$/i

type CodeRow = Db['tables']['redemptions']['$inferSelect']

export function createRedemptions(deps: RedemptionsDeps) {
  const { db, bus, clock, isLogSeparate } = deps
  const { redemptions } = db.tables
  const nowSec = (): number => Math.floor(clock.now() / 1000)
  const isLive = isNull(redemptions.deletedAt)

  const page = async (where: SQL | undefined, limit: number, offset: number) => {
    const [total] = await db.select({ n: count() }).from(redemptions).where(where)
    const rows = await db
      .select()
      .from(redemptions)
      .where(where)
      .orderBy(desc(redemptions.id))
      .limit(limit)
      .offset(offset)
    return { items: rows.map(codeView), total: total?.n ?? 0 }
  }

  const check = (input: RedemptionInput): RedemptionInput => {
    const length = [...input.name.trim()].length
    if (length < 1 || length > MAX_NAME)
      throw new GatewayError('redemption_name_invalid', { params: { max: MAX_NAME } })
    if (!Number.isSafeInteger(input.quota) || input.quota < 1 || input.quota > MAX_QUOTA_UNITS) {
      throw new GatewayError('amount_invalid', { params: { min: 1, max: MAX_QUOTA_UNITS } })
    }
    if (input.expiredTime !== 0 && !(Number.isSafeInteger(input.expiredTime) && input.expiredTime >= nowSec())) {
      throw new GatewayError('redemption_expiry_invalid')
    }
    return { ...input, name: input.name.trim() }
  }

  const change = async (id: number, set: (before: CodeRow) => Partial<CodeRow>): Promise<CodeView> =>
    db.transaction(async (tx) => {
      const [before] = await tx.lock(
        tx
          .select()
          .from(redemptions)
          .where(and(eq(redemptions.id, id), isLive)),
      )
      if (!before) throw new GatewayError('redemption_not_found')
      const columns = set(before)
      await tx.update(redemptions).set(columns).where(eq(redemptions.id, id))
      return codeView({ ...before, ...columns })
    })

  return {
    list: (limit: number, offset: number) => page(isLive, limit, offset),

    /** @param query.status `1`, `2`, `3`, or `expired` */
    search(query: {
      readonly keyword?: string
      readonly status?: string
      readonly limit: number
      readonly offset: number
    }) {
      const { keyword, status } = query
      const isPast = and(ne(redemptions.expiredTime, 0), lt(redemptions.expiredTime, nowSec()))
      const byStatus =
        status === 'expired'
          ? and(eq(redemptions.status, CODE_STATUS.unused), isPast)
          : status === '1'
            ? and(
                eq(redemptions.status, CODE_STATUS.unused),
                or(
                  isNull(redemptions.expiredTime),
                  eq(redemptions.expiredTime, 0),
                  gt(redemptions.expiredTime, nowSec() - 1),
                ),
              )
            : status && /^[23]$/.test(status)
              ? eq(redemptions.status, Number(status))
              : undefined
      const byKeyword = keyword
        ? or(
            sql`${redemptions.name} like ${prefixPattern(keyword)} escape '!'`,
            /^\d{1,15}$/.test(keyword) ? eq(redemptions.id, Number(keyword)) : undefined,
          )
        : undefined
      return page(and(isLive, byStatus, byKeyword), query.limit, query.offset)
    },

    /** @throws GatewayError redemption_not_found */
    async get(id: number): Promise<CodeView> {
      const [row] = await db
        .select()
        .from(redemptions)
        .where(and(eq(redemptions.id, id), isLive))
      if (!row) throw new GatewayError('redemption_not_found')
      return codeView(row)
    },

    /** @returns the new codes @throws GatewayError amount_invalid, redemption_… */
    async create(userId: number, input: RedemptionInput & { readonly count: number }): Promise<string[]> {
      const { name, quota, expiredTime } = check(input)
      if (!Number.isSafeInteger(input.count) || input.count < 1 || input.count > MAX_COUNT) {
        throw new GatewayError('amount_invalid', { params: { min: 1, max: MAX_COUNT } })
      }
      const codes = Array.from({ length: input.count }, () => crypto.randomUUID().replaceAll('-', ''))
      await db.insert(redemptions).values(
        codes.map((key) => ({
          userId,
          key,
          status: CODE_STATUS.unused,
          name,
          quota,
          createdTime: nowSec(),
          redeemedTime: 0,
          usedUserId: 0,
          expiredTime,
        })),
      )
      return codes
    },

    /** @throws GatewayError redemption_…, amount_invalid */
    edit(id: number, input: RedemptionInput): Promise<CodeView> {
      const { name, quota, expiredTime } = check(input)
      return change(id, () => ({ name, quota, expiredTime }))
    },

    /** A used code stays used. @throws GatewayError redemption_not_found, redemption_failed, invalid_parameters */
    setStatus(id: number, status: number): Promise<CodeView> {
      if (status !== CODE_STATUS.unused && status !== CODE_STATUS.disabled) {
        throw new GatewayError('invalid_parameters', { params: { reason: 'body.status: 1 or 2' } })
      }
      return change(id, (before) => {
        if (before.status === CODE_STATUS.used) throw new GatewayError('redemption_failed')
        return { status }
      })
    },

    /** @throws GatewayError redemption_not_found */
    async remove(id: number): Promise<void> {
      await change(id, () => ({ deletedAt: new Date(clock.now()) }))
    },

    /** Deletes what is used, disabled or expired. @returns how many */
    removeInvalid: (): Promise<number> =>
      db.changes(
        db
          .update(redemptions)
          .set({ deletedAt: new Date(clock.now()) })
          .where(
            and(
              isLive,
              or(
                ne(redemptions.status, CODE_STATUS.unused),
                and(ne(redemptions.expiredTime, 0), lt(redemptions.expiredTime, nowSec())),
              ),
            ),
          ),
      ),

    /**
     * Turns a code into balance, once.
     * @returns quota units credited
     * @throws GatewayError redemption_failed, for whatever reason
     */
    async redeem(userId: number, code: string, trail: Trail): Promise<number> {
      const wanted = code.trim()
      if (!CODE.test(wanted)) throw new GatewayError('redemption_failed')
      const account = { kind: 'user', id: userId } as const
      const quota = await db.transaction(async (tx) => {
        const user = await lockUser(tx, userId)
        const rows = await tx.lock(
          tx
            .select()
            .from(redemptions)
            .where(and(eq(redemptions.key, wanted), isLive)),
        )
        const row = rows.find((candidate) => candidate.key?.trimEnd() === wanted)
        const isPast = row?.expiredTime ? row.expiredTime < nowSec() : false
        if (!row || row.status !== CODE_STATUS.unused || isPast) throw new GatewayError('redemption_failed')
        const amount = row.quota ?? 0
        const used = await tx.changes(
          tx
            .update(redemptions)
            .set({ status: CODE_STATUS.used, redeemedTime: nowSec(), usedUserId: userId })
            .where(and(eq(redemptions.id, row.id), eq(redemptions.status, CODE_STATUS.unused))),
        )
        const credited = used === 1 && (await creditBalance(tx, account, amount))
        if (!credited) throw new GatewayError('redemption_failed')
        await creditLog(
          tx,
          {
            type: LOG_TYPE_TOPUP,
            userId,
            username: user.username,
            createdAt: nowSec(),
            content: `redemption code ${row.id}: ${amount}`,
            isStream: false,
            ip: trail.ip,
            requestId: trail.requestId,
            other: JSON.stringify({
              op: { action: 'redemption.redeem', params: { id: row.id, quota: amount } },
              ...(credited === 'saturated' && { admin_info: { is_balance_saturated: true } }),
            }),
          },
          isLogSeparate,
        )
        return amount
      })
      await quotaChanged(bus, account)
      return quota
    },
  }
}
export type Redemptions = ReturnType<typeof createRedemptions>

const codeView = (row: CodeRow) => ({
  id: row.id,
  user_id: row.userId ?? 0,
  key: row.key?.trimEnd() ?? '',
  status: row.status ?? 0,
  name: row.name ?? '',
  quota: row.quota ?? 0,
  created_time: row.createdTime ?? 0,
  redeemed_time: row.redeemedTime ?? 0,
  count: 0,
  used_user_id: row.usedUserId ?? 0,
  DeletedAt: null,
  expired_time: row.expiredTime ?? 0,
})
export type CodeView = ReturnType<typeof codeView>
