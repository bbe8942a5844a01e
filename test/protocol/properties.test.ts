/** Random conversations through the codecs; a failure names the seed that made it. */
import { describe, expect, test } from 'bun:test'
import { type ChatRequest, codecs, PROTOCOLS, type Protocol, type StreamEvent } from '../../src/protocol/index.ts'
import { assemble, decodeStream, encodeStream } from './kit.ts'
import { type Random, seeded } from './random.ts'

type Json = Record<string, unknown>

const SEEDS = 400
const times = <T>(count: number, make: (index: number) => T): T[] =>
  Array.from({ length: count }, (_, index) => make(index))
const maybe = (random: Random, fields: Json): Json => (random.chance(0.4) ? fields : {})
/** Text that no dialect may drop. */
const words = (random: Random) => `w${random.text().trim()}w`
const toolInput = (random: Random) => ({
  [words(random)]: random.pick([1, 'x', null, [1, { a: words(random) }]]),
  n: random.int(100),
})

const cache = (random: Random): Json =>
  maybe(random, { cache_control: random.pick([{ type: 'ephemeral' }, { type: 'ephemeral', ttl: '1h' }]) })

/** A conversation in turns: a question, perhaps calls with their results, an answer. */
function randomChat(random: Random): Json {
  const messages: Json[] = times(random.int(3), () => ({
    role: random.pick(['system', 'developer']),
    content: random.chance(0.5) ? words(random) : [{ type: 'text', text: words(random), ...cache(random) }],
  }))
  times(1 + random.int(4), (turn) => {
    messages.push({
      role: 'user',
      content: random.chance(0.5) ? words(random) : chatParts(random),
      ...maybe(random, { name: 'Ada' }),
    })
    if (random.chance(0.5)) {
      const ids = times(1 + random.int(3), (n) => `call_${turn}_${n}${random.pick(['', '.x', ':0'])}`)
      const tool_calls = ids.map((id) => ({
        id,
        type: 'function',
        function: { name: 'f', arguments: JSON.stringify(toolInput(random)) },
      }))
      const details = [{ type: 'reasoning.text', text: 'hm', signature: 's', format: 'anthropic-claude-v1', index: 0 }]
      messages.push({
        role: 'assistant',
        content: random.chance(0.5) ? null : words(random),
        tool_calls,
        ...maybe(random, { reasoning_content: 'hm', reasoning_details: details }),
      })
      for (const tool_call_id of ids)
        messages.push({ role: 'tool', tool_call_id, content: random.chance(0.3) ? chatTexts(random) : words(random) })
    }
    messages.push({ role: 'assistant', content: words(random), ...maybe(random, { vendor_field: turn }) })
  })
  if (random.chance(0.8)) messages.push({ role: 'user', content: words(random) })
  return {
    model: 'claude-sonnet-4-5',
    messages,
    tools: [
      {
        type: 'function',
        function: { name: 'f', parameters: { type: 'object', properties: {} }, ...maybe(random, { strict: true }) },
        ...cache(random),
      },
    ],
    ...maybe(random, {
      tool_choice: random.pick(['auto', 'none', 'required', { type: 'function', function: { name: 'f' } }]),
    }),
    ...maybe(random, { parallel_tool_calls: random.chance(0.5) }),
    ...maybe(random, { max_tokens: 1 + random.int(9000) }),
    ...maybe(random, { temperature: random.int(10) / 10 }),
    ...maybe(random, { stop: random.pick(['END', ['a', 'b']]) }),
    ...maybe(random, { seed: random.int(9), user: 'u', vendor: { a: [1] } }),
    ...maybe(random, {
      stream: true,
      stream_options: { include_usage: random.chance(0.5), include_obfuscation: false },
    }),
    ...maybe(random, { reasoning_effort: random.pick(['none', 'minimal', 'low', 'medium', 'high']) }),
    ...maybe(random, {
      response_format: random.pick([
        { type: 'text' },
        { type: 'json_object' },
        { type: 'json_schema', json_schema: { name: 'n', schema: {} } },
      ]),
    }),
  }
}

