/**
 * The verbs that move a balance outside of calls: credits, edits, deletions, and what people see. Each runs inside the
 * caller's transaction, together with the state change that makes it happen once; publish `quotaChanged` after the commit.
 */
import { and, eq, gt, inArray, isNull, sql } from 'drizzle-orm'
import { alias } from 'drizzle-orm/mysql-core'
import type { Db } from '../../db/index.ts'
import type { State } from '../../state/index.ts'
import { type AccountRef, accountKey, type KindName, kindOf } from './kinds.ts'
import { clampQuota, MAX_QUOTA, quotaOf } from './quota.ts'

/** Topic of the bus: this account's money changed other than by calls. A hint; may be lost, late or doubled. */
export const QUOTA_CHANGED = 'quota.changed'

/** Api key status: what people see of a key without money. Authentication passes both. */
export const API_KEY_STATUS = { enabled: 1, exhausted: 4 } as const

/** Tells every instance, after the commit: a refusal that was proved before may no longer hold. */
export const quotaChanged = (bus: State, account: AccountRef): Promise<void> =>
  bus.publish(QUOTA_CHANGED, JSON.stringify({ account: accountKey(account) }))

/**
 * Adds to a balance (or subtracts, with a negative amount). Relative: it never undoes spending.
 * @param amount quota units, an integer
 * @returns false when the account is gone; nothing was changed then. `saturated` when the balance is at its limit and
 * what is beyond it is lost: say so in the log row
 */
export async function creditBalance(
  tx: Db,
  account: AccountRef,
  amount: number,
): Promise<false | 'credited' | 'saturated'> {
  const row = await lockBalance(tx, account)
  if (!row) return false
  const balance = clampQuota(row.balance + clampQuota(amount))
  await writeBalance(tx, account, balance, await sumAllotments(tx, account))
  return Math.abs(balance) >= MAX_QUOTA ? 'saturated' : 'credited'
}

/**
 * Makes what people see of an account `x`: charges that are not yet flushed count after it.
 * Also for a key that becomes limited: calls admitted before do not count.
 * @returns false when the account is gone
 */
export async function setBalance(tx: Db, account: AccountRef, x: number): Promise<boolean> {
  if (!(await lockBalance(tx, account))) return false
  const parked = await sumAllotments(tx, account)
  await writeBalance(tx, account, clampQuota(clampQuota(x) - parked), parked)
  return true
}

/**
 * What people see: balance + Σ allotments, read as of one moment.
 * @returns by id; deleted accounts included, absent ones missing
 */
export async function readBalances(db: Db, kind: KindName, ids: readonly number[]): Promise<Map<number, number>> {
  const balances = new Map<number, number>()
  if (ids.length === 0) return balances
  const { table, id, balance, letter } = kindOf(kind)
  const parked = alias(db.tables.quotaAllotments, 'parked')
  const t = db.tables
  const rows = await db
    .select({ id: id(t), balance: balance(t), parked: sql<unknown>`coalesce(sum(${parked.amount}), 0)` })
    .from(table(t))
    .leftJoin(parked, eq(parked.account, sql`concat(${`${letter}:`}, ${id(t)})`))
    .where(inArray(id(t), [...ids]))
    .groupBy(id(t), balance(t))
  for (const row of rows) balances.set(Number(row.id), clampQuota(quotaOf(row.balance) + quotaOf(row.parked)))
  return balances
}

/** Deletes what instances have parked of a user or key that is being deleted; its money goes with it. */
export async function dropAllotments(tx: Db, account: AccountRef): Promise<void> {
  await lockBalance(tx, account)
  const { quotaAllotments } = tx.tables
  await tx.delete(quotaAllotments).where(eq(quotaAllotments.account, accountKey(account)))
}

/** A row of `logs` that tells of a credit, an edit or a refund. */
export type CreditLogRow = Omit<Db['tables']['logs']['$inferInsert'], 'id'>

/**
 * Writes the log row of a credit in the transaction of the credit. With a log database of its own it is queued, and
 * `deliverCreditLogs` brings it there once.
 * @param row.other a JSON object as text, or empty
 * @param isLogSeparate whether log rows live in another database than `tx`
 */
export async function creditLog(tx: Db, row: CreditLogRow, isLogSeparate = false): Promise<void> {
  const full = { ...row, requestId: row.requestId || crypto.randomUUID() }
  const { logs, ledgerLogQueue } = tx.tables
  if (!isLogSeparate) {
    await tx.insert(logs).values(full)
    return
  }
  // One request may write several rows, so the id that tells whether a row has arrived is its own.
  const creditId = crypto.randomUUID()
  const details = row.other ? (JSON.parse(row.other) as Readonly<Record<string, unknown>>) : {}
  const queued = { ...full, other: JSON.stringify({ ...details, credit_id: creditId }) }
  await tx.insert(ledgerLogQueue).values({ requestId: creditId, row: JSON.stringify(queued), createdAtMs: Date.now() })
}

/** Locks the row of an account: the mutex of its balance and of all its allotments. Deleted users keep theirs. */
async function lockBalance(tx: Db, { kind, id }: AccountRef): Promise<{ readonly balance: number } | undefined> {
  const k = kindOf(kind)
  const [row] = await tx.lock(
    tx
      .select({ balance: k.balance(tx.tables) })
      .from(k.table(tx.tables))
      .where(eq(k.id(tx.tables), id)),
  )
  return row && { balance: quotaOf(row.balance) }
}

/** Under the account's lock nobody changes its allotments, so the sum stays true until the commit. */
async function sumAllotments(tx: Db, account: AccountRef): Promise<number> {
  const { quotaAllotments } = tx.tables
  const rows = await tx.lock(
    tx
      .select({ amount: quotaAllotments.amount })
      .from(quotaAllotments)
      .where(eq(quotaAllotments.account, accountKey(account))),
  )
  return rows.reduce((sum, row) => clampQuota(sum + quotaOf(row.amount)), 0)
}

async function writeBalance(tx: Db, account: AccountRef, balance: number, parked: number): Promise<void> {
  const kind = kindOf(account.kind)
  await tx
    .update(kind.table(tx.tables))
    .set({ [kind.field]: balance })
    .where(eq(kind.id(tx.tables), account.id))
  if (balance < 0 && parked > 0) await recallAll(tx, accountKey(account))
  if (account.kind === 'api-key' && balance + parked > 0) await reviveApiKey(tx, account.id)
}

/** Asks every instance to give back what is free of this account: its balance is below zero. */
export async function recallAll(tx: Db, account: string): Promise<void> {
  const { quotaAllotments } = tx.tables
  await tx
    .update(quotaAllotments)
    .set({ recalled: sql`${quotaAllotments.recalled} + 1` })
    .where(and(eq(quotaAllotments.account, account), gt(quotaAllotments.amount, 0)))
}

async function reviveApiKey(tx: Db, id: number): Promise<void> {
  const { tokens } = tx.tables
  await tx
    .update(tokens)
    .set({ status: API_KEY_STATUS.enabled })
    .where(and(eq(tokens.id, id), eq(tokens.status, API_KEY_STATUS.exhausted), isNull(tokens.deletedAt)))
}
