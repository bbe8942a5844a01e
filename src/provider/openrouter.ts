/** OpenRouter: OpenAI's dialect over many upstreams, with a `reasoning` object of its own. */
import { openrouterBalance } from './balance.ts'
import type { ClaudeSettings } from './claude-names.ts'
import { CLAUDE_DEFAULTS } from './claude-names.ts'
import { bearer, listAt } from './http.ts'
import type { Provider } from './provider.ts'
import { splitSuffix } from './reasoning.ts'

type Json = Record<string, unknown>

/** Names the application in OpenRouter's statistics. @source https://openrouter.ai/docs/app-attribution, read 2026-11 */
const auth: Provider['auth'] = (headers, channel, call) => {
  bearer(headers, channel, call)
  headers.set('x-title', 'Headgate')
}

const splitThinking = (model: string, settings: ClaudeSettings) =>
  settings.plainThinkingNames.includes(model) ? undefined : splitSuffix(model, ['thinking'])

/** Anthropic's `thinking` object, which OpenRouter does not know by that name. */
const thinkingBudget = (json: Readonly<Json>, model: string): number | undefined => {
  const thinking = json.thinking as { type?: unknown; budget_tokens?: unknown } | undefined
  const isEnabled = model.startsWith('anthropic') && thinking?.type === 'enabled'
  return isEnabled && typeof thinking.budget_tokens === 'number' ? thinking.budget_tokens : undefined
}

/**
 * Usage is always in the answers, and `reasoning_effort` is understood as it is, so most calls need no patch.
 * @source https://openrouter.ai/docs/use-cases/usage-accounting ("`usage: { include: true }` … deprecated and have no
 * effect"), …/use-cases/reasoning-tokens, read 2026-11
 */
export const openrouter = (settings: () => ClaudeSettings = () => CLAUDE_DEFAULTS): Provider => ({
  id: 20,
  name: 'OpenRouter',
  baseUrl: 'https://openrouter.ai/api',
  fields: [],
  speaks: {
    chat: { 'openai-chat': '/v1/chat/completions' },
    completions: { 'openai-chat': '/v1/completions' },
    embeddings: { 'openai-chat': '/v1/embeddings' },
  },
  hasStreamOptions: false,
  auth,
  needsPatch: (call) =>
    call.operation === 'chat' &&
    (splitThinking(call.model, settings()) !== undefined || thinkingBudget(call.json, call.model) !== undefined),
  patch: (json, call) => {
    const { reasoning_effort: effort, thinking, ...rest } = json
    const budget = thinkingBudget(json, call.model)
    if (budget !== undefined) return { ...rest, reasoning: { max_tokens: budget } }
    const split = splitThinking(call.model, settings())
    if (!split) return json
    const isEffort = typeof effort === 'string' && effort !== 'none'
    return {
      ...rest,
      ...(thinking !== undefined && { thinking }),
      model: split.name,
      reasoning: { enabled: true, ...(isEffort && { effort }) },
    }
  },
  /** Enterprise accounts get each answer as `{success, data}`. */
  unwrap: (json, _call, channel) => {
    const isWrapped = channel.settings.openrouter_enterprise === true && typeof json === 'object' && json !== null
    return isWrapped && 'data' in json ? json.data : json
  },
  listModels: listAt('/v1/models', bearer),
  readBalance: openrouterBalance(bearer),
})
