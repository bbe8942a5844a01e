/** Messages of the IR → system and messages of Claude's dialect, which is stricter about order and emptiness than others. */
import type { Block, Message } from '../ir.ts'
import type { JsonObject, Losses } from '../shape.ts'
import { createToolIds, type EncodeContext, encodeBlock, PROTOCOL } from './content.ts'

/** Stands where a message must be and there is nothing to say. */
const PLACEHOLDER: JsonObject = { type: 'text', text: '...' }

interface Turn {
  readonly role: 'user' | 'assistant'
  content: JsonObject[]
}

/**
 * The rules: system text stands apart; roles alternate, so neighbours of one role are joined, their blocks in order; the
 * first message is the user's; tool results come first in theirs and answer a call that was made; no text is empty, and
 * none ends the conversation with white space.
 * @param checksSignatures whether thinking without a signature would be refused
 */
export function encodeMessages(
  messages: readonly Message[],
  losses: Losses,
  checksSignatures: boolean,
): { readonly system?: unknown; readonly messages: JsonObject[] } {
  const context: EncodeContext = { losses, toolId: createToolIds() }
  const system: JsonObject[] = []
  const turns: Turn[] = []
  const calls = new Set<string>()
  for (const message of messages) {
    losses.extras(message.extras, PROTOCOL, 'messages[].')
    if (message.name !== undefined) losses.add('messages[].name', 'participants have no names')
    if (message.role === 'system' || message.role === 'developer') {
      if (turns.length > 0) losses.add('messages[].role', 'a system message within the conversation moves to its front')
      system.push(...encodeBlocks(message.blocks, context))
      continue
    }
    const blocks = prepare(message, calls, losses, checksSignatures)
    const content = encodeBlocks(blocks, context)
    if (content.length === 0 && message.role === 'assistant') continue
    const last = turns.at(-1)
    if (last?.role === message.role) last.content.push(...content)
    else turns.push({ role: message.role, content })
  }
  if (turns[0]?.role !== 'user') turns.unshift({ role: 'user', content: [PLACEHOLDER] })
  for (const turn of turns) finish(turn)
  trimEnd(turns.at(-1))
  return {
    ...(system.length === 0 ? {} : { system: shorten(system) }),
    messages: turns.map(({ role, content }) => ({ role, content: shorten(content) })),
  }
}

/** Drops thinking that cannot be proved, and turns results without a call into text. */
function prepare({ blocks }: Message, calls: Set<string>, losses: Losses, checksSignatures: boolean): Block[] {
  const prepared: Block[] = []
  for (const block of blocks) {
    if (block.type === 'tool-call') calls.add(block.id)
    if (block.type === 'thinking' && checksSignatures && !isSigned(block)) {
      losses.add('messages[].reasoning_content', 'thinking without a signature is refused')
    } else if (block.type === 'tool-result' && !calls.has(block.callId)) {
      losses.add(
        'messages[].tool_call_id',
        'the result of a call that is not in the conversation becomes plain content',
      )
      prepared.push(...block.content)
    } else {
      prepared.push(block)
    }
  }
  return prepared
}

export const isSigned = (block: Block): boolean =>
  block.type === 'thinking' && (block.signature !== undefined || block.redacted !== undefined)

function encodeBlocks(blocks: readonly Block[], context: EncodeContext): JsonObject[] {
  const encoded: JsonObject[] = []
  for (const block of blocks) {
    if ((block.type === 'text' || block.type === 'refusal') && block.text.trim() === '') continue
    const value = encodeBlock(block, context)
    if (value) encoded.push(value)
  }
  return encoded
}

function finish(turn: Turn): void {
  const isResult = (block: JsonObject) => block['type'] === 'tool_result'
  const results = turn.content.filter(isResult)
  if (results.length > 0) turn.content = [...results, ...turn.content.filter((block) => !isResult(block))]
  if (turn.content.length === 0) turn.content = [PLACEHOLDER]
}

/** An answer that the model is to continue must not end in white space. */
function trimEnd(turn: Turn | undefined): void {
  const last = turn?.content.at(-1)
  if (turn?.role !== 'assistant' || typeof last?.['text'] !== 'string') return
  turn.content = [...turn.content.slice(0, -1), { ...last, text: last['text'].trimEnd() }]
}

/** One plain text block is written as a string. */
function shorten(content: readonly JsonObject[]): unknown {
  const [only] = content
  return content.length === 1 && only?.['type'] === 'text' && Object.keys(only).length === 2 ? only['text'] : content
}
