/** Usage of OpenAI's chat dialect ⇄ the counts of the IR. */
import type { Usage } from '../ir.ts'
import { countOf, isObject, type JsonObject } from '../shape.ts'

/**
 * `prompt_tokens` includes what was read from and written to the cache, `completion_tokens` includes reasoning. Servers
 * that count otherwise are known by their sums: caches larger than the prompt stand beside it (as Claude counts), and
 * reasoning larger than the completion, or counted in the total on top of it, stands beside it (as xAI counts).
 * @param raw the `usage` object
 * @returns undefined when nothing was counted
 * @source https://platform.openai.com/docs/api-reference/chat/object (usage); DeepSeek's `prompt_cache_hit_tokens`:
 * https://api-docs.deepseek.com/guides/kv_cache; read 2026-11
 */
export function decodeUsage(raw: unknown): Usage | undefined {
  if (!isObject(raw)) return undefined
  const prompt = details(raw, 'prompt_tokens_details', 'input_tokens_details')
  const completion = details(raw, 'completion_tokens_details', 'output_tokens_details')
  const total = countOf(raw['total_tokens'])
  const statedOutput = countOf(raw['completion_tokens']) || countOf(raw['output_tokens'])
  const statedInput = countOf(raw['prompt_tokens']) || countOf(raw['input_tokens']) || Math.max(0, total - statedOutput)
  if (statedInput === 0 && statedOutput === 0) return undefined

  const cacheReadTokens =
    countOf(prompt['cached_tokens']) || countOf(raw['prompt_cache_hit_tokens']) || countOf(raw['cached_tokens'])
  const cacheWrite5mTokens = eitherOf(raw, prompt, 'claude_cache_creation_5_m_tokens')
  const cacheWrite1hTokens = eitherOf(raw, prompt, 'claude_cache_creation_1_h_tokens')
  const cacheWriteTokens = Math.max(
    countOf(prompt['cache_write_tokens']),
    countOf(prompt['cached_creation_tokens']),
    cacheWrite5mTokens + cacheWrite1hTokens,
  )
  const cached = cacheReadTokens + cacheWriteTokens
  const reasoningTokens = countOf(completion['reasoning_tokens'])
  const isBeside = reasoningTokens > statedOutput || total === statedInput + statedOutput + reasoningTokens
  return {
    inputTokens: cached > statedInput ? statedInput + cached : statedInput,
    outputTokens: isBeside ? statedOutput + reasoningTokens : statedOutput,
    cacheReadTokens,
    cacheWriteTokens,
    cacheWrite5mTokens,
    cacheWrite1hTokens,
    reasoningTokens,
    imageInputTokens: countOf(prompt['image_tokens']),
    audioInputTokens: countOf(prompt['audio_tokens']),
    audioOutputTokens: countOf(completion['audio_tokens']),
    semantic: 'openai',
    raw,
  }
}

const details = (raw: JsonObject, ...keys: readonly string[]): JsonObject => {
  for (const key of keys) {
    const value = raw[key]
    if (isObject(value)) return value
  }
  return {}
}

const eitherOf = (raw: JsonObject, prompt: JsonObject, key: string): number => countOf(raw[key]) || countOf(prompt[key])

/**
 * Cache writes of Claude without a stated life count as 5 minutes.
 * @returns a `usage` object from which `decodeUsage` reads the same counts
 */
export function encodeUsage(usage: Usage): JsonObject {
  const written = usage.cacheWriteTokens
  const longLived = usage.cacheWrite1hTokens
  const shortLived = usage.semantic === 'anthropic' ? Math.max(0, written - longLived) : usage.cacheWrite5mTokens
  return {
    prompt_tokens: usage.inputTokens,
    completion_tokens: usage.outputTokens,
    total_tokens: usage.inputTokens + usage.outputTokens,
    prompt_tokens_details: {
      cached_tokens: usage.cacheReadTokens,
      ...(written > 0 ? { cache_write_tokens: written, cached_creation_tokens: written } : {}),
      ...(usage.imageInputTokens > 0 ? { image_tokens: usage.imageInputTokens } : {}),
      ...(usage.audioInputTokens > 0 ? { audio_tokens: usage.audioInputTokens } : {}),
    },
    completion_tokens_details: {
      reasoning_tokens: usage.reasoningTokens,
      ...(usage.audioOutputTokens > 0 ? { audio_tokens: usage.audioOutputTokens } : {}),
    },
    ...(shortLived > 0 ? { claude_cache_creation_5_m_tokens: shortLived } : {}),
    ...(longLived > 0 ? { claude_cache_creation_1_h_tokens: longLived } : {}),
  }
}
