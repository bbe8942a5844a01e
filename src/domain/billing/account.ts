/**
 * One account in the memory of one instance: what is allotted, set aside and charged, and who waits. Pure arithmetic; the
 * database is told elsewhere. Invariant: `amount` is the allotment row's, but for what is under way.
 */
import type { ErrorCode } from '../../errors.ts'
import { type AccountKey, parseAccount } from './kinds.ts'
import { clampQuota } from './quota.ts'

/** Recent spend is remembered this long: its decaying sum is what two seconds cost, ms. */
const SPEND_WINDOW_MS = 2_000

/** A caller in the queue of an account. */
export interface Waiter {
  /** quota units it needs set aside */
  readonly amount: number
  /** An extension: waits also while the database is away. */
  readonly isPatient: boolean
  isDone: boolean
  /** instance id → number of its recall, as far as it has asked */
  recalls: ReadonlyMap<string, number>
  grant(): void
  refuse(error: unknown): void
}

export interface Account {
  readonly key: AccountKey
  readonly refusal: ErrorCode
  /** of the allotment row, as last confirmed, less what is on its way back */
  amount: number
  /** of the allotment row; 0 = there is none */
  version: number
  /** charges of this instance that are journalled and not flushed */
  pending: number
  /** set aside for open holds */
  held: number
  /** Memory and row may differ: no new hold until it was resynced. */
  isUnknown: boolean
  /** least that was free since the last pass: not needed for so long */
  lowFree: number
  /** With less than this free, more is fetched although nobody waits yet; 0: not. */
  aheadBelow: number
  /** decaying sum of charges */
  spend: number
  spendAtMs: number
  /** A recall was answered: acquire no more than is needed until then (monotonic). */
  exactUntilMs: number
  /** Who needs at least this much is refused until then (monotonic). */
  proof: { readonly need: number; readonly untilMs: number } | undefined
  /** last time the row was written or money moved (monotonic) */
  touchedAtMs: number
  /** number of the latest recall answered or being answered */
  answered: number
  /** number of the recall that is being answered; 0: none */
  answering: number
  readonly waiters: Waiter[]
  isServed: boolean
  /** acquire, return, resync: one at a time */
  operation: Promise<unknown> | undefined
  /** Ends the pause of who waits for a recall. */
  wake: (() => void) | undefined
}

/** @returns undefined for a kind that this release does not know */
export function createAccount(key: AccountKey, nowMs: number): Account | undefined {
  const kind = parseAccount(key)?.kind
  return (
    kind && {
      key,
      refusal: kind.refusal,
      amount: 0,
      version: 0,
      pending: 0,
      held: 0,
      isUnknown: false,
      lowFree: 0,
      aheadBelow: 0,
      spend: 0,
      spendAtMs: nowMs,
      exactUntilMs: 0,
      proof: undefined,
      touchedAtMs: nowMs,
      answered: 0,
      answering: 0,
      waiters: [],
      isServed: false,
      operation: undefined,
      wake: undefined,
    }
  )
}

/** What a new hold may use; below 0 when calls cost more than they held. */
export const freeOf = (account: Account): number => account.amount - account.pending - account.held

const noteLow = (account: Account): void => {
  const free = freeOf(account)
  if (free < account.lowFree) account.lowFree = Math.max(0, free)
}

/** The whole of a call's money path when it goes well. */
export function tryHold(account: Account, amount: number): boolean {
  if (account.isUnknown || freeOf(account) < amount) return false
  account.held += amount
  noteLow(account)
  return true
}

/** A hold ends, or a part of it: what it had is free again. */
export function endHold(account: Account, held: number): void {
  account.held -= held
  account.proof = undefined
  const [first] = account.waiters
  if (first && freeOf(account) >= first.amount) account.wake?.()
}

/** A charge was journalled (or taken back, with a negative amount, when it could not be). */
export function addCharge(account: Account, quota: number, nowMs: number): void {
  account.pending = clampQuota(account.pending + quota)
  account.touchedAtMs = nowMs
  if (quota > 0) {
    account.spend = recentSpend(account, nowMs) + quota
    account.spendAtMs = nowMs
  }
  noteLow(account)
}

/** Quota units that two seconds cost of late. */
export const recentSpend = (account: Account, nowMs: number): number =>
  account.spend === 0 ? 0 : account.spend * Math.exp((account.spendAtMs - nowMs) / SPEND_WINDOW_MS)

/** Is it proven, still, that `amount` more cannot be had? */
export const isRefused = (account: Account, amount: number, nowMs: number): boolean =>
  account.proof !== undefined && nowMs < account.proof.untilMs && amount - freeOf(account) >= account.proof.need

/** Nothing of it is in use: memory may forget it. */
export const isIdle = (account: Account): boolean =>
  account.held === 0 &&
  account.pending === 0 &&
  account.waiters.length === 0 &&
  !account.isUnknown &&
  account.operation === undefined

/** Runs `work` when no other operation of the account is under way. */
export async function runAlone<T>(account: Account, work: () => Promise<T>): Promise<T> {
  while (account.operation) await account.operation
  const running = work()
  const settled = running.then(
    () => undefined,
    () => undefined,
  )
  account.operation = settled
  try {
    return await running
  } finally {
    if (account.operation === settled) account.operation = undefined
  }
}
