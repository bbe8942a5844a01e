/** Master jobs run on one process of a cluster at a time, and another takes over when it ends, dies or stands still. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createMasterLease } from '../../src/jobs/master-lease.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'

const TTL_MS = 600
const never = new AbortController().signal

for (const engine of ENGINES) {
  describe(`the lease of the master jobs on ${engine.name}`, () => {
    let database: TestDb
    beforeAll(async () => {
      database = await engine.freshDb()
    }, 60_000)
    afterAll(() => database.close())

    const open = (holder: string, clock = systemClock) =>
      createMasterLease({ db: database.db, holder, log: silentLog, clock, ttlMs: TTL_MS })

    test('one holder works, the other is told so, until the first gives up', async () => {
      const [a, b] = [open('a'), open('b')]
      const ran: string[] = []
      const work = (name: string) => async () => void ran.push(name)
      expect(await a.run(never, work('a'))).toBe(true)
      expect(await b.run(never, work('b'))).toBe(false)
      await Bun.sleep(TTL_MS * 1.5)
      // It was renewed meanwhile.
      expect(await b.run(never, work('b'))).toBe(false)
      await a.close()
      expect(await b.run(never, work('b'))).toBe(true)
      expect(ran).toEqual(['a', 'b'])
      await b.close()
    })

    test('a holder that stood still for longer than the lease does not go on, and what it was doing is aborted', async () => {
      let offsetMs = 0
      const a = open('a', { now: systemClock.now, monotonic: () => systemClock.monotonic() + offsetMs })
      const aborted = Promise.withResolvers<void>()
      const started = Promise.withResolvers<void>()
      const running = a.run(never, (signal) => {
        signal.addEventListener('abort', () => aborted.resolve())
        started.resolve()
        return aborted.promise
      })
      await started.promise
      // As if the process had been frozen and another had taken the lease in the meantime.
      const { leases } = database.db.tables
      await database.db.changes(database.db.update(leases).set({ holder: '', expiresAtMs: 0 }))
      const b = open('b')
      expect(await b.run(never, async () => {})).toBe(true)
      offsetMs = TTL_MS * 2
      await expect(running).rejects.toThrow()
      expect(await a.run(never, async () => {})).toBe(false)
      await a.close()
      await b.close()
    })

    test('a holder that dies is followed within two leases', async () => {
      const dead = open('dead', { now: systemClock.now, monotonic: systemClock.monotonic })
      expect(await dead.run(never, async () => {})).toBe(true)
      // Its renewals end as if it were gone: the row is left as it was.
      const { leases } = database.db.tables
      await database.db.changes(database.db.update(leases).set({ holder: 'gone' }))
      const next = open('next')
      const startedAt = performance.now()
      await eventually('another takes over', () => next.run(never, async () => {}), { withinMs: TTL_MS * 4 })
      expect(performance.now() - startedAt).toBeLessThan(TTL_MS * 2)
      await dead.close()
      await next.close()
    })
  })
}
