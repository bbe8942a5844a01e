/** Anthropic's own API. */
import { CLAUDE_DEFAULTS, type ClaudeSettings, needsClaudePatch, patchClaude } from './claude-names.ts'
import { fetchModelIds } from './http.ts'
import type { Provider } from './provider.ts'

/** Version of the API that is asked for when the client names none. */
const VERSION = '2023-06-01'

/**
 * @param settings read at each call
 * @source https://platform.claude.com/docs/en/api/overview (x-api-key, anthropic-version), …/api/beta-headers, …/api/models-list
 */
export const anthropic = (settings: () => ClaudeSettings = () => CLAUDE_DEFAULTS): Provider => {
  const auth: Provider['auth'] = (headers, channel, call) => {
    headers.set('x-api-key', channel.key)
    headers.set('anthropic-version', call.clientHeaders.get('anthropic-version') ?? VERSION)
    const beta = call.clientHeaders.get('anthropic-beta')
    if (beta !== null) headers.set('anthropic-beta', beta)
    for (const [key, values] of Object.entries(settings().headers[call.model] ?? {})) {
      const name = key.toLowerCase()
      const list = [headers.get(name) ?? '', ...[values].flat()].flatMap((value) => String(value).split(','))
      headers.set(name, [...new Set(list.map((value) => value.trim()).filter((value) => value !== ''))].join(','))
    }
  }
  return {
    id: 14,
    name: 'Anthropic',
    baseUrl: 'https://api.anthropic.com',
    fields: [],
    speaks: {
      chat: { claude: '/v1/messages' },
      'count-tokens': { claude: '/v1/messages/count_tokens' },
    },
    hasStreamOptions: false,
    auth,
    url: (path, call, channel) => {
      const isBeta = call.query.get('beta') === 'true' || channel.settings.claude_beta_query === true
      return `${channel.baseUrl}${path}${isBeta ? '?beta=true' : ''}`
    },
    needsPatch: (call) => needsClaudePatch(call, settings()),
    patch: (json, call) => patchClaude(json, call, settings()),
    listModels: (channel, fetch) => {
      const headers = new Headers({ 'x-api-key': channel.key, 'anthropic-version': VERSION })
      return fetchModelIds(fetch, `${channel.baseUrl}/v1/models?limit=1000`, headers)
    },
  }
}