const chatTexts = (random: Random): Json[] => times(1 + random.int(3), () => ({ type: 'text', text: words(random) }))

const chatParts = (random: Random): Json[] => [
  { type: 'text', text: words(random), ...cache(random) },
  ...times(random.int(3), () =>
    random.pick<Json>([
      { type: 'text', text: words(random), ...cache(random) },
      { type: 'image_url', image_url: { url: 'data:image/png;base64,QUJD' } },
      { type: 'image_url', image_url: { url: 'https://example.com/a.png', detail: 'low' }, ...cache(random) },
      { type: 'file', file: { filename: 'a.pdf', file_data: 'data:application/pdf;base64,QUJD' } },
    ]),
  ),
]

function randomClaude(random: Random): Json {
  const messages: Json[] = []
  times(1 + random.int(4), (turn) => {
    messages.push({ role: 'user', content: random.chance(0.5) ? words(random) : claudeBlocks(random) })
    if (random.chance(0.5)) {
      const ids = times(1 + random.int(3), (n) => `toolu_${turn}_${n}`)
      const content: Json[] = [
        ...(random.chance(0.5) ? [{ type: 'thinking', thinking: words(random), signature: 'sig' }] : []),
        ...(random.chance(0.2) ? [{ type: 'redacted_thinking', data: 'ZA' }] : []),
        ...(random.chance(0.5) ? [{ type: 'text', text: words(random) }] : []),
        ...ids.map((id) => ({ type: 'tool_use', id, name: 'f', input: toolInput(random) })),
      ]
      messages.push({ role: 'assistant', content })
      const results = ids.map((tool_use_id) => ({
        type: 'tool_result',
        tool_use_id,
        content: random.chance(0.5) ? words(random) : claudeBlocks(random),
        ...maybe(random, { is_error: true }),
        ...cache(random),
      }))
      messages.push({
        role: 'user',
        content: [...results, ...(random.chance(0.3) ? [{ type: 'text', text: words(random) }] : [])],
      })
    }
    messages.push({ role: 'assistant', content: words(random) })
  })
  return {
    model: 'claude-sonnet-4-5',
    max_tokens: 2000 + random.int(9000),
    messages,
    tools: [
      { name: 'f', input_schema: { type: 'object', properties: {} }, ...cache(random) },
      ...(random.chance(0.3) ? [{ type: 'bash_20250124', name: 'bash' }] : []),
    ],
    ...maybe(random, {
      system: random.chance(0.5) ? words(random) : [{ type: 'text', text: words(random), ...cache(random) }],
    }),
    ...maybe(random, {
      tool_choice: random.pick<Json>([
        { type: 'auto' },
        { type: 'any', disable_parallel_tool_use: true },
        { type: 'tool', name: 'f' },
      ]),
    }),
    ...maybe(random, {
      thinking: random.pick<Json>([
        { type: 'enabled', budget_tokens: 1500 },
        { type: 'adaptive' },
        { type: 'disabled' },
      ]),
    }),
    ...maybe(random, { stop_sequences: ['END'], metadata: { user_id: 'u', other: 1 }, vendor: { a: [1] } }),
    ...maybe(random, { output_config: { effort: 'low' } }),
    ...maybe(random, { stream: true }),
  }
}

const claudeBlocks = (random: Random): Json[] => [
  { type: 'text', text: words(random), ...cache(random) },
  ...times(random.int(3), () =>
    random.pick<Json>([
      { type: 'text', text: words(random), ...cache(random) },
      { type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'QUJD' }, ...cache(random) },
      {
        type: 'document',
        title: 'T',
        source: { type: 'base64', media_type: 'application/pdf', data: 'QUJD' },
        citations: { enabled: true },
      },
      { type: 'search_result', title: 'T', source: 's', content: [{ type: 'text', text: 'x' }] },
    ]),
  ),
]

const RANDOM: Readonly<Record<Protocol, (random: Random) => Json>> = { 'openai-chat': randomChat, claude: randomClaude }

