/**
 * Charges into the databases, as transactions: a batch of one instance's charges in order, all or nothing, guarded by the
 * number of the last one applied. Knows nothing of outboxes, loops or memory.
 *
 * Order of locks: ledger_applied, users, api keys, allotments, quota_data, channels; by key within each.
 */
import { and, asc, eq, inArray, isNull, type SQL, sql } from 'drizzle-orm'
import type { MySqlColumn } from 'drizzle-orm/mysql-core'
import { type Db, together } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import { byKey } from './allotments.ts'
import { API_KEY_STATUS, recallAll } from './balances.ts'
import { asciiCharge, type Charge, logRowOf } from './charge.ts'
import { type AccountKey, apiKeyAccount, compareAccounts, parseAccount, userAccount } from './kinds.ts'
import type { Mark, Part } from './outbox.ts'
import { clampQuota, MAX_QUOTA, quotaOf } from './quota.ts'
import type { LocatedUsage } from './usage-rows.ts'

export interface Batch {
  readonly instanceId: string
  /** where the database should be */
  readonly from: Mark
  /** number and request id of the last charge in it */
  readonly to: Mark
  readonly charges: readonly Charge[]
}

/** What to do about a charge whose texts the database refuses: it stands alone then. */
export interface Refusal {
  readonly charge: Charge
  readonly error: string
}

export type Applied =
  | {
      readonly kind: 'applied'
      /** what the allotment rows paid, by account */
      readonly paid: ReadonlyMap<AccountKey, number>
      /** what each account was charged, deleted ones included */
      readonly charged: ReadonlyMap<AccountKey, number>
      /** accounts whose balance or counter went beyond what is exact and stays at the largest such number */
      readonly saturated: readonly AccountKey[]
    }
  /** The database is elsewhere; nothing was applied. */
  | { readonly kind: 'elsewhere'; readonly at: Mark }

/** A transaction that takes longer is given up, ms: its batch was too large for this database. */
export const APPLY_DEADLINE_MS = 5_000
const DEADLINE = { deadlineMs: APPLY_DEADLINE_MS } as const
/** Rows of an update, so that a `case` stays short. */
const UPDATE_ROWS = 100
/** Rows of an insert: to make its text takes about a millisecond, and calls have their turn between two of them. */
const INSERT_ROWS = 100

const chunksOf = <T>(entries: readonly T[], size: number): T[][] =>
  Array.from({ length: Math.ceil(entries.length / size) }, (_, n) => entries.slice(n * size, (n + 1) * size))

async function inChunks<T>(entries: readonly T[], work: (some: readonly T[]) => Promise<unknown>): Promise<void> {
  for (const some of chunksOf(entries, UPDATE_ROWS)) await work(some)
}

/** @returns where the database is with an instance's charges, locked in a transaction */
async function lockMark(tx: Db, instanceId: string, part: Part): Promise<Mark & { readonly isThere: boolean }> {
  const { ledgerApplied } = tx.tables
  const [row] = await tx.lock(
    tx
      .select({ seq: ledgerApplied.seq, last: ledgerApplied.last })
      .from(ledgerApplied)
      .where(and(eq(ledgerApplied.instanceId, instanceId), eq(ledgerApplied.part, part))),
  )
  return row ? { ...row, isThere: true } : { seq: 0, last: '', isThere: false }
}

const fits = (at: Mark, from: Mark): boolean => at.seq === from.seq && (from.last === '' || at.last === from.last)

async function advance(tx: Db, clock: Clock, batch: Batch, part: Part, isThere: boolean): Promise<void> {
  const { ledgerApplied } = tx.tables
  const set = { seq: batch.to.seq, last: batch.to.last, appliedAtMs: clock.now() }
  if (!isThere) return void (await tx.insert(ledgerApplied).values({ instanceId: batch.instanceId, part, ...set }))
  await tx
    .update(ledgerApplied)
    .set(set)
    .where(and(eq(ledgerApplied.instanceId, batch.instanceId), eq(ledgerApplied.part, part)))
}

async function quarantine(tx: Db, clock: Clock, part: Part, { charge, error }: Refusal): Promise<void> {
  await tx.insert(tx.tables.ledgerQuarantine).values({
    requestId: charge.requestId,
    part,
    charge: asciiCharge(charge),
    error: error.replace(/[^\x20-\x7e]/g, '?').slice(0, 4_000),
    createdAtMs: clock.now(),
  })
}

/**
 * The money and the counters of a batch, and its hourly usage.
 * @param usage what quota_data gains
 * @throws DbError; `content` when a text was refused
 */
