/** Who may end a call that is under way: its client, or a stop of the node. Knows where their word goes at each stage. */
import type { Log } from '../lib/log.ts'
import type { Pump } from './pump.ts'
import type { AbortReason } from './upstream.ts'

/** A call under way, as a stop of the node sees it. */
export interface LiveCall {
  abort(reason: AbortReason): void
}

export interface Running extends LiveCall {
  /** An upstream is being asked: this is how to stop it. */
  open(abort: (reason: AbortReason) => void): void
  /** From now on a stream goes to the client, and ends by its pump. */
  handOver(pump: Pump): void
  readonly isStreaming: boolean
  isSettled: boolean
  /** The channel of this attempt reads on when the client leaves. */
  drains: boolean
  abortedBy(): AbortReason | undefined
  close(): void
}

/**
 * Must not keep the call itself: a stream outlives its request body.
 * @param signal fires when the client leaves
 */
export function createRunning(requestId: string, signal: AbortSignal, log: Log): Running {
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
    drains: false,
    abortedBy: () => reason,
    open(next) {
      target = next
      if (reason !== undefined) next(reason)
    },
    close: () => signal.removeEventListener('abort', clientLeft),
  }
  if (signal.aborted) clientLeft()
  return running
}
