import { describe, expect, test } from 'bun:test'
import { codecs, PROTOCOLS, type Protocol, producedBy, type StreamEvent } from '../../src/protocol/index.ts'
import { assemble, decodeStream, encodeStream, framesOf, OTHER, readFixture, STREAM_OPTIONS } from './kit.ts'

const FIXTURES: readonly (readonly [Protocol, string])[] = [
  ['openai-chat', 'openai/stream-tools.sse'],
  ['openai-chat', 'openai/stream-interleaved.sse'],
  ['openai-chat', 'openai/stream-azure.sse'],
  ['openai-chat', 'openai/stream-refusal.sse'],
  ['openai-chat', 'openai/stream-completions.sse'],
  ['openai-chat', 'deepseek/stream-reasoning.sse'],
  ['openai-chat', 'openrouter/stream-signed.sse'],
  ['openai-chat', 'mistral/stream.sse'],
  ['claude', 'anthropic/stream-tools.sse'],
  ['claude', 'anthropic/stream-server-tool.sse'],
  ['claude', 'anthropic/stream-stop-sequence.sse'],
]

describe('a stream', () => {
  for (const [protocol, name] of FIXTURES) {
    const text = readFixture(name)
    test(`${name} is the same in chunks of any size, down to one byte`, () => {
      const whole = decodeStream(protocol, text)
      for (const size of [1, 2, 3, 17, 256]) expect(decodeStream(protocol, text, size)).toEqual(whole)
      for (const target of PROTOCOLS) {
        const encoded = encodeStream(target, whole)
        expect(encodeStream(target, decodeStream(protocol, text, 1))).toEqual(encoded)
      }
    })

    test(`${name} means the same after a round trip through its own dialect`, () => {
      const events = decodeStream(protocol, text)
      const { text: again, losses } = encodeStream(protocol, events)
      expect(losses).toEqual([])
      const [before, after] = [assemble(events), assemble(decodeStream(protocol, again))]
      expect({ ...after, blocks: withArguments(after.blocks) }).toEqual({
        ...before,
        blocks: withArguments(before.blocks),
      })
    })
  }
})

/** A call without arguments may be written as an empty object. */
const withArguments = (blocks: readonly Record<string, unknown>[]) =>
  blocks.map((block) => (block['type'] === 'tool-call' ? { ...block, arguments: block['arguments'] ?? '{}' } : block))

const chunk = (delta: unknown, more: Record<string, unknown> = {}) =>
  `data: ${JSON.stringify({ id: 'c', model: 'm', created: 1, choices: [{ index: 0, delta, ...more }] })}\n\n`
const fn = (name?: string, args?: unknown) => ({
  function: { ...(name ? { name } : {}), ...(args === undefined ? {} : { arguments: args }) },
})
const toolsOf = (text: string) => assemble(decodeStream('openai-chat', text)).blocks

