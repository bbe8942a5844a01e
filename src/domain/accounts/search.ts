/** Search texts of people, made safe for SQL patterns. Every pattern is used with `escape '!'`. */
import { eq, type SQL, sql } from 'drizzle-orm'
import type { MySqlColumn } from 'drizzle-orm/mysql-core'
import { GatewayError } from '../../errors.ts'

const escaped = (text: string): string => text.replace(/[!%_]/g, '!$&')

/** Matches what contains `text`. */
export const containsPattern = (text: string): string => `%${escaped(text)}%`

/** Matches what begins with `text`. */
export const prefixPattern = (text: string): string => `${escaped(text)}%`

/**
 * Without `%` the column equals the text; `%` stands for anything. `_` is literal.
 * @throws GatewayError search_pattern_invalid for patterns that would read a whole table
 */
export function matchesText(column: MySqlColumn, text: string): SQL {
  if (!text.includes('%')) return eq(column, text)
  const wildcards = text.split('%').length - 1
  if (wildcards > 2 || text.includes('%%') || text.length - wildcards < 2)
    throw new GatewayError('search_pattern_invalid')
  return sql`${column} like ${text.replace(/[!_]/g, '!$&')} escape '!'`
}
