/**
 * Money on its way between a balance and an instance, as transactions: take, recall, give back, resync, return what ended
 * instances had. Knows the database only; what an instance may do with its part is memory's (account.ts).
 *
 * Order of locks: users, api keys, allotments, by key within each. The row of an account is the mutex of its allotments.
 */
import { and, asc, eq, exists, gt, gte, inArray, isNull, ne, notInArray, type SQL, sql } from 'drizzle-orm'
import type { MySqlColumn } from 'drizzle-orm/mysql-core'
import { type Db, DbError, together } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import { WORKING_STATES } from '../cluster/index.ts'
import { type AccountKey, compareAccounts, KINDS, type Kind, parseAccount } from './kinds.ts'
import { clampQuota, MAX_QUOTA, quotaOf } from './quota.ts'

/** The row was not as expected: somebody else wrote it, or a commit arrived late. Nothing was changed; resync. */
export class VersionMismatch extends Error {}
/** The instance has ended, or its row is missing: it may move nothing to itself. */
export class InstanceEnded extends Error {}

export interface TakeRequest {
  readonly instanceId: string
  readonly account: AccountKey
  /** of the allotment row as memory knows it; 0 = there is none */
  readonly version: number
  /** less than this does not help */
  readonly need: number
  /** as much as would be convenient; a rich account gives it */
  readonly wish: number
  /** No more than is needed: others have asked for what is parked, a moment ago. */
  readonly isExact: boolean
  /** instances that share the balance, 1 or more */
  readonly instances: number
  /** instance id → number of this caller's recall, from earlier answers `waiting`; without it nobody waits, and nobody is asked */
  readonly recalls: ReadonlyMap<string, number> | undefined
}

export type TakeAnswer =
  | { readonly kind: 'taken'; readonly amount: number; readonly version: number }
  /** Proven: the balance has less than `need`, and everybody else has given back what was free. */
  | { readonly kind: 'insufficient' }
  /** Others may have something: `recalls` are the numbers to wait for, `news` those raised just now. */
  | {
      readonly kind: 'waiting'
      readonly recalls: ReadonlyMap<string, number>
      readonly news: ReadonlyMap<string, number>
    }

/** A newcomer gets enough for so many calls like its first … */
const FIRST_CALLS = 64
/** … but of each instance no more than this part of the balance. */
const FIRST_PART = 64
const NOTHING: TakeAnswer = { kind: 'waiting', recalls: new Map(), news: new Map() }

export interface GiveBackItem {
  readonly account: AccountKey
  readonly version: number
  /** quota units; 0 only answers a recall, or drops the row */
  readonly amount: number
  /** number of a recall that this answers */
  readonly answers?: number
  /** delete the row, if it is at 0 and no recall is open */
  readonly isDrop?: boolean
}

export interface OwnRow {
  readonly account: AccountKey
  readonly amount: number
  readonly version: number
  readonly recalled: number
  readonly answered: number
}

export type Allotments = ReturnType<typeof createAllotments>

/** Accounts per transaction when many are moved together. */
export const CHUNK = 100

