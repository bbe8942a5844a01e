/** What a transaction and a statement say when the server, the network or an address fails under them. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { and, eq, inArray, sql } from 'drizzle-orm'
import { asEngineDb } from '../../src/db/db.ts'
import { type Db, DbError, type DbPool, openDb } from '../../src/db/index.ts'
import { type Log, silentLog } from '../../src/lib/log.ts'
import { SERVER_ENGINE, sqlServer, type TestDb } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { freePort, type SqlServer } from '../support/services.ts'
import { openTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts'

async function failure(promise: PromiseLike<unknown>): Promise<DbError> {
  try {
    await promise
  } catch (error) {
    if (error instanceof DbError) return error
    throw error
  }
  throw new Error('it did not fail')
}

if (SERVER_ENGINE) {
  const engine = SERVER_ENGINE
  describe(`outages of ${engine.name}`, () => {
    let server: SqlServer
    let testDb: TestDb
    let database = ''
    let key = ''

    beforeAll(async () => {
      server = await sqlServer()
      testDb = await engine.freshDb()
      database = testDb.env.SQL_DSN!.split('/')[1]!
    }, 300_000)
    afterAll(() => testDb.close())
    beforeEach(() => {
      key = crypto.randomUUID()
    })

    /** Runs a test through a proxy of its own. */
    const through = async (
      work: (proxy: TcpProxy, db: Db) => Promise<void>,
      options: { readonly pool?: DbPool; readonly params?: string; readonly log?: Log; readonly user?: string } = {},
    ): Promise<void> => {
      const proxy = await openTcpProxy(server)
      const user = options.user ?? 'test:test'
      const db = await openDb({
        dsn: `${user}@tcp(127.0.0.1:${proxy.port})/${database}${options.params ?? ''}`,
        log: options.log ?? silentLog,
        ...(options.pool ? { pool: options.pool } : {}),
      })
      try {
        await work(proxy, db)
      } finally {
        proxy.thaw()
        await db.close()
        await proxy.close()
      }
    }
    const write = (db: Db, deadlineMs = 5_000): Promise<void> =>
      db.transaction(
        async (tx) => {
          await tx.insert(tx.tables.options).values({ key, value: 'x' })
        },
        { deadlineMs },
      )
    const isThere = async (): Promise<boolean> => {
      const { options } = testDb.db.tables
      return (await testDb.db.$count(options, eq(options.key, key))) === 1
    }

    test('a connection cut after COMMIT was taken: the outcome is unknown, and it was done', () =>
      through(async (proxy, db) => {
        proxy.onText('commit', 'cut-after')
        expect((await failure(write(db))).kind).toBe('unknown-outcome')
        expect(await isThere()).toBe(true)
      }))

    test('a connection cut before COMMIT arrived: the outcome is unknown, and it was not done', () =>
      through(async (proxy, db) => {
        proxy.onText('commit', 'cut-before')
        expect((await failure(write(db))).kind).toBe('unknown-outcome')
        expect(await isThere()).toBe(false)
      }))

    test('an answer to COMMIT that does not come: the outcome is unknown at the deadline', () =>
      through(async (proxy, db) => {
        proxy.onText('commit', 'freeze')
        const startedAt = performance.now()
        expect((await failure(write(db, 300))).kind).toBe('unknown-outcome')
        expect(performance.now() - startedAt).toBeLessThan(1_500)
      }))

    test('a connection cut before COMMIT was sent: not done, and a later try works', () =>
      through(async (proxy, db) => {
        proxy.onText('insert', 'cut-before')
        expect(
          (
            await failure(
              db.transaction(async (tx) => {
                await tx.select().from(tx.tables.options).limit(1)
                await tx.insert(tx.tables.options).values({ key, value: 'x' })
              }),
            )
          ).kind,
        ).toBe('unavailable')
        expect(await isThere()).toBe(false)
        await write(db)
        expect(await isThere()).toBe(true)
      }))

    test('a connection cut before the first statement of a transaction: it is begun again on another one', () =>
      through(async (proxy, db) => {
        // Not a new one: that has just been made.
        await db.select().from(db.tables.options).limit(1)
        proxy.onText('insert', 'cut-before')
        await write(db)
        expect(await isThere()).toBe(true)
      }))

    test('a server that stops answering inside a transaction: not done at the deadline', () =>
      through(async (proxy, db) => {
        proxy.onText('insert', 'freeze')
        expect((await failure(write(db, 300))).kind).toBe('unavailable')
        expect(await isThere()).toBe(false)
      }))

    test('a work that hides the loss of its transaction cannot commit the rest of it', () =>
      through(async (proxy, db) => {
        proxy.onText('lost', 'cut-before')
        const error = await failure(
          db.transaction(async (tx) => {
            const { options } = tx.tables
            await tx.select().from(options).limit(1)
            await tx
              .insert(options)
              .values({ key: `${key}1`, value: 'lost' })
              .then(null, () => {})
            await tx.insert(options).values({ key, value: 'kept' })
          }),
        )
        expect(error.kind).toBe('unavailable')
        expect(await isThere()).toBe(false)
      }))

    test('connections that died while idle are replaced without a failure', () =>
      through(async (proxy, db) => {
        const { options } = db.tables
        for (let round = 0; round < 5; round++) {
          await Promise.all(Array.from({ length: 5 }, () => db.select().from(options).limit(1)))
          proxy.cutAll()
          await db.select().from(options).limit(1)
          await eventually('the cut connections are gone', () => proxy.openNow() <= 1)
          proxy.cutAll()
          key = crypto.randomUUID()
          await write(db)
          expect(await isThere()).toBe(true)
        }
      }))

    test('a server that is not there is unavailable at once, and is found when it is back', async () => {
      const port = await freePort()
      const dsn = `test:test@tcp(127.0.0.1:${port})/${database}`
      expect((await failure(openDb({ dsn, log: silentLog }))).kind).toBe('unavailable')
      await through(async (proxy, db) => {
        await proxy.close()
        expect((await failure(write(db))).kind).toBe('unavailable')
        expect((await failure(db.select().from(db.tables.options))).kind).toBe('unavailable')
      })
    })

    test('a start waits for a server that comes later', async () => {
      const port = await freePort()
      const reasons: unknown[] = []
      const log: Log = { ...silentLog, warn: (_, fields) => reasons.push(fields?.['reason']) }
      const opening = openDb({ dsn: `test:test@tcp(127.0.0.1:${port})/${database}`, log, waitMs: 20_000 })
      await eventually('it has said why it waits', () => reasons.length > 0)
      const proxy = await openTcpProxy(server, port)
      const db = await opening
      expect(await db.now()).toBeGreaterThan(0)
      await db.close()
      await proxy.close()
    }, 30_000)

    test('a host that swallows packets is unavailable after timeout', async () => {
      const proxy = await openTcpProxy(server)
      proxy.freeze()
      const startedAt = performance.now()
      const dsn = `test:test@tcp(127.0.0.1:${proxy.port})/${database}?timeout=200ms`
      expect((await failure(openDb({ dsn, log: silentLog }))).kind).toBe('unavailable')
      expect(performance.now() - startedAt).toBeLessThan(1_500)
      await proxy.close()
    })

    test('readTimeout bounds the wait for one answer', () =>
      through(
        async (proxy, db) => {
          proxy.onText('topic_versions', 'freeze')
          expect((await failure(db.select().from(db.tables.topicVersions))).kind).toBe('unavailable')
        },
        { params: '?readTimeout=200ms' },
      ))

    test('a wrong password and an unknown database are told when the database is opened', async () => {
      const address = `tcp(127.0.0.1:${server.port})`
      const wrong = await failure(openDb({ dsn: `test:wrong@${address}/${database}`, log: silentLog }))
      expect(wrong.message).toContain('Access denied')
      const unknown = await failure(openDb({ dsn: `test:test@${address}/nosuchdatabase`, log: silentLog }))
      expect(unknown.message).toContain('nosuchdatabase')
    })

    test('a statement that waited for a lock too long is repeated, and a table that is about to come is waited for', async () => {
      const admin = asEngineDb(testDb.db)
      const { rows } = await admin.raw('select @@global.innodb_lock_wait_timeout', [], 'read')
      await server.execute('set global innodb_lock_wait_timeout = 1')
      try {
        await through(async (_proxy, db) => {
          const { options } = db.tables
          await write(db)
          const isHeld = Promise.withResolvers<void>()
          const release = Promise.withResolvers<void>()
          const holding = testDb.db.transaction(async (tx) => {
            await tx.lock(tx.select().from(options).where(eq(options.key, key)))
            isHeld.resolve()
            await release.promise
          })
          await isHeld.promise
          const waiting = db.changes(db.update(options).set({ value: 'y' }).where(eq(options.key, key)))
          const seen = async (): Promise<number> =>
            Number((await admin.raw("show global status like 'Innodb_row_lock_waits'", [], 'read')).rows[0]?.[1])
          const before = await seen()
          // It has waited once and begun again.
          await eventually('the update waits again', async () => (await seen()) > before, { everyMs: 50 })
          release.resolve()
          await holding
          expect(await waiting).toBe(1)

          const table = `later_${key.slice(0, 8)}`
          const found = asEngineDb(db).raw(`select count(*) from ${table}`, [], 'read')
          await admin.raw(`create table ${table} (id int)`, [], 'schema')
          expect((await found).rows).toEqual([[0]])
          await admin.raw(`drop table ${table}`, [], 'schema')
          expect((await failure(asEngineDb(db).raw(`select count(*) from ${table}`, [], 'read'))).kind).toBe('other')
        })
      } finally {
        await server.execute(`set global innodb_lock_wait_timeout = ${Number(rows[0]?.[0])}`)
      }
    }, 30_000)

    test('what is read together is of one moment, also through the outer database; afterwards reads go on', () =>
      through(async (_proxy, db) => {
        const { options } = db.tables
        await write(db)
        const stored = async (from: Db): Promise<string | null | undefined> =>
          (await from.select().from(options).where(eq(options.key, key)))[0]?.value
        const goOn = Promise.withResolvers<void>()
        let left: Promise<string | null | undefined> | undefined
        const [first, second] = await db.readTogether(async () => {
          const before = await stored(db)
          await testDb.db.update(options).set({ value: 'changed' }).where(eq(options.key, key))
          left = goOn.promise.then(() => stored(db))
          return [before, await stored(db)]
        })
        expect([first, second]).toEqual(['x', 'x'])
        goOn.resolve()
        expect(await left).toBe('changed')
      }))

    test('the pool keeps to its size, and waits for a free connection at most until the deadline', () =>
      through(
        async (proxy, db) => {
          await Promise.all(Array.from({ length: 20 }, () => db.now()))
          expect(proxy.accepted()).toBeLessThanOrEqual(2)
          const release = Promise.withResolvers<void>()
          const holding = [0, 1].map(() => db.transaction(() => release.promise))
          expect((await failure(write(db, 100))).kind).toBe('unavailable')
          release.resolve()
          await Promise.all(holding)
          await write(db)
        },
        { pool: { maxOpen: 2, maxIdle: 2 } },
      ))

    test('idle connections above the limit, and those past their lifetime, are closed', () =>
      through(
        async (proxy, db) => {
          await Promise.all(Array.from({ length: 10 }, () => db.now()))
          await eventually('only three stay open', () => proxy.openNow() <= 3)
          const before = proxy.accepted()
          await eventually('the rest is closed after its lifetime', () => proxy.openNow() === 0)
          await db.now()
          expect(proxy.accepted()).toBe(before + 1)
        },
        { pool: { maxOpen: 10, maxIdle: 3, maxLifetimeMs: 300 } },
      ))

    test('a full server makes callers wait for connections that are there', async () => {
      const connectionsLeft = 3
      const admin = asEngineDb(testDb.db)
      const { rows } = await admin.raw("show global status like 'Threads_connected'", [], 'read')
      const { rows: old } = await admin.raw('select @@global.max_connections', [], 'read')
      const limit = Math.max(10, Number(rows[0]?.[1]) + connectionsLeft)
      await server.execute(`set global max_connections = ${limit}`)
      try {
        // A user without the right to the server's reserve connection.
        await server.execute(
          `create user if not exists 'plain'@'%' identified by 'plain'`,
          `grant select, insert, update, delete on ${database}.* to 'plain'@'%'`,
        )
        await through(
          async (proxy, db) => {
            const done = await Promise.all(Array.from({ length: 60 }, () => db.$count(db.tables.leases)))
            expect(done).toHaveLength(60)
            expect(proxy.accepted()).toBeGreaterThan(0)
          },
          { user: 'plain:plain', pool: { maxOpen: 60 } },
        )
      } finally {
        await server.execute(`set global max_connections = ${Number(old[0]?.[0])}`)
      }
    }, 30_000)

    test('a server that became read-only is unavailable and its connections are left', async () => {
      await server.execute(
        `create user if not exists 'plain'@'%' identified by 'plain'`,
        `grant select, insert, update, delete on ${database}.* to 'plain'@'%'`,
      )
      await through(
        async (proxy, db) => {
          await db.now()
          const before = proxy.accepted()
          await server.execute('set global read_only = 1')
          try {
            expect((await failure(write(db))).kind).toBe('unavailable')
            expect((await failure(db.delete(db.tables.options).where(eq(db.tables.options.key, key)))).kind).toBe(
              'unavailable',
            )
          } finally {
            await server.execute('set global read_only = 0')
          }
          await write(db)
          expect(await isThere()).toBe(true)
          expect(proxy.accepted()).toBeGreaterThanOrEqual(before + 2)
        },
        { user: 'plain:plain' },
      )
    })

    test.each(['NO_BACKSLASH_ESCAPES', 'ANSI_QUOTES', 'ANSI', 'STRICT_ALL_TABLES', 'TRADITIONAL'])(
      'in SQL mode %s a value is a value, whatever it looks like',
      async (mode) => {
        const { rows } = await asEngineDb(testDb.db).raw('select @@global.sql_mode', [], 'read')
        await server.execute(`set global sql_mode = '${mode}'`)
        try {
          await through(async (_proxy, db) => {
            const { options } = db.tables
            const odd = [
              `\\' or 1=1 -- `,
              `'' or ''='`,
              `\\`,
              `'; delete from options; -- `,
              `? ?? "?" \`?\``,
              `\u0000\u001a\n\r\t\b%_`,
              `中文😀\\'`,
              `ÿ' or 1=1 #`,
              `\uD800 lone`,
            ]
            const at = odd.map((_, n) => `${key}${n}`)
            // Alone and many in one statement, as a value and as what is looked for.
            await db.insert(options).values(odd.map((value, n) => ({ key: at[n]!, value })))
            for (const [n, value] of odd.entries()) {
              const [found] = await db
                .select()
                .from(options)
                .where(and(eq(options.key, at[n]!), eq(options.value, value)))
              expect(found?.value).toBe(value.toWellFormed())
              await db
                .update(options)
                .set({ value: `${value}${value}` })
                .where(eq(options.key, at[n]!))
            }
            const all = await db.select().from(options).where(inArray(options.key, at)).orderBy(options.key)
            expect(all.map(({ value }) => value)).toEqual(odd.map((value) => `${value}${value}`.toWellFormed()))
          })
        } finally {
          await server.execute(`set global sql_mode = '${String(rows[0]?.[0])}'`)
        }
      },
    )

    test('slow statements are logged without their values', async () => {
      const lines: string[] = []
      const log: Log = { ...silentLog, warn: (msg, fields) => lines.push(JSON.stringify({ msg, ...fields })) }
      await through(
        async (_proxy, db) => {
          await db.select({ slow: sql<number>`sleep(0.15)`, key: sql`${'hidden-value'}` }).from(sql`(select 1) as one`)
        },
        { log, pool: { slowMs: 100 } },
      )
      expect(lines.some((line) => line.includes('slow query') && line.includes('sleep'))).toBe(true)
      expect(lines.join('\n')).not.toContain('hidden-value')
    })

    test('no statement but those of the work and of the transaction reaches the server', async () => {
      await server.execute(
        'set global general_log = 0',
        "set global log_output = 'TABLE'",
        'truncate mysql.general_log',
        'set global general_log = 1',
      )
      try {
        await through(async (_proxy, db) => {
          await write(db)
          await db.select().from(db.tables.options).where(eq(db.tables.options.key, key))
        })
      } finally {
        await server.execute('set global general_log = 0')
      }
      const { rows } = await asEngineDb(testDb.db).raw(
        "select convert(argument using utf8mb4) from mysql.general_log where command_type in ('Query', 'Execute') and user_host like '%test%'",
        [],
        'read',
      )
      const texts = rows.map(([text]) => String(text).toLowerCase())
      expect(texts.some((text) => text.includes('insert into'))).toBe(true)
      expect(texts.filter((text) => /(^|;)\s*(set|create|use|lock|get_lock)\b|temporary/.test(text))).toEqual([])
    })

    test('tls=preferred works with any server; tls=true never speaks in clear', async () => {
      await through(async (_proxy, db) => expect(await db.now()).toBeGreaterThan(0), { params: '?tls=preferred' })
      const hasTls = engine.name === 'mysql'
      const address = `test:test@tcp(127.0.0.1:${server.port})/${database}`
      if (hasTls) {
        await through(
          async (_proxy, db) => {
            const { rows } = await asEngineDb(db).raw("show session status like 'Ssl_cipher'", [], 'read')
            expect(rows[0]?.[1]).not.toBe('')
          },
          { params: '?tls=skip-verify' },
        )
      } else
        expect((await failure(openDb({ dsn: `${address}?tls=skip-verify`, log: silentLog }))).kind).toBe('unavailable')
      expect((await failure(openDb({ dsn: `${address}?tls=true`, log: silentLog }))).kind).toBe('unavailable')
    })

    test('loc keeps datetimes in the zone of the operator', () =>
      through(
        async (_proxy, db) => {
          const { redemptions } = db.tables
          const deletedAt = new Date('2026-08-01T16:30:00.250Z')
          const id = await db.insertId(redemptions, { key: key.slice(0, 32), deletedAt })
          const [own] = await db.select().from(redemptions).where(eq(redemptions.id, id))
          expect(own?.deletedAt).toEqual(deletedAt)
          const { rows } = await asEngineDb(testDb.db).raw(
            'select deleted_at from redemptions where id = ?',
            [id],
            'read',
          )
          expect(String(rows[0]?.[0])).toBe('2026-08-02 00:30:00.250')
        },
        { params: '?charset=utf8mb4&parseTime=True&loc=Asia%2FShanghai' },
      ))

    test('a unix socket is a place like any other', async () => {
      const db = await openDb({ dsn: `test:test@unix(${server.socketPath})/${database}`, log: silentLog })
      expect(await db.now()).toBeGreaterThan(0)
      await db.close()
    })
  })
}
