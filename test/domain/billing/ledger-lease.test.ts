/** An instance spends under a lease, and is ended by others when it was silent for two of them: several instances on one database. */
import { describe, expect, test } from 'bun:test'
import { join } from 'node:path'
import { eq } from 'drizzle-orm'
import { type Db, DbError } from '../../../src/db/index.ts'
import { type Ledger, quotaChanged } from '../../../src/domain/billing/index.ts'
import { createInstances } from '../../../src/domain/cluster/index.ts'
import { GatewayError } from '../../../src/errors.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { SERVER_ENGINE } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { handClock, sweepFor } from './hand-clock.ts'
import { codeOf, createWorld, execute, type World } from './world.ts'

/** So long that no loop of a ledger runs by itself during a test: time is what the clock by hand says. */
const LEASE_MS = 6_000_000
const LATER = { isBatch: true, intervalMs: 600_000 } as const

/** A `Db` that can be away; transactions that are under way end well. */
function fragile(db: Db) {
  const state = { isAway: false }
  const guard = <T>(work: () => T): T => {
    if (state.isAway) throw new DbError('unavailable', 'away')
    return work()
  }
  const wrapped: Db = {
    ...db,
    select: ((...args: Parameters<Db['select']>) => guard(() => db.select(...args))) as Db['select'],
    selectDistinct: ((...args: Parameters<Db['selectDistinct']>) =>
      guard(() => db.selectDistinct(...args))) as Db['selectDistinct'],
    changes: async (query) => guard(() => db.changes(query)),
    transaction: async (work, options) => guard(() => db.transaction(work, options)),
  }
  return { db: wrapped, state }
}

const rowOf = async (world: World, id: string) => {
  const { clusterInstances } = world.db.tables
  return (await world.db.select().from(clusterInstances).where(eq(clusterInstances.id, id)))[0]
}
const parkedAt = async (world: World, id: string): Promise<number> => {
  const { quotaAllotments } = world.db.tables
  const rows = await world.db.select().from(quotaAllotments).where(eq(quotaAllotments.instanceId, id))
  return rows.reduce((sum, row) => sum + row.amount, 0)
}
const idOf = (ledger: Ledger): string => ledger.stats().instanceId

/** A ledger that does nothing by itself, and another that sweeps and stays alive by the calls of somebody rich. */
async function frozenAndSweeper(world: World) {
  const rich = await world.payer({ wallet: 1_000_000 })
  const time = handClock()
  const sweeper = await world.ledger({ leaseMs: LEASE_MS, clock: time })
  const alive = async (): Promise<void> => (await sweeper.hold(rich, 1)).release()
  return {
    sweeper,
    time,
    watch: (leases: number) => sweepFor(sweeper, time, leases * LEASE_MS, LEASE_MS, alive),
  }
}

