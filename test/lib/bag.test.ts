import { expect, test } from 'bun:test'
import { createBag, type Placed } from '../../src/lib/bag.ts'

const named = (name: string) => ({ name, place: -1 })
const namesIn = (bag: { each(call: (member: Placed & { name: string }) => void): void }): string[] => {
  const names: string[] = []
  bag.each(({ name }) => names.push(name))
  return names.sort()
}

test('members come and go in any order', () => {
  const bag = createBag<Placed & { name: string }>()
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map(named)
  for (const each of [a!, b!, c!, d!]) bag.add(each)
  bag.add(b!)
  expect(bag.size).toBe(4)
  expect(bag.delete(b!)).toBe(true)
  expect(bag.delete(b!)).toBe(false)
  expect(namesIn(bag)).toEqual(['a', 'c', 'd'])
  expect(bag.delete(d!)).toBe(true)
  expect(bag.delete(a!)).toBe(true)
  expect(namesIn(bag)).toEqual(['c'])
  bag.add(a!)
  expect(bag.delete(c!)).toBe(true)
  expect(bag.delete(a!)).toBe(true)
  expect(bag.size).toBe(0)
  expect(bag.delete(named('never in'))).toBe(false)
})

test('it agrees with a set, whatever comes', () => {
  const bag = createBag<Placed & { name: string }>()
  const set = new Set<Placed & { name: string }>()
  const all = Array.from({ length: 40 }, (_, n) => named(`m${n}`))
  let seed = 7
  const random = (below: number): number => {
    seed = (seed * 48_271) % 2_147_483_647
    return seed % below
  }
  for (let step = 0; step < 10_000; step++) {
    const member = all[random(all.length)]!
    if (random(2) === 0) {
      bag.add(member)
      set.add(member)
    } else expect(bag.delete(member)).toBe(set.delete(member))
    expect(bag.size).toBe(set.size)
  }
  expect(namesIn(bag)).toEqual([...set].map(({ name }) => name).sort())
})

test('who leaves while all are met keeps nobody from being met', () => {
  const bag = createBag<Placed & { name: string }>()
  const all = ['a', 'b', 'c', 'd', 'e'].map(named)
  for (const each of all) bag.add(each)
  const met = new Set<string>()
  bag.each((member) => {
    met.add(member.name)
    bag.delete(member)
    if (member.name === 'c') bag.delete(all[0]!)
  })
  expect([...met].sort()).toEqual(['b', 'c', 'd', 'e'])
  expect(bag.size).toBe(0)
})

test('who comes while all are met is left for the next time', () => {
  const bag = createBag<Placed & { name: string }>()
  bag.add(named('first'))
  bag.each(({ name }) => name === 'first' && bag.add(named('later')))
  expect(namesIn(bag)).toEqual(['first', 'later'])
})
