import { describe, expect, test } from 'bun:test'
import { codecs } from '../../src/protocol/index.ts'

type Json = Record<string, unknown>

const HI = { role: 'user', content: 'hi' }

function convert(body: Json): { readonly json: Json; readonly losses: string[] } {
  const request = codecs['openai-chat'].decodeRequest({ model: 'claude-sonnet-4-5', messages: [HI], ...body }).value
  const { json, losses } = codecs.claude.encodeRequest(request)
  return { json: json as Json, losses: losses.map((loss) => loss.path) }
}
/** The blocks of one message. */
const contentOf = (messages: unknown, index: number): Json[] => {
  const message = (messages as Json[])[index] as Json
  return message['content'] as Json[]
}
const messagesOf = (...messages: unknown[]) => convert({ messages }).json['messages'] as Json[]

const call = (id: string, args = '{}') => ({ id, type: 'function', function: { name: 'f', arguments: args } })
const result = (id: string, content: unknown = 'ok') => ({ role: 'tool', tool_call_id: id, content })

describe('messages', () => {
  test('neighbours of one role are joined, their blocks in order', () => {
    expect(messagesOf({ role: 'user', content: 'a' }, { role: 'user', content: 'b' })).toEqual([
      {
        role: 'user',
        content: [
          { type: 'text', text: 'a' },
          { type: 'text', text: 'b' },
        ],
      },
    ])
  })

  test('the results of parallel calls are one user message, in front of what the user says', () => {
    const messages = messagesOf(
      HI,
      { role: 'assistant', content: null, tool_calls: [call('a'), call('b')] },
      result('a', 'one'),
      result('b', [{ type: 'text', text: 'two' }]),
      { role: 'user', content: 'go on' },
    )
    expect(messages[2]).toEqual({
      role: 'user',
      content: [
        { type: 'tool_result', tool_use_id: 'a', content: 'one' },
        { type: 'tool_result', tool_use_id: 'b', content: 'two' },
        { type: 'text', text: 'go on' },
      ],
    })
  })

  test('a conversation that the assistant opens gets a user message in front', () => {
    expect(messagesOf({ role: 'assistant', content: 'hello' }, HI)).toEqual([
      { role: 'user', content: '...' },
      { role: 'assistant', content: 'hello' },
      HI,
    ])
    expect(messagesOf({ role: 'system', content: 'be brief' })).toEqual([{ role: 'user', content: '...' }])
  })

  test('empty text is never sent', () => {
    expect(messagesOf({ role: 'user', content: '' })).toEqual([{ role: 'user', content: '...' }])
    expect(
      messagesOf({
        role: 'user',
        content: [
          { type: 'text', text: ' \n' },
          { type: 'text', text: 'x' },
        ],
      }),
    ).toEqual([{ role: 'user', content: 'x' }])
    // An empty answer is no turn; what the user said before and after it is one.
    expect(messagesOf(HI, { role: 'assistant', content: '' }, { role: 'user', content: 'there?' })).toHaveLength(1)
    // An empty question still is one: without it the model would go on with its own answer.
    expect(messagesOf(HI, { role: 'assistant', content: 'yes' }, { role: 'user', content: '' }).at(-1)).toEqual({
      role: 'user',
      content: '...',
    })
    expect(messagesOf(HI, { role: 'assistant', content: null, tool_calls: [call('a')] }, result('a', ''))[2]).toEqual({
      role: 'user',
      content: [{ type: 'tool_result', tool_use_id: 'a' }],
    })
  })

  test('an answer to be continued loses its trailing white space', () => {
    expect(messagesOf(HI, { role: 'assistant', content: 'It is \n' }).at(-1)).toEqual({
      role: 'assistant',
      content: 'It is',
    })
  })

  test('system and developer text stands apart, wherever it was', () => {
    const { json, losses } = convert({
      messages: [{ role: 'system', content: 'a' }, HI, { role: 'developer', content: 'b' }],
    })
    expect(json['system']).toEqual([
      { type: 'text', text: 'a' },
      { type: 'text', text: 'b' },
    ])
    expect(json['messages']).toEqual([HI])
    expect(losses).toEqual(['messages[].role'])
    expect(convert({ messages: [{ role: 'developer', content: 'a' }, HI] })).toMatchObject({
      json: { system: 'a' },
      losses: [],
    })
  })

  test('ids that the dialect does not take are replaced, the same in call and result, never two alike', () => {
    const messages = messagesOf(
      HI,
      { role: 'assistant', content: null, tool_calls: [call('f.x:0'), call('f_x_0'), call('f.x.0')] },
      result('f.x:0'),
      result('f_x_0'),
      result('f.x.0'),
    )
    const ids = (index: number, key: string) => contentOf(messages, index).map((block) => block[key])
    expect(new Set(ids(1, 'id')).size).toBe(3)
    expect(ids(1, 'id')).toEqual(ids(2, 'tool_use_id'))
    for (const id of ids(1, 'id')) expect(id).toMatch(/^[a-zA-Z0-9_-]+$/)
  })

  test('arguments become an object; what is none is kept as text', () => {
    const { json, losses } = convert({
      messages: [
        HI,
        {
          role: 'assistant',
          content: 'x',
          tool_calls: [call('a', '{"n":1}'), call('b', ''), call('c', '{"n":'), call('d', '[1]')],
        },
        result('a'),
        result('b'),
        result('c'),
        result('d'),
      ],
    })
    const inputs = contentOf(json['messages'], 1)
      .slice(1)
      .map((block) => block['input'])
    expect(inputs).toEqual([{ n: 1 }, {}, { arguments: '{"n":' }, { arguments: '[1]' }])
    expect(losses).toEqual(['messages[].tool_calls[].function.arguments'])
  })

  test('the result of a call that is not there is kept as text', () => {
    const { json, losses } = convert({ messages: [HI, result('gone', 'sunny')] })
    expect(json['messages']).toEqual([
      {
        role: 'user',
        content: [
          { type: 'text', text: 'hi' },
          { type: 'text', text: 'sunny' },
        ],
      },
    ])
    expect(losses).toEqual(['messages[].tool_call_id'])
  })

  test('the older function calls are calls, too', () => {
    const messages = messagesOf(
      HI,
      { role: 'assistant', content: null, function_call: { name: 'f', arguments: '{"a":1}' } },
      { role: 'function', name: 'f', content: 'ok' },
    )
    expect(messages.slice(1)).toEqual([
      { role: 'assistant', content: [{ type: 'tool_use', id: 'call_f', name: 'f', input: { a: 1 } }] },
      { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'call_f', content: 'ok' }] },
    ])
  })

  test('signed thinking goes back, unsigned does not', () => {
    const signed = [
      { type: 'reasoning.text', text: 'hm', signature: 's' },
      { type: 'reasoning.encrypted', data: 'd' },
    ]
    const [, assistant] = messagesOf(
      HI,
      { role: 'assistant', content: 'x', reasoning: 'hm', reasoning_details: signed },
      HI,
    )
    expect(assistant?.['content']).toEqual([
      { type: 'thinking', thinking: 'hm', signature: 's' },
      { type: 'redacted_thinking', data: 'd' },
      { type: 'text', text: 'x' },
    ])
    // A collector of a stream keeps the text and the signature apart.
    const apart = {
      role: 'assistant',
      content: 'x',
      reasoning_content: 'hm',
      reasoning_details: [{ type: 'reasoning.text', text: '', signature: 's' }],
    }
    expect(contentOf(messagesOf(HI, apart, HI), 1)[0]).toEqual({
      type: 'thinking',
      thinking: 'hm',
      signature: 's',
    })
    const foreign = [{ type: 'reasoning.encrypted', data: 'd', format: 'openai-responses-v1' }]
    const { json, losses } = convert({
      messages: [HI, { role: 'assistant', content: 'x', reasoning_content: 'hm', reasoning_details: foreign }, HI],
    })
    expect((json['messages'] as Json[])[1]?.['content']).toBe('x')
    expect(losses).toEqual(['messages[].reasoning_content'])
    // Other servers of the dialect want it back and check nothing.
    const other = convert({
      model: 'deepseek-chat',
      messages: [HI, { role: 'assistant', content: 'x', reasoning_content: 'hm' }, HI],
    })
    expect(contentOf(other.json['messages'], 1)[0]).toEqual({
      type: 'thinking',
      thinking: 'hm',
      signature: '',
    })
  })

  test('cache breakpoints stay where they were', () => {
    const cache_control = { type: 'ephemeral', ttl: '1h' }
    const { json } = convert({
      messages: [
        { role: 'system', content: [{ type: 'text', text: 's', cache_control }] },
        { role: 'user', content: 'q', cache_control: { type: 'ephemeral' } },
      ],
      tools: [{ type: 'function', function: { name: 'f' }, cache_control }],
    })
    expect(json['system']).toEqual([{ type: 'text', text: 's', cache_control }])
    expect(json['messages']).toEqual([
      { role: 'user', content: [{ type: 'text', text: 'q', cache_control: { type: 'ephemeral' } }] },
    ])
    expect((json['tools'] as Json[])[0]?.['cache_control']).toEqual(cache_control)
  })

  test('media by their kind, whatever part they came in', () => {
    const parts = [
      { type: 'image_url', image_url: { url: 'data:image/jpg;base64,QUJD' } },
      { type: 'image_url', image_url: 'https://example.com/a.png' },
      { type: 'image_url', image_url: { url: 'data:application/pdf;base64,QUJD' } },
      { type: 'file', file: { filename: 'a.pdf', file_data: 'QUJD' } },
      { type: 'file', file: { file_data: 'data:text/plain;base64,aGk=' } },
      { type: 'file', file: { file_data: 'data:text/plain,h%20i' } },
      { type: 'file', file: { file_id: 'file-1' } },
    ]
    const [message] = messagesOf({ role: 'user', content: parts })
    expect(message?.['content']).toEqual([
      { type: 'image', source: { type: 'base64', media_type: 'image/jpeg', data: 'QUJD' } },
      { type: 'image', source: { type: 'url', url: 'https://example.com/a.png' } },
      { type: 'document', source: { type: 'base64', media_type: 'application/pdf', data: 'QUJD' } },
      { type: 'document', source: { type: 'base64', media_type: 'application/pdf', data: 'QUJD' }, title: 'a.pdf' },
      { type: 'document', source: { type: 'text', media_type: 'text/plain', data: 'hi' } },
      { type: 'document', source: { type: 'text', media_type: 'text/plain', data: 'h i' } },
      { type: 'document', source: { type: 'file', file_id: 'file-1' } },
    ])
  })

  test('images in the result of a tool stay in it', () => {
    const [, , results] = messagesOf(
      HI,
      { role: 'assistant', content: null, tool_calls: [call('a')] },
      result('a', [
        { type: 'text', text: 'shot' },
        { type: 'image_url', image_url: { url: 'data:image/png;base64,QUJD' } },
      ]),
    )
    expect(results?.['content']).toEqual([
      {
        type: 'tool_result',
        tool_use_id: 'a',
        content: [
          { type: 'text', text: 'shot' },
          { type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'QUJD' } },
        ],
      },
    ])
  })
})

