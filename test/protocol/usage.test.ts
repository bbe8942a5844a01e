import { describe, expect, test } from 'bun:test'
import { mergeUsage, decodeUsage as readClaude, encodeUsage as writeClaude } from '../../src/protocol/claude/usage.ts'
import { codecs, type Usage } from '../../src/protocol/index.ts'
import { decodeUsage as readChat, encodeUsage as writeChat } from '../../src/protocol/openai-chat/usage.ts'
import { countsOf } from './kit.ts'
import { seeded } from './random.ts'

describe('chat usage', () => {
  test('caches are inside the prompt, reasoning inside the completion', () => {
    const usage = readChat({
      prompt_tokens: 1000,
      completion_tokens: 200,
      total_tokens: 1200,
      prompt_tokens_details: { cached_tokens: 600, cache_write_tokens: 100, audio_tokens: 7, image_tokens: 9 },
      completion_tokens_details: { reasoning_tokens: 150, audio_tokens: 3 },
    })
    expect(countsOf(usage)).toEqual({
      inputTokens: 1000,
      outputTokens: 200,
      cacheReadTokens: 600,
      cacheWriteTokens: 100,
      cacheWrite5mTokens: 0,
      cacheWrite1hTokens: 0,
      reasoningTokens: 150,
      imageInputTokens: 9,
      audioInputTokens: 7,
      audioOutputTokens: 3,
    })
    expect(usage?.semantic).toBe('openai')
  })

  for (const [name, raw, counts] of [
    [
      'DeepSeek names cache hits itself',
      { prompt_tokens: 30, completion_tokens: 1, prompt_cache_hit_tokens: 20, prompt_cache_miss_tokens: 10 },
      { cacheReadTokens: 20 },
    ],
    [
      'cached tokens at the top',
      { prompt_tokens: 30, completion_tokens: 1, cached_tokens: 20 },
      { cacheReadTokens: 20 },
    ],
    [
      'the larger of both names of cache writes',
      {
        prompt_tokens: 90,
        completion_tokens: 1,
        prompt_tokens_details: { cache_write_tokens: 5, cached_creation_tokens: 8 },
      },
      { cacheWriteTokens: 8 },
    ],
    [
      'lives of cache writes',
      {
        prompt_tokens: 90,
        completion_tokens: 1,
        claude_cache_creation_5_m_tokens: 5,
        claude_cache_creation_1_h_tokens: 6,
      },
      { cacheWriteTokens: 11, cacheWrite5mTokens: 5, cacheWrite1hTokens: 6 },
    ],
    [
      'a missing prompt is what the total leaves',
      { completion_tokens: 10, total_tokens: 25 },
      { inputTokens: 15, outputTokens: 10 },
    ],
    [
      'names of the Responses dialect',
      { input_tokens: 4, output_tokens: 5, input_tokens_details: { cached_tokens: 2 } },
      { inputTokens: 4, outputTokens: 5, cacheReadTokens: 2 },
    ],
    [
      'reasoning beside the completion, by its size',
      { prompt_tokens: 12, completion_tokens: 1, completion_tokens_details: { reasoning_tokens: 290 } },
      { outputTokens: 291, reasoningTokens: 290 },
    ],
    [
      'reasoning beside the completion, by the total',
      {
        prompt_tokens: 12,
        completion_tokens: 300,
        total_tokens: 552,
        completion_tokens_details: { reasoning_tokens: 240 },
      },
      { outputTokens: 540 },
    ],
    [
      'caches beside the prompt, by their size',
      { prompt_tokens: 10, completion_tokens: 1, prompt_tokens_details: { cached_tokens: 90 } },
      { inputTokens: 100, cacheReadTokens: 90 },
    ],
    [
      'counts that are no counts',
      {
        prompt_tokens: 5,
        completion_tokens: -3,
        prompt_tokens_details: { cached_tokens: '4', cache_write_tokens: Number.NaN },
      },
      { inputTokens: 5, outputTokens: 0, cacheReadTokens: 0, cacheWriteTokens: 0 },
    ],
  ] as const) {
    test(name, () => expect(readChat(raw)).toMatchObject(counts))
  }

  test('nothing counted is nothing reported', () => {
    for (const raw of [undefined, null, 7, {}, { prompt_tokens: 0, completion_tokens: 0 }])
      expect(readChat(raw)).toBeUndefined()
  })
})