if (SERVER_ENGINE)
  describe(`lease on ${SERVER_ENGINE.name}`, () => {
    test('without a lease nothing is set aside, acquired or extended, while calls end and charges are flushed', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 10_000, key: 10_000 })
      const channel = await world.channel()
      const time = handClock()
      const { db: heartbeatDb, state } = fragile(world.db)
      const ledger = await world.ledger({ leaseMs: LEASE_MS, clock: time, heartbeatDb })
      const [first, second] = [await ledger.hold(payer, 1_000), await ledger.hold(payer, 1_000)]
      await Promise.all(Array.from({ length: 5 }, async () => (await ledger.hold(payer, 200)).release()))
      expect(ledger.stats().allotted).toBeGreaterThan(ledger.stats().held)
      // Only beats cannot get through: what else the database says is no proof that the instance lives.
      state.isAway = true
      await (await ledger.hold(payer, 1)).release()
      time.pass(LEASE_MS)
      const { acquires } = ledger.stats()
      for (const amount of [1, 5_000]) {
        const refusal = await ledger.hold(payer, amount).catch((error: unknown) => error)
        expect(refusal).toBeInstanceOf(GatewayError)
        expect(refusal).toMatchObject({ code: 'dependency_unavailable' })
        expect((refusal as GatewayError).retryAfterSec).toBeGreaterThan(0)
      }
      let isExtended = false
      const extended = second.extend(1).then((is) => {
        isExtended = is
      })
      await eventually('the extension waits', () => ledger.stats().waiting > 0)
      await first.settle({ quota: 900, record: world.record(payer, channel) })
      await eventually('the charge is in the books', async () => (await world.readUser(payer.userId)).usedQuota === 900)
      expect(ledger.stats().acquires).toBe(acquires)
      expect(ledger.stats().leaseLeftMs).toBeLessThan(0)
      // A call that needs no money needs no lease.
      await (await ledger.hold(payer, 0)).release()
      expect(isExtended).toBe(false)
      state.isAway = false
      await extended
      expect(isExtended).toBe(true)
      await second.release()
      await (await ledger.hold(payer, 1)).release()
      expect(ledger.stats().leaseLeftMs).toBeGreaterThan(0)
      await world.close()
    }, 30_000)

    for (const which of ['passMonotonic', 'passWall'] as const)
      test(`a lease that is over by one clock is over: the database is asked first (${which})`, async () => {
        const world = await createWorld(SERVER_ENGINE!)
        const payer = await world.payer({ wallet: 10_000 })
        const time = handClock()
        const ledger = await world.ledger({ leaseMs: LEASE_MS, clock: time })
        const beat = async () => (await rowOf(world, idOf(ledger)))?.beat
        await (await ledger.hold(payer, 100)).release()
        const before = await beat()
        time[which](LEASE_MS - 1_000)
        await (await ledger.hold(payer, 100)).release()
        expect(await beat()).toBe(before!)
        time[which](1_000)
        await (await ledger.hold(payer, 100)).release()
        expect(await beat()).toBe(before! + 1)
        await world.close()
      }, 30_000)

    test('a lease counts from before its heartbeat was sent', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 10_000 })
      const time = handClock()
      const heartbeatDb: Db = {
        ...world.db,
        async changes(query) {
          const result = await world.db.changes(query)
          time.pass(LEASE_MS / 2)
          return result
        },
      }
      const ledger = await world.ledger({ leaseMs: LEASE_MS, clock: time, heartbeatDb })
      time.pass(LEASE_MS)
      await (await ledger.hold(payer, 1)).release()
      expect(ledger.stats().leaseLeftMs).toBeLessThanOrEqual(LEASE_MS / 2)
      expect(ledger.stats().leaseLeftMs).toBeGreaterThan(0)
      await world.close()
    }, 30_000)

    test('heartbeats go on while every other connection is busy, each with the instance’s own next number', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const busy = await world.testDb.open({ pool: { maxOpen: 1 } })
      const ledger = await world.ledger({ leaseMs: 900, db: busy, heartbeatDb: world.db })
      const free = Promise.withResolvers<void>()
      const work = busy.transaction(() => free.promise, { deadlineMs: 30_000 })
      const { clusterInstances } = world.db.tables
      const beat = async () => (await rowOf(world, idOf(ledger)))?.beat ?? 0
      const before = await beat()
      await eventually('it beats on', async () => (await beat()) >= before + 3, { withinMs: 15_000 })
      // A database that went back has older numbers; the instance's own go on.
      await world.db.update(clusterInstances).set({ beat: 0 })
      await eventually('it goes on from its own', async () => (await beat()) >= before + 3, { withinMs: 15_000 })
      free.resolve()
      await work
      await world.drainAll()
      await busy.close()
      await world.close()
    }, 40_000)

    test('a row that somebody removed is written again by the next heartbeat, with the number it had', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const ledger = await world.ledger({ leaseMs: 900 })
      const beat = async () => (await rowOf(world, idOf(ledger)))?.beat ?? 0
      await eventually('it beats', async () => (await beat()) >= 2)
      const id = idOf(ledger)
      await world.db.delete(world.db.tables.clusterInstances)
      await eventually('the row is there', async () => (await beat()) >= 3)
      expect(idOf(ledger)).toBe(id)
      await world.close()
    }, 20_000)

    test('the nodes that work are counted from memory, two of one name as two and two workers as one', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const instance = (nodeId: string, worker: number) => ({
        instance: { node: 'same', worker, role: 'slave', version: 'test', info: { nodeId } },
      })
      const ledger = await world.ledger({ leaseMs: 900, ...instance('a', 0) })
      expect(ledger.liveNodes()).toBe(1)
      await world.ledger({ leaseMs: 900, ...instance('a', 1) })
      const other = await world.ledger({ leaseMs: 900, ...instance('b', 0) })
      await eventually(
        'two nodes, three instances',
        () => ledger.liveNodes() === 2 && ledger.stats().liveInstances === 3,
      )
      world.ledgers.delete(other)
      await other.drain(5_000)
      await eventually('one node', () => ledger.liveNodes() === 1)
      await world.close()
    }, 20_000)
  })

