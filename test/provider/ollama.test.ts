/** Ollama: OpenAI's words in, its native words out, and back, streamed or not. */
import { describe, expect, test } from 'bun:test'
import { GatewayError } from '../../src/errors.ts'
import { ollama } from '../../src/provider/ollama.ts'
import type { Operation, UpstreamCall, UpstreamChannel } from '../../src/provider/provider.ts'

type Json = Record<string, unknown>

const channel = { settings: {} } as UpstreamChannel

const callOf = (json: Json, operation: Operation = 'chat', isStream = false): UpstreamCall => ({
  operation,
  protocol: 'openai-chat',
  model: 'llama3',
  isStream,
  query: new URLSearchParams(),
  clientHeaders: new Headers(),
  json: { model: 'llama3', ...json },
})

const patch = (json: Json, operation: Operation = 'chat', isStream = false) => {
  const call = callOf(json, operation, isStream)
  return ollama.patch?.({ ...call.json }, call, channel)
}

describe('requests', () => {
  test('sampling goes into options, beside what the client put there itself', () => {
    expect(
      patch({
        messages: [{ role: 'user', content: 'Hi' }],
        temperature: 0,
        max_completion_tokens: 7,
        stop: '.',
        options: { num_ctx: 4096, temperature: 1 },
        keep_alive: '1h',
      }),
    ).toEqual({
      model: 'llama3',
      stream: false,
      messages: [{ role: 'user', content: 'Hi' }],
      options: { num_ctx: 4096, temperature: 0, num_predict: 7, stop: ['.'] },
      keep_alive: '1h',
    })
  })
  test('a call that streams says so: the native default is to stream', () => {
    expect(patch({ messages: [] }, 'chat', true)?.stream).toBe(true)
  })
  test('roles, parts and images', () => {
    const content = [
      { type: 'text', text: 'What' },
      { type: 'text', text: 'is this?' },
      { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } },
    ]
    const messages = [
      { role: 'developer', content: 'Be brief' },
      { role: 'user', content },
    ]
    expect(patch({ messages })?.messages).toEqual([
      { role: 'system', content: 'Be brief' },
      { role: 'user', content: 'What\nis this?', images: ['AAAA'] },
    ])
  })
  test('calls of tools carry objects, and results the name of their tool', () => {
    const tool_calls = [{ id: 'c1', type: 'function', function: { name: 'weather', arguments: '{"city":"Bonn"}' } }]
    const messages = [
      { role: 'assistant', content: null, reasoning_content: 'hm', tool_calls },
      { role: 'tool', tool_call_id: 'c1', content: 'rain' },
    ]
    const tools = [{ type: 'function', function: { name: 'weather' } }]
    expect(patch({ messages, tools })).toMatchObject({
      messages: [
        {
          role: 'assistant',
          content: '',
          thinking: 'hm',
          tool_calls: [{ id: 'c1', function: { name: 'weather', arguments: { city: 'Bonn' } } }],
        },
        { role: 'tool', content: 'rain', tool_name: 'weather', tool_call_id: 'c1' },
      ],
      tools,
    })
    expect(patch({ messages, tools, tool_choice: 'none' })?.tools).toBeUndefined()
  })
  test.each([
    [{ reasoning_effort: 'none' }, false],
    [{ reasoning_effort: 'high' }, 'high'],
    [{ reasoning_effort: 'none', think: true }, true],
    [{}, undefined],
  ])('thinking of %j', (json, think) => {
    expect(patch({ messages: [], ...json })?.think).toEqual(think)
  })
  test.each([
    [{ type: 'json_object' }, 'json'],
    [{ type: 'json_schema', json_schema: { schema: { type: 'object' } } }, { type: 'object' }],
    [{ type: 'text' }, undefined],
  ])('format of %j', (response_format, format) => {
    expect(patch({ messages: [], response_format })?.format).toEqual(format as Json)
  })
  test.each([
    [{ messages: [], reasoning_effort: 'xhigh' }, 'chat'],
    [{ messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://h/i.png' } }] }] }, 'chat'],
    [{ messages: [{ role: 'user', content: [{ type: 'input_audio' }] }] }, 'chat'],
    [{ prompt: ['a', 'b'] }, 'completions'],
    [{ prompt: [1, 2] }, 'completions'],
  ] as const)('what has no word here is refused, not dropped: %j', (json, operation) => {
    let thrown: unknown
    try {
      patch(structuredClone(json) as Json, operation)
    } catch (error) {
      thrown = error
    }
    expect(thrown).toBeInstanceOf(GatewayError)
    expect((thrown as GatewayError).code).toBe('convert_request_failed')
    expect((thrown as GatewayError).retry).toBe(true)
  })
  test('completions and embeddings', () => {
    expect(patch({ prompt: ['a'], suffix: 'z', max_tokens: 3 }, 'completions')).toEqual({
      model: 'llama3',
      stream: false,
      prompt: 'a',
      suffix: 'z',
      options: { num_predict: 3 },
    })
    expect(patch({ input: ['a', 'b'], dimensions: 8, encoding_format: 'float' }, 'embeddings')).toEqual({
      model: 'llama3',
      input: ['a', 'b'],
      dimensions: 8,
    })
  })
})

const unwrap = (json: Json, operation: Operation = 'chat', request: Json = {}) =>
  ollama.unwrap?.(json, callOf(request, operation), channel) as Json

describe('complete answers', () => {
  test('text, thinking and counts', () => {
    const answer = unwrap({
      model: 'llama3',
      created_at: '2026-11-01T00:00:00Z',
      message: { role: 'assistant', content: 'Hello', thinking: 'hm' },
      done: true,
      done_reason: 'length',
      prompt_eval_count: 5,
      eval_count: 2,
    })
    expect(answer).toMatchObject({
      object: 'chat.completion',
      created: 1793491200,
      model: 'llama3',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'Hello', reasoning_content: 'hm' },
          finish_reason: 'length',
        },
      ],
      usage: { prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 },
    })
  })
  test('calls of tools have ids and texts, and end as such although the upstream says stop', () => {
    const answer = unwrap({
      message: { content: '', tool_calls: [{ function: { name: 'f', arguments: { a: 1 } } }] },
      done: true,
      done_reason: 'stop',
      eval_count: 1,
    })
    const [choice] = answer.choices as [{ finish_reason: string; message: { tool_calls: Json[] } }]
    expect(choice.finish_reason).toBe('tool_calls')
    expect(choice.message.tool_calls[0]).toEqual({
      id: expect.stringMatching(/^call_\w{24}$/),
      type: 'function',
      function: { name: 'f', arguments: '{"a":1}' },
    })
  })
  test('an answer without counts reports no usage, so that it is counted and not billed as 0', () => {
    expect(unwrap({ message: { content: 'x' }, done: true }).usage).toBeUndefined()
  })
  test('embeddings as numbers, or in base64 as clients ask by default', () => {
    const native = { model: 'm', embeddings: [[0.5, -1]], prompt_eval_count: 4 }
    const usage = { prompt_tokens: 4, total_tokens: 4 }
    expect(unwrap(native, 'embeddings')).toEqual({
      object: 'list',
      data: [{ object: 'embedding', index: 0, embedding: [0.5, -1] }],
      model: 'm',
      usage,
    })
    const { data } = unwrap(native, 'embeddings', { encoding_format: 'base64' }) as { data: { embedding: string }[] }
    const bytes = Buffer.from(data[0]?.embedding ?? '', 'base64')
    expect([bytes.readFloatLE(0), bytes.readFloatLE(4)]).toEqual([0.5, -1])
  })
  test('an error object stays what it is', () => {
    const error = { error: 'model not found' }
    expect(unwrap(error)).toBe(error)
  })
})

