/**
 * A channel as the relay sees it: one row of `channels`, parsed once per reload and never changed. A damaged column costs
 * what it holds (with a warning), never the channel, and a damaged row never the others.
 */
import type { Provider, UpstreamChannel } from '../../provider/provider.ts'
import { readKeys } from './key-text.ts'

/** `channels.status`. 2 is a decision of a person and is undone by a person only. */
export const CHANNEL_STATUS = { unknown: 0, enabled: 1, disabledByHand: 2, disabledAutomatically: 3 } as const

/** Column `setting`. */
export interface ChannelSetting {
  readonly force_format?: boolean
  readonly thinking_to_content?: boolean
  /** http, https, socks5 or socks5h URL for upstream calls; empty for what holds for all. SOCKS5 proxies find names themselves. */
  readonly proxy?: string
  readonly pass_through_body_enabled?: boolean
  readonly system_prompt?: string
  readonly system_prompt_override?: boolean
  readonly http_protocol?: string
  readonly http2_connection_shards?: number
  /** Reads an abandoned call to its end and bills it in full. Ours; absent in databases of other systems. */
  readonly drain?: boolean
}

/** Column `settings`. */
export interface ChannelSettings {
  readonly azure_responses_version?: string
  readonly openrouter_enterprise?: boolean
  readonly claude_beta_query?: boolean
  readonly allow_service_tier?: boolean
  readonly allow_inference_geo?: boolean
  readonly allow_speed?: boolean
  readonly allow_safety_identifier?: boolean
  readonly allow_include_obfuscation?: boolean
  readonly disable_store?: boolean
  readonly [name: string]: unknown
}

/** Column `channel_info` of a channel with several keys. */
export interface MultiKey {
  readonly mode: 'random' | 'polling'
  /** Where the rotation stood when the row was written. */
  readonly pollingIndex: number
  /** Index → status of the keys that are not enabled. */
  readonly statuses: ReadonlyMap<number, number>
}

export interface Channel {
  readonly id: number
  /** `channels.type`, the id of the provider. */
  readonly type: number
  readonly provider: Provider
  readonly name: string
  readonly status: number
  /** No trailing slash; the provider's default when the operator gave none. */
  readonly baseUrl: string
  readonly keys: readonly string[]
  readonly organization: string
  readonly other: string
  readonly groups: readonly string[]
  readonly models: readonly string[]
  readonly modelMapping: ReadonlyMap<string, string>
  /** The text of the mapping could not be read: calls must fail rather than go out under a wrong name. */
  readonly isModelMappingDamaged: boolean
  readonly statusMapping: ReadonlyMap<number, number>
  readonly priority: number
  readonly weight: number
  readonly isAutoBan: boolean
  /** JSON of the column; a text that is no JSON stays a string, which applying it refuses. */
  readonly paramOverride?: unknown
  readonly headerOverride?: unknown
  readonly setting: ChannelSetting
  readonly settings: ChannelSettings
  readonly multiKey?: MultiKey
  readonly createdAtSec: number
  readonly tag: string
  readonly testModel: string
}

/** The columns that a channel is parsed from. */
export interface ChannelRow {
  readonly id: number
  readonly type: number | null
  readonly key: string
  readonly openAiOrganization: string | null
  readonly testModel: string | null
  readonly status: number | null
  readonly name: string | null
  readonly weight: number | null
  readonly createdTime: number | null
  readonly baseUrl: string | null
  readonly other: string | null
  readonly models: string | null
  readonly group: string | null
  readonly modelMapping: string | null
  readonly statusCodeMapping: string | null
  readonly priority: number | null
  readonly autoBan: number | null
  readonly tag: string | null
  readonly setting: string | null
  readonly paramOverride: string | null
  readonly headerOverride: string | null
  readonly channelInfo: unknown
  readonly settings: string | null
}

/** What a provider may see of a channel, with the key of this attempt. */
export const upstreamChannel = (channel: Channel, key: string): UpstreamChannel => ({
  id: channel.id,
  baseUrl: channel.baseUrl,
  key,
  other: channel.other,
  organization: channel.organization,
  createdAtSec: channel.createdAtSec,
  settings: channel.settings,
})

type Warn = (column: string) => void

/**
 * @param warn is told the name of each column whose text cannot be read
 * @param provider of the row's type
 * @param models of the row, where they are known
 */
