/** What `doctor` finds about the databases and about this machine's clock against theirs. */
import { stat } from 'node:fs/promises'
import { sql } from 'drizzle-orm'
import type { Config } from '../config.ts'
import { type Db, findMissing, readServerFacts } from '../db/index.ts'
import { messageOf } from '../lib/error-text.ts'
import { roleOf } from '../role.ts'
import type { Finding } from './doctor.ts'
import { judgeServer } from './doctor-server.ts'
import { readLedgerReport, unevenLines } from './ledger-report.ts'
import { openDatabase } from './open-database.ts'

/** @returns the findings, and the difference of the database's clock to ours where it could be asked, ms */
export async function checkDatabase(config: Config): Promise<{ findings: readonly Finding[]; offsetMs?: number }> {
  const sqliteFile = config.sqlitePath.split('?')[0]!
  if (config.isSingleNode && !(await stat(sqliteFile).catch(() => undefined))) {
    return { findings: [{ level: 'ok', text: `SQLite: ${sqliteFile} is made at the first start` }] }
  }
  const main = await checkOne(config, 'SQL_DSN', 'main')
  if (config.logSqlDsn === '') return main
  const logs = await checkOne(config, 'LOG_SQL_DSN', 'logs')
  return { ...main, findings: [...main.findings, ...logs.findings] }
}

async function checkOne(
  config: Config,
  name: string,
  part: 'main' | 'logs',
): Promise<{ findings: readonly Finding[]; offsetMs?: number }> {
  let db: Db
  try {
    db = await openDatabase(config, part)
  } catch (error) {
    return {
      findings: [
        {
          level: 'problem',
          text: `${name}: ${messageOf(error)}`,
          advice: 'check address, user, password and whether the server lets this machine in',
        },
      ],
    }
  }
  try {
    const askedAtMs = Date.now()
    const databaseMs = await db.now()
    const offsetMs = databaseMs - (askedAtMs + Date.now()) / 2
    return {
      findings: [
        await describeServer(db, name),
        ...(await checkServer(db, config, name)),
        await checkSchema(db, config, name),
        ...(part === 'logs' || config.logSqlDsn !== '' ? [] : await checkCharges(db, name)),
      ],
      offsetMs,
    }
  } catch (error) {
    return {
      findings: [
        {
          level: 'problem',
          text: `${name}: ${messageOf(error)}`,
          advice: 'check what this user may do in that database',
        },
      ],
    }
  } finally {
    await db.close()
  }
}

async function describeServer(db: Db, name: string): Promise<Finding> {
  if (db.engine === 'sqlite') {
    const [row] = await db.select({ version: sql<string>`sqlite_version()` }).from(sql`(select 1) as one`)
    return { level: 'ok', text: `SQLite ${row?.version}` }
  }
  const [row] = await db
    .select({ version: sql<string>`version()`, charset: sql<string>`@@character_set_database` })
    .from(sql`(select 1) as one`)
  const text = `${name}: reachable, version ${row?.version}, default character set ${row?.charset}`
  return row?.charset.startsWith('utf8')
    ? { level: 'ok', text }
    : {
        level: 'warning',
        text,
        advice:
          'our tables are utf8mb4 all the same; for a new database prefer `create database … character set utf8mb4`',
      }
}

async function checkServer(db: Db, config: Config, name: string): Promise<readonly Finding[]> {
  const facts = await readServerFacts(db)
  return facts ? judgeServer(facts, config, name) : []
}

/** Charges that are only half there and whose instance has ended, so that nobody completes them. */
async function checkCharges(db: Db, name: string): Promise<readonly Finding[]> {
  const report = await readLedgerReport(db)
  const lost = (report?.uneven ?? []).filter(({ isLive }) => !isLive)
  return unevenLines(lost).map((text) => ({
    level: 'warning',
    text: `${name}: ${text}`,
    advice: 'start the node that had it with its data folder; if that is lost, so are these',
  }))
}

async function checkSchema(db: Db, config: Config, name: string): Promise<Finding> {
  const missing = await findMissing(db)
  if (missing.length === 0) return { level: 'ok', text: `${name}: the schema has all that this version needs` }
  const text = `${name}: the schema lacks ${missing.slice(0, 3).join(', ')}${missing.length > 3 ? ` and ${missing.length - 3} more` : ''}`
  return roleOf(config.nodeType).migrates
    ? { level: 'ok', text: `${text}; the next start adds it` }
    : { level: 'warning', text, advice: 'start or update a master: this slave waits for it' }
}

const SKEW_WARNING_MS = 2_000

/** @param offsetMs what the database's clock is ahead of ours; absent if it could not be asked */
export function checkClock(config: Config, offsetMs: number | undefined): readonly Finding[] {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone
  const findings: Finding[] = [
    { level: 'ok', text: `time zone ${config.timeZone || zone}, now ${new Date().toISOString()}` },
  ]
  if (offsetMs === undefined || config.isSingleNode) return findings
  const text = `this machine is ${Math.abs(Math.round(offsetMs))} ms ${offsetMs > 0 ? 'behind' : 'ahead of'} the database`
  findings.push(
    Math.abs(offsetMs) > SKEW_WARNING_MS
      ? { level: 'warning', text, advice: 'run a time service such as chrony on both' }
      : { level: 'ok', text },
  )
  return findings
}
