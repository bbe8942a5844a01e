/**
 * Complete answers of Claude's Messages dialect ⇄ the IR.
 * @source https://docs.anthropic.com/en/api/messages (response), …/handling-stop-reasons, read 2026-11
 */
import { GatewayError } from '../../errors.ts'
import type { Encoded, ResponseDefaults } from '../codec.ts'
import type { Block, ChatResponse, FinishReason, Usage } from '../ir.ts'
import { createLosses, isObject, type JsonObject, rest, textOf } from '../shape.ts'
import { createToolIds, decodeBlock, type EncodeContext, encodeBlock, PROTOCOL } from './content.ts'
import { decodeUsage, encodeUsage } from './usage.ts'

const RESPONSE_KEYS = new Set(['id', 'type', 'role', 'model', 'content', 'stop_reason', 'stop_sequence', 'usage'])

const FINISH: ReadonlyMap<string, FinishReason> = new Map([
  ['end_turn', 'stop'],
  ['max_tokens', 'length'],
  ['model_context_window_exceeded', 'length'],
  ['stop_sequence', 'stop-sequence'],
  ['tool_use', 'tool-calls'],
  ['pause_turn', 'pause'],
  ['refusal', 'content-filter'],
])

export const finishOf = (raw: string): FinishReason => FINISH.get(raw) ?? 'unknown'

const WORD: Readonly<Record<Exclude<FinishReason, 'unknown'>, string>> = {
  stop: 'end_turn',
  length: 'max_tokens',
  'tool-calls': 'tool_use',
  'content-filter': 'refusal',
  'stop-sequence': 'stop_sequence',
  pause: 'pause_turn',
}

/**
 * A word of this dialect that means the same stays as it was; a reason without a word passes unchanged. Text in which the
 * model refused makes an ordinary end a refusal.
 */
export function stopWord(finish: FinishReason, raw: string | undefined, hasRefused: boolean): string {
  if (raw !== undefined && FINISH.get(raw) === finish) return raw
  if (finish === 'unknown') return raw ?? 'end_turn'
  return finish === 'stop' && hasRefused ? 'refusal' : WORD[finish]
}

/** @throws GatewayError `bad_response_body` */
export function decodeResponse(json: unknown): ChatResponse {
  if (!isObject(json) || !Array.isArray(json['content'])) {
    throw new GatewayError('bad_response_body', { detail: 'a message without content' })
  }
  const blocks = json['content'].filter(isObject).map((block) => decodeBlock(block, 'content'))
  const raw = textOf(json['stop_reason'])
  const usage = usageOf(json)
  const left = rest(json, RESPONSE_KEYS)
  return {
    id: textOf(json['id']),
    model: textOf(json['model']),
    blocks,
    finish: finishOf(raw),
    ...(raw === '' ? {} : { rawFinish: raw }),
    ...(typeof json['stop_sequence'] === 'string' ? { stopSequence: json['stop_sequence'] } : {}),
    ...(usage ? { usage } : {}),
    ...(left ? { extras: { [PROTOCOL]: left } } : {}),
  }
}

export const usageOf = (json: unknown): Usage | undefined => (isObject(json) ? decodeUsage(json['usage']) : undefined)

export function encodeResponse(response: ChatResponse, defaults: ResponseDefaults = {}): Encoded {
  const losses = createLosses('choices[].message.')
  const context: EncodeContext = { losses, toolId: createToolIds() }
  losses.extras(response.extras, PROTOCOL, '')
  if ((response.otherChoices?.length ?? 0) > 0) losses.add('choices[]', 'there is one answer only')
  const json = {
    id: response.id || defaults.id || '',
    type: 'message',
    role: 'assistant',
    model: response.model || defaults.model || '',
    content: encodeContent(response.blocks, context),
    stop_reason: stopWord(response.finish, response.rawFinish, hasRefused(response.blocks)),
    stop_sequence: response.stopSequence ?? null,
    usage: response.usage ? encodeUsage(response.usage) : { input_tokens: 0, output_tokens: 0 },
    ...response.extras?.[PROTOCOL],
  }
  return { json, losses: losses.list() }
}

const hasRefused = (blocks: readonly Block[]): boolean => blocks.some((block) => block.type === 'refusal')

/** Clients read the first block without looking, so an empty answer is an empty text. */
function encodeContent(blocks: readonly Block[], context: EncodeContext): JsonObject[] {
  const content = blocks.map((block) => encodeBlock(block, context)).filter((block) => block !== undefined)
  return content.length === 0 ? [{ type: 'text', text: '' }] : content
}
