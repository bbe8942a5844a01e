/** Which limits apply to a key: its own, its user's, its group's, and the options' on calls per user. */
import { describe, expect, test } from 'bun:test'
import { limitsOf } from '../../../src/domain/limits/index.ts'
import { optionsOf } from '../unit/options-of.ts'

const NONE = { rpm: 0, tpm: 0, concurrency: 0 }
const owner = {
  apiKeyId: 7,
  userId: 3,
  userGroup: 'default',
  tokenGroup: '',
  keyBounds: NONE,
  userBounds: NONE,
}

/** `counts limit/windowMs key`, by scope. */
const described = (texts: Record<string, string>, over: Partial<typeof owner> = {}) =>
  limitsOf(optionsOf(texts), { ...owner, ...over })?.map((scope) =>
    scope.map(({ counts, limit, windowMs, key }) => `${counts} ${limit}/${windowMs} ${key}`),
  )

describe('the limits of a key', () => {
  test('are none where nothing is set, so that its calls ask no store', () => {
    expect(described({})).toBeUndefined()
    expect(described({ ModelRequestRateLimitCount: '5', GroupLimits: '{"vip":{"rpm":1}}' })).toBeUndefined()
  })

  test('come narrowest first, and 0 is no limit', () => {
    expect(
      described(
        { GroupLimits: '{"default":{"rpm":100,"tpm":0}}' },
        { keyBounds: { rpm: 1, tpm: 2, concurrency: 3 }, userBounds: { rpm: 0, tpm: 20, concurrency: 0 } },
      ),
    ).toEqual([
      ['concurrency 3/0 limit:concurrency:t:7', 'requests 1/60000 limit:rpm:t:7', 'tokens 2/60000 limit:tpm:t:7'],
      ['tokens 20/60000 limit:tpm:u:3'],
      ['requests 100/60000 limit:rpm:g:default'],
    ])
  })

  test('of the options on calls count per user; a group has numbers of its own, 0 for all calls is no limit', () => {
    const on = { ModelRequestRateLimitEnabled: 'true', ModelRequestRateLimitDurationMinutes: '2' }
    expect(described(on)).toEqual([['successes 1000/120000 limit:served:u:3']])
    const texts = { ...on, ModelRequestRateLimitCount: '9', ModelRequestRateLimitGroup: '{"vip":[0,5],"auto":[7,6]}' }
    expect(described(texts)).toEqual([['requests 9/120000 limit:calls:u:3', 'successes 1000/120000 limit:served:u:3']])
    expect(described(texts, { userGroup: 'vip' })).toEqual([['successes 5/120000 limit:served:u:3']])
    expect(described(texts, { tokenGroup: 'auto', userGroup: 'vip' })).toEqual([
      ['requests 7/120000 limit:calls:u:3', 'successes 6/120000 limit:served:u:3'],
    ])
  })

  test('of a group follow the key’s group, else the user’s', () => {
    const texts = { GroupLimits: '{"default":{"rpm":1},"vip":{"concurrency":4}}' }
    expect(described(texts)).toEqual([['requests 1/60000 limit:rpm:g:default']])
    expect(described(texts, { tokenGroup: 'vip' })).toEqual([['concurrency 4/0 limit:concurrency:g:vip']])
    expect(described(texts, { userGroup: 'constructor' })).toBeUndefined()
  })
})
