/**
 * A whole MySQL or MariaDB database as SQL, read in one consistent snapshot while others write, and put back into an empty
 * one. Also tables and columns that are not ours, so that a database shared with another program comes back whole.
 */
import { BACKUP_FORMAT, type BackupFile, type BackupWriter, createBackupWriter } from './backup-file.ts'
import { inline } from './mysql-literal.ts'
import type { Wire } from './mysql-wire.ts'

/** Told as tables are done. */
export type OnTable = (table: string, rows: number) => void

/** How far the ledger's instances are applied: instance → part → number of its last charge. */
export type Marks = ReadonlyMap<string, Readonly<Record<string, number>>>

/** Bytes of one insert; servers take 1 MB at least. */
const INSERT_CHARS = 256 * 1024
/** Statements of one transaction while restoring. */
const COMMIT_EVERY = 20

const NUMBERS = new Set(['tinyint', 'smallint', 'mediumint', 'int', 'bigint', 'decimal', 'float', 'double', 'year'])
const isBinary = (type: string): boolean => /blob|binary|^bit$|geometry|point|linestring|polygon/.test(type)

/**
 * Begins a snapshot, or another one in its place.
 * @returns the marks that it shows
 */
export async function beginSnapshot(wire: Wire): Promise<Marks> {
  await wire.say('rollback')
  await wire.say("set session time_zone = '+00:00'")
  await wire.say('set session transaction isolation level repeatable read')
  await wire.say('start transaction with consistent snapshot')
  const marks = new Map<string, Record<string, number>>()
  const { rows: tables } = await wire.say("show tables like 'ledger_applied'")
  if (tables.length === 0) return marks
  const { rows } = await wire.say('select instance_id, part, seq from ledger_applied')
  for (const [instance, part, seq] of rows) {
    const parts = marks.get(String(instance)) ?? {}
    parts[String(part)] = Number(seq)
    marks.set(String(instance), parts)
  }
  return marks
}

/**
 * Writes the tables as the snapshot of `wire` shows them.
 * @throws Error also when a table changed its columns since the snapshot began
 */
export async function dumpTables(
  wire: Wire,
  target: { readonly path: string; readonly part: 'main' | 'log'; readonly version: string; readonly onTable: OnTable },
): Promise<Readonly<Record<string, number>>> {
  const { rows: names } = await wire.say("show full tables where table_type = 'BASE TABLE'")
  const { rows: server } = await wire.say('select version()')
  const writer = await createBackupWriter(target.path, {
    format: BACKUP_FORMAT,
    part: target.part,
    version: target.version,
    server: String(server[0]?.[0]),
    createdAtMs: Date.now(),
  })
  try {
    for (const setting of [
      'NAMES utf8mb4',
      "time_zone = '+00:00'",
      "sql_mode = 'NO_AUTO_VALUE_ON_ZERO'",
      'foreign_key_checks = 0',
      'unique_checks = 0',
    ])
      await writer.line(`SET ${setting};`)
    const tables: Record<string, number> = {}
    for (const [name] of names) {
      const table = String(name)
      tables[table] = await dumpTable(wire, table, writer)
      target.onTable(table, tables[table])
    }
    await writer.finish(tables)
    return tables
  } catch (error) {
    await writer.abandon()
    throw error
  }
}

const quoted = (name: string): string => `\`${name.replaceAll('`', '``')}\``

async function dumpTable(wire: Wire, table: string, writer: BackupWriter): Promise<number> {
  const { rows: ddl } = await wire.say(`show create table ${quoted(table)}`)
  // A line break inside a text stands there as an escape; those that are left lie between columns.
  await writer.line(`${String(ddl[0]?.[1]).replaceAll('\n', ' ')};`)
  const { rows: columns } = await wire.say(
    inline(
      'select column_name, data_type, extra from information_schema.columns where table_schema = database() and table_name = ? order by ordinal_position',
      [table],
    ),
  )
  // What the server works out by itself must not be given to it.
  const stored = columns.filter(([, , extra]) => !/\b(VIRTUAL|STORED|PERSISTENT) GENERATED\b/i.test(String(extra)))
  const names = stored.map(([name]) => quoted(String(name))).join(', ')
  const writers = stored.map(([, type]) => textOf(String(type).toLowerCase()))
  const insert = `INSERT INTO ${quoted(table)} (${names}) VALUES `
  let rows = 0
  let text = ''
  for await (const row of wire.stream(`select ${names} from ${quoted(table)}`)) {
    let values = ''
    for (let at = 0; at < writers.length; at++) values += `${at === 0 ? '' : ','}${writers[at]?.(row[at] ?? null)}`
    text += `${text === '' ? insert : ','}(${values})`
    rows++
    if (text.length < INSERT_CHARS) continue
    await writer.line(`${text};`)
    text = ''
  }
  if (text !== '') await writer.line(`${text};`)
  return rows
}

/** How a column's values stand in a statement. */
function textOf(type: string): (value: Buffer | null) => string {
  if (NUMBERS.has(type)) return (value) => (value === null ? 'NULL' : value.toString('latin1'))
  if (isBinary(type))
    return (value) => (value === null ? 'NULL' : value.length === 0 ? "''" : `0x${value.toString('hex')}`)
  return (value) => (value === null ? 'NULL' : `'${value.toString().replace(SPECIAL, escaped)}'`)
}

/** Escapes hold since the file sets the SQL mode itself; with them a statement stays in one line. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about
const SPECIAL = /[\\'\n\r\u0000\u001a]/g
const ESCAPES: Readonly<Record<string, string>> = {
  '\\': '\\\\',
  "'": "''",
  '\n': '\\n',
  '\r': '\\r',
  '\u0000': '\\0',
  '\u001a': '\\Z',
}
const escaped = (character: string): string => ESCAPES[character] ?? character

/** @returns names of the tables that are there */
export async function listTables(wire: Wire): Promise<readonly string[]> {
  return (await wire.say('show tables')).rows.map(([name]) => String(name))
}

/** @returns how many others are connected to this database, as far as this user may see */
export async function countOthers(wire: Wire): Promise<number> {
  const { rows } = await wire.say(
    'select count(*) from information_schema.processlist where db = database() and id <> connection_id()',
  )
  return Number(rows[0]?.[0])
}

/**
 * Puts a backup into the database of `wire`.
 * @param isReplacing tables that the backup has are removed first
 * @throws Error when what is there afterwards is not what was counted
 */
export async function restoreTables(
  wire: Wire,
  backup: Extract<BackupFile, { kind: 'sql' }>,
  options: { readonly isReplacing: boolean; readonly onTable: OnTable },
): Promise<void> {
  const tables = Object.entries(backup.end.tables)
  await wire.say('set foreign_key_checks = 0')
  if (options.isReplacing) for (const [table] of tables) await wire.say(`drop table if exists ${quoted(table)}`)
  await wire.say('set autocommit = 0')
  let pending = 0
  for await (const statement of backup.statements()) {
    await wire.say(statement.slice(0, -1))
    if (++pending % COMMIT_EVERY === 0) await wire.say('commit')
  }
  await wire.say('commit')
  for (const [table, expected] of tables) {
    const { rows } = await wire.say(`select count(*) from ${quoted(table)}`)
    const found = Number(rows[0]?.[0])
    if (found !== expected) throw new Error(`the table ${table} has ${found} rows instead of ${expected}`)
    options.onTable(table, found)
  }
}
