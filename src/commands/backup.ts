/**
 * `headgate backup <file>`: a consistent copy of the database while nodes use it. Not of the journals in the data folders,
 * which only a running node may open: what they hold and the database has not yet stays with the nodes.
 */
import { VERSION } from '../build-info.ts'
import { EXIT_CONFIG } from '../config.ts'
import { backUp } from '../db/backup.ts'
import { messageOf } from '../lib/error-text.ts'
import { becomeUser } from './become-user.ts'
import { type Flags, preflight } from './preflight.ts'

/** @returns 0 when the file is there and whole, 1 when there is none, 78 when the configuration does not allow it */
export async function backup(flags: Flags, file: string): Promise<number> {
  const { config, problems } = await preflight(flags)
  if (problems.length > 0) return refuse(problems.join('\n'), EXIT_CONFIG)
  if (flags.user) await becomeUser(flags.user, [])
  const logFile = logFileOf(file)
  try {
    const { uneven } = await backUp({
      main: { dsn: config.sqlDsn, sqlitePath: config.sqlitePath },
      path: file,
      ...(config.logSqlDsn !== '' && { log: { dsn: config.logSqlDsn, path: logFile } }),
      version: config.reportedVersion || VERSION,
      onTable: (table, rows) => print(`${table}: ${rows} rows`),
    })
    print(`written: ${file}${config.logSqlDsn !== '' ? ` and ${logFile}` : ''}`)
    if (uneven > 0)
      print(
        `${uneven} charges are only half in this copy, since their other half had not been written yet; \`headgate restore\` will name them`,
      )
    return 0
  } catch (error) {
    return refuse(messageOf(error), 1)
  }
}

/** Where the call records go that have a database of their own: `backup.sql.gz` → `backup.log.sql.gz`. */
export function logFileOf(file: string): string {
  const slash = file.lastIndexOf('/') + 1
  const dot = file.indexOf('.', slash + 1)
  return dot < 0 ? `${file}.log` : `${file.slice(0, dot)}.log${file.slice(dot)}`
}

const print = (text: string): void => void process.stderr.write(`${text}\n`)

function refuse(why: string, code: number): number {
  process.stderr.write(`headgate backup: ${why}\n`)
  return code
}
