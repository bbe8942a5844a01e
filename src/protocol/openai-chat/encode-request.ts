/** The IR → a chat request of OpenAI's dialect. */
import type { Encoded, EncodeRequestOptions } from '../codec.ts'
import type {
  Block,
  ChatRequest,
  Message,
  Reasoning,
  ResponseFormat,
  Tool,
  ToolChoice,
  ToolResultBlock,
} from '../ir.ts'
import { cacheControl, createLosses, extrasAt, extrasBeside, isObject, type JsonObject } from '../shape.ts'
import { encodeAssistant } from './assistant.ts'
import { type EncodeContext, encodeCache, encodePart, joinTexts, PROTOCOL } from './content.ts'

const STREAM_OPTIONS = 'stream_options.'

/**
 * `stream_options` is sent when `request.includeUsage` says so: whether an upstream takes it is for the caller to know.
 * Tool results become messages of their own in front of the rest of their message; media in them move to a user message,
 * since a tool message holds text only.
 */
export function encodeRequest(request: ChatRequest, options: EncodeRequestOptions = {}): Encoded {
  const losses = createLosses()
  const carriesClaudeFields = options.carriesClaudeFields ?? /claude/i.test(request.model)
  const context: EncodeContext = { losses, carriesClaudeFields }
  losses.extras(request.extras, PROTOCOL, '')
  const own = request.extras?.[PROTOCOL] ?? {}
  const json: Record<string, unknown> = {
    model: request.model,
    messages: request.messages.flatMap((message) => encodeMessage(message, context)),
  }
  const set = (key: string, value: unknown) => {
    if (value !== undefined) json[key] = value
  }
  set('max_tokens', request.maxOutputTokens)
  set('temperature', request.temperature)
  set('top_p', request.topP)
  set('top_k', request.topK)
  set('stop', request.stop?.length === 1 ? request.stop[0] : request.stop)
  set('seed', request.seed)
  set('frequency_penalty', request.frequencyPenalty)
  set('presence_penalty', request.presencePenalty)
  set('n', request.choices)
  const tools = request.tools?.flatMap((tool) => encodeTool(tool, context))
  if (tools && tools.length > 0) {
    set('tools', tools)
    set('tool_choice', encodeToolChoice(request.toolChoice))
    set('parallel_tool_calls', request.parallelToolCalls)
  }
  if (own['reasoning'] === undefined && own['thinking'] === undefined) {
    const thinking = carriesClaudeFields ? request.extras?.claude?.['thinking'] : undefined
    set('thinking', thinking)
    set('reasoning_effort', encodeEffort(request, thinking !== undefined, context))
  }
  set('response_format', encodeFormat(request.responseFormat))
  set('user', request.userId)
  const asked = request.includeUsage === undefined ? {} : { include_usage: request.includeUsage }
  const streamOptions = { ...extrasAt(own, STREAM_OPTIONS), ...asked }
  const stream = {
    ...(request.isStream ? { stream: true } : {}),
    ...(request.isStream && Object.keys(streamOptions).length > 0 ? { stream_options: streamOptions } : {}),
  }
  return { json: { ...json, ...extrasBeside(own, STREAM_OPTIONS), ...stream }, losses: losses.list() }
}

function encodeMessage(message: Message, context: EncodeContext): JsonObject[] {
  context.losses.extras(message.extras, PROTOCOL, 'messages[].')
  const name = message.name === undefined ? {} : { name: message.name }
  const own = { ...name, ...message.extras?.[PROTOCOL] }
  if (message.role === 'assistant') return [{ role: 'assistant', ...encodeAssistant(message.blocks, context), ...own }]
  if (message.role !== 'user') {
    const parts = encodeParts(message.blocks, context)
    return [{ role: message.role, content: joinTexts(parts, '\n\n') ?? parts, ...own }]
  }
  const results: JsonObject[] = []
  const moved: JsonObject[] = []
  const others: Block[] = []
  for (const block of message.blocks) {
    if (block.type !== 'tool-result') others.push(block)
    else results.push(encodeToolResult(block, moved, context))
  }
  const parts = [...moved, ...encodeParts(others, context)]
  if (parts.length === 0 && results.length > 0) {
    const last = results.length - 1
    return results.map((result, index) => (index === last ? { ...result, ...own } : result))
  }
  const content = parts.length > 1 ? parts : (joinTexts(parts, '') ?? parts)
  return [...results, { role: 'user', content, ...own }]
}

