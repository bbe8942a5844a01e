/** Ollama's answers in OpenAI's words: the complete ones, and the stream of JSON lines as SSE. */
import type { UpstreamCall } from './provider.ts'

type Json = Record<string, unknown>

interface Answer {
  readonly model?: string
  readonly created_at?: string
  readonly message?: {
    readonly content?: string
    readonly thinking?: string
    readonly tool_calls?: readonly {
      readonly id?: string
      readonly function?: { readonly name?: string; readonly arguments?: unknown }
    }[]
  }
  readonly response?: string
  readonly thinking?: string
  readonly embeddings?: readonly (readonly number[])[]
  readonly done?: boolean
  readonly done_reason?: string
  readonly prompt_eval_count?: number
  readonly eval_count?: number
  readonly error?: string
}

const createdSec = (answer: Answer): number => {
  const ms = Date.parse(answer.created_at ?? '')
  return Math.floor((Number.isNaN(ms) ? Date.now() : ms) / 1000)
}

const newId = (call: UpstreamCall): string =>
  `${call.operation === 'completions' ? 'cmpl' : 'chatcmpl'}-${crypto.randomUUID().replaceAll('-', '')}`

const usageOf = (answer: Answer): Json => {
  const prompt = answer.prompt_eval_count ?? 0
  const completion = answer.eval_count ?? 0
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
}

/** A prompt that is wholly cached may be left out of the counts; then nothing is said and the gateway counts itself. */
const isCounted = (answer: Answer): boolean => answer.eval_count !== undefined

/** Calls of functions end with `stop` here. */
const finishOf = (answer: Answer, hasToolCalls: boolean): string =>
  hasToolCalls ? 'tool_calls' : answer.done_reason === 'length' ? 'length' : 'stop'

/** @param from number of calls before these */
const toolCallsOf = (answer: Answer, from: number): Json[] =>
  (answer.message?.tool_calls ?? []).map((call, position) => ({
    index: from + position,
    id: call.id || `call_${crypto.randomUUID().replaceAll('-', '').slice(0, 24)}`,
    type: 'function',
    function: { name: call.function?.name ?? '', arguments: JSON.stringify(call.function?.arguments ?? {}) },
  }))

const chatAnswer = (answer: Answer, call: UpstreamCall): Json => {
  const toolCalls = toolCallsOf(answer, 0).map(({ index: _index, ...rest }) => rest)
  const { content = '', thinking } = answer.message ?? {}
  const message = {
    role: 'assistant',
    content,
    ...(thinking && { reasoning_content: thinking }),
    ...(toolCalls.length > 0 && { tool_calls: toolCalls }),
  }
  return {
    id: newId(call),
    object: 'chat.completion',
    created: createdSec(answer),
    model: answer.model,
    choices: [{ index: 0, message, finish_reason: finishOf(answer, toolCalls.length > 0) }],
    ...(isCounted(answer) && { usage: usageOf(answer) }),
  }
}

const completionAnswer = (answer: Answer, call: UpstreamCall): Json => ({
  id: newId(call),
  object: 'text_completion',
  created: createdSec(answer),
  model: answer.model,
  choices: [{ index: 0, text: answer.response ?? '', logprobs: null, finish_reason: finishOf(answer, false) }],
  ...(isCounted(answer) && { usage: usageOf(answer) }),
})

/** OpenAI's base64 form: little-endian 32-bit floats. */
const base64Floats = (vector: readonly number[]): string => {
  const bytes = new DataView(new ArrayBuffer(vector.length * 4))
  vector.forEach((value, index) => {
    bytes.setFloat32(index * 4, value, true)
  })
  return Buffer.from(bytes.buffer).toString('base64')
}

const embeddingAnswer = (answer: Answer, call: UpstreamCall): Json => {
  const isBase64 = call.json.encoding_format === 'base64'
  const prompt = answer.prompt_eval_count ?? 0
  return {
    object: 'list',
    data: (answer.embeddings ?? []).map((vector, index) => ({
      object: 'embedding',
      index,
      embedding: isBase64 ? base64Floats(vector) : vector,
    })),
    model: answer.model,
    ...(answer.prompt_eval_count !== undefined && { usage: { prompt_tokens: prompt, total_tokens: prompt } }),
  }
}

/** A complete answer; what is no answer (an error object) is left as it is. */
export const answerOf = (json: unknown, call: UpstreamCall): unknown => {
  if (typeof json !== 'object' || json === null || 'error' in json) return json
  const answer = json as Answer
  if (call.operation === 'embeddings') return embeddingAnswer(answer, call)
  return call.operation === 'completions' ? completionAnswer(answer, call) : chatAnswer(answer, call)
}

/** One stream: its id, and how many calls of functions it has shown. */
interface Line {
  readonly id: string
  toolCalls: number
}

const frame = (json: Json): string => `data: ${JSON.stringify(json)}\n\n`

/** One line → the frames of it. */
const framesOf = (answer: Answer, call: UpstreamCall, state: Line): string => {
  if (answer.error !== undefined) {
    return frame({ error: { message: String(answer.error), type: 'upstream_error', param: null, code: null } })
  }
  const isCompletion = call.operation === 'completions'
  const head = {
    id: state.id,
    object: isCompletion ? 'text_completion' : 'chat.completion.chunk',
    created: createdSec(answer),
    model: answer.model,
  }
  const toolCalls = toolCallsOf(answer, state.toolCalls)
  state.toolCalls += toolCalls.length
  const { content, thinking } = answer.message ?? {}
  const delta = {
    role: 'assistant',
    ...(thinking && { reasoning_content: thinking }),
    ...(content && { content }),
    ...(toolCalls.length > 0 && { tool_calls: toolCalls }),
  }
  const part = isCompletion ? { index: 0, text: answer.response ?? '', logprobs: null } : { index: 0, delta }
  const isEmpty = isCompletion ? !answer.response : !thinking && !content && toolCalls.length === 0
  const shown = answer.done === true && isEmpty ? '' : frame({ ...head, choices: [{ ...part, finish_reason: null }] })
  if (answer.done !== true) return shown
  const end = isCompletion ? { index: 0, text: '', logprobs: null } : { index: 0, delta: {} }
  const finish = frame({ ...head, choices: [{ ...end, finish_reason: finishOf(answer, state.toolCalls > 0) }] })
  const usage = isCounted(answer) ? frame({ ...head, choices: [], usage: usageOf(answer) }) : ''
  return `${shown}${finish}${usage}data: [DONE]\n\n`
}

/** JSON lines → SSE; a line that cannot be read becomes an error frame, since what follows cannot be trusted. */
export const sseOf = (body: ReadableStream<Uint8Array>, call: UpstreamCall): ReadableStream<Uint8Array> => {
  const decoder = new TextDecoder()
  const encoder = new TextEncoder()
  const state: Line = { id: newId(call), toolCalls: 0 }
  let rest = ''
  const read = (line: string): string => {
    if (line.trim() === '') return ''
    try {
      return framesOf(JSON.parse(line) as Answer, call, state)
    } catch {
      return framesOf({ error: 'a line of the stream is no JSON' }, call, state)
    }
  }
  const send = (text: string, controller: TransformStreamDefaultController<Uint8Array>): void => {
    if (text !== '') controller.enqueue(encoder.encode(text))
  }
  return body.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform: (chunk, controller) => {
        const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n')
        rest = lines.pop() ?? ''
        send(lines.map(read).join(''), controller)
      },
      flush: (controller) => send(read(rest + decoder.decode()), controller),
    }),
  )
}