export function applyMain(
  db: Db,
  clock: Clock,
  batch: Batch,
  usage: LocatedUsage,
  refusal?: Refusal,
): Promise<Applied> {
  return db.transaction(async (tx): Promise<Applied> => {
    const at = await lockMark(tx, batch.instanceId, 'main')
    if (!fits(at, batch.from)) return { kind: 'elsewhere', at }
    const sums = sumUp(batch.charges)
    const { paid, saturated, below, write } = await pay(tx, clock, batch.instanceId, sums)
    // Everything is locked, so all of it is written at once; the counters below are taken in this order.
    await together(
      () => raiseUsage(tx, usage),
      () => raiseChannels(tx, sums.channels),
      () => advance(tx, clock, batch, 'main', at.isThere),
      write,
      () => refusal && quarantine(tx, clock, 'main', refusal),
    )
    for (const account of below) await recallAll(tx, account)
    return { kind: 'applied', paid, charged: sums.accounts, saturated }
  }, DEADLINE)
}

/** The log rows of a batch. @param clean applied to their texts. @throws DbError; `content` when a text was refused */
export function applyLog(
  logDb: Db,
  clock: Clock,
  batch: Batch,
  clean: (text: string) => string,
  refusal?: Refusal,
): Promise<Applied> {
  return logDb.transaction(async (tx): Promise<Applied> => {
    const at = await lockMark(tx, batch.instanceId, 'log')
    if (!fits(at, batch.from)) return { kind: 'elsewhere', at }
    await together(
      () => advance(tx, clock, batch, 'log', at.isThere),
      () => refusal && quarantine(tx, clock, 'log', refusal),
    )
    const logged = refusal ? [] : batch.charges.filter((charge) => charge.isLogged !== false)
    for (const some of chunksOf(logged, INSERT_ROWS))
      await tx.insert(tx.tables.logs).values(some.map((charge) => logRowOf(charge, clean)))
    return { kind: 'applied', paid: new Map(), charged: new Map(), saturated: [] }
  }, DEADLINE)
}

/** @returns where the database is with the charges of instances; those of which it has none are missing */
export async function readMarks(db: Db, ids: readonly string[], part: Part): Promise<ReadonlyMap<string, Mark>> {
  const { ledgerApplied } = db.tables
  if (ids.length === 0) return new Map()
  const rows = await db
    .select({ id: ledgerApplied.instanceId, seq: ledgerApplied.seq, last: ledgerApplied.last })
    .from(ledgerApplied)
    .where(and(inArray(ledgerApplied.instanceId, [...ids]), eq(ledgerApplied.part, part)))
  return new Map(rows.map(({ id, seq, last }) => [id, { seq, last }]))
}

/**
 * The same, for certain: by a write, which a server of a cluster that lags behind the others does not get committed.
 * Before anything is concluded from a database that seems to have gone back.
 */
export const confirmMark = (db: Db, clock: Clock, instanceId: string, part: Part): Promise<Mark> =>
  db.transaction(async (tx) => {
    const { isThere, ...at } = await lockMark(tx, instanceId, part)
    await advance(tx, clock, { instanceId, from: at, to: at, charges: [] }, part, isThere)
    return at
  })

/** Says that the database is where we know it to be, after it has forgotten (a new log database). */
export const restoreMark = (db: Db, clock: Clock, instanceId: string, part: Part, mark: Mark): Promise<void> =>
  db.transaction(async (tx) => {
    const at = await lockMark(tx, instanceId, part)
    if (at.seq >= mark.seq) return
    await advance(tx, clock, { instanceId, from: at, to: mark, charges: [] }, part, at.isThere)
  })

interface Counters {
  used: number
  requests: number
  accessedSec: number
}

interface Sums {
  readonly accounts: ReadonlyMap<AccountKey, number>
  readonly users: ReadonlyMap<number, Counters>
  readonly apiKeys: ReadonlyMap<number, Counters>
  readonly channels: ReadonlyMap<number, number>
}

function sumUp(charges: readonly Charge[]): Sums {
  const accounts = new Map<AccountKey, number>()
  const users = new Map<number, Counters>()
  const apiKeys = new Map<number, Counters>()
  const channels = new Map<number, number>()
  const count = (map: Map<number, Counters>, id: number, charge: Charge): void => {
    const sum = map.get(id) ?? { used: 0, requests: 0, accessedSec: 0 }
    sum.used = clampQuota(sum.used + charge.quota)
    sum.requests++
    sum.accessedSec = Math.max(sum.accessedSec, charge.createdAtSec)
    map.set(id, sum)
  }
  for (const charge of charges) {
    for (const account of charge.accounts)
      accounts.set(account, clampQuota((accounts.get(account) ?? 0) + charge.quota))
    if (!charge.isCounted) continue
    count(users, charge.userId, charge)
    if (charge.apiKeyId > 0) count(apiKeys, charge.apiKeyId, charge)
    if (charge.channelId > 0)
      channels.set(charge.channelId, clampQuota((channels.get(charge.channelId) ?? 0) + charge.quota))
  }
  return { accounts, users, apiKeys, channels }
}