const LINES = [
  { model: 'm', message: { role: 'assistant', content: '', thinking: 'hm' }, done: false },
  { model: 'm', message: { role: 'assistant', content: 'Grüße 你好 🙂' }, done: false },
  {
    model: 'm',
    message: { content: '', tool_calls: [{ id: 'a', function: { name: 'f', arguments: {} } }] },
    done: false,
  },
  {
    model: 'm',
    message: { content: '', tool_calls: [{ id: 'b', function: { name: 'g', arguments: {} } }] },
    done: false,
  },
  { model: 'm', message: { content: '' }, done: true, done_reason: 'stop', prompt_eval_count: 3, eval_count: 4 },
]

const stream = async (text: string, chunkBytes: number, operation: Operation = 'chat'): Promise<string> => {
  const bytes = new TextEncoder().encode(text)
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (let at = 0; at < bytes.length; at += chunkBytes) controller.enqueue(bytes.slice(at, at + chunkBytes))
      controller.close()
    },
  })
  const sse = ollama.transformStream?.(body, callOf({}, operation, true))
  return new Response(sse).text()
}

const framesOf = (sse: string): unknown[] =>
  sse
    .split('\n\n')
    .filter((frame) => frame !== '')
    .map((frame) => frame.replace(/^data: /, ''))
    .map((data) => (data === '[DONE]' ? data : JSON.parse(data)))