export function createAllotments(deps: {
  readonly db: Db
  readonly clock: Clock
  /** A balance is at its limit: what is beyond it is lost. May be told again when a transaction is repeated. */
  readonly onSaturated?: (account: AccountKey) => void
}) {
  const { db, clock, onSaturated = () => {} } = deps
  const { quotaAllotments: rows, ledgerApplied, clusterInstances } = db.tables

  const ofInstance = (instanceId: string, accounts: readonly AccountKey[]): SQL | undefined =>
    and(eq(rows.instanceId, instanceId), inArray(rows.account, [...accounts]))

  /** The other instances' parts of an account; those of ended instances go back to the balance at once. */
  const othersOf = async (tx: Db, instanceId: string, account: AccountKey) => {
    const others = await tx.lock(
      tx
        .select({ instanceId: rows.instanceId, amount: rows.amount, recalled: rows.recalled, answered: rows.answered })
        .from(rows)
        .where(and(eq(rows.account, account), ne(rows.instanceId, instanceId), gt(rows.amount, 0)))
        .orderBy(asc(rows.instanceId)),
    )
    if (others.length === 0) return { others, ended: [], returned: 0 }
    // A plain read is enough: an ended instance stays so.
    const endedIds = await tx
      .select({ id: clusterInstances.id })
      .from(clusterInstances)
      .where(
        and(
          inArray(
            clusterInstances.id,
            others.map((row) => row.instanceId),
          ),
          notInArray(clusterInstances.state, [...WORKING_STATES]),
        ),
      )
    const isEnded = new Set(endedIds.map((row) => row.id))
    const ended = others.filter((row) => isEnded.has(row.instanceId))
    const returned = ended.reduce((sum, row) => clampQuota(sum + quotaOf(row.amount)), 0)
    return { others: others.filter((row) => !isEnded.has(row.instanceId)), ended, returned }
  }

  /** Raises the recall of every other part that has not heard of this caller; notes the numbers. */
  const recall = async (
    tx: Db,
    request: { readonly account: AccountKey; readonly recalls: ReadonlyMap<string, number> },
    others: readonly { readonly instanceId: string; readonly recalled: number; readonly answered: number }[],
  ): Promise<TakeAnswer> => {
    const fresh = others.filter((row) => !request.recalls.has(row.instanceId))
    const recalls = new Map(request.recalls)
    const news = new Map(fresh.map((row) => [row.instanceId, row.recalled + 1]))
    for (const [instanceId, number] of news) recalls.set(instanceId, number)
    if (fresh.length > 0)
      await tx
        .update(rows)
        .set({ recalled: sql`${rows.recalled} + 1` })
        .where(and(eq(rows.account, request.account), inArray(rows.instanceId, [...news.keys()])))
    const isProven = others.every((row) => row.answered >= (recalls.get(row.instanceId) ?? Infinity))
    return isProven ? { kind: 'insufficient' } : { kind: 'waiting', recalls, news }
  }

  const grow = async (tx: Db, instanceId: string, account: AccountKey, version: number, amount: number) => {
    const updatedAtMs = clock.now()
    if (version === 0)
      return void (await tx.insert(rows).values({ instanceId, account, amount, version: 1, updatedAtMs }))
    const grown = await tx.changes(
      tx
        .update(rows)
        .set({ amount: sql`${rows.amount} + ${amount}`, version: version + 1, updatedAtMs })
        .where(and(eq(rows.instanceId, instanceId), eq(rows.account, account), eq(rows.version, version))),
    )
    if (grown !== 1) throw new VersionMismatch(account)
  }

  const takeIn = async (tx: Db, request: TakeRequest): Promise<TakeAnswer> => {
    const { instanceId, account, version, need, wish } = request
    const { kind, id } = known(account)
    const table = kind.table(tx.tables)
    const isTheAccount = and(eq(kind.id(tx.tables), id), isNull(kind.deletedAt(tx.tables)))
    const [row] = await tx.lock(
      tx
        .select({ balance: kind.balance(tx.tables) })
        .from(table)
        .where(isTheAccount),
    )
    // A deleted account has nothing, here or elsewhere.
    if (!row) return { kind: 'insufficient' }
    let balance = quotaOf(row.balance)

    if (balance < need) {
      const { recalls } = request
      if (!recalls) return NOTHING
      const { others, ended, returned } = await othersOf(tx, instanceId, account)
      if (returned > 0) {
        balance = clampQuota(balance + returned)
        if (balance >= MAX_QUOTA) onSaturated(account)
        await tx
          .update(table)
          .set({ [kind.field]: balance })
          .where(isTheAccount)
        await tx.delete(rows).where(
          and(
            eq(rows.account, account),
            inArray(
              rows.instanceId,
              ended.map((other) => other.instanceId),
            ),
          ),
        )
      }
      if (balance < need) return recall(tx, { account, recalls }, others)
    }

    const share = (part: number): number => Math.floor(balance / (part * Math.max(1, request.instances)))
    // A rich account gives a newcomer enough for some calls, before anybody knows how many there will be.
    const amount = request.isExact
      ? need
      : Math.max(need, Math.min(wish, share(2)), Math.min(need * FIRST_CALLS, share(FIRST_PART)))
    // The sub-select locks the instance's row (shared), so that no end can slip between this and the commit. It comes after
    // the account's row: an instance's state is only ever written alone, so the order cannot lock up.
    const isWorking = exists(
      tx
        .select({ one: sql`1` })
        .from(clusterInstances)
        .where(and(eq(clusterInstances.id, instanceId), inArray(clusterInstances.state, [...WORKING_STATES]))),
    )
    // Both at once: what one of them refuses undoes the other.
    const [paid] = await together(
      () =>
        tx.changes(
          tx
            .update(table)
            .set({ [kind.field]: balance - amount })
            .where(and(isTheAccount, gte(kind.balance(tx.tables), amount), isWorking)),
        ),
      () => grow(tx, instanceId, account, version, amount),
    ).catch((error: unknown) => {
      throw isDuplicate(error) ? new VersionMismatch(account) : error
    })
    if (paid !== 1) throw new InstanceEnded(instanceId)
    return { kind: 'taken', amount, version: version + 1 }
  }

  /** @returns the accounts whose rows were as expected; the others were left alone */
  const giveBackIn = async (tx: Db, instanceId: string, items: readonly GiveBackItem[]) => {
    const balances = await lockBalances(
      tx,
      items.map((item) => item.account),
    )
    const found = new Map(
      (
        await tx.lock(
          tx
            .select()
            .from(rows)
            .where(
              ofInstance(
                instanceId,
                items.map((item) => item.account),
              ),
            )
            .orderBy(asc(rows.account)),
        )
      ).map((row) => [row.account, row]),
    )
    const good = items.filter((item) => {
      const row = found.get(item.account)
      return row !== undefined && row.version === item.version && quotaOf(row.amount) >= item.amount
    })
    const moved = good.filter((item) => item.amount > 0)
    await addToBalances(tx, balances, new Map(moved.map((item) => [item.account, item.amount])), onSaturated)
    const dropped = good.filter((item) => {
      const row = found.get(item.account)!
      return item.isDrop && row.amount === 0 && row.recalled === row.answered
    })
    if (dropped.length > 0)
      await tx.delete(rows).where(
        ofInstance(
          instanceId,
          dropped.map((item) => item.account),
        ),
      )
    const kept = good.filter((item) => !item.isDrop)
    if (kept.length > 0) {
      const column = (of: (item: GiveBackItem) => number): SQL =>
        byKey(
          rows.account,
          kept.map((item) => [item.account, of(item)] as const),
        )
      await tx
        .update(rows)
        .set({
          amount: sql`${rows.amount} - ${column((item) => item.amount)}`,
          version: sql`${rows.version} + 1`,
          // Never past what was asked: a message may be older than the row.
          answered: column((item) => {
            const row = found.get(item.account)!
            return Math.max(row.answered, Math.min(row.recalled, item.answers ?? 0))
          }),
          updatedAtMs: clock.now(),
        })
        .where(
          ofInstance(
            instanceId,
            kept.map((item) => item.account),
          ),
        )
    }
    return { done: new Set([...kept, ...dropped].map((item) => item.account)) }
  }

  /** @returns quota units that went back */
  const returnIn = async (tx: Db, instanceId: string, accounts: readonly AccountKey[]): Promise<number> => {
    const balances = await lockBalances(tx, accounts)
    const isThese = ofInstance(instanceId, accounts)
    const parts = await tx.lock(
      tx.select({ account: rows.account, amount: rows.amount }).from(rows).where(isThese).orderBy(asc(rows.account)),
    )
    const amounts = new Map(parts.map((row) => [row.account, quotaOf(row.amount)]))
    await addToBalances(tx, balances, amounts, onSaturated)
    await tx.delete(rows).where(isThese)
    return parts.reduce((sum, row) => clampQuota(sum + quotaOf(row.amount)), 0)
  }

  return {
    /**
     * Moves money from the balance to the instance, or asks the others for theirs, or proves that there is none.
     * @throws VersionMismatch, InstanceEnded (nothing was changed), DbError
     */
    take: (request: TakeRequest): Promise<TakeAnswer> => db.transaction((tx) => takeIn(tx, request)),

    /**
     * Gives parts back to their balances, answers recalls, drops rows. @param items of different accounts
     * @returns the accounts that were changed as asked (their version rose by one, or the row is gone)
     */
    giveBack: (
      instanceId: string,
      items: readonly GiveBackItem[],
    ): Promise<{ readonly done: ReadonlySet<AccountKey> }> => db.transaction((tx) => giveBackIn(tx, instanceId, items)),

    /** Raises the version, so that no late commit counts, and reads what is true. @returns version 0: there is no row */
    resync: (instanceId: string, account: AccountKey) =>
      db.transaction(async (tx) => {
        const [applied] = await tx.lock(
          tx
            .select({ seq: ledgerApplied.seq })
            .from(ledgerApplied)
            .where(and(eq(ledgerApplied.instanceId, instanceId), eq(ledgerApplied.part, 'main'))),
        )
        await lockBalances(tx, [account])
        const isRow = ofInstance(instanceId, [account])
        const [row] = await tx.lock(tx.select().from(rows).where(isRow))
        if (row)
          await tx
            .update(rows)
            .set({ version: row.version + 1 })
            .where(isRow)
        return { seq: applied?.seq ?? 0, amount: quotaOf(row?.amount), version: row ? row.version + 1 : 0 }
      }),

    own: (instanceId: string): Promise<readonly OwnRow[]> =>
      db
        .select({
          account: rows.account,
          amount: rows.amount,
          version: rows.version,
          recalled: rows.recalled,
          answered: rows.answered,
        })
        .from(rows)
        .where(eq(rows.instanceId, instanceId)),

    /** Own rows with a recall that is not answered. @returns account → number of the recall */
    recalled: async (instanceId: string): Promise<ReadonlyMap<AccountKey, number>> => {
      const open = await db
        .select({ account: rows.account, recalled: rows.recalled })
        .from(rows)
        .where(and(eq(rows.instanceId, instanceId), gt(rows.recalled, rows.answered)))
      return new Map(open.map((row) => [row.account, row.recalled]))
    },

    /** Returns every row of an instance that can write no more: it has ended, and its charges are flushed. */
    async returnAll(instanceId: string): Promise<number> {
      let total = 0
      for (;;) {
        const some = await db
          .select({ account: rows.account })
          .from(rows)
          .where(eq(rows.instanceId, instanceId))
          .orderBy(asc(rows.account))
          .limit(CHUNK)
        if (some.length === 0) return total
        const accounts = some.map((row) => row.account)
        total = clampQuota(total + (await db.transaction((tx) => returnIn(tx, instanceId, accounts))))
      }
    },

    /** Returns one row of an instance that has ended; also while it still flushes. @returns quota units; 0: it is gone */
    returnOne: (instanceId: string, account: AccountKey): Promise<number> =>
      db.transaction((tx) => returnIn(tx, instanceId, [account])),

    /** Ids of all instances that have rows. */
    async holders(): Promise<readonly string[]> {
      const found = await db.selectDistinct({ instanceId: rows.instanceId }).from(rows)
      return found.map((row) => row.instanceId)
    },
  }
}

