/** Copies of a database as it was at a moment, put in its place later: what a promoted replica looks like to its clients. */
import { sql } from 'drizzle-orm'
import type { TestDb } from '../../support/engines.ts'
import { sqlServer } from '../../support/engines.ts'

export interface OldCopy {
  /** From now on the database is what it was then; at once for everybody, under the same address. */
  putInPlace(): Promise<void>
  remove(): Promise<void>
}

/** @param testDb on a server */
export async function copyAsOfNow(testDb: TestDb): Promise<OldCopy> {
  const database = /\/(test_\w+)/.exec(testDb.env.SQL_DSN ?? '')?.[1] ?? ''
  const { execute } = await sqlServer()
  const found = await testDb.db
    .select({ name: sql<string>`table_name` })
    .from(sql`information_schema.tables`)
    .where(sql`table_schema = ${database}`)
  const tables = found.map(({ name }) => `\`${name}\``)
  const [then, later] = [`${database}_then`, `${database}_later`]
  await execute(
    `create database ${then}`,
    `create database ${later}`,
    ...tables.map((table) => `create table ${then}.${table} like ${database}.${table}`),
    `lock tables ${tables.map((table) => `${database}.${table} read, ${then}.${table} write`).join(', ')}`,
    ...tables.map((table) => `insert into ${then}.${table} select * from ${database}.${table}`),
    'unlock tables',
  )
  return {
    putInPlace: () =>
      execute(
        `rename table ${tables
          .map((table) => `${database}.${table} to ${later}.${table}, ${then}.${table} to ${database}.${table}`)
          .join(', ')}`,
      ),
    remove: () => execute(`drop database ${then}`, `drop database ${later}`),
  }
}
