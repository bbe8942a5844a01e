/** From the outbox to the databases: once each, whatever the database takes, forgets or refuses. */

import { Database } from 'bun:sqlite'
import { describe, expect, test } from 'bun:test'
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { and, eq } from 'drizzle-orm'
import { type Db, DbError, openDb } from '../../../src/db/index.ts'
import { encodeCharge } from '../../../src/domain/billing/charge.ts'
import { creditBalance, creditLog, deliverCreditLogs, setBalance } from '../../../src/domain/billing/index.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { type Log, silentLog } from '../../../src/lib/log.ts'
import { ENGINES, SERVER_ENGINE, sqlServer, type TestEngine } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { openSqlProxy } from './sql-proxy.ts'
import { codeOf, createWorld, execute, type World } from './world.ts'

/** From now on the table refuses rows whose column has the word `poison`. */
const poison = (engine: TestEngine, world: World, table: string, column: string): Promise<void> =>
  execute(
    engine,
    world,
    engine.isServer
      ? `alter table ${table} add constraint no_poison check (${column} <> 'poison')`
      : `create trigger no_poison_${table} before insert on ${table} when new.${column} = 'poison' begin select raise(abort, 'poison'); end`,
  )

const errorsInto = (errors: string[]): Log => {
  const log: Log = { ...silentLog, error: (msg) => errors.push(msg), child: () => log }
  return log
}

