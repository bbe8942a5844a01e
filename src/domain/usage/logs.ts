/**
 * Reads call records. They may live in a database of their own, so nothing is joined: names of channels come from a second
 * query on the main one. Writing them is the ledger's work.
 */
import { and, count, desc, eq, getTableColumns, gte, inArray, lt, lte, type SQL, sql } from 'drizzle-orm'
import type { MySqlColumn } from 'drizzle-orm/mysql-core'
import type { Db } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import { matchesText } from '../accounts/index.ts'

/** Types of rows in `logs`. */
export const LOG_TYPE = { topUp: 1, consume: 2, manage: 3, system: 4, error: 5, refund: 6, login: 7 } as const

/** Absent, empty and 0 mean any. Times are Unix seconds, inclusive. */
export interface LogFilter {
  readonly type?: number
  readonly fromSec?: number
  readonly toSec?: number
  readonly userId?: number
  /** `%` is a wildcard here and in `modelName`. */
  readonly username?: string
  readonly modelName?: string
  readonly apiKeyId?: number
  readonly apiKeyName?: string
  readonly channelId?: number
  readonly group?: string
  readonly requestId?: string
  readonly upstreamRequestId?: string
}

export interface LogRow {
  readonly id: number
  readonly userId: number
  readonly createdAtSec: number
  readonly type: number
  readonly content: string
  readonly username: string
  readonly apiKeyName: string
  readonly modelName: string
  readonly quota: number
  readonly promptTokens: number
  readonly completionTokens: number
  readonly useTimeSec: number
  readonly isStream: boolean
  readonly channelId: number
  /** Empty for a channel that was deleted, and where no channel was used. */
  readonly channelName: string
  readonly apiKeyId: number
  readonly group: string
  readonly ip: string
  readonly requestId: string
  readonly upstreamRequestId: string
  /** JSON text, or empty. */
  readonly other: string
}

/**
 * `quota`: sum of consumption within the filter; that of a long range comes from the hourly sums where they can tell, which
 * are less by what was given back. `rpm`, `tpm`: calls and tokens of the last minute, whatever its times. */
export interface LogSums {
  readonly quota: number
  readonly rpm: number
  readonly tpm: number
}

export interface LogReads {
  /** Newest first. `total` is exact up to 10,000; where there are more, it stays there: counting them would read them all. */
  list(
    filter: LogFilter,
    page: { readonly offset: number; readonly size: number },
  ): Promise<{ readonly items: readonly LogRow[]; readonly total: number; readonly isTotalCapped: boolean }>
  sums(filter: LogFilter): Promise<LogSums>
  /** The newest rows of an API key, at most 1,000. */
  ofApiKey(apiKeyId: number): Promise<readonly LogRow[]>
}

const COUNTED_ROWS = 10_000
const HOUR_SEC = 3_600
/** From here on a range is long: adding up its rows would read too many. */
const LONG_SEC = 48 * HOUR_SEC
/** Width of names in the hourly sums; longer ones are cut there. */
const HOURLY_NAME_CHARS = 64
const API_KEY_ROWS = 1_000

