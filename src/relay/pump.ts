/**
 * Moves a stream from the upstream to the client: the original bytes when both speak the same dialect, encoded text when
 * they do not. A decoder beside the bytes feeds the tally. Only whole frames go out, so that a comment or an error event
 * never lands inside one, and the last frame waits until the charge is journalled.
 */
import { GatewayError } from '../errors.ts'
import { concat } from '../lib/bytes.ts'
import type { Log } from '../lib/log.ts'
import { createSseParser, type SseFrame, sseComment } from '../lib/sse.ts'
import type { StreamDecoder, StreamEncoder, StreamEvent } from '../protocol/index.ts'
import { lastFrameEnd, withoutFrames } from './frame-bytes.ts'
import type { Gauge } from './gauge.ts'
import { createSkim } from './skim.ts'
import type { Tally } from './tally.ts'
import type { Ending } from './types.ts'
import { asSendError, type Exchange } from './upstream.ts'

export interface PumpOptions {
  readonly exchange: Exchange
  readonly reader: Pick<ReadableStreamDefaultReader<Uint8Array>, 'read'>
  readonly decoder: StreamDecoder
  /** Absent: the bytes are handed on as they came. */
  readonly encoder: StreamEncoder | undefined
  /** Leaves out the frame that carries nothing but the usage, which the client did not ask for. */
  readonly hidesUsage: boolean
  readonly tally: Tally
  readonly gauge: Gauge
  readonly maxLineChars: number
  /** Silence after which the client sees a comment. */
  readonly keepAliveMs: number
  /** Reads an abandoned stream to its end. */
  readonly drains: boolean
  /** Closes the connection of a client that takes nothing any more. */
  readonly hangUp: () => void
  /** Its lines carry the call's id here: a log of its own for each stream would be a dozen objects kept. */
  readonly log: Log
  readonly requestId: string
  readonly encodeError: (error: GatewayError) => string
  /** The upstream's first byte is here. */
  readonly onFirstByte: () => void
  /** Called exactly once. Resolves when the charge is journalled. @throws GatewayError when it cannot be */
  readonly settle: (ending: Ending, error?: GatewayError) => Promise<void>
}

export interface Pump {
  /**
   * Reads until there is something for the client, or `patienceMs` passed: from then on the client gets its headers and
   * comments, and a failure becomes an error event.
   * @throws GatewayError when the upstream fails before that: nothing was sent, so another channel may be tried
   */
  prime(patienceMs: number): Promise<void>
  readonly body: ReadableStream<Uint8Array>
  /** The client left: ends the call, or reads on alone if the channel drains. */
  abandon(): Promise<void>
  /** Ends the call now; what was delivered is billed. */
  interrupt(reason: 'client-gone' | 'shutting-down'): Promise<void>
}

/** What the client gets of a chunk, and what the upstream said of an error in it. */
interface Taken {
  readonly out: Uint8Array | undefined
  readonly failure: GatewayError | undefined
}
type Failure = Extract<StreamEvent, { type: 'error' }>

const utf8 = new TextEncoder()
const PING = utf8.encode(sseComment('PING'))
const BLANK_LINE = utf8.encode('\n\n')
const CUT = 'The upstream ended the stream before it was complete'
/** How long the rest of a finished upstream stream is awaited, so that its connection can be used again. */
const REST_MS = 1_000

