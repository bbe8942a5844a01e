/**
 * Chat requests of OpenAI's dialect ⇄ the IR.
 * @source https://platform.openai.com/docs/api-reference/chat/create, read 2026-11
 */
import type { Decoded } from '../codec.ts'
import type { ChatRequest, Message, Reasoning, ResponseFormat, Tool, ToolChoice } from '../ir.ts'
import {
  cacheOf,
  extrasOf,
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
  rest,
  textOf,
  withPath,
} from '../shape.ts'
import { ASSISTANT_KEYS, decodeAssistant, legacyCallId, withCache } from './assistant.ts'
import { decodeContent, PROTOCOL } from './content.ts'

const REQUEST_KEYS = new Set([
  'model',
  'messages',
  'max_tokens',
  'max_completion_tokens',
  'temperature',
  'top_p',
  'top_k',
  'stop',
  'seed',
  'frequency_penalty',
  'presence_penalty',
  'n',
  'stream',
  'stream_options',
  'tools',
  'functions',
  'tool_choice',
  'function_call',
  'parallel_tool_calls',
  'reasoning_effort',
  'response_format',
  'user',
])

const TEXT_MESSAGE_KEYS = new Set(['role', 'content', 'name', 'cache_control'])
const TOOL_MESSAGE_KEYS = new Set(['role', 'content', 'name', 'tool_call_id', 'cache_control'])
const TOOL_KEYS = new Set(['type', 'function', 'cache_control'])
const FUNCTION_KEYS = new Set(['name', 'description', 'parameters', 'strict', 'cache_control'])
const STREAM_OPTION_KEYS = new Set(['include_usage'])

/** @throws GatewayError `invalid_request` */
export function decodeRequest(json: unknown): Decoded<ChatRequest> {
  const body = requestObject(json)
  const messages = (optionalList(body, 'messages') ?? []).map(decodeMessage)
  const includeUsage = optionalBoolean(optionalObject(body, 'stream_options') ?? {}, 'include_usage')
  const tools = decodeTools(body)
  const value: ChatRequest = {
    model: requiredText(body, 'model'),
    messages,
    isStream: optionalBoolean(body, 'stream') ?? false,
    ...(tools.length > 0 ? { tools } : {}),
    ...present('toolChoice', decodeToolChoice(body)),
    ...present('parallelToolCalls', optionalBoolean(body, 'parallel_tool_calls')),
    ...present('maxOutputTokens', decodeLimit(body)),
    ...present('temperature', optionalNumber(body, 'temperature')),
    ...present('topP', optionalNumber(body, 'top_p')),
    ...present('topK', optionalNumber(body, 'top_k')),
    ...present('stop', decodeStop(body['stop'])),
    ...present('seed', optionalNumber(body, 'seed')),
    ...present('frequencyPenalty', optionalNumber(body, 'frequency_penalty')),
    ...present('presencePenalty', optionalNumber(body, 'presence_penalty')),
    ...present('choices', optionalNumber(body, 'n')),
    ...present('reasoning', decodeReasoning(body)),
    ...present('responseFormat', decodeFormat(optionalObject(body, 'response_format'))),
    ...(typeof body['user'] === 'string' ? { userId: body['user'] } : {}),
    ...present('includeUsage', includeUsage),
    ...decodeExtras(body),
  }
  return { value, losses: [] }
}

const present = <K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } =>
  value === undefined ? {} : ({ [key]: value } as { [P in K]?: V })

function decodeExtras(body: JsonObject): Pick<ChatRequest, 'extras'> {
  const left = rest(body, REQUEST_KEYS) ?? {}
  if (isObject(body['stream_options'])) {
    Object.assign(left, withPath('stream_options.', rest(body['stream_options'], STREAM_OPTION_KEYS)))
  }
  // A list of allowed tools has no word in the IR beyond its mode; it is kept beside it.
  if (isObject(body['tool_choice']) && body['tool_choice']['type'] !== 'function') {
    left['tool_choice'] = body['tool_choice']
  }
  return Object.keys(left).length === 0 ? {} : { extras: { [PROTOCOL]: left } }
}

function decodeMessage(message: unknown, index: number): Message {
  const where = `messages[${index}]`
  if (!isObject(message)) throw invalid(`${where} must be an object`)
  const role = message['role']
  const name = typeof message['name'] === 'string' ? { name: message['name'] } : {}
  const content = () => decodeContent(message['content'], `${where}.content`)
  switch (role) {
    case 'system':
    case 'developer':
    case 'user': {
      const blocks = withCache(content(), message)
      return { role, ...name, blocks, ...extrasOf(PROTOCOL, message, TEXT_MESSAGE_KEYS) }
    }
    case 'assistant': {
      const blocks = decodeAssistant(message, `${where}.content`, (call) => `call_${index}_${call}`)
      return { role, ...name, blocks, ...extrasOf(PROTOCOL, message, ASSISTANT_KEYS) }
    }
    case 'tool':
    case 'function': {
      const given = textOf(message['tool_call_id'])
      const callId = given === '' && role === 'function' ? legacyCallId(textOf(message['name'])) : given
      if (callId === '') throw invalid(`${where}.tool_call_id is required`)
      const blocks = content().filter((block) => isResultContent(block.type))
      return {
        role: 'user',
        blocks: [{ type: 'tool-result', callId, content: blocks as ToolContent, ...cacheOf(message['cache_control']) }],
        ...extrasOf(PROTOCOL, message, TOOL_MESSAGE_KEYS),
      }
    }
    default:
      throw invalid(`${where}.role must be system, developer, user, assistant or tool`)
  }
}

