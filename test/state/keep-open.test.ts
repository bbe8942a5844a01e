/** What is to be kept open is opened again however it was lost, never twice at once, and never after the end. */
import { expect, test } from 'bun:test'
import { keepOpen } from '../../src/state/keep-open.ts'
import { eventually } from '../support/eventually.ts'

/** A thing that can refuse to open, fail its probe, and end by itself. */
function world({ isRefusing = false } = {}) {
  const seen = { open: 0, most: 0, opened: 0, ups: 0, downs: [] as string[] }
  const faults = { isRefusing, isDead: false, diesEarly: false }
  let endLast = (_error: unknown): void => undefined
  const kept = keepOpen<number>({
    async open(onEnd) {
      endLast = onEnd
      if (faults.isRefusing) throw new Error('refused')
      await Bun.sleep(1)
      if (faults.diesEarly) onEnd(new Error('early'))
      seen.open++
      seen.most = Math.max(seen.most, seen.open)
      return ++seen.opened
    },
    async probe() {
      if (faults.isDead) throw new Error('silent')
    },
    close: () => void seen.open--,
    onUp: () => void seen.ups++,
    onDown: (error) => void seen.downs.push((error as Error).message),
    probeEveryMs: 5,
    retryMinMs: 1,
    retryMaxMs: 4,
  })
  const isOpen = () => eventually('it is open', () => kept.current() !== undefined)
  return { seen, faults, kept, isOpen, end: (text: string) => endLast(new Error(text)) }
}

test('a probe that fails, an end by itself and a report of its user each lead to a new one', async () => {
  const { seen, faults, kept, isOpen, end } = world()
  await isOpen()
  faults.isDead = true
  await eventually('the silence is noticed', () => seen.downs.includes('silent'))
  faults.isDead = false
  await isOpen()
  end('ended')
  expect(kept.current()).toBeUndefined()
  await isOpen()
  const thing = kept.current()!
  kept.broke(thing, new Error('reported'))
  await isOpen()
  kept.broke(thing, new Error('late'))
  expect(kept.current()).not.toBe(thing)
  expect(seen.downs).toEqual(expect.arrayContaining(['silent', 'ended', 'reported']))
  expect(seen.downs).not.toContain('late')
  kept.close()
  expect(seen.most).toBe(1)
  expect(seen.open).toBe(0)
})

test('it is tried until it opens; what ends while it is being opened never counts as open', async () => {
  const { seen, faults, kept, isOpen } = world({ isRefusing: true })
  await eventually('several attempts', () => seen.downs.length > 3)
  faults.isRefusing = false
  faults.diesEarly = true
  await eventually('it died early', () => seen.downs.includes('early'))
  expect(seen.ups).toBe(0)
  faults.diesEarly = false
  await isOpen()
  kept.close()
  expect(seen.open).toBe(0)
})

test('after its end nothing is opened, and what was being opened is closed', async () => {
  const { seen, kept } = world()
  kept.close()
  await eventually('the opening is over', () => seen.opened === 1)
  await eventually('it is closed', () => seen.open === 0)
  expect(kept.current()).toBeUndefined()
  await Bun.sleep(20)
  expect(seen.opened).toBe(1)
})