describe('chunks of servers that differ from the reference', () => {
  const twoCalls: Record<string, unknown>[] = [
    { type: 'tool-call', id: 'a', name: 'f', arguments: '{"x":1}' },
    { type: 'tool-call', id: 'b', name: 'g', arguments: '{"y":2}' },
  ]

  test('parallel calls without an index are told apart by their ids', () => {
    const text =
      chunk({ tool_calls: [{ id: 'a', ...fn('f', '{"x"') }] }) +
      chunk({ tool_calls: [{ id: 'b', ...fn('g', '{"y"') }] }) +
      chunk({ tool_calls: [{ id: 'a', ...fn(undefined, ':1}') }] }) +
      chunk({ tool_calls: [{ id: 'b', ...fn(undefined, ':2}') }] })
    expect(toolsOf(text)).toEqual(twoCalls)
  })

  test('parallel calls under one index are told apart by id and name', () => {
    const text =
      chunk({ tool_calls: [{ index: 0, id: 'a', ...fn('f', '{"x":1}') }] }) +
      chunk({ tool_calls: [{ index: 0, id: 'b', ...fn('g', '{"y"') }] }) +
      chunk({ tool_calls: [{ index: 0, ...fn(undefined, ':2}') }] })
    expect(toolsOf(text)).toEqual(twoCalls)
  })

  test('an id and a name repeated in each chunk are one call', () => {
    const piece = (args: string) => chunk({ tool_calls: [{ index: 0, id: 'a', ...fn('f', args) }] })
    expect(toolsOf(piece('{"x"') + piece(':1}'))).toEqual(twoCalls.slice(0, 1))
  })

  test('a name that comes after the id, arguments as an object, a missing id', () => {
    const late =
      chunk({ tool_calls: [{ index: 0, id: 'a', ...fn(undefined, '{"x"') }] }) +
      chunk({ tool_calls: [{ index: 0, ...fn('f', ':1}') }] })
    expect(toolsOf(late)).toEqual(twoCalls.slice(0, 1))
    const whole = chunk({ tool_calls: [{ ...fn('f', { x: 1 }) }, { ...fn('g', { y: 2 }) }] })
    expect(toolsOf(whole)).toEqual([
      { type: 'tool-call', id: 'call_c_0', name: 'f', arguments: '{"x":1}' },
      { type: 'tool-call', id: 'call_c_1', name: 'g', arguments: '{"y":2}' },
    ])
  })

  test('the older function call', () => {
    const text =
      chunk({ function_call: { name: 'f', arguments: '{"x"' } }) + chunk({ function_call: { arguments: ':1}' } })
    expect(toolsOf(text)).toMatchObject([{ type: 'tool-call', name: 'f', arguments: '{"x":1}' }])
  })

  test('calls announced as an ordinary stop are announced as calls', () => {
    const text = chunk({ tool_calls: [{ index: 0, id: 'a', ...fn('f', '{}') }] }) + chunk({}, { finish_reason: 'stop' })
    expect(assemble(decodeStream('openai-chat', text)).finish).toBe('tool-calls')
  })

  test('text with the finish reason, also when usage comes later, is not lost', () => {
    const usage = `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 } })}\n\n`
    const events = decodeStream(
      'openai-chat',
      chunk({ content: 'a' }) + chunk({ content: 'b' }, { finish_reason: 'stop' }) + usage,
    )
    const claude = assemble(decodeStream('claude', encodeStream('claude', events).text))
    expect(claude).toMatchObject({
      blocks: [{ type: 'text', text: 'ab' }],
      finish: 'stop',
      usage: { inputTokens: 3, outputTokens: 2 },
    })
  })

  test('usage in pieces is put together; a later count replaces an earlier one', () => {
    const usage = (fields: object) => `data: ${JSON.stringify({ id: 'c', choices: [], usage: fields })}\n\n`
    const events = decodeStream(
      'openai-chat',
      usage({ prompt_tokens: 9, completion_tokens: 1, prompt_tokens_details: { cached_tokens: 4 } }) +
        usage({ prompt_tokens: 9, completion_tokens: 5, prompt_tokens_details: null }),
    )
    expect(assemble(events).usage).toMatchObject({ inputTokens: 9, outputTokens: 5, cacheReadTokens: 4 })
    const moonshot = chunk(
      {},
      { finish_reason: 'stop', usage: { prompt_tokens: 7, completion_tokens: 2, cached_tokens: 5 } },
    )
    expect(assemble(decodeStream('openai-chat', moonshot)).usage).toMatchObject({ inputTokens: 7, cacheReadTokens: 5 })
    const groq = `data: ${JSON.stringify({ choices: [], x_groq: { usage: { prompt_tokens: 7, completion_tokens: 2 } } })}\n\n`
    expect(assemble(decodeStream('openai-chat', groq)).usage).toMatchObject({ inputTokens: 7, outputTokens: 2 })
  })

  test('all choices are decoded, one each; Claude gets the first', () => {
    const both = {
      id: 'c',
      choices: [
        { index: 0, delta: { content: 'x' } },
        { index: 1, delta: { content: 'y' }, finish_reason: 'stop' },
      ],
    }
    const events = decodeStream(
      'openai-chat',
      `data: ${JSON.stringify(both)}\n\n${chunk({}, { finish_reason: 'length' })}`,
    )
    expect(assemble(events)).toMatchObject({ blocks: [{ type: 'text', text: 'x' }], finish: 'length' })
    expect(assemble(events, 1)).toMatchObject({ blocks: [{ type: 'text', text: 'y' }], finish: 'stop' })
    expect(assemble(decodeStream('openai-chat', encodeStream('openai-chat', events).text), 1).blocks).toEqual([
      { type: 'text', text: 'y' },
    ])
    const claude = encodeStream('claude', events)
    expect(assemble(decodeStream('claude', claude.text)).blocks).toEqual([{ type: 'text', text: 'x' }])
    expect(claude.losses.map((loss) => loss.path)).toEqual(['choices[]'])
  })

  test('a call that Claude gives whole at its start keeps its input', () => {
    const start = (input: object) => ({
      type: 'content_block_start',
      index: 0,
      content_block: { type: 'tool_use', id: 'a', name: 'f', input },
    })
    const delta = {
      type: 'content_block_delta',
      index: 0,
      delta: { type: 'input_json_delta', partial_json: '{"x":2}' },
    }
    const stop = { type: 'content_block_stop', index: 0 }
    const sse = (...events: object[]) => events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join('')
    expect(assemble(decodeStream('claude', sse(start({ x: 1 }), stop))).blocks).toMatchObject([
      { arguments: '{"x":1}' },
    ])
    expect(assemble(decodeStream('claude', sse(start({ x: 1 }), delta, stop))).blocks).toMatchObject([
      { arguments: '{"x":2}' },
    ])
  })
})

