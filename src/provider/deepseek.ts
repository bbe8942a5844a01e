/** DeepSeek: OpenAI's and Anthropic's dialects side by side; completions are fill-in-the-middle on the beta path. */
import { deepseekBalance } from './balance.ts'
import { bearer, listAt } from './http.ts'
import type { Provider } from './provider.ts'
import { splitSuffix } from './reasoning.ts'

const splitThinking = (model: string) =>
  model.startsWith('deepseek-v4-') ? splitSuffix(model, ['none', 'max']) : undefined

/**
 * `…-none` switches thinking off, `…-max` asks for the most of it; the effort has another place in each dialect.
 * @source https://api-docs.deepseek.com/guides/thinking_mode, read 2026-11
 */
const patch: NonNullable<Provider['patch']> = (json, call) => {
  const split = splitThinking(call.model)
  if (!split || call.operation !== 'chat') return json
  if (split.suffix === 'none') return { ...json, model: split.name, thinking: { type: 'disabled' } }
  const effort = call.protocol === 'claude' ? { output_config: { effort: 'max' } } : { reasoning_effort: 'max' }
  return { ...json, model: split.name, thinking: { type: 'enabled' }, ...effort }
}

/** @source https://api-docs.deepseek.com (chat), …/guides/anthropic_api, …/guides/fim_completion, …/api/list-models */
export const deepseek: Provider = {
  id: 43,
  name: 'DeepSeek',
  baseUrl: 'https://api.deepseek.com',
  fields: [],
  speaks: {
    chat: { 'openai-chat': '/v1/chat/completions', claude: '/anthropic/v1/messages' },
    completions: { 'openai-chat': '/beta/completions' },
  },
  hasStreamOptions: true,
  auth: bearer,
  needsPatch: (call) => call.operation === 'chat' && splitThinking(call.model) !== undefined,
  patch,
  listModels: listAt('/models', bearer),
  readBalance: deepseekBalance(bearer),
}
