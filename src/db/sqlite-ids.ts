/**
 * Ids that are never given twice, on SQLite tables that were taken over. Those lack AUTOINCREMENT, so SQLite would give
 * the id of a deleted last row again, and with it whatever still refers to that row. A trigger notes the highest id that
 * was deleted (also by another program), and our inserts begin above it.
 */
import { sql } from 'drizzle-orm'
import type { EngineDb } from './db.ts'

/** Tables whose ids money and calls refer to. */
const KEPT = ['users', 'tokens', 'channels'] as const

const markOf = (table: string): string => `last_id:${table}`

/** Makes the triggers where they are needed; part of the schema sync. */
export async function keepIds(db: EngineDb): Promise<void> {
  if (!db.tableNames.includes('clusterMeta')) return
  for (const table of KEPT) {
    const { rows } = await db.raw("select sql from sqlite_master where type = 'table' and name = ?", [table], 'read')
    if (hasAutoincrement(rows[0]?.[0])) continue
    await db.raw(
      `create trigger if not exists "headgate_last_id_${table}" after delete on "${table}" begin
         insert into "cluster_meta" ("key", "value") values ('${markOf(table)}', old."id")
         on conflict ("key") do update set "value" = max(cast("value" as integer), old."id");
       end`,
      [],
      'schema',
    )
  }
}

const hasAutoincrement = (ddl: unknown): boolean => /\bautoincrement\b/i.test(String(ddl ?? ''))

/**
 * @param ddlOf gives the DDL of a table as SQLite keeps it
 * @returns a function that gives rows of a kept table their id before they are inserted; other rows pass as they are
 */
export function createIdGiver(ddlOf: (table: string) => unknown) {
  const needsIds = new Map<string, boolean>()
  const isKept = (table: string): boolean => {
    const known = needsIds.get(table)
    if (known !== undefined) return known
    const ddl = ddlOf(table)
    const needs = ddl !== undefined && !hasAutoincrement(ddl)
    if (ddl !== undefined) needsIds.set(table, needs)
    return needs
  }
  return <Row extends Record<string, unknown>>(table: string, rows: readonly Row[]): readonly Row[] => {
    if (!(KEPT as readonly string[]).includes(table) || !isKept(table)) return rows
    const last = sql`max(coalesce((select max("id") from ${sql.identifier(table)}), 0), coalesce((select cast("value" as integer) from "cluster_meta" where "key" = ${markOf(table)}), 0))`
    return rows.map((row, at) => (row['id'] === undefined ? { ...row, id: sql`${last} + ${at + 1}` } : row))
  }
}
