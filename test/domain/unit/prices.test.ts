import { describe, expect, test } from 'bun:test'
import { createPrices, type Price, type Prices } from '../../../src/domain/billing/prices.ts'
import { GatewayError } from '../../../src/errors.ts'
import type { Usage } from '../../../src/protocol/ir.ts'
import { optionsOf } from './options-of.ts'

const NO_USAGE: Usage = {
  inputTokens: 0,
  outputTokens: 0,
  cacheReadTokens: 0,
  cacheWriteTokens: 0,
  cacheWrite5mTokens: 0,
  cacheWrite1hTokens: 0,
  reasoningTokens: 0,
  imageInputTokens: 0,
  audioInputTokens: 0,
  audioOutputTokens: 0,
  semantic: 'openai',
}
const usage = (counts: Partial<Usage>): Usage => ({ ...NO_USAGE, ...counts })

const find = (prices: Prices, model: string, group = 'default', userGroup = 'default'): Price =>
  prices.find({ model, userGroup, usingGroup: group, acceptsUnpriced: false })

const pricesOf = (texts: Readonly<Record<string, string>> = {}): Prices => createPrices(optionsOf(texts))

/** Quota of a model at default prices unless texts say otherwise. */
const quota = (model: string, counts: Partial<Usage>, texts: Readonly<Record<string, string>> = {}): number => {
  const prices = pricesOf(texts)
  return prices.charge(find(prices, model), usage(counts)).quota
}

const claudeCall = {
  inputTokens: 26000,
  outputTokens: 800,
  cacheReadTokens: 20000,
  cacheWriteTokens: 5000,
  cacheWrite5mTokens: 4000,
  cacheWrite1hTokens: 1000,
} as const

describe('charges by tokens', () => {
  test('input and output: gpt-4o, 1000 in, 500 out, costs 3750', () => {
    expect(quota('gpt-4o', { inputTokens: 1000, outputTokens: 500 })).toBe(3750)
  })

  test('a cached prompt is paid once, at its own ratio', () => {
    expect(quota('gpt-4o', { inputTokens: 10000, cacheReadTokens: 8000, outputTokens: 500 })).toBe(10000)
  })

  test('cache writes of five minutes and of an hour have their own prices', () => {
    expect(quota('claude-sonnet-4-5', { ...claudeCall, semantic: 'anthropic' })).toBe(21000)
  })

  test('the same usage costs the same in the words of the other dialect', () => {
    expect(quota('claude-sonnet-4-5', { ...claudeCall, semantic: 'openai' })).toBe(21000)
  })

  test('a cache write without stated life is one of five minutes', () => {
    const counts = { inputTokens: 2000, cacheWriteTokens: 1000, outputTokens: 0 }
    expect(quota('claude-sonnet-4-5', counts)).toBe((1000 + 1250) * 1.5)
  })

  test('the ratio of a user group in a group replaces that of the group', () => {
    const prices = pricesOf({ GroupRatio: '{"default":3,"vip":1}', GroupGroupRatio: '{"vip":{"default":0.5}}' })
    const counts = usage({ inputTokens: 1000, outputTokens: 500 })
    expect(prices.charge(find(prices, 'gpt-4o', 'default', 'vip'), counts).quota).toBe(1875)
    expect(prices.charge(find(prices, 'gpt-4o', 'default', 'default'), counts).quota).toBe(11250)
  })

  test('audio of a chat model: 200 text and 300 audio in, 100 and 400 out, costs 14750', () => {
    const counts = { inputTokens: 500, audioInputTokens: 300, outputTokens: 500, audioOutputTokens: 400 }
    expect(quota('gpt-4o-audio-preview', counts)).toBe(14750)
  })

  test('speech whose output is free costs its input', () => {
    expect(quota('tts-1', { inputTokens: 1000, outputTokens: 300, audioOutputTokens: 300 })).toBe(7500)
  })

  test('transcription is paid by its counted tokens', () => {
    expect(quota('whisper-1', { inputTokens: 1033 })).toBe(15495)
  })

  test('audio that Gemini prices apart does not follow the text ratio', () => {
    expect(quota('gemini-2.5-flash', { inputTokens: 5000, audioInputTokens: 3000, outputTokens: 300 })).toBe(2175)
  })

  test('image input has its ratio', () => {
    expect(quota('gpt-image-1', { inputTokens: 150, imageInputTokens: 100, outputTokens: 10 })).toBe(
      (50 + 100 * 2 + 10 * 8) * 2.5,
    )
  })

  test('parts that overlap never make the rest negative', () => {
    expect(quota('gpt-4o', { inputTokens: 100, cacheReadTokens: 200, outputTokens: 0 })).toBe(125)
  })

  test('an audio model without audio prices pays audio as text', () => {
    expect(quota('gpt-4o', { inputTokens: 100, audioInputTokens: 60, outputTokens: 10, audioOutputTokens: 10 })).toBe(
      175,
    )
  })
})

