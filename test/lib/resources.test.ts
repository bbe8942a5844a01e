/** Load is judged from the process and its container, not from the machine's neighbours. */
import { expect, test } from 'bun:test'
import { totalmem } from 'node:os'
import { systemClock } from '../../src/lib/clock.ts'
import { createResourceMeter } from '../../src/lib/resources.ts'

const clockAt = () => {
  let ms = 0
  return { clock: { now: () => ms, monotonic: () => ms }, advance: (by: number) => (ms += by) }
}

test('a container with a limit gives the figures: CPU of what it may use, memory of what it may have', async () => {
  const { clock, advance } = clockAt()
  let group = { cpuMs: 5_000, memoryBytes: 100, memoryLimitBytes: 400 }
  const meter = createResourceMeter({ folder: '/', cpus: 2, clock, readGroup: async () => group })
  advance(1_000)
  await meter.read()
  group = { ...group, cpuMs: 6_000 }
  advance(1_000)
  const read = await meter.read()
  expect(read.container).toEqual({ cpuPercent: 50, memoryBytes: 100 })
  expect(read.memoryLimitBytes).toBe(400)
  expect(read.disk.totalBytes).toBeGreaterThan(0)
  expect(read.disk.freeBytes).toBeLessThanOrEqual(read.disk.totalBytes)
})

test('without a limit the process’s own use counts', async () => {
  const meter = createResourceMeter({
    folder: '/no such folder',
    cpus: 1,
    clock: systemClock,
    readGroup: async () => ({ cpuMs: 1, memoryBytes: 1, memoryLimitBytes: Infinity }),
  })
  const until = performance.now() + 30
  while (performance.now() < until);
  const read = await meter.read()
  expect(read.container).toBeUndefined()
  expect(read.cpuPercent).toBeGreaterThan(0)
  expect(read.cpuPercent).toBeLessThanOrEqual(100)
  expect(read.memoryBytes).toBeGreaterThan(1_000_000)
  expect(read.memoryLimitBytes).toBe(totalmem())
  expect(read.disk).toEqual({ totalBytes: 0, freeBytes: 0 })
})