describe('Claude clients get one block at a time', () => {
  /** Every start is followed by its stop before the next start, and indexes count up from 0. */
  function expectSequential(text: string): void {
    let open: unknown
    let next = 0
    for (const { data } of framesOf(text)) {
      const event = JSON.parse(data)
      if (event.type === 'content_block_start') {
        expect([open, event.index]).toEqual([undefined, next])
        open = next++
      } else if (event.type === 'content_block_delta') expect(event.index).toBe(open)
      else if (event.type === 'content_block_stop') {
        expect(event.index).toBe(open)
        open = undefined
      } else if (event.type === 'message_delta') expect(open).toBeUndefined()
    }
  }

  for (const [protocol, name] of FIXTURES) {
    test(name, () => expectSequential(encodeStream('claude', decodeStream(protocol, readFixture(name))).text))
  }

  test('a second call is not held back once the first is complete', () => {
    const encoder = codecs.claude.streamEncoder(STREAM_OPTIONS)
    const call = (index: number): StreamEvent => ({
      type: 'block-start',
      index,
      block: { type: 'tool-call', id: `${index}`, name: 'f' },
    })
    const args = (index: number, json: string): StreamEvent => ({
      type: 'block-delta',
      index,
      delta: { type: 'arguments', json },
    })
    encoder.event(call(0))
    encoder.event(args(0, '{"a":'))
    expect(encoder.event(call(1))).toBe('')
    expect(encoder.event(args(1, '{"b":1'))).toBe('')
    expect(encoder.event(args(0, '1}'))).toContain('"index":0')
    // The next start finds the first call complete, so the second comes with all that waited.
    const text = encoder.event(call(2))
    expect(text).toContain('content_block_stop')
    expect(text).toContain('{\\"b\\":1')
    expectSequential(`${text.slice(text.indexOf('event: content_block_start')).replaceAll('"index":1', '"index":0')}`)
  })
})

