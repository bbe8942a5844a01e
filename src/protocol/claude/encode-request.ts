/** The IR → a request of Claude's Messages dialect. */
import type { Encoded, EncodeRequestOptions } from '../codec.ts'
import type { ChatRequest, Tool } from '../ir.ts'
import { cacheControl, createLosses, extrasAt, extrasBeside, isObject, type JsonObject, type Losses } from '../shape.ts'
import { type Abilities, abilitiesOf } from './abilities.ts'
import { PROTOCOL } from './content.ts'
import { encodeMessages, isSigned } from './encode-messages.ts'

const DEFAULT_MAX_TOKENS = 8192

// Where the extras of nested objects stand.
const OUTPUT = 'output_config.'
const METADATA = 'metadata.'

export function encodeRequest(request: ChatRequest, options: EncodeRequestOptions = {}): Encoded {
  const losses = createLosses()
  const abilities = abilitiesOf(request.model)
  const own = request.extras?.[PROTOCOL] ?? {}
  losses.extras(request.extras, PROTOCOL, '')
  const maxTokens = request.maxOutputTokens ?? options.defaultMaxOutputTokens ?? DEFAULT_MAX_TOKENS
  const asWritten = own['thinking'] !== undefined || own[`${OUTPUT}effort`] !== undefined
  const { thinking, effort } = asWritten
    ? { thinking: own['thinking'], effort: undefined }
    : encodeReasoning(request, maxTokens, abilities, losses)
  const isThinking = isObject(thinking) && thinking['type'] !== 'disabled'
  const format = own['output_format'] === undefined ? encodeFormat(request, abilities, losses) : undefined
  const outputConfig = {
    ...(effort === undefined ? {} : { effort }),
    ...(format === undefined ? {} : { format }),
    ...extrasAt(own, OUTPUT),
  }
  const metadata = {
    ...(request.userId === undefined ? {} : { user_id: request.userId }),
    ...extrasAt(own, METADATA),
  }
  noteLosses(request, losses)
  const json = {
    model: request.model,
    ...encodeMessages(request.messages, losses, abilities.isClaude),
    max_tokens: maxTokens,
    ...encodeSampling(request, isThinking, abilities, losses),
    ...encodeStop(request, losses),
    ...encodeTools(request, abilities, losses),
    ...extrasBeside(own, OUTPUT, METADATA),
    ...(thinking === undefined ? {} : { thinking }),
    ...(Object.keys(outputConfig).length > 0 ? { output_config: outputConfig } : {}),
    ...(Object.keys(metadata).length > 0 ? { metadata } : {}),
    ...(request.isStream ? { stream: true } : {}),
  }
  return { json, losses: losses.list() }
}

function noteLosses(request: ChatRequest, losses: Losses): void {
  if (request.seed !== undefined) losses.add('seed', 'answers cannot be repeated')
  if (request.frequencyPenalty) losses.add('frequency_penalty', `not a field of ${PROTOCOL}`)
  if (request.presencePenalty) losses.add('presence_penalty', `not a field of ${PROTOCOL}`)
  if ((request.choices ?? 1) > 1) losses.add('n', 'there is one answer only')
}

const BUDGETS: Readonly<Record<string, number>> = {
  minimal: 1024,
  low: 1280,
  medium: 2048,
  high: 4096,
  xhigh: 8192,
  max: 16384,
}
const MIN_BUDGET = 1024

interface Thinking {
  readonly thinking?: JsonObject
  readonly effort?: string
}

/** @returns how the model is told to think, by what its generation takes; nothing where thinking would be refused */
function encodeReasoning(request: ChatRequest, maxTokens: number, abilities: Abilities, losses: Losses): Thinking {
  const { reasoning } = request
  if (!reasoning) return {}
  const path = reasoning.effort === undefined ? 'reasoning' : 'reasoning_effort'
  if (reasoning.effort === 'none') {
    if (abilities.canStopThinking) return { thinking: { type: 'disabled' } }
    losses.add(path, 'this model always thinks')
    return {}
  }
  const isForced = request.toolChoice?.type === 'required' || request.toolChoice?.type === 'tool'
  if (isForced && request.tools) {
    losses.add(path, 'a model that thinks cannot be made to call a tool')
    return {}
  }
  if (abilities.thinking === 'adaptive') {
    const display = abilities.hidesThinking ? { display: 'summarized' } : {}
    return { thinking: { type: 'adaptive', ...display }, effort: effortOf(request, abilities, losses) }
  }
  if (maxTokens <= MIN_BUDGET) {
    losses.add(path, `thinking needs more than ${MIN_BUDGET} tokens`)
    return {}
  }
  if (continuesUnsignedToolUse(request)) {
    losses.add(path, 'thinking that led to a tool call must be sent back signed, and it was not')
    return {}
  }
  const wanted = reasoning.budgetTokens ?? BUDGETS[reasoning.effort ?? 'high'] ?? MIN_BUDGET
  const roof = wanted < maxTokens ? wanted : Math.floor(maxTokens * 0.8)
  return { thinking: { type: 'enabled', budget_tokens: Math.max(MIN_BUDGET, roof) } }
}

