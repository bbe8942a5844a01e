/** One endpoint of OpenAI's dialect at a complete URL, whatever its path; `{model}` in it stands for the model. */
import { bearer, fetchModelIds } from './http.ts'
import type { Provider } from './provider.ts'

export const custom: Provider = {
  id: 8,
  name: 'Custom',
  baseUrl: '',
  fields: [{ name: 'base_url', label: 'Complete URL', help: 'May contain {model}', isRequired: true }],
  speaks: {
    chat: { 'openai-chat': '' },
    completions: { 'openai-chat': '' },
    embeddings: { 'openai-chat': '' },
  },
  hasStreamOptions: false,
  auth: bearer,
  url: (_path, call, channel) => channel.baseUrl.replaceAll('{model}', encodeURIComponent(call.model)),
  listModels: async (channel, fetch) => {
    // The list is where OpenAI's servers have it: beside the endpoint.
    const url = channel.baseUrl.replace(/\/(chat\/completions|completions|embeddings)$/, '')
    const headers = new Headers({ accept: 'application/json' })
    if (channel.key !== '') headers.set('authorization', `Bearer ${channel.key}`)
    return fetchModelIds(fetch, `${url}/models`, headers)
  },
}