describe('Claude usage', () => {
  test('caches are beside the input; what has no stated life is in neither split', () => {
    const raw = {
      input_tokens: 10,
      cache_creation_input_tokens: 100,
      cache_read_input_tokens: 1000,
      cache_creation: { ephemeral_5m_input_tokens: 30, ephemeral_1h_input_tokens: 60 },
      output_tokens: 5,
      output_tokens_details: { thinking_tokens: 2 },
      server_tool_use: { web_search_requests: 3, web_fetch_requests: 0 },
    }
    expect(readClaude(raw)).toMatchObject({
      inputTokens: 1110,
      cacheReadTokens: 1000,
      cacheWriteTokens: 100,
      cacheWrite5mTokens: 30,
      cacheWrite1hTokens: 60,
      outputTokens: 5,
      reasoningTokens: 2,
      serverToolCalls: { web_search: 3 },
      semantic: 'anthropic',
    })
  })

  test('a compaction within the call is billed, the work of other models is not ours to add', () => {
    const iterations = [
      { type: 'compaction', input_tokens: 180, output_tokens: 3, cache_read_input_tokens: 20 },
      { type: 'message', input_tokens: 23, output_tokens: 1 },
      { type: 'advisor_message', model: 'other', input_tokens: 999, output_tokens: 999 },
    ]
    expect(readClaude({ input_tokens: 23, output_tokens: 1, iterations })).toMatchObject({
      inputTokens: 223,
      outputTokens: 4,
      cacheReadTokens: 20,
    })
  })

  test('the end of a stream replaces its start, except by what is missing or zero', () => {
    const start = { input_tokens: 10, cache_read_input_tokens: 50, output_tokens: 1, service_tier: 'standard' }
    expect(mergeUsage(start, { input_tokens: 0, cache_read_input_tokens: null, output_tokens: 9 })).toEqual({
      ...start,
      output_tokens: 9,
    })
    expect(mergeUsage(start, { input_tokens: 12, cache_read_input_tokens: 60, output_tokens: 9 })).toMatchObject({
      input_tokens: 12,
      cache_read_input_tokens: 60,
    })
  })
})

test('usage between the dialects keeps every count exactly', () => {
  for (let seed = 1; seed <= 500; seed++) {
    const random = seeded(seed)
    const count = () => (random.chance(0.3) ? 0 : 1 + random.int(5000))
    const [fresh, read, w5, w1, wrote] = [count(), count(), count(), count(), count()]
    const written = w5 + w1 + wrote
    const output = 1 + count()
    const usage: Usage = {
      inputTokens: fresh + read + written,
      outputTokens: output,
      cacheReadTokens: read,
      cacheWriteTokens: written,
      cacheWrite5mTokens: w5,
      cacheWrite1hTokens: w1,
      reasoningTokens: random.int(output),
      imageInputTokens: 0,
      audioInputTokens: 0,
      audioOutputTokens: 0,
      semantic: 'openai',
    }
    const claude = writeClaude(usage)
    expect(claude).toMatchObject({
      input_tokens: fresh,
      cache_read_input_tokens: read,
      cache_creation_input_tokens: written,
    })
    expect({ seed, usage: countsOf(readClaude(claude)) }).toEqual({ seed, usage: countsOf(usage) })
    // A count of caches larger than the prompt cannot be told from one beside it, and it never is larger here.
    expect({ seed, usage: countsOf(readChat(writeChat(usage))) }).toEqual({ seed, usage: countsOf(usage) })
  }
})

test('a Claude write without a stated life counts as five minutes in the other dialect', () => {
  const usage = readClaude({ input_tokens: 1, cache_creation_input_tokens: 100, output_tokens: 1 }) as Usage
  expect(writeChat(usage)).toMatchObject({
    claude_cache_creation_5_m_tokens: 100,
    prompt_tokens_details: { cache_write_tokens: 100 },
  })
})

test('usage of Moonshot stands in the choice', () => {
  const choices = [
    {
      index: 0,
      message: { role: 'assistant', content: 'x' },
      finish_reason: 'stop',
      usage: { prompt_tokens: 3, completion_tokens: 2 },
    },
  ]
  expect(codecs['openai-chat'].decodeResponse({ id: 'a', choices }).usage).toMatchObject({
    inputTokens: 3,
    outputTokens: 2,
  })
})

test('usage is read by itself, also of an answer that is no answer', () => {
  const { usageOf: ofChat } = codecs['openai-chat']
  expect(ofChat({ usage: { prompt_tokens: 3, completion_tokens: 2 } })).toMatchObject({
    inputTokens: 3,
    outputTokens: 2,
  })
  const choices = [null, 'x', { usage: 7 }, { usage: { prompt_tokens: 3 } }, { usage: { prompt_tokens: 9 } }]
  expect(ofChat({ usage: null, choices })).toMatchObject({ inputTokens: 3, outputTokens: 0 })
  expect(codecs.claude.usageOf({ usage: { input_tokens: 3, output_tokens: 2 } })).toMatchObject({ inputTokens: 3 })
  for (const { usageOf } of Object.values(codecs))
    for (const value of [undefined, null, 'x', [], {}, { usage: [] }, { usage: {} }, { usage: null, choices: 'x' }])
      expect(usageOf(value)).toBeUndefined()
})