const deltas = (sse: string) =>
  framesOf(sse).map((frame) => {
    const { choices, usage } = frame as { choices?: Json[]; usage?: Json }
    return usage ?? (choices?.[0] as Json | undefined) ?? frame
  })

describe('streams', () => {
  const text = LINES.map((line) => `${JSON.stringify(line)}\n`).join('')

  test('lines become chunks, a finish, the usage and the end', async () => {
    expect(deltas(await stream(text, 1000))).toEqual([
      { index: 0, delta: { role: 'assistant', reasoning_content: 'hm' }, finish_reason: null },
      { index: 0, delta: { role: 'assistant', content: 'Grüße 你好 🙂' }, finish_reason: null },
      {
        index: 0,
        delta: {
          role: 'assistant',
          tool_calls: [{ index: 0, id: 'a', type: 'function', function: { name: 'f', arguments: '{}' } }],
        },
        finish_reason: null,
      },
      {
        index: 0,
        delta: {
          role: 'assistant',
          tool_calls: [{ index: 1, id: 'b', type: 'function', function: { name: 'g', arguments: '{}' } }],
        },
        finish_reason: null,
      },
      { index: 0, delta: {}, finish_reason: 'tool_calls' },
      { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 },
      '[DONE]',
    ])
  })
  test('the same for every chunk size, down to one byte', async () => {
    const whole = deltas(await stream(text, 100_000))
    for (const size of [1, 2, 3, 7, 64]) expect(deltas(await stream(text, size))).toEqual(whole)
  })
  test('a last line without its end counts', async () => {
    expect(deltas(await stream(text.trimEnd(), 5)).at(-1)).toBe('[DONE]')
  })
  test('text completions', async () => {
    const lines = `{"response":"Hi","done":false}\n{"response":"","done":true,"eval_count":1}\n`
    expect(deltas(await stream(lines, 4, 'completions'))).toEqual([
      { index: 0, text: 'Hi', logprobs: null, finish_reason: null },
      { index: 0, text: '', logprobs: null, finish_reason: 'stop' },
      { prompt_tokens: 0, completion_tokens: 1, total_tokens: 1 },
      '[DONE]',
    ])
  })
  test('an error within the stream, and a line that is no JSON, are error frames', async () => {
    expect(framesOf(await stream('{"error":"boom"}\n', 100))).toEqual([
      { error: { message: 'boom', type: 'upstream_error', param: null, code: null } },
    ])
    expect(framesOf(await stream('<html>\n', 100))[0]).toHaveProperty('error')
  })
})