export function createLogReads(deps: {
  readonly db: Db
  readonly logDb: Db
  readonly clock: Clock
  /** Is hourly usage kept; option DataExportEnabled. Not if not given. */
  readonly isExported?: () => boolean
}): LogReads {
  const { db, logDb, clock, isExported = () => false } = deps
  const { logs } = logDb.tables
  const { quotaData } = db.tables

  const where = (filter: LogFilter): SQL | undefined => {
    const given = (value: string | number | undefined): boolean => value !== undefined && value !== '' && value !== 0
    return and(
      given(filter.type) ? eq(logs.type, filter.type!) : undefined,
      given(filter.fromSec) ? gte(logs.createdAt, filter.fromSec!) : undefined,
      given(filter.toSec) ? lte(logs.createdAt, filter.toSec!) : undefined,
      given(filter.userId) ? eq(logs.userId, filter.userId!) : undefined,
      given(filter.username) ? matchesText(logs.username, filter.username!) : undefined,
      given(filter.modelName) ? matchesText(logs.modelName, filter.modelName!) : undefined,
      given(filter.apiKeyId) ? eq(logs.tokenId, filter.apiKeyId!) : undefined,
      given(filter.apiKeyName) ? eq(logs.tokenName, filter.apiKeyName!) : undefined,
      given(filter.channelId) ? eq(logs.channelId, filter.channelId!) : undefined,
      given(filter.group) ? eq(logs.group, filter.group!) : undefined,
      given(filter.requestId) ? eq(logs.requestId, filter.requestId!) : undefined,
      given(filter.upstreamRequestId) ? eq(logs.upstreamRequestId, filter.upstreamRequestId!) : undefined,
    )
  }

  const countSome = async (condition: SQL | undefined): Promise<number> => {
    const some = logDb
      .select({ id: logs.id })
      .from(logs)
      .where(condition)
      .limit(COUNTED_ROWS + 1)
      .as('some')
    const [row] = await logDb.select({ rows: count() }).from(some)
    return row?.rows ?? 0
  }

  const quotaOfRows = async (filter: LogFilter): Promise<number> => {
    const [row] = await logDb
      .select({ quota: total(logs.quota) })
      .from(logs)
      .where(and(where({ ...filter, type: 0 }), eq(logs.type, LOG_TYPE.consume)))
    return row?.quota ?? 0
  }

  /** The whole hours of a long range, from the first that has hourly sums. @returns nothing where rows must be added up */
  const wholeHours = async (
    filter: LogFilter,
  ): Promise<{ readonly fromSec: number; readonly endSec: number } | undefined> => {
    const { fromSec = 0, toSec = 0, username = '', modelName = '' } = filter
    const isTold = ![filter.apiKeyId, filter.apiKeyName, filter.channelId, filter.group].some(Boolean)
    // Of one user an index has all there is; the hourly sums of one may be as many as the calls, spread over channels.
    const isOfOne = Boolean(filter.userId) || (username !== '' && !username.includes('%'))
    const isRare = Boolean(filter.requestId || filter.upstreamRequestId)
    if (
      !isExported() ||
      !isTold ||
      isOfOne ||
      isRare ||
      Math.max(username.length, modelName.length) > HOURLY_NAME_CHARS
    )
      return undefined
    const hour = (sec: number): number => Math.floor(sec / HOUR_SEC) * HOUR_SEC
    // The present hour is not over.
    const nowSec = Math.floor(clock.now() / 1000)
    const endSec = Math.min(hour(nowSec), toSec > 0 ? hour(toSec + 1) : Infinity)
    if (endSec - fromSec < LONG_SEC) return undefined
    const [first] = await db
      .select({ createdAt: quotaData.createdAt })
      .from(quotaData)
      .where(and(gte(quotaData.createdAt, hour(fromSec + HOUR_SEC - 1)), lt(quotaData.createdAt, endSec)))
      .orderBy(quotaData.createdAt)
      .limit(1)
    return first?.createdAt ? { fromSec: first.createdAt, endSec } : undefined
  }

  const quotaOf = async (filter: LogFilter): Promise<number> => {
    const hours = await wholeHours(filter)
    if (!hours) return quotaOfRows(filter)
    const { fromSec = 0, toSec = 0, username, modelName } = filter
    const [[hourly], before, after] = await Promise.all([
      db
        .select({ quota: total(quotaData.quota) })
        .from(quotaData)
        .where(
          and(
            gte(quotaData.createdAt, hours.fromSec),
            lt(quotaData.createdAt, hours.endSec),
            username ? matchesText(quotaData.username, username) : undefined,
            modelName ? matchesText(quotaData.modelName, modelName) : undefined,
          ),
        ),
      fromSec < hours.fromSec ? quotaOfRows({ ...filter, toSec: hours.fromSec - 1 }) : 0,
      toSec === 0 || toSec >= hours.endSec ? quotaOfRows({ ...filter, fromSec: hours.endSec }) : 0,
    ])
    return (hourly?.quota ?? 0) + before + after
  }

  const withNames = async (rows: readonly StoredLog[]): Promise<readonly LogRow[]> => {
    const ids = [...new Set(rows.map((row) => row.channelId ?? 0))].filter((id) => id > 0)
    const { channels } = db.tables
    const named =
      ids.length === 0
        ? []
        : await db.select({ id: channels.id, name: channels.name }).from(channels).where(inArray(channels.id, ids))
    const names = new Map(named.map(({ id, name }) => [id, name ?? '']))
    return rows.map((row) => logRow(row, names))
  }

  return {
    async list(filter, { offset, size }) {
      const condition = where(filter)
      const order = [desc(logs.createdAt), desc(logs.id)]
      // First the ids, from an index alone: a server asked for whole rows of a late page may sort the whole table for it.
      const page = logDb
        .select({ id: logs.id })
        .from(logs)
        .where(condition)
        .orderBy(...order)
        .limit(size)
        .offset(offset)
        .as('page')
      const [rows, counted] = await Promise.all([
        logDb
          .select(getTableColumns(logs))
          .from(page)
          .innerJoin(logs, eq(logs.id, page.id))
          .orderBy(...order),
        countSome(condition),
      ])
      const isTotalCapped = counted > COUNTED_ROWS
      return { items: await withNames(rows), total: isTotalCapped ? COUNTED_ROWS : counted, isTotalCapped }
    },
    async sums(filter) {
      const isConsumption = eq(logs.type, LOG_TYPE.consume)
      const sinceSec = Math.floor(clock.now() / 1000) - 60
      const untimed = { ...filter, type: 0, fromSec: 0, toSec: 0 }
      const [quota, [minute]] = await Promise.all([
        quotaOf(filter),
        logDb
          .select({
            calls: count(),
            tokens: sql`${total(logs.promptTokens)} + ${total(logs.completionTokens)}`.mapWith(Number),
          })
          .from(logs)
          .where(and(where(untimed), isConsumption, gte(logs.createdAt, sinceSec))),
      ])
      return { quota, rpm: minute?.calls ?? 0, tpm: minute?.tokens ?? 0 }
    },
    async ofApiKey(apiKeyId) {
      const rows = await logDb
        .select()
        .from(logs)
        .where(eq(logs.tokenId, apiKeyId))
        .orderBy(desc(logs.id))
        .limit(API_KEY_ROWS)
      return rows.map((row) => logRow(row, new Map()))
    },
  }
}

/** Big sums come as texts from one engine. */
const total = (column: MySqlColumn) => sql`coalesce(sum(${column}), 0)`.mapWith(Number)

type StoredLog = Db['tables']['logs']['$inferSelect']

/** Older rows have NULL where newer ones have the empty value. */
const logRow = (row: StoredLog, channelNames: ReadonlyMap<number, string>): LogRow => ({
  id: row.id,
  userId: row.userId ?? 0,
  createdAtSec: row.createdAt ?? 0,
  type: row.type ?? 0,
  content: row.content ?? '',
  username: row.username ?? '',
  apiKeyName: row.tokenName ?? '',
  modelName: row.modelName ?? '',
  quota: row.quota ?? 0,
  promptTokens: row.promptTokens ?? 0,
  completionTokens: row.completionTokens ?? 0,
  useTimeSec: row.useTime ?? 0,
  isStream: row.isStream ?? false,
  channelId: row.channelId ?? 0,
  channelName: channelNames.get(row.channelId ?? 0) ?? '',
  apiKeyId: row.tokenId ?? 0,
  group: row.group ?? '',
  ip: row.ip ?? '',
  requestId: row.requestId ?? '',
  upstreamRequestId: row.upstreamRequestId ?? '',
  other: row.other ?? '',
})
