/** Azure OpenAI: the model is a deployment in the path, and every call names the version of the API. */
import { fetchModelIds, isCloudflareGateway } from './http.ts'
import type { Provider, UpstreamCall, UpstreamChannel } from './provider.ts'
import { needsReasoningPatch, patchReasoning, splitOpenAiEffort } from './reasoning.ts'

/** 2025-05-10 00:00 UTC. Channels made before it were written for deployment names without dots. */
const DOTS_KEPT_SINCE_SEC = Date.UTC(2025, 4, 10) / 1000

const deployment = (call: UpstreamCall, channel: UpstreamChannel): string => {
  const name = splitOpenAiEffort(call.model)?.name ?? call.model
  const isOld = channel.createdAtSec < DOTS_KEPT_SINCE_SEC
  return encodeURIComponent(isOld ? name.replaceAll('.', '') : name)
}

/**
 * @param defaultApiVersion of calls whose client and channel name none
 * @source https://learn.microsoft.com/azure/ai-services/openai/reference (deployments, `api-version`, `api-key`), read 2026-11
 */
export const azure = (defaultApiVersion: string): Provider => {
  const version = (query: URLSearchParams, channel: UpstreamChannel): string =>
    encodeURIComponent(query.get('api-version') || channel.other.trim() || defaultApiVersion)
  return {
    id: 3,
    name: 'Azure',
    baseUrl: '',
    fields: [{ name: 'other', label: 'API version', help: `Without one: ${defaultApiVersion}` }],
    speaks: {
      chat: { 'openai-chat': '/chat/completions' },
      completions: { 'openai-chat': '/completions' },
      embeddings: { 'openai-chat': '/embeddings' },
    },
    hasStreamOptions: true,
    auth: (headers, channel) => void headers.set('api-key', channel.key),
    url: (path, call, channel) => {
      const prefix = isCloudflareGateway(channel.baseUrl) ? '' : '/openai/deployments'
      return `${channel.baseUrl}${prefix}/${deployment(call, channel)}${path}?api-version=${version(call.query, channel)}`
    },
    needsPatch: needsReasoningPatch,
    patch: patchReasoning,
    listModels: (channel, fetch) =>
      fetchModelIds(
        fetch,
        `${channel.baseUrl}/openai/models?api-version=${version(new URLSearchParams(), channel)}`,
        new Headers({ 'api-key': channel.key }),
      ),
  }
}
