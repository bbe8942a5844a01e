/** Stream events → chunks of OpenAI's chat dialect. */
import { SSE_DONE, sseFrame } from '../../lib/sse.ts'
import type { StreamEncoder, StreamEncoderOptions } from '../codec.ts'
import type { BlockDelta, BlockStart, FinishReason, StreamEvent, Usage } from '../ir.ts'
import { createLosses, isObject, textOf } from '../shape.ts'
import { encodeDetail, PROTOCOL } from './content.ts'
import { finishWord } from './response.ts'
import { encodeUsage } from './usage.ts'

interface OpenBlock {
  readonly kind: BlockStart['type']
  /** Counts tool calls only, as the dialect does. */
  readonly tool: number
  /** Counts thinking blocks. */
  readonly detail: number
  /** Thinking is kept until its signature comes: the two make one signed piece. */
  thinking: string
  hasArguments: boolean
}

interface Choice {
  readonly blocks: Map<number, OpenBlock>
  tools: number
  details: number
  isFinished: boolean
}

const kindOf = (value: unknown): string => (isObject(value) && textOf(value['type'])) || 'unknown'

export function streamEncoder(options: StreamEncoderOptions): StreamEncoder {
  const losses = createLosses()
  const choices = new Map<number, Choice>()
  let head = ''
  let usage: Usage | undefined

  const start = (id: string, model: string, createdAtSec: number | undefined) => {
    const fields = {
      id: id || options.id,
      object: 'chat.completion.chunk',
      created: createdAtSec ?? options.createdAtSec,
      model: model || options.model,
    }
    head = `data: ${JSON.stringify(fields).slice(0, -1)},"choices":[`
  }
  const chunk = (index: number, delta: string, finish = 'null'): string =>
    `${head}{"index":${index},"delta":${delta},"logprobs":null,"finish_reason":${finish}}]}\n\n`

  /** The first chunk of a choice carries the role alone. */
  const opening = (index: number): string => {
    if (choices.has(index)) return ''
    if (head === '') start('', '', undefined)
    choices.set(index, { blocks: new Map(), tools: 0, details: 0, isFinished: false })
    return chunk(index, '{"role":"assistant","content":""}')
  }

  const blockStart = (index: number, at: number, block: BlockStart): string => {
    const choice = choices.get(index)!
    const isTool = block.type === 'tool-call'
    const isDetail = block.type === 'thinking' || block.type === 'redacted-thinking'
    const open = { kind: block.type, tool: choice.tools, detail: choice.details, thinking: '', hasArguments: false }
    choice.blocks.set(at, open)
    if (isDetail) choice.details++
    if (block.type === 'redacted-thinking') {
      const detail = encodeDetail({ type: 'thinking', text: '', redacted: block.data }, open.detail)
      return chunk(index, JSON.stringify({ reasoning_details: [detail] }))
    }
    if (block.type === 'unknown') losses.add(`content_block.type.${kindOf(block.value)}`, `not a part of ${PROTOCOL}`)
    if (!isTool) return ''
    choice.tools++
    const call = { index: open.tool, id: block.id, type: 'function', function: { name: block.name, arguments: '' } }
    return chunk(index, JSON.stringify({ tool_calls: [call] }))
  }

  const argumentsChunk = (index: number, open: OpenBlock, json: string): string =>
    chunk(index, `{"tool_calls":[{"index":${open.tool},"function":{"arguments":${JSON.stringify(json)}}}]}`)

  /** A call without arguments says so in JSON, which clients parse. */
  const blockEnd = (index: number, at: number): string => {
    const choice = choices.get(index)
    const open = choice?.blocks.get(at)
    if (!choice || !open) return ''
    choice.blocks.delete(at)
    return open.kind === 'tool-call' && !open.hasArguments ? argumentsChunk(index, open, '{}') : ''
  }

  const blockDelta = (index: number, at: number, delta: BlockDelta): string => {
    const open = choices.get(index)?.blocks.get(at)
    if (!open) return ''
    switch (delta.type) {
      case 'text':
        return chunk(index, `{"${open.kind === 'refusal' ? 'refusal' : 'content'}":${JSON.stringify(delta.text)}}`)
      case 'thinking':
        open.thinking += delta.text
        return chunk(index, `{"reasoning_content":${JSON.stringify(delta.text)}}`)
      case 'arguments': {
        if (open.kind !== 'tool-call') return ''
        open.hasArguments = true
        return argumentsChunk(index, open, delta.json)
      }
      case 'signature': {
        const block = { type: 'thinking', text: open.thinking, signature: delta.signature } as const
        return chunk(index, JSON.stringify({ reasoning_details: [encodeDetail(block, open.detail)] }))
      }
      case 'unknown':
        losses.add(`delta.type.${kindOf(delta.value)}`, `not a delta of ${PROTOCOL}`)
        return ''
    }
  }

  const finish = (index: number, reason: FinishReason, raw: string | undefined): string => {
    const choice = choices.get(index)!
    if (choice.isFinished) return ''
    choice.isFinished = true
    return chunk(index, '{}', JSON.stringify(finishWord(reason, raw)))
  }

  const encode = (event: StreamEvent): string => {
    switch (event.type) {
      case 'start':
        start(event.id, event.model, event.createdAtSec)
        if (event.usage) usage = event.usage
        return opening(0)
      case 'block-start':
        return opening(event.choice ?? 0) + blockStart(event.choice ?? 0, event.index, event.block)
      case 'block-delta':
        return blockDelta(event.choice ?? 0, event.index, event.delta)
      case 'block-end':
        return blockEnd(event.choice ?? 0, event.index)
      case 'usage':
        usage = event.usage
        return ''
      case 'finish':
        if (event.stopSequence !== undefined) losses.add('stop_sequence', 'the sequence that was met cannot be named')
        return opening(event.choice ?? 0) + finish(event.choice ?? 0, event.finish, event.rawFinish)
      case 'error': {
        const type = event.errorType ?? 'upstream_error'
        return sseFrame(
          JSON.stringify({ error: { message: event.message, type, param: null, code: event.code ?? null } }),
        )
      }
    }
  }

  return {
    event: encode,
    end() {
      let text = opening(0)
      for (const [index, choice] of choices) text += finish(index, choice.tools > 0 ? 'tool-calls' : 'stop', undefined)
      if (options.includeUsage && usage) text += `${head}],"usage":${JSON.stringify(encodeUsage(usage))}}\n\n`
      return text + SSE_DONE
    },
    losses: () => losses.list(),
  }
}
