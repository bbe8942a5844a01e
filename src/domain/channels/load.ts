/** Loads channels from the database into what calls are routed by: all of them, or those that changed. */
import { asc, gt, inArray, type SQL } from 'drizzle-orm'
import { type Db, readTopicChanges, readTopicVersion } from '../../db/index.ts'
import type { Log } from '../../lib/log.ts'
import { isSealed } from '../../lib/sealed-text.ts'
import type { Provider } from '../../provider/provider.ts'
import type { Member } from './candidates.ts'
import { type ChannelRow, commaList, groupList, parseChannel } from './channel.ts'
import type { StoredKeys } from './keys-at-rest.ts'

export interface ProviderList {
  find(id: number): Provider | undefined
}

/** The columns that routing needs: not those that change with every call. */
const columns = ({ channels: t }: Db['tables']) => ({
  id: t.id,
  type: t.type,
  key: t.key,
  openAiOrganization: t.openAiOrganization,
  testModel: t.testModel,
  status: t.status,
  name: t.name,
  weight: t.weight,
  createdTime: t.createdTime,
  baseUrl: t.baseUrl,
  other: t.other,
  models: t.models,
  group: t.group,
  modelMapping: t.modelMapping,
  statusCodeMapping: t.statusCodeMapping,
  priority: t.priority,
  autoBan: t.autoBan,
  tag: t.tag,
  setting: t.setting,
  paramOverride: t.paramOverride,
  headerOverride: t.headerOverride,
  channelInfo: t.channelInfo,
  settings: t.settings,
})

interface Parsed {
  readonly row: ChannelRow
  readonly member: Member
}

/** A channel that is new, another than before, or gone. */
export interface Change {
  readonly before?: Member | undefined
  readonly after?: Member | undefined
}

/** The topic of the rows. */
export const CHANNELS_TOPIC = 'channels'
/** A thousand rows are worked on in some 10 ms, between which calls have their turn. */
const PAGE_ROWS = 1_000

/**
 * Rows that did not change since the last load keep their parsed form. With thousands of channels an edit of one would
 * else cost every node a tenth of a second; all rows are read now and then, for what others than us have written.
 * The abilities table is not read: it is derived from these rows, and may be behind them.
 * @returns a function that loads what changed since it was called before, at first and if `isFull` by reading everything
 */
export const createLoader = (deps: {
  readonly db: Db
  readonly providers: ProviderList
  readonly keys: StoredKeys
  readonly log: Log
}): ((isFull: boolean) => Promise<readonly Change[]>) => {
  const { db, providers, keys, log } = deps
  const { channels } = db.tables
  const known = new Map<number, Parsed>()
  const lists = createSharedLists()
  const names = Object.keys(columns(db.tables)) as (keyof ChannelRow)[]
  const isSameRow = (a: ChannelRow, b: ChannelRow): boolean => names.every((name) => a[name] === b[name])
  /** The version of the topic that `known` has in it. */
  let at: number | undefined

  const parse = (read: ChannelRow): Parsed => {
    const { text, list } = lists.of(read.models)
    const row = { ...read, models: read.models === null ? null : text }
    return { row, member: parseMember({ ...row, key: keys.open(row.key) }, list, providers, log) }
  }
  const read = (where?: SQL, limit = Number.MAX_SAFE_INTEGER): Promise<readonly ChannelRow[]> =>
    db.select(columns(db.tables)).from(channels).where(where).orderBy(asc(channels.id)).limit(limit)

  const readAll = async (): Promise<ReadonlyMap<number, ChannelRow>> => {
    const all = new Map<number, ChannelRow>()
    for (let last = 0; ; ) {
      const rows = await read(gt(channels.id, last), PAGE_ROWS)
      for (const row of rows) all.set(row.id, row)
      if (rows.length < PAGE_ROWS) return all
      last = rows.at(-1)?.id ?? 0
    }
  }

  return async (isFull) => {
    const version = await readTopicVersion(db, CHANNELS_TOPIC)
    const named =
      isFull || at === undefined ? undefined : await readTopicChanges(db, CHANNELS_TOPIC, { after: at, upTo: version })
    const rows = named
      ? new Map(named.length === 0 ? [] : (await read(inArray(channels.id, [...named]))).map((row) => [row.id, row]))
      : await readAll()
    const fresh = [...rows.values()].flatMap((row) => {
      const before = known.get(row.id)
      return before && isSameRow(before.row, row) ? [] : [{ before: before?.member, after: parse(row) }]
    })
    const gone = [...(named ?? known.keys())].flatMap((id) => (rows.has(id) ? [] : (known.get(id) ?? [])))
    for (const { after } of fresh) known.set(after.row.id, after)
    for (const { row } of gone) known.delete(row.id)
    at = version
    return [
      ...fresh.map(({ before, after }) => ({ before, after: after.member })),
      ...gone.map(({ member }) => ({ before: member })),
    ]
  }
}

const MOST_LISTS = 10_000

/** Many channels have one list of models, which is long: it is kept once. */
const createSharedLists = () => {
  const known = new Map<string, { readonly text: string; readonly list: readonly string[] }>()
  return {
    of(text: string | null) {
      const shared = known.get(text ?? '')
      if (shared) return shared
      if (known.size === MOST_LISTS) known.clear()
      const fresh = { text: text ?? '', list: commaList(text) }
      known.set(fresh.text, fresh)
      return fresh
    },
  }
}

const parseMember = (row: ChannelRow, models: readonly string[], providers: ProviderList, log: Log): Member => {
  const provider = providers.find(row.type ?? 0)
  const unusable = (unusableReason: string): Member => ({
    id: row.id,
    groups: groupList(row.group),
    models,
    unusableReason,
  })
  if (!provider) return unusable(`channels of type ${row.type ?? 0} are not supported`)
  if (isSealed(row.key)) {
    log.error('the key of a channel is encrypted with a CRYPTO_SECRET that this node does not have', {
      channelId: row.id,
    })
    return unusable('its key is encrypted with a CRYPTO_SECRET that this node does not have')
  }
  try {
    const warn = (column: string): void =>
      log.warn('a column of a channel cannot be read', { channelId: row.id, column })
    return parseChannel(row, provider, warn, models)
  } catch (error) {
    log.warn('a channel cannot be read', { channelId: row.id, error })
    return unusable('its row cannot be read')
  }
}
