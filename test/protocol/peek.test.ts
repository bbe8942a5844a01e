import { describe, expect, test } from 'bun:test'
import { GatewayError } from '../../src/errors.ts'
import { codecs, type Protocol } from '../../src/protocol/index.ts'

const MESSAGES = [{ role: 'user', content: 'hi' }]
const chat = { model: 'm', messages: MESSAGES }

/** The client's text of a refusal. */
function refusal(protocol: Protocol, body: unknown, read: 'peek' | 'decodeRequest' = 'peek'): string {
  try {
    codecs[protocol][read](body)
  } catch (error) {
    if (error instanceof GatewayError && error.code === 'invalid_request' && error.status === 400) return error.public
    throw error
  }
  return 'accepted'
}

describe('what routing reads of a chat request', () => {
  test('names, limits, choices and streaming', () => {
    expect(codecs['openai-chat'].peek(chat)).toEqual({ model: 'm', isStream: false })
    const body = {
      ...chat,
      stream: true,
      max_tokens: 5,
      max_completion_tokens: 9,
      n: 3,
      stream_options: { include_usage: false },
    }
    expect(codecs['openai-chat'].peek(body)).toEqual({
      model: 'm',
      isStream: true,
      maxOutputTokens: 9,
      choices: 3,
      includeUsage: false,
    })
  })

  test('null means absent', () => {
    const body = { ...chat, stream: null, max_tokens: null, n: null, stream_options: null, web_search_options: null }
    expect(codecs['openai-chat'].peek(body)).toEqual({ model: 'm', isStream: false })
  })

  test('a completion in the middle needs no messages', () => {
    expect(codecs['openai-chat'].peek({ model: 'm', prefix: 'def f(' })).toEqual({ model: 'm', isStream: false })
  })

  for (const [body, text] of [
    [null, 'the request body must be a JSON object'],
    [[], 'the request body must be a JSON object'],
    [{ messages: MESSAGES }, 'model is required'],
    [{ ...chat, model: 7 }, 'model must be a string'],
    [{ ...chat, messages: undefined }, 'messages is required and must not be empty'],
    [{ ...chat, messages: [] }, 'messages is required and must not be empty'],
    [{ ...chat, messages: 'hi' }, 'messages must be an array'],
    [{ ...chat, messages: ['hi'] }, 'messages[0] must be an object'],
    [{ ...chat, stream: 'yes' }, 'stream must be a boolean'],
    [{ ...chat, stream_options: [] }, 'stream_options must be an object'],
    [{ ...chat, max_tokens: '100' }, 'max_tokens must be a number'],
    [{ ...chat, max_tokens: -1 }, 'max_tokens must be a whole number that is not negative'],
    [{ ...chat, max_tokens: 1.5 }, 'max_tokens must be a whole number that is not negative'],
    [{ ...chat, max_completion_tokens: 1_073_741_824 }, 'max_completion_tokens must not be more than 1073741823'],
    [{ ...chat, n: 0 }, 'n must be a whole number of at least 1'],
    [
      { ...chat, web_search_options: { search_context_size: 'huge' } },
      'web_search_options.search_context_size must be low, medium or high',
    ],
  ] as const) {
    test(`is refused: ${text} (${JSON.stringify(body)?.slice(0, 60)})`, () =>
      expect(refusal('openai-chat', body)).toBe(text))
  }
})

describe('what routing reads of a Claude request', () => {
  test('names, limits and streaming', () => {
    expect(codecs.claude.peek({ ...chat, max_tokens: 1_073_741_823, stream: true })).toEqual({
      model: 'm',
      isStream: true,
      maxOutputTokens: 1_073_741_823,
    })
  })

  for (const [body, text] of [
    [{ ...chat, messages: [] }, 'messages is required and must not be empty'],
    [{ ...chat, model: '' }, 'model is required'],
    [{ ...chat, max_tokens: 2 ** 30 }, 'max_tokens must not be more than 1073741823'],
    [{ ...chat, stream: 1 }, 'stream must be a boolean'],
  ] as const) {
    test(`is refused: ${text}`, () => expect(refusal('claude', body)).toBe(text))
  }
})

describe('what cannot be converted is refused with its place', () => {
  const withMessages = (...messages: unknown[]) => ({ model: 'm', messages })
  for (const [protocol, body, text] of [
    [
      'openai-chat',
      withMessages({ role: 'robot', content: 'x' }),
      'messages[0].role must be system, developer, user, assistant or tool',
    ],
    [
      'openai-chat',
      withMessages({ role: 'user', content: 5 }),
      'messages[0].content must be a string or an array of parts',
    ],
    ['openai-chat', withMessages({ role: 'user', content: [7] }), 'messages[0].content[0] must be an object'],
    ['openai-chat', withMessages({ role: 'tool', content: 'x' }), 'messages[0].tool_call_id is required'],
    ['openai-chat', { ...chat, stop: 5 }, 'stop must be a string or an array of strings'],
    ['openai-chat', { ...chat, tools: {} }, 'tools must be an array'],
    ['openai-chat', { ...chat, temperature: 'hot' }, 'temperature must be a number'],
    ['claude', withMessages({ role: 'tool', content: 'x' }), 'messages[0].role must be user or assistant'],
    [
      'claude',
      withMessages({ role: 'user', content: { text: 'x' } }),
      'messages[0].content must be a string or an array of content blocks',
    ],
    ['claude', { ...chat, system: 7 }, 'system must be a string or an array of content blocks'],
    ['claude', { ...chat, stop_sequences: [1] }, 'stop_sequences must be an array of strings'],
  ] as const) {
    test(`${protocol}: ${text}`, () => expect(refusal(protocol, body, 'decodeRequest')).toBe(text))
  }
})
