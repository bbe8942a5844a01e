/** A master that does nothing but sync the schema: started, watched and killed by the tests. Prints a line per change. */
import { openDb, syncSchema } from '../../src/db/index.ts'
import { type Log, silentLog } from '../../src/lib/log.ts'

const say = (text: string): void => {
  process.stdout.write(`${text}\n`)
}
const log: Log = { ...silentLog, info: say, warn: say }
const { SQL_DSN, SQLITE_PATH, LEASE_MS } = process.env
const db = await openDb({
  log,
  ...(SQL_DSN ? { dsn: SQL_DSN } : {}),
  ...(SQLITE_PATH ? { sqlitePath: SQLITE_PATH } : {}),
})
say('open')
await syncSchema(db, { log, leaseMs: Number(LEASE_MS ?? 500) })
await db.close()
say('done')
