/**
 * Streamed chunks of OpenAI's chat dialect → stream events; chunks of the older completions operation are read too.
 * @source https://platform.openai.com/docs/api-reference/chat-streaming, read 2026-11
 */
import type { SseFrame } from '../../lib/sse.ts'
import type { StreamDecoder } from '../codec.ts'
import type { BlockDelta, BlockStart, StreamEvent } from '../ir.ts'
import { isObject, type JsonObject, listOf, parseJson, textOf } from '../shape.ts'
import { maskText } from '../upstream-error.ts'
import { argumentsText } from './assistant.ts'
import { decodeDetail } from './content.ts'
import { callId, finishOf, rawFinishOf } from './response.ts'
import { decodeUsage } from './usage.ts'

const NOTHING: readonly StreamEvent[] = []

interface OpenTool {
  id: string
  name: string
  /** Undefined until its name is known. */
  block: number | undefined
  pending: string
}

interface Choice {
  readonly index: number
  /** Of the text, refusal or thinking block that is open. */
  block: number | undefined
  kind: 'text' | 'refusal' | 'thinking' | undefined
  blocks: number
  readonly tools: Map<number, OpenTool>
  /** Tool indexes of the wire → those of `tools`, for servers that give parallel calls one index. */
  readonly aliases: Map<number, number>
  lastTool: number
  hasReasoning: boolean
  isFinished: boolean
}

