import { describe, expect, test } from 'bun:test'
import { codecs } from '../../src/protocol/index.ts'

type Json = Record<string, unknown>

const HI = { role: 'user', content: 'hi' }

function convert(body: Json, options: Parameters<(typeof codecs)['claude']['encodeRequest']>[1] = {}) {
  const request = codecs.claude.decodeRequest({ model: 'gpt-4o', max_tokens: 100, messages: [HI], ...body }).value
  const { json, losses } = codecs['openai-chat'].encodeRequest(request, options)
  return { json: json as Json, losses: losses.map((loss) => loss.path) }
}
const messagesOf = (...messages: unknown[]) => convert({ messages }).json['messages'] as Json[]

const use = (id: string, input: unknown = {}) => ({ type: 'tool_use', id, name: 'f', input })
const result = (id: string, content: unknown, more: Json = {}) => ({
  type: 'tool_result',
  tool_use_id: id,
  content,
  ...more,
})
const IMAGE = { type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'QUJD' } }

describe('messages', () => {
  test('text beside tool calls stays', () => {
    expect(
      messagesOf(HI, {
        role: 'assistant',
        content: [{ type: 'text', text: 'I look.' }, use('a', { n: 1 }), use('b')],
      })[1],
    ).toEqual({
      role: 'assistant',
      content: 'I look.',
      tool_calls: [
        { id: 'a', type: 'function', function: { name: 'f', arguments: '{"n":1}' } },
        { id: 'b', type: 'function', function: { name: 'f', arguments: '{}' } },
      ],
    })
  })

  test('results become tool messages in front of what the user says', () => {
    const messages = messagesOf(
      HI,
      { role: 'assistant', content: [use('a'), use('b')] },
      {
        role: 'user',
        content: [result('a', 'one'), result('b', [{ type: 'text', text: 'two' }]), { type: 'text', text: 'go on' }],
      },
    )
    expect(messages.slice(2)).toEqual([
      { role: 'tool', tool_call_id: 'a', content: 'one' },
      { role: 'tool', tool_call_id: 'b', content: 'two' },
      { role: 'user', content: 'go on' },
    ])
  })

  test('images in a result move to the user message behind it', () => {
    const { json, losses } = convert({
      messages: [HI, { role: 'assistant', content: [use('a')] }, { role: 'user', content: [result('a', [IMAGE])] }],
    })
    expect((json['messages'] as Json[]).slice(2)).toEqual([
      { role: 'tool', tool_call_id: 'a', content: 'The result is in the next user message.' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'Content of the result of tool call a:' },
          { type: 'image_url', image_url: { url: 'data:image/png;base64,QUJD' } },
        ],
      },
    ])
    expect(losses).toEqual(['messages[].content[].content[].type'])
  })

  test('the system prompt is one message; a later one stays in its place', () => {
    const { json } = convert({
      system: [
        { type: 'text', text: 'a' },
        { type: 'text', text: 'b' },
      ],
      messages: [HI, { role: 'system', content: 'c' }],
    })
    expect(json['messages']).toEqual([{ role: 'system', content: 'a\n\nb' }, HI, { role: 'system', content: 'c' }])
  })

  test('cache breakpoints and signatures travel to Claude models only', () => {
    const body = {
      system: [{ type: 'text', text: 's', cache_control: { type: 'ephemeral' } }],
      tools: [{ name: 'f', input_schema: { type: 'object' }, cache_control: { type: 'ephemeral', ttl: '1h' } }],
      messages: [
        HI,
        { role: 'assistant', content: [{ type: 'thinking', thinking: 'hm', signature: 's' }, use('a')] },
        { role: 'user', content: [result('a', 'x', { cache_control: { type: 'ephemeral' } })] },
      ],
    }
    expect(convert(body).losses).toEqual([
      'messages[].content[].cache_control',
      'messages[].content[].signature',
      'tools[].cache_control',
    ])
    expect(convert(body, { carriesClaudeFields: true }).losses).toEqual([])
    const { json, losses } = convert({ ...body, model: 'anthropic/claude-sonnet-4.5' })
    expect(losses).toEqual([])
    expect(json['messages']).toEqual([
      { role: 'system', content: [{ type: 'text', text: 's', cache_control: { type: 'ephemeral' } }] },
      HI,
      {
        role: 'assistant',
        content: null,
        reasoning_content: 'hm',
        reasoning_details: [
          { type: 'reasoning.text', text: 'hm', signature: 's', format: 'anthropic-claude-v1', index: 0 },
        ],
        tool_calls: [{ id: 'a', type: 'function', function: { name: 'f', arguments: '{}' } }],
      },
      { role: 'tool', tool_call_id: 'a', content: [{ type: 'text', text: 'x', cache_control: { type: 'ephemeral' } }] },
    ])
    expect((json['tools'] as Json[])[0]?.['cache_control']).toEqual({ type: 'ephemeral', ttl: '1h' })
  })

  test('documents whose text is known become text', () => {
    const documents = [
      { type: 'document', title: 'T', source: { type: 'text', media_type: 'text/plain', data: 'plain' } },
      { type: 'document', source: { type: 'content', content: [{ type: 'text', text: 'inner' }] } },
      { type: 'document', source: { type: 'base64', media_type: 'application/pdf', data: 'QUJD' } },
    ]
    expect(messagesOf({ role: 'user', content: documents })[0]?.['content']).toEqual([
      { type: 'text', text: 'T\n\nplain' },
      { type: 'text', text: 'inner' },
      { type: 'file', file: { filename: 'document.pdf', file_data: 'data:application/pdf;base64,QUJD' } },
    ])
  })
})

