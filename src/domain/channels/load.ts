/** Loads all channels from the database into what calls are routed by. */
import type { Db } from '../../db/index.ts'
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

/**
 * Rows that did not change since the last load keep their parsed form, so a reload costs little more than its query.
 * The abilities table is not read: it is derived from these rows, and may be behind them.
 */
export const createLoader = (deps: {
  readonly db: Db
  readonly providers: ProviderList
  readonly keys: StoredKeys
  readonly log: Log
}): (() => Promise<readonly Member[]>) => {
  const { db, providers, keys, log } = deps
  let known: ReadonlyMap<number, Parsed> = new Map()
  return async () => {
    const rows: readonly ChannelRow[] = await db.select(columns(db.tables)).from(db.tables.channels)
    const parsed = rows.map((row) => {
      const before = known.get(row.id)
      return before && isSameRow(before.row, row)
        ? before
        : { row, member: parseMember({ ...row, key: keys.open(row.key) }, providers, log) }
    })
    known = new Map(parsed.map((each) => [each.row.id, each]))
    return parsed.map(({ member }) => member)
  }
}

const isSameRow = (a: ChannelRow, b: ChannelRow): boolean =>
  (Object.keys(a) as (keyof ChannelRow)[]).every((column) => a[column] === b[column])

const parseMember = (row: ChannelRow, providers: ProviderList, log: Log): Member => {
  const provider = providers.find(row.type ?? 0)
  const unusable = (unusableReason: string): Member => ({
    id: row.id,
    groups: groupList(row.group),
    models: commaList(row.models),
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
    return parseChannel(row, provider, (column) =>
      log.warn('a column of a channel cannot be read', { channelId: row.id, column }),
    )
  } catch (error) {
    log.warn('a channel cannot be read', { channelId: row.id, error })
    return unusable('its row cannot be read')
  }
}
