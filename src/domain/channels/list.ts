/**
 * Lists of channels for people: filtered, sorted, by page or by tag. Filtering is done here over a few columns of all
 * rows: both engines then agree on cases and wildcards, and keys can be searched without being readable to the database.
 */
import { inArray } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { isSealed } from '../../lib/sealed-text.ts'
import { CHANNEL_STATUS, groupList } from './channel.ts'
import { readChannelInfo } from './channel-info.ts'
import { readKeys } from './key-text.ts'
import type { StoredKeys } from './keys-at-rest.ts'
import type { Row } from './rows.ts'

export interface ChannelFilter {
  /** An id, a part of the name or base URL, or a whole key. */
  readonly keyword?: string | undefined
  /** A part of the models. */
  readonly model?: string | undefined
  readonly group?: string | undefined
  readonly status?: 'enabled' | 'disabled' | undefined
  readonly type?: number | undefined
  readonly sort: { readonly by: SortField; readonly isDescending: boolean }
  /** The page counts tags, and shows all channels of each. */
  readonly isByTag: boolean
  readonly offset: number
  readonly limit: number
}

export const SORT_FIELDS = ['id', 'name', 'priority', 'balance', 'response_time', 'test_time'] as const
export type SortField = (typeof SORT_FIELDS)[number]

export interface ChannelList {
  readonly rows: readonly Row[]
  readonly total: number
  /** Channels by type, whatever type is asked for. */
  readonly typeCounts: Readonly<Record<string, number>>
}

export const listChannels = async (db: Db, filter: ChannelFilter, keys: StoredKeys): Promise<ChannelList> => {
  const { channels: t } = db.tables
  const light = {
    id: t.id,
    type: t.type,
    name: t.name,
    status: t.status,
    group: t.group,
    tag: t.tag,
    priority: t.priority,
  }
  const sortable = { balance: t.balance, responseTime: t.responseTime, testTime: t.testTime }
  const searched = { key: t.key, baseUrl: t.baseUrl, models: t.models, channelInfo: t.channelInfo }
  const isSearch = filter.keyword !== undefined || filter.model !== undefined
  const rows: readonly Candidate[] = await db.select({ ...light, ...sortable, ...(isSearch && searched) }).from(t)
  const matching = rows.filter((row) => matches(row, filter, keys))
  const chosen = matching
    .filter((row) => filter.type === undefined || (row.type ?? 0) === filter.type)
    .sort(comparing(filter.sort))
  const { ids, total } = filter.isByTag ? pageOfTags(chosen, filter) : pageOfRows(chosen, filter)
  return { rows: await readInOrder(db, ids), total, typeCounts: countTypes(matching) }
}

type Candidate = Pick<
  Row,
  'id' | 'type' | 'name' | 'status' | 'group' | 'tag' | 'priority' | 'balance' | 'responseTime' | 'testTime'
> &
  Partial<Pick<Row, 'key' | 'baseUrl' | 'models' | 'channelInfo'>>

const contains = (text: string | null | undefined, part: string): boolean =>
  (text ?? '').toLowerCase().includes(part.toLowerCase())

const matches = (row: Candidate, { keyword, model, group, status }: ChannelFilter, keys: StoredKeys): boolean => {
  const isEnabled = row.status === CHANNEL_STATUS.enabled
  if (status !== undefined && isEnabled !== (status === 'enabled')) return false
  if (group !== undefined && !groupList(row.group).includes(group)) return false
  if (model !== undefined && !contains(row.models, model)) return false
  if (keyword === undefined) return true
  return (
    String(row.id) === keyword ||
    contains(row.name, keyword) ||
    contains(row.baseUrl, keyword) ||
    hasKey(row, keyword, keys)
  )
}

const hasKey = (row: Candidate, key: string, keys: StoredKeys): boolean => {
  const text = keys.open(row.key ?? '')
  return !isSealed(text) && readKeys(text, readChannelInfo(row.channelInfo).is_multi_key).includes(key)
}

const VALUES: Readonly<Record<SortField, (row: Candidate) => number | string>> = {
  id: (row) => row.id,
  name: (row) => row.name ?? '',
  priority: (row) => row.priority ?? 0,
  balance: (row) => row.balance ?? 0,
  response_time: (row) => row.responseTime ?? 0,
  test_time: (row) => row.testTime ?? 0,
}

/** Equal ones: the newest first. */
const comparing = ({ by, isDescending }: ChannelFilter['sort']) => {
  const value = VALUES[by]
  return (a: Candidate, b: Candidate): number => {
    const [left, right] = [value(a), value(b)]
    if (left === right) return b.id - a.id
    return left < right === isDescending ? 1 : -1
  }
}

interface IdPage {
  readonly ids: readonly number[]
  readonly total: number
}

const pageOfRows = (rows: readonly Candidate[], { offset, limit }: ChannelFilter): IdPage => ({
  ids: rows.slice(offset, offset + limit).map(({ id }) => id),
  total: rows.length,
})

/** Tags in the order of their first channel; channels without a tag are left out. */
const pageOfTags = (rows: readonly Candidate[], { offset, limit }: ChannelFilter): IdPage => {
  const byTag = Map.groupBy(
    rows.filter(({ tag }) => tag),
    ({ tag }) => tag,
  )
  const page = [...byTag.values()].slice(offset, offset + limit)
  return { ids: page.flat().map(({ id }) => id), total: byTag.size }
}

const readInOrder = async (db: Db, ids: readonly number[]): Promise<readonly Row[]> => {
  if (ids.length === 0) return []
  const { channels } = db.tables
  const rows = await db
    .select()
    .from(channels)
    .where(inArray(channels.id, [...ids]))
  const byId = new Map(rows.map((row) => [row.id, row]))
  return ids.flatMap((id) => byId.get(id) ?? [])
}

const countTypes = (rows: readonly Candidate[]): Readonly<Record<string, number>> => {
  const counts: Record<string, number> = {}
  for (const { type } of rows) counts[type ?? 0] = (counts[type ?? 0] ?? 0) + 1
  return counts
}
