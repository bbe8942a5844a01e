/** A backup holds every value of every table, ours or not; what is damaged or would destroy something is refused. */
import { afterEach, describe, expect, test } from 'bun:test'
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readLedgerReport, unevenLines } from '../../src/commands/ledger-report.ts'
import { backUp, restore } from '../../src/db/backup.ts'
import { asEngineDb } from '../../src/db/db.ts'
import { type Db, findMissing, openDb, syncSchema } from '../../src/db/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import { ENGINES, SERVER_ENGINE, sqlServer, type TestEngine } from '../support/engines.ts'
import { fillNewApi, photograph } from './taken-over.ts'

const log = silentLog
/** Texts that a careless copy would change. */
const ODD = [
  `\\' or 1=1 -- `,
  `''\\`,
  'two\nlines\r\n',
  '\u0000\u001a\t',
  '-- Headgate end {}',
  `);\nINSERT INTO users VALUES (1);`,
  '中文 😀 𠮷',
  '',
  'ä'.repeat(3_000),
]

interface Place {
  readonly dsn: string
  readonly sqlitePath: string
}
let undo: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const work of undo.reverse()) await work()
  undo = []
})

async function temporary(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-backup-'))
  undo.push(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** A database that nobody is connected to. */
async function emptyPlace(engine: TestEngine): Promise<Place> {
  if (!engine.isServer) return { dsn: '', sqlitePath: join(await temporary(), 'test.db') }
  const server = await sqlServer()
  const database = `test_${crypto.randomUUID().replaceAll('-', '')}`
  await server.execute(`create database ${database} character set utf8mb4`)
  undo.push(() => server.execute(`drop database ${database}`))
  return { dsn: server.dsn(database), sqlitePath: '' }
}

const within = async <T>(place: Place, work: (db: Db) => Promise<T>): Promise<T> => {
  const db = await openDb({ ...place, log })
  try {
    return await work(db)
  } finally {
    await db.close()
  }
}
const counts = new Map<string, number>()
const onTable = (table: string, rows: number): void => void counts.set(table, rows)
const copy = (main: Place, path: string) => backUp({ main, path, version: 'test', onTable })
const putBack = (target: Place, path: string, isForced = false) =>
  restore({ target, path, part: 'main', isForced, onTable })

/** A database of New API with this release's tables, one table of somebody else, and odd values. */
async function fill(db: Db): Promise<void> {
  await fillNewApi(db, 'today', '中文 😀')
  await syncSchema(db, { log })
  const raw = asEngineDb(db)
  if (db.engine === 'mysql') {
    await raw.raw(
      'create table `some body` (a varbinary(300), b bit(9), c double, d decimal(30,10), e datetime(6), f json, g blob, h int as (i + 1) virtual, i int not null, j timestamp(3) null, k enum("x","y"), key `by i` (i))',
      [],
      'schema',
    )
    await raw.raw(
      "insert into `some body` (a, b, c, d, e, f, g, i, j, k) values (0x00ff275c0a, b'101010101', 1e-300, 12345678901234567890.0123456789, '2026-08-01 12:00:00.123456', '{\"big\": 12345678901234567890}', 0x0a0d1a, 7, '2026-08-01 12:00:00.5', 'y'), (null, null, null, null, null, null, '', -1, null, null)",
    )
  } else await raw.raw('create table "some body" (a blob, i integer)', [], 'schema')
  const { options, logs } = db.tables
  await db.insert(options).values(ODD.map((value, n) => ({ key: `odd${n}`, value })))
  for (let n = 0; n < 5; n++)
    await db
      .insert(logs)
      .values(Array.from({ length: 500 }, (_, at) => ({ userId: at, content: `${ODD[at % 8]}${n}` })))
}

/** One table, for what does not depend on the kinds of values. */
async function fillLittle(db: Db, content: string): Promise<void> {
  const raw = asEngineDb(db)
  await raw.raw('create table little (id integer primary key, content text)', [], 'schema')
  for (let id = 0; id < 300; id++)
    await raw.raw('insert into little values (?, ?)', [id, `${content} ${ODD[id % ODD.length]}`])
}

for (const engine of ENGINES)
  describe(`backups of ${engine.name}`, () => {
    test('what comes back is what was there, to the value, also for tables that are not ours', async () => {
      const name = 'copy.gz'
      const from = await emptyPlace(engine)
      const before = await within(from, async (db) => {
        await fill(db)
        return photograph(db)
      })
      const path = join(await temporary(), name)
      expect((await copy(from, path)).uneven).toBe(0)
      expect(counts.get('logs')).toBeGreaterThan(2_000)
      const to = await emptyPlace(engine)
      await putBack(to, path)
      await within(to, async (db) => {
        expect(await photograph(db)).toEqual(before)
        expect(await findMissing(db)).toEqual([])
        // A sync finds nothing to do, and the next id is the one that would have come next.
        const changes: string[] = []
        await syncSchema(db, { log: { ...log, info: (text) => changes.push(text) } })
        expect(changes).toEqual([])
        const ids = await Promise.all(
          [from, to].map((place) =>
            within(place, (each) => each.insertId(each.tables.users, { username: 'next', password: 'x' })),
          ),
        )
        expect(ids[0]).toBe(ids[1]!)
      })
      expect((await readdir(join(path, '..'))).sort()).toEqual([name])
    }, 60_000)

    test('charges of which only one half is there are counted in the copy and named afterwards', async () => {
      const from = await emptyPlace(engine)
      await within(from, async (db) => {
        await syncSchema(db, { log })
        const { ledgerApplied, quotaAllotments, clusterInstances } = db.tables
        await db.insert(ledgerApplied).values([
          { instanceId: 'whole', part: 'main', seq: 9, last: 'nine' },
          { instanceId: 'whole', part: 'log', seq: 9, last: 'nine' },
          { instanceId: 'ahead', part: 'main', seq: 5, last: 'five' },
          { instanceId: 'ahead', part: 'log', seq: 3, last: 'three' },
          { instanceId: 'new', part: 'main', seq: 1, last: 'one' },
        ])
        await db.insert(clusterInstances).values({ id: 'new', state: 'live' })
        await db.insert(quotaAllotments).values([
          { instanceId: 'ahead', account: 'u:1', amount: 70 },
          { instanceId: 'new', account: 'u:1', amount: 30 },
        ])
      })
      const path = join(await temporary(), 'copy')
      expect((await copy(from, path)).uneven).toBe(3)
      const to = await emptyPlace(engine)
      await putBack(to, path)
      await within(to, async (db) => {
        const report = await readLedgerReport(db)
        expect(report?.parked).toEqual({ amount: 100, accounts: 1 })
        expect([...(report?.uneven ?? [])].sort((a, b) => a.charges - b.charges)).toEqual([
          { instanceId: 'new', isLive: true, charges: 1, lacks: 'log rows', lastRequestId: 'one' },
          { instanceId: 'ahead', isLive: false, charges: 2, lacks: 'log rows', lastRequestId: 'five' },
        ])
        expect(unevenLines(report?.uneven ?? []).join('\n')).toContain('2 charges of the instance ahead')
      })
    }, 60_000)

    test('a database that holds something is left alone, unless it is to be replaced; files are never replaced', async () => {
      const from = await emptyPlace(engine)
      const before = await within(from, async (db) => {
        await fillLittle(db, 'copied')
        return photograph(db)
      })
      const path = join(await temporary(), 'copy')
      await copy(from, path)
      await expect(copy(from, path)).rejects.toThrow('there already')
      const to = await emptyPlace(engine)
      const kept = await within(to, async (db) => {
        await fillLittle(db, 'kept')
        return photograph(db)
      })
      await expect(putBack(to, path)).rejects.toThrow('not empty')
      await within(to, async (db) => expect(await photograph(db)).toEqual(kept))
      await putBack(to, path, true)
      await within(to, async (db) => expect(await photograph(db)).toEqual(before))
    }, 60_000)

    test('a backup that was cut off, changed or is something else is refused before anything is touched', async () => {
      const from = await emptyPlace(engine)
      await within(from, (db) => fillLittle(db, 'copied'))
      const folder = await temporary()
      const to = await emptyPlace(engine)
      const whole = join(folder, 'whole')
      const packed = join(folder, 'packed.gz')
      await copy(from, whole)
      await copy(from, packed)
      const bytes = await readFile(whole)
      const damaged = {
        cut: bytes.subarray(0, bytes.length >> 1),
        changed: Buffer.from(bytes),
        other: Buffer.from('x'),
      }
      // In the middle of what SQLite calls a page and SQL a text.
      damaged.changed.fill(0, bytes.length >> 1, (bytes.length >> 1) + (engine.isServer ? 1 : 8_192))
      for (const [name, content] of Object.entries(damaged)) {
        await writeFile(join(folder, name), content)
        await expect(putBack(to, join(folder, name))).rejects.toThrow()
      }
      await truncate(packed, (await readFile(packed)).length - 100)
      await expect(putBack(to, packed)).rejects.toThrow()
      await within(to, async (db) => expect(await photograph(db)).toEqual(new Map()))
    }, 60_000)
  })

if (SERVER_ENGINE) {
  const engine = SERVER_ENGINE
  test('the client of the server itself restores a backup as well', async () => {
    const from = await emptyPlace(engine)
    const before = await within(from, async (db) => {
      await fill(db)
      return photograph(db)
    })
    const path = join(await temporary(), 'copy.sql')
    await copy(from, path)
    const to = await emptyPlace(engine)
    const { socketPath } = await sqlServer()
    const client = Bun.spawn(['mariadb', '--no-defaults', '-uroot', `-S${socketPath}`, to.dsn.split('/').at(-1)!], {
      stdin: Bun.file(path),
      stderr: 'pipe',
    })
    expect(await new Response(client.stderr).text()).toBe('')
    expect(await client.exited).toBe(0)
    await within(to, async (db) => expect(await photograph(db)).toEqual(before))
  }, 60_000)

  test('one moment is copied, whatever is written while it is', async () => {
    const from = await emptyPlace(engine)
    await within(from, async (db) => {
      await syncSchema(db, { log })
      const { users, clusterMeta } = db.tables
      await db.insert(users).values({ username: 'giver', password: 'x', quota: 1_000_000 })
      await db.insert(clusterMeta).values({ key: 'zz', value: '0' })
      let isOver = false
      let moved = 0
      // From one table to another that is copied much earlier or later.
      const mover = (async () => {
        for (; !isOver; moved += 1)
          await db.transaction(async (tx) => {
            await tx.update(users).set({ quota: 1_000_000 - moved })
            await tx.upsert(
              clusterMeta,
              { key: 'zz', value: String(moved) },
              { key: [clusterMeta.key], set: { value: String(moved) } },
            )
          })
      })()
      const path = join(await temporary(), 'copy.sql')
      await copy(from, path)
      isOver = true
      await mover
      const to = await emptyPlace(engine)
      await putBack(to, path)
      await within(to, async (restored) => {
        const [user] = await restored.select().from(restored.tables.users)
        const meta = await restored.select().from(restored.tables.clusterMeta)
        expect(user?.quota).toBe(1_000_000 - Number(meta.find(({ key }) => key === 'zz')?.value))
      })
      expect(moved).toBeGreaterThan(1)
    })
  }, 60_000)

  test('a log database of its own is copied beside the main one, and neither takes the place of the other', async () => {
    const main = await emptyPlace(engine)
    const logs = await emptyPlace(engine)
    const [mainBefore, logsBefore] = await Promise.all(
      [main, logs].map((place, at) =>
        within(place, async (db) => {
          await fillLittle(db, `part ${at}`)
          return photograph(db)
        }),
      ),
    )
    const folder = await temporary()
    const [path, logPath] = [join(folder, 'copy.gz'), join(folder, 'copy.log.gz')]
    await backUp({ main, path, log: { dsn: logs.dsn, path: logPath }, version: 'test', onTable })
    const to = await emptyPlace(engine)
    const logsTo = await emptyPlace(engine)
    await expect(putBack(to, logPath)).rejects.toThrow('log database')
    await putBack(to, path)
    await restore({ target: logsTo, path: logPath, part: 'log', isForced: false, onTable })
    expect(await within(to, photograph)).toEqual(mainBefore!)
    expect(await within(logsTo, photograph)).toEqual(logsBefore!)
    // Half a backup would look like a whole one.
    await rm(path)
    await expect(
      backUp({ main, path, log: { dsn: `${logs.dsn}_absent`, path: `${logPath}2` }, version: 'test', onTable }),
    ).rejects.toThrow()
    expect(await readdir(folder)).toEqual(['copy.log.gz'])
  }, 60_000)

  test('a database that a node is connected to is not restored into', async () => {
    const from = await emptyPlace(engine)
    const path = join(await temporary(), 'copy.sql')
    await within(from, (db) => syncSchema(db, { log }))
    await copy(from, path)
    const to = await emptyPlace(engine)
    await within(to, async (db) => {
      await db.now()
      await expect(putBack(to, path, true)).rejects.toThrow('stop every node first')
    })
  }, 60_000)
}
