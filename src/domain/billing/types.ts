/** The interface of the ledger that the relay sees. Amounts are quota units, integers. */
import type { GatewayError } from '../../errors.ts'
import type { CallRecord } from './charge.ts'

/** Who pays for a call. Never changed: what is found for one is remembered with it. */
export interface Payer {
  readonly userId: number
  readonly apiKeyId: number
  /** An unlimited key has no account of its own: the wallet alone pays. */
  readonly isUnlimitedKey: boolean
}

/** Money set aside for one call. It ends by exactly one `settle` or `release`; a second end is a no-op. */
export interface Hold {
  /** What is set aside now, extensions included. */
  readonly amount: number
  /** How often it was extended. */
  readonly extensions: number
  /**
   * Why the last `extend` was refused: `dependency_unavailable`, `insufficient_user_quota`,
   * `pre_consume_token_quota_failed`, `shutting_down`. Undefined when it was not, or the hold had ended.
   */
  readonly refusal: GatewayError | undefined
  /**
   * Sets aside as much more. Waits without a database up to 10 s in all; works while draining.
   * @returns false when it was refused (see `refusal`), or the hold has ended: end the call, bill what was delivered
   */
  extend(amount: number): Promise<boolean>
  /**
   * Journals the charge with its log row, frees what is left of the hold.
   * @param charge.quota 0 … 2³¹−1; may be more than is held
   * @returns when the charge is on the disk: the last bytes may go to the client
   * @throws GatewayError dependency_unavailable when the disk does not take it: nothing is charged then, and the call
   * must end in an error
   */
  settle(charge: { readonly quota: number; readonly record: CallRecord }): Promise<void>
  /** Frees the hold; charges nothing. @param record written as a log row, such as an error row; see `Ledger.note` */
  release(record?: CallRecord): Promise<void>
}

export interface LedgerStats {
  /** Instance id of this tenure. */
  readonly instanceId: string
  readonly accounts: number
  /** quota units in this instance's allotments, as memory knows them */
  readonly allotted: number
  readonly held: number
  readonly openHolds: number
  readonly waiting: number
  /** charges journalled that the main database, the log database does not have yet */
  readonly unflushedMain: number
  readonly unflushedLog: number
  /** charges of earlier lives and other workers that are being flushed here */
  readonly adopted: number
  readonly acquires: number
  readonly recallsSent: number
  readonly recallsAnswered: number
  readonly quarantined: number
  readonly setAside: number
  readonly isWritable: boolean
  /** Age of the oldest charge that a database does not have yet, ms; 0: there is none */
  readonly oldestChargeMs: number
  /** Bytes of the outboxes, charges included that are kept in case a database goes back. */
  readonly outboxBytes: number
  /** What is left of the lease, ms; below 0: it is over, and nothing is set aside until the database answers. */
  readonly leaseLeftMs: number
  /** Instances that share the balances, this one included, and their distinct nodes. */
  readonly liveInstances: number
  readonly liveNodes: number
}

export interface Ledger {
  /**
   * Opens the outbox, flushes what earlier lives left and returns their rows (again each minute, if the database is away).
   * @throws Error that names the directory when it is full or not writable
   */
  open(): Promise<void>
  /**
   * Sets `estimate` aside, from memory while the local allotment lasts; 0 needs nothing and always succeeds.
   * @throws GatewayError `insufficient_user_quota`, `pre_consume_token_quota_failed`: proven; `dependency_unavailable`: the
   * database is away, or nobody could prove it; `shutting_down`; `client_closed_request` when `signal` fired
   */
  hold(payer: Payer, estimate: number, signal?: AbortSignal): Promise<Hold>
  /** Journals a row without money: an error row of a refused call, a channel test. @throws like `settle` */
  note(record: CallRecord): Promise<void>
  /** False while the disk does not take charges: the node is not ready then. */
  isWritable(): boolean
  /** False once the database has been away for a whole lease: nothing can be set aside, and the node is not ready. */
  hasLease(): boolean
  /** Flushes, returns everything, ends the instance. What the deadline cuts off is left to the next start. */
  drain(deadlineMs: number): Promise<void>
  /**
   * Ends instances that were silent for two leases and returns what ended ones had. For one worker of one master at a time,
   * but safe on several; to be called each ninth of a lease. Does nothing where one node alone has the database.
   * @throws DbError, or why `signal` was aborted; what was not done is done by the next call
   */
  sweep(signal: AbortSignal): Promise<void>
  /** Distinct nodes that work, at least 1: from memory, as of the last look at the beats. */
  liveNodes(): number
  stats(): LedgerStats
}
