/** Who may end a call that is under way: its client, or a stop of the node. Knows where their word goes at each stage. */

import type { Outcome } from '../domain/limits/index.ts'
import type { Placed } from '../lib/bag.ts'
import type { Log } from '../lib/log.ts'
import type { Pump } from './pump.ts'
import type { AbortReason } from './upstream.ts'

/** A call under way, as a stop of the node sees it. */
export interface LiveCall extends Placed {
  abort(reason: AbortReason): void
}

/** Who waits for the answer. */
export interface Client {
  /** Fires when the client leaves. */
  readonly signal: AbortSignal
  /** Closes its connection, even one that takes nothing any more. */
  hangUp(): void
  /** Hears once how the call ended, if its caller has limits. */
  readonly ended?: ((outcome: Outcome) => void) | undefined
}

/** Must not keep the call itself: a stream outlives its request body. */
export class Running implements LiveCall {
  place = -1
  isSettled = false
  /** Input and output, once they are billed. */
  billedTokens: number | undefined
  /** The channel of this attempt reads on when the client leaves. */
  drains = false
  readonly #requestId: string
  readonly #client: Client
  readonly #log: Log
  #target: ((reason: AbortReason) => void) | undefined
  #reason: AbortReason | undefined
  #pump: Pump | undefined

  constructor(requestId: string, client: Client, log: Log) {
    this.#requestId = requestId
    this.#client = client
    this.#log = log
    client.signal.addEventListener('abort', this, { once: true })
    if (client.signal.aborted) this.handleEvent()
  }

  abort(by: AbortReason): void {
    this.#reason ??= by
    if (this.#pump) this.#watched(this.#pump.interrupt('shutting-down'))
    else this.#target?.(this.#reason)
  }
  abortedBy(): AbortReason | undefined {
    return this.#reason
  }
  /** An upstream is being asked: this is how to stop it. */
  open(abort: (reason: AbortReason) => void): void {
    this.#target = abort
    if (this.#reason !== undefined) abort(this.#reason)
  }
  /** From now on a stream goes to the client, and ends by its pump. */
  handOver(pump: Pump): void {
    this.#pump = pump
    if (this.#reason !== undefined) this.#watched(pump.interrupt('shutting-down'))
    else if (this.#client.signal.aborted) this.handleEvent()
  }
  get isStreaming(): boolean {
    return this.#pump !== undefined
  }
  /** Of the client's connection. */
  hangUp(): void {
    this.#client.hangUp()
  }
  close(): void {
    this.#client.signal.removeEventListener('abort', this)
    this.#client.ended?.({ isSuccess: this.billedTokens !== undefined, tokens: this.billedTokens ?? 0 })
  }

  /** The client has left. */
  handleEvent(): void {
    if (this.#pump) this.#watched(this.#pump.abandon())
    else if (!this.drains) this.abort('client-gone')
  }
  #watched(end: Promise<unknown>): void {
    end.catch((error: unknown) => this.#log.error('a call did not end well', { requestId: this.#requestId, error }))
  }
}
