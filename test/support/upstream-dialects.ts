/** What a scripted upstream says, per dialect: complete answers, stream frames, errors. Counts are handed in, never guessed here. */

/** Counts as the upstream bills them; `input` includes both cache counters, as OpenAI counts. */
export interface TrueUsage {
  readonly input: number
  readonly output: number
  readonly cacheRead: number
  readonly cacheWrite: number
  readonly cacheWrite1h: number
  readonly reasoning: number
}

export interface ScriptedTool {
  readonly name: string
  /** JSON text. */
  readonly arguments: string
}

export interface Utterance {
  readonly id: string
  readonly model: string
  readonly createdAtSec: number
  /** Text pieces; an endless upstream's iterator never ends. */
  readonly pieces: Iterable<string>
  readonly thinking: string | undefined
  readonly tools: readonly ScriptedTool[]
  readonly finish: string | undefined
  /** OpenAI: the request asked for usage in the stream. */
  readonly includeUsage: boolean
  /** Counts so far, or undefined when the script leaves usage out. */
  usage(): TrueUsage | undefined
}

/** A frame of a stream; only content frames count as delivered output. */
export interface Frame {
  readonly text: string
  readonly isContent: boolean
}

export interface Dialect {
  readonly contentType: string
  frames(say: Utterance): Generator<Frame, void>
  whole(say: Utterance, text: string): unknown
  error(status: number, message: string, type: string, code: string | undefined): unknown
}

const content = (text: string): Frame => ({ text, isContent: true })
const other = (text: string): Frame => ({ text, isContent: false })
const sse = (json: unknown) => `data: ${JSON.stringify(json)}\n\n`
const event = (json: Readonly<Record<string, unknown>>) => `event: ${json.type}\ndata: ${JSON.stringify(json)}\n\n`
const halves = (text: string): readonly string[] => {
  const middle = Math.ceil(text.length / 2)
  return [text.slice(0, middle), text.slice(middle)].filter((part) => part !== '')
}

const openaiUsage = (usage: TrueUsage) => ({
  prompt_tokens: usage.input,
  completion_tokens: usage.output,
  total_tokens: usage.input + usage.output,
  prompt_tokens_details: {
    cached_tokens: usage.cacheRead,
    ...(usage.cacheWrite > 0 && { cache_write_tokens: usage.cacheWrite }),
  },
  completion_tokens_details: { reasoning_tokens: usage.reasoning },
})

const openaiError: Dialect['error'] = (_status, message, type, code) => ({
  error: { message, type, param: null, code: code ?? null },
})

export const openaiChat: Dialect = {
  contentType: 'text/event-stream; charset=utf-8',
  error: openaiError,
  *frames(say) {
    const head = `{"id":"${say.id}","object":"chat.completion.chunk","created":${say.createdAtSec},"model":${JSON.stringify(say.model)},"choices":[{"index":0,"delta":`
    const frame = (delta: string, finish = 'null') => `data: ${head}${delta},"finish_reason":${finish}}]}\n\n`
    yield other(frame('{"role":"assistant","content":""}'))
    if (say.thinking !== undefined) {
      for (const part of halves(say.thinking)) yield content(frame(`{"reasoning_content":${JSON.stringify(part)}}`))
    }
    for (const piece of say.pieces) yield content(frame(`{"content":${JSON.stringify(piece)}}`))
    for (const [index, tool] of say.tools.entries()) {
      const call = { index, id: `call_${index}`, type: 'function', function: { name: tool.name, arguments: '' } }
      yield content(frame(JSON.stringify({ tool_calls: [call] })))
      for (const part of halves(tool.arguments)) {
        yield content(frame(JSON.stringify({ tool_calls: [{ index, function: { arguments: part } }] })))
      }
    }
    yield other(frame('{}', JSON.stringify(say.finish ?? (say.tools.length > 0 ? 'tool_calls' : 'stop'))))
    const usage = say.usage()
    if (usage && say.includeUsage) {
      const { id, model, createdAtSec: created } = say
      yield other(sse({ id, object: 'chat.completion.chunk', created, model, choices: [], usage: openaiUsage(usage) }))
    }
    yield other('data: [DONE]\n\n')
  },
  whole(say, text) {
    const usage = say.usage()
    const toolCalls = say.tools.map((tool, index) => ({ id: `call_${index}`, type: 'function', function: tool }))
    return {
      id: say.id,
      object: 'chat.completion',
      created: say.createdAtSec,
      model: say.model,
      choices: [
        {
          index: 0,
          message: {
            role: 'assistant',
            content: text === '' && toolCalls.length > 0 ? null : text,
            ...(say.thinking !== undefined && { reasoning_content: say.thinking }),
            ...(toolCalls.length > 0 && { tool_calls: toolCalls }),
          },
          finish_reason: say.finish ?? (toolCalls.length > 0 ? 'tool_calls' : 'stop'),
        },
      ],
      ...(usage && { usage: openaiUsage(usage) }),
    }
  },
}

