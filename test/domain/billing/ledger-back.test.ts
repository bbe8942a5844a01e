/** Databases that go back to what they were, and directories that are copied: each charge is applied once all the same. */
import { Database } from 'bun:sqlite'
import { describe, expect, test } from 'bun:test'
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { and, eq } from 'drizzle-orm'
import { type Db, DbError } from '../../../src/db/index.ts'
import type { Ledger } from '../../../src/domain/billing/index.ts'
import { type Log, silentLog } from '../../../src/lib/log.ts'
import { SERVER_ENGINE } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { handClock, sweepFor } from './hand-clock.ts'
import { copyAsOfNow } from './old-copies.ts'
import { codeOf, createWorld, type World, type WorldKey } from './world.ts'

/** With loops that run by themselves: the databases are looked at each second. */
const LEASE_MS = 1_500
/** Without. */
const DORMANT_MS = 6_000_000
const LATER = { isBatch: true, intervalMs: 600_000 } as const

const toldInto = (told: string[]): Log => {
  const log: Log = { ...silentLog, error: (msg) => told.push(msg), warn: (msg) => told.push(msg), child: () => log }
  return log
}
const isFlushed = (ledger: Ledger): boolean => ledger.stats().unflushedMain + ledger.stats().unflushedLog === 0
const flushed = (...ledgers: readonly Ledger[]) =>
  eventually('all is flushed', () => ledgers.every(isFlushed), { withinMs: 15_000 })

async function spending() {
  const world = await createWorld(SERVER_ENGINE!)
  const channel = await world.channel()
  const complete: string[] = []
  return {
    world,
    complete,
    async settle(ledger: Ledger, payer: WorldKey, quota: number, content = ''): Promise<void> {
      // While the database is another one, callers are asked to come again.
      const hold = await eventually('a hold', () => ledger.hold(payer, quota), { withinMs: 15_000 })
      const record = world.record(payer, channel, { content })
      await hold.settle({ quota, record })
      complete.push(record.requestId)
    },
    close: (options: Parameters<World['close']>[0] = {}) => world.close({ complete, upstream: complete, ...options }),
  }
}

