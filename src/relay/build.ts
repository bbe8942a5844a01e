/**
 * Makes the upstream request of one attempt, by the lightest way that is correct: forward (the client's bytes, values
 * spliced), patch (same dialect, edited), convert (through the IR).
 */
import {
  applyHeaderEdits,
  applyParamOverride,
  applySystemPrompt,
  type Channel,
  filteredFields,
  resolveHeaderOverride,
  upstreamChannel,
} from '../domain/channels/index.ts'
import { GatewayError } from '../errors.ts'
import type { HttpFields } from '../lib/http/client.ts'
import { type Edit, spliceJson, spliceParts } from '../lib/json-splice.ts'
import type { Turns } from '../lib/turns.ts'
import { codecs, type Loss, type Protocol } from '../protocol/index.ts'
import type { Provider, UpstreamCall, UpstreamChannel } from '../provider/provider.ts'
import { withOpened } from './opened.ts'
import { LARGE_BYTES, wholeJson } from './read.ts'
import type { Attempt, Call } from './types.ts'
import { type Upload, uploadOf } from './upload.ts'

type Json = Record<string, unknown>

export interface Built {
  readonly url: string
  readonly headers: HttpFields
  readonly body: Uint8Array<ArrayBuffer> | string | Upload
  readonly way: Attempt['way']
  /** Dialect sent upstream. */
  readonly protocol: Protocol
  readonly upstreamCall: UpstreamCall
  readonly upstreamChannel: UpstreamChannel
  /** The client did not ask for the usage of its stream: the frame that carries nothing else is left out. */
  readonly hidesUsage: boolean
  readonly losses: readonly Loss[]
  /** Sensitive fields that the parameter override changed. */
  readonly touched: readonly string[]
  readonly isPromptChanged: boolean
}

export interface BuildOptions {
  readonly isPassThrough: boolean
  /** Ask upstreams for the usage of streams (`FORCE_STREAM_OPTION`). */
  readonly isUsageForced: boolean
  /** Option `claude.default_max_tokens`: model → number, `default`. */
  readonly defaultMaxTokens: Readonly<Record<string, number>>
  readonly group: string
  readonly retryIndex: number
  readonly lastError: GatewayError | undefined
  readonly turns: Turns
}

/** The dialect and path by which a provider serves the call; undefined when it does not. */
export function wayTo(
  provider: Provider,
  call: Pick<Call, 'endpoint'>,
): { protocol: Protocol; path: string } | undefined {
  const { operation, protocol } = call.endpoint
  const paths = provider.speaks[operation]
  if (!paths) return undefined
  const own = paths[protocol]
  if (own !== undefined) return { protocol, path: own }
  // Only chat has an IR to convert through.
  if (operation !== 'chat') return undefined
  const [first] = Object.entries(paths) as [Protocol, string][]
  return first && { protocol: first[0], path: first[1] }
}

/**
 * @param upstreamModel name after mapping
 * @throws GatewayError `convert_request_failed`, `channel:…_invalid`, or what an override's `return_error` says
 */
export async function buildUpstream(
  call: Call,
  channel: Channel,
  key: string,
  upstreamModel: string,
  options: BuildOptions,
): Promise<Built> {
  const { provider } = channel
  const way = wayTo(provider, call)
  if (!way) throw new GatewayError('convert_request_failed', { params: { reason: 'The channel does not offer this' } })
  const { protocol } = way
  const isConverted = protocol !== call.endpoint.protocol
  const source = isConverted && call.long ? withOpened(call.json, call.long) : call.json
  if (!source) return buildWhole(call, channel, key, upstreamModel, options)
  // Whatever makes an upstream report its usage, a client that did not ask must not meet a chunk without choices.
  const isUnasked = options.isUsageForced && call.isStream && protocol === 'openai-chat' && call.includeUsage !== true
  const asksUsage = isUnasked && provider.hasStreamOptions
  const wanted = { call, channel, upstreamModel, options, protocol, isConverted }
  const { json, losses, isPromptChanged } = bodyOf(source, wanted)
  const upstreamCall: UpstreamCall = {
    operation: call.endpoint.operation,
    protocol,
    model: upstreamModel,
    isStream: call.isStream,
    query: call.query,
    clientHeaders: call.clientHeaders,
    json,
  }
  const view = upstreamChannel(channel, key)
  const isPassedThrough = options.isPassThrough && !isConverted
  const isPatched = !isPassedThrough && provider.patch !== undefined && (provider.needsPatch?.(upstreamCall) ?? true)

  const headers = new Map<string, string>()
  headers.set('content-type', 'application/json')
  headers.set('accept', call.isStream ? 'text/event-stream' : 'application/json')
  headers.set('accept-encoding', 'identity')
  // Some gates in front of upstreams turn away whoever gives no name.
  headers.set('user-agent', 'headgate')
  // Lets an upstream's own records be joined with ours. https://platform.openai.com/docs/api-reference/debugging-requests
  headers.set('x-client-request-id', call.id)
  const authenticated = provider.auth(headers, view, upstreamCall)
  if (authenticated) await authenticated
  const overrideContext = { apiKey: key, clientHeaders: call.clientHeaders, isChannelTest: call.isTest }
  const headerEdits = resolveHeaderOverride(channel.headerOverride, overrideContext)

  const common = {
    url: provider.url?.(way.path, upstreamCall, view) ?? `${view.baseUrl}${way.path}`,
    headers,
    protocol,
    upstreamCall,
    upstreamChannel: view,
    hidesUsage: isUnasked && !isConverted,
    losses,
    isPromptChanged,
  }
  const isForward =
    isPassedThrough || (!isConverted && !isPatched && !isPromptChanged && channel.paramOverride === undefined)
  if (isForward) {
    applyHeaderEdits(headers, headerEdits)
    const edits = isPassedThrough ? [] : splices(wanted, asksUsage)
    const body = call.readers ? uploadOf(spliceParts(call.bytes, edits), call.readers) : spliceJson(call.bytes, edits)
    return { ...common, body, way: 'forward', touched: [], hidesUsage: common.hidesUsage && !isPassedThrough }
  }
  // Edits may look into any string, the codecs only into those that were put back.
  if (call.long && (!isConverted || isPatched || channel.paramOverride !== undefined))
    return buildWhole(call, channel, key, upstreamModel, options)
  const patched = isPatched ? provider.patch!(json, upstreamCall, view) : json
  const overridden = applyParamOverride(withoutFiltered(patched, wanted, asksUsage), channel.paramOverride, {
    ...overrideContext,
    headerEdits,
    userId: call.caller.userId,
    userGroup: call.caller.userGroup,
    tokenGroup: call.caller.tokenGroup,
    usingGroup: options.group,
    originalModel: call.model,
    upstreamModel,
    requestPath: call.endpoint.path,
    retryIndex: options.retryIndex,
    lastError: options.lastError,
  })
  applyHeaderEdits(headers, overridden.headerEdits)
  const text = JSON.stringify(overridden.json)
  return {
    ...common,
    // What was made of the marks is needed no longer.
    ...(call.long && { upstreamCall: { ...upstreamCall, json: call.json } }),
    body:
      call.long || text.length > LARGE_BYTES
        ? uploadOf(call.long?.parts(text) ?? [text], call.long && call.readers)
        : text,
    way: isConverted ? 'convert' : 'patch',
    touched: overridden.touched,
  }
}

