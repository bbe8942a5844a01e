/** Money when the database is cut off at the worst moment, is away, or is another one. */
import { describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { type Db, openDb } from '../../../src/db/index.ts'
import { createAllotments } from '../../../src/domain/billing/allotments.ts'
import { GatewayError } from '../../../src/errors.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { SERVER_ENGINE, sqlServer } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { type Fate, openSqlProxy } from './sql-proxy.ts'
import { codeOf, createWorld } from './world.ts'

const random = (below: number): number => Math.floor(Math.random() * below)

async function proxied() {
  const server = await sqlServer()
  const world = await createWorld(SERVER_ENGINE!)
  const proxy = await openSqlProxy({ host: '127.0.0.1', port: server.port })
  const dsn = world.testDb.env.SQL_DSN!.replace(/tcp\([^)]*\)|@127\.0\.0\.1:\d+/, (address) =>
    address.startsWith('tcp') ? `tcp(127.0.0.1:${proxy.port})` : `@127.0.0.1:${proxy.port}`,
  )
  const db = await openDb({ dsn, log: silentLog })
  return {
    world,
    proxy,
    db,
    async close(): Promise<void> {
      try {
        await world.close()
      } finally {
        await db.close()
        await proxy.close()
      }
    },
  }
}

if (SERVER_ENGINE)
  describe(`faults on ${SERVER_ENGINE.name}`, () => {
    test('commits that are lost, unseen or late change no sum', async () => {
      const { world, proxy, db, close } = await proxied()
      const channel = await world.channel()
      const payers = [await world.payer({ wallet: 200_000, key: 150_000 }), await world.payer({ wallet: 200_000 })]
      const shaky = await world.ledger({ db, leaseMs: 1_800 })
      const steady = await world.ledger({ leaseMs: 1_800 })
      const bad: readonly Fate[] = ['lost', 'unseen', 'late']
      proxy.fate = () => (random(4) === 0 ? bad[random(3)]! : 'pass')
      const complete: string[] = []
      const call = async (): Promise<void> => {
        const payer = payers[random(2)]!
        const ledger = random(3) === 0 ? steady : shaky
        try {
          const hold = await ledger.hold(payer, 1 + random(3_000))
          if (random(3) === 0) await hold.extend(1 + random(2_000))
          await Bun.sleep(random(15))
          if (random(5) === 0) return await hold.release()
          const record = world.record(payer, channel)
          await hold.settle({ quota: random(hold.amount + 1), record })
          complete.push(record.requestId)
        } catch (error) {
          if (!(error instanceof GatewayError)) throw error
        }
      }
      const callers = Array.from({ length: 12 }, async () => {
        for (let i = 0; i < 40; i++) await call()
      })
      await Promise.all(callers)
      expect(proxy.fates.lost + proxy.fates.unseen + proxy.fates.late).toBeGreaterThan(10)
      expect(complete.length).toBeGreaterThan(50)
      proxy.fate = () => 'pass'
      await close()
    }, 120_000)

    test('a balance of B serves exactly ⌊B ÷ c⌋ calls, whatever becomes of the commits', async () => {
      const { world, proxy, db, close } = await proxied()
      const channel = await world.channel()
      const payers = [await world.payer({ wallet: 4_099 }), await world.payer({ wallet: 100_000, key: 3_050 })]
      // A lease so long that no idle pass sets right what a caller got wrong.
      const nodes = [await world.ledger({ db, leaseMs: 600_000 }), await world.ledger({ db, leaseMs: 600_000 })]
      const bad: readonly Fate[] = ['lost', 'unseen', 'late']
      // Few commits: an acquire serves many calls.
      proxy.fate = () => (random(2) === 0 ? bad[random(3)]! : 'pass')
      const done = [0, 0]
      const call = async (who: number, node: number): Promise<void> => {
        for (;;) {
          try {
            const hold = await nodes[node]!.hold(payers[who]!, 100)
            await Bun.sleep(random(20))
            if (random(4) === 0) {
              await hold.release()
              continue
            }
            await hold.settle({ quota: 100, record: world.record(payers[who]!, channel) })
            done[who]!++
            return
          } catch (error) {
            if (!(error instanceof GatewayError)) throw error
            if (error.code !== 'dependency_unavailable') return
            await Bun.sleep(random(50))
          }
        }
      }
      await Promise.all(Array.from({ length: 140 }, (_, i) => call(i % 2, (i >> 1) % 2)))
      expect(proxy.fates.lost + proxy.fates.unseen + proxy.fates.late).toBeGreaterThan(10)
      proxy.fate = () => 'pass'
      // What a released call left elsewhere may have been missed by a refusal: nothing more is left than that.
      for (const who of [0, 1]) for (const node of [0, 1]) await call(who, node)
      expect(done).toEqual([40, 30])
      await close()
    }, 120_000)

    for (const way of ['answer to a recall', 'idle pass'] as const)
      test(`what was given back by a commit that nobody saw is not spent again (${way})`, async () => {
        const { world, proxy, db, close } = await proxied()
        const payer = await world.payer({ wallet: 100 })
        const shaky = await world.ledger({ db, leaseMs: way === 'idle pass' ? 900 : 600_000 })
        await (await shaky.hold(payer, 100)).release()
        let isOver = false
        proxy.fate = () => (isOver ? 'pass' : 'unseen')
        const { quotaAllotments } = world.db.tables
        if (way === 'idle pass')
          await eventually(
            'it is given back',
            async () => (await world.db.select().from(quotaAllotments)).every((row) => row.amount === 0),
            { withinMs: 15_000 },
          )
        const steady = await world.ledger({ leaseMs: 600_000 })
        const hold = await steady.hold(payer, 100)
        expect(proxy.fates.unseen).toBeGreaterThan(0)
        isOver = true
        expect(await codeOf(shaky.hold(payer, 100))).toBe('insufficient_user_quota')
        await hold.release()
        await close()
      }, 30_000)

    test('while the database is away calls go on from the allotments, then get a 503, never insufficient; then all is well again', async () => {
      for (const mode of ['refuse', 'hang'] as const) {
        const { world, proxy, db, close } = await proxied()
        const channel = await world.channel()
        const payer = await world.payer({ wallet: 10_000 })
        const ledger = await world.ledger({ db })
        // Something is allotted beyond what is held.
        await Promise.all(Array.from({ length: 10 }, async () => (await ledger.hold(payer, 100)).release()))
        proxy.mode = mode
        proxy.cut()
        const record = world.record(payer, channel)
        const allotted = ledger.stats().allotted
        await (await ledger.hold(payer, allotted)).settle({ quota: 50, record })
        const refusals = await Promise.all(
          Array.from({ length: 5 }, async () => {
            try {
              await ledger.hold(payer, 9_000)
              return undefined
            } catch (error) {
              return error as GatewayError
            }
          }),
        )
        for (const refusal of refusals) {
          expect(refusal?.code).toBe('dependency_unavailable')
          expect(refusal?.retryAfterSec).toBeGreaterThan(0)
        }
        expect(ledger.stats().unflushedMain).toBe(1)
        proxy.mode = 'on'
        proxy.cut()
        await eventually('holds work again', async () => (await ledger.hold(payer, 9_000)).release().then(() => true), {
          withinMs: 15_000,
        })
        await eventually('the charge arrives', () => ledger.stats().unflushedMain === 0, { withinMs: 15_000 })
        await close()
      }
    }, 90_000)

    test('an instance cannot be ended between the look at its row and the commit of what it acquires', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 100 })
      const { clusterInstances } = world.db.tables
      await world.db.insert(clusterInstances).values({ id: 'a', state: 'live' })
      const acquired = Promise.withResolvers<void>()
      const commit = Promise.withResolvers<void>()
      const slow: Db = {
        ...world.db,
        transaction: (work) =>
          world.db.transaction(async (tx) => {
            const result = await work(tx)
            acquired.resolve()
            await commit.promise
            return result
          }),
      }
      const taken = createAllotments({ db: slow, clock: systemClock }).take({
        instanceId: 'a',
        account: `u:${payer.userId}`,
        version: 0,
        need: 10,
        wish: 10,
        isExact: false,
        instances: 1,
        recalls: new Map(),
      })
      await acquired.promise
      const end = (deadlineMs: number) =>
        world.db.transaction(
          (tx) =>
            tx.changes(tx.update(clusterInstances).set({ state: 'reclaimed' }).where(eq(clusterInstances.id, 'a'))),
          { deadlineMs },
        )
      await expect(end(300)).rejects.toMatchObject({ kind: 'unavailable' })
      commit.resolve()
      expect(await taken).toMatchObject({ kind: 'taken', amount: 10 })
      expect(await end(3_000)).toBe(1)
      await createAllotments({ db: world.db, clock: systemClock }).returnAll('a')
      await world.close()
    })

    test('a database that is slow to give what is there refuses nobody', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 10_000 })
      const ledger = await world.ledger()
      const { users } = world.db.tables
      const locked = Promise.withResolvers<void>()
      const over = Promise.withResolvers<void>()
      const other = world.db.transaction(
        async (tx) => {
          await tx.lock(tx.select({ id: users.id }).from(users).where(eq(users.id, payer.userId)))
          locked.resolve()
          await over.promise
        },
        { deadlineMs: 10_000 },
      )
      await locked.promise
      const held = ledger.hold(payer, 100)
      // Longer than anybody waits for money or proof that nobody is asked for.
      setTimeout(over.resolve, 4_000)
      await (await held).release()
      await other
      await world.close()
    }, 30_000)

    test('an extension waits for the database, and works when it comes back', async () => {
      const { world, proxy, db, close } = await proxied()
      const payer = await world.payer({ wallet: 10_000 })
      const ledger = await world.ledger({ db })
      const hold = await ledger.hold(payer, 100)
      proxy.mode = 'refuse'
      proxy.cut()
      const extended = hold.extend(5_000)
      expect(await codeOf(ledger.hold(payer, 5_000))).toBe('dependency_unavailable')
      proxy.mode = 'on'
      expect(await extended).toBe(true)
      expect(hold.amount).toBe(5_100)
      await hold.release()
      await close()
    }, 30_000)
  })
