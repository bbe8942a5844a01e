/** Who may end a call that is under way: its client, or a stop of the node. Knows where their word goes at each stage. */

import type { Outcome } from '../domain/limits/index.ts'
import type { Log } from '../lib/log.ts'
import type { Pump } from './pump.ts'
import type { AbortReason } from './upstream.ts'

/** A call under way, as a stop of the node sees it. */
export interface LiveCall {
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

export interface Running extends LiveCall {
  /** An upstream is being asked: this is how to stop it. */
  open(abort: (reason: AbortReason) => void): void
  /** From now on a stream goes to the client, and ends by its pump. */
  handOver(pump: Pump): void
  readonly isStreaming: boolean
  isSettled: boolean
  /** Input and output, once they are billed. */
  billedTokens: number | undefined
  /** The channel of this attempt reads on when the client leaves. */
  drains: boolean
  abortedBy(): AbortReason | undefined
  /** Of the client's connection. */
  hangUp(): void
  close(): void
}

/** Must not keep the call itself: a stream outlives its request body. */
export function createRunning(requestId: string, { signal, hangUp, ended }: Client, log: Log): Running {
  let target: ((reason: AbortReason) => void) | undefined
  let reason: AbortReason | undefined
  let pump: Pump | undefined
  const fails = (error: unknown): void => log.error('a call did not end well', { requestId, error })
  const abort = (by: AbortReason): void => {
    reason ??= by
    if (pump) pump.interrupt('shutting-down').catch(fails)
    else target?.(reason)
  }
  const clientLeft = (): void => {
    if (pump) pump.abandon().catch(fails)
    else if (!running.drains) abort('client-gone')
  }
  signal.addEventListener('abort', clientLeft, { once: true })
  const running: Running = {
    abort,
    handOver(next) {
      pump = next
      if (reason !== undefined) pump.interrupt('shutting-down').catch(fails)
      else if (signal.aborted) clientLeft()
    },
    get isStreaming() {
      return pump !== undefined
    },
    isSettled: false,
    billedTokens: undefined,
    drains: false,
    abortedBy: () => reason,
    hangUp,
    open(next) {
      target = next
      if (reason !== undefined) next(reason)
    },
    close() {
      signal.removeEventListener('abort', clientLeft)
      ended?.({ isSuccess: running.billedTokens !== undefined, tokens: running.billedTokens ?? 0 })
    },
  }
  if (signal.aborted) clientLeft()
  return running
}
