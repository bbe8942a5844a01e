/**
 * Events of Claude's stream → stream events.
 * @source https://docs.anthropic.com/en/docs/build-with-claude/streaming, read 2026-11
 */
import type { SseFrame } from '../../lib/sse.ts'
import type { StreamDecoder } from '../codec.ts'
import type { BlockDelta, BlockStart, StreamEvent } from '../ir.ts'
import { isObject, type JsonObject, parseJson, textOf } from '../shape.ts'
import { maskText } from '../upstream-error.ts'
import { PROTOCOL } from './content.ts'
import { finishOf } from './response.ts'
import { decodeUsage, mergeUsage } from './usage.ts'

const NOTHING: readonly StreamEvent[] = []

interface OpenBlock {
  readonly index: number
  readonly isTool: boolean
  /** Input that some servers give whole at the start; dropped when it comes in pieces after all. */
  input: string
}

export function streamDecoder(): StreamDecoder {
  /** By the index on the wire, which need not begin at 0 nor be unique over the stream. */
  const open = new Map<unknown, OpenBlock>()
  let out: StreamEvent[] = []
  let blocks = 0
  let isStarted = false
  let isFinished = false
  let isDone = false
  let skipped = 0
  let rawUsage: JsonObject = {}

  const start = (message: JsonObject) => {
    if (isObject(message['usage'])) rawUsage = mergeUsage(rawUsage, message['usage'])
    if (isStarted) return
    isStarted = true
    const usage = decodeUsage(rawUsage)
    const from = { id: textOf(message['id']), model: textOf(message['model']) }
    out.push({ type: 'start', ...from, ...(usage ? { usage } : {}) })
  }

  const delta = (index: number, value: BlockDelta) => {
    out.push({ type: 'block-delta', index, delta: value })
  }

  const blockStart = (wire: unknown, block: JsonObject) => {
    const stale = open.get(wire)
    if (stale) blockStop(wire, stale)
    const index = blocks++
    const isTool = block['type'] === 'tool_use'
    const input = isTool && isObject(block['input']) && Object.keys(block['input']).length > 0
    open.set(wire, { index, isTool, input: input ? JSON.stringify(block['input']) : '' })
    out.push({ type: 'block-start', index, block: startOf(block) })
    const text = textOf(block['text'])
    if (block['type'] === 'text' && text !== '') delta(index, { type: 'text', text })
    if (block['type'] !== 'thinking') return
    const thinking = textOf(block['thinking'])
    const signature = textOf(block['signature'])
    if (thinking !== '') delta(index, { type: 'thinking', text: thinking })
    if (signature !== '') delta(index, { type: 'signature', signature })
  }

  const blockDelta = (block: OpenBlock, value: JsonObject) => {
    const { index } = block
    switch (value['type']) {
      case 'text_delta': {
        const text = textOf(value['text'])
        if (text !== '') delta(index, { type: 'text', text })
        break
      }
      case 'thinking_delta': {
        const text = textOf(value['thinking'])
        if (text !== '') delta(index, { type: 'thinking', text })
        break
      }
      case 'signature_delta':
        delta(index, { type: 'signature', signature: textOf(value['signature']) })
        break
      case 'input_json_delta': {
        const json = textOf(value['partial_json'])
        if (!block.isTool) delta(index, { type: 'unknown', protocol: PROTOCOL, value })
        else if (json !== '') {
          block.input = ''
          delta(index, { type: 'arguments', json })
        }
        break
      }
      default:
        delta(index, { type: 'unknown', protocol: PROTOCOL, value })
    }
  }

  const blockStop = (wire: unknown, block: OpenBlock) => {
    if (block.input !== '') delta(block.index, { type: 'arguments', json: block.input })
    out.push({ type: 'block-end', index: block.index })
    open.delete(wire)
  }

  const messageDelta = (json: JsonObject) => {
    const fields = isObject(json['delta']) ? json['delta'] : {}
    if (isObject(json['usage'])) {
      rawUsage = mergeUsage(rawUsage, json['usage'])
      const usage = decodeUsage(rawUsage)
      if (usage) out.push({ type: 'usage', usage })
    }
    const raw = textOf(fields['stop_reason'])
    if (raw === '' || isFinished) return
    isFinished = true
    const sequence = fields['stop_sequence']
    const stopSequence = typeof sequence === 'string' ? { stopSequence: sequence } : {}
    out.push({ type: 'finish', finish: finishOf(raw), rawFinish: raw, ...stopSequence })
  }

  const error = (value: unknown) => {
    isDone = true
    const fields = isObject(value) ? value : {}
    const type = textOf(fields['type'])
    const code = textOf(fields['code'])
    out.push({
      type: 'error',
      message: maskText(textOf(fields['message']) || textOf(value) || 'the upstream reported an error'),
      ...(type === '' ? {} : { errorType: type }),
      ...(code === '' ? {} : { code }),
    })
  }

  const read = (json: JsonObject) => {
    switch (json['type']) {
      case 'content_block_delta': {
        const block = open.get(json['index'])
        if (block && isObject(json['delta'])) blockDelta(block, json['delta'])
        break
      }
      case 'content_block_start':
        if (isObject(json['content_block'])) blockStart(json['index'], json['content_block'])
        break
      case 'content_block_stop': {
        const block = open.get(json['index'])
        if (block) blockStop(json['index'], block)
        break
      }
      case 'message_start':
        start(isObject(json['message']) ? json['message'] : {})
        break
      case 'message_delta':
        messageDelta(json)
        break
      case 'message_stop':
        isDone = true
        break
      case 'ping':
        break
      default:
        if (json['error'] !== undefined && json['error'] !== null) error(json['error'])
        else skipped++
    }
  }

  return {
    feed(frame: SseFrame) {
      if (isDone) return NOTHING
      const json = parseJson(frame.data)
      if (!isObject(json)) {
        if (frame.data !== '' && frame.data !== '[DONE]') skipped++
        return NOTHING
      }
      out = []
      read(json)
      return out
    },
    end() {
      out = []
      for (const [wire, block] of open) blockStop(wire, block)
      return out
    },
    progress: () => (isDone ? 'done' : isFinished ? 'finished' : 'open'),
    skipped: () => skipped,
  }
}

function startOf(block: JsonObject): BlockStart {
  switch (block['type']) {
    case 'text':
      return { type: 'text' }
    case 'thinking':
      return { type: 'thinking' }
    case 'redacted_thinking':
      return { type: 'redacted-thinking', data: textOf(block['data']) }
    case 'tool_use':
      return { type: 'tool-call', id: textOf(block['id']), name: textOf(block['name']) }
    default:
      return { type: 'unknown', protocol: PROTOCOL, value: block }
  }
}
