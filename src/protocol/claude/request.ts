/**
 * Requests of Claude's Messages dialect → the IR.
 * @source https://docs.anthropic.com/en/api/messages, read 2026-11
 */
import type { Decoded } from '../codec.ts'
import type { ChatRequest, Message, Reasoning, ResponseFormat, Tool, ToolChoice } from '../ir.ts'
import {
  cacheOf,
  extrasOf,
  invalid,
  isObject,
  type JsonObject,
  optionalBoolean,
  optionalList,
  optionalNumber,
  optionalObject,
  requestObject,
  requiredText,
  rest,
  textOf,
  withPath,
} from '../shape.ts'
import { decodeContent, PROTOCOL } from './content.ts'

const REQUEST_KEYS = new Set([
  'model',
  'messages',
  'system',
  'max_tokens',
  'temperature',
  'top_p',
  'top_k',
  'stop_sequences',
  'stream',
  'tools',
  'tool_choice',
  'output_config',
  'metadata',
])
const MESSAGE_KEYS = new Set(['role', 'content'])
const TOOL_KEYS = new Set(['type', 'name', 'description', 'input_schema', 'strict', 'cache_control'])
const OUTPUT_KEYS = new Set(['format'])
const METADATA_KEYS = new Set(['user_id'])

/** @throws GatewayError `invalid_request` */
export function decodeRequest(json: unknown): Decoded<ChatRequest> {
  const body = requestObject(json)
  const output = optionalObject(body, 'output_config') ?? {}
  const choice = optionalObject(body, 'tool_choice') ?? {}
  const userId = optionalObject(body, 'metadata')?.['user_id']
  const tools = (optionalList(body, 'tools') ?? []).map(decodeTool)
  const value: Record<string, unknown> = {
    model: requiredText(body, 'model'),
    messages: [...decodeSystem(body['system']), ...(optionalList(body, 'messages') ?? []).map(decodeMessage)],
    isStream: optionalBoolean(body, 'stream') ?? false,
  }
  const set = <K extends keyof ChatRequest>(key: K, field: ChatRequest[K] | undefined) => {
    if (field !== undefined) value[key] = field
  }
  if (tools.length > 0) set('tools', tools)
  set('toolChoice', decodeToolChoice(choice))
  const isSerial = optionalBoolean(choice, 'disable_parallel_tool_use')
  set('parallelToolCalls', isSerial === undefined ? undefined : !isSerial)
  set('maxOutputTokens', optionalNumber(body, 'max_tokens'))
  set('temperature', optionalNumber(body, 'temperature'))
  set('topP', optionalNumber(body, 'top_p'))
  set('topK', optionalNumber(body, 'top_k'))
  set('stop', decodeStop(body))
  set('reasoning', decodeReasoning(optionalObject(body, 'thinking'), output))
  set('responseFormat', decodeFormat(output['format'] ?? body['output_format']))
  set('userId', typeof userId === 'string' ? userId : undefined)
  set('extras', decodeExtras(body, output))
  // Every field was set with its own type.
  return { value: value as unknown as ChatRequest, losses: [] }
}

function decodeExtras(body: JsonObject, output: JsonObject): ChatRequest['extras'] {
  const metadata = isObject(body['metadata']) ? rest(body['metadata'], METADATA_KEYS) : undefined
  const left = {
    ...rest(body, REQUEST_KEYS),
    ...withPath('metadata.', metadata),
    // The effort is kept beside its meaning: in this dialect it also rules answers without thinking.
    ...withPath('output_config.', rest(output, OUTPUT_KEYS)),
  }
  return Object.keys(left).length === 0 ? undefined : { [PROTOCOL]: left }
}

function decodeSystem(system: unknown): Message[] {
  const blocks = decodeContent(system, 'system')
  return blocks.length === 0 ? [] : [{ role: 'system', blocks }]
}

function decodeMessage(message: unknown, index: number): Message {
  const where = `messages[${index}]`
  if (!isObject(message)) throw invalid(`${where} must be an object`)
  const { role } = message
  if (role !== 'user' && role !== 'assistant' && role !== 'system') {
    throw invalid(`${where}.role must be user or assistant`)
  }
  const blocks = decodeContent(message['content'], `${where}.content`)
  return { role, blocks, ...extrasOf(PROTOCOL, message, MESSAGE_KEYS) }
}

function decodeTool(tool: unknown, index: number): Tool {
  if (!isObject(tool)) throw invalid(`tools[${index}] must be an object`)
  const type = tool['type'] ?? 'custom'
  if (type !== 'custom') return { type: 'provider', protocol: PROTOCOL, value: tool }
  return {
    type: 'function',
    name: textOf(tool['name']),
    ...(typeof tool['description'] === 'string' ? { description: tool['description'] } : {}),
    ...(isObject(tool['input_schema']) ? { parameters: tool['input_schema'] } : {}),
    ...(typeof tool['strict'] === 'boolean' ? { strict: tool['strict'] } : {}),
    ...cacheOf(tool['cache_control']),
    ...extrasOf(PROTOCOL, tool, TOOL_KEYS),
  }
}

function decodeToolChoice(choice: JsonObject): ToolChoice | undefined {
  switch (choice['type']) {
    case 'auto':
    case 'none':
      return { type: choice['type'] }
    case 'any':
      return { type: 'required' }
    case 'tool':
      return { type: 'tool', name: textOf(choice['name']) }
    default:
      return undefined
  }
}

function decodeStop(body: JsonObject): readonly string[] | undefined {
  const stop = optionalList(body, 'stop_sequences')
  if (stop === undefined) return undefined
  if (stop.every((item): item is string => typeof item === 'string')) return stop.length === 0 ? undefined : stop
  throw invalid('stop_sequences must be an array of strings')
}

const EFFORTS = ['low', 'medium', 'high', 'xhigh', 'max'] as const

function decodeReasoning(thinking: JsonObject | undefined, output: JsonObject): Reasoning | undefined {
  if (thinking?.['type'] === 'disabled') return { effort: 'none' }
  const effort = EFFORTS.find((word) => word === output['effort'])
  const budget = thinking?.['budget_tokens']
  const reasoning: Reasoning = {
    ...(effort === undefined ? {} : { effort }),
    ...(typeof budget === 'number' ? { budgetTokens: budget } : {}),
    ...(thinking?.['type'] === 'adaptive' ? { adaptive: true } : {}),
  }
  return Object.keys(reasoning).length === 0 ? undefined : reasoning
}

function decodeFormat(format: unknown): ResponseFormat | undefined {
  if (!isObject(format) || format['type'] !== 'json_schema') return undefined
  return { type: 'json-schema', schema: format['schema'] ?? {}, strict: true }
}
