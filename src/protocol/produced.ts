/** The text that a model produced: what is counted when the upstream reported no usage. */
import type { Block, ChatResponse, StreamEvent } from './ir.ts'
import { isObject, textOf } from './shape.ts'

/** @returns the text of one stream event: content, reasoning, refusals, tool names and arguments; empty for all others */
export function producedBy(event: StreamEvent): string {
  if (event.type === 'block-start') return event.block.type === 'tool-call' ? event.block.name : ''
  if (event.type !== 'block-delta') return ''
  const { delta } = event
  if (delta.type === 'text' || delta.type === 'thinking') return delta.text
  if (delta.type === 'arguments') return delta.json
  // Arguments of tools that the provider runs are produced by the model, too.
  return delta.type === 'unknown' && isObject(delta.value) ? textOf(delta.value['partial_json']) : ''
}

export interface ProducedText {
  readonly text: string
  readonly toolCalls: number
}

/** The same of a whole answer, over all its choices. */
export function producedIn(response: ChatResponse): ProducedText {
  const texts: string[] = []
  let toolCalls = 0
  const read = (blocks: readonly Block[]) => {
    for (const block of blocks) {
      if (block.type === 'text' || block.type === 'thinking' || block.type === 'refusal') texts.push(block.text)
      else if (block.type === 'tool-call') {
        texts.push(block.name, block.arguments)
        toolCalls++
      }
    }
  }
  read(response.blocks)
  for (const choice of response.otherChoices ?? []) read(choice.blocks)
  return { text: texts.join(''), toolCalls }
}
