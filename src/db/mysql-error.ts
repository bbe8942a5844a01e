/** What the numbers of MySQL, MariaDB and Galera, and the codes of a broken connection, mean to us. */
import { messageOf } from '../lib/error-text.ts'
import { DbError, type DbErrorKind } from './error.ts'

/** The database asks for the whole transaction again: lock wait, deadlock, changed since read, not in the primary component. */
const REPEAT = new Set([1205, 1213, 1020, 1047])
/** A member of a Galera cluster that has not caught up, or lost the others: it says this to every statement. */
const NOT_READY = 1047
/** A table or column that another member of the cluster has made, and this one is about to make. */
const BEHIND = new Set([1146, 1054])
/** The server takes no writes (any more): a replica, or an address that was switched. */
const READ_ONLY = new Set([1290, 1836, 1792, 3100])
/** The server takes no more connections or queries of ours. */
const TOO_MANY = new Set([1040, 1203, 1226])
/**
 * Shutting down, killed, blocked, refused (password, lock, expiry), no such database (yet), timed out, disk or table full,
 * storage in trouble, aborted by the server, failed in the middle of a commit.
 */
const AWAY = new Set([
  1021, 1026, 1030, 1044, 1045, 1049, 1053, 1105, 1114, 1129, 1130, 1152, 1158, 1159, 1160, 1161, 1180, 1223, 1317,
  1698, 1820, 1862, 1927, 1969, 3024, 3118, 3169, 4031, 4151,
])
const DUPLICATE = new Set([1022, 1062, 1169, 1586])
/** Too long, not in the character set, out of range, NULL where none may be, no JSON, packet too large, constraint. */
const CONTENT = new Set([
  1048, 1138, 1153, 1162, 1264, 1265, 1267, 1270, 1271, 1292, 1300, 1364, 1366, 1367, 1406, 1416, 1525, 3140, 3141,
  3819, 3854, 3988, 4025,
])

/** What the driver said, also when it was wrapped already. */
const driverError = (error: unknown): { errno?: unknown; code?: unknown; fatal?: unknown } =>
  ((error instanceof DbError ? error.cause : error) ?? {}) as { errno?: unknown; code?: unknown; fatal?: unknown }

/** @returns the server's error number; 0 if the error is not the server's (the system's own are negative) */
const errnoOf = (error: unknown): number => {
  const { errno } = driverError(error)
  return typeof errno === 'number' && errno > 0 ? errno : 0
}

export const isRepeatable = (error: unknown): boolean => REPEAT.has(errnoOf(error))
export const isNotReady = (error: unknown): boolean => errnoOf(error) === NOT_READY
export const isBehind = (error: unknown): boolean => BEHIND.has(errnoOf(error))
export const isReadOnly = (error: unknown): boolean => READ_ONLY.has(errnoOf(error))
export const isTooMany = (error: unknown): boolean => TOO_MANY.has(errnoOf(error))

/** The connection is gone or was never there; the server said nothing. */
export const isLost = (error: unknown): boolean => {
  const { fatal, code } = driverError(error)
  if (fatal === true) return true
  return errnoOf(error) === 0 && typeof code === 'string' && /^(E[A-Z_]+|PROTOCOL_\w+|HANDSHAKE_\w+)$/.test(code)
}

/** @returns `error` itself if it is a DbError already */
export function asDbError(error: unknown): DbError {
  if (error instanceof DbError) return error
  redact(error)
  return new DbError(kindOf(error), messageOf(error), error)
}

/** Servers quote the values they refuse, and drivers keep the text of the statement: keys and passwords among them. */
function redact(error: unknown): void {
  if (!(error instanceof Error)) return
  if ('sql' in error) error.sql = undefined
  const kind = kindOf(error)
  if (kind === 'unavailable') return
  const clean = (text: string): string =>
    text.replace(/(entry|value:?|near|string) '.*'(?= for | at | from |$)/s, "$1 '…'")
  error.message = clean(error.message)
  if ('sqlMessage' in error && typeof error.sqlMessage === 'string') error.sqlMessage = clean(error.sqlMessage)
}

function kindOf(error: unknown): DbErrorKind {
  const errno = errnoOf(error)
  if (DUPLICATE.has(errno)) return 'duplicate'
  if (CONTENT.has(errno)) return 'content'
  if (REPEAT.has(errno) || READ_ONLY.has(errno) || TOO_MANY.has(errno) || AWAY.has(errno)) return 'unavailable'
  return isLost(error) ? 'unavailable' : 'other'
}
