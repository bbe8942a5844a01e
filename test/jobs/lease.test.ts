/** Master jobs run on one process of a cluster at a time, and leave the lease free for the next. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createUnderLease } from '../../src/domain/cluster/index.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'

const never = new AbortController().signal

for (const engine of ENGINES) {
  describe(`the lease of a master job on ${engine.name}`, () => {
    let database: TestDb
    beforeAll(async () => {
      database = await engine.freshDb()
    }, 60_000)
    afterAll(() => database.close())

    const holder = (name: string) =>
      createUnderLease({ db: database.db, holder: name, log: silentLog, clock: systemClock })

    test('while one process works, another is refused at once; work of another name goes on beside it', async () => {
      const [a, b] = [holder('a'), holder('b')]
      const ran: string[] = []
      const release = Promise.withResolvers<void>()
      const started = Promise.withResolvers<void>()
      const running = a('job', never, async () => {
        started.resolve()
        await release.promise
        ran.push('a')
      })
      await started.promise
      expect(await b('job', never, async () => void ran.push('b'))).toBe(false)
      expect(await b('other job', never, async () => void ran.push('other'))).toBe(true)
      release.resolve()
      expect(await running).toBe(true)
      expect(ran).toEqual(['other', 'a'])
    })

    test('the lease is free after the work, also after work that fails', async () => {
      const [a, b] = [holder('a'), holder('b')]
      const failing = a('failing', never, async () => {
        throw new Error('no')
      })
      await expect(failing).rejects.toThrow('no')
      expect(await b('failing', never, async () => {})).toBe(true)
      expect(await a('failing', never, async () => {})).toBe(true)
    })

    test('work hears that the node stops', async () => {
      const stop = new AbortController()
      const a = holder('a')
      const running = a('stopped', stop.signal, (signal) => {
        const heard = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
        stop.abort()
        return heard
      })
      expect(await running).toBe(true)
    })
  })
}
