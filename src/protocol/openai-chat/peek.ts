/** What routing and the estimate need of a chat request, read without building the IR. */
import type { Countable, Peek } from '../codec.ts'
import {
  invalid,
  isObject,
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
  const odd = messages.findIndex(isNoObject)
  if (odd !== -1) throw invalid(`messages[${odd}] must be an object`)
  const isStream = optionalBoolean(body, 'stream') ?? false
  const streamOptions = optionalObject(body, 'stream_options')
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
    maxOutputTokens,
    choices: choices > 1 ? choices : undefined,
    includeUsage: streamOptions && optionalBoolean(streamOptions, 'include_usage'),
  }
}

const isNoObject = (value: unknown): boolean => !isObject(value)

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
    addText(texts, message['role'])
    if (typeof message['name'] === 'string') {
      addText(texts, message['name'])
      names++
    }
    if (Array.isArray(message['content'])) for (const part of message['content']) countPart(part, texts, media)
    else addText(texts, message['content'])
    addText(texts, message['reasoning_content'])
    for (const call of listOf(message['tool_calls'])) {
      const fn = isObject(call) ? (call['function'] ?? call['custom']) : undefined
      if (!isObject(fn)) continue
      addText(texts, fn['name'])
      addText(texts, textOf(fn['arguments']) || fn['input'])
    }
  }
  const tools = listOf(body['tools'])
  const functions = listOf(body['functions'])
  for (const list of [tools, functions]) for (const tool of list) countTool(tool, texts)
  return { texts, messages: messages.length, names, tools: tools.length + functions.length, ...media }
}

function addText(texts: string[], value: unknown): void {
  if (typeof value === 'string' && value !== '') texts.push(value)
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
      addText(texts, part['text'])
      addText(texts, part['refusal'])
  }
}

function countTool(tool: unknown, texts: string[]): void {
  if (!isObject(tool)) return
  const fn = isObject(tool['function']) ? tool['function'] : isObject(tool['custom']) ? tool['custom'] : tool
  addText(texts, fn['name'])
  addText(texts, fn['description'])
  if (isObject(fn['parameters'])) texts.push(JSON.stringify(fn['parameters']))
}