type ToolContent = Extract<Message['blocks'][number], { type: 'tool-result' }>['content']

const isResultContent = (type: string): boolean =>
  type === 'text' || type === 'image' || type === 'file' || type === 'unknown'

function decodeTools(body: JsonObject): Tool[] {
  const tools = (optionalList(body, 'tools') ?? []).map((tool, index): Tool => {
    if (!isObject(tool)) throw invalid(`tools[${index}] must be an object`)
    if (!isObject(tool['function'])) return { type: 'provider', protocol: PROTOCOL, value: tool }
    const inFunction = rest(tool['function'], FUNCTION_KEYS)
    const left = { ...rest(tool, TOOL_KEYS), ...(inFunction ? { function: inFunction } : {}) }
    return {
      ...decodeFunction(tool['function']),
      ...cacheOf(tool['cache_control'] ?? tool['function']['cache_control']),
      ...(Object.keys(left).length > 0 ? { extras: { [PROTOCOL]: left } } : {}),
    }
  })
  const functions = listOf(body['functions']).filter(isObject)
  return [...tools, ...functions.map(decodeFunction)]
}

function decodeFunction(fn: JsonObject): Extract<Tool, { type: 'function' }> {
  return {
    type: 'function',
    name: textOf(fn['name']),
    ...(typeof fn['description'] === 'string' ? { description: fn['description'] } : {}),
    ...(fn['parameters'] === undefined || fn['parameters'] === null ? {} : { parameters: fn['parameters'] }),
    ...(typeof fn['strict'] === 'boolean' ? { strict: fn['strict'] } : {}),
  }
}

function decodeToolChoice(body: JsonObject): ToolChoice | undefined {
  const choice = body['tool_choice'] ?? body['function_call']
  if (choice === 'auto' || choice === 'none' || choice === 'required') return { type: choice }
  if (choice === 'any') return { type: 'required' }
  if (!isObject(choice)) return undefined
  const allowed = choice['allowed_tools']
  if (isObject(allowed)) return { type: allowed['mode'] === 'required' ? 'required' : 'auto' }
  const named = isObject(choice['function']) ? choice['function'] : choice
  const name = textOf(named['name'])
  return name === '' ? undefined : { type: 'tool', name }
}

/** Zero is how some clients leave the limit out. */
const decodeLimit = (body: JsonObject): number | undefined =>
  optionalNumber(body, 'max_completion_tokens') || optionalNumber(body, 'max_tokens') || undefined

function decodeStop(stop: unknown): readonly string[] | undefined {
  if (stop === undefined || stop === null) return undefined
  if (typeof stop === 'string') return [stop]
  if (Array.isArray(stop) && stop.every((item): item is string => typeof item === 'string')) return stop
  throw invalid('stop must be a string or an array of strings')
}

const EFFORTS: readonly string[] = ['none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max']

type Effort = NonNullable<Reasoning['effort']>

const effortOf = (value: unknown): { effort?: Effort } =>
  typeof value === 'string' && EFFORTS.includes(value) ? { effort: value as Effort } : {}

/** Also the spellings of OpenRouter (`reasoning`) and of servers that took over Claude's (`thinking`). */
function decodeReasoning(body: JsonObject): Reasoning | undefined {
  const router = isObject(body['reasoning']) ? body['reasoning'] : {}
  const thinking = isObject(body['thinking']) ? body['thinking'] : {}
  const budget = router['max_tokens'] ?? thinking['budget_tokens']
  const isOff = router['enabled'] === false || thinking['type'] === 'disabled'
  const reasoning: Reasoning = {
    ...effortOf(router['effort']),
    ...effortOf(body['reasoning_effort']),
    ...(typeof budget === 'number' ? { budgetTokens: budget } : {}),
    ...(thinking['type'] === 'adaptive' ? { adaptive: true } : {}),
    ...(isOff ? { effort: 'none' as const } : {}),
  }
  if (Object.keys(reasoning).length > 0) return reasoning
  const isOn = router['enabled'] === true || thinking['type'] === 'enabled'
  return isOn ? { effort: 'medium' } : undefined
}

function decodeFormat(format: JsonObject | undefined): ResponseFormat | undefined {
  if (format?.['type'] === 'text') return { type: 'text' }
  if (format?.['type'] === 'json_object') return { type: 'json' }
  const schema = format?.['json_schema']
  if (!isObject(schema)) return undefined
  return {
    type: 'json-schema',
    schema: schema['schema'] ?? {},
    ...(typeof schema['name'] === 'string' ? { name: schema['name'] } : {}),
    ...(typeof schema['description'] === 'string' ? { description: schema['description'] } : {}),
    ...(typeof schema['strict'] === 'boolean' ? { strict: schema['strict'] } : {}),
  }
}