export const openaiCompletions: Dialect = {
  contentType: 'text/event-stream; charset=utf-8',
  error: openaiError,
  *frames(say) {
    const base = { id: say.id, object: 'text_completion', created: say.createdAtSec, model: say.model }
    const choice = (text: string, finish: string | null) => [{ index: 0, text, logprobs: null, finish_reason: finish }]
    for (const piece of say.pieces) yield content(sse({ ...base, choices: choice(piece, null) }))
    yield other(sse({ ...base, choices: choice('', say.finish ?? 'stop') }))
    const usage = say.usage()
    if (usage && say.includeUsage) yield other(sse({ ...base, choices: [], usage: openaiUsage(usage) }))
    yield other('data: [DONE]\n\n')
  },
  whole(say, text) {
    const usage = say.usage()
    return {
      id: say.id,
      object: 'text_completion',
      created: say.createdAtSec,
      model: say.model,
      choices: [{ index: 0, text, logprobs: null, finish_reason: say.finish ?? 'stop' }],
      ...(usage && { usage: openaiUsage(usage) }),
    }
  },
}

const claudeInput = (usage: TrueUsage) => ({
  input_tokens: usage.input - usage.cacheRead - usage.cacheWrite,
  cache_read_input_tokens: usage.cacheRead,
  cache_creation_input_tokens: usage.cacheWrite,
  cache_creation: {
    ephemeral_5m_input_tokens: usage.cacheWrite - usage.cacheWrite1h,
    ephemeral_1h_input_tokens: usage.cacheWrite1h,
  },
})
const claudeStop = (say: Utterance) => say.finish ?? (say.tools.length > 0 ? 'tool_use' : 'end_turn')