for (const engine of ENGINES)
  describe(`flush on ${engine.name}`, () => {
    test('a log row that is refused stands alone in quarantine; its money is charged and nothing behind it waits', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 100_000, key: 100_000 })
      const channel = await world.channel()
      await poison(engine, world, 'logs', 'content')
      const ledger = await world.ledger({ flush: { isBatch: true, intervalMs: 60_000 } })
      await Promise.all(
        Array.from({ length: 40 }, async (_, i) => {
          const hold = await ledger.hold(payer, 100)
          await hold.settle({
            quota: 100,
            record: world.record(payer, channel, { content: i === 17 ? 'poison' : '价格 💰' }),
          })
        }),
      )
      await world.drainAll()
      const { logs, ledgerQuarantine, users } = world.db.tables
      expect(await world.db.$count(logs)).toBe(39)
      expect(await world.db.$count(logs, eq(logs.content, '价格 💰'))).toBe(39)
      expect((await world.db.select().from(users))[0]).toMatchObject({
        quota: 96_000,
        usedQuota: 4_000,
        requestCount: 40,
      })
      const [row] = await world.db.select().from(ledgerQuarantine)
      expect(row).toMatchObject({ part: 'log' })
      expect(JSON.parse(row!.charge)).toMatchObject({ content: 'poison', quota: 100, requestId: row!.requestId })
      await world.close({ quarantined: 1 })
    })

    test('hourly usage that is refused keeps no money back', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 100_000 })
      const channel = await world.channel()
      await poison(engine, world, 'quota_data', 'model_name')
      const ledger = await world.ledger({ flush: { isBatch: true, intervalMs: 60_000 } })
      for (const modelName of ['a', 'poison', 'b']) {
        const hold = await ledger.hold(payer, 100)
        await hold.settle({ quota: 70, record: world.record(payer, channel, { modelName }) })
      }
      await world.drainAll()
      const { quotaData, logs } = world.db.tables
      expect((await world.db.select().from(quotaData)).map((row) => row.modelName).sort()).toEqual(['a', 'b'])
      expect(await world.db.$count(logs)).toBe(3)
      await world.close({ quarantined: 1 })
    })

    test('hourly usage is one row per hour and dimension, and begins anew when somebody cleans up', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 100_000 })
      const channel = await world.channel()
      const ledger = await world.ledger()
      const { quotaData } = world.db.tables
      const hour = 1_800_000_000
      const settle = async (createdAtSec: number, quota: number): Promise<void> => {
        await (await ledger.hold(payer, 100)).settle({ quota, record: world.record(payer, channel, { createdAtSec }) })
        await eventually('it is flushed', () => ledger.stats().unflushedMain === 0)
      }
      await settle(hour, 1)
      await settle(hour + 3_599, 2)
      await settle(hour + 3_600, 4)
      await settle(hour, 8)
      const rows = async () =>
        (await world.db.select().from(quotaData)).map((row) => [row.createdAt, row.count, row.quota]).sort()
      expect(await rows()).toEqual([
        [hour, 3, 11],
        [hour + 3_600, 1, 4],
      ])
      await world.db.delete(quotaData).where(eq(quotaData.createdAt, hour))
      await settle(hour, 16)
      await settle(hour, 32)
      expect(await rows()).toEqual([
        [hour, 2, 48],
        [hour + 3_600, 1, 4],
      ])
      await world.close({ isExported: false })
    })

    test('in batch mode nothing is written until the interval is over, and a drain writes it all', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 100_000 })
      const channel = await world.channel()
      const ledger = await world.ledger({ flush: { isBatch: true, intervalMs: 60_000 } })
      for (let i = 0; i < 20; i++)
        await (await ledger.hold(payer, 100)).settle({ quota: 50, record: world.record(payer, channel) })
      expect(ledger.stats()).toMatchObject({ unflushedMain: 20, unflushedLog: 20 })
      expect(await world.db.$count(world.db.tables.logs)).toBe(0)
      await world.drainAll()
      expect(await world.readUser(payer.userId)).toMatchObject({ usedQuota: 1_000, requestCount: 20 })
      await world.close()
    })

    test('log rows wait for others when there are some already, and all of them arrive', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 100_000_000 })
      const channel = await world.channel()
      const ledger = await world.ledger()
      const { logs } = world.db.tables
      const call = async (): Promise<void> => {
        const hold = await ledger.hold(payer, 100)
        await hold.settle({ quota: 50, record: world.record(payer, channel) })
      }
      const calls = (count: number): Promise<unknown> => Promise.all(Array.from({ length: count }, call))
      const isCharged = (total: number) =>
        eventually('all are charged', async () => (await world.readUser(payer.userId)).requestCount === total)
      const areLogged = (total: number) =>
        eventually('all are logged', async () => (await world.db.$count(logs)) === total)
      await calls(50)
      await areLogged(50)
      // The second pass begins half a second after the first, and waits for more from then on.
      await calls(500)
      await isCharged(550)
      expect(await world.db.$count(logs)).toBe(50)
      await areLogged(550)
      await calls(2_500)
      await areLogged(3_050)
      await isCharged(3_050)
      await world.drainAll()
      await world.close()
    })

    test('a key is shown as exhausted when all of it is spent, and enabled again by what credits it; 2 stays 2', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 100_000, key: 100 })
      const channel = await world.channel()
      const { tokens } = world.db.tables
      const status = async () => (await world.readKey(payer.apiKeyId)).status
      const ledger = await world.ledger()
      const other = await world.ledger()
      const settle = async (quota: number): Promise<void> => {
        const hold = await eventually('a hold', () => ledger.hold(payer, quota))
        await hold.settle({ quota, record: world.record(payer, channel) })
        await eventually('it is flushed', () => ledger.stats().unflushedMain === 0)
      }
      await (await other.hold(payer, 30)).release()
      await settle(60)
      expect(await status()).toBe(1)
      await settle(40)
      expect(await status()).toBe(4)
      await world.credit({ kind: 'api-key', id: payer.apiKeyId }, 50)
      expect(await status()).toBe(1)
      await settle(50)
      expect(await status()).toBe(4)
      await world.db.transaction((tx) => setBalance(tx, { kind: 'api-key', id: payer.apiKeyId }, 10))
      world.granted.set(`t:${payer.apiKeyId}`, 160)
      expect(await status()).toBe(1)
      await world.db.update(tokens).set({ status: 2 }).where(eq(tokens.id, payer.apiKeyId))
      await settle(10)
      expect(await status()).toBe(2)
      await world.close()
    }, 20_000)

    test('charges of what was deleted meanwhile are skipped, those of the others are not', async () => {
      const world = await createWorld(engine)
      const gone = await world.payer({ wallet: 1_000, key: 1_000 })
      const keyGone = await world.payer({ wallet: 1_000, key: 1_000 })
      const [channel, channelGone] = [await world.channel(), await world.channel()]
      const ledger = await world.ledger({ flush: { isBatch: true, intervalMs: 60_000 } })
      for (const payer of [gone, keyGone])
        for (const channelId of [channel, channelGone]) {
          const hold = await ledger.hold(payer, 100)
          await hold.settle({ quota: 100, record: world.record(payer, channelId) })
        }
      const { users, tokens, channels, quotaAllotments } = world.db.tables
      await world.db.transaction(async (tx) => {
        await tx.delete(quotaAllotments).where(eq(quotaAllotments.account, `u:${gone.userId}`))
        await tx.delete(users).where(eq(users.id, gone.userId))
        await tx.update(tokens).set({ deletedAt: new Date() }).where(eq(tokens.id, keyGone.apiKeyId))
        await tx.delete(quotaAllotments).where(eq(quotaAllotments.account, `t:${keyGone.apiKeyId}`))
        await tx.delete(channels).where(eq(channels.id, channelGone))
      })
      await world.drainAll()
      expect(await world.readUser(keyGone.userId)).toMatchObject({ quota: 800, usedQuota: 200 })
      expect(await world.readKey(keyGone.apiKeyId)).toMatchObject({ usedQuota: 0 })
      expect((await world.db.select().from(channels)).map((row) => row.usedQuota)).toEqual([200])
      await world.close()
    })

    test('a crash between the commit of a flush and its note in the outbox charges nothing twice', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 10_000 })
      const channel = await world.channel()
      const dataDir = join(world.folder, 'first')
      const ledger = await world.ledger({ dataDir, flush: { isBatch: true, intervalMs: 60_000 } })
      for (let i = 0; i < 5; i++)
        await (await ledger.hold(payer, 100)).settle({ quota: 100, record: world.record(payer, channel) })
      // A copy of the outbox as it was before the flush. (Copying drops its lock; nobody else wants it here.)
      cpSync(dataDir, join(world.folder, 'before'), { recursive: true })
      await world.drainAll()
      await world.ledger({ dataDir: join(world.folder, 'before') })
      await world.drainAll()
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 9_500, usedQuota: 500 })
      expect(await world.db.$count(world.db.tables.logs)).toBe(5)
      // An older copy still: what the database has beyond it is no reason to stop.
      const older = await world.ledger({ dataDir: join(world.folder, 'before') })
      expect(older.stats()).toMatchObject({ unflushedMain: 0, setAside: 0 })
      await world.close()
    })

    test('a database that does not fit gets nothing of the outbox: it is set aside, and another instance goes on', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 10_000 })
      const channel = await world.channel()
      const errors: string[] = []
      const ledger = await world.ledger({ log: errorsInto(errors) })
      const settle = async (quota: number): Promise<void> =>
        (await ledger.hold(payer, quota)).settle({ quota, record: world.record(payer, channel) })
      await settle(100)
      await eventually('it is flushed', () => ledger.stats().unflushedMain + ledger.stats().unflushedLog === 0)
      const { ledgerApplied } = world.db.tables
      const before = ledger.stats().instanceId
      const open = await ledger.hold(payer, 500)
      await world.db
        .update(ledgerApplied)
        .set({ last: 'of another' })
        .where(and(eq(ledgerApplied.instanceId, before), eq(ledgerApplied.part, 'main')))
      await settle(200)
      await eventually('another instance goes on', () => ledger.stats().instanceId !== before)
      expect(ledger.stats()).toMatchObject({ held: 500, openHolds: 1 })
      await open.settle({ quota: 300, record: world.record(payer, channel) })
      await settle(400)
      expect(errors).toContain('the database does not fit the outbox: its charges were set aside')
      expect(ledger.stats().setAside).toBeGreaterThan(0)
      await world.drainAll()
      // The charge of 200 is on the disk, and nowhere in the books.
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 9_200, usedQuota: 800 })
      await world.close({ setAside: 1 })
    })

    test('what is charged already is logged, also when what comes after it fits no database', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 10_000 })
      const channel = await world.channel()
      let isAway = true
      const logDb: Db = {
        ...world.db,
        transaction: (work, options) => {
          if (isAway) throw new DbError('unavailable', 'away')
          return world.db.transaction(work, options)
        },
      }
      const ledger = await world.ledger({ logDb })
      const complete: string[] = []
      const settle = async (quota: number): Promise<void> => {
        const record = world.record(payer, channel)
        await (await ledger.hold(payer, quota)).settle({ quota, record })
        complete.push(record.requestId)
      }
      await settle(100)
      await eventually('it is charged', () => ledger.stats().unflushedMain === 0)
      const { ledgerApplied } = world.db.tables
      const before = ledger.stats().instanceId
      await world.db.update(ledgerApplied).set({ last: 'of another' }).where(eq(ledgerApplied.instanceId, before))
      await settle(200)
      await eventually('another instance goes on', () => ledger.stats().instanceId !== before)
      isAway = false
      await settle(400)
      await eventually('all is logged', () => ledger.stats().unflushedLog === 0)
      await world.close({ setAside: 1, complete: [complete[0]!, complete[2]!] })
    })

    test('a database that has other charges than the outbox is noticed by a start, also when nothing waits', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      const dataDir = join(world.folder, 'node')
      const first = await world.ledger({ dataDir })
      await (await first.hold(payer, 100)).settle({ quota: 100, record: world.record(payer, channel) })
      const open = await first.hold(payer, 1)
      world.ledgers.delete(first)
      // With an open hold, nothing of it is forgotten.
      await first.drain(1_000)
      await open.release()
      const { ledgerApplied } = world.db.tables
      await world.db.update(ledgerApplied).set({ last: 'of another' }).where(eq(ledgerApplied.part, 'main'))
      const errors: string[] = []
      await world.ledger({ dataDir, log: errorsInto(errors) })
      expect(errors).toContain('the database does not fit the outbox: its charges were set aside')
      await world.close()
    })

    test('a tenure that cannot be flushed, and a charge that cannot be read, keep nobody waiting', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      const dataDir = join(world.folder, 'node')
      const first = await world.ledger({ dataDir })
      world.ledgers.delete(first)
      await first.drain(5_000)
      await poison(engine, world, 'ledger_applied', 'instance_id')
      const raw = new Database(join(dataDir, 'ledger', '1.db'))
      const stuck = encodeCharge({
        quota: 1,
        accounts: [],
        record: world.record(payer, channel, { isCounted: false }),
        node: '',
        isLogged: false,
        isExported: false,
      })
      raw.run("insert into instances (instance_id, base) values ('poison', 100), ('old', 102)")
      raw.run("insert into charges values (101, ?, '{}'), (103, '{\"requestId\":\"x\"}', '{}'), (104, 'null', '{}')", [
        stuck.body,
      ])
      raw.close()
      const second = await world.ledger({ dataDir })
      await (await second.hold(payer, 10)).settle({ quota: 5, record: world.record(payer, channel) })
      await eventually('all but one is flushed', () => second.stats().unflushedMain === 1)
      await eventually('all but one is logged', () => second.stats().unflushedLog === 1)
      expect(second.stats().quarantined).toBe(2)
      world.ledgers.delete(second)
      await second.drain(1_000)
      expect((await world.db.select().from(world.db.tables.logs)).map((row) => row.type).sort()).toEqual([2, 5, 5])
      await world.close({ quarantined: 2 })
    })

    test('a batch that a slow database does not take in time is halved until it does', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 100_000 })
      const channel = await world.channel()
      let skewMs = 0
      const clock = { ...systemClock, monotonic: () => systemClock.monotonic() + skewMs }
      const logDb: Db = {
        ...world.db,
        transaction: (work, options) =>
          world.db.transaction(
            (tx) =>
              work({
                ...tx,
                insert: (table) => ({
                  values: (rows) => {
                    if (!Array.isArray(rows) || rows.length <= 30) return tx.insert(table).values(rows)
                    skewMs += 5_000
                    throw new DbError('unavailable', 'the transaction took too long')
                  },
                }),
              }),
            options,
          ),
      }
      const ledger = await world.ledger({ logDb, clock, flush: { isBatch: true, intervalMs: 50 } })
      await Promise.all(
        Array.from({ length: 200 }, async () => {
          await (await ledger.hold(payer, 10)).settle({ quota: 10, record: world.record(payer, channel) })
        }),
      )
      await eventually('all is logged', () => ledger.stats().unflushedLog === 0, { withinMs: 15_000 })
      await world.close()
    }, 30_000)

    test('an outbox that belongs to another database keeps its charges to itself', async () => {
      const world = await createWorld(engine)
      const elsewhere = await createWorld(engine)
      const payer = await world.payer({ wallet: 10_000 })
      const channel = await world.channel()
      await elsewhere.payer({ wallet: 10_000 })
      const dataDir = join(world.folder, 'moved')
      const ledger = await world.ledger({ dataDir, flush: { isBatch: true, intervalMs: 60_000 } })
      await (await ledger.hold(payer, 100)).settle({ quota: 100, record: world.record(payer, channel) })
      cpSync(dataDir, join(elsewhere.folder, 'copy'), { recursive: true })
      await world.close()
      const errors: string[] = []
      const moved = await elsewhere.ledger({ dataDir: join(elsewhere.folder, 'copy'), log: errorsInto(errors) })
      expect(errors).toEqual(['an outbox belongs to another database: its charges were set aside'])
      expect(moved.stats()).toMatchObject({ setAside: 1, unflushedMain: 0, unflushedLog: 0 })
      await elsewhere.close({ setAside: 1 })
    })

    test('an instance whose row says it ended goes on as another; its money comes back', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      const ledger = await world.ledger({ leaseMs: 900 })
      const hold = await ledger.hold(payer, 300)
      const before = ledger.stats().instanceId
      const { clusterInstances } = world.db.tables
      await world.db.update(clusterInstances).set({ state: 'reclaimed' }).where(eq(clusterInstances.id, before))
      await (await ledger.hold(payer, 600)).release()
      expect(ledger.stats().instanceId).not.toBe(before)
      await hold.settle({ quota: 200, record: world.record(payer, channel) })
      await eventually('the rows of the old instance are returned', async () => {
        const rows = await world.db.select().from(world.db.tables.quotaAllotments)
        return rows.every((row) => row.instanceId !== before)
      })
      await world.close()
    })

    test('a row of the cluster that was removed is written again', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const ledger = await world.ledger()
      const { clusterInstances } = world.db.tables
      await world.db.delete(clusterInstances)
      await (await ledger.hold(payer, 300)).release()
      expect(await world.db.$count(clusterInstances)).toBe(1)
      await world.close()
    })

    test('rows of a log database of its own arrive there, those of credits once', async () => {
      const world = await createWorld(engine)
      const logs = await engine.freshDb({ only: 'logs' })
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      const ledger = await world.ledger({ logDb: logs.db })
      await (await ledger.hold(payer, 300)).settle({ quota: 10, record: world.record(payer, channel) })
      const credit = (requestId: string) =>
        world.db.transaction(async (tx) => {
          await creditBalance(tx, { kind: 'user', id: payer.userId }, 5)
          await creditLog(
            tx,
            { requestId, userId: payer.userId, type: 1, createdAt: 1, content: '充值 💰', quota: 5 },
            true,
          )
        })
      // The row of another record of the same request, which is in the log database already.
      await logs.db.insert(logs.db.tables.logs).values({ requestId: 'c1', type: 3, content: 'audit' })
      for (const requestId of ['c1', 'c2', 'c1']) await credit(requestId)
      world.granted.set(`u:${payer.userId}`, 1_015)
      const { ledgerLogQueue } = world.db.tables
      const queued = await world.db.select().from(ledgerLogQueue)
      await Promise.all([1, 2, 3].map(() => deliverCreditLogs({ db: world.db, logDb: logs.db })))
      // As after a crash between the two databases: delivered, and still in the queue.
      await world.db.insert(ledgerLogQueue).values(queued)
      expect(await deliverCreditLogs({ db: world.db, logDb: logs.db })).toBe(0)
      await world.drainAll()
      expect(await world.db.$count(world.db.tables.logs)).toBe(0)
      expect(await world.db.$count(world.db.tables.ledgerLogQueue)).toBe(0)
      const rows = await logs.db.select().from(logs.db.tables.logs)
      expect(rows.filter((row) => row.type === 1).map((row) => row.requestId)).toEqual(['c1', 'c2', 'c1'])
      try {
        await world.close({ logDb: logs.db })
      } finally {
        await logs.close()
      }
    })

    test('a start on a database of our own returns what instances without an outbox had', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000 })
      const lost = await world.ledger({ dataDir: join(world.folder, 'lost') })
      await lost.hold(payer, 400)
      await world.ledger({ dataDir: join(world.folder, 'fresh'), isSingleNode: true })
      const { quotaAllotments, clusterInstances } = world.db.tables
      expect(await world.db.$count(quotaAllotments)).toBe(0)
      expect(await world.readUser(payer.userId)).toMatchObject({ quota: 1_000 })
      expect(await world.db.$count(clusterInstances, eq(clusterInstances.state, 'gone'))).toBe(1)
      world.ledgers.delete(lost)
      await lost.drain(1_000)
      await world.close()
    })

    test('on a full disk a call ends in an error, is charged nothing, and the node turns not-ready until there is room', async () => {
      const world = await createWorld(engine)
      const payer = await world.payer({ wallet: 1_000_000 })
      const channel = await world.channel()
      const ledger = await world.ledger({ maxOutboxPages: 30, flush: { isBatch: true, intervalMs: 60_000 } })
      const complete: string[] = []
      const fill = async (): Promise<void> => {
        for (;;) {
          const hold = await ledger.hold(payer, 1_000)
          const record = world.record(payer, channel, { content: 'x'.repeat(3_000) })
          await hold.settle({ quota: 1_000, record })
          complete.push(record.requestId)
        }
      }
      expect(String(await fill().catch((error: unknown) => error))).toContain('dependency_unavailable')
      expect(ledger.isWritable()).toBe(false)
      expect(await codeOf(ledger.hold(payer, 1))).toBe('dependency_unavailable')
      expect(ledger.stats()).toMatchObject({ held: 0, openHolds: 0 })
      expect(complete.length).toBeGreaterThan(3)
      await world.close({ complete, upstream: complete })
    })
  })