/** Each account pays from its allotment row what is there, the rest from its balance. Deleted ones are skipped. */
async function pay(tx: Db, clock: Clock, instanceId: string, sums: Sums) {
  const { users, tokens, quotaAllotments: rows } = tx.tables
  const payers = [...sums.accounts.keys()].sort(compareAccounts)
  const idsOf = (letter: string, counted: Iterable<number>): number[] => [
    ...new Set([
      ...payers.filter((key) => key.startsWith(`${letter}:`)).map((key) => parseAccount(key)!.id),
      ...counted,
    ]),
  ]
  const userIds = idsOf('u', sums.users.keys())
  const apiKeyIds = idsOf('t', sums.apiKeys.keys())
  const lockUsers = async () =>
    userIds.length === 0
      ? []
      : tx.lock(
          tx
            .select({ id: users.id, balance: users.quota, used: users.usedQuota, requests: users.requestCount })
            .from(users)
            .where(and(inArray(users.id, userIds), isNull(users.deletedAt)))
            .orderBy(asc(users.id)),
        )
  const lockKeys = async () =>
    apiKeyIds.length === 0
      ? []
      : tx.lock(
          tx
            .select({
              id: tokens.id,
              balance: tokens.remainQuota,
              used: tokens.usedQuota,
              accessedTime: tokens.accessedTime,
              status: tokens.status,
              isUnlimited: tokens.unlimitedQuota,
            })
            .from(tokens)
            .where(and(inArray(tokens.id, apiKeyIds), isNull(tokens.deletedAt)))
            .orderBy(asc(tokens.id)),
        )
  const [lockedUsers, lockedKeys, parts] = await together(lockUsers, lockKeys, () => lockParts(tx, payers))
  const balances = new Map<AccountKey, number>([
    ...lockedUsers.map((row) => [userAccount(row.id), quotaOf(row.balance)] as const),
    ...lockedKeys.map((row) => [apiKeyAccount(row.id), quotaOf(row.balance)] as const),
  ])

  const charged = payers.filter((account) => (sums.accounts.get(account) ?? 0) > 0 && balances.has(account))
  const isCharged = new Set(charged)
  const paid = new Map<AccountKey, number>()
  const parkedAfter = new Map<AccountKey, number>()
  for (const part of parts) {
    if (!isCharged.has(part.account)) continue
    const due = part.instanceId === instanceId ? Math.min(part.amount, sums.accounts.get(part.account) ?? 0) : 0
    if (due > 0) paid.set(part.account, due)
    parkedAfter.set(part.account, clampQuota((parkedAfter.get(part.account) ?? 0) + part.amount - due))
  }
  const below: AccountKey[] = []
  const saturated = new Set<AccountKey>()
  const plus = (account: AccountKey, before: number | null, more: number | undefined): number | undefined => {
    if (!more) return undefined
    const sum = clampQuota(quotaOf(before) + more)
    if (sum >= MAX_QUOTA) saturated.add(account)
    return sum
  }
  for (const account of charged) {
    const rest = (sums.accounts.get(account) ?? 0) - (paid.get(account) ?? 0)
    if (rest <= 0) continue
    const after = clampQuota(balances.get(account)! - rest)
    if (Math.abs(after) >= MAX_QUOTA) saturated.add(account)
    balances.set(account, after)
    if (after < 0) below.push(account)
  }

  // The rows are locked, so what was read plus what is added is what they become.
  const changed = new Set(charged.filter((account) => (sums.accounts.get(account) ?? 0) > (paid.get(account) ?? 0)))
  const writeUsers = () =>
    inChunks(lockedUsers, async (some) => {
      const set = {
        quota: patch(users.id, users.quota, some, ({ id }) =>
          onlyIf(changed.has(userAccount(id)), balances.get(userAccount(id))),
        ),
        usedQuota: patch(users.id, users.usedQuota, some, ({ id, used }) =>
          plus(userAccount(id), used, sums.users.get(id)?.used),
        ),
        requestCount: patch(users.id, users.requestCount, some, ({ id, requests }) =>
          plus(userAccount(id), requests, sums.users.get(id)?.requests),
        ),
      }
      if (isSomething(set))
        await tx
          .update(users)
          .set(set)
          .where(
            inArray(
              users.id,
              some.map(({ id }) => id),
            ),
          )
    })
  const writeKeys = () =>
    inChunks(lockedKeys, async (some) => {
      const isExhausted = ({ id, isUnlimited, status }: (typeof some)[number]): boolean => {
        const key = apiKeyAccount(id)
        const left = clampQuota(balances.get(key)! + (parkedAfter.get(key) ?? 0))
        return !isUnlimited && status === API_KEY_STATUS.enabled && isCharged.has(key) && left <= 0
      }
      const set = {
        remainQuota: patch(tokens.id, tokens.remainQuota, some, ({ id }) =>
          onlyIf(changed.has(apiKeyAccount(id)), balances.get(apiKeyAccount(id))),
        ),
        usedQuota: patch(tokens.id, tokens.usedQuota, some, ({ id, used }) =>
          plus(apiKeyAccount(id), used, sums.apiKeys.get(id)?.used),
        ),
        accessedTime: patch(tokens.id, tokens.accessedTime, some, ({ id, accessedTime }) => {
          const time = sums.apiKeys.get(id)?.accessedSec ?? 0
          return onlyIf(time > (accessedTime ?? 0), time)
        }),
        status: patch(tokens.id, tokens.status, some, (row) => onlyIf(isExhausted(row), API_KEY_STATUS.exhausted)),
      }
      if (isSomething(set))
        await tx
          .update(tokens)
          .set(set)
          .where(
            inArray(
              tokens.id,
              some.map(({ id }) => id),
            ),
          )
    })
  const writeParts = () =>
    inChunks(
      [...paid].sort(([a], [b]) => (a < b ? -1 : 1)),
      (some) =>
        tx
          .update(rows)
          .set({ amount: sql`${rows.amount} - ${byKey(rows.account, some)}`, updatedAtMs: clock.now() })
          .where(
            and(
              eq(rows.instanceId, instanceId),
              inArray(
                rows.account,
                some.map(([account]) => account),
              ),
            ),
          ),
    )
  const write = () => together(writeUsers, writeKeys, writeParts)
  return { paid, saturated: [...saturated], below, write }
}

