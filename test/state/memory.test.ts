/** State in memory does not grow with keys that nobody asks for again. */
import { expect, test } from 'bun:test'
import { silentLog } from '../../src/lib/log.ts'
import { createMemoryState } from '../../src/state/index.ts'

test('expired keys leave in passing, without a timer', async () => {
  let nowMs = 0
  const state = createMemoryState({ clock: { now: () => nowMs, monotonic: () => nowMs }, log: silentLog })
  const heapBefore = process.memoryUsage().heapUsed
  for (let i = 0; i < 300_000; i++) {
    nowMs++
    await state.set(`key ${i} ${'x'.repeat(100)}`, 'v', 1_000)
  }
  Bun.gc(true)
  expect(process.memoryUsage().heapUsed - heapBefore).toBeLessThan(20 * 1024 * 1024)
  expect(await state.get(`key 299999 ${'x'.repeat(100)}`)).toBe('v')
}, 20_000)
