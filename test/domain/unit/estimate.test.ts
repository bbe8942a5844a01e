import { describe, expect, test } from 'bun:test'
import { createTokenCounter, estimateInputTokens, estimateTextTokens } from '../../../src/domain/billing/estimate.ts'

const NOTHING = { texts: [], messages: 0, names: 0, tools: 0, images: 0, audios: 0, videos: 0, files: 0 } as const

describe('text', () => {
  test.each([
    ['', 0, 0, 0],
    ['hello', 2, 2, 2],
    ['hello world', 3, 3, 3], // two words and a blank: 2.46, 2.65, 2.5
    ['12345', 2, 2, 3],
    ['abc123abc', 4, 4, 6], // word, number, word: 3.59, 3.89, 5.1
    ['你好', 2, 3, 2],
    ['a@b.c', 6, 7, 7], // three words, an at, a point: 5.46, 6.61, 6.33
    ['\n\n\n\n', 2, 4, 5],
    ['😀', 3, 3, 2],
    ['∑', 3, 5, 2],
    ['https://x', 6, 7, 6], // two words and ://: 5.04, 6.04, 5.9
  ])('%p', (text, other, claude, gemini) => {
    expect(estimateTextTokens(text, 'gpt-4o')).toBe(other)
    expect(estimateTextTokens(text, 'claude-sonnet-4-5')).toBe(claude)
    expect(estimateTextTokens(text, 'gemini-2.5-pro')).toBe(gemini)
  })

  test('many small weights do not add up to a token too many', () => {
    expect(estimateTextTokens(' '.repeat(50), 'gpt-4o')).toBe(21)
    expect(estimateTextTokens('!'.repeat(1000), 'gpt-4o')).toBe(400)
  })

  test('pieces count as the whole, wherever it is cut', () => {
    const text = 'Wörter und 12345 Zahlen, 你好 😀 a@b.c\n https://example.org/?q=1'
    const whole = estimateTextTokens(text, 'claude-x')
    for (let size = 1; size < 9; size++) {
      const counter = createTokenCounter('claude-x')
      for (let at = 0; at < text.length; at += size) counter.add(text.slice(at, at + size))
      expect(counter.total()).toBe(whole)
    }
  })

  test('a long text takes a moment', () => {
    const text = 'The quick brown fox jumps over 12 lazy dogs.\n'.repeat(20_000)
    const startedAt = performance.now()
    estimateTextTokens(text, 'gpt-4o')
    expect(performance.now() - startedAt).toBeLessThan(500)
  })
})

describe('requests', () => {
  test('messages, names and tools have a frame', () => {
    expect(estimateInputTokens({ ...NOTHING, messages: 2, names: 1, tools: 1 }, 'gpt-4o')).toBe(3 + 6 + 3 + 8)
  })

  test('texts are counted apart: two words that meet are two', () => {
    expect(estimateInputTokens({ ...NOTHING, texts: ['ab', 'cd'] }, 'gpt-4o')).toBe(Math.ceil(3 + 2.04))
  })

  test('media have fixed sizes; images cost less for models of OpenAI’s kind', () => {
    expect(estimateInputTokens({ ...NOTHING, images: 2 }, 'gpt-4o')).toBe(3 + 35)
    expect(estimateInputTokens({ ...NOTHING, images: 1 }, 'gpt-4o')).toBe(21)
    expect(estimateInputTokens({ ...NOTHING, images: 2 }, 'claude-sonnet-4-5')).toBe(3 + 1040)
    expect(estimateInputTokens({ ...NOTHING, audios: 1, videos: 1, files: 1 }, 'gpt-4o')).toBe(3 + 256 + 8192 + 4096)
  })
})