function encodeParts(blocks: readonly Block[], context: EncodeContext): JsonObject[] {
  const parts: JsonObject[] = []
  for (const block of blocks) {
    if (block.type === 'text' || block.type === 'image' || block.type === 'file' || block.type === 'unknown') {
      const part = encodePart(block, context)
      if (part) parts.push(part)
    } else if (block.type === 'refusal') {
      parts.push({ type: 'text', text: block.text })
    } else {
      context.losses.add(`messages[].content[].type.${block.type}`, 'only the assistant can say this')
    }
  }
  return parts
}

function encodeToolResult(block: ToolResultBlock, moved: JsonObject[], context: EncodeContext): JsonObject {
  const { losses } = context
  losses.extras(block.extras, PROTOCOL, 'messages[].content[].')
  if (block.isError) losses.add('messages[].content[].is_error', 'a tool message cannot say that the tool failed')
  const texts: JsonObject[] = []
  const media: JsonObject[] = []
  for (const item of block.content) {
    const part = encodePart(item, context)
    if (!part) continue
    if (part['type'] === 'text') texts.push(part)
    else media.push(part)
  }
  if (media.length > 0) {
    losses.add('messages[].content[].content[].type', 'media in a tool result move to a user message')
    moved.push({ type: 'text', text: `Content of the result of tool call ${block.callId}:` }, ...media)
    if (texts.length === 0) texts.push({ type: 'text', text: 'The result is in the next user message.' })
  }
  const last = texts.at(-1)
  if (last) texts[texts.length - 1] = { ...last, ...encodeCache(block, context) }
  return { role: 'tool', tool_call_id: block.callId, content: joinTexts(texts, '\n') ?? texts }
}

function encodeTool(tool: Tool, { losses, carriesClaudeFields }: EncodeContext): JsonObject[] {
  if (tool.type === 'provider') {
    if (tool.protocol === PROTOCOL && isObject(tool.value)) return [tool.value]
    const type = isObject(tool.value) ? String(tool.value['type']) : 'unknown'
    losses.add(`tools[].type.${type}`, `a tool that only its own provider can run`)
    return []
  }
  losses.extras(tool.extras, PROTOCOL, 'tools[].')
  if (tool.cache && !carriesClaudeFields)
    losses.add('tools[].cache_control', 'only Claude models know cache breakpoints')
  const { function: inFunction, ...own } = tool.extras?.[PROTOCOL] ?? {}
  return [
    {
      type: 'function',
      function: {
        name: tool.name,
        ...(tool.description === undefined ? {} : { description: tool.description }),
        ...(tool.parameters === undefined ? {} : { parameters: tool.parameters }),
        ...(tool.strict === undefined ? {} : { strict: tool.strict }),
        ...(isObject(inFunction) ? inFunction : {}),
      },
      ...(tool.cache && carriesClaudeFields ? { cache_control: cacheControl(tool.cache) } : {}),
      ...own,
    },
  ]
}

function encodeToolChoice(choice: ToolChoice | undefined): unknown {
  if (!choice) return undefined
  return choice.type === 'tool' ? { type: 'function', function: { name: choice.name } } : choice.type
}

/**
 * Thinking budgets as efforts: the inverse of what a Claude request is given for an effort.
 * @param isWritten the budget itself is sent, in Claude's own words
 */
function encodeEffort(
  { reasoning, extras }: ChatRequest,
  isWritten: boolean,
  { losses }: EncodeContext,
): Reasoning['effort'] {
  const { effort, budgetTokens } = reasoning ?? {}
  if (effort === 'none' && extras?.claude) {
    // Models that do not reason refuse the field, and they are the most.
    if (!isWritten) losses.add('thinking.type', 'thinking cannot be switched off for all models of this dialect')
    return undefined
  }
  if (effort !== undefined || budgetTokens === undefined || isWritten) return effort
  losses.add('thinking.budget_tokens', 'a budget becomes the nearest effort')
  return budgetTokens < 2048 ? 'low' : budgetTokens < 4096 ? 'medium' : 'high'
}

function encodeFormat(format: ResponseFormat | undefined): unknown {
  if (!format) return undefined
  if (format.type === 'text') return { type: 'text' }
  if (format.type === 'json') return { type: 'json_object' }
  return {
    type: 'json_schema',
    json_schema: {
      name: format.name ?? 'response',
      ...(format.description === undefined ? {} : { description: format.description }),
      schema: format.schema,
      ...(format.strict === undefined ? {} : { strict: format.strict }),
    },
  }
}
