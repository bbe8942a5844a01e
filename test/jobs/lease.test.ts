/** Master jobs run on one process of a cluster at a time, once per period over all of them, by the database's time. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { createTakeTurn, type Turn } from '../../src/domain/cluster/index.ts'
import { type Clock, systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'

const never = new AbortController().signal
const HOUR_MS = 3_600_000

for (const engine of ENGINES) {
  describe(`the turns of a master job on ${engine.name}`, () => {
    let database: TestDb
    beforeAll(async () => {
      database = await engine.freshDb()
    }, 60_000)
    afterAll(() => database.close())

    const holder = (name: string, options: { readonly ttlMs?: number; readonly clock?: Clock } = {}) =>
      createTakeTurn({ db: database.db, holder: name, ttlMs: 60_000, log: silentLog, clock: systemClock, ...options })
    const row = async (name: string) => {
      const { leases } = database.db.tables
      const [found] = await database.db.select().from(leases).where(eq(leases.name, name))
      return found!
    }

    test('while one process works, another is refused at once; work of another name goes on beside it', async () => {
      const [a, b] = [holder('a'), holder('b')]
      const ran: string[] = []
      const release = Promise.withResolvers<void>()
      const started = Promise.withResolvers<void>()
      const running = a({ name: 'job', periodMs: 1 }, never, async () => {
        started.resolve()
        await release.promise
        ran.push('a')
      })
      await started.promise
      const refused = await b({ name: 'job', periodMs: 1 }, never, async () => void ran.push('b'))
      expect(refused.isRun).toBe(false)
      // It is looked at again when the lease could be over, however long the period is.
      expect(refused.againMs).toBeLessThanOrEqual(60_000)
      expect((await b({ name: 'other', periodMs: 1 }, never, async () => void ran.push('other'))).isRun).toBe(true)
      release.resolve()
      expect((await running).isRun).toBe(true)
      expect(ran).toEqual(['other', 'a'])
    })

    test('what one process has done is not due for another before the period has passed, unless it is asked for', async () => {
      const [a, b] = [holder('a'), holder('b')]
      let runs = 0
      const work = async () => void runs++
      expect((await a({ name: 'once', periodMs: HOUR_MS }, never, work)).isRun).toBe(true)
      const second = await b({ name: 'once', periodMs: HOUR_MS }, never, work)
      expect(second.isRun).toBe(false)
      expect(second.againMs).toBeGreaterThan(HOUR_MS / 2)
      expect(second.againMs).toBeLessThanOrEqual(HOUR_MS)
      // An option that makes the period shorter is obeyed at once.
      expect(await eventually('due', async () => (await b({ name: 'once', periodMs: 1 }, never, work)).isRun)).toBe(
        true,
      )
      expect((await a({ name: 'once', periodMs: HOUR_MS, isNow: true }, never, work)).isRun).toBe(true)
      expect(runs).toBe(3)
      expect(await row('once')).toMatchObject({ runs: 3, holder: '', ranOn: 'a', failures: 0, lastError: '' })
    })

    test('of many processes that find a job due at one moment, one runs it', async () => {
      let runs = 0
      const holders = Array.from({ length: 8 }, (_, index) => holder(`h${index}`))
      const outcomes = await Promise.all(
        holders.map((take) => take({ name: 'crowd', periodMs: HOUR_MS }, never, async () => void runs++)),
      )
      expect(runs).toBe(1)
      expect(outcomes.filter(({ isRun }) => isRun).length).toBe(1)
    })

    test('work that fails is on record, does not count as the run of the period, and may be repeated by another', async () => {
      const [a, b] = [holder('a'), holder('b')]
      const failing = a({ name: 'failing', periodMs: 20 }, never, async () => {
        throw new Error('no luck')
      })
      await expect(failing).rejects.toThrow('no luck')
      expect(await row('failing')).toMatchObject({ runs: 0, failures: 1, goodAtMs: 0, lastError: 'Error: no luck' })
      await eventually(
        'another repeats it',
        async () => (await b({ name: 'failing', periodMs: 20 }, never, async () => {})).isRun,
      )
      expect(await row('failing')).toMatchObject({ runs: 1, failures: 0, lastError: '' })
      expect((await row('failing')).goodAtMs).toBeGreaterThan(0)
    })

    test('work that is cut short because its node stops is taken up by another at once', async () => {
      const stop = new AbortController()
      const running = holder('a')({ name: 'stopped', periodMs: HOUR_MS }, stop.signal, (signal) => {
        const heard = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
        stop.abort(new Error('the node is stopping'))
        return heard
      })
      await expect(running).rejects.toThrow('stopping')
      expect((await holder('b')({ name: 'stopped', periodMs: HOUR_MS }, never, async () => {})).isRun).toBe(true)
      expect(await row('stopped')).toMatchObject({ runs: 1, failures: 0, ranOn: 'b' })
    })

    test('a holder that renews too late finds its writes refused, its work aborted, and leaves no mark on the record', async () => {
      const { clusterMeta, leases } = database.db.tables
      const written = Promise.withResolvers<void>()
      let turn: Turn | undefined
      const frozen = holder('frozen', { ttlMs: 60_000 })(
        { name: 'frozen', periodMs: HOUR_MS },
        never,
        async (_signal, own) => {
          turn = own
          await database.db.transaction(async (tx) => {
            await own.fence(tx)
            await tx.insert(clusterMeta).values({ key: 'first', value: 'frozen' })
          })
          await written.promise
        },
      )
      await eventually('the first write is in', () => database.db.$count(clusterMeta, eq(clusterMeta.key, 'first')))
      // As if it had been silent for the whole lease.
      await database.db.update(leases).set({ expiresAtMs: 1 }).where(eq(leases.name, 'frozen'))
      expect((await holder('next')({ name: 'frozen', periodMs: HOUR_MS }, never, async () => {})).isRun).toBe(true)
      const late = database.db.transaction(async (tx) => {
        await turn!.fence(tx)
        await tx.insert(clusterMeta).values({ key: 'late', value: 'frozen' })
      })
      await expect(late).rejects.toThrow('taken over')
      expect(await database.db.$count(clusterMeta, eq(clusterMeta.key, 'late'))).toBe(0)
      written.resolve()
      await frozen
      expect(await row('frozen')).toMatchObject({ runs: 1, ranOn: 'next', holder: '' })
    })

    test('a wrong clock of a node moves nothing: only the database tells the time', async () => {
      const ahead: Clock = { ...systemClock, now: () => Date.now() + 24 * HOUR_MS }
      const behind: Clock = { ...systemClock, now: () => Date.now() - 24 * HOUR_MS }
      let runs = 0
      const work = async () => void runs++
      await holder('ahead', { clock: ahead })({ name: 'skewed', periodMs: HOUR_MS }, never, work)
      await holder('behind', { clock: behind })({ name: 'skewed', periodMs: HOUR_MS }, never, work)
      await holder('right')({ name: 'skewed', periodMs: HOUR_MS }, never, work)
      expect(runs).toBe(1)
    })

    test('work ends before another may begin when the database gives no answer at all', async () => {
      const { db } = database
      let isMute = false
      // A black hole: neither an answer nor an error, until it ends.
      const thaw = Promise.withResolvers<void>()
      const mute = {
        ...db,
        now: async () => {
          if (isMute) await thaw.promise
          return db.now()
        },
      }
      const take = createTakeTurn({ db: mute, holder: 'mute', ttlMs: 1_500, log: silentLog, clock: systemClock })
      const turn = take({ name: 'mute', periodMs: HOUR_MS }, never, async (signal) => {
        isMute = true
        await eventually('the work is told to end', () => signal.aborted, { withinMs: 20_000 })
        thaw.resolve()
        signal.throwIfAborted()
      })
      await expect(turn).rejects.toThrow('was lost')
      expect((await row('mute')).failures).toBe(1)
    }, 30_000)

    test('one renewal that fails costs nothing', async () => {
      let failures = 0
      const { db } = database
      const flaky = {
        ...db,
        // Every second renewal finds the database away.
        now: async () => {
          if (++failures % 2 === 0) throw new Error('away')
          return db.now()
        },
      }
      const take = createTakeTurn({ db: flaky, holder: 'flaky', ttlMs: 1_200, log: silentLog, clock: systemClock })
      let wasAborted = false
      const outcome = await take({ name: 'flaky', periodMs: HOUR_MS }, never, async (signal) => {
        await eventually('several renewals', () => failures >= 6, { withinMs: 20_000 })
        wasAborted = signal.aborted
      })
      expect([outcome.isRun, wasAborted]).toEqual([true, false])
    })
  })
}
