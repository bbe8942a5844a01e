import { describe, expect, test } from 'bun:test'
import { createCandidateIndex, type Member } from '../../../src/domain/channels/candidates.ts'
import { channel, multiKeyInfo, seeded } from './support.ts'

const index = (members: readonly Member[], random = seeded()) => createCandidateIndex(members, random)
const NONE: ReadonlySet<number> = new Set()
const DRAWS = 20_000

/** Share of each channel among many first choices. */
const shares = (members: readonly Member[], tried = NONE, attempt = 0): Record<number, number> => {
  const candidates = index(members).candidates({ model: 'm', group: 'default' })
  const counts: Record<number, number> = {}
  for (let n = 0; n < DRAWS; n++) {
    const id = candidates.next(attempt, tried)?.id ?? -1
    counts[id] = (counts[id] ?? 0) + 1 / DRAWS
  }
  return counts
}

describe('weights', () => {
  test('channels are drawn in proportion to their weight', () => {
    const drawn = shares([channel({ id: 1, weight: 1 }), channel({ id: 2, weight: 3 })])
    expect(drawn[1]).toBeCloseTo(0.25, 1)
    expect(drawn[2]).toBeCloseTo(0.75, 1)
  })
  test('weights that are all 0 are equal', () => {
    const drawn = shares([channel({ id: 1 }), channel({ id: 2 }), channel({ id: 3 })])
    for (const id of [1, 2, 3]) expect(Math.abs((drawn[id] ?? 0) - 1 / 3)).toBeLessThan(0.02)
  })
  test('a weight of 0 beside positive ones is never drawn, not even when the others failed, and it is said why', () => {
    const members = [channel({ id: 1, weight: 5 }), channel({ id: 2 })]
    expect(shares(members)).toEqual({ 1: expect.closeTo(1, 5) })
    const candidates = index(members).candidates({ model: 'm', group: 'default' })
    expect(candidates.next(1, new Set([1]))).toBeUndefined()
    expect(candidates.leftOut).toEqual([{ channelId: 2, reason: 'weight 0 beside weighted channels' }])
  })
  test('with tried channels left out the others keep their proportion', () => {
    const members = [channel({ id: 1, weight: 10 }), channel({ id: 2, weight: 1 }), channel({ id: 3, weight: 3 })]
    const drawn = shares(members, new Set([1]))
    expect(drawn[1]).toBeUndefined()
    expect(drawn[2]).toBeCloseTo(0.25, 1)
    expect(drawn[3]).toBeCloseTo(0.75, 1)
  })
})

describe('tiers', () => {
  const members = [
    channel({ id: 1, priority: 10 }),
    channel({ id: 2, priority: 10 }),
    channel({ id: 3, priority: 5 }),
    channel({ id: 4, priority: -1 }),
  ]
  const candidates = index(members).candidates({ model: 'm', group: 'default' })

  test('each attempt has the next lower priority, and the last one when there are no more', () => {
    expect([1, 2]).toContain(candidates.next(0, NONE)?.id ?? 0)
    expect(candidates.next(1, NONE)?.id).toBe(3)
    expect(candidates.next(2, NONE)?.id).toBe(4)
    expect(candidates.next(9, NONE)?.id).toBe(4)
  })
  test('a tier that is used up gives way to the best other one', () => {
    expect(candidates.next(1, new Set([3]))?.id).toBeOneOf([1, 2])
    expect(candidates.next(2, new Set([1, 2, 4]))?.id).toBe(3)
  })
  test('a channel that failed is never given again, and each is given once', () => {
    const tried = new Set<number>()
    for (let attempt = 0; attempt < 4; attempt++) tried.add(candidates.next(attempt, tried)?.id ?? -1)
    expect(tried).toEqual(new Set([1, 2, 3, 4]))
    expect(candidates.next(4, tried)).toBeUndefined()
  })
})

