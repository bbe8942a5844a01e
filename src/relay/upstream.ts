/**
 * Sends one request upstream and reads the answer, with its time-outs: until the headers, of silence, and of the whole
 * call. Whoever ends the call (client, time-out, stop of the node) aborts it here, and the reason is kept.
 */
import { GatewayError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Watch, Watched } from './watch.ts'

export interface UpstreamLimits {
  /** Until the headers; 0: none. */
  readonly firstByteMs: number
  /** Of silence while a body is read. */
  readonly idleMs: number
  /** Of the whole attempt; 0: none. */
  readonly totalMs: number
}

export type AbortReason = 'client-gone' | 'timeout' | 'shutting-down' | 'out-of-quota' | 'done'

/** One exchange with an upstream. `close` must be called when nothing more is read. */
export interface Exchange {
  readonly response: Response
  abort(reason: AbortReason): void
  abortedBy(): AbortReason | undefined
  /** Silence counts only while we wait for the upstream. */
  waiting(isWaiting: boolean): void
  /** Called each `everyMs` of silence while waiting. */
  onSilence(everyMs: number, call: () => void): void
  close(): void
}

export interface Sender {
  send(request: {
    readonly url: string
    readonly headers: Headers
    readonly body: Uint8Array<ArrayBuffer> | string
    readonly proxy: string
    readonly limits: UpstreamLimits
    /** Told how to abort as soon as the call is under way. */
    readonly onOpen: (abort: (reason: AbortReason) => void) => void
  }): Promise<Exchange>
}

type FetchLike = (url: string, init: RequestInit) => Promise<Response>

export function createSender(deps: {
  readonly fetch: FetchLike
  readonly clock: Clock
  readonly watch: Watch
  readonly isTlsChecked: boolean
}): Sender {
  const { fetch, clock, watch, isTlsChecked } = deps
  return {
    async send({ url, headers, body, proxy, limits, onOpen }) {
      const controller = new AbortController()
      let reason: AbortReason | undefined
      const startedAtMs = clock.monotonic()
      const totalAtMs = limits.totalMs > 0 ? startedAtMs + limits.totalMs : Number.POSITIVE_INFINITY
      let lastByteAtMs = startedAtMs
      let silentLimitMs = limits.firstByteMs > 0 ? limits.firstByteMs : Number.POSITIVE_INFINITY
      let isWaiting = true
      let beatMs = Number.POSITIVE_INFINITY
      let beat: (() => void) | undefined
      let nextBeatAtMs = Number.POSITIVE_INFINITY

      const abort = (by: AbortReason): void => {
        if (reason !== undefined) return
        reason = by
        controller.abort(new Error(by))
      }
      const schedule = (): void => {
        const silentAtMs = isWaiting ? lastByteAtMs + silentLimitMs : Number.POSITIVE_INFINITY
        watched.dueAtMs = Math.min(totalAtMs, silentAtMs, isWaiting ? nextBeatAtMs : Number.POSITIVE_INFINITY)
      }
      const watched: Watched = {
        dueAtMs: Math.min(totalAtMs, startedAtMs + silentLimitMs),
        due(nowMs) {
          const isSilent = isWaiting && nowMs >= lastByteAtMs + silentLimitMs
          if (nowMs >= totalAtMs || isSilent) {
            abort('timeout')
            watched.dueAtMs = Number.POSITIVE_INFINITY
            return
          }
          if (nowMs >= nextBeatAtMs) {
            nextBeatAtMs = nowMs + beatMs
            beat?.()
          }
          schedule()
        },
      }
      watch.add(watched)
      onOpen(abort)
      try {
        const response = await fetch(url, {
          method: 'POST',
          headers,
          body,
          redirect: 'manual',
          signal: controller.signal,
          // Bun's own limit would end long answers; ours are above.
          timeout: false,
          ...(proxy !== '' && { proxy }),
          ...(!isTlsChecked && { tls: { rejectUnauthorized: false } }),
        } as RequestInit)
        lastByteAtMs = clock.monotonic()
        silentLimitMs = limits.idleMs
        schedule()
        return {
          response,
          abort,
          abortedBy: () => reason,
          waiting(now) {
            isWaiting = now
            lastByteAtMs = clock.monotonic()
            if (beat) nextBeatAtMs = lastByteAtMs + beatMs
            schedule()
          },
          onSilence(everyMs, call) {
            beatMs = everyMs
            beat = call
            nextBeatAtMs = clock.monotonic() + everyMs
            schedule()
          },
          close() {
            watch.delete(watched)
          },
        }
      } catch (cause) {
        watch.delete(watched)
        throw asSendError(reason, cause)
      }
    },
  }
}

/** @param reason why we aborted, if we did */
export function asSendError(reason: AbortReason | undefined, cause: unknown): GatewayError {
  switch (reason) {
    case 'client-gone':
      return new GatewayError('client_closed_request', { cause })
    case 'timeout':
      return new GatewayError('upstream_timeout', { cause })
    case 'shutting-down':
      return new GatewayError('shutting_down', { cause, retryAfterSec: 1 })
    default:
      return new GatewayError('do_request_failed', { cause, detail: (cause as { code?: unknown } | undefined)?.code })
  }
}