describe('rounding', () => {
  const tiny = (ratio: string, inputTokens: number): number =>
    quota('x', { inputTokens }, { ModelRatio: `{"x":${ratio}}`, CompletionRatio: '{}' })

  test('halves go up, decimals as people write them', () => {
    expect(tiny('0.5', 5)).toBe(3)
    // 1.005 × 100 is 100.49999999999999 in binary fractions.
    expect(tiny('1.005', 100)).toBe(101)
    expect(tiny('1.0049', 100)).toBe(100)
    expect(tiny('0.285', 100)).toBe(29)
  })

  test('a call with tokens costs at least 1, one without tokens nothing', () => {
    expect(tiny('0.0001', 1)).toBe(1)
    expect(tiny('5', 0)).toBe(0)
  })

  test('a free price stays free', () => {
    expect(tiny('0', 1000)).toBe(0)
    expect(quota('gpt-4o', { inputTokens: 1000 }, { GroupRatio: '{"default":0}' })).toBe(0)
  })

  test('the short way and the long way agree', () => {
    // The second ratio is the first with more digits than plain numbers hold.
    for (let tokens = 1; tokens < 400; tokens += 7) {
      expect(tiny('0.123456789012', tokens)).toBe(Math.max(1, Math.round(tokens * 0.123456789012)))
      expect(tiny('1e-20', tokens)).toBe(1)
    }
    expect(tiny('123456.7890123', 9999)).toBe(1234444433) // 9999 × 123456.7890123 = 1234444433.3339877
  })

  test('nonsense counts of an upstream are zero', () => {
    expect(
      quota('gpt-4o', { inputTokens: Number.NaN, outputTokens: -5, cacheReadTokens: Number.NEGATIVE_INFINITY }),
    ).toBe(0)
    expect(quota('gpt-4o', { inputTokens: 10.9, outputTokens: 0 })).toBe(13)
  })
})

describe('limits', () => {
  test('a charge stops at 2³¹−1 and says so', () => {
    const prices = pricesOf()
    const charge = prices.charge(find(prices, 'o1-pro'), usage({ inputTokens: 1e15, outputTokens: 1e15 }))
    expect(charge.quota).toBe(2147483647)
    expect(charge.isSaturated).toBe(true)
    expect(charge.other['admin_info']).toEqual({
      quota_saturation: { op: 'settle', kind: 'overflow', original: '375000000000000000', clamped: 2147483647 },
    })
  })

  test('the largest charge that fits is not flagged', () => {
    const prices = pricesOf({ ModelRatio: '{"x":1}' })
    const price = find(prices, 'x')
    expect(prices.charge(price, usage({ inputTokens: 2147483647 }))).toMatchObject({
      quota: 2147483647,
      isSaturated: false,
    })
    expect(prices.charge(price, usage({ inputTokens: 2147483648 }))).toMatchObject({
      quota: 2147483647,
      isSaturated: true,
    })
  })

  test('a hold that would not fit is refused, not cut', () => {
    const prices = pricesOf()
    const ask = () =>
      prices.estimate(find(prices, 'gpt-4o'), { inputTokens: 10, maxOutputTokens: 1e12, isStream: false })
    expect(ask).toThrow(GatewayError)
    expect(ask).toThrow('model_price_error')
  })
})

describe('holds', () => {
  const hold = (model: string, query: Parameters<Prices['estimate']>[1], texts = {}): number => {
    const prices = pricesOf(texts)
    return prices.estimate(find(prices, model), query)
  }

  test('the output is held at its full price: gpt-4o, 1200 in and at most 4000 out, holds 21500', () => {
    expect(hold('gpt-4o', { inputTokens: 1200, maxOutputTokens: 4000, isStream: false })).toBe(21500)
  })

  test('answers asked for multiply the output', () => {
    expect(hold('gpt-4o', { inputTokens: 1200, maxOutputTokens: 1000, isStream: false, choices: 4 })).toBe(21500)
  })

  test('without a maximum the option’s is held, a quarter of it for a stream that can extend', () => {
    expect(hold('gpt-5', { inputTokens: 0, isStream: false })).toBe(4096 * 8 * 0.625)
    expect(hold('gpt-5', { inputTokens: 0, isStream: true })).toBe(1024 * 8 * 0.625)
    expect(hold('gpt-5', { inputTokens: 0, isStream: false }, { HoldMaxOutputTokens: '100' })).toBe(500)
  })

  test('a model that cannot answer longer holds no more', () => {
    const texts = { HoldMaxOutputTokens: '100000' }
    expect(hold('claude-3-haiku-20240307', { inputTokens: 0, isStream: false }, texts)).toBe(4096 * 5 * 0.125)
    expect(hold('text-embedding-3-small', { inputTokens: 1000, isStream: false })).toBe(10)
  })

  test('the option PreConsumedQuota plays no part', () => {
    expect(hold('gpt-4o', { inputTokens: 4, maxOutputTokens: 0, isStream: false }, { PreConsumedQuota: '500' })).toBe(5)
  })

  test('a hold is truncated, at least 1, and nothing for a free price', () => {
    expect(hold('gpt-4o', { inputTokens: 3, maxOutputTokens: 0, isStream: false })).toBe(3)
    expect(hold('gpt-4o', { inputTokens: 0, maxOutputTokens: 0, isStream: false })).toBe(1)
    expect(hold('gpt-4o', { inputTokens: 999, isStream: false }, { GroupRatio: '{"default":0}' })).toBe(0)
  })
})

