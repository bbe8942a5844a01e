/**
 * Brings money from the database to callers that memory cannot serve: their queue, acquire, recall and its answers,
 * proof, resync. One waiting caller at a time per account is served; the others wait behind it.
 */
import { DbError } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import type { State } from '../../state/index.ts'
import { type Account, freeOf, isRefused, recentSpend, runAlone, tryHold, type Waiter } from './account.ts'
import { type Allotments, InstanceEnded, type TakeAnswer, VersionMismatch } from './allotments.ts'
import type { AccountKey } from './kinds.ts'

/** Topics of the bus; hints all. `quota.recall`: who is asked for what; `quota.answer`: what came of it. */
export const QUOTA_RECALL = 'quota.recall'
export const QUOTA_ANSWER = 'quota.answer'

export interface RecallMessage {
  readonly account: AccountKey
  /** instance id → number of the recall */
  readonly instances: Readonly<Record<string, number>>
}
export interface AnswerMessage {
  readonly account: AccountKey
  readonly instance: string
  readonly number: number
  /** quota units given back */
  readonly amount: number
}

/** A caller waits this long for money or proof, ms. */
const WAIT_MS = 3_000
const WAIT_MAX_MS = 10_000
/** Pause between tries while a recall is open, ms; an answer ends it. */
const RETRY_MS = 100
const AWAY_RETRY_MS = 250
const PROOF_MS = 1_000
/** After answering a recall an instance takes no more than it needs for so long, ms. */
const EXACT_MS = 10_000
/**
 * An acquire takes so many times what two seconds cost, and the next one comes ahead of need when a quarter of that is
 * left. Each is a transaction for one account, dear beside a flush, which writes many at once.
 */
const WISH = 4
const AHEAD_PART = 1 / 4
/** The time that an acquire takes is a mean over about so many. */
const TAKES_REMEMBERED = 4

export interface Tenancy {
  /** The instance that spends now; changes when it was found ended. */
  id(): string
  /** instances that share the balances, at least 1 */
  instances(): number
  /** May it spend what it has? While it may not, nothing is set aside and nothing acquired. */
  isLeased(): boolean
  /** Asks the database for the lease. Resolves when there is one, or the instance goes on as another. @throws DbError */
  regain(): Promise<void>
  /** Resolves when the instance may acquire again: its row is written anew, or another instance goes on. */
  ended(id: string): Promise<void>
  /** Number of the last charge that is known to be applied in the main database. */
  appliedSeq(): number
  /** Runs `work` when no flush of the main database is under way. */
  betweenFlushes<T>(work: () => Promise<T>): Promise<T>
  /** Asks for a flush soon: it finds out how an earlier one ended. */
  flushSoon(): void
}

export type Supply = ReturnType<typeof createSupply>

