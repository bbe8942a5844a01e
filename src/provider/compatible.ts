/**
 * The plain ones: OpenAI's dialect at a base URL with a Bearer key, and nothing that differs. The ids are those stored in
 * existing databases; `Unknown` is what rows without a type carry.
 */
import { billingBalance } from './balance.ts'
import { bearer, listAt } from './http.ts'
import type { Provider } from './provider.ts'
import { needsReasoningPatch, patchReasoning } from './reasoning.ts'

const TABLE: readonly (readonly [id: number, name: string, baseUrl: string])[] = [
  [0, 'Unknown', ''],
  [6, 'OpenAIMax', 'https://api.openaimax.com'],
  [7, 'OhMyGPT', 'https://api.ohmygpt.com'],
  [9, 'AILS', 'https://api.caipacity.com'],
  [10, 'AIProxy', 'https://api.aiproxy.io'],
  [12, 'API2GPT', 'https://api.api2gpt.com'],
  [13, 'AIGC2D', 'https://api.aigc2d.com'],
  [19, '360', 'https://api.360.cn'],
  [22, 'FastGPT', 'https://fastgpt.run/api/openapi'],
  [31, 'LingYiWanWu', 'https://api.lingyiwanwu.com'],
  [47, 'Xinference', ''],
]

export const compatible: readonly Provider[] = TABLE.map(([id, name, baseUrl]) => ({
  id,
  name,
  baseUrl,
  fields: [],
  speaks: {
    chat: { 'openai-chat': '/v1/chat/completions' },
    completions: { 'openai-chat': '/v1/completions' },
    embeddings: { 'openai-chat': '/v1/embeddings' },
  },
  // Servers of this kind often refuse `stream_options`; those that take it answer it when the client asks.
  hasStreamOptions: false,
  auth: bearer,
  needsPatch: needsReasoningPatch,
  patch: patchReasoning,
  listModels: listAt('/v1/models', bearer),
  readBalance: billingBalance(bearer),
}))