describe('who is a candidate', () => {
  test('only channels of the group and the exact model; blanks are part of a name', () => {
    const { candidates } = index([
      channel({ id: 1, models: 'm', group: 'vip' }),
      channel({ id: 2, models: 'm ,x', group: 'default' }),
      channel({ id: 3, models: 'M', group: 'default,vip' }),
    ])
    const idOf = (model: string, group: string) => candidates({ model, group }).next(0, NONE)?.id
    expect(idOf('m', 'vip')).toBe(1)
    expect(idOf('m', 'default')).toBeUndefined()
    expect(idOf('m ', 'default')).toBe(2)
    expect(idOf('M', 'vip')).toBe(3)
    expect(candidates({ model: 'm', group: 'nobody' })).toMatchObject({ isEmpty: true, leftOut: [] })
  })
  test('the family stands in when nobody offers the exact name', () => {
    const gizmo = channel({ id: 1, models: 'gpt-4o-gizmo-*' })
    const exact = channel({ id: 2, models: 'gpt-4o-gizmo-abc' })
    const query = { model: 'gpt-4o-gizmo-abc', group: 'default' }
    expect(index([gizmo]).candidates(query).next(0, NONE)?.id).toBe(1)
    expect(index([gizmo, exact]).candidates(query).next(0, NONE)?.id).toBe(2)
    const off = channel({ id: 3, models: 'gpt-4o-gizmo-abc', status: 3 })
    const fallen = index([gizmo, off]).candidates(query)
    expect(fallen.next(0, NONE)?.id).toBe(1)
    expect(fallen.leftOut).toEqual([{ channelId: 3, reason: 'disabled automatically' }])
  })
  test('whoever is left out has a reason', () => {
    const { candidates, models } = index([
      channel({ id: 1, status: 2 }),
      channel({ id: 2, status: 3 }),
      channel({ id: 3, status: 0 }),
      channel({ id: 4, type: 3 }),
      channel({ id: 5, key: 'a\nb', channelInfo: multiKeyInfo('random', { 0: 2, 1: 3 }) }),
      { id: 6, groups: ['default'], models: ['m'], unusableReason: 'not supported' },
    ])
    const found = candidates({ model: 'm', group: 'default' })
    expect(found.isEmpty).toBe(true)
    expect(found.leftOut).toEqual([
      { channelId: 1, reason: 'disabled' },
      { channelId: 2, reason: 'disabled automatically' },
      { channelId: 3, reason: 'status 0' },
      { channelId: 4, reason: 'no base URL' },
      { channelId: 5, reason: 'all keys are disabled' },
      { channelId: 6, reason: 'not supported' },
    ])
    expect(models(['default'])).toEqual([])
  })
  test('model lists join groups and count only who can serve', () => {
    const { models } = index([
      channel({ id: 1, models: 'b,a', group: 'x' }),
      channel({ id: 2, models: 'c,a', group: 'y' }),
      channel({ id: 3, models: 'off', group: 'x', status: 2 }),
    ])
    expect(models(['x'])).toEqual(['a', 'b'])
    expect(models(['y', 'x', 'z'])).toEqual(['a', 'b', 'c'])
  })
})

describe('a channel named by the key', () => {
  const { candidates } = index([channel({ id: 1, models: 'other' }), channel({ id: 2, status: 2 })])
  test('it alone, whatever it offers, and only once', () => {
    const forced = candidates({ model: 'm', group: 'nobody', forcedChannelId: 1 })
    expect(forced.next(0, NONE)?.id).toBe(1)
    expect(forced.next(1, new Set([1]))).toBeUndefined()
  })
  test('missing is 400, disabled is 403', () => {
    expect(() => candidates({ model: 'm', group: 'g', forcedChannelId: 9 })).toThrow(
      expect.objectContaining({ status: 400 }),
    )
    expect(() => candidates({ model: 'm', group: 'g', forcedChannelId: 2 })).toThrow(
      expect.objectContaining({ status: 403, code: 'access_denied' }),
    )
  })
})

test('10,000 channels with 50 models each: a look-up costs microseconds, not a walk over the channels', () => {
  const names = Array.from({ length: 50 }, (_, n) => `model-${n}`).join(',')
  const members = Array.from({ length: 10_000 }, (_, n) =>
    channel({ id: n + 1, models: names, group: 'default,vip', weight: (n % 7) + 1, priority: n % 3 }),
  )
  const { candidates } = index(members)
  candidates({ model: 'model-3', group: 'vip' }).next(0, NONE)
  const startedAt = performance.now()
  const calls = 10_000
  for (let n = 0; n < calls; n++) candidates({ model: 'model-3', group: 'vip' }).next(0, NONE)
  expect((performance.now() - startedAt) / calls).toBeLessThan(0.05)
}, 30_000)
