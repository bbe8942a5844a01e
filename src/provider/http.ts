/** Building blocks of providers: authentication, URLs, the model list. No provider is known here. */
import { GatewayError } from '../errors.ts'
import type { Fetch, Provider, UpstreamCall, UpstreamChannel } from './provider.ts'

const LIST_TIMEOUT_MS = 20_000

/** `Authorization: Bearer <key>`; a channel without a key (a local server) sends none. */
export const bearer: Provider['auth'] = (headers, channel) => {
  if (channel.key !== '') headers.set('authorization', `Bearer ${channel.key}`)
}

/**
 * Cloudflare's AI Gateway has the provider's version prefix in its own base URL
 * (`…/openai` stands for `https://api.openai.com/v1`), so the prefix of the path is dropped there.
 * @source https://developers.cloudflare.com/ai-gateway/usage/providers/openai/
 */
export const isCloudflareGateway = (baseUrl: string): boolean => baseUrl.includes('gateway.ai.cloudflare.com')

/** Reads `{data: [{id}]}`, the model list of OpenAI and Anthropic, or `{models: [{name}]}`, Ollama's. */
const modelIds = (json: unknown): string[] => {
  const body = json as { data?: unknown; models?: unknown }
  const rows = Array.isArray(body?.data) ? body.data : Array.isArray(body?.models) ? body.models : []
  return rows
    .map((row: { id?: unknown; name?: unknown } | null) => row?.id ?? row?.name)
    .filter((id): id is string => typeof id === 'string' && id !== '')
}

/**
 * One GET at an upstream, outside any call.
 * @throws GatewayError `bad_response_status_code`, `bad_response_body`, `do_request_failed`
 */
export const fetchJson = async (fetch: Fetch, url: string, headers: Headers): Promise<unknown> => {
  let response: Response
  try {
    response = await fetch(url, { headers, redirect: 'manual', signal: AbortSignal.timeout(LIST_TIMEOUT_MS) })
  } catch (cause) {
    throw new GatewayError('do_request_failed', { cause })
  }
  const text = await response.text()
  if (!response.ok) {
    throw new GatewayError('bad_response_status_code', {
      public: `The upstream answered ${response.status}`,
      detail: text.slice(0, 1000),
    })
  }
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new GatewayError('bad_response_body', { cause, detail: text.slice(0, 200) })
  }
}

/**
 * One GET of an upstream's model list.
 * @returns ids in the upstream's order, each once
 * @throws GatewayError as `fetchJson`
 */
export const fetchModelIds = async (fetch: Fetch, url: string, headers: Headers): Promise<readonly string[]> => [
  ...new Set(modelIds(await fetchJson(fetch, url, headers))),
]

/** A model list at `path`, authenticated as a call is. */
export const listAt = (path: string, auth: Provider['auth']): NonNullable<Provider['listModels']> => {
  return async (channel: UpstreamChannel, fetch: Fetch) => {
    return fetchModelIds(fetch, `${channel.baseUrl}${path}`, await headersFor(channel, auth))
  }
}

/** Of a request that stands beside the calls, authenticated as a call is. */
export const headersFor = async (channel: UpstreamChannel, auth: Provider['auth']): Promise<Headers> => {
  const headers = new Headers({ accept: 'application/json' })
  await auth(headers, channel, LISTING)
  return headers
}

/** Stands for the call in `auth` while no client is there. */
const LISTING: UpstreamCall = {
  operation: 'chat',
  protocol: 'openai-chat',
  model: '',
  isStream: false,
  query: new URLSearchParams(),
  clientHeaders: new Headers(),
  json: {},
}
