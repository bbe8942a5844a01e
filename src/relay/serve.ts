/**
 * Serves a call from the answer of one upstream: whole or as a stream, forwarded or converted, and charged before its last
 * byte goes out.
 */
import type { Prices } from '../domain/billing/index.ts'
import type { Channels } from '../domain/channels/index.ts'
import type { Options } from '../domain/options/index.ts'
import { asGatewayError, GatewayError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { type ChatResponse, codecs, errorInBody } from '../protocol/index.ts'
import type { Built } from './build.ts'
import { failureOf, reasonOf } from './failure.ts'
import { createGauge } from './gauge.ts'
import { createPump } from './pump.ts'
import { consumedRecord, type Facts, type Trace } from './record.ts'
import { type Stamp, streamResponse, wholeResponse } from './respond.ts'
import type { Running } from './running.ts'
import type { Tally } from './tally.ts'
import type { Attempt, Call, CallReport, Ending, Purse } from './types.ts'
import { bodyStream, type Exchange, readAnswer } from './upstream.ts'

export interface ServeDeps {
  readonly channels: Channels
  readonly prices: Prices
  readonly options: Options
  readonly log: Log
  readonly clock: Clock
  readonly stamp: Stamp
  readonly isTextCounted: boolean
  /** Hears of each call when it has ended; must not throw. */
  readonly onCall?: (report: CallReport) => void
  readonly limits: {
    /** Longest line of a stream. */
    readonly lineChars: number
    /** Silence after which a stream's client sees a comment, unless an option says otherwise. */
    readonly keepAliveMs: number
    /** How long a stream's first frame is awaited before the client gets its headers, and with them comments. */
    readonly patienceMs: number
  }
}

/** What is to be done for one call. */
export interface Job {
  readonly call: Call
  readonly trace: Trace
  readonly purse: Purse
  readonly running: Running
  /** A stream has ended, and with it the call. */
  readonly onStreamed: () => void
}

/** An attempt that an upstream has answered, or at least heard of. */
export interface Served {
  readonly job: Job
  readonly entry: Attempt
  readonly built: Built
  readonly exchange: Exchange | undefined
  readonly tally: Tally
}

/** Complete answers are held in memory until they are billed. */
const MAX_ANSWER_BYTES = 256 * 1024 * 1024
const UPSTREAM_ID_HEADERS = ['x-oneapi-request-id', 'x-request-id', 'request-id'] as const

export function createServe(deps: ServeDeps) {
  const { channels, prices, options, log, clock, stamp, limits } = deps

  const now = () => ({ wallMs: clock.now(), monotonicMs: clock.monotonic() })

  const reportOf = (
    facts: Facts,
    trace: Trace,
    outcome: Pick<CallReport, 'ending' | 'code'> & Partial<CallReport>,
  ): CallReport => ({
    protocol: facts.endpoint.protocol,
    operation: facts.endpoint.operation,
    isStream: facts.isStream,
    durationMs: clock.monotonic() - facts.startedAtMs,
    firstByteMs: trace.firstByteAtMs === undefined ? undefined : trace.firstByteAtMs - facts.startedAtMs,
    attempts: trace.attempts,
    inputTokens: 0,
    outputTokens: 0,
    quota: 0,
    ...outcome,
  })

  /** Ends the hold. @throws GatewayError when the journal does not take it; nothing is charged then */
  const settle = async (
    { job, entry, built, exchange, tally }: Served,
    ending: Ending,
    error?: GatewayError,
    skippedFrames = 0,
  ): Promise<void> => {
    const { call, trace, purse, running } = job
    if (running.isSettled) return
    running.isSettled = true
    const at = now()
    if (entry.endedAtMs === 0) entry.endedAtMs = at.monotonicMs
    if (error && entry.reason === '') entry.reason = reasonOf(error)
    const bill = tally.bill(ending === 'complete')
    const charge = prices.charge(purse.price, bill.usage)
    const quota = isFree(call) ? 0 : charge.quota
    const record = consumedRecord(
      {
        call,
        isFree: isFree(call),
        trace,
        purse,
        charge,
        ending,
        error,
        isCounted: bill.isCounted,
        upstreamRequestId: upstreamId(exchange),
        protocol: built.protocol,
        losses: built.losses,
        touched: built.touched,
        isPromptChanged: built.isPromptChanged,
        skippedFrames,
      },
      at,
    )
    try {
      await purse.hold.settle({ quota, record })
      running.billedTokens = isFree(call) ? 0 : charge.promptTokens + charge.completionTokens
    } catch (failure) {
      log.error('a charge was not journalled; the call ends in an error', { requestId: call.id, error: failure })
      await purse.hold.release()
      throw asGatewayError(failure)
    }
    const { inputTokens, outputTokens } = bill.usage
    const report = reportOf(call, trace, {
      ending,
      code: error?.code ?? '',
      inputTokens,
      outputTokens,
      quota,
    })
    deps.onCall?.(report)
    log.info('call', {
      requestId: call.id,
      protocol: call.endpoint.protocol,
      operation: call.endpoint.operation,
      model: call.model,
      channel: entry.channel.id,
      way: entry.way,
      ending,
      attempts: trace.attempts.length,
      ms: Math.round(report.durationMs),
      inputTokens,
      outputTokens,
      quota,
      ...(built.losses.length > 0 && { losses: built.losses.length }),
    })
  }

  const whole = async (served: Served & { readonly secrets: readonly string[]; readonly exchange: Exchange }) => {
    const { job, entry, built, exchange, tally, secrets } = served
    const { call } = job
    const { provider } = entry.channel
    const bytes = await readAnswer(exchange, MAX_ANSWER_BYTES)
    exchange.close()
    let json: unknown
    try {
      json = JSON.parse(new TextDecoder().decode(bytes))
    } catch (cause) {
      throw new GatewayError(bytes.length === 0 ? 'empty_response' : 'bad_response_body', { cause })
    }
    const unwrapped = provider.unwrap ? provider.unwrap(json, built.upstreamCall, built.upstreamChannel) : json
    const said = errorInBody(unwrapped, secrets)
    if (said) throw failureOf(said, entry.channel)
    const reading = call.endpoint.operation === 'chat' ? codecs[built.protocol] : call.endpoint.reading
    const isForwarded = built.protocol === call.endpoint.protocol
    let body: Uint8Array<ArrayBuffer> | string = unwrapped === json ? bytes : JSON.stringify(unwrapped)
    try {
      const usage = isForwarded ? reading.usageOf(unwrapped) : undefined
      if (usage) tally.seeUsage(usage)
      else {
        const decoded = reading.decodeResponse(unwrapped)
        tally.seeWhole(decoded)
        if (!isForwarded) body = encoded(call, decoded, tally)
      }
    } catch (cause) {
      if (!isForwarded) throw asGatewayError(cause)
      // The bytes are the client's whatever we make of them; the bill is counted.
      log.warn('an answer could not be read; it is metered as unknown', { requestId: call.id, error: cause })
    }
    await settle(served, 'complete')
    channels.report(outcomeOf(entry))
    return wholeResponse(body, isForwarded ? exchange.answer.fields : undefined, call.id, stamp)
  }

  const encoded = (call: Call, decoded: ChatResponse, tally: Tally): string =>
    JSON.stringify(
      codecs[call.endpoint.protocol].encodeResponse(
        { ...decoded, usage: decoded.usage ?? tally.unreported() },
        { id: call.id, model: call.model, createdAtSec: Math.floor(clock.now() / 1000) },
      ).json,
    )

  const stream = async (served: Served & { readonly exchange: Exchange }): Promise<Response> => {
    const { entry, exchange, tally } = served
    const { built, job } = withoutBodies(served)
    const { call, trace, purse, running } = job
    const { provider } = entry.channel
    const { answer } = exchange
    const source = provider.transformStream
      ? provider.transformStream(bodyStream(answer), served.built.upstreamCall).getReader()
      : answer
    const codec = codecs[call.endpoint.protocol]
    const decoder =
      call.endpoint.operation === 'chat'
        ? codecs[built.protocol].streamDecoder()
        : call.endpoint.reading.streamDecoder()
    const encoder =
      built.protocol === call.endpoint.protocol
        ? undefined
        : codec.streamEncoder({
            model: call.model,
            id: call.id,
            createdAtSec: Math.floor(clock.now() / 1000),
            includeUsage: call.includeUsage === true,
            inputTokensEstimate: call.inputTokens,
          })
    const pump = createPump({
      exchange,
      reader: source,
      decoder,
      encoder,
      hidesUsage: built.hidesUsage,
      tally,
      gauge: createGauge({
        prices,
        price: purse.price,
        hold: purse.hold,
        inputTokens: call.inputTokens,
        isCovered: call.maxOutputTokens !== undefined,
      }),
      maxLineChars: limits.lineChars,
      keepAliveMs: options.get('general_setting.ping_interval_enabled')
        ? options.get('general_setting.ping_interval_seconds') * 1000
        : limits.keepAliveMs,
      drains: running.drains,
      hangUp: () => running.hangUp(),
      log,
      requestId: call.id,
      onFirstByte: () => {
        trace.firstByteAtMs ??= clock.monotonic()
        channels.report({ ...outcomeOf(entry), isUnderWay: true })
      },
      encodeError: (error) => codec.encodeStreamError(error, call.id),
      async settle(ending, error) {
        channels.report(outcomeOf(entry, error))
        try {
          await settle({ job, entry, built, exchange, tally }, ending, error, decoder.skipped())
        } finally {
          running.close()
          job.onStreamed()
        }
      },
    })
    await pump.prime(limits.patienceMs)
    running.handOver(pump)
    return streamResponse(pump.body, call.id, stamp)
  }

  return { reportOf, settle, whole, stream }
}

/** Nobody pays: a channel test, or a count of tokens. */
export const isFree = (call: Call): boolean => call.isTest || call.endpoint.operation === 'count-tokens'

/** What an attempt says of its channel. @param error absent: it served */
export const outcomeOf = ({ channel, keyIndex, startedAtMs }: Attempt, error?: GatewayError) => ({
  channelId: channel.id,
  keyIndex,
  startedAtMs,
  error,
})

const NO_BYTES = new Uint8Array()
const NO_HEADERS = new Headers()
const NO_QUERY = new URLSearchParams()

/** What a stream needs to know of its call to the end: thousands of open streams must not keep thousands of prompts and headers. */
const withoutBodies = <T extends { readonly job: { readonly call: Call }; readonly built: Built }>({
  job,
  built,
}: T) => {
  const { long: _long, ...call } = job.call
  return {
    job: {
      ...job,
      call: { ...call, bytes: NO_BYTES, json: {}, clientHeaders: NO_HEADERS, query: NO_QUERY },
    } as T['job'],
    built: {
      ...built,
      body: '',
      headers: NO_HEADERS,
      upstreamCall: { ...built.upstreamCall, json: {}, clientHeaders: NO_HEADERS, query: NO_QUERY },
    } as Built,
  }
}

const upstreamId = (exchange: Exchange | undefined): string => {
  for (const name of UPSTREAM_ID_HEADERS) {
    const value = exchange?.answer.fields[name]
    if (value) return value
  }
  return ''
}