test('a power cut that takes what SQLite had not synced loses no charge', async () => {
  const world = await createWorld(ENGINES[0]!)
  const payer = await world.payer({ wallet: 10_000 })
  const channel = await world.channel()
  const path = world.testDb.env.SQLITE_PATH!
  const dataDir = join(world.folder, 'node')
  let isStuck = false
  const db: Db = { ...world.db, sync: async () => !isStuck && world.db.sync() }
  const ledger = await world.ledger({ db, dataDir, isSingleNode: true, sync: 'full' })
  const settle = async (): Promise<void> =>
    (await ledger.hold(payer, 100)).settle({ quota: 100, record: world.record(payer, channel) })
  const isFlushed = () => ledger.stats().unflushedMain + ledger.stats().unflushedLog === 0
  await settle()
  await eventually('it is flushed', isFlushed)
  expect(await db.sync()).toBe(true)
  const cut = join(world.folder, 'cut')
  // What is on the disk for certain: the file, and its log so far.
  for (const suffix of ['', '-wal']) cpSync(path + suffix, join(cut, `main.db${suffix}`))
  isStuck = true
  await settle()
  await eventually('it is flushed', isFlushed)
  // Longer than the outbox takes to let go of what is safe elsewhere.
  await Bun.sleep(1_300)
  cpSync(join(dataDir, 'ledger'), join(cut, 'data', 'ledger'), { recursive: true })
  const after = await openDb({ sqlitePath: join(cut, 'main.db'), log: silentLog })
  const read = async () => (await after.select().from(after.tables.users))[0]
  expect(await read()).toMatchObject({ usedQuota: 100 })
  const next = await world.ledger({ db: after, dataDir: join(cut, 'data'), isSingleNode: true })
  world.ledgers.delete(next)
  await next.drain(5_000)
  expect(await read()).toMatchObject({ quota: 9_800, usedQuota: 200 })
  expect(await after.$count(after.tables.logs)).toBe(2)
  await after.close()
  await world.close()
})