function effortOf({ reasoning }: ChatRequest, { efforts }: Abilities, losses: Losses): string | undefined {
  const { effort, budgetTokens } = reasoning ?? {}
  if (effort !== undefined) {
    const word = effort === 'minimal' ? 'low' : effort
    return efforts.includes(word) ? word : 'high'
  }
  if (budgetTokens === undefined) return undefined
  losses.add('reasoning', 'a budget becomes the nearest effort')
  return budgetTokens < 2048 ? 'low' : budgetTokens < 4096 ? 'medium' : 'high'
}

/** With a budget, the turn that asked for the tools must begin with the thinking that led to them. */
function continuesUnsignedToolUse({ messages }: ChatRequest): boolean {
  const last = messages.findLastIndex((message) => message.role === 'assistant')
  const isAnswered = messages.slice(last + 1).some(({ blocks }) => blocks.some((block) => block.type === 'tool-result'))
  return last !== -1 && isAnswered && !messages[last]?.blocks.some(isSigned)
}

function encodeSampling(request: ChatRequest, isThinking: boolean, abilities: Abilities, losses: Losses): JsonObject {
  const { temperature, topP, topK } = request
  const kept: Record<string, number> = {}
  const keep = (key: string, value: number | undefined, isRefused: boolean, reason: string) => {
    if (value === undefined) return
    if (isRefused) losses.add(key, reason)
    else kept[key] = value
  }
  const none = abilities.sampling === 'none'
  const why = none ? 'this model does not take it' : 'a model that thinks does not take it'
  keep('temperature', temperature, none || (isThinking && temperature !== 1), why)
  const isSecond = abilities.sampling === 'one' && kept['temperature'] !== undefined
  const whyTopP = isSecond ? 'this model takes it or temperature, not both' : why
  keep('top_p', topP, none || isSecond || (isThinking && (topP ?? 1) < 0.95), whyTopP)
  keep('top_k', topK, none || isThinking, why)
  return kept
}

function encodeStop({ stop }: ChatRequest, losses: Losses): JsonObject {
  const usable = stop?.filter((sequence) => sequence.trim() !== '') ?? []
  if (stop && usable.length < stop.length) losses.add('stop', 'a sequence of white space alone is refused')
  return usable.length === 0 ? {} : { stop_sequences: usable }
}

function encodeTools(request: ChatRequest, abilities: Abilities, losses: Losses): JsonObject {
  const tools = (request.tools ?? []).flatMap((tool) => encodeTool(tool, abilities, losses))
  if (tools.length === 0) return {}
  const { toolChoice, parallelToolCalls } = request
  const isSerial = parallelToolCalls === false && toolChoice?.type !== 'none'
  if (!toolChoice && !isSerial) return { tools }
  const choice =
    toolChoice?.type === 'tool'
      ? toolChoice
      : { type: toolChoice?.type === 'required' ? 'any' : (toolChoice?.type ?? 'auto') }
  return { tools, tool_choice: { ...choice, ...(isSerial ? { disable_parallel_tool_use: true } : {}) } }
}

function encodeTool(tool: Tool, { hasStructuredOutput }: Abilities, losses: Losses): JsonObject[] {
  if (tool.type === 'provider') {
    if (tool.protocol === PROTOCOL && isObject(tool.value)) return [tool.value]
    const type = isObject(tool.value) ? String(tool.value['type']) : 'unknown'
    losses.add(`tools[].type.${type}`, `not a tool of ${PROTOCOL}`)
    return []
  }
  losses.extras(tool.extras, PROTOCOL, 'tools[].')
  if (tool.strict && !hasStructuredOutput)
    losses.add('tools[].function.strict', 'this model cannot be held to a schema')
  return [
    {
      name: tool.name,
      ...(tool.description === undefined ? {} : { description: tool.description }),
      input_schema: schemaOf(tool.parameters, losses),
      ...(tool.strict !== undefined && hasStructuredOutput ? { strict: tool.strict } : {}),
      ...(tool.cache ? { cache_control: cacheControl(tool.cache) } : {}),
      ...tool.extras?.[PROTOCOL],
    },
  ]
}

/** The schema of a tool's input must be that of an object. */
function schemaOf(parameters: unknown, losses: Losses): JsonObject {
  if (parameters === undefined) return { type: 'object', properties: {} }
  if (isObject(parameters)) return parameters['type'] === 'object' ? parameters : { ...parameters, type: 'object' }
  losses.add('tools[].function.parameters', 'a schema that is not an object is left out')
  return { type: 'object', properties: {} }
}

function encodeFormat({ responseFormat }: ChatRequest, abilities: Abilities, losses: Losses): JsonObject | undefined {
  if (!responseFormat || responseFormat.type === 'text') return undefined
  if (responseFormat.type === 'json') {
    losses.add('response_format.type', 'JSON can be asked for by a schema only')
    return undefined
  }
  if (!abilities.hasStructuredOutput) {
    losses.add('response_format.json_schema', 'this model cannot be held to a schema')
    return undefined
  }
  if (responseFormat.description !== undefined) {
    losses.add('response_format.json_schema.description', 'a schema has no description beside it')
  }
  return { type: 'json_schema', schema: responseFormat.schema }
}
