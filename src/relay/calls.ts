/**
 * Carries one call from end to end: who pays, which channels, money before work, attempts in turn, and exactly one end of
 * the hold. Nothing is tried again once a byte went to the client.
 */
import { estimateInputTokens, estimateLongInput, type Hold, type Ledger } from '../domain/billing/index.ts'
import { type Candidates, normaliseModel, shouldRetry } from '../domain/channels/index.ts'
import { asGatewayError, GatewayError } from '../errors.ts'
import { createBag } from '../lib/bag.ts'
import type { Turns } from '../lib/turns.ts'
import { type Built, buildUpstream, wayTo } from './build.ts'
import { readFailure, reasonOf } from './failure.ts'
import { refusalOf } from './gauge.ts'
import { countRecord, errorRecord, type Facts, type Trace } from './record.ts'
import type { Refusals } from './refusals.ts'
import { jsonResponse } from './respond.ts'
import { type Client, type LiveCall, Running } from './running.ts'
import { createServe, isFree, type Job, outcomeOf, type ServeDeps } from './serve.ts'
import { Tally } from './tally.ts'
import type { Attempt, Call, Purse } from './types.ts'
import { asSendError, type Exchange, type Sender, type UpstreamLimits } from './upstream.ts'

export interface CallsDeps extends ServeDeps {
  readonly ledger: Ledger
  readonly sender: Sender
  readonly refusals: Refusals
  readonly turns: Turns
  readonly isErrorLogged: boolean
  readonly isUsageForced: boolean
  readonly limits: UpstreamLimits & ServeDeps['limits']
}