export function createSupply(deps: {
  readonly allotments: Allotments
  readonly tenancy: Tenancy
  readonly bus: State
  readonly clock: Clock
  readonly log: Log
}) {
  const { allotments, tenancy, bus, clock, log } = deps
  let acquires = 0
  /** What an acquire takes of late, ms. */
  let takeMs = 0
  let recallsSent = 0
  let recallsAnswered = 0
  let isClosed = false

  const unavailable = (cause: unknown, retryAfterSec = 2): GatewayError =>
    new GatewayError('dependency_unavailable', { retryAfterSec, cause })
  const insufficient = (account: Account): GatewayError => new GatewayError(account.refusal)

  /** @returns false while it cannot be said what is true: ask again later */
  const resync = (account: Account): Promise<boolean> =>
    runAlone(account, () =>
      tenancy.betweenFlushes(async () => {
        const id = tenancy.id()
        account.isUnknown = true
        const row = await allotments.resync(id, account.key)
        if (id !== tenancy.id()) return false
        account.amount = row.amount
        account.version = row.version
        account.answered = 0
        // A flush whose end nobody knew was committed: its loop has to find that out first, or its charges count twice.
        if (row.seq !== tenancy.appliedSeq()) {
          tenancy.flushSoon()
          return false
        }
        account.lowFree = Math.max(0, Math.min(account.lowFree, freeOf(account)))
        // What was proven was proven beside another amount.
        account.proof = undefined
        account.isUnknown = false
        return true
      }),
    )

  const tryLeased = (account: Account, amount: number): boolean => tenancy.isLeased() && tryHold(account, amount)

  const serveWaiting = (account: Account): void => {
    for (const waiter of [...account.waiters]) {
      if (waiter.isDone) continue
      if (!tryLeased(account, waiter.amount)) return
      waiter.grant()
    }
  }

  /** One proof refuses everybody who needs no less. */
  const refuseProven = (account: Account): void => {
    for (const waiter of account.waiters)
      if (!waiter.isDone && isRefused(account, waiter.amount, clock.monotonic())) waiter.refuse(insufficient(account))
  }

  const take = (account: Account, waiter: Waiter) =>
    runAlone(account, async (): Promise<TakeAnswer | 'served' | 'stale'> => {
      if (account.isUnknown || !tenancy.isLeased()) return 'stale'
      if (tryHold(account, waiter.amount)) {
        waiter.grant()
        return 'served'
      }
      const id = tenancy.id()
      const now = clock.monotonic()
      const need = waiter.amount - freeOf(account)
      const wanted =
        account.waiters.reduce((sum, other) => sum + (other.isDone ? 0 : other.amount), 0) - freeOf(account)
      const isExact = now < account.exactUntilMs
      const wish = Math.max(wishOf(account, now), wanted, need)
      const answer = await allotments.take({
        instanceId: id,
        account: account.key,
        version: account.version,
        need,
        wish,
        isExact,
        instances: tenancy.instances(),
        recalls: waiter.recalls,
      })
      // Taken by an instance that has ended meanwhile: its row goes back by itself.
      if (id !== tenancy.id()) return 'stale'
      account.touchedAtMs = clock.monotonic()
      takeMs += (clock.monotonic() - now - takeMs) / TAKES_REMEMBERED
      if (answer.kind === 'taken') {
        taken(account, answer)
        // An account that gave less than was wished is not rich: it is not parked away before somebody needs it.
        if (!isExact && answer.amount >= wish && wish > need) account.aheadBelow = answer.amount * AHEAD_PART
      } else if (answer.kind === 'insufficient') account.proof = { need, untilMs: clock.monotonic() + PROOF_MS }
      return answer
    })

  const taken = (account: Account, answer: Extract<TakeAnswer, { kind: 'taken' }>): void => {
    acquires++
    account.amount += answer.amount
    account.version = answer.version
  }

  /** What some seconds cost of late, and what is spent while the database takes its time. */
  const wishOf = (account: Account, nowMs: number): number =>
    Math.ceil(recentSpend(account, nowMs) * (WISH + takeMs / 1_000))

  /** Long enough for a database that is far away. */
  const waitMs = (): number => Math.min(WAIT_MS + 4 * takeMs, WAIT_MAX_MS)

  const takeAhead = async (account: Account): Promise<void> => {
    const id = tenancy.id()
    const now = clock.monotonic()
    if (isClosed || account.isUnknown || !tenancy.isLeased() || now < account.exactUntilMs) return
    const wish = wishOf(account, now)
    if (wish < 1) return
    try {
      const answer = await allotments.take({
        instanceId: id,
        account: account.key,
        version: account.version,
        need: 1,
        wish,
        isExact: false,
        instances: tenancy.instances(),
        recalls: undefined,
      })
      if (id !== tenancy.id() || answer.kind !== 'taken') return
      takeMs += (clock.monotonic() - now - takeMs) / TAKES_REMEMBERED
      taken(account, answer)
      if (answer.amount >= wish) account.aheadBelow = answer.amount * AHEAD_PART
    } catch (error) {
      // Whoever needs the money asks again, and deals with the cause; only what is unknown must be known.
      const isUnknown =
        error instanceof VersionMismatch || (error instanceof DbError && error.kind === 'unknown-outcome')
      if (id === tenancy.id() && isUnknown) account.isUnknown = true
    }
  }

  const pause = async (account: Account, ms: number): Promise<void> => {
    const over = Promise.withResolvers<void>()
    const timer = setTimeout(over.resolve, ms)
    account.wake = over.resolve
    await over.promise
    clearTimeout(timer)
    account.wake = undefined
  }

  /**
   * Serves the first in the queue until it has its money or its refusal.
   * @returns early when it can afford to wait, and others who cannot are behind it
   */
  const serve = async (account: Account, waiter: Waiter): Promise<void> => {
    while (!waiter.isDone) {
      try {
        if (!tenancy.isLeased()) await tenancy.regain()
        if (account.isUnknown && !(await resync(account))) {
          await pause(account, RETRY_MS)
          continue
        }
        const answer = await take(account, waiter)
        if (answer === 'served' || waiter.isDone) return
        if (answer === 'stale') continue
        serveWaiting(account)
        if (answer.kind === 'insufficient') refuseProven(account)
        if (answer.kind !== 'waiting') continue
        waiter.recalls = answer.recalls
        if (answer.news.size > 0) {
          recallsSent += answer.news.size
          const message: RecallMessage = { account: account.key, instances: Object.fromEntries(answer.news) }
          void bus.publish(QUOTA_RECALL, JSON.stringify(message))
        }
        if (waiter.isPatient && account.waiters.some((other) => !other.isDone && !other.isPatient)) return
        await pause(account, RETRY_MS * (0.75 + Math.random() / 2))
      } catch (error) {
        await recover(account, waiter, error)
      }
    }
  }

  const recover = async (account: Account, waiter: Waiter, error: unknown): Promise<void> => {
    if (error instanceof VersionMismatch) {
      account.isUnknown = true
      return
    }
    if (error instanceof InstanceEnded) {
      try {
        await tenancy.ended(error.message)
      } catch (failure) {
        return recover(account, waiter, failure)
      }
      return pause(account, RETRY_MS)
    }
    const kind = error instanceof DbError ? error.kind : 'other'
    if (kind === 'unknown-outcome') {
      account.isUnknown = true
      return
    }
    if (kind !== 'unavailable') log.error('an acquire failed', { account: account.key, error })
    for (const other of account.waiters) if (!other.isDone && !other.isPatient) other.refuse(unavailable(error))
    if (!waiter.isDone) await pause(account, AWAY_RETRY_MS)
  }

  const serveQueue = async (account: Account): Promise<void> => {
    if (account.isServed) return
    account.isServed = true
    try {
      for (let head = account.waiters[0]; head; head = account.waiters[0]) {
        if (!head.isDone) {
          try {
            await serve(account, head)
          } catch (error) {
            log.error('a caller could not be served', { account: account.key, error })
            head.refuse(unavailable(error))
          }
        }
        account.waiters.shift()
        if (!head.isDone) account.waiters.push(head)
      }
    } finally {
      account.isServed = false
    }
  }

  return {
    resync,

    /** Fetches more in time, so that callers do not wait for a database that is far away. Call it after each hold. */
    lookAhead(account: Account): void {
      if (freeOf(account) >= account.aheadBelow) return
      account.aheadBelow = 0
      void runAlone(account, () => takeAhead(account)).then(() => serveWaiting(account))
    },

    /**
     * Sets `amount` aside, now or after waiting.
     * @param options.untilMs when waiting ends (monotonic); a few seconds from now if not given
     * @throws GatewayError: proven insufficient, dependency_unavailable, client_closed_request, shutting_down
     */
    reserve(
      account: Account,
      amount: number,
      options: { readonly signal?: AbortSignal; readonly isPatient?: boolean; readonly untilMs?: number },
    ): Promise<void> {
      const nowMs = clock.monotonic()
      const { signal, isPatient = false, untilMs = nowMs + waitMs() } = options
      if (account.waiters.length === 0 && tryLeased(account, amount)) return Promise.resolve()
      if (isRefused(account, amount, nowMs)) return Promise.reject(insufficient(account))
      if (isClosed) return Promise.reject(new GatewayError('shutting_down'))
      if (signal?.aborted) return Promise.reject(new GatewayError('client_closed_request'))
      const done = Promise.withResolvers<void>()
      const end = (): void => {
        waiter.isDone = true
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
        if (account.waiters[0] === waiter) account.wake?.()
      }
      const waiter: Waiter = {
        amount,
        isPatient,
        isDone: false,
        recalls: new Map(),
        grant() {
          end()
          done.resolve()
        },
        refuse(error) {
          end()
          done.reject(error)
        },
      }
      const onAbort = (): void => waiter.refuse(new GatewayError('client_closed_request'))
      const lastMs = options.untilMs ?? nowMs + WAIT_MAX_MS
      /** A database that is being asked answers, or says that it cannot: under load it may only be slow. */
      const giveUp = (): void => {
        if (account.operation && clock.monotonic() < lastMs) timer = setTimeout(giveUp, RETRY_MS)
        else waiter.refuse(unavailable(new Error('no money and no proof in time'), 1))
      }
      let timer = setTimeout(giveUp, Math.max(0, untilMs - nowMs))
      signal?.addEventListener('abort', onAbort)
      account.waiters.push(waiter)
      void serveQueue(account)
      return done.promise
    },

    /**
     * Answers a recall: gives back what is free, also nothing, also while a caller waits here. Never throws.
     * @param isRead the number was read from the row just now, so an earlier answer has not arrived there
     */
    async answer(account: Account, number: number, isRead = false): Promise<void> {
      if (account.answering >= number || (!isRead && number <= account.answered)) return
      account.answered = number
      account.answering = number
      try {
        if (account.isUnknown && !(await resync(account))) return
        const given = await runAlone(account, () => giveBackFree(account, number, isRead))
        if (given === undefined) return
        recallsAnswered++
        const message: AnswerMessage = { account: account.key, instance: tenancy.id(), number, amount: given }
        void bus.publish(QUOTA_ANSWER, JSON.stringify(message))
      } catch (error) {
        // The next look at the rows finds it unanswered.
        if (!(error instanceof DbError && error.kind === 'unavailable'))
          log.warn('a recall could not be answered', { account: account.key, error })
      } finally {
        if (account.answering === number) account.answering = 0
      }
    },

    /** New callers are turned away, waiting ones too. */
    close(accounts: Iterable<Account>): void {
      isClosed = true
      for (const account of accounts)
        for (const waiter of account.waiters) if (!waiter.isDone) waiter.refuse(new GatewayError('shutting_down'))
    },
    stats: () => ({ acquires, recallsSent, recallsAnswered }),
  }

  /** @returns what was given back; undefined: nothing was answered */
  async function giveBackFree(account: Account, answers: number, isRead: boolean): Promise<number | undefined> {
    // A row that memory does not have: of a commit that came late, or is not seen yet.
    if (account.version === 0 && isRead) account.isUnknown = true
    if (account.version === 0 || account.isUnknown) return undefined
    const id = tenancy.id()
    const amount = Math.max(0, freeOf(account))
    account.amount -= amount
    // The balance grows: what was proven of it holds no longer.
    if (amount > 0) account.proof = undefined
    account.lowFree = 0
    account.exactUntilMs = clock.monotonic() + EXACT_MS
    try {
      const { done } = await allotments.giveBack(id, [
        { account: account.key, version: account.version, amount, answers },
      ])
      if (id !== tenancy.id()) return undefined
      account.touchedAtMs = clock.monotonic()
      if (done.has(account.key)) account.version++
      else account.isUnknown = true
      return account.isUnknown ? undefined : amount
    } catch (error) {
      if (id === tenancy.id()) {
        if (error instanceof DbError && error.kind === 'unknown-outcome') account.isUnknown = true
        else account.amount += amount
      }
      throw error
    }
  }
}
