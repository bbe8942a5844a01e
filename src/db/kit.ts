/**
 * The column kit: a table is written once and becomes a MySQL table or an SQLite table. MySQL's types are the types;
 * the one cast that makes SQLite's columns pass for MySQL's lives at the end of this file.
 */
import * as mysql from 'drizzle-orm/mysql-core'
import * as sqlite from 'drizzle-orm/sqlite-core'
import { type DateTimeCodec, sqliteDateTime } from './datetime.ts'

/**
 * The columns both engines have. All are nullable and without a default unless a definition says otherwise.
 * @param datetime how Dates are written into `datetime(3)`: the database may keep another zone than UTC
 */
const mysqlKit = (datetime: DateTimeCodec) => ({
  table: mysql.mysqlTable,
  /** Primary key given by the database, never given twice. */
  id: () => mysql.bigint('id', { mode: 'number' }).autoincrement().primaryKey(),
  unsignedId: () => mysql.bigint('id', { mode: 'number', unsigned: true }).autoincrement().primaryKey(),
  /** Integers within ±(2^53−1); what lies beyond is read as the nearest number. */
  bigint: (name: string) => mysql.bigint(name, { mode: 'number' }),
  unsigned: (name: string) => mysql.bigint(name, { mode: 'number', unsigned: true }),
  double: (name: string) => mysql.double(name),
  bool: mysql.customType<{ data: boolean; driverData: number }>({
    dataType: () => 'tinyint(1)',
    toDriver: (value) => (value ? 1 : 0),
    fromDriver: (value) => Number(value) !== 0,
  }),
  varchar: (name: string, length: number) => mysql.varchar(name, { length }),
  char: (name: string, length: number) => mysql.char(name, { length }),
  text: (name: string) => mysql.text(name),
  longtext: (name: string) => mysql.longtext(name),
  /** JSON kept as the text it is, so that numbers and key order survive: parse it where it is understood. */
  json: mysql.customType<{ data: string; driverData: string }>({
    dataType: () => 'json',
    fromDriver: jsonText,
  }),
  datetime3: mysql.customType<{ data: Date; driverData: string }>({
    dataType: () => 'datetime(3)',
    toDriver: datetime.encode,
    fromDriver: datetime.decode,
  }),
  index: mysql.index,
  uniqueIndex: mysql.uniqueIndex,
  primaryKey: mysql.primaryKey,
})

export type Kit = ReturnType<typeof mysqlKit>

/** The same names over SQLite's types, as the reference declares them: `numeric` booleans, `datetime` texts, JSON as BLOB. */
const sqliteKit = () => ({
  table: sqlite.sqliteTable,
  id: () => sqlite.integer('id').primaryKey({ autoIncrement: true }),
  unsignedId: () => sqlite.integer('id').primaryKey({ autoIncrement: true }),
  bigint: (name: string) => sqlite.integer(name),
  unsigned: (name: string) => sqlite.integer(name),
  double: (name: string) => sqlite.real(name),
  bool: sqlite.customType<{ data: boolean; driverData: number }>({
    dataType: () => 'numeric',
    toDriver: (value) => (value ? 1 : 0),
    fromDriver: (value) => Number(value) !== 0,
  }),
  varchar: (name: string, length: number) =>
    sqlite.customType<{ data: string }>({ dataType: () => `varchar(${length})`, fromDriver: plainText })(name),
  char: (name: string, length: number) =>
    sqlite.customType<{ data: string }>({ dataType: () => `char(${length})`, fromDriver: plainText })(name),
  text: sqlite.customType<{ data: string }>({ dataType: () => 'text', fromDriver: plainText }),
  longtext: sqlite.customType<{ data: string }>({ dataType: () => 'text', fromDriver: plainText }),
  json: sqlite.customType<{ data: string; driverData: unknown }>({
    dataType: () => 'json',
    toDriver: (value) => new TextEncoder().encode(value),
    fromDriver: jsonText,
  }),
  datetime3: sqlite.customType<{ data: Date; driverData: string }>({
    dataType: () => 'datetime',
    toDriver: sqliteDateTime.encode,
    fromDriver: sqliteDateTime.decode,
  }),
  index: sqlite.index,
  uniqueIndex: sqlite.uniqueIndex,
  primaryKey: sqlite.primaryKey,
})

const utf8 = new TextDecoder()

/** Drivers give JSON as text, as bytes, or already parsed (a server behind a proxy may name the type differently). */
function jsonText(value: unknown): string {
  if (typeof value === 'string') return value
  if (value instanceof Uint8Array) return utf8.decode(value)
  return JSON.stringify(value)
}

/** SQLite keeps what was written, whatever the declared type: a text column may hold bytes or a number. */
function plainText(value: unknown): string {
  if (typeof value === 'string') return value
  return value instanceof Uint8Array ? utf8.decode(value) : String(value)
}

export const createMysqlKit = (datetime: DateTimeCodec): Kit => mysqlKit(datetime)
export const createSqliteKit = (): Kit => asMysql<Kit>(sqliteKit())

/**
 * The one cast: a thing of Drizzle's SQLite dialect under the type of its MySQL twin. Safe because the two kits have the
 * same names, each column takes and gives the same JavaScript type on both engines, and queries are only built with what
 * both dialects share (`Db` hides the rest).
 */
export const asMysql = <T>(thing: unknown): T => thing as T
