/**
 * Ollama's native API. Its OpenAI-compatible endpoints would be simpler, but they put their own sampling defaults over
 * those of the model file and take neither `options` nor `keep_alive`, which operators set in parameter overrides.
 */
import { GatewayError } from '../errors.ts'
import { bearer, listAt } from './http.ts'
import { answerOf, sseOf } from './ollama-answer.ts'
import type { Provider, UpstreamCall } from './provider.ts'

type Json = Record<string, unknown>

const refuse = (reason: string): GatewayError =>
  // Another channel may well have a word for it.
  new GatewayError('convert_request_failed', { params: { reason }, retry: true })

const isRecord = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)

/** Without the properties that are undefined. */
const compact = (json: Json): Json =>
  Object.fromEntries(Object.entries(json).filter(([, value]) => value !== undefined))

const OPTIONS = ['temperature', 'top_p', 'top_k', 'frequency_penalty', 'presence_penalty', 'seed'] as const

/** Sampling moves into `options`; what the client itself put there stays. */
const optionsOf = (json: Json): Json => {
  const limit = json.max_completion_tokens ?? json.max_tokens
  const stop = typeof json.stop === 'string' ? [json.stop] : json.stop
  const named = OPTIONS.map((name) => [name, json[name] ?? undefined])
  const own = isRecord(json.options) ? json.options : {}
  return compact({
    ...own,
    ...compact(Object.fromEntries(named)),
    ...compact({ num_predict: limit ?? undefined, stop: stop ?? undefined }),
  })
}

/** @throws GatewayError for an effort that has no level here */
const thinkOf = (json: Json): unknown => {
  if (json.think !== undefined) return json.think
  const effort = json.reasoning_effort
  if (effort === undefined || effort === null) return undefined
  if (effort === 'none') return false
  if (effort === 'low' || effort === 'medium' || effort === 'high' || effort === 'max') return effort
  throw refuse(`Ollama has no reasoning effort "${String(effort)}"`)
}

const formatOf = (json: Json): unknown => {
  if (json.format !== undefined) return json.format
  const format = json.response_format
  if (!isRecord(format)) return undefined
  if (format.type === 'json_object') return 'json'
  return format.type === 'json_schema' && isRecord(format.json_schema) ? format.json_schema.schema : undefined
}

/** What chat and completions have in common. */
const common = (json: Json, call: UpstreamCall): Json => ({
  model: json.model,
  stream: call.isStream,
  options: optionsOf(json),
  think: thinkOf(json),
  format: formatOf(json),
  keep_alive: json.keep_alive,
})

/** Only data of the image itself: the server fetches nothing. */
const imageData = (part: Json): string => {
  const url = isRecord(part.image_url) ? part.image_url.url : part.image_url
  const data = typeof url === 'string' ? /^data:[^,]*;base64,(.*)$/s.exec(url)?.[1] : undefined
  if (data === undefined) throw refuse('Ollama takes images as base64 data URLs only')
  return data
}

const contentOf = (content: unknown): { content: string; images?: string[] } => {
  if (typeof content === 'string') return { content }
  if (!Array.isArray(content)) return { content: '' }
  const parts = content.filter(isRecord)
  const unknown = parts.find(({ type }) => type !== 'text' && type !== 'image_url' && type !== 'refusal')
  if (unknown) throw refuse(`Ollama takes no content of type "${String(unknown.type)}"`)
  const texts = parts.filter(({ type }) => type !== 'image_url').map((part) => String(part.text ?? part.refusal ?? ''))
  const images = parts.filter(({ type }) => type === 'image_url').map(imageData)
  return { content: texts.join('\n'), ...(images.length > 0 && { images }) }
}

const argumentsOf = (text: unknown): Json => {
  if (isRecord(text)) return text
  try {
    const parsed: unknown = JSON.parse(String(text || '{}'))
    return isRecord(parsed) ? parsed : {}
  } catch {
    throw refuse('The arguments of a tool call are no JSON object')
  }
}

const toolCallOf = (call: Json): Json => {
  const target = isRecord(call.function) ? call.function : {}
  return compact({ id: call.id, function: { name: target.name, arguments: argumentsOf(target.arguments) } })
}

const messageOf = (message: Json, toolNames: ReadonlyMap<unknown, unknown>): Json => {
  const { role, content, tool_calls: calls, tool_call_id: callId } = message
  if (role === 'tool')
    return compact({ role, ...contentOf(content), tool_name: toolNames.get(callId), tool_call_id: callId })
  return compact({
    role: role === 'developer' ? 'system' : role,
    ...contentOf(content),
    thinking: message.reasoning_content ?? message.reasoning ?? undefined,
    tool_calls: Array.isArray(calls) ? calls.filter(isRecord).map(toolCallOf) : undefined,
  })
}

/** Names of the functions by the id of their call, for the results that answer them. */
const toolNamesOf = (messages: readonly Json[]): ReadonlyMap<unknown, unknown> => {
  const calls = messages.flatMap(({ tool_calls: list }) => (Array.isArray(list) ? list.filter(isRecord) : []))
  return new Map(calls.map(({ id, function: target }) => [id, isRecord(target) ? target.name : undefined]))
}

const patchChat = (json: Json, call: UpstreamCall): Json => {
  const messages = Array.isArray(json.messages) ? json.messages.filter(isRecord) : []
  const toolNames = toolNamesOf(messages)
  return compact({
    ...common(json, call),
    messages: messages.map((message) => messageOf(message, toolNames)),
    // There is no tool choice; without tools the model cannot call any.
    tools: json.tool_choice === 'none' ? undefined : (json.tools ?? undefined),
  })
}

const patchCompletion = (json: Json, call: UpstreamCall): Json => {
  const prompts = Array.isArray(json.prompt) ? json.prompt : [json.prompt ?? '']
  if (prompts.length !== 1 || typeof prompts[0] !== 'string') throw refuse('Ollama takes one prompt, as text')
  return compact({ ...common(json, call), prompt: prompts[0], suffix: json.suffix ?? undefined })
}

const patchEmbedding = (json: Json): Json =>
  compact({
    model: json.model,
    input: json.input,
    dimensions: json.dimensions,
    truncate: json.truncate,
    keep_alive: json.keep_alive,
    options: json.options,
  })

/**
 * @source https://docs.ollama.com/api/chat, …/api/generate, …/api/embed, …/capabilities/thinking (`think`: a boolean or a
 * level), https://github.com/ollama/ollama/blob/main/docs/api.md, read 2026-11
 */
export const ollama: Provider = {
  id: 4,
  name: 'Ollama',
  baseUrl: 'http://localhost:11434',
  fields: [],
  speaks: {
    chat: { 'openai-chat': '/api/chat' },
    completions: { 'openai-chat': '/api/generate' },
    embeddings: { 'openai-chat': '/api/embed' },
  },
  hasStreamOptions: false,
  auth: bearer,
  patch: (json, call) => {
    if (call.operation === 'chat') return patchChat(json, call)
    return call.operation === 'completions' ? patchCompletion(json, call) : patchEmbedding(json)
  },
  unwrap: answerOf,
  transformStream: sseOf,
  listModels: listAt('/api/tags', bearer),
}
