/**
 * Statements as text with their values written out. Prepared statements are state of a session, count against a limit of
 * the server, cost a round trip the first time, and were measured to take more CPU here than text.
 */

import { type InsertRows, insertHead } from './insert.ts'

/** Quoted texts and names, in which a question mark is a question mark, or a placeholder. */
const PLACES = /'(?:[^'\\]|\\.|'')*'|`[^`]*`|"[^"]*"|\?/gs

/**
 * @param sql with `?` for each parameter
 * @throws TypeError if their numbers differ or a value is of a kind that cannot be stored
 */
export function inline(sql: string, params: readonly unknown[]): string {
  if (params.length === 0) return sql
  let at = 0
  const text = sql.replace(PLACES, (found) => (found === '?' ? literal(params[at++]) : found))
  if (at !== params.length) throw new TypeError(`${params.length} parameters for ${at} places`)
  return text
}

/** An insert of many rows. Its values are put where they belong at once: to look for places in so long a text costs more. */
export const insertText = (insert: InsertRows): string =>
  insertHead(insert, '`') +
  insert.rows.map((row) => `(${row.map(literal).join(', ')})`).join(', ') +
  (insert.tail ?? '')

/**
 * Means the same in every SQL mode: what a backslash does depends on the mode, so texts that have one are written in
 * hexadecimal. The connection speaks utf8mb4, so a quote cannot hide in a character.
 */
function literal(value: unknown): string {
  if (value === null || value === undefined) return 'null'
  if (typeof value === 'number' && Number.isFinite(value)) return String(value)
  if (typeof value === 'bigint') return String(value)
  if (typeof value === 'boolean') return value ? '1' : '0'
  if (value instanceof Uint8Array) return `x'${Buffer.from(value).toString('hex')}'`
  if (typeof value !== 'string') throw new TypeError(`a value of the kind ${typeof value} cannot be stored`)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about
  if (/[\\\u0000\u001a]/.test(value)) return `_utf8mb4 x'${Buffer.from(value).toString('hex')}'`
  return `'${value.replaceAll("'", "''")}'`
}
