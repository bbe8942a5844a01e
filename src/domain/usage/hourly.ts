/** Reads the hourly sums behind the dashboard. One logical row may be stored in several parts, so everything is summed. */
import { and, desc, eq, gte, inArray, lte, type SQL, sql } from 'drizzle-orm'
import type { MySqlColumn } from 'drizzle-orm/mysql-core'
import type { Db } from '../../db/index.ts'

/** Unix seconds, inclusive; 0 is open. */
export interface HourlyFilter {
  readonly fromSec: number
  readonly toSec: number
  readonly userId?: number
  /** Empty: all. */
  readonly username?: string
}

export interface UsageSums {
  readonly count: number
  readonly quota: number
  readonly tokenUsed: number
}
export interface ModelHour extends UsageSums {
  readonly modelName: string
  /** Unix seconds, start of the hour. */
  readonly createdAtSec: number
  /** 0 and empty where sums run over all users. */
  readonly userId: number
  readonly username: string
}
export interface UserHour extends UsageSums {
  readonly username: string
  readonly createdAtSec: number
}
/** Where quota went: from whom, by which key and group, to which model and channel. */
export interface Flow extends UsageSums {
  readonly userId: number
  readonly username: string
  readonly useGroup: string
  readonly modelName: string
  readonly channelId: number
  readonly channelName: string
  readonly nodeName: string
  readonly apiKeyId: number
  readonly apiKeyName: string
}

/** By what a flow is told apart; the rest of its fields stay empty. */
export type FlowDimension = 'user' | 'group' | 'model' | 'channel' | 'node' | 'apiKey'

export interface HourlyReads {
  byModel(filter: HourlyFilter): Promise<readonly ModelHour[]>
  byUser(filter: HourlyFilter): Promise<readonly UserHour[]>
  /** Ordered by quota, the largest first. */
  flows(filter: HourlyFilter, dimensions: readonly FlowDimension[]): Promise<readonly Flow[]>
}

export function createHourlyReads(deps: { readonly db: Db }): HourlyReads {
  const { db } = deps
  const { quotaData: data } = db.tables

  const where = (filter: HourlyFilter): SQL | undefined =>
    and(
      filter.fromSec > 0 ? gte(data.createdAt, filter.fromSec) : undefined,
      filter.toSec > 0 ? lte(data.createdAt, filter.toSec) : undefined,
      filter.userId === undefined ? undefined : eq(data.userId, filter.userId),
      filter.username ? eq(data.username, filter.username) : undefined,
    )
  const sums = { count: total(data.count), quota: total(data.quota), tokenUsed: total(data.tokenUsed) }

  const names = async (table: 'channels' | 'tokens', ids: readonly number[]): Promise<ReadonlyMap<number, string>> => {
    const source = db.tables[table]
    const wanted = [...new Set(ids)].filter((id) => id > 0)
    if (wanted.length === 0) return new Map()
    const rows = await db.select({ id: source.id, name: source.name }).from(source).where(inArray(source.id, wanted))
    return new Map(rows.map(({ id, name }) => [id, name ?? '']))
  }

  return {
    async byModel(filter) {
      const isOneUser = filter.userId !== undefined || Boolean(filter.username)
      const rows = await db
        .select({
          modelName: data.modelName,
          createdAt: data.createdAt,
          userId: max(data.userId),
          username: max(data.username),
          ...sums,
        })
        .from(data)
        .where(where(filter))
        .groupBy(data.modelName, data.createdAt)
      return rows.map((row) => ({
        ...sumsOf(row),
        modelName: row.modelName ?? '',
        createdAtSec: row.createdAt ?? 0,
        userId: isOneUser ? Number(row.userId ?? 0) : 0,
        username: isOneUser ? String(row.username ?? '') : '',
      }))
    },
    async byUser(filter) {
      const rows = await db
        .select({ username: data.username, createdAt: data.createdAt, ...sums })
        .from(data)
        .where(where(filter))
        .groupBy(data.username, data.createdAt)
      return rows.map((row) => ({ ...sumsOf(row), username: row.username ?? '', createdAtSec: row.createdAt ?? 0 }))
    },
    async flows(filter, dimensions) {
      const columns: Readonly<Record<FlowDimension, readonly MySqlColumn[]>> = {
        user: [data.userId, data.username],
        group: [data.useGroup],
        model: [data.modelName],
        channel: [data.channelId],
        node: [data.nodeName],
        apiKey: [data.tokenId],
      }
      const rows = await db
        .select({
          userId: max(data.userId),
          username: max(data.username),
          useGroup: max(data.useGroup),
          modelName: max(data.modelName),
          channelId: max(data.channelId),
          nodeName: max(data.nodeName),
          apiKeyId: max(data.tokenId),
          ...sums,
        })
        .from(data)
        .where(where(filter))
        .groupBy(...dimensions.flatMap((dimension) => columns[dimension]))
        .orderBy(desc(sums.quota))
      const has = (dimension: FlowDimension): boolean => dimensions.includes(dimension)
      const [channels, apiKeys] = await Promise.all([
        names('channels', has('channel') ? rows.map((row) => Number(row.channelId)) : []),
        names('tokens', has('apiKey') ? rows.map((row) => Number(row.apiKeyId)) : []),
      ])
      return rows.map((row) => ({
        ...sumsOf(row),
        userId: has('user') ? Number(row.userId ?? 0) : 0,
        username: has('user') ? String(row.username ?? '') : '',
        useGroup: has('group') ? String(row.useGroup ?? '') : '',
        modelName: has('model') ? String(row.modelName ?? '') : '',
        channelId: has('channel') ? Number(row.channelId ?? 0) : 0,
        channelName: channels.get(Number(row.channelId)) ?? '',
        nodeName: has('node') ? String(row.nodeName ?? '') : '',
        apiKeyId: has('apiKey') ? Number(row.apiKeyId ?? 0) : 0,
        apiKeyName: apiKeys.get(Number(row.apiKeyId)) ?? '',
      }))
    },
  }
}

/** Big sums come as texts from one engine. */
const total = (column: MySqlColumn) => sql`coalesce(sum(${column}), 0)`.mapWith(Number)

/** A column that is the same in all rows of a group, or is not shown. */
const max = (column: MySqlColumn) => sql<unknown>`max(${column})`

const sumsOf = ({ count, quota, tokenUsed }: UsageSums): UsageSums => ({ count, quota, tokenUsed })
