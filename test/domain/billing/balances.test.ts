/** The verbs that move balances beside calls: relative or absolute, under load, each once. */
import { describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { creditBalance, dropAllotments, readBalances, setBalance } from '../../../src/domain/billing/index.ts'
import { MAX_QUOTA } from '../../../src/domain/billing/quota.ts'
import { type Log, silentLog } from '../../../src/lib/log.ts'
import { ENGINES } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { codeOf, createWorld } from './world.ts'

for (const engine of ENGINES)
  describe(`balances on ${engine.name}`, () => {
    test('people see balance and parked parts together, and a set counts both', async () => {
      const world = await createWorld(engine)
      const [payer, other] = [await world.payer({ wallet: 1_000, key: 500 }), await world.payer({ wallet: 7 })]
      const ledger = await world.ledger()
      const hold = await ledger.hold(payer, 300)
      expect((await world.readUser(payer.userId)).quota).toBe(700)
      expect(await readBalances(world.db, 'user', [payer.userId, other.userId, 999])).toEqual(
        new Map([
          [payer.userId, 1_000],
          [other.userId, 7],
        ]),
      )
      expect(await readBalances(world.db, 'api-key', [payer.apiKeyId])).toEqual(new Map([[payer.apiKeyId, 500]]))
      await world.db.transaction((tx) => setBalance(tx, { kind: 'user', id: payer.userId }, 400))
      world.granted.set(`u:${payer.userId}`, 400)
      expect(await readBalances(world.db, 'user', [payer.userId])).toEqual(new Map([[payer.userId, 400]]))
      await hold.release()
      await world.close()
    })

    test('an edit below what is parked asks every instance for what is free', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const ledger = await world.ledger()
      // Long enough between passes that only the recall can be what brings it back.
      const hold = await ledger.hold(payer, 200)
      await Promise.all(Array.from({ length: 4 }, async () => (await ledger.hold(payer, 100)).release()))
      await world.db.transaction((tx) => setBalance(tx, { kind: 'user', id: payer.userId }, 50))
      world.granted.set(`u:${payer.userId}`, 50)
      await eventually('what is free comes back', async () => (await world.readUser(payer.userId)).quota === 50 - 200, {
        withinMs: 300 + 1_000,
      })
      expect(await codeOf(ledger.hold(payer, 1))).toBe('insufficient_user_quota')
      await hold.release()
      await world.close()
    })

    test('credits are relative, also all at once; what is gone takes nothing', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 0 })
      const account = { kind: 'user', id: payer.userId } as const
      await Promise.all(Array.from({ length: 30 }, (_, i) => world.credit(account, i % 3 === 0 ? -5 : 10)))
      expect(await readBalances(world.db, 'user', [payer.userId])).toEqual(new Map([[payer.userId, 150]]))
      expect(await world.db.transaction((tx) => creditBalance(tx, { kind: 'user', id: 12_345 }, 5))).toBe(false)
      expect(await world.db.transaction((tx) => setBalance(tx, { kind: 'api-key', id: 12_345 }, 5))).toBe(false)
      await world.close()
    })

    test('sums stop at the largest exact number', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: MAX_QUOTA - 10 })
      const account = { kind: 'user', id: payer.userId } as const
      expect(await world.db.transaction((tx) => creditBalance(tx, account, 100))).toBe('saturated')
      expect((await world.readUser(payer.userId)).quota).toBe(MAX_QUOTA)
      const ledger = await world.ledger()
      await (await ledger.hold(payer, 2_000_000_000)).settle({ quota: 3_000_000_000, record: world.record(payer, 0) })
      await world.drainAll()
      expect(await world.readUser(payer.userId)).toMatchObject({
        quota: MAX_QUOTA - 2_147_483_647,
        usedQuota: 2_147_483_647,
      })
      world.granted.set(`u:${payer.userId}`, MAX_QUOTA)
      await world.close()
    })

    test('a charge that brings a balance to its limit is reported with its account', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 10 - MAX_QUOTA })
      const saturated: unknown[] = []
      const log: Log = {
        ...silentLog,
        error: (_msg, fields) => saturated.push(fields?.['account']),
        child: () => log,
      }
      const ledger = await world.ledger({ log })
      await (await ledger.hold(payer, 0)).settle({ quota: 100, record: world.record(payer, 0) })
      await world.drainAll()
      expect(saturated).toEqual([`u:${payer.userId}`])
      world.granted.set(`u:${payer.userId}`, 100 - MAX_QUOTA)
      await world.close({ overdraft: new Map([[`u:${payer.userId}`, MAX_QUOTA]]) })
    })

    test('what is parked of a deleted account goes with it, and its instance finds out', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const ledger = await world.ledger({ leaseMs: 900 })
      const hold = await ledger.hold(payer, 300)
      const { users, quotaAllotments } = world.db.tables
      await world.db.transaction(async (tx) => {
        await dropAllotments(tx, { kind: 'user', id: payer.userId })
        await tx.update(users).set({ deletedAt: new Date() }).where(eq(users.id, payer.userId))
      })
      expect(await world.db.$count(quotaAllotments)).toBe(0)
      await eventually('memory has nothing of it left', () => ledger.stats().allotted === 0)
      expect(await codeOf(ledger.hold(payer, 1))).toBe('insufficient_user_quota')
      await hold.release()
      expect((await world.readUser(payer.userId)).quota).toBe(700)
      await world.close()
    })
  })
