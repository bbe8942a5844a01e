/**
 * The hourly usage (quota_data) of a batch: which row each charge belongs to. Remembers the ids of this hour's rows, so
 * that a flush finds them by primary key and locks nothing else. What is met for the first time is a new row: with
 * thousands of channels most of it never comes again, and to look for each would read the whole hour with every flush.
 */
import { and, asc, eq, inArray } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { type Charge, cutText } from './charge.ts'
import { clampQuota } from './quota.ts'

export type UsageRow = Omit<Db['tables']['quotaData']['$inferInsert'], 'id'> & {
  readonly createdAt: number
  readonly userId: number
}

type Sum = UsageRow & { count: number; quota: number; tokenUsed: number }

/** What a batch adds to quota_data, as rows of it. */
export interface LocatedUsage {
  /** Added to the row of that id; in order of ids. */
  readonly known: readonly (UsageRow & { readonly id: number })[]
  readonly fresh: readonly UsageRow[]
}

const HOUR_SEC = 3_600
/** The names of quota_data are narrower than those of the log. */
const WIDTH = 64
const MAX_KNOWN = 20_000

const keyOf = (row: UsageRow): string =>
  JSON.stringify([
    row.createdAt,
    row.userId,
    row.tokenId,
    row.channelId,
    row.username,
    row.modelName,
    row.useGroup,
    row.nodeName,
  ])

export type UsageRows = ReturnType<typeof createUsageRows>

export function createUsageRows({ db }: { readonly db: Db }) {
  const { quotaData } = db.tables
  let ids = new Map<string, number>()
  /** Met before, so that there is a row, of which the id is not known. */
  let met = new Set<string>()

  /** Looks up rows by what they are of; several of one key: the first. Nothing is locked: a wrong guess only doubles a row. */
  const lookUp = async (rows: readonly UsageRow[]): Promise<void> => {
    const found = await db
      .select()
      .from(quotaData)
      .where(
        and(
          inArray(quotaData.createdAt, [...new Set(rows.map((row) => row.createdAt))]),
          inArray(quotaData.userId, [...new Set(rows.map((row) => row.userId))]),
          inArray(quotaData.tokenId, [...new Set(rows.map((row) => row.tokenId ?? 0))]),
          inArray(quotaData.channelId, [...new Set(rows.map((row) => row.channelId ?? 0))]),
          eq(quotaData.nodeName, rows[0]?.nodeName ?? ''),
        ),
      )
      .orderBy(asc(quotaData.id))
    if (ids.size > MAX_KNOWN) ids = new Map()
    for (const { id, ...row } of found) {
      if (row.createdAt === null || row.userId === null) continue
      const key = keyOf({ ...row, createdAt: row.createdAt, userId: row.userId })
      if (!ids.has(key)) ids.set(key, id)
    }
  }

  return {
    /** @param clean applied to the texts. @throws DbError */
    async locate(charges: readonly Charge[], clean: (text: string) => string): Promise<LocatedUsage> {
      const totals = sumUsage(charges, clean)
      const wanted = [...totals].filter(([key]) => !ids.has(key) && met.has(key)).map(([, row]) => row)
      for (const node of new Set(wanted.map((row) => row.nodeName)))
        await lookUp(wanted.filter((row) => row.nodeName === node))
      if (met.size > MAX_KNOWN) met = new Set()
      const known: (UsageRow & { readonly id: number })[] = []
      const fresh: UsageRow[] = []
      for (const [key, row] of totals) {
        const id = ids.get(key)
        if (id === undefined) {
          fresh.push(row)
          met.add(key)
        } else known.push({ ...row, id })
      }
      return { known: known.sort((a, b) => a.id - b.id), fresh }
    },
    /** Rows may have been removed: look again. */
    forget(): void {
      for (const key of ids.keys()) met.add(key)
      ids = new Map()
    },
  }
}

function sumUsage(charges: readonly Charge[], clean: (text: string) => string): Map<string, UsageRow> {
  const totals = new Map<string, Sum>()
  for (const charge of charges) {
    if (!charge.isCounted || charge.isExported === false) continue
    const row: Sum = {
      userId: charge.userId,
      username: cutText(clean(charge.username), WIDTH),
      modelName: cutText(clean(charge.modelName), WIDTH),
      createdAt: charge.createdAtSec - (charge.createdAtSec % HOUR_SEC),
      useGroup: cutText(clean(charge.group), WIDTH),
      tokenId: charge.apiKeyId,
      channelId: charge.channelId,
      nodeName: cutText(clean(charge.node), WIDTH),
      count: 0,
      quota: 0,
      tokenUsed: 0,
    }
    const key = keyOf(row)
    const total = totals.get(key) ?? row
    if (total === row) totals.set(key, row)
    total.count++
    total.quota = clampQuota(total.quota + charge.quota)
    total.tokenUsed = clampQuota(total.tokenUsed + charge.promptTokens + charge.completionTokens)
  }
  return totals
}
