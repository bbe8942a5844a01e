/** What is in memory follows the database: at once by message, within a moment without one, and never to nothing. */
import { expect, test } from 'bun:test'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { createMemoryState, createSnapshot, createTopics, type State, type Topics } from '../../src/state/index.ts'
import { eventually } from '../support/eventually.ts'

/** A database of one value and its version, and a bus that can be cut. */
function world() {
  const bus = createMemoryState({ clock: systemClock, log: silentLog })
  const stored = { value: 'first', version: 1, isGone: false, loads: 0 }
  const load = async (): Promise<string> => {
    stored.loads++
    const { value, isGone } = stored
    await Bun.sleep(2)
    if (isGone) throw new Error('the database is away')
    return value
  }
  const node = (options: { state?: State; everyMs?: number; fullReloadMs?: number } = {}): Topics =>
    createTopics({
      state: options.state ?? bus,
      readVersions: async () => {
        if (stored.isGone) throw new Error('the database is away')
        return new Map([['things', stored.version]])
      },
      everyMs: options.everyMs ?? 60_000,
      fullReloadMs: options.fullReloadMs ?? 60_000,
      log: silentLog,
      clock: systemClock,
    })
  const snapshot = (topics: Topics) =>
    createSnapshot({ name: 'things', topic: 'things', load, topics, log: silentLog, clock: systemClock })
  const write = (value: string): void => {
    stored.value = value
    stored.version++
  }
  return { stored, node, snapshot, write }
}

const deaf = (): State => createMemoryState({ clock: systemClock, log: silentLog })

test('who changed something reads it at once; another node hears it from the bus', async () => {
  const { node, snapshot, write } = world()
  const [here, there] = [node(), node()]
  const [mine, theirs] = [snapshot(here), snapshot(there)]
  await Promise.all([mine.ready(), theirs.ready()])
  write('second')
  await here.changed('things')
  expect(mine.get()).toBe('second')
  await eventually('the other node has it', () => theirs.get() === 'second')
  await Promise.all([here.stop(), there.stop()])
})

test('a node that hears nothing finds the change by its version, and reloads only then', async () => {
  const { stored, node, snapshot, write } = world()
  const topics = node({ state: deaf(), everyMs: 5 })
  const things = snapshot(topics)
  await things.ready()
  topics.start()
  await Bun.sleep(40)
  expect(stored.loads).toBe(1)
  write('second')
  await eventually('the change is found', () => things.get() === 'second')
  await topics.stop()
})

test('an edit behind our back, without a version, is found by the full reload', async () => {
  const { stored, node, snapshot } = world()
  const topics = node({ state: deaf(), everyMs: 5, fullReloadMs: 30 })
  const things = snapshot(topics)
  await things.ready()
  topics.start()
  stored.value = 'edited'
  await eventually('the edit is found', () => things.get() === 'edited')
  await topics.stop()
})

test('a failed reload keeps the last good value, and the next chance mends it', async () => {
  const { stored, node, snapshot, write } = world()
  const topics = node({ everyMs: 5 })
  const things = snapshot(topics)
  await things.ready()
  topics.start()
  write('second')
  stored.isGone = true
  await topics.changed('things')
  expect(things.get()).toBe('first')
  await expect(things.reload()).rejects.toThrow('away')
  stored.isGone = false
  await eventually('the value is the new one', () => things.get() === 'second')
  await topics.stop()
})

test('a change during a reload is not missed: it starts another, and many at once share it', async () => {
  const { stored, node, snapshot, write } = world()
  const topics = node()
  const things = snapshot(topics)
  await things.ready()
  const loadsBefore = stored.loads
  const running = topics.changed('things')
  write('second')
  await Promise.all([running, ...Array.from({ length: 50 }, () => topics.changed('things'))])
  expect(things.get()).toBe('second')
  expect(stored.loads - loadsBefore).toBe(2)
  await topics.stop()
})

test('a snapshot cannot be read before it is loaded, tries its first load again, and tells of each later one', async () => {
  const { stored, node, snapshot, write } = world()
  const topics = node()
  const things = snapshot(topics)
  const heard: string[] = []
  things.onChange(() => heard.push(things.get()))
  expect(() => things.get()).toThrow('before its first load')
  expect(things.ageMs()).toBe(Infinity)
  stored.isGone = true
  await expect(things.ready()).rejects.toThrow('away')
  stored.isGone = false
  await things.ready()
  expect(heard).toEqual([])
  write('second')
  await topics.changed('things')
  expect(heard).toEqual(['second'])
  expect(things.ageMs()).toBeLessThan(5_000)
  things.close()
  await topics.changed('things')
  expect(heard).toEqual(['second'])
  await topics.stop()
})