describe('an odd stream never throws', () => {
  const ODD = [
    'nonsense',
    '{',
    'null',
    '7',
    '"text"',
    '[]',
    '{}',
    '{"choices":7}',
    '{"choices":[null,7,{}]}',
    '{"choices":[{"delta":null,"index":"x","finish_reason":{}}]}',
    '{"choices":[{"delta":{"content":7,"tool_calls":[null,7,{"function":7},{"index":-1}],"reasoning_details":7,"function_call":[]}}]}',
    '{"choices":[{"delta":{"content":[null,{"type":"thinking","thinking":7}]}}],"usage":7}',
    '{"usage":{"prompt_tokens":"many","completion_tokens":-1}}',
    '{"type":"message_start"}',
    '{"type":"message_start","message":7}',
    '{"type":"content_block_start","index":0}',
    '{"type":"content_block_start","index":null,"content_block":{}}',
    '{"type":"content_block_delta","index":5,"delta":{"type":"text_delta"}}',
    '{"type":"content_block_delta","index":null,"delta":{"type":"text_delta","text":7}}',
    '{"type":"content_block_stop","index":9}',
    '{"type":"message_delta","delta":7,"usage":7}',
    '{"type":"unheard_of"}',
  ]

  for (const protocol of PROTOCOLS) {
    test(`${protocol}, in any order, and what comes out can be encoded`, () => {
      for (const order of [ODD, [...ODD].reverse()]) {
        const decoder = codecs[protocol].streamDecoder()
        const events = [...order.flatMap((data) => [...decoder.feed({ data })]), ...decoder.end()]
        for (const target of PROTOCOLS) expect(() => encodeStream(target, events)).not.toThrow()
        expect(decoder.skipped()).toBeGreaterThan(0)
      }
    })

    test(`${protocol} events in any order are encoded without a throw`, () => {
      const events: StreamEvent[] = [
        { type: 'block-delta', index: 3, delta: { type: 'arguments', json: '{' } },
        { type: 'block-end', index: 2 },
        { type: 'finish', finish: 'unknown', rawFinish: 'strange' },
        { type: 'block-start', index: 0, block: { type: 'text' } },
        { type: 'block-start', index: 0, block: { type: 'text' } },
        { type: 'start', id: '', model: '' },
      ]
      expect(() => encodeStream(protocol, events)).not.toThrow()
    })
  }
})

