import { describe, expect, test } from 'bun:test'
import { credentialOf, parseCredential } from '../../../src/domain/accounts/credential.ts'

const read = (path: string, headers: Record<string, string>): string => {
  const request = new Request(`http://localhost${path}`, { headers })
  const { pathname, searchParams } = new URL(request.url)
  return credentialOf(request, pathname, searchParams)
}

describe('where an API key is read', () => {
  test.each([
    ['/v1/chat/completions', { authorization: 'Bearer sk-a' }, 'sk-a'],
    ['/v1/chat/completions', { authorization: 'bearer sk-a' }, 'sk-a'],
    ['/v1/chat/completions', { authorization: 'sk-a' }, 'sk-a'],
    ['/v1/chat/completions', { authorization: '  Bearer   sk-a  ' }, 'sk-a'],
    ['/v1/messages', { 'x-api-key': 'sk-b' }, 'sk-b'],
    ['/v1/messages', { 'x-api-key': 'sk-b', authorization: 'Bearer sk-a' }, 'sk-b'],
    ['/v1/messages/count_tokens', { 'x-api-key': 'sk-b' }, 'sk-b'],
    ['/v1/models', { 'x-api-key': 'sk-b' }, 'sk-b'],
    ['/v1/chat/completions', { 'x-api-key': 'sk-b' }, ''],
    ['/v1/models/gpt', { 'x-goog-api-key': 'sk-c' }, 'sk-c'],
    ['/v1beta/models/gemini:generateContent', { 'x-goog-api-key': 'sk-c' }, 'sk-c'],
    ['/v1beta/openai/models', { 'x-goog-api-key': 'sk-c' }, 'sk-c'],
    ['/v1beta/models?key=sk-d', {}, 'sk-d'],
    ['/v1beta/models?key=sk-d', { 'x-goog-api-key': 'sk-c' }, 'sk-c'],
    ['/v1/chat/completions?key=sk-d', {}, ''],
    ['/v1/chat/completions', { 'mj-api-secret': 'sk-e' }, 'sk-e'],
    ['/mj/submit', { 'mj-api-secret': 'sk-e', authorization: 'midjourney-proxy' }, 'sk-e'],
    ['/mj/submit', { 'mj-api-secret': 'sk-e', authorization: 'Bearer sk-a' }, 'sk-a'],
    [
      '/v1/realtime',
      { upgrade: 'websocket', 'sec-websocket-protocol': 'realtime, openai-insecure-api-key.sk-f, x' },
      'sk-f',
    ],
    ['/v1/realtime', { 'sec-websocket-protocol': 'realtime, openai-insecure-api-key.sk-f' }, ''],
    [
      '/v1/realtime',
      {
        upgrade: 'WebSocket',
        'sec-websocket-protocol': 'openai-insecure-api-key.sk-f',
        authorization: 'Bearer sk-a',
      },
      'sk-f',
    ],
    ['/v1/chat/completions', {}, ''],
    ['/v1/messages', { 'x-api-key': '  ', authorization: 'Bearer sk-a' }, 'sk-a'],
    ['/v1/chat/completions', { authorization: 'Bearer' }, ''],
  ] as const)('%s %o → %s', (path, headers, expected) => {
    expect(read(path, headers)).toBe(expected)
  })
})

describe('what a credential means', () => {
  test.each([
    ['sk-abc', 'abc', undefined],
    ['abc', 'abc', undefined],
    ['sk-abc-7', 'abc', '7'],
    ['sk-abc-7-9', 'abc', '7'],
    ['abc-7', 'abc', '7'],
    ['sk-abc-', 'abc', undefined],
    ['sk-', '', undefined],
    ['', '', undefined],
    ['sk-sk-abc', 'sk', 'abc'],
    ['SK-abc', 'SK', 'abc'],
  ] as const)('%s', (text, key, channel) => {
    expect(parseCredential(text)).toEqual({ key, channel })
  })
})
