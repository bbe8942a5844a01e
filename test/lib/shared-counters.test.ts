/** Counters that processes share: no number twice, none left out, and a start that does not depend on them. */
import { expect, test } from 'bun:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Log, silentLog } from '../../src/lib/log.ts'
import { openCounters } from '../../src/lib/shared-counters.ts'

const COUNTS = 20_000

test('processes that count at once get each number once', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-counters-'))
  try {
    const path = join(folder, 'data', 'turns')
    const program = `
      const { openCounters } = await import(${JSON.stringify(join(import.meta.dir, '../../src/lib/shared-counters.ts'))})
      const counters = openCounters(${JSON.stringify(path)}, { warn: (text) => { throw new Error(text) } })
      console.log(JSON.stringify(Array.from({ length: ${COUNTS} }, () => counters.next(7))))`
    const processes = Array.from({ length: 3 }, () =>
      Bun.spawn([process.execPath, '--no-env-file', '-e', program], { stderr: 'inherit' }),
    )
    const counted = await Promise.all(processes.map((one) => new Response(one.stdout).json() as Promise<number[]>))
    const distinct = new Set(counted.flat())
    expect([distinct.size, distinct.has(0), openCounters(path, silentLog).next(7)]).toEqual([
      3 * COUNTS,
      true,
      3 * COUNTS,
    ])
    expect(openCounters(path, silentLog).next(8)).toBe(0)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}, 30_000)

test('where there can be no file a process counts alone, and says so', () => {
  const warned: string[] = []
  const log: Log = { ...silentLog, warn: (text) => void warned.push(text) }
  const counters = openCounters('/dev/null/turns', log)
  expect([counters.next(1), counters.next(1), counters.next(2), warned.length]).toEqual([0, 1, 0, 1])
})
