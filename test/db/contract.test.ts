/** What every engine promises to those who use `Db`. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { and, eq, gte, inArray, sql, sum } from 'drizzle-orm'
import {
  bumpTopic,
  createLeaseRow,
  type Db,
  DbError,
  readTopicChanges,
  readTopicVersion,
  readTopicVersions,
  together,
} from '../../src/db/index.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'

/** @returns the DbError a promise is rejected with */
async function failure(promise: PromiseLike<unknown>): Promise<DbError> {
  try {
    await promise
  } catch (error) {
    if (error instanceof DbError) return error
    throw error
  }
  throw new Error('it did not fail')
}

for (const engine of ENGINES) {
  describe(`db on ${engine.name}`, () => {
    let testDb: TestDb
    let db: Db
    let serial = 0

    beforeAll(async () => {
      testDb = await engine.freshDb()
      db = testDb.db
    }, 300_000)
    afterAll(() => testDb.close())

    const newUser = (quota = 0): Promise<number> =>
      db.insertId(db.tables.users, { username: `user${++serial}`, password: 'x', affCode: `aff${serial}`, quota })
    const quotaOf = async (id: number): Promise<number | null | undefined> => {
      const { users } = db.tables
      const [row] = await db.select({ quota: users.quota }).from(users).where(eq(users.id, id))
      return row?.quota
    }

    describe('transaction', () => {
      test('leaves nothing behind when its work throws', async () => {
        const { users, options } = db.tables
        const id = await newUser(5)
        const ended = db.transaction(async (tx) => {
          await tx.update(users).set({ quota: 1 }).where(eq(users.id, id))
          await tx.insert(options).values({ key: 'half', value: 'done' })
          throw new RangeError('stop')
        })
        await expect(ended).rejects.toThrow(new RangeError('stop'))
        expect(await quotaOf(id)).toBe(5)
        expect(await db.$count(options, eq(options.key, 'half'))).toBe(0)
      })

      test('says what its work made of a refused statement, also of one that went together with others', async () => {
        const { options } = db.tables
        const isIt = eq(options.key, 'taken')
        await db.insert(options).values({ key: 'taken', value: 'before' })
        const ended = db.transaction((tx) =>
          together(
            () => tx.update(options).set({ value: 'after' }).where(isIt),
            () => tx.insert(options).values({ key: 'taken', value: 'again' }),
          ).catch((error: unknown) => {
            throw new RangeError('it is taken', { cause: error })
          }),
        )
        await expect(ended).rejects.toThrow(new RangeError('it is taken'))
        expect(await db.select({ value: options.value }).from(options).where(isIt)).toEqual([{ value: 'before' }])
      })

      test('keeps everything when its work ends, and gives its result', async () => {
        const id = await newUser(5)
        const { users } = db.tables
        const result = await db.transaction(async (tx) => {
          await tx.update(users).set({ quota: 6 }).where(eq(users.id, id))
          return 'done'
        })
        expect(result).toBe('done')
        expect(await quotaOf(id)).toBe(6)
      })

      test('leaves nothing of its result on the connection, which lives on', async () => {
        const { users } = db.tables
        const id = await newUser(5)
        const results: WeakRef<object>[] = []
        for (let n = 0; n < 100; n++) {
          const read = (tx: Db) => tx.select({ quota: users.quota }).from(users).where(eq(users.id, id))
          results.push(new WeakRef(await db.transaction(read)))
        }
        const areGone = (): boolean => {
          Bun.gc(true)
          return results.filter((result) => result.deref()).length < 10
        }
        await eventually('they are gone', areGone, { withinMs: 2_000 })
      })

      test('sees its own writes; nobody else does before the commit, and nobody waits for it to read', async () => {
        const id = await newUser(1)
        const { users } = db.tables
        await db.transaction(async (tx) => {
          await tx.update(users).set({ quota: 2 }).where(eq(users.id, id))
          const [own] = await tx.select({ quota: users.quota }).from(users).where(eq(users.id, id))
          expect(own?.quota).toBe(2)
          expect(await quotaOf(id)).toBe(1)
        })
        expect(await quotaOf(id)).toBe(2)
      })

      test('loses no update among many that read, lock and write one row', async () => {
        const id = await newUser(0)
        const { users } = db.tables
        await Promise.all(
          Array.from({ length: 40 }, () =>
            db.transaction(
              async (tx) => {
                const [row] = await tx.lock(tx.select({ quota: users.quota }).from(users).where(eq(users.id, id)))
                await tx
                  .update(users)
                  .set({ quota: (row?.quota ?? 0) + 1 })
                  .where(eq(users.id, id))
              },
              { deadlineMs: 30_000 },
            ),
          ),
        )
        expect(await quotaOf(id)).toBe(40)
      }, 60_000)

      test('is repeated when two of them block each other', async () => {
        const [a, b] = [await newUser(0), await newUser(0)]
        const { users } = db.tables
        const add = (tx: Db, id: number): PromiseLike<unknown> =>
          tx
            .update(users)
            .set({ quota: sql`${users.quota} + 1` })
            .where(eq(users.id, id))
        let bothHold = 0
        const both = Promise.withResolvers<void>()
        const cross = (first: number, second: number): Promise<void> =>
          db.transaction(async (tx) => {
            await add(tx, first)
            if (engine.isServer && ++bothHold <= 2) {
              if (bothHold === 2) both.resolve()
              await both.promise
            }
            await add(tx, second)
          })
        await Promise.all([cross(a, b), cross(b, a)])
        expect([await quotaOf(a), await quotaOf(b)]).toEqual([2, 2])
      }, 30_000)

      test('ends at its deadline with nothing done, and the next one works', async () => {
        const id = await newUser(1)
        const { users } = db.tables
        let after: unknown
        const never = Promise.withResolvers<void>()
        const error = await failure(
          db.transaction(
            async (tx) => {
              await tx.update(users).set({ quota: 2 }).where(eq(users.id, id))
              await never.promise
              after = await failure(tx.update(users).set({ quota: 3 }).where(eq(users.id, id)))
            },
            { deadlineMs: 100 },
          ),
        )
        expect(error.kind).toBe('unavailable')
        expect(await quotaOf(id)).toBe(1)
        never.resolve()
        await eventually('the late statement is refused', () => after instanceof DbError)
        await db.transaction(async (tx) => {
          await tx.update(users).set({ quota: 4 }).where(eq(users.id, id))
        })
        expect(await quotaOf(id)).toBe(4)
      })

      test('refuses a transaction or a write of the outer database inside, instead of waiting for itself', async () => {
        const id = await newUser(1)
        const { users } = db.tables
        const outerWrite = (): PromiseLike<unknown> => db.update(users).set({ quota: 9 }).where(eq(users.id, id))
        expect((await failure(db.transaction(async () => outerWrite()))).kind).toBe('other')
        expect((await failure(db.transaction((tx) => tx.transaction(async () => {})))).kind).toBe('other')
        expect((await failure(db.transaction(() => db.transaction(async () => {})))).kind).toBe('other')
        expect(await quotaOf(id)).toBe(1)
      })

      test('refuses statements after its end', async () => {
        const { users } = db.tables
        let escaped: Db | undefined
        await db.transaction(async (tx) => {
          escaped = tx
        })
        expect((await failure(escaped!.update(users).set({ quota: 1 }).where(eq(users.id, -1)))).kind).toBe('other')
      })
    })

    describe('conditional updates', () => {
      test('never spend more than is there', async () => {
        const id = await newUser(10)
        const { users } = db.tables
        const spent = await Promise.all(
          Array.from({ length: 30 }, () =>
            db.changes(
              db
                .update(users)
                .set({ quota: sql`${users.quota} - 1` })
                .where(and(eq(users.id, id), gte(users.quota, 1))),
            ),
          ),
        )
        expect(spent.filter((n) => n === 1)).toHaveLength(10)
        expect(await quotaOf(id)).toBe(0)
      })

      test('count the rows they match, also without effect', async () => {
        const id = await newUser(7)
        const { users } = db.tables
        const set = (quota: number): Promise<number> =>
          db.changes(db.update(users).set({ quota }).where(eq(users.id, id)))
        expect([await set(8), await set(8)]).toEqual([1, 1])
        expect(await db.changes(db.update(users).set({ quota: 1 }).where(eq(users.id, -1)))).toBe(0)
        expect(await db.changes(db.delete(users).where(eq(users.id, id)))).toBe(1)
      })

      test('keep every unit up to 2^53 − 1', async () => {
        const id = await newUser(Number.MAX_SAFE_INTEGER - 1)
        const { users } = db.tables
        await db
          .update(users)
          .set({ quota: sql`${users.quota} + ${1}` })
          .where(eq(users.id, id))
        expect(await quotaOf(id)).toBe(Number.MAX_SAFE_INTEGER)
        expect(await db.$count(users, eq(users.quota, Number.MAX_SAFE_INTEGER))).toBe(1)
        await db.update(users).set({ quota: -Number.MAX_SAFE_INTEGER }).where(eq(users.id, id))
        expect(await quotaOf(id)).toBe(-Number.MAX_SAFE_INTEGER)
      })
    })

    describe('inserts', () => {
      test('take 1,000 whole log rows at once', async () => {
        const { logs } = db.tables
        const rows = Array.from({ length: 1_000 }, (_, n) => ({
          userId: 77,
          createdAt: 1_700_000_000 + n,
          type: 2,
          content: `第 ${n} 行 😀`,
          username: 'u',
          tokenName: 'k',
          modelName: 'm',
          quota: n,
          promptTokens: n,
          completionTokens: n,
          useTime: 1,
          isStream: n % 2 === 0,
          channelId: 1,
          channelName: null,
          tokenId: 1,
          group: 'default',
          ip: '::1',
          requestId: `r${n}`,
          upstreamRequestId: `up${n}`,
          other: JSON.stringify({ model_ratio: 1.25, n }),
        }))
        expect(await db.changes(db.insert(logs).values(rows))).toBe(1_000)
        const back = await db.select().from(logs).where(eq(logs.userId, 77)).orderBy(logs.id).limit(10).offset(990)
        expect(back.map(({ id: _, ...row }) => row)).toEqual(rows.slice(990))
        const [total] = await db
          .select({ quota: sum(logs.quota).mapWith(Number) })
          .from(logs)
          .where(eq(logs.userId, 77))
        expect(total?.quota).toBe(499_500)
      })

      test('give the id of the row, never a used one', async () => {
        const first = await newUser()
        await db.delete(db.tables.users).where(eq(db.tables.users.id, first))
        expect(await newUser()).toBeGreaterThan(first)
      })

      test('tell a duplicate from other failures, without its value', async () => {
        const { tokens } = db.tables
        await db.insert(tokens).values({ key: 'secretkeyvalue', name: 'a' })
        const error = await failure(db.insert(tokens).values({ key: 'secretkeyvalue', name: 'b' }))
        expect(error.kind).toBe('duplicate')
        expect(Bun.inspect(error)).not.toContain('secretkeyvalue')
      })

      test('give a row that lacks a column of its neighbour the default of that column', async () => {
        const { tokens } = db.tables
        const keys = ['mixed1', 'mixed2', 'mixed3']
        await db
          .insert(tokens)
          .values([{ key: keys[0]!, expiredTime: 5 }, { key: keys[1]!, name: 'n' }, { key: keys[2]! }])
        const rows = await db.select().from(tokens).where(inArray(tokens.key, keys)).orderBy(tokens.key)
        expect(rows.map(({ expiredTime, name, status, allowIps }) => [expiredTime, name, status, allowIps])).toEqual([
          [5, null, 1, ''],
          [-1, 'n', 1, ''],
          [-1, null, 1, ''],
        ])
      })

      test('of many rows are all refused with one of them, and tell no value', async () => {
        const { tokens } = db.tables
        const before = await db.$count(tokens)
        const rows = Array.from({ length: 200 }, (_, n) => ({ key: `hiddenkey${n % 150}`, name: 'many' }))
        const error = await failure(db.insert(tokens).values(rows))
        expect(error.kind).toBe('duplicate')
        expect(Bun.inspect(error)).not.toContain('hiddenkey')
        expect(await db.$count(tokens)).toBe(before)
        // Also where the work of a transaction makes nothing of it.
        await db.transaction(async (tx) => void (await failure(tx.insert(tokens).values(rows)))).catch(() => {})
        expect(await db.$count(tokens)).toBe(before)
        expect(await db.insertIgnore(tokens, rows)).toBe(150)
      })

      if (engine.isServer)
        test('insertIgnore does not cut what is too long', async () => {
          const error = await failure(
            db.insertIgnore(db.tables.abilities, { group: 'g'.repeat(65), model: 'm', channelId: 1 }),
          )
          expect(error.kind).toBe('content')
        })

      test('tell refused content', async () => {
        const { users } = db.tables
        const error = await failure(db.insert(users).values({ username: 'nopassword', password: sql`null` }))
        expect(error.kind).toBe('content')
      })

      test('insertIgnore adds what is new and counts only that', async () => {
        const { options } = db.tables
        const rows = ['i1', 'i2', 'i3'].map((key) => ({ key, value: 'old' }))
        expect(await db.insertIgnore(options, rows.slice(0, 2))).toBe(2)
        expect(
          await db.insertIgnore(
            options,
            rows.map((row) => ({ ...row, value: 'new' })),
          ),
        ).toBe(1)
        expect(await db.insertIgnore(options, rows[0]!)).toBe(0)
        expect(await db.insertIgnore(options, [])).toBe(0)
        const found = await db
          .select()
          .from(options)
          .where(inArray(options.key, ['i1', 'i2', 'i3']))
          .orderBy(options.key)
        expect(found.map(({ value }) => value)).toEqual(['old', 'old', 'new'])
      })

      test('addUp adds to the rows that are there, and inserts the others under their id', async () => {
        const { quotaData } = db.tables
        const { count, quota } = quotaData
        const ids = Array.from({ length: 20 }, (_, n) => 7_000 + n)
        await db.insert(quotaData).values([{ id: 7_003, userId: 3, count: 5, quota: null, tokenUsed: 9 }])
        const more = ids.map((id) => ({ id, userId: 4, count: 2, quota: 10, tokenUsed: 1 }))
        await db.transaction((tx) => tx.addUp(quotaData, more, [count, quota]))
        await db.addUp(quotaData, more, [count, quota])
        const rows = await db.select().from(quotaData).where(inArray(quotaData.id, ids)).orderBy(quotaData.id)
        expect(rows.map((row) => [row.userId, row.count, row.quota, row.tokenUsed])).toEqual(
          ids.map((id) => (id === 7_003 ? [3, 9, 20, 9] : [4, 4, 20, 1])),
        )
      })

      test('upsert inserts once and then changes, from the old values', async () => {
        const { topicVersions } = db.tables
        const raise = (): Promise<void> =>
          db.upsert(
            topicVersions,
            { topic: 'upsert', version: 1 },
            { key: [topicVersions.topic], set: { version: sql`${topicVersions.version} + 10` } },
          )
        await Promise.all([raise(), raise(), raise()])
        expect((await readTopicVersions(db)).get('upsert')).toBe(21)
      })

      test('a topic tells which items changed since a version, or that it may be anything', async () => {
        const bump = (items?: readonly number[]): Promise<void> => db.transaction((tx) => bumpTopic(tx, 'items', items))
        const changes = (after: number, upTo: number) => readTopicChanges(db, 'items', { after, upTo })
        await bump([7, 8])
        await bump([8, 9, 9])
        expect(await readTopicVersion(db, 'items')).toBe(2)
        expect((await changes(0, 2))?.toSorted()).toEqual([7, 8, 9])
        expect((await changes(1, 2))?.toSorted()).toEqual([8, 9])
        expect(await changes(2, 2)).toEqual([])
        await bump()
        await bump([1])
        expect(await changes(1, 4)).toBeUndefined()
        expect(await changes(3, 4)).toEqual([1])
        // A database that has gone back, and more items than it pays to name.
        expect(await changes(4, 3)).toBeUndefined()
        await bump(Array.from({ length: 1_000 }, (_, n) => n))
        expect(await changes(4, 5)).toBeUndefined()
        // What all have seen long since is not kept.
        await db
          .update(db.tables.topicVersions)
          .set({ version: 2_000 })
          .where(eq(db.tables.topicVersions.topic, 'items'))
        const { topicChanges } = db.tables
        const kept = () => db.$count(topicChanges, eq(topicChanges.topic, 'items'))
        const before = await kept()
        await bump([2])
        expect(await kept()).toBeLessThan(before)
        for (let n = 0; n < before; n++) await bump()
        await bump([2, 3, 4, 5, 6, 7])
        expect(await kept()).toBe(7)
        expect((await changes(2_000, 2_001))?.toSorted()).toEqual([2])
      })
    })

    describe('values', () => {
      test('come back as they were written, in every type', async () => {
        const { authFlows, channels, redemptions } = db.tables
        const expiresAt = new Date('2026-08-01T23:59:59.987Z')
        const flow = await db.insertId(authFlows, { tokenHash: 'a'.repeat(64), purpose: 'oauth', expiresAt })
        const [foundFlow] = await db.select().from(authFlows).where(eq(authFlows.id, flow))
        expect(foundFlow?.expiresAt).toEqual(expiresAt)
        expect(foundFlow?.consumedAt).toBeNull()
        const info = '{"is_multi_key": true, "big": 12345678901234567890, "名": "😀", "line": "a\\nb"}'
        const channel = await db.insertId(channels, {
          key: 'k',
          name: '渠道 😀',
          balance: 1.25,
          weight: 3,
          channelInfo: info,
        })
        const [foundChannel] = await db.select().from(channels).where(eq(channels.id, channel))
        expect(foundChannel).toMatchObject({
          name: '渠道 😀',
          balance: 1.25,
          weight: 3,
          status: 1,
          group: 'default',
          tag: null,
        })
        // MySQL normalises JSON; what it means is kept on every engine.
        expect(JSON.parse(foundChannel?.channelInfo ?? '')).toMatchObject({
          is_multi_key: true,
          名: '😀',
          line: 'a\nb',
        })
        if (engine.name !== 'mysql') expect(foundChannel?.channelInfo).toBe(info)
        const code = await db.insertId(redemptions, { key: 'c'.repeat(32), deletedAt: expiresAt })
        const [foundCode] = await db.select().from(redemptions).where(eq(redemptions.id, code))
        expect(foundCode).toMatchObject({ quota: 100, status: 1, deletedAt: expiresAt, expiredTime: null })
      })

      test('of three kinds stand for a boolean', async () => {
        const { tokens } = db.tables
        const ids: number[] = []
        for (const unlimitedQuota of [true, false, null])
          ids.push(await db.insertId(tokens, { key: `bool${String(unlimitedQuota)}`, unlimitedQuota }))
        const rows = await db.select().from(tokens).where(inArray(tokens.id, ids)).orderBy(tokens.id)
        expect(rows.map((row) => row.unlimitedQuota)).toEqual([true, false, null])
        expect(await db.$count(tokens, and(inArray(tokens.id, ids), eq(tokens.unlimitedQuota, true)))).toBe(1)
      })

      test('of our own keys compare byte by byte', async () => {
        const { clusterMeta } = db.tables
        await db.insert(clusterMeta).values([
          { key: 'Exact', value: '大' },
          { key: 'exact', value: '小 😀' },
        ])
        const [found] = await db.select().from(clusterMeta).where(eq(clusterMeta.key, 'exact'))
        expect(found).toEqual({ key: 'exact', value: '小 😀' })
      })

      test('may hold quotes, backslashes, percent signs and line ends', async () => {
        const { options } = db.tables
        const value = `' " \\ % _ \` \n\r\t\u0000 ; -- /* ${'é'.repeat(70_000)}`
        await db.insert(options).values({ key: 'odd', value })
        const [found] = await db.select().from(options).where(eq(options.key, 'odd'))
        expect(found?.value).toBe(value)
      })
    })

    test('now() is the present in whole milliseconds', async () => {
      const nowMs = await db.now()
      expect(Number.isSafeInteger(nowMs)).toBe(true)
      expect(Math.abs(nowMs - Date.now())).toBeLessThan(5_000)
    })

    test('the version of a topic rises with the transaction that raised it, and only then', async () => {
      await db.transaction((tx) => bumpTopic(tx, 'channels'))
      await db.transaction((tx) => bumpTopic(tx, 'channels'))
      const undone = db.transaction(async (tx) => {
        await bumpTopic(tx, 'channels')
        throw new Error('undone')
      })
      await undone.catch(() => {})
      expect((await readTopicVersions(db)).get('channels')).toBe(2)
    })

    describe('a lease row', () => {
      test('has one holder; another takes over with a higher number when it is free or over', async () => {
        const lease = (holder: string, ttlMs: number) => createLeaseRow(db, { name: 'work', holder, ttlMs })
        const first = lease('first', 60_000)
        const second = lease('second', 60_000)
        const number = (await first.take())!
        expect(await second.take()).toBeUndefined()
        expect(await first.renew()).toBe(true)
        await first.release()
        expect(await second.take()).toBe(number + 1)
        expect(await first.renew()).toBe(false)
        await second.release()
        const short = lease('short', 1)
        await short.take()
        const next = await eventually('the lease is over', () => second.take())
        expect(next).toBe(number + 3)
      })
    })
  })
}
