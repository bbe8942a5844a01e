import { expect, test } from 'bun:test'
import { codecs, producedIn } from '../../src/protocol/index.ts'
import { readJson } from './kit.ts'

test('the prompt of a chat request: roles, names, text, calls and tools; media by kind', () => {
  const counted = codecs['openai-chat'].countable(readJson('openai/request.json'))
  expect(counted).toMatchObject({ messages: 10, names: 1, tools: 3, images: 2, audios: 1, videos: 0, files: 1 })
  for (const text of [
    'Be brief.',
    'system',
    'Ada',
    'Answer in French.',
    '{"city": "Paris"}',
    '21 °C',
    'I look at the weather, too.',
    'Current weather',
    'run_sql',
  ]) {
    expect(counted.texts).toContain(text)
  }
  expect(counted.texts.some((text) => text.includes('Name of the city'))).toBe(true)
  // The bytes of a picture are not text.
  expect(counted.texts.join('')).not.toContain('iVBOR')
})

test('the prompt of a Claude request: system, text, calls, results and tools; media by kind', () => {
  const counted = codecs.claude.countable(readJson('anthropic/request.json'))
  expect(counted).toMatchObject({ messages: 5, names: 0, tools: 3, images: 3, audios: 0, videos: 0, files: 1 })
  for (const text of [
    'Long instructions.',
    'assistant',
    'Compare',
    'Buy milk.',
    'Cats sleep.',
    '17 °C',
    '{"city":"Paris"}',
    'Go on.',
    'web_search',
    'shot',
  ]) {
    expect(counted.texts).toContain(text)
  }
  expect(counted.texts.join('')).not.toContain('iVBOR')
})

test('odd bodies are counted as far as they can be read', () => {
  for (const body of [
    null,
    7,
    [],
    {},
    { messages: 7, tools: 'x', system: 7 },
    { messages: [null, 7, { role: 7, content: [null, 7, {}] }], tools: [null] },
  ]) {
    for (const codec of Object.values(codecs)) expect(codec.countable(body).texts).toEqual([])
  }
})

test('the text of a whole answer over all its choices', () => {
  const produced = producedIn(codecs['openai-chat'].decodeResponse(readJson('openai/response.json')))
  expect(produced).toEqual({ text: 'Let me look.get_weather{"city":"Paris"}nowNo idea.', toolCalls: 2 })
})