if (SERVER_ENGINE)
  describe(`a database that goes back, ${SERVER_ENGINE.name}`, () => {
    test('what a promoted replica had not received is applied again, of living, new and ended instances', async () => {
      const { world, settle, close } = await spending()
      const payers = [await world.payer({ wallet: 1_000_000, key: 900_000 }), await world.payer({ wallet: 1_000_000 })]
      const told: string[] = []
      const open = (name: string) =>
        world.ledger({ leaseMs: LEASE_MS, dataDir: join(world.folder, name), log: toldInto(told) })
      const [busy, quiet, stopped] = [await open('busy'), await open('quiet'), await open('stopped')]
      const spend = async (ledger: Ledger, calls: number): Promise<void> => {
        for (let i = 0; i < calls; i++) await settle(ledger, payers[i % 2]!, 100 + i)
      }
      for (const ledger of [busy, quiet, stopped]) await spend(ledger, 5)
      await flushed(busy, quiet, stopped)
      const old = await copyAsOfNow(world.testDb)
      for (const ledger of [busy, quiet, stopped]) await spend(ledger, 10)
      const held = await busy.hold(payers[0]!, 50_000)
      const young = await open('young')
      await spend(young, 10)
      await flushed(busy, quiet, stopped, young)
      world.ledgers.delete(stopped)
      await stopped.drain(10_000)

      await old.putInPlace()
      await spend(busy, 5)
      await eventually(
        'the quiet ones have noticed',
        async () => {
          const { users } = world.db.tables
          const rows = await world.db.select().from(users)
          // Those of before, the lost ones of three that live, and those since then.
          return rows.reduce((sum, row) => sum + (row.requestCount ?? 0), 0) >= 15 + 10 + 10 + 10 + 5
        },
        { withinMs: 20_000 },
      )
      await settle(quiet, payers[0]!, 77)
      await held.release()
      expect(told).toContain('a database has gone back: what it lost is applied again')
      // The one that had stopped: its charges come with its next start.
      await open('stopped')
      await flushed(...world.ledgers)
      await close()
      await old.remove()
    }, 60_000)

    test('charges stay for ten leases after both databases had them, and leave when both were seen to have them', async () => {
      const { world, settle, complete, close } = await spending()
      const payer = await world.payer({ wallet: 1_000_000 })
      const leaseMs = 900
      const time = handClock()
      const told: string[] = []
      let isLogAway = false
      let asked = 0
      const logDb: Db = {
        ...world.db,
        select: ((...args: Parameters<Db['select']>) => {
          asked++
          if (isLogAway) throw new DbError('unavailable', 'away')
          return world.db.select(...args)
        }) as Db['select'],
      }
      const ledger = await world.ledger({ leaseMs, clock: time, log: toldInto(told), logDb })
      const big = 'x'.repeat(4_000)
      /** Waits until the log database was asked twice: whatever the first look allows has been done by then. */
      const looks = async (): Promise<void> => {
        const before = asked
        await eventually('the databases are looked at', () => asked >= before + 2, { withinMs: 15_000 })
      }
      const size = () => ledger.stats().outboxBytes
      for (let i = 0; i < 30; i++) await settle(ledger, payer, 100, big)
      await flushed(ledger)
      // Since when they are there is noted by now.
      await looks()
      time.passWall(3 * leaseMs)
      await looks()
      expect(size()).toBeGreaterThan(120_000)
      isLogAway = true
      // A look under way has the answer of before, and may still act on it.
      await looks()
      time.passWall(8 * leaseMs)
      await looks()
      expect(size()).toBeGreaterThan(120_000)
      isLogAway = false
      await eventually('they leave', () => size() < 60_000, { withinMs: 15_000 })
      expect(ledger.stats()).toMatchObject({ setAside: 0 })

      // What is no longer kept cannot be applied again: it does not fit.
      const { ledgerApplied } = world.db.tables
      const before = ledger.stats().instanceId
      await world.db
        .update(ledgerApplied)
        .set({ seq: 3, last: complete[2]! })
        .where(and(eq(ledgerApplied.instanceId, before), eq(ledgerApplied.part, 'main')))
      await eventually('another instance goes on', () => ledger.stats().instanceId !== before, { withinMs: 15_000 })
      expect(told).toContain('the database does not fit the outbox: its charges were set aside')
      await settle(ledger, payer, 5)
      await close({ setAside: 0 })
    }, 60_000)

    test('an outbox that takes too much room lets go of the oldest charges that are applied, and says so', async () => {
      const { world, settle, close } = await spending()
      const payer = await world.payer({ wallet: 1_000_000 })
      const told: string[] = []
      const ledger = await world.ledger({ leaseMs: LEASE_MS, keepBytes: 100_000, log: toldInto(told) })
      for (let i = 0; i < 60; i++) await settle(ledger, payer, 100, 'x'.repeat(4_000))
      const lines = () => told.filter((line) => line.includes('it takes too much room'))
      const isSmall = () => isFlushed(ledger) && ledger.stats().outboxBytes <= 100_000
      await eventually('it is small again, and said so', () => isSmall() && lines().length > 0, { withinMs: 15_000 })
      expect(lines()).toHaveLength(1)
      await close()
    }, 30_000)

    test('a new log database gets all rows that are kept, and goes on from the first of them if some are not', async () => {
      const { world, settle, complete } = await spending()
      const logs = await SERVER_ENGINE!.freshDb({ only: 'logs' })
      const payer = await world.payer({ wallet: 1_000_000 })
      const told: string[] = []
      const ledger = await world.ledger({ leaseMs: LEASE_MS, logDb: logs.db, log: toldInto(told) })
      const count = () => logs.db.$count(logs.db.tables.logs)
      const forget = async (): Promise<void> => {
        await logs.db.delete(logs.db.tables.logs)
        await logs.db.delete(logs.db.tables.ledgerApplied)
      }
      for (let i = 0; i < 8; i++) await settle(ledger, payer, 100)
      await flushed(ledger)
      await forget()
      await eventually('all rows are there again', async () => (await count()) === 8, { withinMs: 15_000 })
      expect(told).toContain('a database has gone back: what it lost is applied again')
      expect((await world.readUser(payer.userId)).requestCount).toBe(8)

      // An earlier life of which some are gone.
      const dataDir = join(world.folder, 'node-1')
      world.ledgers.delete(ledger)
      await ledger.drain(5_000)
      const raw = new Database(join(dataDir, 'ledger', '1.db'))
      const { base } = raw.query<{ base: number }, []>('select base from instances').get()!
      raw.run('delete from charges where id <= ?', [base + 5])
      raw.close()
      await forget()
      const next = await world.ledger({ leaseMs: LEASE_MS, logDb: logs.db, dataDir, log: toldInto(told) })
      await eventually('the kept rows are there', async () => (await count()) === 3, { withinMs: 15_000 })
      expect(told).toContain(
        'the log database has lost log rows that are no longer kept: going on from the first that is',
      )
      const rows = await logs.db.select().from(logs.db.tables.logs)
      expect(rows.map((row) => row.requestId).sort()).toEqual(complete.slice(5).sort())
      expect(next.stats().setAside).toBe(0)
      await world.close({ logDb: logs.db, isLogged: false, isExported: false })
      await logs.close()
    }, 60_000)

    test('a replica that names other charges gets nothing of the outbox', async () => {
      const { world, settle, complete, close } = await spending()
      const payer = await world.payer({ wallet: 1_000_000 })
      const ledger = await world.ledger({ leaseMs: LEASE_MS })
      for (let i = 0; i < 4; i++) await settle(ledger, payer, 100)
      await flushed(ledger)
      const before = ledger.stats().instanceId
      const { ledgerApplied } = world.db.tables
      await world.db.update(ledgerApplied).set({ seq: 2, last: 'of another' }).where(eq(ledgerApplied.part, 'main'))
      await eventually('another instance goes on', () => ledger.stats().instanceId !== before, { withinMs: 15_000 })
      await settle(ledger, payer, 50)
      await flushed(ledger)
      expect((await world.readUser(payer.userId)).usedQuota).toBe(450)
      expect(complete).toHaveLength(5)
      await close()
    }, 30_000)
  })