export function createPump(options: PumpOptions): Pump {
  const { exchange, reader, decoder, encoder, hidesUsage, tally, gauge, encodeError, log, requestId } = options
  const parser = createSseParser({ maxLineChars: options.maxLineChars })
  const skim = createSkim(options.maxLineChars)
  let controller!: ReadableStreamDefaultController<Uint8Array>
  /** Bytes of a frame that is not complete yet. */
  let held: Uint8Array[] = []
  let isBlind = false
  let hasBytes = false
  let isCommitted = false
  let isEnded = false
  let isAbandoned = false
  let isClosed = false
  let failing: Promise<Uint8Array | undefined> | undefined
  /** The step under way. */
  let stepping: Promise<void> | undefined

  /** Events → tally and encoder, but for errors, which end the stream. @returns text of the encoder */
  const see = (events: readonly StreamEvent[]): string => {
    let text = ''
    for (const event of events) {
      if (event.type === 'error') continue
      tally.see(event)
      if (encoder) text += encoder.event(event)
    }
    return text
  }

  /** Frames → events. @returns text of the encoder, what the upstream said of an error, data of the frames to hide */
  const understand = (frames: readonly SseFrame[]) => {
    let text = ''
    let failure: GatewayError | undefined
    let hidden: Set<string> | undefined
    let last: readonly StreamEvent[] = []
    for (const frame of frames) {
      last = decoder.feed(frame)
      const error = last.find((event) => event.type === 'error')
      if (error) failure = upstreamSaid(error)
      text += see(last)
      if (hidesUsage && isUsageOnly(frame, last)) hidden = (hidden ?? new Set()).add(frame.data)
    }
    return { text, failure, hidden, last }
  }

  /** @returns the bytes of the frames that `chunk` completes; the rest is held */
  const wholeFrames = (chunk: Uint8Array, hasFrames: boolean): Uint8Array | undefined => {
    const isBetween = parser.isBetweenFrames()
    if (!isBetween && !hasFrames) {
      held.push(chunk)
      return undefined
    }
    // Nearly always a chunk is whole frames, and goes on as it is.
    if (isBetween && held.length === 0) return chunk
    const bytes = held.length === 0 ? chunk : concat([...held, chunk])
    const end = isBetween ? bytes.length : lastFrameEnd(bytes)
    held = end === bytes.length ? [] : [bytes.slice(end)]
    return end === 0 ? undefined : bytes.subarray(0, end)
  }

  /** One chunk of the upstream, or its end. @returns what the client gets of it */
  const take = (chunk: Uint8Array | undefined): Taken => {
    const isBetween = !isBlind && held.length === 0 && parser.isBetweenFrames()
    const skimmed = chunk && isBetween ? skim.read(chunk) : undefined
    if (skimmed) {
      const text = see(skimmed)
      // The encoder keeps what belongs behind a block that is still open.
      const out = text === '' ? undefined : utf8.encode(text)
      return { out: encoder ? out : chunk, failure: undefined }
    }
    const frames = isBlind ? [] : chunk ? parser.feed(chunk) : parser.end()
    const { text, failure, hidden, last } = understand(frames)
    if (chunk && isBetween && frames.length === 1 && parser.isBetweenFrames()) skim.learn(chunk, frames[0]!.data, last)
    else skim.forget()
    if (encoder) return { out: text === '' ? undefined : utf8.encode(text), failure }
    // Bytes after the end of what we can read are handed on as they are.
    const bytes = !chunk || isBlind ? takeHeld(chunk) : wholeFrames(chunk, frames.length > 0)
    const shown = bytes && hidden ? withoutFrames(bytes, hidden) : bytes
    return { out: shown?.length ? shown : undefined, failure }
  }
  const takeHeld = (chunk?: Uint8Array): Uint8Array | undefined => {
    const parts = chunk ? [...held, chunk] : held
    held = []
    return parts.length === 0 ? undefined : concat(parts)
  }

  /** A forwarded stream that we cannot read goes on; its bill is counted from what was read. */
  const takeFenced = (chunk: Uint8Array | undefined): Taken => {
    try {
      return take(chunk)
    } catch (cause) {
      if (encoder) return { out: undefined, failure: new GatewayError('bad_response_body', { cause }) }
      log.warn('a forwarded stream can no longer be read; the rest of it is not metered', { requestId, error: cause })
      isBlind = true
      return { out: takeHeld(chunk), failure: undefined }
    }
  }

  /** The end of the answer is here: journal first, then the last bytes. */
  const complete = async (last: Uint8Array | undefined): Promise<Uint8Array | undefined> => {
    let text = ''
    try {
      for (const event of decoder.end()) {
        tally.see(event)
        if (encoder) text += encoder.event(event)
      }
      const unreported = encoder && tally.unreported()
      if (unreported) text += encoder.event({ type: 'usage', usage: unreported })
    } catch (cause) {
      return fail('upstream-cut', new GatewayError('bad_response_body', { cause }), last)
    }
    isEnded = true
    isCommitted = true
    try {
      await options.settle('complete')
    } catch (error) {
      exchange.close()
      return utf8.encode(encodeError(error as GatewayError))
    }
    if (encoder) text += encoder.end()
    void readRest()
    return join(join(last, takeHeld()), text === '' ? undefined : utf8.encode(text))
  }

  const failNow = async (ending: Ending, error: GatewayError, last?: Uint8Array): Promise<Uint8Array | undefined> => {
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

  /** A stop may meet the end of a step that was under way: the first to come ends the stream. */
  const fail = async (ending: Ending, error: GatewayError, last?: Uint8Array): Promise<Uint8Array | undefined> => {
    // Nothing went to the client yet, so this is the failure of an attempt.
    if (!isCommitted) throw error
    if (failing) {
      await failing
      return undefined
    }
    failing = failNow(ending, error, last)
    return await failing
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

  /** What a read brought. @returns bytes for the client; a promise of the last ones at the end; undefined when more must be read */
  const arrived = (
    read: Awaited<ReturnType<typeof reader.read>>,
  ): Uint8Array | Promise<Uint8Array | undefined> | undefined => {
    exchange.waiting(false)
    if (!hasBytes && !read.done) {
      hasBytes = true
      options.onFirstByte()
    }
    const { out, failure } = takeFenced(read.value)
    if (failure) return fail('upstream-error', failure, out)
    const progress = decoder.progress()
    if (progress === 'done' || (read.done && (progress === 'finished' || isBlind))) return complete(out)
    return read.done ? ended(out) : out
  }

  const give = (bytes: Uint8Array | undefined): void => {
    if (isAbandoned || isClosed) return
    if (bytes) controller.enqueue(bytes)
    if (!isEnded) return
    isClosed = true
    controller.close()
  }

  /**
   * Reads until something went to the client, or to the end. Nearly always that is one read, which makes one promise
   * besides its own: with thousands of streams, each further one shows.
   */
  const step = (): Promise<void> => {
    if (gauge.isSpent(tally)) return stepOn()
    exchange.waiting(true)
    return reader.read().then(onRead, onCut)
  }
  const onRead = (read: Awaited<ReturnType<typeof reader.read>>): void | Promise<void> => {
    const out = arrived(read)
    if (!(out instanceof Uint8Array)) return out ? out.then(give) : stepOn()
    stepping = undefined
    give(out)
  }
  const onCut = async (cause: unknown): Promise<void> => give(await cut(cause))
  const stepOn = async (): Promise<void> => {
    for (;;) {
      // One read may hold more than one extension covers.
      while (gauge.isSpent(tally)) {
        if (!(await gauge.ready())) return give(await fail('out-of-quota', gauge.refusal()))
      }
      exchange.waiting(true)
      let read: Awaited<ReturnType<typeof reader.read>>
      try {
        read = await reader.read()
      } catch (cause) {
        return onCut(cause)
      }
      const out = await arrived(read)
      if (!out && !isEnded) continue
      stepping = undefined
      return give(out)
    }
  }

  /** The upstream closed in good order, but in the middle of its answer. */
  const ended = (out: Uint8Array | undefined): Promise<Uint8Array | undefined> => {
    if (!hasBytes) return fail('upstream-cut', new GatewayError('empty_response'))
    // What is left over is a frame without its end; an error event behind it would become part of it.
    const last = out && !encoder ? join(out, BLANK_LINE) : out
    return fail('upstream-cut', new GatewayError('do_request_failed', { public: CUT }), last)
  }

  const cut = (cause: unknown): Promise<Uint8Array | undefined> => {
    const reason = exchange.abortedBy()
    const error = asSendError(reason, cause)
    if (reason === 'client-gone' || reason === 'timeout' || reason === 'shutting-down') return fail(reason, error)
    return fail('upstream-cut', new GatewayError('do_request_failed', { public: CUT, cause }))
  }

  /** A step always waits for something before it ends, so that its end finds what is noted here. */
  const next = (): Promise<void> => {
    stepping = step()
    return stepping
  }

  const interrupt = async (reason: 'client-gone' | 'shutting-down'): Promise<void> => {
    if (isEnded) return
    exchange.abort(reason)
    // A step under way meets the abort and ends the call; one that still had bytes, or none at all, leaves it to us.
    await stepping?.catch(() => undefined)
    if (!isEnded) give(await fail(reason, asSendError(reason, undefined)))
  }
  const abandon = async (): Promise<void> => {
    if (isEnded || isAbandoned) return
    isAbandoned = true
    if (!options.drains) return interrupt('client-gone')
    while (!isEnded) await (stepping ?? next())
  }

  const body = new ReadableStream<Uint8Array>(
    {
      start(its) {
        controller = its
        exchange.onSilence(options.keepAliveMs, () => {
          if (isCommitted && !isAbandoned && !isEnded) controller.enqueue(PING)
        })
        exchange.onStall(() => {
          if (!isCommitted) return
          options.hangUp()
          interrupt('client-gone').catch((error) => log.error('a stalled call did not end well', { requestId, error }))
        })
      },
      pull: () => (isAbandoned || isEnded ? stepping : (stepping ?? next())),
      cancel: abandon,
    },
    { highWaterMark: 0 },
  )

  return {
    body,
    abandon,
    interrupt,
    async prime(patienceMs) {
      const first = next()
      let timer: ReturnType<typeof setTimeout> | undefined
      const patience = new Promise<void>((resolve) => {
        timer = setTimeout(() => {
          isCommitted = true
          resolve()
        }, patienceMs)
      })
      try {
        await Promise.race([first, patience])
      } finally {
        clearTimeout(timer)
      }
      isCommitted = true
    },
  }
}

const upstreamSaid = ({ message, errorType, code }: Failure): GatewayError =>
  new GatewayError('bad_response_status_code', {
    public: message,
    upstream: {
      status: 502,
      message,
      ...(errorType !== undefined && { type: errorType }),
      ...(code !== undefined && { code }),
    },
  })

/** A frame that has nothing but usage; one that also has a choice, even an empty one, may mean something to the client. */
function isUsageOnly(frame: SseFrame, events: readonly StreamEvent[]): boolean {
  if (events.length === 0 || !events.every((event) => event.type === 'usage')) return false
  const { choices } = JSON.parse(frame.data) as { choices?: unknown }
  return !Array.isArray(choices) || choices.length === 0
}

const join = (a: Uint8Array | undefined, b: Uint8Array | undefined): Uint8Array | undefined =>
  a && b ? concat([a, b]) : (a ?? b)
