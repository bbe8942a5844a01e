/** What routing and the estimate need of a Messages request, read without building the IR. */
import type { Countable, Peek } from '../codec.ts'
import {
  invalid,
  isObject,
  listOf,
  optionalBoolean,
  optionalList,
  requestObject,
  requiredText,
  textOf,
  tokenLimit,
} from '../shape.ts'

/**
 * Checks types and what cannot do without; values are the upstream's to judge. A missing `max_tokens` is, too: some
 * servers of this dialect do without.
 * @throws GatewayError `invalid_request`
 */
export function peek(json: unknown): Peek {
  const body = requestObject(json)
  const model = requiredText(body, 'model')
  const messages = optionalList(body, 'messages') ?? []
  if (messages.length === 0) throw invalid('messages is required and must not be empty')
  const odd = messages.findIndex((message) => !isObject(message))
  if (odd !== -1) throw invalid(`messages[${odd}] must be an object`)
  const maxOutputTokens = tokenLimit(body, ['max_tokens', 'max_tokens_to_sample'])
  return {
    model,
    isStream: optionalBoolean(body, 'stream') ?? false,
    ...(maxOutputTokens === undefined ? {} : { maxOutputTokens }),
  }
}

type Media = { images: number; audios: number; videos: number; files: number }

/** System, roles, text, tool calls with their input and results, tool definitions; media by kind. */
export function countable(json: unknown): Countable {
  const body = isObject(json) ? json : {}
  const texts: string[] = []
  const media: Media = { images: 0, audios: 0, videos: 0, files: 0 }
  countContent(body['system'], texts, media)
  const messages = listOf(body['messages'])
  for (const message of messages) {
    if (!isObject(message)) continue
    texts.push(textOf(message['role']))
    countContent(message['content'], texts, media)
  }
  const tools = listOf(body['tools'])
  for (const tool of tools) {
    if (!isObject(tool)) continue
    texts.push(textOf(tool['name']), textOf(tool['description']))
    if (isObject(tool['input_schema'])) texts.push(JSON.stringify(tool['input_schema']))
  }
  return {
    texts: texts.filter((text) => text !== ''),
    messages: messages.length,
    names: 0,
    tools: tools.length,
    ...media,
  }
}

function countContent(content: unknown, texts: string[], media: Media): void {
  if (typeof content === 'string') {
    texts.push(content)
    return
  }
  for (const block of listOf(content)) {
    if (!isObject(block)) continue
    const source = isObject(block['source']) ? block['source'] : {}
    switch (block['type']) {
      case 'image':
        media.images++
        break
      case 'document':
        if (source['type'] === 'text') texts.push(textOf(source['data']))
        else if (source['type'] === 'content') countContent(source['content'], texts, media)
        else media.files++
        break
      case 'tool_use':
      case 'server_tool_use':
      case 'mcp_tool_use':
        texts.push(textOf(block['name']), JSON.stringify(block['input'] ?? {}))
        break
      default:
        texts.push(textOf(block['text']))
        countContent(block['content'], texts, media)
    }
  }
}