describe('random requests', () => {
  for (const protocol of PROTOCOLS) {
    test(`${protocol}: a round trip through the own dialect means the same and loses nothing`, () => {
      for (let seed = 1; seed <= SEEDS; seed++) {
        const body = RANDOM[protocol](seeded(seed))
        const request = codecs[protocol].decodeRequest(body).value
        const { json, losses } = codecs[protocol].encodeRequest(request)
        const again = codecs[protocol].decodeRequest(json).value
        expect({ seed, losses, request: meaning(again) }).toEqual({
          seed,
          losses: [],
          request: meaning(request),
        })
      }
    })
  }

  test('a field named __proto__ is a field like any other', () => {
    for (const protocol of PROTOCOLS) {
      const body = JSON.parse('{"model":"m","messages":[{"role":"user","content":"x"}],"__proto__":{"max_tokens":7}}')
      const { json } = codecs[protocol].encodeRequest(codecs[protocol].decodeRequest(body).value)
      expect(JSON.stringify(json)).toContain('"__proto__":{"max_tokens":7}')
      expect((json as Json)['max_tokens']).not.toBe(7)
      expect(Object.getPrototypeOf(json)).toBe(Object.prototype)
    }
  })

  test('what goes to Claude obeys its rules, and every word arrives', () => {
    for (let seed = 1; seed <= SEEDS; seed++) {
      const body = randomChat(seeded(seed))
      const request = codecs['openai-chat'].decodeRequest(body).value
      const json = codecs.claude.encodeRequest(request).json as Json
      expectClaudeRules(json, seed)
      expectWords(request, JSON.stringify(json), seed)
    }
  })

  test('what goes to a chat upstream answers each call, and every word arrives', () => {
    for (let seed = 1; seed <= SEEDS; seed++) {
      const request = codecs.claude.decodeRequest(randomClaude(seeded(seed))).value
      const json = codecs['openai-chat'].encodeRequest(request).json as Json
      expectWords(request, JSON.stringify(json), seed)
      let waiting: unknown[] = []
      for (const message of json['messages'] as Json[]) {
        if (message['role'] === 'tool') {
          expect(waiting).toContain(message['tool_call_id'])
          waiting = waiting.filter((id) => id !== message['tool_call_id'])
        } else {
          expect({ seed, waiting }).toEqual({ seed, waiting: [] })
          waiting = ((message['tool_calls'] ?? []) as Json[]).map((call) => call['id'])
        }
      }
    }
  })
})

/** The request without what a round trip may spell differently: text that a tool answered in pieces is one text. */
function meaning(request: ChatRequest): ChatRequest {
  const messages = request.messages.map((message) => ({
    ...message,
    blocks: message.blocks.map((block) => {
      if (block.type !== 'tool-result' || !block.content.every((item) => item.type === 'text' && !item.cache))
        return block
      const text = block.content.map((item) => (item.type === 'text' ? item.text : '')).join('\n')
      return { ...block, content: [{ type: 'text' as const, text }] }
    }),
  }))
  return { ...request, messages }
}

function expectClaudeRules(json: Json, seed: number): void {
  const messages = json['messages'] as { role: string; content: string | Json[] }[]
  const calls = new Map<unknown, number>()
  expect({ seed, first: messages[0]?.role }).toEqual({ seed, first: 'user' })
  for (const [index, { role, content }] of messages.entries()) {
    expect({ seed, role }).toEqual({ seed, role: index % 2 === 0 ? 'user' : 'assistant' })
    const blocks = typeof content === 'string' ? [{ type: 'text', text: content }] : content
    expect(blocks.length).toBeGreaterThan(0)
    const firstOther = blocks.findIndex((block) => block['type'] !== 'tool_result')
    expect(blocks.findLastIndex((block) => block['type'] === 'tool_result')).toBeLessThan(
      firstOther === -1 ? blocks.length : firstOther,
    )
    for (const block of blocks) {
      if (block['type'] === 'text') expect((block['text'] as string).trim()).not.toBe('')
      if (block['type'] === 'tool_use') {
        expect({ seed, isNew: !calls.has(block['id']) }).toEqual({ seed, isNew: true })
        expect(block['id']).toMatch(/^[a-zA-Z0-9_-]+$/)
        calls.set(block['id'], index)
      }
      if (block['type'] === 'tool_result')
        expect({ seed, asked: calls.get(block['tool_use_id']) }).toEqual({ seed, asked: index - 1 })
      if (block['type'] === 'thinking') expect(block['signature']).not.toBe('')
    }
  }
  const thinking = json['thinking'] as Json | undefined
  if (thinking?.['type'] === 'enabled') {
    expect(thinking['budget_tokens']).toBeGreaterThanOrEqual(1024)
    expect(thinking['budget_tokens']).toBeLessThan(json['max_tokens'] as number)
    expect(json['temperature'] ?? 1).toBe(1)
  }
}