describe('prices per call', () => {
  const texts = { ModelPrice: '{"gpt-4o":0.04,"third":0.0000033}', GroupRatio: '{"default":0.8}' }

  test('a price per call goes before ratios; groups count', () => {
    const prices = pricesOf(texts)
    const price = find(prices, 'gpt-4o')
    expect(prices.estimate(price, { inputTokens: 99999, isStream: false })).toBe(16000)
    expect(prices.charge(price, usage({ inputTokens: 1 })).quota).toBe(16000)
    expect(prices.charge(price, usage({ inputTokens: 1 })).other).toEqual({
      model_ratio: 0,
      group_ratio: 0.8,
      completion_ratio: 0,
      cache_tokens: 0,
      cache_ratio: 0,
      model_price: 0.04,
      user_group_ratio: -1,
    })
  })

  test('the charge is rounded, the hold truncated, no tokens cost nothing', () => {
    const prices = pricesOf({ ...texts, GroupRatio: '{"default":1}' })
    const price = find(prices, 'third') // 1.65 units
    expect(prices.charge(price, usage({ outputTokens: 1 })).quota).toBe(2)
    expect(prices.estimate(price, { inputTokens: 1, isStream: false })).toBe(1)
    expect(prices.charge(price, NO_USAGE).quota).toBe(0)
  })
})

describe('models without a price', () => {
  test('are refused by name, with what to set', () => {
    const prices = pricesOf()
    expect(prices.has('mystery-1')).toBe(false)
    expect(() => find(prices, 'mystery-1')).toThrow(/mystery-1.*ModelRatio.*ModelPrice/)
  })

  test('may be called by who accepts them, and by all in self-use mode, at the dear ratio', () => {
    const prices = pricesOf()
    const accepted = prices.find({
      model: 'mystery-1',
      userGroup: 'default',
      usingGroup: 'default',
      acceptsUnpriced: true,
    })
    expect(prices.charge(accepted, usage({ inputTokens: 2 })).quota).toBe(75)
    expect(() => find(prices, 'mystery-1')).toThrow('model_price_error')
    const own = pricesOf({ SelfUseModeEnabled: 'true' })
    expect(own.has('mystery-1')).toBe(true)
    expect(own.charge(find(own, 'mystery-1'), usage({ inputTokens: 2 })).quota).toBe(75)
  })

  test('names out of the language’s own objects are no prices', () => {
    for (const model of ['constructor', '__proto__', 'toString']) {
      expect(pricesOf().has(model)).toBe(false)
      expect(() => find(pricesOf(), model)).toThrow('model_price_error')
    }
  })

  test('a model priced by an expression is refused, not charged at some other price', () => {
    const prices = pricesOf({ 'billing_setting.billing_mode': '{"gpt-4o":"tiered_expr"}' })
    expect(prices.has('gpt-4o')).toBe(false)
    expect(() => find(prices, 'gpt-4o')).toThrow('expression')
  })

  test('a family with a free part in its names has one price', () => {
    const prices = pricesOf({ ModelRatio: '{"gpt-4o-gizmo-*":3,"gemini-2.5-pro-thinking-*":2}', ModelPrice: '{}' })
    expect(prices.charge(find(prices, 'gpt-4o-gizmo-g-abc'), usage({ inputTokens: 10, outputTokens: 10 })).quota).toBe(
      120,
    )
    expect(prices.rates('gemini-2.5-pro-preview-thinking-1024')).toMatchObject({ modelRatio: 2 })
  })
})

