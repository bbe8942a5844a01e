/**
 * Holds: money set aside for a call on each account that pays for it, extended, and ended exactly once. Memory only, while
 * the local allotments last.
 */
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import { type Account, endHold, tryHold } from './account.ts'
import type { CallRecord } from './charge.ts'
import { type AccountKey, apiKeyAccount, userAccount } from './kinds.ts'
import { clampCharge } from './quota.ts'
import type { Supply } from './supply.ts'
import type { Hold, Payer } from './types.ts'

/** An extension is asked for again this often while the database is away, and for so long, ms. */
const EXTEND_RETRY_MS = 250
const EXTEND_PATIENCE_MS = 10_000

/** Ordered: the key first, then the wallet. Wallet first, callers of an empty key would keep its last parts from callers of a good one. */
const fundingOf = (payer: Payer): readonly AccountKey[] =>
  payer.isUnlimitedKey || payer.apiKeyId <= 0
    ? [userAccount(payer.userId)]
    : [apiKeyAccount(payer.apiKeyId), userAccount(payer.userId)]

export function createHolds(deps: {
  readonly accountOf: (key: AccountKey) => Account | undefined
  readonly supply: Supply
  /** Writes a charge down and counts it against its accounts. @throws GatewayError: then it never was */
  readonly journal: (keys: readonly AccountKey[], quota: number, record: CallRecord) => Promise<void>
  readonly isWritable: () => boolean
  /** Nothing is set aside without a lease. */
  readonly isLeased: () => boolean
  readonly clock: Clock
}) {
  const { accountOf, supply, journal, isWritable, isLeased, clock } = deps
  let open = 0
  let onLastEnd: (() => void) | undefined
  /** To find an account by a text that was just made would be dearer than the rest of its hold. */
  const fundings = new WeakMap<Payer, readonly AccountKey[]>()

  const funding = (payer: Payer): readonly AccountKey[] => {
    let keys = fundings.get(payer)
    if (!keys) {
      keys = fundingOf(payer)
      fundings.set(payer, keys)
    }
    return keys
  }

  const release = (keys: readonly AccountKey[], amount: number): void => {
    for (const key of keys) {
      const account = accountOf(key)
      if (account) endHold(account, amount)
    }
  }

  /** Sets `amount` aside on every account, in order; if one refuses, on none. */
  const reserve = async (
    keys: readonly AccountKey[],
    amount: number,
    how: { signal?: AbortSignal; isPatient?: boolean; untilMs?: number },
  ) => {
    const done: AccountKey[] = []
    try {
      for (const key of keys) {
        const account = accountOf(key)
        if (!account) throw new GatewayError('internal_error', { detail: { account: key } })
        await supply.reserve(account, amount, how)
        done.push(key)
      }
    } catch (error) {
      release(done, amount)
      throw error
    }
  }

  /** The same without a wait: succeeds only from what is allotted here. */
  const reserveNow = (keys: readonly AccountKey[], amount: number): boolean => {
    if (!isLeased()) return false
    for (let i = 0; i < keys.length; i++) {
      const account = accountOf(keys[i]!)
      if (account && account.waiters.length === 0 && tryHold(account, amount)) {
        supply.lookAhead(account)
        continue
      }
      release(keys.slice(0, i), amount)
      return false
    }
    return true
  }

  /** @returns why not, or undefined when it is set aside */
  const reservePatiently = async (
    keys: readonly AccountKey[],
    amount: number,
    isOver: () => boolean,
  ): Promise<GatewayError | undefined> => {
    const untilMs = clock.monotonic() + EXTEND_PATIENCE_MS
    for (;;) {
      try {
        await reserve(keys, amount, { isPatient: true, untilMs })
        return undefined
      } catch (error) {
        if (!(error instanceof GatewayError)) return new GatewayError('dependency_unavailable', { cause: error })
        const isAway = error.code === 'dependency_unavailable'
        if (!isAway || isOver() || clock.monotonic() + EXTEND_RETRY_MS >= untilMs) return error
        await Bun.sleep(EXTEND_RETRY_MS)
      }
    }
  }

  class OpenHold implements Hold {
    readonly #keys: readonly AccountKey[]
    #isEnded = false
    amount: number
    extensions = 0
    refusal: GatewayError | undefined

    constructor(keys: readonly AccountKey[], amount: number) {
      this.#keys = keys
      this.amount = amount
      open++
    }

    async extend(more: number): Promise<boolean> {
      const units = Math.max(1, clampCharge(Math.ceil(more)))
      this.refusal = undefined
      if (this.#isEnded) return false
      if (!isWritable()) this.refusal = new GatewayError('dependency_unavailable', { retryAfterSec: 5 })
      else if (!reserveNow(this.#keys, units))
        this.refusal = await reservePatiently(this.#keys, units, () => this.#isEnded)
      if (this.refusal) return false
      if (this.#isEnded) {
        release(this.#keys, units)
        return false
      }
      this.amount += units
      this.extensions++
      return true
    }

    settle({ quota, record }: { readonly quota: number; readonly record: CallRecord }): Promise<void> {
      if (!this.#end()) return Promise.resolve()
      // The charge first: what is held must not be free for a moment in between.
      const journalled = journal(this.#keys, quota, record)
      if (this.amount > 0) release(this.#keys, this.amount)
      return journalled
    }

    async release(record?: CallRecord): Promise<void> {
      if (!this.#end()) return
      if (this.amount > 0) release(this.#keys, this.amount)
      if (record) await journal([], 0, record)
    }

    #end(): boolean {
      if (this.#isEnded) return false
      this.#isEnded = true
      if (--open === 0) onLastEnd?.()
      return true
    }
  }

  return {
    /** @param estimate quota units; 0 or less needs nothing. @throws GatewayError as `Ledger.hold`, at once or by its promise */
    open(payer: Payer, estimate: number, signal?: AbortSignal): Hold | Promise<Hold> {
      if (signal?.aborted) throw new GatewayError('client_closed_request')
      const keys = funding(payer)
      const amount = estimate > 0 ? Math.max(1, clampCharge(Math.ceil(estimate))) : 0
      if (amount === 0 || reserveNow(keys, amount)) return new OpenHold(keys, amount)
      return reserve(keys, amount, signal ? { signal } : {}).then(() => new OpenHold(keys, amount))
    },
    /** Holds that have not ended. */
    count: (): number => open,
    /** @returns when no hold is open */
    async allEnded(): Promise<void> {
      if (open === 0) return
      const ended = Promise.withResolvers<void>()
      onLastEnd = ended.resolve
      await ended.promise
    },
  }
}
