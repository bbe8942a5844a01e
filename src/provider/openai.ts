/** OpenAI itself, and by its base URL any server that speaks OpenAI's dialect fully. */
import { billingBalance } from './balance.ts'
import { bearer, isCloudflareGateway, listAt } from './http.ts'
import type { Provider } from './provider.ts'
import { needsReasoningPatch, patchReasoning } from './reasoning.ts'

/**
 * @source https://platform.openai.com/docs/api-reference/authentication (Bearer, `OpenAI-Organization`), read 2026-11
 */
const auth: Provider['auth'] = (headers, channel, call) => {
  bearer(headers, channel, call)
  if (channel.organization !== '') headers.set('openai-organization', channel.organization)
}

export const openai: Provider = {
  id: 1,
  name: 'OpenAI',
  baseUrl: 'https://api.openai.com',
  fields: [{ name: 'openai_organization', label: 'Organization', help: 'Sent as OpenAI-Organization' }],
  speaks: {
    chat: { 'openai-chat': '/v1/chat/completions' },
    completions: { 'openai-chat': '/v1/completions' },
    embeddings: { 'openai-chat': '/v1/embeddings' },
  },
  hasStreamOptions: true,
  auth,
  url: (path, _call, { baseUrl }) => baseUrl + (isCloudflareGateway(baseUrl) ? path.replace(/^\/v1/, '') : path),
  needsPatch: needsReasoningPatch,
  patch: patchReasoning,
  listModels: (channel, fetch) =>
    listAt(isCloudflareGateway(channel.baseUrl) ? '/models' : '/v1/models', auth)(channel, fetch),
  readBalance: billingBalance(auth),
}