describe('output ratios', () => {
  const ratio = (model: string, configured?: number) => {
    const texts = {
      ModelRatio: JSON.stringify({ [model]: 1 }),
      ModelPrice: '{}',
      CompletionRatio: configured === undefined ? '{}' : JSON.stringify({ [model]: configured }),
    }
    return pricesOf(texts).completionRatios()[model]
  }

  test.each([
    ['gpt-4-all', 2, false],
    ['gpt-4o-gizmo-*', 2, false],
    ['gpt-4o-2024-05-13', 3, true],
    ['gpt-4o-mini-tts', 20, false],
    ['gpt-4o-mini', 4, false],
    ['gpt-5-mini', 8, true],
    ['gpt-5.4-nano', 6.25, true],
    ['gpt-5.4-pro', 6, true],
    ['gpt-5.5', 6, false],
    ['gpt-4.5-preview', 2, true],
    ['gpt-4-turbo', 3, true],
    ['gpt-4-1106', 3, true],
    ['gpt-3.5-turbo', 2, false],
    ['gpt-4.1', 2, false],
    ['o1', 4, true],
    ['o3-mini', 4, true],
    ['chatgpt-4o-latest', 3, true],
    ['claude-3-opus-20240229', 5, true],
    ['anthropic/claude-haiku-4-5', 5, true],
    ['mistral-large', 3, true],
    ['gemini-2.0-flash', 4, true],
    ['gemini-2.5-pro', 8, false],
    ['gemini-2.5-flash-preview-04-17-nothinking', 4, false],
    ['gemini-2.5-flash-preview-04-17', 23.33, false],
    ['gemini-2.5-flash-lite', 4, false],
    ['gemini-2.5-flash', 8.333, false],
    ['gemini-3-pro-image-preview', 60, false],
    ['gemini-3-pro-preview', 6, false],
    ['gemini-exp', 4, false],
    ['command-r', 3, true],
    ['command-r-plus', 5, true],
    ['command-r-plus-08-2024', 4, true],
    ['command-a', 4, false],
    ['ERNIE-Speed-8K', 2, true],
    ['llama3-70b-8192', 1.339, true],
    ['qwen-max', 1, false],
  ])('%s is %d', (model, expected, locked) => {
    expect(ratio(model)).toEqual({ ratio: expected, locked })
    // A configured ratio counts unless the rule is locked, and always for resold names.
    const isResold = model.includes('/')
    expect(ratio(model, 7)).toEqual({ ratio: locked && !isResold ? expected : 7, locked: locked && !isResold })
  })
})

describe('what the log shows', () => {
  test('the bill of a Claude call can be added up from its fields', () => {
    const prices = pricesOf()
    const charge = prices.charge(find(prices, 'claude-sonnet-4-5'), usage({ ...claudeCall, semantic: 'anthropic' }))
    expect(charge.promptTokens).toBe(1000)
    expect(charge.completionTokens).toBe(800)
    expect(charge.other).toEqual({
      model_ratio: 1.5,
      group_ratio: 1,
      completion_ratio: 5,
      cache_tokens: 20000,
      cache_ratio: 0.1,
      model_price: -1,
      user_group_ratio: -1,
      claude: true,
      usage_semantic: 'anthropic',
      cache_creation_tokens: 5000,
      cache_creation_ratio: 1.25,
      cache_write_tokens: 5000,
      cache_creation_tokens_5m: 4000,
      cache_creation_ratio_5m: 1.25,
      cache_creation_tokens_1h: 1000,
      cache_creation_ratio_1h: 2,
      input_tokens_total: 26000,
    })
  })

  test('a call without caches has only the basic fields, and the special group ratio when there is one', () => {
    const prices = pricesOf({ GroupGroupRatio: '{"vip":{"default":0.5}}' })
    const charge = prices.charge(find(prices, 'gpt-4o', 'default', 'vip'), usage({ inputTokens: 10, outputTokens: 1 }))
    expect(charge.other).toEqual({
      model_ratio: 1.25,
      group_ratio: 0.5,
      completion_ratio: 4,
      cache_tokens: 0,
      cache_ratio: 0.5,
      model_price: -1,
      user_group_ratio: 0.5,
    })
  })
})

test('a price that was found does not change when the options do', () => {
  let current = optionsOf({ ModelRatio: '{"x":1}' })
  const prices = createPrices({ get: (key) => current.get(key), state: () => current.state() })
  const before = find(prices, 'x')
  current = optionsOf({ ModelRatio: '{"x":10}' })
  expect(prices.charge(before, usage({ inputTokens: 100 })).quota).toBe(100)
  expect(prices.charge(find(prices, 'x'), usage({ inputTokens: 100 })).quota).toBe(1000)
})

test('a price is worked out once per state of the options, not once per call', () => {
  const prices = pricesOf()
  expect(find(prices, 'claude-sonnet-4-5')).toBe(find(prices, 'claude-sonnet-4-5'))
})
