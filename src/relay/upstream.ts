/**
 * Sends one request upstream and reads the answer, with its time-outs: of the connection, until the headers, of silence, and
 * of the whole call. Whoever ends the call (client, time-out, stop of the node) aborts it here, and the reason is kept.
 */
import { GatewayError } from '../errors.ts'
import { concat } from '../lib/bytes.ts'
import type { Clock } from '../lib/clock.ts'
import type { Reach } from './reach.ts'
import { isUpload, type Upload } from './upload.ts'
import type { Watch, Watched } from './watch.ts'

export interface UpstreamLimits {
  /** Until the upstream's host takes a connection; 0: none. */
  readonly connectMs: number
  /** Until the headers; 0: none. */
  readonly firstByteMs: number
  /** Of silence while a body is read. */
  readonly idleMs: number
  /** Of the whole attempt; 0: none. */
  readonly totalMs: number
}

export type AbortReason = 'client-gone' | 'unreachable' | 'timeout' | 'shutting-down' | 'done'

/** One exchange with an upstream. `close` must be called when nothing more is read. */
export interface Exchange {
  readonly response: Response
  abort(reason: AbortReason): void
  abortedBy(): AbortReason | undefined
  /** Silence counts only while we wait for the upstream. */
  waiting(isWaiting: boolean): void
  /** Called each `everyMs` of silence while waiting. */
  onSilence(everyMs: number, call: () => void): void
  /** Called when nobody waited for the upstream for as long as it may be silent: the client no longer reads. */
  onStall(call: () => void): void
  close(): void
}

export interface Sender {
  send(request: {
    readonly url: string
    readonly headers: Headers
    readonly body: Uint8Array<ArrayBuffer> | string | Upload
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
  readonly reach: Reach
  readonly isTlsChecked: boolean
}): Sender {
  const { fetch, clock, watch, reach, isTlsChecked } = deps
  return {
    async send({ url, headers, body, proxy, limits, onOpen }) {
      const controller = new AbortController()
      const host = proxy === '' ? url : proxy
      let reason: AbortReason | undefined
      const startedAtMs = clock.monotonic()
      const totalAtMs = limits.totalMs > 0 ? startedAtMs + limits.totalMs : Number.POSITIVE_INFINITY
      // Half of the time is left to a look at whether the host takes connections at all; a quick answer costs no look.
      let lookAtMs = limits.connectMs > 0 ? startedAtMs + limits.connectMs / 2 : Number.POSITIVE_INFINITY
      let lastByteAtMs = startedAtMs
      let silentLimitMs = limits.firstByteMs > 0 ? limits.firstByteMs : Number.POSITIVE_INFINITY
      let isWaiting = true
      let beatMs = Number.POSITIVE_INFINITY
      let beat: (() => void) | undefined
      let nextBeatAtMs = Number.POSITIVE_INFINITY
      let stall: (() => void) | undefined

      const abort = (by: AbortReason): void => {
        if (reason !== undefined) return
        reason = by
        controller.abort(new Error(by))
      }
      const look = async (): Promise<void> => {
        if (!(await reach.isReachable(host, limits.connectMs / 2)) && lastByteAtMs === startedAtMs) abort('unreachable')
      }
      const schedule = (): void => {
        const silentAtMs = isWaiting || stall ? lastByteAtMs + silentLimitMs : Number.POSITIVE_INFINITY
        const beatAtMs = isWaiting ? nextBeatAtMs : Number.POSITIVE_INFINITY
        watched.dueAtMs = Math.min(totalAtMs, silentAtMs, beatAtMs, lookAtMs)
      }
      const watched: Watched = {
        dueAtMs: 0,
        isTouched: false,
        touched(nowMs) {
          lastByteAtMs = nowMs
          if (beat) nextBeatAtMs = nowMs + beatMs
          schedule()
        },
        due(nowMs) {
          const isSilent = nowMs >= lastByteAtMs + silentLimitMs
          if (nowMs >= totalAtMs || (isSilent && isWaiting)) {
            abort('timeout')
            watched.dueAtMs = Number.POSITIVE_INFINITY
            return
          }
          if (nowMs >= lookAtMs) {
            lookAtMs = Number.POSITIVE_INFINITY
            void look()
          }
          if (isSilent && stall) {
            stall()
            stall = undefined
          }
          if (isWaiting && nowMs >= nextBeatAtMs) {
            nextBeatAtMs = nowMs + beatMs
            beat?.()
          }
          schedule()
        },
      }
      schedule()
      watch.add(watched)
      onOpen(abort)
      if (isUpload(body)) headers.set('content-length', String(body.length))
      try {
        const init: Record<string, unknown> = {
          method: 'POST',
          headers,
          body: isUpload(body) ? body.pieces() : body,
          redirect: 'manual',
          signal: controller.signal,
          // Bun's own limit would end long answers; ours are above.
          timeout: false,
        }
        if (proxy !== '') init['proxy'] = proxy
        if (!isTlsChecked) init['tls'] = { rejectUnauthorized: false }
        const response = await fetch(url, init as RequestInit)
        lastByteAtMs = clock.monotonic()
        silentLimitMs = limits.idleMs
        lookAtMs = Number.POSITIVE_INFINITY
        schedule()
        reach.noteContact(host)
        return {
          response,
          abort,
          abortedBy: () => reason,
          waiting(now) {
            isWaiting = now
            watched.isTouched = true
          },
          onSilence(everyMs, call) {
            beatMs = everyMs
            beat = call
            nextBeatAtMs = clock.monotonic() + everyMs
            schedule()
          },
          onStall(call) {
            stall = call
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
    case 'unreachable':
      return new GatewayError('do_request_failed', { cause, detail: 'connect time-out' })
    case 'shutting-down':
      return new GatewayError('shutting_down', { cause, retryAfterSec: 1 })
    default:
      return new GatewayError('do_request_failed', { cause, detail: (cause as { code?: unknown } | undefined)?.code })
  }
}

/**
 * A complete answer. While it comes in pieces, such as blank lines that say the upstream still works, silence counts anew
 * from each.
 * @throws GatewayError when it breaks off or is larger than `maxBytes`
 */
export async function readAnswer(exchange: Exchange, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const { response } = exchange
  try {
    if (Number(response.headers.get('content-length') ?? maxBytes + 1) <= maxBytes) return await response.bytes()
    const parts: Uint8Array[] = []
    let size = 0
    for await (const part of response.body ?? []) {
      exchange.waiting(true)
      parts.push(part)
      size += part.length
      if (size > maxBytes) throw new GatewayError('bad_response_body', { detail: `more than ${maxBytes} bytes` })
    }
    return concat(parts)
  } catch (cause) {
    throw cause instanceof GatewayError ? cause : asSendError(exchange.abortedBy(), cause)
  }
}
