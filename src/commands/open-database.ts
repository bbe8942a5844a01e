/** How commands reach the databases of a configuration, and see who else uses them. */
import type { Config } from '../config.ts'
import { type Db, openDb } from '../db/index.ts'
import { findLivingNodes } from '../domain/cluster/index.ts'
import { systemClock } from '../lib/clock.ts'
import { lockDirectory } from '../lib/dir-lock.ts'
import { silentLog } from '../lib/log.ts'
import { ownFolders } from './preflight.ts'

/** A few connections, and no lines in the log. @throws DbError */
export const openDatabase = (config: Config, part: 'main' | 'logs' = 'main'): Promise<Db> =>
  openDb({
    dsn: part === 'main' ? config.sqlDsn : config.logSqlDsn,
    sqlitePath: config.sqlitePath,
    log: silentLog,
    pool: { maxOpen: 2, maxIdle: 2 },
    ...(part === 'logs' && { only: part }),
  })

/** Is there a database at all? A file that nobody has made is not made by looking. */
export const hasDatabase = async (config: Config): Promise<boolean> =>
  !config.isSingleNode || (await Bun.file(config.sqlitePath.split('?')[0]!).exists())

/**
 * Another machine's nodes show themselves by their beats; the one that may have a SQLite file, by the lock of its folder.
 * @returns names of the nodes that live; takes up to a lease where rows say so and no beat moves
 */
export async function runningNodes(db: Db, config: Config, print: (text: string) => void): Promise<readonly string[]> {
  if (config.isSingleNode) {
    const locks = ownFolders(config).map((folder) => lockDirectory(folder, 0))
    for (const lock of locks) lock?.release()
    return locks.every((lock) => lock !== undefined) ? [] : [config.nodeName]
  }
  return findLivingNodes(db, {
    leaseMs: config.ledgerLeaseSec * 1000,
    clock: systemClock,
    onWait: (nodes) => print(`looking for the time of a lease whether these nodes live: ${nodes.join(', ')}`),
  })
}
