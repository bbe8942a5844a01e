/** Usage of Claude's dialect ⇄ the counts of the IR. */
import type { Usage } from '../ir.ts'
import { countOf, isObject, type JsonObject, listOf } from '../shape.ts'

/**
 * Claude counts what was read from and written to the cache beside `input_tokens`, not inside. A compaction that ran
 * within the call is billed and stands only in `iterations`.
 * @param raw the `usage` object of a message, or for a stream its merged objects
 * @returns undefined when nothing was counted
 * @source https://docs.anthropic.com/en/api/messages (usage), https://platform.claude.com/docs/en/build-with-claude/compaction-threshold, read 2026-11
 */
export function decodeUsage(raw: unknown): Usage | undefined {
  if (!isObject(raw)) return undefined
  let counts = countsOf(raw)
  for (const iteration of listOf(raw['iterations'])) {
    if (isObject(iteration) && iteration['type'] === 'compaction') counts = add(counts, countsOf(iteration))
  }
  const { input, output, read, written, written5m, written1h } = counts
  const inputTokens = input + read + written
  if (inputTokens === 0 && output === 0) return undefined
  const details = isObject(raw['output_tokens_details']) ? raw['output_tokens_details'] : {}
  const serverToolCalls = decodeServerTools(raw['server_tool_use'])
  return {
    inputTokens,
    outputTokens: output,
    cacheReadTokens: read,
    cacheWriteTokens: written,
    cacheWrite5mTokens: written5m,
    cacheWrite1hTokens: written1h,
    reasoningTokens: countOf(details['thinking_tokens']),
    imageInputTokens: 0,
    audioInputTokens: 0,
    audioOutputTokens: 0,
    ...(serverToolCalls ? { serverToolCalls } : {}),
    semantic: 'anthropic',
    raw,
  }
}

type Counts = Readonly<Record<'input' | 'output' | 'read' | 'written' | 'written5m' | 'written1h', number>>

function countsOf(raw: JsonObject): Counts {
  const split = isObject(raw['cache_creation']) ? raw['cache_creation'] : {}
  const written5m = countOf(split['ephemeral_5m_input_tokens'])
  const written1h = countOf(split['ephemeral_1h_input_tokens'])
  return {
    input: countOf(raw['input_tokens']),
    output: countOf(raw['output_tokens']),
    read: countOf(raw['cache_read_input_tokens']),
    written: Math.max(countOf(raw['cache_creation_input_tokens']), written5m + written1h),
    written5m,
    written1h,
  }
}

const add = (a: Counts, b: Counts): Counts => ({
  input: a.input + b.input,
  output: a.output + b.output,
  read: a.read + b.read,
  written: a.written + b.written,
  written5m: a.written5m + b.written5m,
  written1h: a.written1h + b.written1h,
})

/** `{ web_search_requests: 2 }` → `{ web_search: 2 }` */
function decodeServerTools(raw: unknown): Record<string, number> | undefined {
  if (!isObject(raw)) return undefined
  const calls = Object.entries(raw)
    .map(([key, value]) => [key.replace(/_requests$/, ''), countOf(value)] as const)
    .filter(([, count]) => count > 0)
  return calls.length === 0 ? undefined : Object.fromEntries(calls)
}

/**
 * In `message_delta` the counts are final and replace those of `message_start`, except where an upstream leaves them out
 * or zero.
 */
export function mergeUsage(before: JsonObject, after: JsonObject): JsonObject {
  const isStated = ([key, value]: [string, unknown]) => value !== null && !(value === 0 && countOf(before[key]) > 0)
  return { ...before, ...Object.fromEntries(Object.entries(after).filter(isStated)) }
}

/** @returns a `usage` object from which `decodeUsage` reads the same counts */
export function encodeUsage(usage: Usage): JsonObject {
  const { cacheReadTokens, cacheWriteTokens, cacheWrite5mTokens, cacheWrite1hTokens } = usage
  const tools = Object.entries(usage.serverToolCalls ?? {}).map(([name, count]) => [`${name}_requests`, count])
  return {
    input_tokens: Math.max(0, usage.inputTokens - cacheReadTokens - cacheWriteTokens),
    cache_creation_input_tokens: cacheWriteTokens,
    cache_read_input_tokens: cacheReadTokens,
    ...(cacheWrite5mTokens + cacheWrite1hTokens > 0
      ? {
          cache_creation: {
            ephemeral_5m_input_tokens: cacheWrite5mTokens,
            ephemeral_1h_input_tokens: cacheWrite1hTokens,
          },
        }
      : {}),
    output_tokens: usage.outputTokens,
    ...(usage.reasoningTokens > 0 ? { output_tokens_details: { thinking_tokens: usage.reasoningTokens } } : {}),
    ...(tools.length > 0 ? { server_tool_use: Object.fromEntries(tools) } : {}),
  }
}