describe('settings', () => {
  test('a limit is always sent', () => {
    expect(convert({}).json['max_tokens']).toBe(8192)
    expect(convert({ max_tokens: 0 }).json['max_tokens']).toBe(8192)
    expect(convert({ max_tokens: 5, max_completion_tokens: 9 }).json['max_tokens']).toBe(9)
    const request = codecs['openai-chat'].decodeRequest({ model: 'm', messages: [HI] }).value
    expect(codecs.claude.encodeRequest(request, { defaultMaxOutputTokens: 77 }).json).toMatchObject({ max_tokens: 77 })
  })

  test('choices of tools', () => {
    const tools = [{ type: 'function', function: { name: 'f', parameters: { properties: {} } } }]
    const choice = (tool_choice: unknown, more: Json = {}) =>
      convert({ tools, tool_choice, ...more }).json['tool_choice']
    expect(choice('auto')).toEqual({ type: 'auto' })
    expect(choice('required')).toEqual({ type: 'any' })
    expect(choice('none')).toEqual({ type: 'none' })
    expect(choice({ type: 'function', function: { name: 'f' } })).toEqual({ type: 'tool', name: 'f' })
    expect(choice(undefined)).toBeUndefined()
    expect(choice(undefined, { parallel_tool_calls: false })).toEqual({ type: 'auto', disable_parallel_tool_use: true })
    expect(choice('required', { parallel_tool_calls: false })).toEqual({ type: 'any', disable_parallel_tool_use: true })
    expect(choice('none', { parallel_tool_calls: false })).toEqual({ type: 'none' })
    expect(convert({ tool_choice: 'auto' }).json['tool_choice']).toBeUndefined()
    expect((convert({ tools }).json['tools'] as Json[])[0]?.['input_schema']).toEqual({
      type: 'object',
      properties: {},
    })
  })

  test('an effort becomes a budget below the limit, or nothing where there is no room', () => {
    const thinking = (reasoning_effort: string, max_tokens: number) =>
      convert({ reasoning_effort, max_tokens }).json['thinking']
    expect(thinking('low', 8000)).toEqual({ type: 'enabled', budget_tokens: 1280 })
    expect(thinking('medium', 8000)).toEqual({ type: 'enabled', budget_tokens: 2048 })
    expect(thinking('high', 8000)).toEqual({ type: 'enabled', budget_tokens: 4096 })
    expect(thinking('high', 4096)).toEqual({ type: 'enabled', budget_tokens: 3276 })
    expect(thinking('low', 1100)).toEqual({ type: 'enabled', budget_tokens: 1024 })
    expect(thinking('none', 8000)).toEqual({ type: 'disabled' })
    expect(convert({ reasoning_effort: 'high', max_tokens: 1024 })).toMatchObject({ losses: ['reasoning_effort'] })
    expect(convert({ reasoning: { max_tokens: 3000 }, max_tokens: 8000 }).json['thinking']).toEqual({
      type: 'enabled',
      budget_tokens: 3000,
    })
    expect(convert({ reasoning: { enabled: false } }).json['thinking']).toEqual({ type: 'disabled' })
  })

  test('newer models are told an effort, and not what they refuse', () => {
    const body = { reasoning_effort: 'xhigh', temperature: 0.5, top_k: 3 }
    expect(convert({ ...body, model: 'claude-opus-4-6' })).toMatchObject({
      json: { thinking: { type: 'adaptive' }, output_config: { effort: 'high' } },
      losses: ['temperature', 'top_k'],
    })
    expect(convert({ ...body, model: 'anthropic/claude-opus-4.8' })).toMatchObject({
      json: { thinking: { type: 'adaptive', display: 'summarized' }, output_config: { effort: 'xhigh' } },
      losses: ['temperature', 'top_k'],
    })
    expect(convert({ model: 'claude-opus-5', temperature: 1 })).toMatchObject({ losses: ['temperature'] })
    expect(convert({ model: 'claude-fable-5', reasoning_effort: 'none' })).toMatchObject({
      losses: ['reasoning_effort'],
    })
    expect(convert({ model: 'claude-3-5-haiku-20241022', temperature: 0.5, top_p: 0.5 }).json).toMatchObject({
      temperature: 0.5,
      top_p: 0.5,
    })
    expect(convert({ temperature: 0.5, top_p: 0.5 })).toMatchObject({ json: { temperature: 0.5 }, losses: ['top_p'] })
  })

  test('thinking gives way to what it cannot be combined with', () => {
    const tools = [{ type: 'function', function: { name: 'f' } }]
    expect(convert({ reasoning_effort: 'high', tools, tool_choice: 'required' })).toMatchObject({
      losses: ['reasoning_effort'],
    })
    const history = [HI, { role: 'assistant', content: null, tool_calls: [call('a')] }, result('a')]
    expect(convert({ reasoning_effort: 'high', tools, messages: history }).json['thinking']).toBeUndefined()
    // A new question after the tools begins a new turn.
    const later = [...history, { role: 'assistant', content: 'done' }, HI]
    expect(convert({ reasoning_effort: 'high', tools, messages: later }).json['thinking']).toBeDefined()
    expect(convert({ reasoning_effort: 'high', temperature: 0.2 })).toMatchObject({ losses: ['temperature'] })
    expect(convert({ reasoning_effort: 'high', temperature: 1 }).losses).toEqual([])
  })

  test('a schema of the answer, where the model can be held to one', () => {
    const schema = { type: 'object', properties: {} }
    const response_format = { type: 'json_schema', json_schema: { name: 'a', schema } }
    expect(convert({ response_format }).json['output_config']).toEqual({ format: { type: 'json_schema', schema } })
    expect(convert({ response_format, model: 'claude-3-7-sonnet-20250219' })).toMatchObject({
      losses: ['response_format.json_schema'],
    })
    expect(convert({ response_format: { type: 'json_object' } })).toMatchObject({ losses: ['response_format.type'] })
    expect(convert({ response_format: { type: 'text' } })).toMatchObject({ losses: [] })
    const tools = [{ type: 'function', function: { name: 'f', strict: true } }]
    expect((convert({ tools }).json['tools'] as Json[])[0]?.['strict']).toBe(true)
    expect(convert({ tools, model: 'claude-opus-4-20250514' })).toMatchObject({ losses: ['tools[].function.strict'] })
  })

  test('unknown fields are losses, one each', () => {
    const message = {
      role: 'user',
      content: [
        { type: 'text', text: 'a', foo: 1 },
        { type: 'text', text: 'b', foo: 2 },
      ],
      bar: 1,
    }
    expect(
      convert({ messages: [message], prediction: {}, web_search_options: {}, stream_options: { include_usage: true } })
        .losses,
    ).toEqual(['prediction', 'web_search_options', 'messages[].bar', 'messages[].content[].foo'])
  })
})
