/** What the tables declare and what a database has, in the same words for both engines, and the DDL between them. */
import { type MySqlTable, getTableConfig as mysqlConfig } from 'drizzle-orm/mysql-core'
import { type SQLiteTable, getTableConfig as sqliteConfig } from 'drizzle-orm/sqlite-core'
import type { EngineDb } from './db.ts'
import { OWN_TABLES, type TableName } from './tables/index.ts'

export interface Column {
  readonly name: string
  readonly type: string
  readonly isNotNull: boolean
  readonly isAutoIncrement: boolean
  readonly default?: string | number
}

export interface Index {
  readonly table: string
  readonly name: string
  readonly columns: readonly string[]
  readonly isUnique: boolean
  /** A unique key named like its column: on SQLite a part of the table, without a name. */
  readonly isInline: boolean
}

export interface Table {
  readonly name: string
  /** ours and not New API's */
  readonly isOwn: boolean
  readonly columns: readonly Column[]
  readonly primaryKey: readonly string[]
  readonly indexes: readonly Index[]
}

/** The live schema, names in lower case. */
export interface LiveTable {
  readonly columns: ReadonlySet<string>
  readonly indexNames: ReadonlySet<string>
  /** column lists of the unique keys, joined by commas */
  readonly uniqueColumns: ReadonlySet<string>
}
export type LiveSchema = ReadonlyMap<string, LiveTable>

/** The tables this database is to hold. */
export const declaredTables = (db: EngineDb): readonly Table[] => db.tableNames.map((name) => declared(db, name))

function declared(db: EngineDb, tableName: TableName): Table {
  const table: unknown = db.tables[tableName]
  // The tables of an SQLite database are SQLite's, whatever their type says (kit.ts).
  const config = db.engine === 'mysql' ? mysqlConfig(table as MySqlTable) : sqliteConfig(table as SQLiteTable)
  const { name } = config
  const inline = config.columns.filter((column) => column.isUnique)
  const single = config.columns.filter((column) => column.primary).map((column) => column.name)
  const [composite] = config.primaryKeys
  return {
    name,
    isOwn: OWN_TABLES.has(tableName),
    columns: config.columns.map((column) => ({
      name: column.name,
      type: column.getSQLType(),
      isNotNull: column.notNull || column.primary,
      isAutoIncrement: 'autoIncrement' in column && column.autoIncrement === true,
      ...(typeof column.default === 'string' || typeof column.default === 'number' ? { default: column.default } : {}),
    })),
    primaryKey: composite ? composite.columns.map((column) => column.name) : single,
    indexes: [
      ...inline.map((column) => ({
        table: name,
        name: column.uniqueName ?? column.name,
        columns: [column.name],
        isUnique: true,
        isInline: true,
      })),
      ...config.indexes.map(({ config: index }) => ({
        table: name,
        name: index.name,
        columns: index.columns.map((column) => ('name' in column ? column.name : '')),
        isUnique: index.unique === true,
        isInline: false,
      })),
    ],
  }
}

/** Reads the live schema. */
export async function readLiveSchema(db: EngineDb): Promise<LiveSchema> {
  const live = new Map<string, { columns: Set<string>; indexNames: Set<string>; uniqueColumns: Set<string> }>()
  const of = (table: unknown): { columns: Set<string>; indexNames: Set<string>; uniqueColumns: Set<string> } => {
    const name = lower(table)
    const known = live.get(name)
    if (known) return known
    const fresh = { columns: new Set<string>(), indexNames: new Set<string>(), uniqueColumns: new Set<string>() }
    live.set(name, fresh)
    return fresh
  }
  const isMysql = db.engine === 'mysql'
  const columns = await db.raw(isMysql ? MYSQL_COLUMNS : SQLITE_COLUMNS, [], 'read')
  for (const [table, column] of columns.rows) of(table).columns.add(lower(column))
  const indexes = await db.raw(isMysql ? MYSQL_INDEXES : SQLITE_INDEXES, [], 'read')
  const uniques = new Map<string, { table: string; columns: string[] }>()
  for (const [table, index, isUnique, column] of indexes.rows) {
    of(table).indexNames.add(lower(index))
    if (Number(isUnique) !== 1) continue
    const key = `${lower(table)} ${lower(index)}`
    const unique = uniques.get(key) ?? { table: lower(table), columns: [] }
    unique.columns.push(lower(column))
    uniques.set(key, unique)
  }
  for (const { table, columns: names } of uniques.values()) of(table).uniqueColumns.add(names.join(','))
  return live
}

const lower = (name: unknown): string => String(name).toLowerCase()

const MYSQL_COLUMNS =
  'select table_name, column_name from information_schema.columns where table_schema = database() order by table_name, ordinal_position'
