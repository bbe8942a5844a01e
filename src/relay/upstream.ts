/**
 * Sends one request upstream and reads the answer, with its time-outs: of the connection, until the headers, of silence, and
 * of the whole call. Whoever ends the call (client, time-out, stop of the node) aborts it here, and the reason is kept.
 */
import { GatewayError } from '../errors.ts'
import { concat } from '../lib/bytes.ts'
import type { Clock } from '../lib/clock.ts'
import type { HttpAnswer, HttpClient, HttpRequest } from '../lib/http/client.ts'
import { CONTENT_CODINGS } from './read.ts'
import type { Watch, Watched } from './watch.ts'

export interface UpstreamLimits {
  /** Until bytes of the call may go: TCP, the talk with a proxy (but one spoken to by TLS), and the TLS handshake; 0: none. */
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
  readonly answer: HttpAnswer
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
  send(
    request: HttpRequest & {
      readonly limits: UpstreamLimits
      /** Told how to abort as soon as the call is under way. */
      readonly onOpen: (abort: (reason: AbortReason) => void) => void
    },
  ): Promise<Exchange>
}

export function createSender(deps: {
  readonly client: HttpClient
  readonly clock: Clock
  readonly watch: Watch
}): Sender {
  const { client, clock, watch } = deps
  return {
    async send(request) {
      const { limits, onOpen } = request
      let reason: AbortReason | undefined
      const startedAtMs = clock.monotonic()
      const totalAtMs = limits.totalMs > 0 ? startedAtMs + limits.totalMs : Number.POSITIVE_INFINITY
      let connectedByMs = limits.connectMs > 0 ? startedAtMs + limits.connectMs : Number.POSITIVE_INFINITY
      let lastByteAtMs = startedAtMs
      let silentLimitMs = limits.firstByteMs > 0 ? limits.firstByteMs : Number.POSITIVE_INFINITY
      let isWaiting = true
      let beatMs = Number.POSITIVE_INFINITY
      let beat: (() => void) | undefined
      let nextBeatAtMs = Number.POSITIVE_INFINITY
      let stall: (() => void) | undefined

      const call = client.post(request)
      const abort = (by: AbortReason): void => {
        if (reason !== undefined) return
        reason = by
        call.abort(new Error(by))
      }
      const schedule = (): void => {
        const silentAtMs = isWaiting || stall ? lastByteAtMs + silentLimitMs : Number.POSITIVE_INFINITY
        const beatAtMs = isWaiting ? nextBeatAtMs : Number.POSITIVE_INFINITY
        watched.dueAtMs = Math.min(totalAtMs, silentAtMs, beatAtMs, connectedByMs)
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
          if (nowMs >= connectedByMs) {
            connectedByMs = Number.POSITIVE_INFINITY
            if (!call.isConnected()) return abort('unreachable')
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
      try {
        const answer = decoded(await call.answer)
        lastByteAtMs = clock.monotonic()
        silentLimitMs = limits.idleMs
        connectedByMs = Number.POSITIVE_INFINITY
        schedule()
        return {
          answer,
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

/** Plain bytes were asked for; some send others. */
function decoded(answer: HttpAnswer): HttpAnswer {
  const format = CONTENT_CODINGS[answer.fields['content-encoding']?.trim().toLowerCase() ?? '']
  if (!format) return answer
  const reader = bodyStream(answer)
    .pipeThrough(new DecompressionStream(format as CompressionFormat))
    .getReader()
  const { 'content-length': _length, ...fields } = answer.fields
  return { status: answer.status, fields, read: () => reader.read() as ReturnType<HttpAnswer['read']> }
}

export function bodyStream(answer: HttpAnswer): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream(
    {
      async pull(controller) {
        const { done, value } = await answer.read()
        if (done) controller.close()
        else controller.enqueue(value)
      },
    },
    { highWaterMark: 0 },
  )
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
  try {
    const parts: Uint8Array<ArrayBuffer>[] = []
    let size = 0
    for (;;) {
      const { done, value } = await exchange.answer.read()
      if (done) return parts.length === 1 ? parts[0]! : concat(parts)
      exchange.waiting(true)
      parts.push(value)
      size += value.length
      if (size > maxBytes) throw new GatewayError('bad_response_body', { detail: `more than ${maxBytes} bytes` })
    }
  } catch (cause) {
    throw cause instanceof GatewayError ? cause : asSendError(exchange.abortedBy(), cause)
  }
}
