/**
 * Inserts planned without Drizzle's builder: that costs more CPU per row than the database does, and inserts of many rows
 * are the hot path of every flush.
 */
import { getTableColumns, getTableName, is, SQL } from 'drizzle-orm'
import type { MySqlTable } from 'drizzle-orm/mysql-core'

type Row = Readonly<Record<string, unknown>>

export interface InsertRows {
  readonly table: string
  readonly columns: readonly string[]
  /** driver values, row by row, in the order of `columns` */
  readonly rows: readonly (readonly unknown[])[]
  /** Follows the rows: what becomes of one whose key is there. Absent: nothing. */
  readonly tail?: string
}

/**
 * @returns what to insert: the columns that any row has; a row without one of them gets its declared default.
 * Nothing if a value is SQL: that is for Drizzle's builder
 */
export function planInsert(table: MySqlTable, rows: readonly Row[]): InsertRows | undefined {
  if (rows.length === 0) throw new TypeError('an insert needs at least one row')
  const columns = getTableColumns(table)
  const used = Object.entries(columns).filter(([key]) => rows.some((row) => row[key] !== undefined))
  // Without any value the first column stands for the row: the id that the database gives.
  const [first] = Object.entries(columns)
  const taken = used.length > 0 || !first ? used : [first]
  const values: unknown[][] = []
  for (const row of rows) {
    const list: unknown[] = []
    for (const [key, column] of taken) {
      const value = row[key] === undefined ? (column.default ?? null) : row[key]
      if (typeof value === 'object' && is(value, SQL)) return undefined
      list.push(value === null ? null : column.mapToDriverValue(value))
    }
    values.push(list)
  }
  return { table: getTableName(table), columns: taken.map(([, column]) => column.name), rows: values }
}

/**
 * @param quote the character around names
 * @returns the statement up to its rows
 */
export const insertHead = ({ table, columns }: InsertRows, quote: string): string =>
  `insert into ${quote}${table}${quote} (${columns.map((column) => `${quote}${column}${quote}`).join(', ')}) values `
