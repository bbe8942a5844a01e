/** The relay: carries calls of model clients to upstream channels and bills them. Its routes take raw bytes. */
import { Elysia } from 'elysia'
import type { Accounts, Caller } from '../domain/accounts/index.ts'
import type { Ledger, Prices } from '../domain/billing/index.ts'
import type { Channels, TestQuery, TestResult } from '../domain/channels/index.ts'
import { LOOK_AGAIN_SEC, type Overload } from '../domain/cluster/index.ts'
import type { Admission, CallLimits } from '../domain/limits/index.ts'
import type { Options } from '../domain/options/index.ts'
import { asGatewayError, GatewayError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { newRequestId } from '../lib/headers.ts'
import { createHttpClient, type Proxies } from '../lib/http/client.ts'
import type { Log } from '../lib/log.ts'
import { createTurns } from '../lib/turns.ts'
import { codecs } from '../protocol/index.ts'
import { askingOf, showLimits } from './admission.ts'
import { type CallsDeps, countInput, createCalls } from './calls.ts'
import { createModelLists, listDialect } from './models.ts'
import { completions, countTokens, embeddings } from './plain.ts'
import { type Body, freeBody, readBody } from './read.ts'
import { createRefusals } from './refusals.ts'
import { errorResponse, jsonResponse, type Stamp } from './respond.ts'
import { testBody } from './test-call.ts'
import type { Call, Endpoint } from './types.ts'
import { createSender } from './upstream.ts'
import { createWatch } from './watch.ts'

/** The part of Bun's server that knows the connection of a request. */
interface PeerSource {
  requestIP(request: Request): { readonly address: string } | null
  timeout(request: Request, seconds: number): void
}

export interface RelayDeps {
  readonly accounts: Pick<Accounts, 'authenticate' | 'credentialOf'>
  readonly channels: Channels
  readonly ledger: Ledger
  readonly prices: Prices
  /** How often and how much callers may ask. */
  readonly callLimits: CallLimits
  readonly options: Options
  readonly log: Log
  readonly clock: Clock
  readonly clientIp: (request: Request, server: PeerSource | null) => string
  readonly isReady: () => boolean
  /** What this node has too much of to take calls now: the verdict of a moment ago, free to ask. */
  readonly overload: () => Overload | undefined
  readonly version: string
  readonly nodeName: string
  /** Keep a row also of calls that were refused (`ERROR_LOG_ENABLED`). */
  readonly isErrorLogged: boolean
  /** Ask upstreams for the usage of streams (`FORCE_STREAM_OPTION`). */
  readonly isUsageForced: boolean
  /** Count texts here (`CountToken`). */
  readonly isTextCounted: boolean
  readonly isTlsChecked: boolean
  readonly proxies: Proxies
  readonly onCall?: CallsDeps['onCall']
  readonly limits: Omit<CallsDeps['limits'], keyof typeof DEFAULT_LIMITS> &
    Partial<typeof DEFAULT_LIMITS> & { readonly bodyBytes: number }
}

/** Shapes of the dialects are their makers'; the document tells of our own API. */
const UNDOCUMENTED = { detail: { hide: true } } as const
const CORS = {
  'access-control-allow-origin': '*',
  'access-control-allow-credentials': 'true',
  'access-control-allow-methods': 'GET, POST, PUT, DELETE, OPTIONS',
  'access-control-allow-headers': '*',
}
/** Paths of OpenAI's API that clients may try and that are answered as not implemented, rather than as a mistake. */
const KNOWN_ELSEWHERE = /^\/v1\/(?:files|fine-tunes|images\/variations)(?:\/|$)/
/** What a stream that came to its end has last, in either dialect. */
const LAST_FRAME = /(?:^|\n)(?:data: \[DONE\]|event: message_stop)\n/
const DEFAULT_LIMITS = { connectMs: 30_000, keepAliveMs: 20_000, patienceMs: 15_000 }
const NO_QUERY = new URLSearchParams()
/** How late a time-out may be noticed. */
const WATCH_MS = 250

const chat = (path: string): Endpoint => ({
  operation: 'chat',
  protocol: 'openai-chat',
  path,
  reading: codecs['openai-chat'],
})
const ENDPOINTS: readonly Endpoint[] = [
  chat('/v1/chat/completions'),
  { operation: 'completions', protocol: 'openai-chat', path: '/v1/completions', reading: completions },
  { operation: 'embeddings', protocol: 'openai-chat', path: '/v1/embeddings', reading: embeddings },
  { operation: 'chat', protocol: 'claude', path: '/v1/messages', reading: codecs.claude },
]
const COUNT_TOKENS: Endpoint = {
  operation: 'count-tokens',
  protocol: 'claude',
  path: '/v1/messages/count_tokens',
  reading: countTokens,
}

export function createRelay(deps: RelayDeps) {
  const { accounts, channels, ledger, prices, clock, log } = deps
  const limits = { ...DEFAULT_LIMITS, ...deps.limits }
  const stamp: Stamp = { version: deps.version, nodeName: deps.nodeName }
  const watch = createWatch(clock, WATCH_MS)
  const refusals = createRefusals({
    clock,
    write: (record) =>
      ledger.note(record).catch((error: unknown) => log.error('joined refusals were not journalled', { error })),
  })
  const client = createHttpClient({ clock, isTlsChecked: deps.isTlsChecked, proxies: deps.proxies })
  const sender = createSender({ client, clock, watch })
  const turns = createTurns(clock)
  const calls = createCalls({ ...deps, limits, sender, refusals, stamp, turns })
  const models = createModelLists({ channels, prices })

  /** @throws GatewayError */
  const authenticate = (
    request: Request,
    path: string,
    query: URLSearchParams,
    server: PeerSource | null,
  ): Promise<Caller> => {
    if (!deps.isReady()) throw new GatewayError('not_ready', { retryAfterSec: 1 })
    return accounts.authenticate(accounts.credentialOf(request, path, query), () => deps.clientIp(request, server))
  }

  interface Arrival {
    readonly id: string
    readonly endpoint: Endpoint
    readonly caller: Caller
    readonly startedAtMs: number
  }

  /** Reads a call; one that cannot be read leaves its row, too. @throws GatewayError */
  const read = async (request: Request, query: URLSearchParams, arrival: Arrival): Promise<Call> => {
    const { endpoint, caller } = arrival
    let body: Body | undefined
    try {
      body = await readBody(request, limits.bodyBytes, turns)
      const peek = endpoint.reading.peek(body.json)
      const { json, long } = body
      return {
        ...body,
        ...peek,
        id: arrival.id,
        endpoint,
        caller,
        startedAtMs: arrival.startedAtMs,
        inputTokens: await countInput({ endpoint, json, model: peek.model, long }, deps.isTextCounted, turns),
        clientHeaders: request.headers,
        query,
        isTest: false,
      }
    } catch (thrown) {
      const error = asGatewayError(thrown)
      const trace = { attempts: [], leftOut: [], firstByteAtMs: undefined }
      // The row names the model where the body does, whatever else is wrong with it.
      const model = typeof body?.json['model'] === 'string' ? body.json['model'] : ''
      const isStream = body?.json['stream'] === true
      if (body) freeBody(body)
      await calls.noteRefusal({ ...arrival, model, isStream }, trace, caller.groups[0] ?? '', error)
      throw error
    }
  }

  const serve = async (request: Request, server: PeerSource | null, endpoint: Endpoint): Promise<Response> => {
    const startedAtMs = clock.monotonic()
    const id = newRequestId(clock.now())
    let call: Call | undefined
    let admission: Admission | undefined
    let response: Response
    try {
      const overload = deps.overload()
      if (overload) throw overloaded(endpoint, overload)
      const { url } = request
      const query = url.includes('?') ? new URL(url).searchParams : NO_QUERY
      const caller = await authenticate(request, endpoint.path, query, server)
      call = await read(request, query, { id, endpoint, caller, startedAtMs })
      admission = caller.limits && (await deps.callLimits.admit(caller.limits, askingOf(call)))
      if (admission?.refusal) throw await refused(call, admission.refusal)
      const isCount = endpoint === COUNT_TOKENS
      // A count may be answered without being carried, or after it was carried in vain: not the carriage says how it ends.
      const ended = isCount ? undefined : admission?.done
      const client = { signal: request.signal, hangUp: () => server?.timeout(request, 1), ended }
      response = isCount ? await calls.count(call, client) : await calls.carry(call, client)
      if (isCount) admission?.done({ isSuccess: true, tokens: 0 })
    } catch (thrown) {
      response = errorResponse(asGatewayError(thrown), endpoint.protocol, id, stamp)
      admission?.done({ isSuccess: false, tokens: 0 })
    }
    // A stream is under way: it is not tried again.
    if (call) freeBody(call)
    if (admission) showLimits(response.headers, admission, endpoint.protocol, clock.now())
    return response
  }

  /** Before anybody is asked who calls: a flood leaves no rows, but it is counted. @returns what to throw */
  const overloaded = ({ protocol, operation }: Endpoint, what: Overload): GatewayError => {
    const error = new GatewayError(`system_${what}_overloaded`, { retryAfterSec: LOOK_AGAIN_SEC })
    deps.onCall?.({
      ...{ protocol, operation, isStream: false, ending: 'refused', code: error.code, durationMs: 0 },
      ...{ firstByteMs: undefined, attempts: [], inputTokens: 0, outputTokens: 0, quota: 0 },
    })
    return error
  }

  /** Leaves the row of a call that its caller's limits refuse. @returns what to throw */
  const refused = async (call: Call, refusal: GatewayError): Promise<GatewayError> => {
    const trace = { attempts: [], leftOut: [], firstByteAtMs: undefined }
    await calls.noteRefusal(call, trace, call.caller.groups[0] ?? '', refusal)
    return refusal
  }

  const listed = async (
    request: Request,
    server: PeerSource | null,
    answer: (caller: Caller, url: URL) => unknown,
  ): Promise<Response> => {
    const id = newRequestId(clock.now())
    const url = new URL(request.url)
    try {
      const caller = await authenticate(request, url.pathname, url.searchParams, server)
      return jsonResponse(answer(caller, url), id, stamp)
    } catch (thrown) {
      const protocol = listDialect(request, url) === 'claude' ? 'claude' : 'openai-chat'
      return errorResponse(asGatewayError(thrown), protocol, id, stamp)
    }
  }

  const unknownPath = (request: Request): Response => {
    const { pathname } = new URL(request.url)
    const { method } = request
    const isKnown = KNOWN_ELSEWHERE.test(pathname) || (method === 'DELETE' && pathname.startsWith('/v1/models/'))
    const error = new GatewayError(isKnown ? 'api_not_implemented' : 'not_found', {
      params: { method, path: pathname },
    })
    const protocol = pathname.startsWith('/v1/messages') ? 'claude' : 'openai-chat'
    return errorResponse(error, protocol, newRequestId(clock.now()), stamp)
  }

  /** A small call through the same path, at nobody's cost. */
  const test = async (query: TestQuery): Promise<TestResult> => {
    const { channel, user, signal = new AbortController().signal } = query
    const model = query.model || channel.testModel || channel.models[0] || ''
    const startedAtMs = clock.monotonic()
    const { endpoint, json } = testBody(query, model, [...ENDPOINTS])
    const call = {
      ...endpoint.reading.peek(json),
      id: newRequestId(clock.now()),
      endpoint,
      caller: testCaller(user, channel.id, channel.groups),
      bytes: new TextEncoder().encode(JSON.stringify(json)),
      json,
      isModelAmbiguous: false,
      clientHeaders: new Headers(),
      query: new URLSearchParams(),
      startedAtMs,
      isTest: true,
    }
    const done = (message: string, errorCode?: string): TestResult => ({
      isOk: message === '',
      message,
      ms: Math.round(clock.monotonic() - startedAtMs),
      ...(errorCode !== undefined && { errorCode }),
    })
    try {
      const counted = { ...call, inputTokens: await countInput(call, deps.isTextCounted, turns) }
      const response = await calls.carry(counted, { signal, hangUp: () => {} })
      const answer = await response.text()
      return done(call.isStream && !LAST_FRAME.test(answer) ? 'The stream broke off' : '')
    } catch (thrown) {
      const error = asGatewayError(thrown)
      return done(error.upstream?.message ?? error.public, error.upstream?.code ?? error.code)
    }
  }

  const routes = new Elysia({ name: 'relay' })
  for (const endpoint of [...ENDPOINTS, COUNT_TOKENS]) {
    routes.post(endpoint.path, ({ request, server }) => serve(request, server, endpoint), {
      parse: 'none',
      ...UNDOCUMENTED,
    })
  }
  routes
    .get(
      '/v1/models',
      ({ request, server }) => listed(request, server, (caller, url) => models.list(caller, listDialect(request, url))),
      UNDOCUMENTED,
    )
    .get(
      '/v1/models/*',
      ({ request, server, params }) =>
        listed(request, server, (caller, url) => models.find(caller, params['*'], listDialect(request, url))),
      UNDOCUMENTED,
    )
    .get(
      '/v1beta/models',
      ({ request, server }) => listed(request, server, (caller) => models.list(caller, 'gemini')),
      UNDOCUMENTED,
    )
    .get(
      '/v1beta/openai/models',
      ({ request, server }) => listed(request, server, (caller) => models.list(caller, 'openai')),
      UNDOCUMENTED,
    )
    .options('/v1/*', () => new Response(null, { status: 204, headers: CORS }), UNDOCUMENTED)
    .all('/v1/*', ({ request }) => unknownPath(request), { parse: 'none', ...UNDOCUMENTED })

  const drain = async (deadlineMs: number): Promise<void> => {
    await calls.drain(deadlineMs)
    client.close()
  }
  return { routes, unknownPath, test, active: calls.active, drain }
}
export type Relay = ReturnType<typeof createRelay>

/** Who tests a channel: a person of the console, without an API key, on exactly this channel. */
const testCaller = (
  user: { readonly id: number; readonly name: string },
  channelId: number,
  groups: readonly string[],
): Caller => ({
  userId: user.id,
  username: user.name,
  role: 100,
  userGroup: 'default',
  apiKeyId: 0,
  apiKeyName: '',
  tokenGroup: '',
  groups: groups.slice(0, 1),
  isAuto: false,
  crossGroupRetry: false,
  payer: { userId: user.id, apiKeyId: 0, isUnlimitedKey: true },
  modelLimits: undefined,
  acceptsUnpriced: true,
  recordsIp: false,
  forcedChannelId: channelId,
  limits: undefined,
  ip: '',
})
