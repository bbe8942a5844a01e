/**
 * The pass that keeps an instance's rows and its memory alike and gives back what is not needed: every few seconds, over
 * all accounts, many per transaction.
 */
import { DbError } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import { eachOf } from '../../lib/each-of.ts'
import { type Account, freeOf, isIdle } from './account.ts'
import { type Allotments, CHUNK, type GiveBackItem } from './allotments.ts'
import type { AccountKey } from './kinds.ts'
import type { Supply, Tenancy } from './supply.ts'

export function createIdlePass(deps: {
  readonly accounts: Map<AccountKey, Account>
  readonly accountOf: (key: AccountKey) => Account | undefined
  readonly allotments: Allotments
  readonly supply: Supply
  readonly tenancy: Tenancy
  readonly clock: Clock
  /** A row at 0 is kept for so long: sooner, a late message could meet a new row. */
  readonly keepMs: number
}) {
  const { accounts, accountOf, allotments, supply, tenancy, clock, keepMs } = deps

  /** Accounts of which memory and rows say different things, with nothing under way that would explain it. */
  const compare = async (id: string): Promise<readonly Account[]> => {
    const before = new Map<Account, { readonly amount: number; readonly version: number }>()
    const rows = await tenancy.betweenFlushes(() => {
      for (const account of accounts.values())
        if (!account.operation) before.set(account, { amount: account.amount, version: account.version })
      return allotments.own(id)
    })
    if (id !== tenancy.id()) return []
    const byAccount = new Map(rows.map((row) => [row.account, row]))
    for (const key of byAccount.keys()) {
      const isNew = !accounts.has(key)
      const account = accountOf(key)
      if (account && isNew) before.set(account, { amount: 0, version: 0 })
    }
    const different: Account[] = []
    for (const [account, { amount, version }] of before) {
      if (account.operation || account.version !== version || account.amount !== amount) continue
      const row = byAccount.get(account.key)
      if (account.isUnknown || version !== (row?.version ?? 0) || amount !== (row?.amount ?? 0)) different.push(account)
    }
    return different
  }

  /** What of each account was not needed since the last pass; rows that can go. */
  const collect = (nowMs: number): (GiveBackItem & { readonly of: Account })[] => {
    const items: (GiveBackItem & { readonly of: Account })[] = []
    for (const account of accounts.values()) {
      if (account.operation || account.isUnknown) continue
      if (account.version === 0) {
        if (account.amount === 0 && isIdle(account)) accounts.delete(account.key)
        continue
      }
      const unused = Math.max(0, Math.min(account.lowFree, freeOf(account)))
      const base = { of: account, account: account.key, version: account.version, amount: unused }
      if (unused > 0) items.push(base)
      else if (account.amount === 0 && isIdle(account) && nowMs - account.touchedAtMs >= keepMs)
        items.push({ ...base, isDrop: true })
      account.lowFree = Math.max(0, freeOf(account) - unused)
    }
    return items
  }

  /** One account that cannot be written keeps nothing of the others here. @throws what the last of them failed with */
  const giveEach = async (id: string, items: readonly (GiveBackItem & { readonly of: Account })[]): Promise<void> => {
    try {
      await give(id, items)
    } catch (error) {
      const isOfOne = !(error instanceof DbError) || (error.kind !== 'unavailable' && error.kind !== 'unknown-outcome')
      if (!isOfOne || items.length === 1) throw error
      await eachOf(items, (item) => giveEach(id, refresh([item])))
    }
  }

  const give = async (id: string, items: readonly (GiveBackItem & { readonly of: Account })[]): Promise<void> => {
    const ended = Promise.withResolvers<void>()
    // Collected without a wait, so none of them has another operation under way.
    for (const { of, amount } of items) {
      of.operation = ended.promise
      of.amount -= amount
      // The balance grows: what was proven of it holds no longer.
      if (amount > 0) of.proof = undefined
    }
    try {
      const { done } = await allotments.giveBack(
        id,
        items.map(({ of: _, ...item }) => item),
      )
      if (id !== tenancy.id()) return
      for (const { of, isDrop } of items) {
        if (!done.has(of.key)) {
          // A row that is not dropped has just been recalled, or is no longer as memory knows it.
          of.isUnknown = true
          continue
        }
        of.version = isDrop ? 0 : of.version + 1
        if (isDrop) of.answered = 0
        else of.touchedAtMs = clock.monotonic()
      }
    } catch (error) {
      if (id === tenancy.id()) {
        const isUnknown = error instanceof DbError && error.kind === 'unknown-outcome'
        for (const { of, amount } of items) {
          if (isUnknown) of.isUnknown = true
          else of.amount += amount
        }
      }
      throw error
    } finally {
      for (const { of } of items) of.operation = undefined
      ended.resolve()
    }
  }

  /** Memory went on while others were under way. */
  const refresh = (items: readonly (GiveBackItem & { readonly of: Account })[]) =>
    items
      .filter(({ of }) => !of.operation && !of.isUnknown)
      .map((item) => ({
        ...item,
        version: item.of.version,
        amount: Math.max(0, Math.min(item.amount, freeOf(item.of))),
      }))
      .filter((item) => (item.isDrop ? item.of.amount === 0 && isIdle(item.of) : item.amount > 0))

  return async (): Promise<void> => {
    const id = tenancy.id()
    const different = await compare(id)
    const resyncing = eachOf(different, (account) => supply.resync(account))
    // What could not be resynced is left alone below; it is reported in the end.
    const failure = await resyncing.then(
      () => undefined,
      (error: unknown) => ({ error }),
    )
    const items = collect(clock.monotonic())
    const chunks = Array.from({ length: Math.ceil(items.length / CHUNK) }, (_, i) =>
      items.slice(i * CHUNK, (i + 1) * CHUNK),
    )
    await eachOf(chunks, async (some) => {
      const fresh = id === tenancy.id() ? refresh(some) : []
      if (fresh.length > 0) await giveEach(id, fresh)
    })
    if (failure) throw failure.error
  }
}
