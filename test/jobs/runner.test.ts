/** Background work runs one run at a time, on the nodes it belongs to, and ends when the node does. */
import { expect, test } from 'bun:test'
import type { Job } from '../../src/jobs/index.ts'
import { createJobRunner } from '../../src/jobs/runner.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { roleOf } from '../../src/role.ts'
import { eventually } from '../support/eventually.ts'

const job = (parts: Partial<Job> & Pick<Job, 'run'>): Job => ({
  name: 'work',
  everyMs: 5,
  on: 'every-node',
  timeoutMs: 5_000,
  ...parts,
})

function runner(jobs: readonly Job[], options: { nodeType?: string; holdsLease?: () => boolean } = {}) {
  const failures: unknown[] = []
  const said: string[] = []
  const leases: string[] = []
  const created = createJobRunner({
    jobs,
    role: roleOf(options.nodeType ?? 'master'),
    takeTurn: async ({ name, periodMs }, signal, work) => {
      leases.push(name)
      if (!(options.holdsLease?.() ?? true)) return { isRun: false, againMs: periodMs }
      await work(signal, { fence: async () => {} })
      return { isRun: true, againMs: periodMs }
    },
    log: {
      ...silentLog,
      error: (_msg, fields) => failures.push(fields),
      warn: (msg) => void said.push(msg),
      info: (msg) => void said.push(msg),
    },
    clock: systemClock,
  })
  return { ...created, failures, leases, said }
}

test('a run that takes longer than its period is not overtaken by the next', async () => {
  let running = 0
  let most = 0
  let runs = 0
  const jobs = runner([
    job({
      everyMs: 1,
      async run() {
        most = Math.max(most, ++running)
        await Bun.sleep(10)
        running--
        runs++
      },
    }),
  ])
  jobs.start()
  await Promise.all([jobs.runNow('work'), jobs.runNow('work')])
  await eventually('some runs', () => runs >= 5)
  await jobs.stop()
  expect(most).toBe(1)
})

test('a job that fails is logged, reported, and comes again', async () => {
  let runs = 0
  const jobs = runner([
    job({
      async run() {
        if (++runs === 1) throw new Error('first time')
      },
    }),
  ])
  await expect(jobs.runNow('work')).rejects.toThrow('first time')
  expect(jobs.reports()[0]).toMatchObject({
    name: 'work',
    isRunning: false,
    lastError: expect.stringContaining('first time'),
  })
  jobs.start()
  await eventually('it ran again', () => runs >= 2 && jobs.reports()[0]!.lastError === undefined)
  await jobs.stop()
  expect(jobs.failures.length).toBe(1)
})

test('a job that fails for hours says so once, and that it works again', async () => {
  let isUp = false
  let runs = 0
  const away = Object.assign(new Error('gone'), { name: 'DbError', kind: 'unavailable' })
  const jobs = runner([
    job({
      everyMs: 1,
      on: 'master',
      async run() {
        runs++
        if (!isUp) throw away
      },
    }),
  ])
  jobs.start()
  await eventually('it failed often', () => runs >= 10)
  isUp = true
  await eventually('it works again', () => jobs.reports()[0]!.lastError === undefined)
  await jobs.stop()
  expect(jobs.failures).toEqual([])
  expect(jobs.said).toEqual(['a job waits for a database that is away', 'a job works again'])
})

test('a run past its time is aborted and counts as failed, even if it ends quietly', async () => {
  const jobs = runner([
    job({
      timeoutMs: 20,
      run: (signal) => new Promise((resolve) => signal.addEventListener('abort', () => resolve())),
    }),
  ])
  await expect(jobs.runNow('work')).rejects.toThrow('took longer than 20 ms')
  await jobs.stop()
})

test('a stop aborts what runs, waits for it, and nothing starts after it', async () => {
  let ended = 0
  const jobs = runner([
    job({
      everyMs: 1,
      async run(signal) {
        await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
        await Bun.sleep(10)
        ended++
      },
    }),
  ])
  jobs.start()
  await eventually('it runs', () => jobs.reports()[0]!.isRunning)
  await jobs.stop()
  expect(ended).toBe(1)
  await Bun.sleep(10)
  expect(ended).toBe(1)
  expect(jobs.failures).toEqual([])
})

test('master jobs run only on a master and only under the lease; jobs of every node run everywhere, without', async () => {
  const runs: string[] = []
  const both = [
    job({ name: 'shared', on: 'master', run: async () => void runs.push('shared') }),
    job({ name: 'own', run: async () => void runs.push('own') }),
  ]
  const slave = runner(both, { nodeType: 'slave' })
  await slave.runNow('own')
  await expect(slave.runNow('shared')).rejects.toThrow('no job shared')
  expect(slave.leases).toEqual([])
  const second = runner(both, { holdsLease: () => false })
  await second.runNow('shared')
  expect(second.leases).toEqual(['shared'])
  expect(runs).toEqual(['own'])
  const holder = runner(both)
  await holder.runNow('shared')
  expect(runs).toEqual(['own', 'shared'])
  await Promise.all([slave.stop(), second.stop(), holder.stop()])
})

test('a period of 0 pauses a job, also when an option turns to it while the node runs', async () => {
  const runs = { paused: 0, turned: 0, steady: 0 }
  let everyMs = 1
  const jobs = runner([
    job({ name: 'paused', everyMs: 0, run: async () => void runs.paused++ }),
    job({ name: 'turned', everyMs: () => everyMs, run: async () => void runs.turned++ }),
    job({ name: 'steady', everyMs: 1, run: async () => void runs.steady++ }),
  ])
  jobs.start()
  await eventually('the other runs', () => runs.turned > 0)
  everyMs = 0
  const { turned, steady } = { ...runs }
  await eventually('the steady one goes on', () => runs.steady > steady + 20)
  expect(runs.turned).toBeLessThanOrEqual(turned + 1)
  expect(runs.paused).toBe(0)
  await jobs.stop()
})
