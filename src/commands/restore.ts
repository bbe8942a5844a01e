/**
 * `headgate restore <file>`: puts a backup into the empty database that the configuration names, and says what the ledger
 * makes of it: what will be returned to balances, and which charges are only half there.
 */
import { existsSync } from 'node:fs'
import { type Config, EXIT_CONFIG } from '../config.ts'
import { restore as restoreDatabase } from '../db/backup.ts'
import { findMissing } from '../db/index.ts'
import { type DirectoryLock, lockDirectory } from '../lib/dir-lock.ts'
import { messageOf } from '../lib/error-text.ts'
import { logFileOf } from './backup.ts'
import { becomeUser } from './become-user.ts'
import { readLedgerReport, unevenLines } from './ledger-report.ts'
import { openDatabase, runningNodes } from './open-database.ts'
import { type Flags, ownFolders, preflight } from './preflight.ts'

/** @returns 0 when all of it is there, 1 when it was refused or broke off, 78 when the configuration does not allow it */
export async function restore(flags: Flags, file: string, isForced: boolean): Promise<number> {
  const { config, problems } = await preflight(flags)
  if (problems.length > 0) return refuse(problems.join('\n'), EXIT_CONFIG)
  if (flags.user) await becomeUser(flags.user, ownFolders(config))
  const locks: DirectoryLock[] = []
  try {
    if (config.isSingleNode)
      for (const folder of ownFolders(config)) {
        const lock = lockDirectory(folder, 0)
        if (!lock) throw new Error(`a node is running in ${folder}: stop it first`)
        locks.push(lock)
      }
    else if (isForced) await refuseLiving(config)
    const onTable = (table: string, rows: number): void => print(`${table}: ${rows} rows`)
    const logFile = logFileOf(file)
    if (config.logSqlDsn !== '' && !existsSync(logFile))
      throw new Error(`LOG_SQL_DSN is set, and there is no ${logFile} beside the backup`)
    await restoreDatabase({
      target: { dsn: config.sqlDsn, sqlitePath: config.sqlitePath },
      path: file,
      part: 'main',
      isForced,
      onTable,
    })
    if (config.logSqlDsn !== '')
      await restoreDatabase({
        target: { dsn: config.logSqlDsn, sqlitePath: '' },
        path: logFile,
        part: 'log',
        isForced,
        onTable,
      })
    print(`restored: ${file}`)
    for (const line of await advice(config)) print(line)
    return 0
  } catch (error) {
    return refuse(messageOf(error), 1)
  } finally {
    for (const lock of locks) lock.release()
  }
}

/** A server of a cluster knows only who is connected to itself; the nodes' beats tell of the others. @throws Error */
async function refuseLiving(config: Config): Promise<void> {
  const db = await openDatabase(config)
  try {
    // Not a database of ours, or not yet: there are no nodes to see.
    if ((await findMissing(db)).length > 0) return
    const living = await runningNodes(db, config, print)
    if (living.length > 0) throw new Error(`these nodes use the database: ${living.join(', ')}; stop every node first`)
  } finally {
    await db.close()
  }
}

/** What is left to do, for people. */
async function advice(config: Config): Promise<readonly string[]> {
  const db = await openDatabase(config)
  const logDb = config.logSqlDsn === '' ? db : await openDatabase(config, 'logs')
  try {
    const report = await readLedgerReport(db, logDb)
    if (!report) return ['This database is of another release or program: start a master first, which completes it.']
    const { parked, uneven } = report
    return [
      ...(parked.amount > 0
        ? [
            `${parked.amount} quota units of ${parked.accounts} accounts were on nodes when the copy was made. ` +
              (config.isSingleNode
                ? 'The next start returns them.'
                : `A master returns them once it has seen for ${2 * config.ledgerLeaseSec} s that nobody has them.`),
          ]
        : []),
      ...unevenLines(uneven),
      'Start the nodes with empty data folders; or with their old ones, if these are of this very cluster: charges that',
      'their journals still hold and this copy lacks are then applied again. Then run `headgate doctor`.',
    ]
  } finally {
    await db.close()
    if (logDb !== db) await logDb.close()
  }
}

const print = (text: string): void => void process.stderr.write(`${text}\n`)

function refuse(why: string, code: number): number {
  process.stderr.write(`headgate restore: ${why}\n`)
  return code
}
