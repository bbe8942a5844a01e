/** Databases that New API left are taken over in place: nothing is lost, nothing is changed, everything is read right. */
import { afterEach, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { asEngineDb } from '../../src/db/db.ts'
import { type Db, type DbError, findMissing, openDb, pendingIndexes, syncSchema } from '../../src/db/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import { ENGINES, SERVER_ENGINE, sqlServer, type TestDb } from '../support/engines.ts'
import { fillNewApi, type Photograph, photograph } from './taken-over.ts'

const log = silentLog

/** Rows that the sync itself adds to tables it takes over: beside them every row is as it was. */
const ADDED: Readonly<Record<string, number>> = { options: 2, setups: 1 }

function expectUnchanged(before: Photograph, after: Photograph): void {
  for (const [table, rows] of before) {
    const now = after.get(table) ?? []
    for (const row of rows)
      expect({ table, row: now.find((other) => Bun.deepEquals(other, row)) }).toEqual({ table, row })
    expect({ table, rows: now.length - rows.length <= (ADDED[table] ?? 0) }).toEqual({ table, rows: true })
  }
}

let open: TestDb[] = []
afterEach(async () => {
  for (const testDb of open) await testDb.close()
  open = []
})

for (const engine of ENGINES) {
  const fresh = async (): Promise<TestDb> => {
    const testDb = await engine.freshDb({ isEmpty: true, charset: 'utf8mb4' })
    open.push(testDb)
    return testDb
  }
  /** What this release needs is there, and a second sync finds nothing to do. */
  const expectComplete = async (db: Db): Promise<void> => {
    expect(await findMissing(db)).toEqual([])
    expect(await pendingIndexes(db)).toEqual([])
    const changes: string[] = []
    await syncSchema(db, { log: { ...log, info: (text) => changes.push(text), warn: (text) => changes.push(text) } })
    expect(changes).toEqual([])
  }

  describe(`take-over on ${engine.name}`, () => {
    test('an empty database gets everything, once', async () => {
      const { db } = await fresh()
      await syncSchema(db, { log })
      await expectComplete(db)
      expect(await db.$count(db.tables.setups)).toBe(0)
      expect(await db.$count(db.tables.clusterMeta)).toBe(1)
    }, 60_000)

    test('a database of today keeps every row and every type', async () => {
      const { db } = await fresh()
      await fillNewApi(db, 'today', '中文 😀')
      const before = await photograph(db)
      expect(before.size).toBe(34)
      await syncSchema(db, { log })
      expectUnchanged(before, await photograph(db, before))
      await expectComplete(db)

      const { channels, options, setups, tokens, users } = db.tables
      const [user] = await db.select().from(users).where(eq(users.username, '用户'))
      expect(user).toMatchObject({
        id: 2,
        quota: 3_000_000_000,
        usedQuota: null,
        affCode: null,
        deletedAt: null,
      })
      const keys = await db.select().from(tokens).orderBy(tokens.id)
      expect(keys.slice(0, 3).map((key) => key.unlimitedQuota)).toEqual([true, null, false])
      expect(keys[3]?.deletedAt).toEqual(new Date('2026-08-04T12:00:00.123Z'))
      expect(keys[0]?.remainQuota).toBe(-17)
      const [channel] = await db.select().from(channels).where(eq(channels.id, 1))
      expect(JSON.parse(channel?.channelInfo ?? '')).toMatchObject({ is_multi_key: true })
      expect(channel?.channelInfo).toContain('12345678901234567890')
      const [empty] = await db.select().from(channels).where(eq(channels.id, 9))
      expect(empty).toMatchObject({ channelInfo: null, weight: null, balance: 0.1, models: 'gpt-4o, gpt-4o-mini ' })
      const [faq] = await db.select().from(options).where(eq(options.key, 'console_setting.faq'))
      expect(JSON.parse(faq?.value ?? '')).toEqual([{ question: '问', answer: '答' }])
      expect(await db.$count(setups)).toBe(4)
    }, 60_000)

    test('a database of an older version gets its missing tables and columns with their defaults', async () => {
      const { db } = await fresh()
      await fillNewApi(db, 'old', '中文 😀')
      const before = await photograph(db)
      expect(before.has('user_sessions')).toBe(false)
      await syncSchema(db, { log, version: 'v1' })
      expectUnchanged(before, await photograph(db, before))
      await expectComplete(db)

      const { quotaData, setups, tokens, users } = db.tables
      const [root] = await db.select().from(users).where(eq(users.username, 'root'))
      expect(root).toMatchObject({ authVersion: 1, lastLoginAt: 0, createdAt: null, setting: null })
      const [key] = await db.select().from(tokens).limit(1)
      expect(key).toMatchObject({ allowIps: '', group: '', crossGroupRetry: null })
      const [usage] = await db.select().from(quotaData).limit(1)
      expect(usage).toMatchObject({ useGroup: '', tokenId: 0 })
      const done = await db.select().from(setups)
      expect(done).toHaveLength(1)
      expect(done[0]?.version).toBe('v1')
    }, 60_000)

    test('rows that a unique key of ours would refuse stay, and the start goes on', async () => {
      const { db } = await fresh()
      await fillNewApi(db, 'today', 'x')
      const raw = asEngineDb(db)
      await raw.raw(
        db.engine === 'mysql' ? 'drop index idx_users_aff_code on users' : 'drop index idx_users_aff_code',
        [],
        'schema',
      )
      await raw.raw("update users set aff_code = ''")
      const before = await photograph(db)
      const warnings: string[] = []
      await syncSchema(db, { log: { ...log, warn: (_, fields) => warnings.push(String(fields?.['index'])) } })
      expectUnchanged(before, await photograph(db, before))
      expect(warnings).toEqual(['idx_users_aff_code'])
    }, 60_000)
  })
}

describe('take-over of an SQLite file', () => {
  test('ids of deleted users, keys and channels are never given again, also if another program deleted them', async () => {
    const testDb = await ENGINES[0]!.freshDb({ isEmpty: true })
    open.push(testDb)
    const { db } = testDb
    await fillNewApi(db, 'today', 'x')
    await syncSchema(db, { log })
    const { tokens, users } = db.tables
    const [highest] = (await asEngineDb(db).raw('select max(id) from users', [], 'read')).rows[0] as number[]
    // As another program would, by a connection that knows nothing of ours.
    const { Database } = await import('bun:sqlite')
    const other = new Database(testDb.env.SQLITE_PATH!)
    other.run('delete from users where id = ?', [highest!])
    other.close()
    const again = await testDb.open()
    const id = await again.insertId(again.tables.users, { username: 'next', password: 'x' })
    expect(id).toBe(highest! + 1)
    await again.delete(users).where(eq(users.id, id))
    await again.close()
    await db.insert(users).values([
      { username: 'next1', password: 'x' },
      { username: 'next2', password: 'x' },
    ])
    const ids = (await db.select({ id: users.id }).from(users)).map((row) => row.id)
    expect(ids.filter((found) => found > highest!)).toHaveLength(2)
    expect(ids).not.toContain(id)
    expect(ids).not.toContain(highest)
    const key = await db.insertId(tokens, { key: 'fresh' })
    await db.delete(tokens).where(eq(tokens.id, key))
    expect(await db.insertId(tokens, { key: 'fresh' })).toBeGreaterThan(key)
    await db.transaction(async (tx) => {
      expect(await tx.insertIgnore(users, { username: 'next3', password: 'x' })).toBe(1)
    })
  })
})

if (SERVER_ENGINE) {
  describe(`character sets on ${SERVER_ENGINE.name}`, () => {
    const inCharset = async (charset: string, work: (db: Db) => Promise<void>): Promise<void> => {
      const server = await sqlServer()
      const database = `charset_${charset}_${crypto.randomUUID().slice(0, 8)}`
      await server.execute(`create database ${database}${charset === 'default' ? '' : ` character set ${charset}`}`)
      const db = await openDb({ dsn: server.dsn(database), log })
      try {
        await work(db)
      } finally {
        await db.close()
        await server.execute(`drop database ${database}`)
      }
    }
    const charsetOf = async (db: Db, table: string): Promise<string> => {
      const { rows } = await asEngineDb(db).raw(
        'select table_collation from information_schema.tables where table_schema = database() and table_name = ?',
        [table],
        'read',
      )
      return String(rows[0]?.[0])
    }

    test(
      'a database in utf8mb3 is taken over as it is; what is new there holds every character',
      () =>
        inCharset('utf8mb3', async (db) => {
          await fillNewApi(db, 'old', '中文')
          const before = await photograph(db)
          const collation = await charsetOf(db, 'users')
          await syncSchema(db, { log })
          expectUnchanged(before, await photograph(db, before))
          expect(await findMissing(db)).toEqual([])
          expect(await charsetOf(db, 'users')).toBe(collation)
          const { ledgerQuarantine, models, users } = db.tables
          await db.insert(models).values({ modelName: '模型 😀' })
          expect((await db.select().from(models))[0]?.modelName).toBe('模型 😀')
          await db
            .insert(ledgerQuarantine)
            .values({ requestId: '😀', part: 'log', charge: '', error: '', createdAtMs: 1 })
          expect(await db.$count(ledgerQuarantine, eq(ledgerQuarantine.requestId, '😀'))).toBe(1)
          // What the older table cannot hold is refused or not found, never cut and never an outage.
          const looked = await db.$count(users, eq(users.username, '😀')).then(
            (found) => found,
            (error: DbError) => error.kind,
          )
          expect([0, 'content']).toContain(looked)
          const stored = await db.insertId(users, { username: '😀', password: 'x' }).then(
            () => 'stored',
            (error: DbError) => error.kind,
          )
          expect(stored).toBe('content')
        }),
      60_000,
    )

    test.each(['latin1', 'default'])(
      'in a database whose default is %s our tables hold Chinese and emoji',
      (charset) =>
        inCharset(charset, async (db) => {
          const { rows } = await asEngineDb(db).raw('select @@character_set_database', [], 'read')
          if (charset === 'latin1' || SERVER_ENGINE?.name === 'mariadb') expect(rows[0]?.[0]).toBe('latin1')
          await syncSchema(db, { log })
          const { logs, options, users } = db.tables
          const text = '中文 😀 𠮷 é'
          const id = await db.insertId(users, { username: text, password: 'x' })
          await db.insert(logs).values({ content: text, other: text })
          await db.insert(options).values({ key: text, value: text })
          expect((await db.select().from(users).where(eq(users.username, text)))[0]?.id).toBe(id)
          expect((await db.select().from(logs))[0]).toMatchObject({ content: text, other: text })
          expect((await db.select().from(options).where(eq(options.key, text)))[0]?.value).toBe(text)
        }),
      60_000,
    )
  })
}