/** All parts of accounts, of every instance: under the accounts' locks nobody else changes them. */
async function lockParts(tx: Db, accounts: readonly AccountKey[]) {
  if (accounts.length === 0) return []
  const { quotaAllotments: rows } = tx.tables
  const found = await tx.lock(
    tx
      .select({ instanceId: rows.instanceId, account: rows.account, amount: rows.amount })
      .from(rows)
      .where(inArray(rows.account, [...accounts]))
      .orderBy(asc(rows.account), asc(rows.instanceId)),
  )
  return found.map((row) => ({ ...row, amount: quotaOf(row.amount) }))
}

type Entries = readonly (readonly [id: number, n: number])[]

/** Without a stop: for the sums of an hour, which come nowhere near it. */
const added = (column: MySqlColumn, id: MySqlColumn, entries: Entries): SQL =>
  sql`coalesce(${column}, 0) + ${byKey(id, entries)}`

/** A counter plus what is added to it, stopping at the largest number that is exact. */
const raised = (column: MySqlColumn, id: MySqlColumn, entries: Entries): SQL => {
  const sum = added(column, id, entries)
  return sql`case when ${sum} > ${MAX_QUOTA} then ${MAX_QUOTA} else ${sum} end`
}

const onlyIf = (is: boolean, value: number | undefined): number | undefined => (is ? value : undefined)

/** A column of many rows: what `of` gives becomes its value, the others stay. @returns undefined when all stay */
function patch<T extends { readonly id: number }>(
  id: MySqlColumn,
  column: MySqlColumn,
  rows: readonly T[],
  of: (row: T) => number | undefined,
): SQL | undefined {
  const entries: [number, number][] = []
  for (const row of rows) {
    const value = of(row)
    if (value !== undefined) entries.push([row.id, value])
  }
  return entries.length > 0 ? byKey(id, entries, sql`${column}`) : undefined
}

const isSomething = (set: Readonly<Record<string, unknown>>): boolean =>
  Object.values(set).some((value) => value !== undefined)

/** A row that a clean-up was faster to remove begins anew under its id, so what is remembered of ids stays true. */
async function raiseUsage(tx: Db, { known, fresh }: LocatedUsage): Promise<void> {
  const { quotaData } = tx.tables
  const { count, quota, tokenUsed } = quotaData
  await together(
    ...chunksOf(known, INSERT_ROWS).map((some) => () => tx.addUp(quotaData, some, [count, quota, tokenUsed])),
    ...chunksOf(fresh, INSERT_ROWS).map((some) => () => tx.insert(quotaData).values(some)),
  )
}

async function raiseChannels(tx: Db, channels: ReadonlyMap<number, number>): Promise<void> {
  const { channels: table } = tx.tables
  const entries = [...channels].filter(([, quota]) => quota > 0).sort(([a], [b]) => a - b)
  await inChunks(entries, (some) =>
    tx
      .update(table)
      .set({ usedQuota: raised(table.usedQuota, table.id, some) })
      .where(
        inArray(
          table.id,
          some.map(([id]) => id),
        ),
      ),
  )
}
