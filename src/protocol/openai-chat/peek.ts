/** What routing and the estimate need of a chat request, read without building the IR. */
import type { Countable, Peek } from '../codec.ts'
import {
  invalid,
  isObject,
  type JsonObject,
  listOf,
  optionalBoolean,
  optionalList,
  optionalNumber,
  optionalObject,
  requestObject,
  requiredText,
  textOf,
  tokenLimit,
} from '../shape.ts'

const CONTEXT_SIZES = ['low', 'medium', 'high']

/**
 * Checks types and what cannot do without; values are the upstream's to judge.
 * @throws GatewayError `invalid_request`
 */
export function peek(json: unknown): Peek {
  const body = requestObject(json)
  const model = requiredText(body, 'model')
  const messages = optionalList(body, 'messages') ?? []
  if (messages.length === 0 && isAbsent(body['prefix']) && isAbsent(body['suffix'])) {
    throw invalid('messages is required and must not be empty')
  }
  const odd = messages.findIndex((message) => !isObject(message))
  if (odd !== -1) throw invalid(`messages[${odd}] must be an object`)
  const isStream = optionalBoolean(body, 'stream') ?? false
  const includeUsage = optionalBoolean(optionalObject(body, 'stream_options') ?? {}, 'include_usage')
  const maxOutputTokens = tokenLimit(body, ['max_tokens', 'max_completion_tokens'])
  const choices = optionalNumber(body, 'n') ?? 1
  if (!Number.isInteger(choices) || choices < 1) throw invalid('n must be a whole number of at least 1')
  const size = optionalObject(body, 'web_search_options')?.['search_context_size']
  if (!isAbsent(size) && !CONTEXT_SIZES.includes(textOf(size))) {
    throw invalid('web_search_options.search_context_size must be low, medium or high')
  }
  return {
    model,
    isStream,
    ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
    ...(choices > 1 ? { choices } : {}),
    ...(includeUsage === undefined ? {} : { includeUsage }),
  }
}

const isAbsent = (value: unknown): boolean => value === undefined || value === null || value === ''

/** Roles, names, text, tool calls and tool definitions; media by kind. */
export function countable(json: unknown): Countable {
  const body = isObject(json) ? json : {}
  const texts: string[] = []
  const media = { images: 0, audios: 0, videos: 0, files: 0 }
  const messages = listOf(body['messages'])
  let names = 0
  for (const message of messages) {
    if (!isObject(message)) continue
    texts.push(textOf(message['role']))
    if (typeof message['name'] === 'string') {
      texts.push(message['name'])
      names++
    }
    if (typeof message['content'] === 'string') texts.push(message['content'])
    else for (const part of listOf(message['content'])) countPart(part, texts, media)
    texts.push(textOf(message['reasoning_content']))
    for (const call of listOf(message['tool_calls'])) {
      const fn = isObject(call) ? (call['function'] ?? call['custom']) : undefined
      if (isObject(fn)) texts.push(textOf(fn['name']), textOf(fn['arguments']) || textOf(fn['input']))
    }
  }
  const tools = [...listOf(body['tools']), ...listOf(body['functions'])]
  for (const tool of tools) if (isObject(tool)) countTool(tool, texts)
  return { texts: texts.filter((text) => text !== ''), messages: messages.length, names, tools: tools.length, ...media }
}

type Media = { images: number; audios: number; videos: number; files: number }

function countPart(part: unknown, texts: string[], media: Media): void {
  if (!isObject(part)) return
  switch (part['type']) {
    case 'image_url':
      media.images++
      break
    case 'input_audio':
      media.audios++
      break
    case 'video_url':
      media.videos++
      break
    case 'file':
      media.files++
      break
    default:
      texts.push(textOf(part['text']), textOf(part['refusal']))
  }
}

function countTool(tool: JsonObject, texts: string[]): void {
  const fn = isObject(tool['function']) ? tool['function'] : isObject(tool['custom']) ? tool['custom'] : tool
  texts.push(textOf(fn['name']), textOf(fn['description']))
  if (isObject(fn['parameters'])) texts.push(JSON.stringify(fn['parameters']))
}
