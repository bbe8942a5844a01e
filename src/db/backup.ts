/**
 * Copies of whole databases while nodes use them, and their return into empty ones. A copy shows one moment, chosen so that
 * the money of each charge and its log row are both in it or both not. Journals of nodes are not part of it: only the node
 * that holds one may open it.
 */
import { Database } from 'bun:sqlite'
import { existsSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { messageOf } from '../lib/error-text.ts'
import { adoptFile, createPrivateFile, openBackup, refuseExisting } from './backup-file.ts'
import { type Dsn, parseDsn, parseSqlitePath } from './dsn.ts'
import { DbError } from './error.ts'
import {
  beginSnapshot,
  countOthers,
  dumpTables,
  listTables,
  type Marks,
  type OnTable,
  restoreTables,
} from './mysql-copy.ts'
import { asDbError } from './mysql-error.ts'
import { createWireOpener, type Wire, wireOf } from './mysql-wire.ts'

export interface DatabaseAddress {
  /** empty: SQLite */
  readonly dsn: string
  readonly sqlitePath: string
}

export interface BackupRequest {
  readonly main: DatabaseAddress
  readonly path: string
  /** a database of call records alone, and the file for it */
  readonly log?: { readonly dsn: string; readonly path: string }
  readonly version: string
  readonly onTable: OnTable
}

export interface BackupReport {
  /** Charges whose money is in the copy and whose log row is not, or the other way round. */
  readonly uneven: number
}

/** How long a moment is looked for in which the two parts of every charge are there. */
const EVEN_WITHIN_MS = 10_000
const LOOK_EVERY_MS = 15
/** Instances whose parts have not moved for so many looks will not come together: they have ended. */
const STUCK_LOOKS = 20
const SQLITE_TRIES = 5

/** @throws Error or DbError; then no file is left */
export async function backUp(request: BackupRequest): Promise<BackupReport> {
  const main = parseDsn(request.main.dsn)
  const log = request.log && parseDsn(request.log.dsn)
  await refuseExisting(request.path)
  if (request.log) await refuseExisting(request.log.path)
  if (main.kind === 'sqlite' && !log) return backUpSqlite(request)
  const wires: Wire[] = []
  try {
    const mainWire = main.kind === 'sqlite' ? undefined : await connect(main)
    if (mainWire) wires.push(mainWire)
    const logWire = log && (await connect(log))
    if (logWire) wires.push(logWire)
    const uneven = await beginEven(wires)
    const { version, onTable } = request
    if (mainWire) await dumpTables(mainWire, { path: request.path, part: 'main', version, onTable })
    else await backUpSqlite(request)
    if (logWire && request.log)
      await dumpTables(logWire, { path: request.log.path, part: 'log', version, onTable }).catch(async (error) => {
        // One without the other would look like a whole backup.
        await rm(request.path, { force: true })
        throw error
      })
    return { uneven }
  } catch (error) {
    throw error instanceof Error && 'errno' in error ? asDbError(error) : error
  } finally {
    for (const wire of wires) wire.close()
  }
}

async function connect(dsn: Dsn): Promise<Wire> {
  if (dsn.kind === 'problem') throw new DbError('other', dsn.problem)
  if (dsn.kind === 'sqlite') throw new DbError('other', 'an SQLite database has no server')
  try {
    return await createWireOpener(wireOf(dsn))(() => {})
  } catch (error) {
    throw asDbError(error)
  }
}

/** Begins the snapshots again until they show a moment in which no charge is half applied. @returns charges that are */
async function beginEven(wires: readonly Wire[]): Promise<number> {
  const endAt = performance.now() + EVEN_WITHIN_MS
  const unmoved = new Map<string, { readonly gap: number; readonly looks: number }>()
  for (;;) {
    const gaps = gapsOf(await Promise.all(wires.map(beginSnapshot)))
    for (const instance of unmoved.keys()) if (!gaps.has(instance)) unmoved.delete(instance)
    let isEven = true
    for (const [instance, gap] of gaps) {
      const before = unmoved.get(instance)
      const looks = before?.gap === gap ? before.looks + 1 : 1
      unmoved.set(instance, { gap, looks })
      if (looks < STUCK_LOOKS) isEven = false
    }
    if (isEven || performance.now() >= endAt) return [...gaps.values()].reduce((sum, gap) => sum + gap, 0)
    await Bun.sleep(LOOK_EVERY_MS * (0.5 + Math.random()))
  }
}

/** @returns instances whose main part and log part differ, and by how much */
function gapsOf(all: readonly Marks[]): ReadonlyMap<string, number> {
  const parts = new Map<string, Record<string, number>>()
  for (const marks of all)
    for (const [instance, seen] of marks) parts.set(instance, { ...parts.get(instance), ...seen })
  const gaps = new Map<string, number>()
  for (const [instance, { main, log = 0 }] of parts)
    if (main !== undefined && main !== log) gaps.set(instance, Math.abs(main - log))
  return gaps
}

/** SQLite makes the copy itself, from one read transaction; the copy is looked at, and made again while it is uneven. */
async function backUpSqlite({ main, path, onTable }: BackupRequest): Promise<BackupReport> {
  const source = parseSqlitePath(main.sqlitePath).path
  if (!existsSync(source)) throw new DbError('other', `there is no database ${source}`)
  const copy = `${path}.copy`
  try {
    for (let attempt = 1; ; attempt++) {
      await rm(copy, { force: true })
      await createPrivateFile(copy)
      const database = new Database(source, { readonly: true })
      try {
        database.run('pragma busy_timeout = 10000')
        database.run('vacuum into ?', [copy])
      } finally {
        database.close()
      }
      const { uneven, tables } = lookAt(copy)
      if (uneven > 0 && attempt < SQLITE_TRIES) continue
      for (const [table, rows] of tables) onTable(table, rows)
      await adoptFile(copy, path)
      return { uneven }
    }
  } finally {
    await rm(copy, { force: true })
  }
}

/** @throws DbError for a file that is damaged */
function lookAt(path: string): { readonly uneven: number; readonly tables: ReadonlyMap<string, number> } {
  const database = new Database(path, { readonly: true })
  try {
    const [check] = database.query<{ quick_check: string }, []>('pragma quick_check(1)').all()
    if (check?.quick_check !== 'ok') throw new DbError('other', `${path} is damaged: ${check?.quick_check}`)
    const names = database
      .query<{ name: string }, []>("select name from sqlite_master where type = 'table' and name not like 'sqlite_%'")
      .all()
    const tables = new Map(
      names.map(({ name }) => {
        const counted = database.query<{ n: number }, []>(`select count(*) as n from "${name.replaceAll('"', '""')}"`)
        return [name, counted.get()?.n ?? 0] as const
      }),
    )
    const marks = new Map<string, Record<string, number>>()
    if (tables.has('ledger_applied'))
      for (const row of database
        .query<{ instance_id: string; part: string; seq: number }, []>(
          'select instance_id, part, seq from ledger_applied',
        )
        .all())
        marks.set(row.instance_id, { ...marks.get(row.instance_id), [row.part]: row.seq })
    return { uneven: [...gapsOf([marks]).values()].reduce((sum, gap) => sum + gap, 0), tables }
  } finally {
    database.close()
  }
}

export interface RestoreRequest {
  readonly target: DatabaseAddress
  readonly path: string
  /** what the database is for: a backup of the other part is refused */
  readonly part: 'main' | 'log'
  /** Replaces what is there. */
  readonly isForced: boolean
  readonly onTable: OnTable
}

const LOOKS = 20
const LOOK_MS = 100

/** @throws Error or DbError that says why it was refused, or how far it came */
export async function restore(request: RestoreRequest): Promise<void> {
  const backup = await openBackup(request.path)
  const dsn = parseDsn(request.target.dsn)
  if (backup.kind === 'sqlite') {
    if (dsn.kind !== 'sqlite') throw new Error(`${request.path} is a copy of SQLite, and the database here is a server`)
    return restoreSqlite(request, backup.copyTo)
  }
  if (dsn.kind === 'sqlite') throw new Error(`${request.path} is a copy of a server's database; set its new address`)
  if (backup.head.part !== request.part)
    throw new Error(`${request.path} is a copy of ${backup.head.part === 'log' ? 'a log database' : 'a main database'}`)
  const wire = await connect(dsn)
  try {
    const others = await othersLeft(wire)
    if (others > 0) throw new Error(`${others} other connections use this database: stop every node first`)
    const there = await listTables(wire)
    if (there.length > 0 && !request.isForced)
      throw new Error(
        `the database is not empty (${there.length} tables): give an empty one, or --force to replace them`,
      )
    await restoreTables(wire, backup, { isReplacing: request.isForced, onTable: request.onTable }).catch((error) => {
      throw new Error(`${messageOf(asDbError(error))}; the database is incomplete now: repeat it with --force`)
    })
  } catch (error) {
    throw error instanceof Error && 'errno' in error ? asDbError(error) : error
  } finally {
    wire.close()
  }
}

/** A server takes a moment to notice that a connection was closed. @returns those that are there after it */
async function othersLeft(wire: Wire): Promise<number> {
  for (let look = 1; ; look++) {
    const others = await countOthers(wire)
    if (others === 0 || look === LOOKS) return others
    await Bun.sleep(LOOK_MS)
  }
}

async function restoreSqlite(
  { target, isForced, onTable }: RestoreRequest,
  copyTo: (path: string) => Promise<void>,
): Promise<void> {
  const { path } = parseSqlitePath(target.sqlitePath)
  if (existsSync(path) && !isForced && lookAt(path).tables.size > 0)
    throw new Error(`${path} is not empty: remove it, or give --force to replace it`)
  const fresh = `${path}.restored`
  await rm(fresh, { force: true })
  try {
    await copyTo(fresh)
    const { tables } = lookAt(fresh)
    for (const suffix of ['-wal', '-shm']) await rm(`${path}${suffix}`, { force: true })
    await rename(fresh, path)
    for (const [table, rows] of tables) onTable(table, rows)
  } finally {
    await rm(fresh, { force: true })
  }
}