/** All text and all arguments of the conversation are somewhere in the other body. */
function expectWords(request: ChatRequest, body: string, seed: number): void {
  for (const { blocks } of request.messages) {
    for (const block of blocks) {
      const texts =
        block.type === 'text'
          ? [block.text]
          : block.type === 'tool-result'
            ? block.content.flatMap((item) => (item.type === 'text' ? [item.text] : []))
            : []
      for (const text of texts) {
        const escaped = JSON.stringify(text.trimEnd()).slice(1, -1)
        if (!body.includes(escaped)) throw new Error(`seed ${seed}: ${escaped} did not arrive`)
      }
    }
  }
}

/** A stream as a codec would decode it: blocks may be open side by side, deltas interleave. */
function randomStream(random: Random): StreamEvent[] {
  const events: StreamEvent[] = [{ type: 'start', id: 'a', model: 'm', createdAtSec: 7 }]
  let open: { index: number; pieces: string[] }[] = []
  let index = 0
  let hasTools = false
  const drain = () => {
    while (open.length > 0) {
      const block = random.pick(open)
      const json = block.pieces.shift()
      if (json === undefined) {
        open = open.filter((other) => other !== block)
        events.push({ type: 'block-end', index: block.index })
      } else events.push({ type: 'block-delta', index: block.index, delta: { type: 'arguments', json } })
    }
  }
  times(random.int(5), () => {
    if (random.chance(0.4)) {
      hasTools = true
      open = times(1 + random.int(4), (n) => {
        events.push({ type: 'block-start', index, block: { type: 'tool-call', id: `call_${index}`, name: `f${n}` } })
        const json = JSON.stringify(toolInput(random))
        const cut = random.int(json.length)
        return { index: index++, pieces: [json.slice(0, cut), json.slice(cut)] }
      })
      return drain()
    }
    const type = random.pick(['text', 'thinking'] as const)
    const [last] = events.slice(-1)
    // Neighbours of one kind are one block in the chat dialect.
    if (last?.type === 'block-end') {
      const started = events.findLast((event) => event.type === 'block-start')
      if (started?.block.type === type) return
    }
    events.push({ type: 'block-start', index, block: { type } })
    times(1 + random.int(4), () => events.push({ type: 'block-delta', index, delta: { type, text: words(random) } }))
    events.push({ type: 'block-end', index: index++ })
  })
  events.push({
    type: 'finish',
    finish: hasTools ? 'tool-calls' : random.pick(['stop', 'length', 'content-filter'] as const),
  })
  return events
}

describe('random streams', () => {
  for (const protocol of PROTOCOLS) {
    test(`${protocol}: what is decoded again is what was encoded, in chunks of any size`, () => {
      for (let seed = 1; seed <= SEEDS; seed++) {
        const random = seeded(seed)
        const events = randomStream(random)
        const { text } = encodeStream(protocol, events, { includeUsage: false })
        const expected = assemble(events)
        if (expected.blocks.length === 0) continue
        const actual = assemble(decodeStream(protocol, text, 1 + random.int(40)))
        expect({ seed, blocks: actual.blocks, finish: actual.finish }).toEqual({
          seed,
          blocks: expected.blocks,
          finish: expected.finish,
        })
      }
    })
  }
})
