/**
 * Complete answers of OpenAI's chat dialect ⇄ the IR; answers of the older completions operation (`choices[].text`) are read too.
 * @source https://platform.openai.com/docs/api-reference/chat/object, read 2026-11
 */
import { GatewayError } from '../../errors.ts'
import type { Encoded, ResponseDefaults } from '../codec.ts'
import type { Block, ChatResponse, FinishReason, Usage } from '../ir.ts'
import {
  createLosses,
  extrasAt,
  extrasBeside,
  isObject,
  type JsonObject,
  listOf,
  rest,
  textOf,
  withPath,
} from '../shape.ts'
import { ASSISTANT_KEYS, decodeAssistant, encodeAssistant } from './assistant.ts'
import { PROTOCOL } from './content.ts'
import { decodeUsage, encodeUsage } from './usage.ts'

const RESPONSE_KEYS = new Set(['id', 'object', 'created', 'model', 'choices', 'usage'])
const CHOICE_KEYS = new Set(['index', 'message', 'text', 'finish_reason', 'usage'])
const MESSAGE_KEYS = new Set([...ASSISTANT_KEYS, 'tool_call_id'])

const FINISH: ReadonlyMap<string, FinishReason> = new Map([
  ['stop', 'stop'],
  ['eos', 'stop'],
  ['length', 'length'],
  ['max_tokens', 'length'],
  ['tool_calls', 'tool-calls'],
  ['function_call', 'tool-calls'],
  ['content_filter', 'content-filter'],
])

/** @returns undefined while the choice goes on; some servers send empty text or `"null"` until then */
export function rawFinishOf(value: unknown): string | undefined {
  const raw = textOf(value)
  return raw === '' || raw === 'null' ? undefined : raw
}

/** Some servers say `stop` although tools are to be called; clients wait for the calls only when they are announced. */
export function finishOf(raw: string | undefined, hasToolCalls: boolean): FinishReason {
  const finish = (raw === undefined ? undefined : FINISH.get(raw)) ?? 'unknown'
  return finish === 'stop' && hasToolCalls ? 'tool-calls' : finish
}

const WORD: Readonly<Record<Exclude<FinishReason, 'unknown'>, string>> = {
  stop: 'stop',
  length: 'length',
  'tool-calls': 'tool_calls',
  'content-filter': 'content_filter',
  'stop-sequence': 'stop',
  pause: 'stop',
}

/** A reason without a word passes unchanged; the client may know more than we do. */
export const finishWord = (finish: FinishReason, raw: string | undefined): string =>
  finish === 'unknown' ? (raw ?? 'stop') : WORD[finish]

/** @throws GatewayError `bad_response_body` */
export function decodeResponse(json: unknown): ChatResponse {
  if (!isObject(json) || !Array.isArray(json['choices'])) {
    throw new GatewayError('bad_response_body', { detail: 'a chat answer without choices' })
  }
  const id = textOf(json['id'])
  const choices = json['choices'].filter(isObject)
  const [first = {}, ...others] = choices.map((choice) => decodeChoice(choice, id))
  const usage = usageOf(json)
  const extras = { ...rest(json, RESPONSE_KEYS), ...choiceExtras(choices[0]) }
  return {
    id,
    model: textOf(json['model']),
    ...(typeof json['created'] === 'number' ? { createdAtSec: json['created'] } : {}),
    blocks: [],
    finish: 'unknown',
    ...first,
    ...(usage ? { usage } : {}),
    ...(others.length > 0 ? { otherChoices: others } : {}),
    ...(Object.keys(extras).length > 0 ? { extras: { [PROTOCOL]: extras } } : {}),
  }
}

/** Some servers have it in a choice. */
export function usageOf(json: unknown): Usage | undefined {
  if (!isObject(json)) return undefined
  const usage = decodeUsage(json['usage'])
  if (usage) return usage
  for (const choice of listOf(json['choices']))
    if (isObject(choice) && isObject(choice['usage'])) return decodeUsage(choice['usage'])
  return undefined
}

const CHOICE = 'choices[].'
const MESSAGE = 'choices[].message.'

function choiceExtras(choice: JsonObject | undefined): JsonObject {
  const message = isObject(choice?.['message']) ? rest(choice['message'], MESSAGE_KEYS) : undefined
  const extras = { ...withPath(MESSAGE, message), ...withPath(CHOICE, choice && rest(choice, CHOICE_KEYS)) }
  // OpenAI sends an empty list of annotations with each answer.
  return Object.fromEntries(Object.entries(extras).filter(([, value]) => !Array.isArray(value) || value.length > 0))
}

function decodeChoice(choice: JsonObject, id: string): Pick<ChatResponse, 'blocks' | 'finish' | 'rawFinish'> {
  const message = isObject(choice['message']) ? choice['message'] : { content: choice['text'] }
  const blocks = decodeAnswer(message, id)
  const raw = rawFinishOf(choice['finish_reason'])
  return {
    blocks,
    finish: finishOf(raw, blocks.some(isToolCall)),
    ...(raw === undefined ? {} : { rawFinish: raw }),
  }
}

/** An answer of an upstream is taken for what can be read of it. */
function decodeAnswer(message: JsonObject, id: string): Block[] {
  const { content } = message
  const isReadable = typeof content === 'string' || Array.isArray(content)
  const readable = Array.isArray(content)
    ? content.filter((part) => isObject(part) || typeof part === 'string')
    : content
  return decodeAssistant({ ...message, content: isReadable ? readable : undefined }, 'content', (index) =>
    callId(id, index),
  )
}

/** Ids must be unique within a conversation, so the answer's own id is in it. */
export const callId = (responseId: string, index: number): string => `call_${responseId}_${index}`

const isToolCall = (block: Block): boolean =>
  block.type === 'tool-call' || (block.type === 'unknown' && isObject(block.value) && isObject(block.value['custom']))

export function encodeResponse(response: ChatResponse, defaults: ResponseDefaults = {}): Encoded {
  const losses = createLosses('')
  const context = { losses, carriesClaudeFields: true }
  losses.extras(response.extras, PROTOCOL, '')
  if (response.stopSequence !== undefined) losses.add('stop_sequence', 'the sequence that was met cannot be named')
  const own = response.extras?.[PROTOCOL] ?? {}
  const ownChoice = extrasAt(own, CHOICE)
  const choices = [response, ...(response.otherChoices ?? [])].map((one, index) => ({
    index,
    message: {
      role: 'assistant',
      refusal: null,
      ...encodeAssistant(one.blocks, context),
      ...(index === 0 ? extrasAt(own, MESSAGE) : {}),
    },
    logprobs: null,
    finish_reason: finishWord(one.finish, 'rawFinish' in one ? textOf(one.rawFinish) || undefined : undefined),
    ...(index === 0 ? extrasBeside(ownChoice, 'message.') : {}),
  }))
  const json = {
    id: response.id || defaults.id || '',
    object: 'chat.completion',
    created: response.createdAtSec ?? defaults.createdAtSec ?? 0,
    model: response.model || defaults.model || '',
    choices,
    ...(response.usage ? { usage: encodeUsage(response.usage) } : {}),
    ...extrasBeside(own, CHOICE),
  }
  return { json, losses: losses.list() }
}
