/**
 * The engines a suite runs on: `for (const engine of ENGINES) describe(engine.name, …)`. SQLite always; MariaDB or MySQL
 * when TEST_SERVERS names it. Each test file takes its own database.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Db, type DbPool, openDb, syncSchema } from '../../src/db/index.ts'
import { type Log, silentLog } from '../../src/lib/log.ts'
import { atEnd, mariadb, mysqlServer, type SqlServer } from './services.ts'

export interface TestDb {
  readonly db: Db
  /** What a process needs in its environment to use this database. */
  readonly env: { readonly SQL_DSN?: string; readonly SQLITE_PATH?: string }
  /** Another set of connections to the same database, as another node would have; the caller closes it. */
  open(options?: { readonly log?: Log; readonly pool?: DbPool }): Promise<Db>
  /** Closes `db` and removes the database. */
  close(): Promise<void>
}

export interface TestEngine {
  readonly name: 'sqlite' | 'mariadb' | 'mysql'
  /** A server that several processes can use. */
  readonly isServer: boolean
  /** @param options.isEmpty without tables; @param options.only a log database */
  freshDb(options?: {
    readonly isEmpty?: boolean
    readonly only?: 'logs'
    readonly log?: Log
    readonly pool?: DbPool
    /** of the database on a server; the server's default (latin1 on MariaDB) if not given */
    readonly charset?: string
  }): Promise<TestDb>
}

/** Databases that nobody has closed yet, by where they were made. */
const open = new Map<TestDb, string>()

atEnd(async () => {
  if (open.size > 0) throw new Error(`databases left open:\n${[...open.values()].join('\n')}`)
})

function track(testDb: TestDb): TestDb {
  open.set(testDb, (new Error().stack ?? '').split('\n').find((line) => line.includes('.test.ts')) ?? 'a test file')
  return testDb
}

const sqliteEngine: TestEngine = {
  name: 'sqlite',
  isServer: false,
  async freshDb({ isEmpty = false, only, log = silentLog, pool } = {}) {
    const folder = await mkdtemp(join(tmpdir(), 'headgate-sqlite-'))
    const sqlitePath = join(folder, 'test.db')
    const openSame: TestDb['open'] = (options = {}) =>
      openDb({ sqlitePath, log, ...(only ? { only } : {}), ...(pool ? { pool } : {}), ...options })
    const db = await openSame()
    if (!isEmpty) await syncSchema(db, { log })
    const testDb: TestDb = {
      db,
      env: { SQLITE_PATH: sqlitePath },
      open: openSame,
      async close() {
        open.delete(testDb)
        await db.close()
        await rm(folder, { recursive: true, force: true })
      },
    }
    return track(testDb)
  },
}

const serverEngine = (name: 'mariadb' | 'mysql', server: () => Promise<SqlServer>): TestEngine => ({
  name,
  isServer: true,
  async freshDb({ isEmpty = false, only, log = silentLog, pool, charset } = {}) {
    const { execute, dsn } = await server()
    const database = `test_${crypto.randomUUID().replaceAll('-', '')}`
    await execute(`create database ${database}${charset ? ` character set ${charset}` : ''}`)
    const openSame: TestDb['open'] = (options = {}) =>
      openDb({ dsn: dsn(database), log, ...(only ? { only } : {}), ...(pool ? { pool } : {}), ...options })
    const db = await openSame()
    if (!isEmpty) await syncSchema(db, { log })
    const testDb: TestDb = {
      db,
      env: { SQL_DSN: dsn(database) },
      open: openSame,
      async close() {
        open.delete(testDb)
        await db.close()
        await execute(`drop database ${database}`)
      },
    }
    return track(testDb)
  },
})

/** The server named by TEST_SERVERS, for tests that need one; absent without. A named one that cannot start fails the tests. */
export const SERVER_ENGINE: TestEngine | undefined = chosen()

function chosen(): TestEngine | undefined {
  const names = (process.env['TEST_SERVERS'] ?? '').split(',').map((name) => name.trim())
  if (names.includes('mysql')) return serverEngine('mysql', mysqlServer)
  if (names.includes('mariadb')) return serverEngine('mariadb', mariadb)
  console.log('left out: tests on MariaDB or MySQL (set TEST_SERVERS=mariadb or mysql)')
  return undefined
}

/** Whether servers may be started at all: tests with Redis ask this, too. */
export const HAS_SERVERS = (process.env['TEST_SERVERS'] ?? '') !== ''

export const ENGINES: readonly TestEngine[] = SERVER_ENGINE ? [sqliteEngine, SERVER_ENGINE] : [sqliteEngine]

/** The plain server of the engine above, for tests that need its address or to stop it. */
export const sqlServer = (): Promise<SqlServer> => (SERVER_ENGINE?.name === 'mysql' ? mysqlServer() : mariadb())