export const claudeMessages: Dialect = {
  contentType: 'text/event-stream; charset=utf-8',
  error: (_status, message, type) => ({ type: 'error', error: { type, message } }),
  *frames(say) {
    const before = say.usage()
    const message = {
      id: say.id,
      type: 'message',
      role: 'assistant',
      model: say.model,
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage: before ? { ...claudeInput(before), output_tokens: 1 } : { input_tokens: 0, output_tokens: 0 },
    }
    yield other(event({ type: 'message_start', message }))
    let index = 0
    const start = (block: unknown) => event({ type: 'content_block_start', index, content_block: block })
    const delta = (part: unknown) => event({ type: 'content_block_delta', index, delta: part })
    const stop = () => event({ type: 'content_block_stop', index: index++ })
    if (say.thinking !== undefined) {
      yield other(start({ type: 'thinking', thinking: '', signature: '' }))
      for (const part of halves(say.thinking)) yield content(delta({ type: 'thinking_delta', thinking: part }))
      yield other(delta({ type: 'signature_delta', signature: 'c2lnbmF0dXJl' }))
      yield other(stop())
    }
    yield other(event({ type: 'ping' }))
    let hasText = false
    for (const piece of say.pieces) {
      if (!hasText) yield other(start({ type: 'text', text: '' }))
      hasText = true
      yield content(delta({ type: 'text_delta', text: piece }))
    }
    if (hasText) yield other(stop())
    for (const [number, tool] of say.tools.entries()) {
      yield content(start({ type: 'tool_use', id: `toolu_${number}`, name: tool.name, input: {} }))
      for (const part of halves(tool.arguments)) {
        yield content(delta({ type: 'input_json_delta', partial_json: part }))
      }
      yield other(stop())
    }
    const usage = say.usage()
    yield other(
      event({
        type: 'message_delta',
        delta: { stop_reason: claudeStop(say), stop_sequence: null },
        usage: usage ? { output_tokens: usage.output } : {},
      }),
    )
    yield other(event({ type: 'message_stop' }))
  },
  whole(say, text) {
    const usage = say.usage()
    return {
      id: say.id,
      type: 'message',
      role: 'assistant',
      model: say.model,
      content: [
        ...(say.thinking === undefined
          ? []
          : [{ type: 'thinking', thinking: say.thinking, signature: 'c2lnbmF0dXJl' }]),
        ...(text === '' ? [] : [{ type: 'text', text }]),
        ...say.tools.map((tool, number) => ({
          type: 'tool_use',
          id: `toolu_${number}`,
          name: tool.name,
          input: JSON.parse(tool.arguments) as unknown,
        })),
      ],
      stop_reason: claudeStop(say),
      stop_sequence: null,
      ...(usage && { usage: { ...claudeInput(usage), output_tokens: usage.output } }),
    }
  },
}

/** Newline-delimited JSON. */
export const ollamaChat: Dialect = {
  contentType: 'application/x-ndjson',
  error: (_status, message) => ({ error: message }),
  *frames(say) {
    const base = { model: say.model, created_at: new Date(say.createdAtSec * 1000).toISOString() }
    const line = (json: unknown) => `${JSON.stringify(json)}\n`
    const message = (fields: object) => line({ ...base, message: { role: 'assistant', ...fields }, done: false })
    if (say.thinking !== undefined) yield content(message({ content: '', thinking: say.thinking }))
    for (const piece of say.pieces) yield content(message({ content: piece }))
    for (const tool of say.tools) yield content(message({ content: '', tool_calls: [ollamaCall(tool)] }))
    yield other(line({ ...base, message: { role: 'assistant', content: '' }, ...ollamaEnd(say) }))
  },
  whole(say, text) {
    const toolCalls = say.tools.map(ollamaCall)
    return {
      model: say.model,
      created_at: new Date(say.createdAtSec * 1000).toISOString(),
      message: {
        role: 'assistant',
        content: text,
        ...(say.thinking !== undefined && { thinking: say.thinking }),
        ...(toolCalls.length > 0 && { tool_calls: toolCalls }),
      },
      ...ollamaEnd(say),
    }
  },
}
const ollamaCall = (tool: ScriptedTool) => ({
  function: { name: tool.name, arguments: JSON.parse(tool.arguments) as unknown },
})
const ollamaEnd = (say: Utterance) => {
  const usage = say.usage()
  return {
    done: true,
    done_reason: say.finish ?? 'stop',
    ...(usage && { prompt_eval_count: usage.input, eval_count: usage.output }),
  }
}

/** Ollama's text completion. */
export const ollamaGenerate: Dialect = {
  contentType: 'application/x-ndjson',
  error: ollamaChat.error,
  *frames(say) {
    for (const piece of say.pieces) {
      yield content(`${JSON.stringify({ model: say.model, response: piece, done: false })}\n`)
    }
    yield other(`${JSON.stringify({ model: say.model, response: '', ...ollamaEnd(say) })}\n`)
  },
  whole: (say, text) => ({ model: say.model, response: text, ...ollamaEnd(say) }),
}