if (SERVER_ENGINE)
  describe(`sweeper on ${SERVER_ENGINE.name}`, () => {
    test('an instance that was silent for two leases is ended, not sooner, and what it had serves others', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 1_000, key: 1_000 })
      const frozen = await world.ledger({ leaseMs: LEASE_MS })
      await (await frozen.hold(payer, 1_000)).release()
      const id = idOf(frozen)
      const { sweeper, watch } = await frozenAndSweeper(world)
      await watch(1.9)
      expect(await rowOf(world, id)).toMatchObject({ state: 'live' })
      expect(await parkedAt(world, id)).toBe(2_000)
      await watch(0.2)
      expect(await rowOf(world, id)).toMatchObject({ state: 'reclaimed' })
      expect(await parkedAt(world, id)).toBe(0)
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 1_000 })
      await (await sweeper.hold(payer, 1_000)).release()
      await world.close()
    }, 30_000)

    test('whoever finds itself ended goes on as another; open holds settle there, old charges are applied once, from the balance', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      const thawing = handClock()
      const frozen = await world.ledger({ leaseMs: LEASE_MS, clock: thawing, flush: LATER })
      const complete: string[] = []
      const settle = async (hold: Awaited<ReturnType<Ledger['hold']>>, quota: number): Promise<void> => {
        const record = world.record(payer, channel)
        await hold.settle({ quota, record })
        complete.push(record.requestId)
      }
      const open = await frozen.hold(payer, 300)
      await settle(await frozen.hold(payer, 200), 200)
      const before = idOf(frozen)
      const { watch } = await frozenAndSweeper(world)
      await watch(2.1)
      expect(await rowOf(world, before)).toMatchObject({ state: 'reclaimed' })
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 1_000, usedQuota: 0 })
      thawing.pass(3 * LEASE_MS)
      const next = await frozen.hold(payer, 100)
      expect(idOf(frozen)).not.toBe(before)
      expect(await rowOf(world, idOf(frozen))).toMatchObject({ state: 'live' })
      await settle(open, 250)
      await settle(next, 100)
      await world.drainAll()
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 450, usedQuota: 550 })
      await world.close({ complete, upstream: complete })
    }, 30_000)

    test('a watch starts again after a gap in its own reading, by either clock, and with each new master', async () => {
      for (const pass of ['passMonotonic', 'passWall'] as const) {
        const world = await createWorld(SERVER_ENGINE!)
        const payer = await world.payer({ wallet: 1_000 })
        const frozen = await world.ledger({ leaseMs: LEASE_MS })
        const hold = await frozen.hold(payer, 500)
        const { time, watch } = await frozenAndSweeper(world)
        await watch(1.9)
        time[pass](LEASE_MS / 2)
        await watch(1.9)
        expect(await rowOf(world, idOf(frozen))).toMatchObject({ state: 'live' })
        // Another master has seen nothing yet.
        const other = await frozenAndSweeper(world)
        await other.watch(0.5)
        expect(await rowOf(world, idOf(frozen))).toMatchObject({ state: 'live' })
        await hold.release()
        await world.close()
      }
    }, 30_000)

    test('after an outage of any length nobody looks dead', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 1_000 })
      const time = handClock()
      const { db, state } = fragile(world.db)
      const sweeper = await world.ledger({ leaseMs: LEASE_MS, clock: time, db })
      const others = [await world.ledger({ leaseMs: LEASE_MS }), await world.ledger({ leaseMs: LEASE_MS })]
      const held = await others[0]!.hold(payer, 500)
      const signal = new AbortController().signal
      await sweepFor(sweeper, time, LEASE_MS, LEASE_MS)
      state.isAway = true
      for (let step = 0; step < 40; step++) {
        time.pass(LEASE_MS / 4)
        await expect(sweeper.sweep(signal)).rejects.toThrow('away')
      }
      state.isAway = false
      await sweepFor(sweeper, time, 1.5 * LEASE_MS, LEASE_MS)
      for (const ledger of [sweeper, ...others])
        expect(await rowOf(world, idOf(ledger))).toMatchObject({ state: 'live' })
      await held.release()
      await world.close()
    }, 30_000)

    test('a beat that comes at the last moment is faster than the sweeper', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const ledger = await world.ledger({ leaseMs: LEASE_MS })
      const instances = createInstances({ db: world.db, clock: systemClock })
      const [seen] = await instances.working()
      expect(await instances.beat(seen!.id, seen!.beat + 1)).toBe('live')
      expect(await instances.reclaim(seen!)).toBe(false)
      expect(await instances.reclaim({ id: seen!.id, beat: seen!.beat + 1 })).toBe(true)
      expect(await instances.reclaim({ id: seen!.id, beat: seen!.beat + 1 })).toBe(false)
      // And what has ended stays so.
      expect(await instances.beat(seen!.id, seen!.beat + 2)).toBe('reclaimed')
      expect(await instances.register(seen!.id, { node: 'n', worker: 0, role: '', version: '' }, 9)).toBe(false)
      expect(idOf(ledger)).toBe(seen!.id)
      await world.close()
    }, 30_000)

    test('two sweepers at once, and one that is cut off midway, return each row once', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payers = await Promise.all(Array.from({ length: 12 }, () => world.payer({ wallet: 1_000, key: 1_000 })))
      const frozen = await world.ledger({ leaseMs: LEASE_MS })
      for (const payer of payers) await (await frozen.hold(payer, 700)).release()
      const id = idOf(frozen)
      const [one, two] = [await frozenAndSweeper(world), await frozenAndSweeper(world)]
      await one.watch(1.9)
      await two.watch(1.9)
      for (const { time } of [one, two]) time.pass(LEASE_MS / 5)
      const cut = new AbortController()
      const cutOff = one.sweeper.sweep(cut.signal).catch((error: unknown) => error)
      await eventually('some rows are returned', async () => (await parkedAt(world, id)) < 24 * 700, { everyMs: 1 })
      cut.abort(new Error('cut off'))
      expect(String(await cutOff)).toContain('cut off')
      const signal = new AbortController().signal
      await Promise.all([one.sweeper.sweep(signal), two.sweeper.sweep(signal)])
      expect(await parkedAt(world, id)).toBe(0)
      for (const payer of payers) expect((await world.readUser(payer.userId)).quota).toBe(1_000)
      await world.close()
    }, 20_000)

    test('one account that cannot be written keeps nothing of the others at a dead instance', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payers = [
        await world.payer({ wallet: 100 }),
        await world.payer({ wallet: 100 }),
        await world.payer({ wallet: 100 }),
      ]
      const frozen = await world.ledger({ leaseMs: LEASE_MS })
      for (const payer of payers) await (await frozen.hold(payer, 100)).release()
      const { sweeper, time, watch } = await frozenAndSweeper(world)
      await watch(1.9)
      await execute(
        SERVER_ENGINE!,
        world,
        "alter table users add constraint stuck check (username <> 'user-1' or quota < 50)",
      )
      time.pass(LEASE_MS / 5)
      await expect(sweeper.sweep(new AbortController().signal)).rejects.toThrow()
      expect((await world.readUser(payers[1]!.userId)).quota).toBe(100)
      expect((await world.readUser(payers[2]!.userId)).quota).toBe(100)
      await execute(SERVER_ENGINE!, world, 'alter table users drop constraint stuck')
      await watch(0)
      expect((await world.readUser(payers[0]!.userId)).quota).toBe(100)
      await world.close()
    }, 30_000)

    test('an instance that froze with a lock on its row keeps the sweeper from no other, and is ended when the lock is gone', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payers = [await world.payer({ wallet: 100 }), await world.payer({ wallet: 100 })]
      const frozen = [await world.ledger({ leaseMs: LEASE_MS }), await world.ledger({ leaseMs: LEASE_MS })]
      for (const n of [0, 1]) await (await frozen[n]!.hold(payers[n]!, 100)).release()
      const { sweeper, time, watch } = await frozenAndSweeper(world)
      await watch(1.9)
      const { clusterInstances } = world.db.tables
      const locked = Promise.withResolvers<void>()
      const letGo = Promise.withResolvers<void>()
      const freezing = world.db.transaction(
        async (tx) => {
          await tx.lock(
            tx
              .select({ id: clusterInstances.id })
              .from(clusterInstances)
              .where(eq(clusterInstances.id, idOf(frozen[0]!))),
          )
          locked.resolve()
          await letGo.promise
        },
        { deadlineMs: 60_000 },
      )
      await locked.promise
      time.pass(LEASE_MS / 5)
      await expect(sweeper.sweep(new AbortController().signal)).rejects.toThrow()
      expect(await world.readUser(payers[1]!.userId)).toMatchObject({ quota: 100 })
      letGo.resolve()
      await freezing
      await watch(0)
      expect(await world.readUser(payers[0]!.userId)).toMatchObject({ quota: 100 })
      await world.close()
    }, 30_000)

    test('money of an instance without a row is watched like that of a silent one, and never given to it again', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 1_000 })
      const thawing = handClock()
      const lost = await world.ledger({ leaseMs: LEASE_MS, clock: thawing })
      await (await lost.hold(payer, 400)).release()
      const before = idOf(lost)
      const { clusterInstances } = world.db.tables
      const { watch } = await frozenAndSweeper(world)
      await world.db.delete(clusterInstances).where(eq(clusterInstances.id, before))
      await watch(1.9)
      expect(await parkedAt(world, before)).toBe(400)
      await watch(0.2)
      expect(await parkedAt(world, before)).toBe(0)
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 1_000 })
      thawing.pass(LEASE_MS)
      await (await lost.hold(payer, 10)).release()
      expect(idOf(lost)).not.toBe(before)
      await world.close()
    }, 30_000)

    test('an instance that starts while the sweeper looks is not taken for a dead one', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 1_000 })
      let starting: (() => Promise<void>) | undefined
      const db: Db = {
        ...world.db,
        selectDistinct: ((...args: Parameters<Db['selectDistinct']>) => {
          const query = world.db.selectDistinct(...args)
          return {
            from: async (table: Parameters<typeof query.from>[0]) => {
              await starting?.()
              return query.from(table)
            },
          }
        }) as unknown as Db['selectDistinct'],
      }
      const sweeper = await world.ledger({ leaseMs: LEASE_MS, db })
      let young: Ledger | undefined
      starting = async () => {
        starting = undefined
        young = await world.ledger({ leaseMs: LEASE_MS })
        await (await young.hold(payer, 400)).release()
      }
      await sweeper.sweep(new AbortController().signal)
      expect(await parkedAt(world, idOf(young!))).toBe(400)
      await world.close()
    }, 30_000)

    test('what an instance held that was silent and comes back is the most that a balance goes below zero', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      const thawing = handClock()
      const frozen = await world.ledger({ leaseMs: LEASE_MS, clock: thawing, flush: LATER })
      const open = await frozen.hold(payer, 300)
      await (await frozen.hold(payer, 200)).settle({ quota: 200, record: world.record(payer, channel) })
      const { sweeper, watch } = await frozenAndSweeper(world)
      await watch(2.1)
      await (await sweeper.hold(payer, 1_000)).settle({ quota: 1_000, record: world.record(payer, channel) })
      thawing.pass(3 * LEASE_MS)
      // Nothing more than what it had is spent: it asks first.
      expect(await codeOf(frozen.hold(payer, 1))).toBe('insufficient_user_quota')
      await open.settle({ quota: 300, record: world.record(payer, channel) })
      await world.drainAll()
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: -500, usedQuota: 1_500 })
      await world.close({ overdraft: new Map([[`u:${payer.userId}`, 500]]) })
    }, 30_000)

    test('a suspension that stops both clocks spends at most what the instance had, and is found out by the next acquire', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      const stopping = handClock()
      const suspended = await world.ledger({ leaseMs: LEASE_MS, clock: stopping })
      await (await suspended.hold(payer, 400)).release()
      const before = idOf(suspended)
      const had = await parkedAt(world, before)
      stopping.stop()
      const { sweeper, watch } = await frozenAndSweeper(world)
      await watch(2.1)
      await (await sweeper.hold(payer, 1_000)).settle({ quota: 1_000, record: world.record(payer, channel) })
      await (await suspended.hold(payer, had)).settle({ quota: had, record: world.record(payer, channel) })
      await eventually('both charges are in the books', async () => (await world.readUser(payer.userId)).quota === -had)
      // What the row did not pay is not free again.
      expect(await codeOf(suspended.hold(payer, 1))).toBe('insufficient_user_quota')
      await world.credit({ kind: 'user', id: payer.userId }, had + 10)
      await quotaChanged(world.bus, { kind: 'user', id: payer.userId })
      await (await suspended.hold(payer, 10)).release()
      expect(idOf(suspended)).not.toBe(before)
      await world.close({ overdraft: new Map([[`u:${payer.userId}`, had]]) })
    }, 30_000)

    test('charges on a disk that never comes back are lost, and nothing else: what was parked is returned', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      const dataDir = join(world.folder, 'lost-disk')
      const lost = await world.ledger({ leaseMs: LEASE_MS, flush: LATER, dataDir })
      await (await lost.hold(payer, 400)).settle({ quota: 400, record: world.record(payer, channel) })
      const { watch } = await frozenAndSweeper(world)
      await watch(2.1)
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 1_000, usedQuota: 0 })
      // Should the disk come back after all, they are charged, once.
      world.ledgers.delete(lost)
      await lost.drain(5_000)
      await world.ledger({ leaseMs: LEASE_MS, dataDir })
      await world.drainAll()
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 600, usedQuota: 400 })
      await world.close()
    }, 30_000)

    test('where one node alone has the database there is no lease, and nobody is swept', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 1_000 })
      const time = handClock()
      const { db, state } = fragile(world.db)
      const ledger = await world.ledger({ leaseMs: LEASE_MS, clock: time, heartbeatDb: db, isSingleNode: true })
      await (await ledger.hold(payer, 100)).release()
      const { clusterInstances } = world.db.tables
      await world.db.insert(clusterInstances).values({ id: 'somebody', state: 'live' })
      state.isAway = true
      await sweepFor(ledger, time, 3 * LEASE_MS, LEASE_MS)
      await (await ledger.hold(payer, 100)).release()
      state.isAway = false
      expect(await rowOf(world, 'somebody')).toMatchObject({ state: 'live' })
      await world.close()
    }, 30_000)
  })
