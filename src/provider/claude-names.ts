/**
 * Names of Claude models that carry a setting at their end: `-thinking` switches thinking on, an effort says how hard.
 * For every upstream that speaks Anthropic's dialect with Claude models.
 */
import type { UpstreamCall } from './provider.ts'
import { splitSuffix } from './reasoning.ts'

type Json = Record<string, unknown>

/** What operators may change about it; read at each call. */
export interface ClaudeSettings {
  /** Does `-thinking` at the end of a name switch thinking on? */
  readonly isThinkingSwitch: boolean
  /** Share of `max_tokens` that goes to thinking, 0–1. */
  readonly thinkingShare: number
  /** Names that end so without it being a switch. */
  readonly plainThinkingNames: readonly string[]
  /** Model → header → values that join the header's comma list. */
  readonly headers: Readonly<Record<string, Readonly<Record<string, unknown>>>>
}

export const CLAUDE_DEFAULTS: ClaudeSettings = {
  isThinkingSwitch: true,
  thinkingShare: 0.8,
  plainThinkingNames: ['moonshotai/kimi-k2-thinking', 'kimi-k2-thinking'],
  headers: {},
}

const EFFORTS = ['max', 'xhigh', 'high', 'medium', 'low', 'minimal'] as const

/** Thinks adaptively by effort. The second group is the generation that refuses sampling parameters and token budgets. */
const ADAPTIVE = /^claude-opus-4-(6|7|8)/
const ADAPTIVE_ONLY = /^claude-opus-4-(7|8)/

/** The upstream asks for at least 1,024 tokens of thinking, which is 0.8 of this. */
const LEAST_MAX_TOKENS = 1280
const DEFAULT_MAX_TOKENS = 8192

interface NamedSetting {
  readonly name: string
  /** Undefined: thinking with a token budget. */
  readonly effort?: string
}

const readName = (model: string, settings: ClaudeSettings): NamedSetting | undefined => {
  const effort = ADAPTIVE.test(model) ? splitSuffix(model, EFFORTS) : undefined
  if (effort) return { name: effort.name, effort: effort.suffix }
  if (!settings.isThinkingSwitch || settings.plainThinkingNames.includes(model)) return undefined
  const thinking = splitSuffix(model, ['thinking'])
  if (!thinking) return undefined
  return ADAPTIVE_ONLY.test(model) ? { name: thinking.name, effort: 'high' } : { name: thinking.name }
}

export const needsClaudePatch = (call: UpstreamCall, settings: ClaudeSettings): boolean =>
  readName(call.model, settings) !== undefined

/**
 * @source https://platform.claude.com/docs/en/build-with-claude/extended-thinking (budget below `max_tokens`, at least
 * 1,024, temperature 1) and …/adaptive-thinking, …/effort (`output_config.effort`; from Opus 4.7 on adaptive only, thinking
 * text only with `display: "summarized"`, no sampling parameters), read 2026-11
 */
export const patchClaude = (json: Json, call: UpstreamCall, settings: ClaudeSettings): Json => {
  const named = readName(call.model, settings)
  if (!named) return json
  const { top_p: _topP, ...rest } = json
  if (named.effort !== undefined) {
    const adaptive = {
      ...rest,
      model: named.name,
      output_config: { ...(json.output_config as Json | undefined), effort: named.effort },
    }
    if (!ADAPTIVE_ONLY.test(named.name)) return { ...adaptive, thinking: { type: 'adaptive' }, temperature: 1 }
    const { temperature: _temperature, top_k: _topK, ...unsampled } = adaptive as Json
    return { ...unsampled, thinking: { type: 'adaptive', display: 'summarized' } }
  }
  // Counting tokens has no limit and no sampling, only thinking.
  const isCount = call.operation === 'count-tokens'
  const given = typeof json.max_tokens === 'number' ? json.max_tokens : DEFAULT_MAX_TOKENS
  const maxTokens = Math.max(given, LEAST_MAX_TOKENS)
  const budget = Math.max(1024, Math.floor(maxTokens * settings.thinkingShare))
  const thinking = { type: 'enabled', budget_tokens: Math.min(budget, maxTokens - 1) }
  return { ...rest, model: named.name, thinking, ...(!isCount && { max_tokens: maxTokens, temperature: 1 }) }
}
