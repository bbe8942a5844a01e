/** A node refuses calls for what its own processes use, not for what its neighbours do, and does not flap. */
import { afterEach, describe, expect, test } from 'bun:test'
import { createLoadGuard, type LoadGuard, type LoadThresholds } from '../../../src/domain/cluster/index.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import type { Resources } from '../../../src/lib/resources.ts'
import { createMemoryState } from '../../../src/state/index.ts'

const GIB = 2 ** 30
const CALM: Resources = {
  cpuPercent: 1,
  memoryBytes: GIB / 10,
  memoryLimitBytes: GIB,
  container: undefined,
  disk: { totalBytes: 100 * GIB, freeBytes: 50 * GIB },
}
const USUAL: LoadThresholds = { isOn: true, cpu: 90, memory: 90, disk: 95 }

const open: { stop(): Promise<void> }[] = []
afterEach(async () => {
  for (const each of open.splice(0)) await each.stop()
})

/** Samples are taken when the test says so; the pace of its own is far beyond any test. */
function guardOf(options: { worker?: number; bus?: ReturnType<typeof createMemoryState> } = {}) {
  const bus = options.bus ?? createMemoryState({ clock: systemClock, log: silentLog })
  let now: Resources = CALM
  let thresholds = USUAL
  let changed: () => void = () => {}
  const guard: LoadGuard = createLoadGuard({
    bus,
    worker: options.worker ?? 0,
    read: async () => now,
    thresholds: () => thresholds,
    onThresholds(listener) {
      changed = listener
      return () => {}
    },
    clock: systemClock,
    log: silentLog,
    everyMs: 3_600_000,
  })
  open.push(guard)
  return {
    guard,
    /** Takes so many samples of this. @returns the verdict after each */
    async sees(sample: Partial<Resources>, times = 1) {
      now = { ...CALM, ...sample }
      const verdicts: ReturnType<LoadGuard['overload']>[] = []
      for (let count = 0; count < times; count++) {
        await guard.look()
        verdicts.push(guard.overload())
      }
      return verdicts
    },
    set(next: Partial<LoadThresholds>) {
      thresholds = { ...USUAL, ...next }
      changed()
    },
  }
}

describe('CPU', () => {
  test('counts when it stays high, not in a burst, and until it is clearly lower', async () => {
    const { sees } = guardOf()
    expect(await sees({ cpuPercent: 100 }, 2)).toEqual([undefined, undefined])
    expect(await sees({ cpuPercent: 0 })).toEqual([undefined])
    expect(await sees({ cpuPercent: 95 }, 3)).toEqual([undefined, undefined, 'cpu'])
    expect(await sees({ cpuPercent: 88 }, 4)).toEqual(['cpu', 'cpu', 'cpu', 'cpu'])
    expect(await sees({ cpuPercent: 10 })).toEqual([undefined])
  })

  test('is that of all workers of the node, as long as each is heard', async () => {
    const bus = createMemoryState({ clock: systemClock, log: silentLog })
    const [one, two] = [guardOf({ bus, worker: 0 }), guardOf({ bus, worker: 1 })]
    await two.sees({ cpuPercent: 48 })
    expect(await one.sees({ cpuPercent: 47 }, 3)).toEqual([undefined, undefined, 'cpu'])
    expect(one.guard.load()?.memoryBytes).toBe(2 * CALM.memoryBytes)
  })

  test('of a busy container whose other processes use it is not ours', async () => {
    const { sees } = guardOf()
    expect(await sees({ container: { cpuPercent: 100, memoryBytes: 1 } }, 4)).toEqual(Array(4).fill(undefined))
  })
})

describe('memory', () => {
  test('is the container’s, with what its connections take, where this node is what fills it', async () => {
    const { sees } = guardOf()
    const container = { cpuPercent: 0, memoryBytes: 0.95 * GIB }
    expect(await sees({ memoryBytes: 0.1 * GIB, container })).toEqual([undefined])
    expect(await sees({ memoryBytes: 0.6 * GIB, container })).toEqual(['memory'])
    expect(await sees({ memoryBytes: 0.6 * GIB, container: { ...container, memoryBytes: 0.87 * GIB } })).toEqual([
      'memory',
    ])
    expect(await sees({ memoryBytes: 0.6 * GIB, container: { ...container, memoryBytes: 0.8 * GIB } })).toEqual([
      undefined,
    ])
  })

  test('without a container is the node’s own of what the machine has', async () => {
    const { sees } = guardOf()
    expect(await sees({ memoryBytes: 0.91 * GIB })).toEqual(['memory'])
  })
})

test('a disk counts when its share is used and little room is left; a large one has room', async () => {
  const { sees } = guardOf()
  expect(await sees({ disk: { totalBytes: 1_000 * GIB, freeBytes: 20 * GIB } })).toEqual([undefined])
  expect(await sees({ disk: { totalBytes: 10 * GIB, freeBytes: 0.4 * GIB } })).toEqual(['disk'])
  expect(await sees({ disk: { totalBytes: 0, freeBytes: 0 } })).toEqual([undefined])
})

test('an edit of the options counts at once: switched off, or a threshold of 0, refuses nobody', async () => {
  const { guard, sees, set } = guardOf()
  await sees({ memoryBytes: GIB })
  expect(guard.overload()).toBe('memory')
  set({ isOn: false })
  expect(guard.overload()).toBeUndefined()
  set({})
  expect(guard.overload()).toBe('memory')
  set({ memory: 0 })
  expect(guard.overload()).toBeUndefined()
})
