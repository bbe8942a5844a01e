/** The ledger of one or several instances on one database: holds, their ends, and what is left in the books. */
import { describe, expect, test } from 'bun:test'
import { join } from 'node:path'
import { eq } from 'drizzle-orm'
import { type Db, DbError } from '../../../src/db/index.ts'
import { ENGINES } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { codeOf, createWorld, deafBus, execute } from './world.ts'

for (const engine of ENGINES)
  describe(`ledger on ${engine.name}`, () => {
    test('a settled call is in every book once, and what it did not cost is given back', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 10_000, key: 5_000 })
      const channel = await world.channel()
      const ledger = await world.ledger()
      const hold = await ledger.hold(payer, 1_000)
      expect(hold.amount).toBe(1_000)
      const record = world.record(payer, channel)
      await hold.settle({ quota: 700, record })
      await hold.settle({ quota: 700, record })
      await hold.release()
      await world.close({ complete: [record.requestId], upstream: [record.requestId] }).then((report) => {
        expect(report?.logRows).toBe(1)
      })
    })

    test('drained, an instance leaves balances, counters and status as a person adds them up', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 10_000, key: 5_000 })
      const channel = await world.channel()
      const ledger = await world.ledger()
      for (const quota of [100, 250, 0])
        await (await ledger.hold(payer, 300)).settle({ quota, record: world.record(payer, channel) })
      await (await ledger.hold(payer, 300)).release()
      await world.drainAll()
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 9_650, usedQuota: 350, requestCount: 3 })
      const key = await world.readKey(payer.apiKeyId)
      expect(key).toMatchObject({ remainQuota: 4_650, usedQuota: 350, status: 1 })
      expect(key.accessedTime).toBeGreaterThan(0)
      const { quotaData, clusterInstances, logs } = world.db.tables
      expect(await world.db.select().from(quotaData)).toMatchObject([
        {
          userId: payer.userId,
          count: 3,
          quota: 350,
          tokenUsed: 21,
          modelName: 'm',
          useGroup: 'default',
          nodeName: 'node-1',
        },
      ])
      expect((await world.db.select().from(clusterInstances)).map((row) => row.state)).toEqual(['gone'])
      expect(await world.db.select().from(logs).where(eq(logs.quota, 250))).toMatchObject([
        {
          userId: payer.userId,
          tokenId: payer.apiKeyId,
          channelId: channel,
          type: 2,
          other: '{"model_ratio":1}',
          isStream: false,
        },
      ])
      await world.close()
    })

    test('an empty wallet and an empty key are refused by their own codes, and a key short of money leaves the wallet whole', async () => {
      const world = await createWorld(engine)
      const ledger = await world.ledger()
      const poor = await world.payer({ wallet: 99, key: 1_000 })
      const spent = await world.payer({ wallet: 1_000, key: 99 })
      expect(await codeOf(ledger.hold(poor, 100))).toBe('insufficient_user_quota')
      expect(await codeOf(ledger.hold(spent, 100))).toBe('pre_consume_token_quota_failed')
      expect(ledger.stats()).toMatchObject({ held: 0, openHolds: 0 })
      await (await ledger.hold(poor, 99)).release()
      await (await ledger.hold(spent, 99)).release()
      await world.close()
    })

    test('an unlimited key leaves its own balance alone', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      const ledger = await world.ledger()
      await (await ledger.hold(payer, 500)).settle({ quota: 400, record: world.record(payer, channel) })
      await world.drainAll()
      expect(await world.readKey(payer.apiKeyId)).toMatchObject({ remainQuota: 0, usedQuota: 400, status: 1 })
      await world.close()
    })

    test('a call without an estimate holds nothing and is charged all the same', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000, key: 1_000 })
      const channel = await world.channel()
      const ledger = await world.ledger()
      const hold = await ledger.hold(payer, 0)
      expect(ledger.stats().acquires).toBe(0)
      await hold.settle({ quota: 30, record: world.record(payer, channel) })
      await world.close()
    })

    test('a charge past the hold takes from the allotment, then from the balance, which may go below zero', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 100, key: 100 })
      const channel = await world.channel()
      const ledger = await world.ledger()
      await (await ledger.hold(payer, 100)).settle({ quota: 130, record: world.record(payer, channel) })
      expect(await codeOf(ledger.hold(payer, 1))).toBe('pre_consume_token_quota_failed')
      await world.drainAll()
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: -30, usedQuota: 130 })
      expect(await world.readKey(payer.apiKeyId)).toMatchObject({ remainQuota: -30, status: 4 })
      await world.close({
        overdraft: new Map([
          [`u:${payer.userId}`, 30],
          [`t:${payer.apiKeyId}`, 30],
        ]),
      })
    })

    test('extending sets more aside on every account, and is refused when one has not enough', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000, key: 300 })
      const channel = await world.channel()
      const ledger = await world.ledger()
      const hold = await ledger.hold(payer, 100)
      expect(await hold.extend(100)).toBe(true)
      expect(await hold.extend(101)).toBe(false)
      expect(hold.refusal?.code).toBe('pre_consume_token_quota_failed')
      expect(await hold.extend(100)).toBe(true)
      expect(hold.refusal).toBeUndefined()
      expect(hold).toMatchObject({ amount: 300, extensions: 2 })
      await hold.settle({ quota: 300, record: world.record(payer, channel) })
      expect(await hold.extend(1)).toBe(false)
      await world.close()
    })

    for (const bus of ['shared bus', 'no bus'] as const)
      test(`a balance of B serves exactly ⌊B ÷ c⌋ calls on three instances (${bus})`, async () => {
        const world = await createWorld(engine)
        const channel = await world.channel()
        const payer = await world.payer({ wallet: 10_050, key: 1_000_000 })
        const byKey = await world.payer({ wallet: 1_000_000, key: 5_099 })
        const nodes = await Promise.all(
          [0, 1, 2].map(() =>
            world.ledger({ isOwnDb: engine.isServer, ...(bus === 'no bus' ? { bus: deafBus() } : {}) }),
          ),
        )
        const complete: string[] = []
        let refused = 0
        const call = async (who: typeof payer, node: number): Promise<void> => {
          for (;;) {
            const code = await codeOf(
              (async () => {
                const hold = await nodes[node % 3]!.hold(who, 100)
                await Bun.sleep(Math.random() * 20)
                const record = world.record(who, channel)
                await hold.settle({ quota: 100, record })
                complete.push(record.requestId)
              })(),
            )
            if (code === 'dependency_unavailable') continue
            if (code !== 'ok') refused++
            return
          }
        }
        await Promise.all([
          ...Array.from({ length: 160 }, (_, i) => call(payer, i)),
          ...Array.from({ length: 90 }, (_, i) => call(byKey, i)),
        ])
        expect(complete.length).toBe(100 + 50)
        expect(refused).toBe(60 + 40)
        await world.close({ complete, upstream: complete })
      }, 60_000)

    test('money parked on another instance is given back when it is asked for, with and without a bus', async () => {
      for (const bus of [undefined, deafBus()]) {
        const world = await createWorld(engine)
        const payer = await world.payer({ wallet: 1_000 })
        const rich = await world.ledger(bus ? { bus } : {})
        const poor = await world.ledger(bus ? { bus } : {})
        // Half of the balance is held, the rest is parked beside it.
        const held = await rich.hold(payer, 500)
        await Promise.all(Array.from({ length: 5 }, async () => (await rich.hold(payer, 100)).release()))
        const got = await poor.hold(payer, 500)
        expect(await codeOf(poor.hold(payer, 1))).toBe('insufficient_user_quota')
        expect(await codeOf(rich.hold(payer, 1))).toBe('insufficient_user_quota')
        await held.release()
        // The proof that there is nothing holds for a second; then the others are asked again.
        await eventually('what was released elsewhere is found', async () =>
          (await poor.hold(payer, 400)).release().then(() => true),
        )
        await got.release()
        await world.close()
      }
    }, 30_000)

    test('a proof refuses others without a question, until a hold ends here', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 100 })
      const ledger = await world.ledger()
      const hold = await ledger.hold(payer, 100)
      let statements = 0
      const refused = await Promise.all(Array.from({ length: 50 }, () => codeOf(ledger.hold(payer, 10))))
      statements = ledger.stats().recallsSent
      expect(new Set(refused)).toEqual(new Set(['insufficient_user_quota']))
      expect(statements).toBe(0)
      await hold.release()
      await (await ledger.hold(payer, 100)).release()
      await world.close()
    })

    test('a proof ends when money goes back to the balance, by an idle pass or by the answer to a recall', async () => {
      for (const way of ['idle pass', 'recall'] as const) {
        const world = await createWorld(engine)
        const payer = await world.payer({ wallet: 199 })
        const ledger = await world.ledger({ leaseMs: way === 'idle pass' ? 900 : 600_000 })
        const other = await world.ledger({ leaseMs: 600_000 })
        await (await ledger.hold(payer, 100)).release()
        const isProven = async () => (await codeOf(ledger.hold(payer, 200))) === 'insufficient_user_quota'
        expect(await isProven()).toBe(true)
        if (way === 'recall') await (await other.hold(payer, 100)).release()
        else
          await eventually('it is given back', async () => {
            // Proven again and again, so that the last proof is fresh when the money goes.
            if ((await world.readUser(payer.userId)).quota === 199) return true
            return !(await isProven())
          })
        expect(await codeOf(ledger.hold(payer, 150).then((hold) => hold.release()))).toBe('ok')
        await world.close()
      }
    })

    test('an extension that waits lets small callers pass', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 100 })
      const { quotaAllotments, users, clusterInstances } = world.db.tables
      await world.db.update(users).set({ quota: 40 }).where(eq(users.id, payer.userId))
      await world.db.insert(clusterInstances).values({ id: 'mute', state: 'live' })
      await world.db
        .insert(quotaAllotments)
        .values({ instanceId: 'mute', account: `u:${payer.userId}`, amount: 60, version: 1 })
      const ledger = await world.ledger()
      const large = await ledger.hold(payer, 10)
      const extended = large.extend(80)
      await eventually('the extension waits', () => ledger.stats().waiting === 1 && ledger.stats().recallsSent === 1)
      for (let i = 0; i < 3; i++) await (await ledger.hold(payer, 20)).release()
      expect(ledger.stats().waiting).toBe(1)
      await world.db.update(clusterInstances).set({ state: 'gone' }).where(eq(clusterInstances.id, 'mute'))
      expect(await extended).toBe(true)
      await large.release()
      await world.close()
    }, 20_000)

    test('what a row has that memory does not know is found by a recall', async () => {
      const world = await createWorld(engine)
      const [payer, other] = [await world.payer({ wallet: 100 }), await world.payer({ wallet: 100 })]
      const ledger = await world.ledger({ leaseMs: 600_000 })
      const hold = await ledger.hold(other, 10)
      const { quotaAllotments, users } = world.db.tables
      // As by a commit that arrived after its caller had given up.
      await world.db.transaction(async (tx) => {
        await tx.update(users).set({ quota: 40 }).where(eq(users.id, payer.userId))
        await tx.insert(quotaAllotments).values({
          instanceId: ledger.stats().instanceId,
          account: `u:${payer.userId}`,
          amount: 60,
          version: 1,
          recalled: 1,
        })
      })
      await eventually('it comes back', async () => (await world.readUser(payer.userId)).quota === 100)
      await hold.release()
      await world.close()
    })

    test('an account that cannot be written keeps nobody else’s money parked', async () => {
      const world = await createWorld(engine)
      const [stuck, payer] = [await world.payer({ wallet: 100 }), await world.payer({ wallet: 100 })]
      const ledger = await world.ledger({ leaseMs: 900 })
      const holds = [await ledger.hold(stuck, 100), await ledger.hold(payer, 100)]
      await execute(
        engine,
        world,
        engine.isServer
          ? "alter table users add constraint stuck check (username <> 'user-1' or quota < 50)"
          : "create trigger stuck before update on users when new.username = 'user-1' and new.quota >= 50 begin select raise(abort, 'stuck'); end",
      )
      for (const hold of holds) await hold.release()
      await eventually('it is given back', async () => (await world.readUser(payer.userId)).quota === 100)
      expect((await world.readUser(stuck.userId)).quota).toBe(0)
      await execute(engine, world, engine.isServer ? 'alter table users drop constraint stuck' : 'drop trigger stuck')
      await world.close()
    })

    test('a drain gives everything back also while the log database is away', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      const logDb: Db = {
        ...world.db,
        transaction: async () => {
          throw new DbError('unavailable', 'away')
        },
      }
      const dataDir = join(world.folder, 'node')
      const ledger = await world.ledger({ logDb, dataDir, leaseMs: 600_000 })
      await (await ledger.hold(payer, 300)).settle({ quota: 10, record: world.record(payer, channel) })
      await (await ledger.hold(payer, 290)).release()
      world.ledgers.delete(ledger)
      await ledger.drain(2_000)
      const { quotaAllotments, clusterInstances } = world.db.tables
      expect(await world.db.$count(quotaAllotments)).toBe(0)
      expect((await world.db.select().from(clusterInstances)).map((row) => row.state)).toEqual(['gone'])
      // The next start brings the log row.
      await world.ledger({ dataDir })
      await world.close()
    })

    test('a caller whose client leaves stops waiting, and what it was waiting for serves others', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 100 })
      // An instance that lives in the database only: it never answers.
      const { quotaAllotments, users, clusterInstances } = world.db.tables
      await world.db.update(users).set({ quota: 40 }).where(eq(users.id, payer.userId))
      await world.db.insert(clusterInstances).values({ id: 'mute', state: 'live' })
      await world.db
        .insert(quotaAllotments)
        .values({ instanceId: 'mute', account: `u:${payer.userId}`, amount: 60, version: 1 })
      const ledger = await world.ledger()
      const leaving = new AbortController()
      const left = codeOf(ledger.hold(payer, 100, leaving.signal))
      await eventually('the caller waits', () => ledger.stats().waiting === 1)
      leaving.abort()
      expect(await left).toBe('client_closed_request')
      expect(await codeOf(ledger.hold(payer, 100, AbortSignal.abort()))).toBe('client_closed_request')
      await (await ledger.hold(payer, 40)).release()
      // Also where memory alone could serve.
      expect(await codeOf(ledger.hold(payer, 1, AbortSignal.abort()))).toBe('client_closed_request')
      // Neither money nor proof: never called insufficient.
      expect(await codeOf(ledger.hold(payer, 100))).toBe('dependency_unavailable')
      await world.db.update(clusterInstances).set({ state: 'gone' }).where(eq(clusterInstances.id, 'mute'))
      await (await ledger.hold(payer, 100)).release()
      await world.close()
    }, 20_000)

    test('unused money is given back while holds are open, and rows at zero go', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000, key: 1_000 })
      const ledger = await world.ledger({ leaseMs: 900 })
      const hold = await ledger.hold(payer, 10)
      await Promise.all(Array.from({ length: 8 }, async () => (await ledger.hold(payer, 50)).release()))
      const rows = () => world.db.select().from(world.db.tables.quotaAllotments)
      await eventually('only what is held is parked', async () => (await rows()).every((row) => row.amount === 10))
      await hold.release()
      await eventually('nothing is parked', async () => (await rows()).length === 0)
      expect(ledger.stats()).toMatchObject({ allotted: 0, held: 0 })
      await eventually('memory forgets the accounts', () => ledger.stats().accounts === 0)
      await (await ledger.hold(payer, 10)).release()
      await world.close()
    })

    test('a note is a log row and nothing else; a released call may leave one, too', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const ledger = await world.ledger()
      await ledger.note(world.record(payer, 0, { type: 5, isCounted: false, content: 'refused' }))
      await (await ledger.hold(payer, 10)).release(
        world.record(payer, 0, { type: 5, isCounted: false, content: 'failed' }),
      )
      await world.drainAll()
      const { logs, quotaData } = world.db.tables
      expect((await world.db.select().from(logs)).map((row) => [row.type, row.quota, row.content])).toEqual([
        [5, 0, 'refused'],
        [5, 0, 'failed'],
      ])
      expect(await world.db.$count(quotaData)).toBe(0)
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 1_000, requestCount: 0 })
      await world.close()
    })

    test('switched off, log rows and hourly usage are left out, and nothing else', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      let isOn = false
      const ledger = await world.ledger({ isLogged: () => isOn, isExported: () => isOn })
      await (await ledger.hold(payer, 10)).settle({ quota: 7, record: world.record(payer, channel) })
      isOn = true
      await (await ledger.hold(payer, 10)).settle({ quota: 5, record: world.record(payer, channel) })
      await world.drainAll()
      const { logs, quotaData } = world.db.tables
      expect((await world.db.select().from(logs)).map((row) => row.quota)).toEqual([5])
      expect((await world.db.select().from(quotaData)).map((row) => row.quota)).toEqual([5])
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 988, usedQuota: 12, requestCount: 2 })
      await world.close({ isLogged: false })
    })

    test('after a drain nothing is accepted and no row is left', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const ledger = await world.ledger()
      await (await ledger.hold(payer, 10)).release()
      await ledger.drain(5_000)
      await ledger.drain(5_000)
      expect(await codeOf(ledger.hold(payer, 10))).toBe('shutting_down')
      expect(await world.db.$count(world.db.tables.quotaAllotments)).toBe(0)
      await world.close()
    })
  })