export const parseChannel = (
  row: ChannelRow,
  provider: Provider,
  warn: Warn,
  models: readonly string[] = commaList(row.models),
): Channel => {
  const multiKey = parseMultiKey(row.channelInfo, warn)
  const mapping = parseJson(row.modelMapping, 'model_mapping', warn)
  const isMappingObject = mapping === undefined || isRecord(mapping)
  if (!isMappingObject) warn('model_mapping')
  return {
    id: row.id,
    type: row.type ?? 0,
    provider,
    name: row.name ?? '',
    status: row.status ?? CHANNEL_STATUS.unknown,
    baseUrl: (row.baseUrl || provider.baseUrl).trim().replace(/\/+$/, ''),
    keys: readKeys(row.key, multiKey !== undefined),
    organization: row.openAiOrganization ?? '',
    other: row.other ?? '',
    groups: groupList(row.group),
    models,
    modelMapping: new Map(textEntries(mapping)),
    isModelMappingDamaged: !isMappingObject,
    statusMapping: parseStatusMapping(row.statusCodeMapping, warn),
    priority: row.priority ?? 0,
    weight: Math.max(0, row.weight ?? 0),
    isAutoBan: (row.autoBan ?? 1) === 1,
    paramOverride: parseOverride(row.paramOverride, 'param_override', warn),
    headerOverride: parseOverride(row.headerOverride, 'header_override', warn),
    setting: parseRecord(row.setting, 'setting', warn),
    settings: parseRecord(row.settings, 'settings', warn),
    ...(multiKey && { multiKey }),
    createdAtSec: row.createdTime ?? 0,
    tag: row.tag ?? '',
    testModel: row.testModel ?? '',
  }
}

/** Splits at commas; blanks are part of a name, as they are in the stored rows. Empty parts and repetitions are dropped. */
export const commaList = (text: string | null): readonly string[] => [
  ...new Set((text ?? '').split(',').filter((part) => part !== '')),
]

/** Groups are trimmed: none has a blank at its ends. */
export const groupList = (text: string | null): readonly string[] => [
  ...new Set(commaList(text).map((group) => group.trim())),
]

export const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** A JSON text, absent when empty; MySQL and SQLite give a JSON column as text, bytes or an object. */
export const parseJson = (value: unknown, column: string, warn: Warn): unknown => {
  if (value === null || value === undefined || value === '') return undefined
  const text = value instanceof Uint8Array ? new TextDecoder().decode(value) : value
  if (typeof text !== 'string') return text
  if (text.trim() === '') return undefined
  try {
    return JSON.parse(text) ?? undefined
  } catch {
    warn(column)
    return text
  }
}

const parseRecord = (value: unknown, column: string, warn: Warn): Record<string, unknown> => {
  const json = parseJson(value, column, warn)
  if (isRecord(json)) return json
  if (json !== undefined && typeof json !== 'string') warn(column)
  return {}
}

/** `{}` and an empty text are no override at all, so that such a channel still forwards bytes. */
const parseOverride = (text: string | null, column: string, warn: Warn): unknown => {
  const json = parseJson(text, column, warn)
  return isRecord(json) && Object.keys(json).length === 0 ? undefined : json
}

const textEntries = (json: unknown): [string, string][] =>
  isRecord(json) ? Object.entries(json).filter((entry): entry is [string, string] => typeof entry[1] === 'string') : []

/** `{"404": "503"}`; values are texts or integers. What is no status is left out. */
const parseStatusMapping = (text: string | null, warn: Warn): ReadonlyMap<number, number> => {
  const entries = Object.entries(parseRecord(text, 'status_code_mapping', warn))
    .map(([from, to]) => [Number(from), Number(to)] as const)
    .filter(([from, to]) => isStatus(from) && isStatus(to))
  return new Map(entries)
}

const isStatus = (status: number): boolean => Number.isInteger(status) && status >= 100 && status <= 599

const parseMultiKey = (value: unknown, warn: Warn): MultiKey | undefined => {
  const info = parseRecord(value, 'channel_info', warn)
  if (info.is_multi_key !== true) return undefined
  const statuses = isRecord(info.multi_key_status_list) ? info.multi_key_status_list : {}
  return {
    mode: info.multi_key_mode === 'polling' ? 'polling' : 'random',
    pollingIndex: typeof info.multi_key_polling_index === 'number' ? info.multi_key_polling_index : 0,
    statuses: new Map(Object.entries(statuses).map(([index, status]) => [Number(index), Number(status)])),
  }
}