const MYSQL_INDEXES =
  'select table_name, index_name, 1 - non_unique, column_name from information_schema.statistics where table_schema = database() order by table_name, index_name, seq_in_index'
const SQLITE_COLUMNS =
  "select m.name, c.name from sqlite_master m, pragma_table_info(m.name) c where m.type = 'table' order by m.name, c.cid"
const SQLITE_INDEXES =
  'select m.name, i.name, i."unique" and not i.partial, c.name from sqlite_master m, pragma_index_list(m.name) i, pragma_index_info(i.name) c ' +
  "where m.type = 'table' order by m.name, i.name, c.seqno"

export const hasIndex = (live: LiveTable, index: Index): boolean =>
  live.indexNames.has(index.name.toLowerCase()) ||
  (index.isUnique && live.uniqueColumns.has(index.columns.join(',').toLowerCase()))

export interface Charset {
  readonly charset: string
  readonly collation: string
}

/** The defaults of a MySQL database; nothing for SQLite. */
export async function readCharset(db: EngineDb): Promise<Charset | undefined> {
  if (db.engine !== 'mysql') return undefined
  const { rows } = await db.raw(
    'select default_character_set_name, default_collation_name from information_schema.schemata where schema_name = database()',
    [],
    'read',
  )
  return { charset: String(rows[0]?.[0]), collation: String(rows[0]?.[1]) }
}

/**
 * What makes a table, with `if not exists`: one statement on MySQL, on SQLite its indexes follow.
 * @param charset of the database. What we create can always hold every character: utf8mb4, in the database's own
 * collation where that is one of utf8mb4 (so joins with older tables work); our own tables compare bytes
 */
export function createTable(db: EngineDb, table: Table, charset: Charset | undefined): readonly string[] {
  const isMysql = db.engine === 'mysql'
  const q = quoter(db)
  const lines = table.columns.map((column) => columnText(db, column, table))
  const hasKeyInColumn = !isMysql && table.columns.some((column) => column.isAutoIncrement)
  if (table.primaryKey.length > 0 && !hasKeyInColumn) lines.push(`primary key (${table.primaryKey.map(q).join(', ')})`)
  if (isMysql) {
    for (const index of table.indexes)
      lines.push(`${index.isUnique ? 'unique ' : ''}key ${q(index.name)} (${index.columns.map(q).join(', ')})`)
  }
  const collation = table.isOwn ? 'utf8mb4_bin' : charset?.charset === 'utf8mb4' ? charset.collation : undefined
  const options = isMysql ? ` engine=InnoDB default charset=utf8mb4${collation ? ` collate=${collation}` : ''}` : ''
  const create = `create table if not exists ${q(table.name)} (\n  ${lines.join(',\n  ')}\n)${options}`
  const indexes = isMysql ? [] : table.indexes.filter((index) => !index.isInline).map((index) => createIndex(db, index))
  return [create, ...indexes]
}

export const addColumn = (db: EngineDb, table: Table, column: Column): string =>
  `alter table ${quoter(db)(table.name)} add column ${columnText(db, column, undefined)}`

export function createIndex(db: EngineDb, index: Index): string {
  const q = quoter(db)
  const guard = db.engine === 'sqlite' ? 'if not exists ' : ''
  return `create ${index.isUnique ? 'unique ' : ''}index ${guard}${q(index.name)} on ${q(index.table)} (${index.columns.map(q).join(', ')})`
}

const quoter = (db: EngineDb): ((name: string) => string) =>
  db.engine === 'mysql' ? (name) => `\`${name}\`` : (name) => `"${name}"`

/** @param created the table it is created with; a column added to rows that exist needs a value for them if it may not be NULL */
function columnText(db: EngineDb, column: Column, created: Table | undefined): string {
  const q = quoter(db)
  if (db.engine === 'sqlite' && column.isAutoIncrement) return `${q(column.name)} integer primary key autoincrement`
  const isInlineUnique =
    db.engine === 'sqlite' && created?.indexes.some((index) => index.isInline && index.columns[0] === column.name)
  const fallback = created || !column.isNotNull ? undefined : /int|double|real|numeric/.test(column.type) ? 0 : ''
  // MySQL allows no default on long texts, and fills in the empty one by itself.
  const value = column.default ?? (db.engine === 'mysql' ? undefined : fallback)
  return [
    q(column.name),
    column.type,
    column.isNotNull ? 'not null' : '',
    column.isAutoIncrement ? 'auto_increment' : '',
    value === undefined ? '' : `default ${typeof value === 'number' ? value : `'${value.replaceAll("'", "''")}'`}`,
    isInlineUnique ? 'unique' : '',
  ]
    .filter((part) => part !== '')
    .join(' ')
}
