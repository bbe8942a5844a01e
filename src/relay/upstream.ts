/**
 * Sends one request upstream and reads the answer, with its time-outs: of the connection, until the headers, of silence, and
 * of the whole call. Whoever ends the call (client, time-out, stop of the node) aborts it here, and the reason is kept.
 */
import { asGatewayError, GatewayError } from '../errors.ts'
import { concat } from '../lib/bytes.ts'
import type { Clock } from '../lib/clock.ts'
import { type HttpAnswer, type HttpCall, type HttpClient, HttpError, type HttpRequest } from '../lib/http/client.ts'
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

export function createSender({
  client,
  clock,
  watch,
}: {
  readonly client: HttpClient
  readonly clock: Clock
  readonly watch: Watch
}): Sender {
  return {
    async send(request) {
      const exchange = new Sent(client.post(request), request.limits, clock, watch)
      request.onOpen((reason) => exchange.abort(reason))
      try {
        exchange.begin(decoded(await exchange.call.answer))
        return exchange
      } catch (cause) {
        exchange.close()
        throw asSendError(exchange.abortedBy(), cause)
      }
    },
  }
}

/** What was sent, its limits watched until it is closed. */
class Sent implements Exchange, Watched {
  readonly call: HttpCall
  answer!: HttpAnswer
  place = -1
  dueAtMs = 0
  isTouched = false
  readonly #idleMs: number
  readonly #clock: Clock
  readonly #watch: Watch
  readonly #totalAtMs: number
  #connectedByMs: number
  #lastByteAtMs: number
  #silentLimitMs: number
  #reason: AbortReason | undefined
  #isWaiting = true
  #beatMs = Number.POSITIVE_INFINITY
  #beat: (() => void) | undefined
  #nextBeatAtMs = Number.POSITIVE_INFINITY
  #stall: (() => void) | undefined

  constructor(call: HttpCall, limits: UpstreamLimits, clock: Clock, watch: Watch) {
    const nowMs = clock.monotonic()
    this.call = call
    this.#idleMs = limits.idleMs
    this.#clock = clock
    this.#watch = watch
    this.#totalAtMs = nowMs + (limits.totalMs || Number.POSITIVE_INFINITY)
    this.#connectedByMs = nowMs + (limits.connectMs || Number.POSITIVE_INFINITY)
    this.#silentLimitMs = limits.firstByteMs || Number.POSITIVE_INFINITY
    this.#lastByteAtMs = nowMs
    this.#schedule()
    watch.add(this)
  }

  begin(answer: HttpAnswer): void {
    this.answer = answer
    this.#lastByteAtMs = this.#clock.monotonic()
    this.#silentLimitMs = this.#idleMs
    this.#connectedByMs = Number.POSITIVE_INFINITY
    this.#schedule()
  }
  abort(by: AbortReason): void {
    if (this.#reason !== undefined) return
    this.#reason = by
    this.call.abort(new Error(by))
  }
  abortedBy(): AbortReason | undefined {
    return this.#reason
  }
  waiting(isWaiting: boolean): void {
    this.#isWaiting = isWaiting
    this.isTouched = true
  }
  onSilence(everyMs: number, call: () => void): void {
    this.#beatMs = everyMs
    this.#beat = call
    this.#nextBeatAtMs = this.#clock.monotonic() + everyMs
    this.#schedule()
  }
  onStall(call: () => void): void {
    this.#stall = call
  }
  close(): void {
    this.#watch.delete(this)
  }

  touched(nowMs: number): void {
    this.#lastByteAtMs = nowMs
    if (this.#beat) this.#nextBeatAtMs = nowMs + this.#beatMs
    this.#schedule()
  }
  due(nowMs: number): void {
    const isSilent = nowMs >= this.#lastByteAtMs + this.#silentLimitMs
    if (nowMs >= this.#totalAtMs || (isSilent && this.#isWaiting)) {
      this.abort('timeout')
      this.dueAtMs = Number.POSITIVE_INFINITY
      return
    }
    if (nowMs >= this.#connectedByMs) {
      this.#connectedByMs = Number.POSITIVE_INFINITY
      if (!this.call.isConnected()) this.abort('unreachable')
    }
    if (isSilent && this.#stall) {
      this.#stall()
      this.#stall = undefined
    }
    if (this.#isWaiting && nowMs >= this.#nextBeatAtMs) {
      this.#nextBeatAtMs = nowMs + this.#beatMs
      this.#beat?.()
    }
    this.#schedule()
  }
  #schedule(): void {
    const silentAtMs =
      this.#isWaiting || this.#stall ? this.#lastByteAtMs + this.#silentLimitMs : Number.POSITIVE_INFINITY
    const beatAtMs = this.#isWaiting ? this.#nextBeatAtMs : Number.POSITIVE_INFINITY
    this.dueAtMs = Math.min(this.#totalAtMs, silentAtMs, beatAtMs, this.#connectedByMs)
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
      // Not the upstream's fault: it is a key, or a setting, that no header can hold.
      if (cause instanceof HttpError && cause.code === 'HTTP_BAD_FIELD') return asGatewayError(cause)
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
    const { answer } = exchange
    const parts: Uint8Array<ArrayBuffer>[] = []
    let size = 0
    for (;;) {
      const now = answer.readNow?.()
      const { done, value } = now ? { done: now.length === 0, value: now } : await answer.read()
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