export function createCalls(deps: CallsDeps) {
  const { channels, ledger, prices, options, sender, refusals, log, clock, stamp, turns, limits } = deps
  const { reportOf, settle, whole, stream } = createServe(deps)
  const live = createBag<LiveCall>()
  let onIdle: (() => void) | undefined

  const now = () => ({ wallMs: clock.now(), monotonicMs: clock.monotonic() })
  const enter = (call: LiveCall): void => void live.add(call)
  const leave = (call: LiveCall): void => {
    live.delete(call)
    if (live.size === 0) onIdle?.()
  }

  /** A refused call leaves its row, however it was refused. Best effort: the refusal itself stands. */
  const noteRefusal = async (facts: Facts, trace: Trace, group: string, error: GatewayError, hold?: Hold) => {
    const record = deps.isErrorLogged ? errorRecord(facts, trace, group, error, now()) : undefined
    // Past the limit rows and lines of refusals are joined; what reached an upstream always has its own.
    const admitted = record && (trace.attempts.length > 0 ? record : refusals.admit(record, error.code))
    if (admitted)
      log.info('call', {
        requestId: facts.id,
        protocol: facts.endpoint.protocol,
        operation: facts.endpoint.operation,
        model: facts.model,
        ending: 'refused',
        code: error.code,
        status: error.status,
        attempts: trace.attempts.length,
        ms: Math.round(clock.monotonic() - facts.startedAtMs),
      })
    deps.onCall?.(reportOf(facts, trace, { ending: 'refused', code: error.code }))
    try {
      if (hold) await hold.release(admitted)
      else if (admitted) await ledger.note(admitted)
    } catch (failure) {
      log.error('the row of a refused call was not journalled', { requestId: facts.id, error: failure })
    }
  }

  /** @throws GatewayError, after its row is written */
  const carry = async (call: Call, client: Client): Promise<Response> => {
    const trace: Trace = { attempts: [], leftOut: [], firstByteAtMs: undefined }
    const running = new Running(call.id, client, log)
    enter(running)
    let purse: Purse | undefined
    let isHandedOver = false
    try {
      checkModel(call)
      const routes = routesOf(call, trace)
      const price = priceIn(routes[0]!.group, call)
      const hold = await ledger.hold(call.caller.payer, isFree(call) ? 0 : estimate(price, call), client.signal)
      purse = { price, hold, group: routes[0]!.group }
      const onStreamed = (): void => leave(running)
      const response = await attempts({ call, trace, purse, running, onStreamed, routes })
      isHandedOver = true
      return response
    } catch (thrown) {
      const error = asGatewayError(thrown)
      if (error.code === 'internal_error')
        log.error('a call failed', { requestId: call.id, error: error.cause ?? error })
      if (!running.isSettled)
        await noteRefusal(call, trace, purse?.group ?? call.caller.groups[0] ?? '', error, purse?.hold)
      throw error
    } finally {
      if (!isHandedOver || !running.isStreaming) {
        running.close()
        leave(running)
      }
    }
  }

  /**
   * Counts the tokens of a call: an upstream that can is asked, else our own count answers. Costs nothing.
   * @throws GatewayError, after its row is written
   */
  const count = async (call: Call, client: Client): Promise<Response> => {
    const trace: Trace = { attempts: [], leftOut: [], firstByteAtMs: undefined }
    try {
      checkModel(call)
      const [route] = routesOf(call, trace)
      const isOffered = route!.candidates.any() !== undefined
      if (!isOffered) {
        await ledger.note(countRecord(call, trace, route!.group, now()))
        return jsonResponse({ input_tokens: call.inputTokens }, call.id, stamp)
      }
    } catch (thrown) {
      const error = asGatewayError(thrown)
      await noteRefusal(call, trace, call.caller.groups[0] ?? '', error)
      throw error
    }
    try {
      return await carry(call, client)
    } catch (thrown) {
      const error = asGatewayError(thrown)
      // An upstream that fails, or has no such path, leaves our own count; one that finds the call wrong is right.
      const isAnswered = error.blame !== 'upstream' || error.status === 400 || error.status === 413
      if (isAnswered) throw error
      return jsonResponse({ input_tokens: call.inputTokens }, call.id, stamp)
    }
  }

  const checkModel = ({ caller, model }: Call): void => {
    const { modelLimits, forcedChannelId } = caller
    if (!modelLimits || forcedChannelId !== undefined) return
    if (modelLimits.has(model) || modelLimits.has(normaliseModel(model))) return
    throw new GatewayError('access_denied', { params: { reason: `This API key may not use the model ${model}` } })
  }

  const priceIn = (group: string, { model, caller }: Call) =>
    prices.find({ model, userGroup: caller.userGroup, usingGroup: group, acceptsUnpriced: caller.acceptsUnpriced })

  const estimate = (price: Purse['price'], call: Call): number => prices.estimate(price, call)

  /** Groups that have a channel for the model, in the caller's order. @throws GatewayError when none has */
  const routesOf = (call: Call, trace: Trace): readonly Route[] => {
    const { caller, model } = call
    const found: Route[] = []
    for (const group of caller.groups) {
      const candidates = channels.candidates({
        model,
        group,
        operation: { name: call.endpoint.operation, isOffered: (provider) => wayTo(provider, call) !== undefined },
        forcedChannelId: caller.forcedChannelId,
        isTest: call.isTest,
      })
      trace.leftOut.push(...candidates.leftOut)
      if (!candidates.isEmpty) found.push({ group, candidates })
      if (caller.forcedChannelId !== undefined) break
    }
    if (found.length > 0) return found
    throw new GatewayError('model_not_found', { params: { model, group: caller.groups.join(', ') } })
  }

  interface Route {
    readonly group: string
    readonly candidates: Candidates
  }
  interface Trip extends Job {
    readonly routes: readonly Route[]
  }

  /** The loop: one channel after the other, each at most once, until one serves or the rules say stop. */
  const attempts = async (job: Trip): Promise<Response> => {
    const { call, trace, purse, routes } = job
    const { caller } = call
    const tried = new Set<number>()
    let lastError: GatewayError | undefined
    for (const { group, candidates } of routes) {
      const allowed = options.get('RetryTimes')
      for (let index = 0; index <= allowed; index++) {
        const channel = candidates.next(index, tried)
        if (!channel) break
        tried.add(channel.id)
        try {
          if (purse.group !== group) await pay(purse, group, call)
          return await attempt(job, channel, trace.attempts.length, lastError)
        } catch (thrown) {
          const error = asGatewayError(thrown)
          lastError = error
          const isForced = caller.forcedChannelId !== undefined
          const statusCodes = options.get('AutomaticRetryStatusCodes')
          // The last attempt of a group is followed by the next group, if the key wants that and there are retries at all.
          const attemptsLeft = caller.crossGroupRetry ? allowed : allowed - index
          if (job.running.isSettled || !shouldRetry({ error, attemptsLeft, isForced, statusCodes })) throw error
        }
      }
      if (lastError && !caller.crossGroupRetry) throw lastError
    }
    throw (
      lastError ??
      new GatewayError('model_not_found', { params: { model: call.model, group: caller.groups.join(', ') } })
    )
  }

  /** Another group may be dearer: its attempt is made only if the hold covers it. */
  const pay = async (purse: Purse, group: string, call: Call): Promise<void> => {
    const price = priceIn(group, call)
    const missing = isFree(call) ? 0 : estimate(price, call) - purse.hold.amount
    if (missing > 0 && !(await purse.hold.extend(missing))) throw refusalOf(purse.hold)
    purse.price = price
    purse.group = group
  }

  const attempt = async (
    job: Job,
    channel: NonNullable<ReturnType<Candidates['next']>>,
    retryIndex: number,
    lastError: GatewayError | undefined,
  ): Promise<Response> => {
    const { call, trace, purse, running } = job
    const entry: Attempt = {
      channel,
      keyIndex: 0,
      group: purse.group,
      upstreamModel: call.model,
      way: 'forward',
      startedAtMs: clock.monotonic(),
      endedAtMs: 0,
      status: 0,
      reason: '',
    }
    trace.attempts.push(entry)
    let exchange: Exchange | undefined
    let tally: Tally | undefined
    let built: Built | undefined
    let isSent = false
    try {
      const key = channels.takeKey(channel)
      if (!key) throw new GatewayError('channel:no_available_key')
      entry.keyIndex = key.index
      const upstreamModel = channels.upstreamModel(channel, call.model)
      if (call.readers) await turns.next()
      built = await buildUpstream(call, channel, key.key, upstreamModel, {
        isPassThrough:
          options.get('global.pass_through_request_enabled') || channel.setting.pass_through_body_enabled === true,
        isUsageForced: deps.isUsageForced,
        defaultMaxTokens: options.get('claude.default_max_tokens'),
        group: purse.group,
        retryIndex,
        lastError,
        turns,
      })
      entry.upstreamModel = upstreamModel
      entry.way = built.way
      running.drains = channel.setting.drain === true
      tally = new Tally({
        model: call.model,
        inputTokens: call.inputTokens,
        isTextCounted: deps.isTextCounted,
        mapUsage: channel.provider.mapUsage,
      })
      // Who left before the upstream heard of the call pays nothing.
      const left = running.abortedBy()
      if (left !== undefined) throw asSendError(left, undefined)
      isSent = true
      const sending = sender.send({
        url: built.url,
        headers: built.headers,
        body: built.body,
        proxy: channel.setting.proxy ?? '',
        limits,
        onOpen: (abort) => running.open(abort),
      })
      // Megabytes are not kept beside the client's bytes while the upstream works: those are there to try again.
      if (call.readers) built = { ...built, body: '' }
      exchange = await sending
      const { answer } = exchange
      entry.status = answer.status
      const secrets = [key.key]
      if (answer.status < 200 || answer.status > 299) throw await readFailure(exchange, channel, secrets)
      const isEvents = (answer.fields['content-type'] ?? '').includes('text/event-stream')
      const transforms = call.isStream && channel.provider.transformStream !== undefined
      // Some upstreams stream whatever was asked for; that is what the client gets then, too.
      return isEvents || transforms
        ? await stream({ job, entry, built, exchange, tally })
        : await whole({ job, entry, built, exchange, tally, secrets })
    } catch (thrown) {
      const error = asGatewayError(thrown)
      exchange?.abort('done')
      exchange?.close()
      entry.endedAtMs = clock.monotonic()
      entry.reason = entry.reason || reasonOf(error)
      channels.report(outcomeOf(entry, error))
      // The upstream had the request: what it read is paid for, though nobody waits for the answer.
      const reason = running.abortedBy()
      if (isSent && built && tally && !running.isSettled && (reason === 'client-gone' || reason === 'shutting-down')) {
        await settle({ job, entry, built, exchange, tally }, reason, error)
      }
      throw error
    }
  }

  return {
    carry,
    count,
    noteRefusal,
    active: (): number => live.size,
    /** Live calls finish; at the deadline they are aborted, and each still ends its bill. */
    async drain(deadlineMs: number): Promise<void> {
      if (live.size > 0) {
        const idle = new Promise<void>((resolve) => {
          onIdle = resolve
        })
        await Promise.race([idle, Bun.sleep(Math.max(deadlineMs, 0))])
        live.each((call) => call.abort('shutting-down'))
        if (live.size > 0) await Promise.race([idle, Bun.sleep(ABORT_MS)])
      }
      await refusals.flush()
    },
  }
}
export type Calls = ReturnType<typeof createCalls>

/** What aborted calls get to end their bills. */
const ABORT_MS = 2_000

/** Counted once for the hold and, where nothing is reported, the bill. */
export function countInput(
  {
    endpoint,
    json,
    model,
    long,
  }: Pick<Call, 'endpoint' | 'json' | 'model'> & { readonly long?: Call['long'] | undefined },
  isTextCounted: boolean,
  turns: Turns,
): number | Promise<number> {
  if (!isTextCounted) return 0
  const countable = endpoint.reading.countable(json)
  return long ? estimateLongInput(countable, model, long, turns) : estimateInputTokens(countable, model)
}
