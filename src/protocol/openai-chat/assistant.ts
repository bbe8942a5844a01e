/** What the assistant says in OpenAI's chat dialect: the same message shape in the history of a request and in an answer. */
import type { Block, ThinkingBlock, ToolCallBlock } from '../ir.ts'
import { cacheOf, isObject, type JsonObject, listOf, textOf } from '../shape.ts'
import {
  decodeContent,
  decodeThinking,
  type EncodeContext,
  encodeDetail,
  encodePart,
  joinTexts,
  PROTOCOL,
} from './content.ts'

/** Fields of an assistant message that become blocks. */
export const ASSISTANT_KEYS: ReadonlySet<string> = new Set([
  'role',
  'content',
  'name',
  'refusal',
  'reasoning_content',
  'reasoning',
  'reasoning_details',
  'tool_calls',
  'function_call',
  'cache_control',
])

/**
 * Thinking, then content, then a refusal, then tool calls: the order in which models produce them.
 * @param fallbackId makes an id for the call at an index that came without one
 */
export function decodeAssistant(message: JsonObject, where: string, fallbackId: (index: number) => string): Block[] {
  const blocks: Block[] = [...decodeThinking(message), ...decodeContent(message['content'], where)]
  const refusal = textOf(message['refusal'])
  if (refusal !== '') blocks.push({ type: 'refusal', text: refusal })
  for (const [index, call] of listOf(message['tool_calls']).entries()) {
    if (isObject(call)) blocks.push(decodeToolCall(call, () => fallbackId(index)))
  }
  const legacy = message['function_call']
  if (isObject(legacy)) {
    const name = textOf(legacy['name'])
    blocks.push({ type: 'tool-call', id: legacyCallId(name), name, arguments: argumentsText(legacy['arguments']) })
  }
  return withCache(blocks, message)
}

/** A breakpoint on the message itself, as some clients put it, belongs to its last block. */
export function withCache(blocks: Block[], message: JsonObject): Block[] {
  const { cache } = cacheOf(message['cache_control'])
  const last = blocks.at(-1)
  return cache && last && !last.cache ? [...blocks.slice(0, -1), { ...last, cache }] : blocks
}

/** The old form of tool calls had no ids: the result names the function. */
export const legacyCallId = (name: string): string => `call_${name}`

function decodeToolCall(call: JsonObject, fallbackId: () => string): Block {
  if (isObject(call['custom'])) return { type: 'unknown', protocol: PROTOCOL, value: call }
  const fn = isObject(call['function']) ? call['function'] : {}
  return {
    type: 'tool-call',
    id: textOf(call['id']) || fallbackId(),
    name: textOf(fn['name']),
    arguments: argumentsText(fn['arguments']),
    ...cacheOf(call['cache_control']),
  }
}

/** Some servers send the arguments as an object instead of its text. */
export const argumentsText = (value: unknown): string =>
  typeof value === 'string' ? value : value === undefined || value === null ? '' : JSON.stringify(value)

/** @returns the fields of the message beside `role`; `content` is null when there are only tool calls */
export function encodeAssistant(blocks: readonly Block[], context: EncodeContext): Record<string, unknown> {
  const parts: JsonObject[] = []
  const thinking: ThinkingBlock[] = []
  const calls: JsonObject[] = []
  let refusal = ''
  for (const block of blocks) {
    switch (block.type) {
      case 'thinking':
        thinking.push(block)
        break
      case 'tool-call':
        calls.push(encodeToolCall(block, context))
        break
      case 'refusal':
        refusal += block.text
        break
      case 'tool-result':
        context.losses.add('messages[].content[].type.tool_result', 'the assistant cannot answer a tool call')
        break
      default: {
        const part = encodePart(block, context)
        if (part && isObject(part['custom'])) calls.push(part)
        else if (part) parts.push(part)
        // A part after a call stands before it on the other side.
        if (part && calls.length > 0 && !isObject(part['custom']))
          context.losses.add('messages[].content[].order', 'text after a tool call moves in front of it')
      }
    }
  }
  const content =
    parts.length === 0 ? (calls.length > 0 || refusal !== '' ? null : '') : (joinTexts(parts, '') ?? parts)
  return {
    content,
    ...(refusal === '' ? {} : { refusal }),
    ...encodeThinking(thinking, context),
    ...(calls.length === 0 ? {} : { tool_calls: calls }),
  }
}

function encodeToolCall(block: ToolCallBlock, context: EncodeContext): JsonObject {
  context.losses.extras(block.extras, PROTOCOL, 'messages[].content[].')
  if (block.cache) context.losses.add('messages[].content[].cache_control', 'tool calls cannot carry a breakpoint')
  return { id: block.id, type: 'function', function: { name: block.name, arguments: block.arguments || '{}' } }
}

function encodeThinking(blocks: readonly ThinkingBlock[], { losses, carriesClaudeFields }: EncodeContext): JsonObject {
  if (blocks.length === 0) return {}
  const text = blocks.map((block) => block.text).join('')
  const isSigned = blocks.some((block) => block.signature !== undefined || block.redacted !== undefined)
  if (isSigned && !carriesClaudeFields) {
    losses.add('messages[].content[].signature', 'only Claude models check the signature of thinking')
    if (blocks.some((block) => block.redacted !== undefined))
      losses.add('messages[].content[].data', 'only Claude models read redacted thinking')
  }
  return {
    ...(text === '' ? {} : { reasoning_content: text }),
    ...(isSigned && carriesClaudeFields ? { reasoning_details: blocks.map(encodeDetail) } : {}),
  }
}
