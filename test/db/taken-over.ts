/** Puts a New API database into an empty one, and photographs every row of it. */
import { asEngineDb, type Db } from '../../src/db/db.ts'
import { type Age, mysqlDdl, rowsOf, sqliteDdl } from './new-api.ts'

export async function fillNewApi(db: Db, age: Age, emoji: string): Promise<void> {
  const raw = asEngineDb(db)
  const isMysql = db.engine === 'mysql'
  const q = isMysql ? '`' : '"'
  for (const statement of isMysql ? mysqlDdl(age) : sqliteDdl(age)) await raw.raw(statement, [], 'schema')
  for (const row of rowsOf(age, db.engine, emoji)) {
    const names = row.columns.map((column) => `${q}${column}${q}`).join(', ')
    await raw.raw(
      `insert into ${q}${row.table}${q} (${names}) values (${row.columns.map(() => '?').join(', ')})`,
      row.values,
    )
  }
}

/** Every value of every row, exactly: table → (key of the row → column → text). */
export type Photograph = ReadonlyMap<string, readonly Readonly<Record<string, string>>[]>

/** @param like only the tables and columns of an earlier photograph */
export async function photograph(db: Db, like?: Photograph): Promise<Photograph> {
  const raw = asEngineDb(db)
  const isMysql = db.engine === 'mysql'
  const q = isMysql ? '`' : '"'
  const { rows } = await raw.raw(
    isMysql
      ? 'select table_name, column_name, data_type from information_schema.columns where table_schema = database() order by table_name, ordinal_position'
      : "select m.name, c.name from sqlite_master m, pragma_table_info(m.name) c where m.type = 'table' and m.name not like 'sqlite%' order by m.name, c.cid",
    [],
    'read',
  )
  const columns = new Map<string, string[]>()
  /** What is no text can only be shown as its bytes. */
  const bytes = new Set<string>()
  for (const [table, column, type] of rows) {
    if (/binary|blob|^bit$/i.test(String(type ?? ''))) bytes.add(`${table}.${column}`)
    columns.set(String(table), [...(columns.get(String(table)) ?? []), String(column)])
  }
  const found = new Map<string, Readonly<Record<string, string>>[]>()
  for (const table of like?.keys() ?? columns.keys()) {
    const [sample] = like?.get(table) ?? []
    const names = sample ? Object.keys(sample) : (columns.get(table) ?? [])
    // `quote` tells NULL, numbers, texts and (SQLite) bytes apart, and loses nothing.
    const list = names
      .map((name) => (bytes.has(`${table}.${name}`) ? `hex(${q}${name}${q})` : `quote(${q}${name}${q})`))
      .join(', ')
    const values = await raw.raw(`select ${list} from ${q}${table}${q} order by 1, 2`, [], 'read')
    found.set(
      table,
      values.rows.map((row) => Object.fromEntries(row.map((value, at) => [names[at]!, String(value)]))),
    )
  }
  return found
}
