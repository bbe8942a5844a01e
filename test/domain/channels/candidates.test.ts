import { describe, expect, test } from 'bun:test'
import type { ChannelGate } from '../../../src/domain/channels/breakers.ts'
import { createCandidateIndex, type Member } from '../../../src/domain/channels/candidates.ts'
import type { Channel } from '../../../src/domain/channels/channel.ts'
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

describe('an operation that not every provider offers', () => {
  const able = channel({ id: 1, weight: 1 }).provider
  const operation = { name: 'embeddings', isOffered: (provider: typeof able) => provider === able }
  const query = { model: 'm', group: 'default', operation }

  test('the others are passed over, with the reason; weights and tiers stay as they are', () => {
    const { candidates } = index([
      channel({ id: 1, type: 14, priority: 10, weight: 9 }),
      channel({ id: 2, priority: 5, weight: 1 }),
      channel({ id: 3, priority: 5, weight: 3 }),
      channel({ id: 4, priority: 5 }),
    ])
    const found = candidates(query)
    const counts = new Map<number, number>()
    for (let n = 0; n < DRAWS; n++) {
      const id = found.next(1, NONE)?.id ?? 0
      counts.set(id, (counts.get(id) ?? 0) + 1)
    }
    expect([...counts.keys()].sort()).toEqual([2, 3])
    expect((counts.get(3) ?? 0) / DRAWS).toBeCloseTo(0.75, 1)
    expect(found.next(0, new Set([2]))?.id).toBe(3)
    expect(found.leftOut).toContainEqual({ channelId: 1, reason: 'does not offer embeddings' })
    expect(candidates({ model: 'm', group: 'default' }).next(0, NONE)?.id).toBe(1)
  })
  test('where nobody offers it the model is served all the same, but there is nobody to try', () => {
    const found = index([channel({ id: 1, type: 14 })]).candidates(query)
    expect(found.isEmpty).toBe(false)
    expect([found.next(0, NONE), found.any()]).toEqual([undefined, undefined])
    const forced = index([channel({ id: 1, type: 14 })]).candidates({ ...query, forcedChannelId: 1 })
    expect([forced.next(0, NONE), forced.any()]).toEqual([undefined, undefined])
  })
})

describe('thousands that cool down', () => {
  const CROWD = 2_000
  const members = Array.from({ length: CROWD }, (_, n) => channel({ id: n + 1, weight: 1 + (n % 3), priority: n % 2 }))
  /** Every channel but these cools down; one of those is ready to be tried out. */
  const gateOf = (warm: readonly number[], ready?: number) => {
    const asked = new Set<number>()
    const isCooling = ({ id }: Channel): boolean => !warm.includes(id)
    const gate: ChannelGate = {
      isQuiet: () => false,
      cooling: () => members.map(({ id }) => id).filter((id) => !warm.includes(id)),
      isCooling,
      enter: (channel) => {
        expect(asked.has(channel.id)).toBe(false)
        asked.add(channel.id)
        return !isCooling(channel) || channel.id === ready
      },
      leave: () => {},
      untilMs: ({ id }) => (id === 77 ? 1 : 2),
    }
    return createCandidateIndex(members, seeded(), gate).candidates({ model: 'm', group: 'default' })
  }
  test('the one that does not is found, each is asked once, and a few are named', () => {
    const found = gateOf([1_234])
    expect(found.next(0, NONE)?.id).toBe(1_234)
    expect(found.leftOut).toHaveLength(20)
  })
  test('else one that is ready to be tried out, else the one that is soonest over', () => {
    expect(gateOf([], 1_001).next(0, NONE)?.id).toBe(1_001)
    expect(gateOf([]).next(0, NONE)?.id).toBe(77)
    expect(gateOf([5]).next(0, new Set([5]))?.id).toBe(77)
  })
})

test('an index after many changes says what one made anew says', () => {
  const random = seeded(7)
  const pick = (count: number): number => Math.floor(random() * count)
  const some = (names: readonly string[]): string => names.filter(() => random() < 0.5).join(',')
  const fresh = (id: number): Channel =>
    channel({ id, models: some(['a', 'b', 'c']), group: some(['x', 'y']), status: 1 + pick(2), priority: pick(2) })
  let members = new Map<number, Member>(Array.from({ length: 8 }, (_, n) => [n * 2, fresh(n * 2)]))
  let changed = index([...members.values()])
  for (let round = 0; round < 200; round++) {
    const next = new Map(members)
    const changes = [...new Set([pick(20), pick(20)])].map((id) => {
      const after = random() < 0.3 ? undefined : fresh(id)
      if (after) next.set(id, after)
      else next.delete(id)
      return { before: members.get(id), after }
    })
    const before = changed
    const beforeModels = before.models(['x', 'y'])
    changed = before.with(changes)
    members = next
    const anew = index([...members.values()].sort((a, b) => a.id - b.id))
    expect([...changed.groups].sort()).toEqual([...anew.groups].sort())
    for (const group of ['x', 'y']) {
      expect(changed.models([group])).toEqual(anew.models([group]))
      for (const model of ['a', 'b', 'c']) {
        const [found, wanted] = [changed, anew].map((each) => each.candidates({ model, group }))
        expect(found!.leftOut).toEqual(wanted!.leftOut)
        expect(found!.any()).toBe(wanted!.any())
      }
    }
    for (let id = 0; id < 20; id++) expect(changed.find(id)).toBe(members.get(id) as Channel)
    // The one before is what it was.
    expect(before.models(['x', 'y'])).toEqual(beforeModels)
  }
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