const known = (account: AccountKey): { readonly kind: Kind; readonly id: number } => {
  const parsed = parseAccount(account)
  if (!parsed) throw new TypeError(`not an account: ${account}`)
  return parsed
}

/** From here on a `case` is written out: thousands of parameters cost more than a statement that is prepared anew. */
const FEW = 8

/** `case column when key then value … end`: one statement for many rows. `entries` must not be empty. */
export function byKey(
  column: MySqlColumn,
  entries: readonly (readonly [key: string | number, value: number])[],
  otherwise: SQL = sql.raw('0'),
): SQL {
  const isPlain = entries.length > FEW && entries.every((entry) => entry.every(Number.isSafeInteger))
  const branches = isPlain
    ? sql.raw(entries.map(([key, value]) => `when ${key} then ${value}`).join(' '))
    : sql.join(
        entries.map(([key, value]) => sql`when ${key} then ${value}`),
        sql.raw(' '),
      )
  return sql`case ${column} ${branches} else ${otherwise} end`
}

/** Locks the rows of accounts in the order of locks. @returns balances; accounts that are gone are missing */
async function lockBalances(tx: Db, accounts: readonly AccountKey[]): Promise<ReadonlyMap<AccountKey, number>> {
  const balances = new Map<AccountKey, number>()
  for (const kind of KINDS) {
    const ids = accounts.flatMap((account) => {
      const parsed = parseAccount(account)
      return parsed?.kind === kind ? [parsed.id] : []
    })
    if (ids.length === 0) continue
    const found = await tx.lock(
      tx
        .select({ id: kind.id(tx.tables), balance: kind.balance(tx.tables) })
        .from(kind.table(tx.tables))
        .where(inArray(kind.id(tx.tables), ids))
        .orderBy(asc(kind.id(tx.tables))),
    )
    for (const row of found) balances.set(`${kind.letter}:${row.id}`, quotaOf(row.balance))
  }
  return balances
}

/** @param balances as locked; @param amounts to add; accounts that are gone take nothing */
async function addToBalances(
  tx: Db,
  balances: ReadonlyMap<AccountKey, number>,
  amounts: ReadonlyMap<AccountKey, number>,
  onSaturated: (account: AccountKey) => void,
): Promise<void> {
  for (const kind of KINDS) {
    const entries = [...amounts]
      .filter(([account, amount]) => amount !== 0 && balances.has(account) && parseAccount(account)?.kind === kind)
      .sort(([a], [b]) => compareAccounts(a, b))
      .map(([account, amount]) => {
        const sum = clampQuota(balances.get(account)! + amount)
        if (sum >= MAX_QUOTA) onSaturated(account)
        return [parseAccount(account)!.id, sum] as const
      })
    if (entries.length === 0) continue
    const id = kind.id(tx.tables)
    await tx
      .update(kind.table(tx.tables))
      .set({ [kind.field]: byKey(id, entries) })
      .where(
        inArray(
          id,
          entries.map(([key]) => key),
        ),
      )
  }
}

const isDuplicate = (error: unknown): boolean => error instanceof DbError && error.kind === 'duplicate'
