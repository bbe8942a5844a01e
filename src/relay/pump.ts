/**
 * Moves a stream from the upstream to the client: the original chunks when both speak the same dialect, encoded text when
 * they do not. A decoder beside the bytes feeds the tally. The last frame waits until the charge is journalled.
 */
import { GatewayError } from '../errors.ts'
import { createSseParser, type SseFrame, sseComment, sseFrame } from '../lib/sse.ts'
import type { StreamDecoder, StreamEncoder, StreamEvent } from '../protocol/index.ts'
import type { Gauge } from './gauge.ts'
import type { Tally } from './tally.ts'
import type { Ending } from './types.ts'
import { asSendError, type Exchange } from './upstream.ts'

export interface PumpOptions {
  readonly exchange: Exchange
  readonly reader: ReadableStreamDefaultReader<Uint8Array>
  readonly decoder: StreamDecoder
  /** Absent: the bytes are handed on as they came. */
  readonly encoder: StreamEncoder | undefined
  /** Leaves out the frame that carries nothing but the usage, which the client did not ask for. */
  readonly hidesUsage: boolean
  readonly tally: Tally
  readonly gauge: Gauge
  readonly maxLineChars: number
  /** Reads an abandoned stream to its end. */
  readonly drains: boolean
  readonly encodeError: (error: GatewayError) => string
  /** Called exactly once. Resolves when the charge is journalled. @throws GatewayError when it cannot be */
  readonly settle: (ending: Ending, error?: GatewayError) => Promise<void>
}

export interface Pump {
  /**
   * Reads until there is something for the client.
   * @throws GatewayError when the upstream fails before that: nothing was sent, so another channel may be tried
   */
  prime(): Promise<void>
  readonly body: ReadableStream<Uint8Array>
  /** The client left: ends the call, or reads on alone if the channel drains. */
  abandon(): Promise<void>
  /** Ends the call now; what was delivered is billed. */
  interrupt(reason: 'client-gone' | 'shutting-down'): Promise<void>
}

/** What a client sees between two frames after this much silence. */
const KEEP_ALIVE_MS = 20_000
const PING = new TextEncoder().encode(sseComment('PING'))
/** How long the rest of a finished upstream stream is awaited, so that its connection can be used again. */
const REST_MS = 1_000

