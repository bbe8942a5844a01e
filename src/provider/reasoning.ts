/**
 * Model names that carry a setting at their end, such as `gpt-5-high`: operators offer and price them as models of their
 * own, upstreams know only the plain name and the setting. Shared by the providers that speak the dialect in question.
 */
import type { UpstreamCall } from './provider.ts'

type Json = Record<string, unknown>

/** @returns the name without its suffix, and the suffix without its dash; undefined when the name carries none of them */
export const splitSuffix = (
  model: string,
  suffixes: readonly string[],
): { name: string; suffix: string } | undefined => {
  const suffix = suffixes.find((candidate) => model.endsWith(`-${candidate}`))
  return suffix === undefined ? undefined : { name: model.slice(0, -suffix.length - 1), suffix }
}

const OPENAI_EFFORTS = ['xhigh', 'high', 'medium', 'low', 'minimal', 'none'] as const

/** OpenAI's reasoning models: `o` and a digit, and the whole family of GPT-5. */
const isReasoningModel = (model: string): boolean => /^(o\d|gpt-5)/.test(model)

/** `gpt-5-high` → `{ name: 'gpt-5', suffix: 'high' }`; only for OpenAI's reasoning models. */
export const splitOpenAiEffort = (model: string) =>
  isReasoningModel(model) ? splitSuffix(model, OPENAI_EFFORTS) : undefined

/** These models refuse `max_tokens` outright, and a body converted from another dialect may carry it. */
const hasRefusedLimit = (json: Readonly<Json>, call: UpstreamCall): boolean =>
  call.operation === 'chat' && isReasoningModel(call.model) && json.max_tokens !== undefined

export const needsReasoningPatch = (call: UpstreamCall): boolean =>
  splitOpenAiEffort(call.model) !== undefined || hasRefusedLimit(call.json, call)

/**
 * `…-high` becomes `reasoning_effort: "high"` and the plain name; `max_tokens` becomes `max_completion_tokens`.
 * Everything else is the upstream's to judge.
 * @source https://platform.openai.com/docs/api-reference/chat/create (`max_tokens` is deprecated and "not compatible with
 * o-series models"; `reasoning_effort`), read 2026-11
 */
export const patchReasoning = (json: Json, call: UpstreamCall): Json => {
  const patched = { ...json }
  const split = splitOpenAiEffort(call.model)
  if (split) {
    patched.model = split.name
    if (call.operation === 'chat') patched.reasoning_effort = split.suffix
  }
  if (hasRefusedLimit(json, call)) {
    patched.max_completion_tokens ??= patched.max_tokens
    delete patched.max_tokens
  }
  return patched
}