if (SERVER_ENGINE)
  describe(`copied directories, ${SERVER_ENGINE.name}`, () => {
    test('the start of a copy ends nobody: the original lives on, and what both have is charged once', async () => {
      const { world, settle, close } = await spending()
      const payer = await world.payer({ wallet: 10_000 })
      const [first, second] = [join(world.folder, 'original'), join(world.folder, 'copy')]
      const original = await world.ledger({ leaseMs: DORMANT_MS, flush: LATER, dataDir: first })
      await (await original.hold(payer, 5_000)).release()
      for (let i = 0; i < 3; i++) await settle(original, payer, 100)
      const id = original.stats().instanceId
      // Copying drops the lock of the original's process on its file; nobody else wants it here.
      cpSync(first, second, { recursive: true })
      const { clusterInstances, quotaAllotments } = world.db.tables
      const lives = async () =>
        (await world.db.select().from(clusterInstances).where(eq(clusterInstances.id, id)))[0]?.state
      // Also at its second start, when the file is its own.
      for (let start = 0; start < 2; start++) {
        const copy = await world.ledger({ leaseMs: DORMANT_MS, flush: LATER, dataDir: second })
        expect(await lives()).toBe('live')
        await settle(copy, payer, 10)
        world.ledgers.delete(copy)
        await copy.drain(10_000)
      }
      expect((await world.readUser(payer.userId)).usedQuota).toBe(320)
      expect(await world.db.$count(quotaAllotments, eq(quotaAllotments.instanceId, id))).toBe(1)
      // The original spends what it has and flushes: the charges that the copy brought are its own.
      const { acquires } = original.stats()
      for (let i = 0; i < 3; i++) await settle(original, payer, 1_000)
      expect(original.stats().acquires).toBeLessThanOrEqual(acquires + 1)
      await world.drainAll()
      expect((await world.readUser(payer.userId)).usedQuota).toBe(3_320)
      await close()
    }, 30_000)

    test('under another kernel a lock proves nothing: the earlier instance is flushed, and ended by the sweeper alone', async () => {
      const { world, settle, close } = await spending()
      const payer = await world.payer({ wallet: 10_000 })
      const dataDir = join(world.folder, 'node')
      const before = await world.ledger({ leaseMs: DORMANT_MS, flush: LATER, dataDir })
      await settle(before, payer, 100)
      const open = await before.hold(payer, 1_000)
      const id = before.stats().instanceId
      world.ledgers.delete(before)
      // With a hold that never ends, it leaves its rows behind as a kill does.
      await before.drain(500)
      await open.release()
      const raw = new Database(join(dataDir, 'ledger', '1.db'))
      raw.run("update meta set value = value || '-of-another-boot' where key = 'file'")
      raw.close()
      const time = handClock()
      const after = await world.ledger({ leaseMs: DORMANT_MS, dataDir, clock: time })
      const { clusterInstances } = world.db.tables
      const state = async () =>
        (await world.db.select().from(clusterInstances).where(eq(clusterInstances.id, id)))[0]?.state
      await flushed(after)
      expect((await world.readUser(payer.userId)).usedQuota).toBe(100)
      expect(await state()).toBe('draining')
      const alive = async (): Promise<void> => void (await codeOf(after.hold(payer, 1).then((hold) => hold.release())))
      await sweepFor(after, time, 2.1 * DORMANT_MS, DORMANT_MS, alive)
      expect(await state()).toBe('reclaimed')
      await (await after.hold(payer, 9_900)).release()
      await close()
    }, 30_000)

    test('what a killed worker left is taken by the next minute’s pass of another, or by the next start', async () => {
      for (const way of ['pass', 'start'] as const) {
        const { world, settle, close } = await spending()
        const payer = await world.payer({ wallet: 10_000 })
        const dataDir = join(world.folder, 'node')
        const killed = await world.ledger({ leaseMs: DORMANT_MS, flush: LATER, dataDir })
        const other = await world.ledger({ leaseMs: way === 'pass' ? LEASE_MS : DORMANT_MS, dataDir })
        await settle(killed, payer, 100)
        const open = await killed.hold(payer, 1_000)
        const id = killed.stats().instanceId
        world.ledgers.delete(killed)
        // As after a kill: nothing more of it is flushed or returned.
        await killed.drain(0)
        await open.release()
        const { users, quotaAllotments } = world.db.tables
        const isSettled = async () =>
          (await world.db.select().from(users))[0]?.usedQuota === 100 &&
          (await world.db.$count(quotaAllotments, eq(quotaAllotments.instanceId, id))) === 0
        if (way === 'start') {
          world.ledgers.delete(other)
          await other.drain(10_000)
          expect(await isSettled()).toBe(false)
          await world.ledger({ leaseMs: DORMANT_MS, dataDir })
        }
        await eventually('charged and returned', isSettled, { withinMs: 15_000 })
        await close()
      }
    }, 40_000)
  })