if (SERVER_ENGINE)
  describe(`flush on ${SERVER_ENGINE.name} alone`, () => {
    test('a table that holds only three-byte characters takes the row without the others', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const payer = await world.payer({ wallet: 1_000 })
      const channel = await world.channel()
      await execute(
        SERVER_ENGINE!,
        world,
        'alter table logs convert to character set utf8mb3',
        'alter table quota_data convert to character set utf8mb3',
      )
      const ledger = await world.ledger({ flush: { isBatch: true, intervalMs: 60_000 } })
      for (const content of ['ok', '价格 💰', '价格'])
        await (await ledger.hold(payer, 100)).settle({
          quota: 10,
          record: world.record(payer, channel, { content, modelName: content }),
        })
      await world.drainAll()
      const { logs, quotaData } = world.db.tables
      expect((await world.db.select().from(logs)).map((row) => row.content)).toEqual(['ok', '价格 \ufffd', '价格'])
      expect((await world.db.select().from(quotaData)).map((row) => row.modelName).sort()).toEqual([
        'ok',
        '价格',
        '价格 \ufffd',
      ])
      await world.close()
    })

    test('a log database that is away delays log rows and nothing else, also over a restart', async () => {
      const world = await createWorld(SERVER_ENGINE!)
      const logs = await SERVER_ENGINE!.freshDb({ only: 'logs' })
      const proxy = await openSqlProxy({ host: '127.0.0.1', port: (await sqlServer()).port })
      const dsn = logs.env.SQL_DSN!.replace(/(127\.0\.0\.1|localhost):\d+/, `127.0.0.1:${proxy.port}`)
      const logDb = await openDb({ dsn, only: 'logs', log: silentLog })
      const payer = await world.payer({ wallet: 10_000 })
      const channel = await world.channel()
      const dataDir = join(world.folder, 'node')
      const complete: string[] = []
      const settle = async (ledger: Awaited<ReturnType<World['ledger']>>): Promise<void> => {
        const record = world.record(payer, channel)
        await (await ledger.hold(payer, 100)).settle({ quota: 100, record })
        complete.push(record.requestId)
      }
      const first = await world.ledger({ dataDir, logDb })
      await settle(first)
      await eventually('both have it', () => first.stats().unflushedMain + first.stats().unflushedLog === 0)
      proxy.mode = 'refuse'
      proxy.cut()
      for (let i = 0; i < 5; i++) await settle(first)
      await eventually('the money is charged', () => first.stats().unflushedMain === 0)
      expect(first.stats().unflushedLog).toBe(5)
      world.ledgers.delete(first)
      await first.drain(500)
      const second = await world.ledger({ dataDir, logDb })
      await settle(second)
      proxy.mode = 'on'
      await eventually('the rows arrive', () => second.stats().unflushedLog === 0, { withinMs: 10_000 })
      try {
        await world.close({ logDb: logs.db, complete, upstream: complete })
      } finally {
        await logDb.close()
        await proxy.close()
        await logs.close()
      }
    }, 40_000)
  })