export function streamDecoder(): StreamDecoder {
  const choices: Choice[] = []
  /** Of them, those that have not finished: asked for after each chunk. */
  let unfinished = 0
  let out: StreamEvent[] = []
  let id = ''
  let isStarted = false
  let isDone = false
  let skipped = 0
  let rawUsage: JsonObject = {}

  const choiceAt = (index: number): Choice => {
    const known = choices.find((choice) => choice.index === index)
    if (known) return known
    const choice: Choice = {
      index,
      block: undefined,
      kind: undefined,
      blocks: 0,
      tools: new Map(),
      aliases: new Map(),
      lastTool: -1,
      hasReasoning: false,
      isFinished: false,
    }
    choices.push(choice)
    unfinished++
    return choice
  }

  const tag = (choice: Choice) => (choice.index === 0 ? undefined : { choice: choice.index })
  const startBlock = (choice: Choice, block: BlockStart): number => {
    const index = choice.blocks++
    out.push({ type: 'block-start', index, block, ...tag(choice) })
    return index
  }
  const delta = (choice: Choice, index: number, value: BlockDelta) => {
    out.push({ type: 'block-delta', index, delta: value, ...tag(choice) })
  }
  const closeText = (choice: Choice) => {
    if (choice.block === undefined) return
    out.push({ type: 'block-end', index: choice.block, ...tag(choice) })
    choice.block = choice.kind = undefined
  }
  const closeAll = (choice: Choice) => {
    closeText(choice)
    for (const tool of choice.tools.values()) {
      if (tool.block === undefined && (tool.pending !== '' || tool.name !== '')) startTool(choice, tool)
      if (tool.block !== undefined) out.push({ type: 'block-end', index: tool.block, ...tag(choice) })
    }
    choice.tools.clear()
    choice.aliases.clear()
  }

  const open = (choice: Choice, kind: 'text' | 'refusal' | 'thinking'): number => {
    if (choice.block !== undefined && choice.kind === kind) return choice.block
    closeText(choice)
    choice.kind = kind
    choice.block = startBlock(choice, { type: kind })
    return choice.block
  }
  const text = (choice: Choice, kind: 'text' | 'refusal', value: string) => {
    if (value !== '') delta(choice, open(choice, kind), { type: 'text', text: value })
  }
  const thinking = (choice: Choice, value: string) => {
    if (value !== '') delta(choice, open(choice, 'thinking'), { type: 'thinking', text: value })
  }

  const details = (choice: Choice, list: readonly unknown[]) => {
    for (const item of list) {
      const block = isObject(item) ? decodeDetail(item) : undefined
      if (!block) continue
      if (block.redacted !== undefined) {
        closeText(choice)
        const index = startBlock(choice, { type: 'redacted-thinking', data: block.redacted })
        out.push({ type: 'block-end', index, ...tag(choice) })
        continue
      }
      // The same text travels beside the details, if the server sends both.
      if (!choice.hasReasoning) thinking(choice, block.text)
      if (block.signature !== undefined) {
        delta(choice, open(choice, 'thinking'), { type: 'signature', signature: block.signature })
        closeText(choice)
      }
    }
  }

  const startTool = (choice: Choice, tool: OpenTool) => {
    closeText(choice)
    const toolId = tool.id || callId(id, choice.blocks)
    tool.block = startBlock(choice, { type: 'tool-call', id: toolId, name: tool.name })
    if (tool.pending !== '') delta(choice, tool.block, { type: 'arguments', json: tool.pending })
    tool.pending = ''
  }

  /** Which call a delta belongs to. Servers leave out the index, or give it once for several calls that differ by id. */
  const toolOf = (choice: Choice, call: JsonObject, name: string): OpenTool => {
    const wireId = textOf(call['id'])
    const wire = typeof call['index'] === 'number' ? call['index'] : undefined
    const known = choice.tools.get(wire === undefined ? choice.lastTool : (choice.aliases.get(wire) ?? -1))
    if (known) {
      const isOther = wireId !== '' && known.id !== '' && known.id !== wireId
      const isUnnamed = wire === undefined && wireId === '' && name !== '' && known.name !== ''
      if (known.id === '') known.id = wireId
      if (!isUnnamed && (!isOther || (wire !== undefined && name === ''))) return known
      const same = isOther && wire === undefined ? [...choice.tools].find(([, tool]) => tool.id === wireId) : undefined
      if (same) {
        choice.lastTool = same[0]
        return same[1]
      }
    }
    const key = choice.tools.size
    if (wire !== undefined) choice.aliases.set(wire, key)
    choice.lastTool = key
    const tool: OpenTool = { id: wireId, name: '', block: undefined, pending: '' }
    choice.tools.set(key, tool)
    return tool
  }

  const toolDelta = (choice: Choice, call: JsonObject) => {
    const custom = isObject(call['custom']) ? call['custom'] : undefined
    const fn = custom ?? (isObject(call['function']) ? call['function'] : {})
    const name = textOf(fn['name'])
    const json = argumentsText(custom ? custom['input'] : fn['arguments'])
    const tool = toolOf(choice, call, name)
    if (tool.block !== undefined) {
      if (json !== '') delta(choice, tool.block, { type: 'arguments', json })
      return
    }
    tool.name += name
    tool.pending += json
    if (tool.name !== '') startTool(choice, tool)
  }

  const content = (choice: Choice, value: unknown) => {
    if (typeof value === 'string') return text(choice, 'text', value)
    for (const part of listOf(value)) {
      if (!isObject(part)) continue
      if (part['type'] === 'thinking') {
        for (const piece of listOf(part['thinking'])) if (isObject(piece)) thinking(choice, textOf(piece['text']))
        thinking(choice, textOf(part['thinking']))
      } else text(choice, 'text', textOf(part['text']))
    }
  }

  const message = (choice: Choice, value: JsonObject) => {
    const reasoning = textOf(value['reasoning_content']) || textOf(value['reasoning'])
    if (reasoning !== '') {
      choice.hasReasoning = true
      thinking(choice, reasoning)
    }
    if (value['reasoning_details'] !== undefined) details(choice, listOf(value['reasoning_details']))
    if (value['content'] !== undefined) content(choice, value['content'])
    if (value['refusal'] !== undefined) text(choice, 'refusal', textOf(value['refusal']))
    if (value['tool_calls'] !== undefined) {
      for (const call of listOf(value['tool_calls'])) if (isObject(call)) toolDelta(choice, call)
    }
    if (isObject(value['function_call'])) toolDelta(choice, { function: value['function_call'] })
  }

  const readChoice = (json: JsonObject) => {
    const choice = choiceAt(typeof json['index'] === 'number' ? json['index'] : 0)
    const value = json['delta'] ?? json['message']
    if (isObject(value)) message(choice, value)
    else if (typeof json['text'] === 'string') text(choice, 'text', json['text'])
    const raw = rawFinishOf(json['finish_reason'])
    if (raw !== undefined && !choice.isFinished) {
      const hasTools = choice.tools.size > 0
      closeAll(choice)
      choice.isFinished = true
      unfinished--
      out.push({ type: 'finish', finish: finishOf(raw, hasTools), rawFinish: raw, ...tag(choice) })
    }
    if (isObject(json['usage'])) readUsage(json['usage'])
  }

  /** Counts may come in pieces: a later object replaces what it names, and keeps what it leaves out. */
  const readUsage = (raw: JsonObject) => {
    const merged = { ...rawUsage, ...Object.fromEntries(Object.entries(raw).filter(([, value]) => value !== null)) }
    const usage = decodeUsage(merged)
    if (!usage) return
    rawUsage = merged
    out.push({ type: 'usage', usage })
  }

  const readError = (error: unknown) => {
    isDone = true
    const fields = isObject(error) ? error : {}
    const code = fields['code']
    const type = textOf(fields['type'])
    out.push({
      type: 'error',
      message: maskText(textOf(fields['message']) || textOf(error) || 'the upstream reported an error'),
      ...(type === '' ? {} : { errorType: type }),
      ...(typeof code === 'string' || typeof code === 'number' ? { code: String(code) } : {}),
    })
  }

  const readChunk = (json: JsonObject) => {
    if (json['error'] !== undefined && json['error'] !== null) return readError(json['error'])
    const list = listOf(json['choices'])
    if (!isStarted && (list.length > 0 || textOf(json['id']) !== '')) {
      isStarted = true
      id = textOf(json['id'])
      const created = json['created']
      out.push({
        type: 'start',
        id,
        model: textOf(json['model']),
        ...(typeof created === 'number' && created > 0 ? { createdAtSec: created } : {}),
      })
    }
    for (const choice of list) if (isObject(choice)) readChoice(choice)
    if (isObject(json['usage'])) readUsage(json['usage'])
    // Groq reports in a bag of its own.
    else if (isObject(json['x_groq']) && isObject(json['x_groq']['usage'])) readUsage(json['x_groq']['usage'])
  }

  return {
    feed(frame: SseFrame) {
      if (isDone) return NOTHING
      if (frame.data === '[DONE]') {
        isDone = true
        return NOTHING
      }
      const json = parseJson(frame.data)
      if (!isObject(json)) {
        if (frame.data.trim() === '[DONE]') isDone = true
        else if (frame.data !== '') skipped++
        return NOTHING
      }
      out = []
      readChunk(json)
      return out
    },
    end() {
      out = []
      for (const choice of choices) closeAll(choice)
      return out
    },
    progress: () => {
      if (isDone) return 'done'
      return choices.length > 0 && unfinished === 0 ? 'finished' : 'open'
    },
    skipped: () => skipped,
  }
}
