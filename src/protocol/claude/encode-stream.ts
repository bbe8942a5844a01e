/** Stream events → events of Claude's stream, where one block is open at a time. */
import { sseFrame } from '../../lib/sse.ts'
import type { StreamEncoder, StreamEncoderOptions } from '../codec.ts'
import type { BlockDelta, BlockStart, StreamEvent, Usage } from '../ir.ts'
import { createLosses, isObject, parseJson } from '../shape.ts'
import { createToolIds, PROTOCOL } from './content.ts'
import { typeOf } from './error.ts'
import { stopWord } from './response.ts'
import { encodeUsage } from './usage.ts'

type Finish = Extract<StreamEvent, { type: 'finish' }>

interface Block {
  readonly start: BlockStart
  /** Waiting until the block before it has ended. */
  readonly queue: BlockDelta[]
  isEnded: boolean
}

/**
 * Clients of this dialect put a message together block by block, so the deltas of parallel tool calls must not interleave:
 * a call waits until the arguments of the one before it are complete JSON, or until that one ends. Usage and the finish
 * reason come last, since the sources of a stream report usage after it.
 */
export function streamEncoder(options: StreamEncoderOptions): StreamEncoder {
  const losses = createLosses()
  const toolId = createToolIds()
  /** In the order in which they started; the first is the one that is open. */
  const blocks = new Map<number, Block>()
  let isStarted = false
  let openArguments = ''
  let wireIndex = -1
  let hasRefused = false
  let hasToolCalls = false
  let usage: Usage | undefined
  let finish: Finish | undefined

  const frame = (event: string, fields: string): string => sseFrame(`{"type":"${event}",${fields}}`, event)

  const begin = (id: string, model: string, reported: Usage | undefined): string => {
    if (isStarted) return ''
    isStarted = true
    if (reported) usage = reported
    const message = {
      id: id || options.id,
      type: 'message',
      role: 'assistant',
      model: model || options.model,
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage: reported ? encodeUsage(reported) : { input_tokens: options.inputTokensEstimate, output_tokens: 0 },
    }
    return frame('message_start', `"message":${JSON.stringify(message)}`)
  }

  const contentBlock = (start: BlockStart): unknown => {
    switch (start.type) {
      case 'text':
        return { type: 'text', text: '' }
      case 'refusal':
        hasRefused = true
        return { type: 'text', text: '' }
      case 'thinking':
        return { type: 'thinking', thinking: '', signature: '' }
      case 'redacted-thinking':
        return { type: 'redacted_thinking', data: start.data }
      case 'tool-call':
        hasToolCalls = true
        return { type: 'tool_use', id: toolId(start.id), name: start.name, input: {} }
      case 'unknown':
        if (start.protocol === PROTOCOL) return start.value
        losses.add('choices[].delta', `not a block of ${PROTOCOL}`)
        return undefined
    }
  }

  const open = (block: Block): string => {
    const content = contentBlock(block.start)
    openArguments = ''
    if (content === undefined) return ''
    wireIndex++
    let text = frame('content_block_start', `"index":${wireIndex},"content_block":${JSON.stringify(content)}`)
    for (const delta of block.queue) text += write(block, delta)
    return text
  }

  const write = (block: Block, delta: BlockDelta): string => {
    if (block.start.type === 'unknown' && block.start.protocol !== PROTOCOL) return ''
    const value = deltaOf(delta)
    return value === '' ? '' : frame('content_block_delta', `"index":${wireIndex},"delta":${value}`)
  }

  const deltaOf = (delta: BlockDelta): string => {
    switch (delta.type) {
      case 'text':
        return `{"type":"text_delta","text":${JSON.stringify(delta.text)}}`
      case 'thinking':
        return `{"type":"thinking_delta","thinking":${JSON.stringify(delta.text)}}`
      case 'signature':
        return `{"type":"signature_delta","signature":${JSON.stringify(delta.signature)}}`
      case 'arguments':
        openArguments += delta.json
        return `{"type":"input_json_delta","partial_json":${JSON.stringify(delta.json)}}`
      case 'unknown':
        if (delta.protocol === PROTOCOL) return JSON.stringify(delta.value)
        losses.add('choices[].delta', `not a delta of ${PROTOCOL}`)
        return ''
    }
  }

  /** Closes the open block and opens what waited for it, as far as that has ended, too. */
  const close = (key: number, block: Block): string => {
    blocks.delete(key)
    const isWritten = block.start.type !== 'unknown' || block.start.protocol === PROTOCOL
    const text = isWritten ? frame('content_block_stop', `"index":${wireIndex}`) : ''
    const next = blocks.entries().next().value
    if (!next) return text
    const [nextKey, nextBlock] = next
    return text + open(nextBlock) + (nextBlock.isEnded || blocks.size > 1 ? yieldTo(nextKey, nextBlock) : '')
  }

  /** Ends the open block for the one that waits, if nothing of it can be missing. */
  const yieldTo = (key: number, block: Block): string => {
    const isWhole = block.start.type !== 'tool-call' || isObject(parseJson(openArguments))
    return block.isEnded || isWhole ? close(key, block) : ''
  }

  const blockStart = (key: number, start: BlockStart): string => {
    const current = blocks.entries().next().value
    const block: Block = { start, queue: [], isEnded: false }
    blocks.set(key, block)
    return current ? yieldTo(...current) : open(block)
  }

  const blockDelta = (key: number, delta: BlockDelta): string => {
    const block = blocks.get(key)
    if (!block) return ''
    if (blocks.keys().next().value === key) return write(block, delta)
    block.queue.push(delta)
    return ''
  }

  const blockEnd = (key: number): string => {
    const block = blocks.get(key)
    if (!block) return ''
    if (blocks.keys().next().value === key) return close(key, block)
    block.isEnded = true
    return ''
  }

  const encode = (event: StreamEvent): string => {
    if ('choice' in event && (event.choice ?? 0) > 0) {
      losses.add('choices[]', 'there is one answer only')
      return ''
    }
    switch (event.type) {
      case 'start':
        return begin(event.id, event.model, event.usage)
      case 'block-start':
        return begin('', '', undefined) + blockStart(event.index, event.block)
      case 'block-delta':
        return blockDelta(event.index, event.delta)
      case 'block-end':
        return blockEnd(event.index)
      case 'usage':
        usage = event.usage
        return ''
      case 'finish':
        finish = event
        return ''
      case 'error': {
        const error = { type: typeOf(event.errorType, 500), message: event.message }
        return frame('error', `"error":${JSON.stringify(error)}`)
      }
    }
  }

  return {
    event: encode,
    end() {
      let text = begin('', '', undefined)
      for (const block of blocks.values()) block.isEnded = true
      const current = blocks.entries().next().value
      if (current) text += close(...current)
      if (wireIndex === -1)
        text += open({ start: { type: 'text' }, queue: [], isEnded: true }) + frame('content_block_stop', '"index":0')
      const reason = stopWord(finish?.finish ?? (hasToolCalls ? 'tool-calls' : 'stop'), finish?.rawFinish, hasRefused)
      const delta = { stop_reason: reason, stop_sequence: finish?.stopSequence ?? null }
      const counts = usage ? encodeUsage(usage) : { output_tokens: 0 }
      text += frame('message_delta', `"delta":${JSON.stringify(delta)},"usage":${JSON.stringify(counts)}`)
      return `${text}event: message_stop\ndata: {"type":"message_stop"}\n\n`
    },
    losses: () => losses.list(),
  }
}