describe('settings', () => {
  test('the same things under their other names', () => {
    const { json, losses } = convert({
      stop_sequences: ['a', 'b'],
      metadata: { user_id: 'u' },
      temperature: 0.1,
      top_p: 0.2,
      top_k: 3,
      stream: true,
      tools: [{ name: 'f', description: 'd', input_schema: { type: 'object' }, strict: true }],
      tool_choice: { type: 'tool', name: 'f', disable_parallel_tool_use: false },
      output_config: { format: { type: 'json_schema', schema: { type: 'object' } } },
    })
    expect(losses).toEqual([])
    expect(json).toEqual({
      model: 'gpt-4o',
      messages: [HI],
      max_tokens: 100,
      stop: ['a', 'b'],
      user: 'u',
      temperature: 0.1,
      top_p: 0.2,
      top_k: 3,
      stream: true,
      tools: [
        { type: 'function', function: { name: 'f', description: 'd', parameters: { type: 'object' }, strict: true } },
      ],
      tool_choice: { type: 'function', function: { name: 'f' } },
      parallel_tool_calls: true,
      response_format: {
        type: 'json_schema',
        json_schema: { name: 'response', schema: { type: 'object' }, strict: true },
      },
    })
  })

  test('a budget becomes an effort, an effort stays one', () => {
    const effort = (body: Json) => convert(body).json['reasoning_effort']
    const budget = (budget_tokens: number) => effort({ thinking: { type: 'enabled', budget_tokens } })
    expect([1280, 2048, 4096, 30_000].map(budget)).toEqual(['low', 'medium', 'high', 'high'])
    expect(effort({ thinking: { type: 'adaptive' }, output_config: { effort: 'max' } })).toBe('max')
    expect(convert({ thinking: { type: 'adaptive' } })).toMatchObject({ losses: [] })
    expect(effort({ thinking: { type: 'adaptive' } })).toBeUndefined()
    expect(convert({ thinking: { type: 'disabled' } })).toMatchObject({ losses: ['thinking.type'] })
    expect(effort({ thinking: { type: 'disabled' } })).toBeUndefined()
  })

  test('an upstream with Claude models is told the budget itself', () => {
    for (const thinking of [{ type: 'enabled', budget_tokens: 3000 }, { type: 'disabled' }]) {
      const { json, losses } = convert({ model: 'anthropic/claude-sonnet-4.5', thinking })
      expect([json['thinking'], json['reasoning_effort'], losses]).toEqual([thinking, undefined, []])
    }
    const adaptive = { thinking: { type: 'adaptive' }, output_config: { effort: 'low' } }
    const { json } = convert({ model: 'claude-opus-4-6', ...adaptive })
    expect([json['thinking'], json['reasoning_effort']]).toEqual([{ type: 'adaptive' }, 'low'])
  })

  test('usage is asked for when the caller knows that the upstream takes it', () => {
    const request = codecs.claude.decodeRequest({ model: 'm', max_tokens: 1, messages: [HI], stream: true }).value
    const encode = (includeUsage?: boolean) => {
      const asked = includeUsage === undefined ? request : { ...request, includeUsage }
      return codecs['openai-chat'].encodeRequest(asked).json as Json
    }
    expect(encode(true)['stream_options']).toEqual({ include_usage: true })
    expect(encode()['stream_options']).toBeUndefined()
  })

  test('tools that only Claude runs are losses', () => {
    const tools = [{ type: 'web_search_20250305', name: 'web_search' }]
    const { json, losses } = convert({ tools, tool_choice: { type: 'any' } })
    expect(losses).toEqual(['tools[].type.web_search_20250305'])
    expect([json['tools'], json['tool_choice']]).toEqual([undefined, undefined])
  })
})