/**
 * What is edited needs the long strings of a large body, too; nobody does once it is built. This is where memory goes:
 * text, strings and the new text are garbage of 70 MB for a body of 10, and one at a time is no less of it.
 */
async function buildWhole(
  call: Call,
  channel: Channel,
  key: string,
  model: string,
  options: BuildOptions,
): Promise<Built> {
  const { long: _read, ...rest } = call
  const json = await wholeJson(call, options.turns)
  const built = await buildUpstream({ ...rest, json }, channel, key, model, options)
  return { ...built, upstreamCall: { ...built.upstreamCall, json: call.json } }
}

interface Wanted {
  readonly call: Call
  readonly channel: Channel
  readonly upstreamModel: string
  readonly options: BuildOptions
  readonly protocol: Protocol
  readonly isConverted: boolean
}

/** The parsed body in the upstream's dialect, the channel's system prompt and the mapped model in it. */
function bodyOf(
  own: Json,
  { call, channel, upstreamModel, options, protocol, isConverted }: Wanted,
): {
  readonly json: Json
  readonly losses: readonly Loss[]
  readonly isPromptChanged: boolean
} {
  const prompted =
    call.endpoint.operation === 'chat'
      ? applySystemPrompt(own, call.endpoint.protocol, upstreamModel, channel.setting)
      : undefined
  const source = prompted ?? own
  if (!isConverted) {
    const json = source['model'] === upstreamModel ? source : { ...source, model: upstreamModel }
    return { json, losses: [], isPromptChanged: prompted !== undefined }
  }
  const decoded = codecs[call.endpoint.protocol].decodeRequest(source)
  const { defaultMaxTokens } = options
  const encoded = codecs[protocol].encodeRequest(
    { ...decoded.value, model: upstreamModel },
    { defaultMaxOutputTokens: defaultMaxTokens[upstreamModel] ?? defaultMaxTokens['default'] ?? DEFAULT_MAX_TOKENS },
  )
  return {
    json: encoded.json as Json,
    losses: [...decoded.losses, ...encoded.losses],
    isPromptChanged: prompted !== undefined,
  }
}

const DEFAULT_MAX_TOKENS = 8192

/** What is changed in the client's bytes; everything else stays to the byte. */
function splices({ call, channel, upstreamModel }: Wanted, asksUsage: boolean): readonly Edit[] {
  const edits: Edit[] = []
  if (upstreamModel !== call.model || call.isModelAmbiguous)
    edits.push({ path: ['model'], value: JSON.stringify(upstreamModel) })
  const { json } = call
  for (const path of filteredFields(channel.settings)) if ((path[0] ?? '') in json) edits.push({ path, remove: true })
  if (asksUsage) edits.push({ path: ['stream_options', 'include_usage'], value: 'true' })
  else if ('stream_options' in json && !call.isStream) edits.push({ path: ['stream_options'], remove: true })
  return edits
}

function withoutFiltered(json: Json, { channel, call, protocol }: Wanted, asksUsage: boolean): Json {
  const out: Json = { ...json }
  for (const [first, second] of filteredFields(channel.settings)) {
    if (first === undefined || !(first in out)) continue
    const inner = out[first]
    if (second === undefined) delete out[first]
    else if (typeof inner === 'object' && inner !== null) {
      const { [second]: _removed, ...rest } = inner as Json
      out[first] = rest
    }
  }
  if (protocol !== 'openai-chat') return out
  const { stream_options: given, ...rest } = out
  if (asksUsage) return { ...rest, stream_options: { ...(given as Json | undefined), include_usage: true } }
  return call.isStream ? out : rest
}