export function createPump(options: PumpOptions): Pump {
  const { exchange, reader, decoder, encoder, hidesUsage, tally, gauge, encodeError } = options
  const parser = createSseParser({ maxLineChars: options.maxLineChars })
  const utf8 = new TextEncoder()
  let primed: Uint8Array | undefined
  let isEnded = false
  let isPrimed = false
  let isAbandoned = false

  /** @returns what the client gets of these frames; the error event of the upstream, if there was one */
  const carry = (frames: readonly SseFrame[], chunk: Uint8Array | undefined) => {
    let text = ''
    let failure: Extract<StreamEvent, { type: 'error' }> | undefined
    for (const frame of frames) {
      const events = decoder.feed(frame)
      for (const event of events) {
        if (event.type === 'error') failure = event
        else {
          tally.see(event)
          if (encoder) text += encoder.event(event)
        }
      }
      if (hidesUsage && !isUsageOnly(events)) text += sseFrame(frame.data, frame.event)
    }
    const out = encoder || hidesUsage ? (text === '' ? undefined : utf8.encode(text)) : chunk
    return { out, failure }
  }

  /** The end of the answer is here: journal first, then the last bytes. */
  const complete = async (last: Uint8Array | undefined): Promise<Uint8Array | undefined> => {
    let text = ''
    for (const event of decoder.end()) {
      tally.see(event)
      if (encoder) text += encoder.event(event)
    }
    const unreported = encoder && tally.unreported()
    if (unreported) text += encoder.event({ type: 'usage', usage: unreported })
    isEnded = true
    isPrimed = true
    try {
      await options.settle('complete')
    } catch (error) {
      return utf8.encode(encodeError(error as GatewayError))
    }
    if (encoder) text += encoder.end()
    void readRest()
    return join(last, text === '' ? undefined : utf8.encode(text))
  }

  const fail = async (ending: Ending, error: GatewayError, last?: Uint8Array): Promise<Uint8Array | undefined> => {
    // Nothing went to the client yet, so this is the failure of an attempt.
    if (!isPrimed) throw error
    isEnded = true
    exchange.abort('done')
    exchange.close()
    let shown = error
    try {
      await options.settle(ending, error)
    } catch (journalError) {
      shown = journalError as GatewayError
    }
    // After the upstream's own error event, forwarded as it came, there is nothing to add.
    const isSaid = ending === 'upstream-error' && !encoder && last !== undefined
    return isSaid ? last : join(last, utf8.encode(encodeError(shown)))
  }

  const readRest = async (): Promise<void> => {
    const timer = setTimeout(() => exchange.abort('done'), REST_MS)
    try {
      while (!(await reader.read()).done);
    } catch {
      // The answer is complete; how its connection ends is of no interest.
    } finally {
      clearTimeout(timer)
      exchange.close()
    }
  }

  /** One step: @returns bytes for the client, or nothing at the end */
  const step = async (): Promise<Uint8Array | undefined> => {
    for (;;) {
      if (gauge.isSpent(tally.outputTokens()) && !(await gauge.ready())) {
        return fail('out-of-quota', new GatewayError('insufficient_user_quota'))
      }
      exchange.waiting(true)
      let read: Awaited<ReturnType<typeof reader.read>>
      try {
        read = await reader.read()
      } catch (cause) {
        return cut(cause)
      }
      exchange.waiting(false)
      let frames: readonly SseFrame[]
      try {
        frames = read.done ? parser.end() : parser.feed(read.value)
      } catch (cause) {
        return fail('upstream-cut', new GatewayError('bad_response_body', { cause }))
      }
      const { out, failure } = carry(frames, read.value)
      if (failure) {
        const error = new GatewayError('bad_response_status_code', {
          public: failure.message,
          upstream: {
            status: 502,
            message: failure.message,
            ...(failure.errorType !== undefined && { type: failure.errorType }),
            ...(failure.code !== undefined && { code: failure.code }),
          },
        })
        return fail('upstream-error', error, out)
      }
      const progress = decoder.progress()
      if (progress === 'done' || (read.done && progress === 'finished')) return complete(out)
      if (read.done) return fail('upstream-cut', new GatewayError('do_request_failed', { public: CUT }), out)
      if (out) return out
    }
  }

  const cut = (cause: unknown): Promise<Uint8Array | undefined> => {
    const reason = exchange.abortedBy()
    const error = asSendError(reason, cause)
    if (reason === 'client-gone') return fail('client-gone', error)
    if (reason === 'timeout') return fail('timeout', error)
    if (reason === 'shutting-down') return fail('shutting-down', error)
    return fail('upstream-cut', new GatewayError('do_request_failed', { public: CUT, cause }))
  }

  const interrupt = async (reason: 'client-gone' | 'shutting-down'): Promise<void> => {
    if (isEnded) return
    exchange.abort(reason)
    // A step under way meets the abort and ends the call; without one it is ended here.
    if (!isStepping) await fail(reason, asSendError(reason, undefined))
  }
  const abandon = async (): Promise<void> => {
    if (isEnded || isAbandoned) return
    isAbandoned = true
    if (!options.drains) return interrupt('client-gone')
    while (isStepping) await stepping.catch(() => undefined)
    while (!isEnded) await next()
  }

  let isStepping = false
  let stepping: Promise<Uint8Array | undefined> = Promise.resolve(undefined)
  const next = (): Promise<Uint8Array | undefined> => {
    isStepping = true
    stepping = step().finally(() => {
      isStepping = false
    })
    return stepping
  }

  const body = new ReadableStream<Uint8Array>(
    {
      start(controller) {
        exchange.onSilence(KEEP_ALIVE_MS, () => {
          if (isAbandoned || isEnded || !parser.isBetweenFrames()) return
          controller.enqueue(PING)
        })
      },
      async pull(controller) {
        const chunk = primed ?? (isEnded ? undefined : await next())
        primed = undefined
        if (isAbandoned) return
        if (chunk) controller.enqueue(chunk)
        if (isEnded) controller.close()
      },
      cancel: abandon,
    },
    { highWaterMark: 0 },
  )

  return {
    body,
    abandon,
    interrupt,
    async prime() {
      primed = await next()
      isPrimed = true
    },
  }
}

const CUT = 'The upstream ended the stream before it was complete'

/** A frame that has events, all of them usage. */
const isUsageOnly = (events: readonly StreamEvent[]): boolean =>
  events.length > 0 && events.every((event) => event.type === 'usage')

function join(a: Uint8Array | undefined, b: Uint8Array | undefined): Uint8Array | undefined {
  if (!a || !b) return a ?? b
  const joined = new Uint8Array(a.length + b.length)
  joined.set(a)
  joined.set(b, a.length)
  return joined
}