describe('how a stream ended', () => {
  const progress = (protocol: Protocol, text: string) => {
    const decoder = codecs[protocol].streamDecoder()
    for (const frame of framesOf(text)) decoder.feed(frame)
    return decoder.progress()
  }

  test('a cut stream is open, one with its reason is finished, one with its terminator is done', () => {
    expect(progress('openai-chat', '')).toBe('open')
    expect(progress('openai-chat', chunk({ content: 'a' }))).toBe('open')
    expect(progress('openai-chat', chunk({ content: 'a' }, { finish_reason: 'stop' }))).toBe('finished')
    expect(progress('openai-chat', `${chunk({ content: 'a' })}data: [DONE]\n\n`)).toBe('done')
    const text = readFixture('anthropic/stream-tools.sse')
    expect(progress('claude', text)).toBe('done')
    expect(progress('claude', text.slice(0, text.indexOf('event: message_stop')))).toBe('finished')
    expect(progress('claude', text.slice(0, text.indexOf('event: message_delta')))).toBe('open')
  })

  test('blocks that the upstream left open are closed', () => {
    const cut = readFixture('anthropic/stream-tools.sse').split('event: content_block_stop')[0] as string
    const count = (events: readonly StreamEvent[], type: string) => events.filter((event) => event.type === type).length
    for (const events of [decodeStream('claude', cut), decodeStream('openai-chat', chunk({ content: 'a' }))]) {
      expect(count(events, 'block-end')).toBe(count(events, 'block-start'))
    }
  })

  test('an error of the upstream ends the stream, with its text and without its addresses', () => {
    const events = decodeStream('claude', readFixture('anthropic/stream-overloaded.sse'))
    expect(events.findLast((event) => event.type === 'error')).toEqual({
      type: 'error',
      message: 'Overloaded',
      errorType: 'overloaded_error',
    })
    const text = `data: {"error":{"code":502,"message":"no route to https://inner.example.com/v1"}}\n\n${chunk({ content: 'late' })}`
    expect(decodeStream('openai-chat', text)).toEqual([
      { type: 'error', message: 'no route to https://***.com/***', code: '502' },
    ])
    expect(progress('openai-chat', text)).toBe('done')
    const chat = codecs['openai-chat'].streamEncoder(STREAM_OPTIONS)
    expect(JSON.parse((framesOf(chat.event(events.at(-2) as StreamEvent))[0] as { data: string }).data)).toEqual({
      error: { message: 'Overloaded', type: 'overloaded_error', param: null, code: null },
    })
  })

  test('without usage Claude clients see the estimate first and a usage that the caller adds last', () => {
    const events = decodeStream('openai-chat', chunk({ content: 'a' }, { finish_reason: 'stop' }))
    expect(encodeStream('claude', events).text).toContain('"usage":{"input_tokens":11,"output_tokens":0}')
    const usage = assemble(decodeStream('openai-chat', readFixture('openai/stream-tools.sse'))).usage
    const added: StreamEvent = { type: 'usage', usage: { ...(usage as NonNullable<typeof usage>), semantic: 'openai' } }
    const last = framesOf(encodeStream('claude', [...events, added]).text).at(-2)
    expect(JSON.parse(last?.data ?? '')).toMatchObject({
      usage: { input_tokens: 176, cache_read_input_tokens: 1024, output_tokens: 90 },
    })
  })

  test('a client that wants no usage gets none', () => {
    const events = decodeStream('openai-chat', readFixture('openai/stream-tools.sse'))
    expect(encodeStream('openai-chat', events, { includeUsage: false }).text).not.toContain('usage')
    expect(encodeStream('openai-chat', events).text.trimEnd().endsWith('data: [DONE]')).toBe(true)
  })
})

test('tool indexes of chat chunks count tools, not blocks', () => {
  const { text } = encodeStream('openai-chat', decodeStream('claude', readFixture('anthropic/stream-tools.sse')))
  const indexes = framesOf(text)
    .filter(({ data }) => data.includes('tool_calls":'))
    .map(({ data }) => JSON.parse(data).choices[0].delta.tool_calls[0].index)
  expect(indexes).toEqual([0, 0, 0, 1, 1])
})

test('the text that is counted holds content, reasoning, tool names and arguments', () => {
  const text = (protocol: Protocol, name: string) => decodeStream(protocol, readFixture(name)).map(producedBy).join('')
  expect(text('claude', 'anthropic/stream-tools.sse')).toBe('Look first.Ich schaue. 🌦get_weather{"city": "Paris"}now')
  expect(text('claude', 'anthropic/stream-server-tool.sse')).toBe('{"query":"cats"}Cats sleep.')
  expect(text('openai-chat', 'openai/stream-refusal.sse')).toBe('I cannot help with that.')
})

test('the other dialect gets the same blocks', () => {
  for (const [protocol, name] of FIXTURES) {
    const events = decodeStream(protocol, readFixture(name))
    const other = assemble(decodeStream(OTHER[protocol], encodeStream(OTHER[protocol], events).text))
    const visible = (blocks: readonly Record<string, unknown>[]) =>
      blocks
        .filter((block) => block['type'] !== 'unknown')
        .map(({ type, text, name: tool, arguments: args }) => [
          type === 'refusal' ? 'text' : type,
          text,
          tool,
          args ?? '{}',
        ])
    expect({ name, blocks: visible(other.blocks) }).toEqual({ name, blocks: visible(assemble(events).blocks) })
    expect(other.usage).toEqual(
      assemble(events).usage
        ? expect.objectContaining({ outputTokens: assemble(events).usage?.outputTokens })
        : other.usage,
    )
  }
})
