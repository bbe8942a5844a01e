/** What people write into a channel: the fields by their names on the wire, and what is checked before they are stored. */
import { GatewayError } from '../../errors.ts'
import { isRecord } from './channel.ts'
import { resolveHeaderOverride } from './header-override.ts'
import type { RowPatch } from './rows.ts'

/** Fields of a channel on the wire. JSON columns are texts. */
export interface ChannelInput {
  readonly type?: number | undefined
  readonly key?: string | undefined
  readonly openai_organization?: string | null | undefined
  readonly test_model?: string | null | undefined
  readonly name?: string | undefined
  readonly weight?: number | null | undefined
  readonly base_url?: string | null | undefined
  readonly other?: string | undefined
  readonly models?: string | undefined
  readonly group?: string | undefined
  readonly model_mapping?: string | null | undefined
  readonly status_code_mapping?: string | null | undefined
  readonly priority?: number | null | undefined
  readonly auto_ban?: number | null | undefined
  readonly tag?: string | null | undefined
  readonly setting?: string | null | undefined
  readonly param_override?: string | null | undefined
  readonly header_override?: string | null | undefined
  readonly remark?: string | null | undefined
  readonly settings?: string | undefined
}
export type FieldName = keyof ChannelInput

/** Field → column. The key is not here: it is written in one place of its own. */
const COLUMNS = {
  type: 'type',
  openai_organization: 'openAiOrganization',
  test_model: 'testModel',
  name: 'name',
  weight: 'weight',
  base_url: 'baseUrl',
  other: 'other',
  models: 'models',
  group: 'group',
  model_mapping: 'modelMapping',
  status_code_mapping: 'statusCodeMapping',
  priority: 'priority',
  auto_ban: 'autoBan',
  tag: 'tag',
  setting: 'setting',
  param_override: 'paramOverride',
  header_override: 'headerOverride',
  remark: 'remark',
  settings: 'settings',
} as const satisfies Partial<Record<FieldName, keyof RowPatch>>
export type ColumnField = keyof typeof COLUMNS

export const columnOf = (field: ColumnField): (typeof COLUMNS)[ColumnField] => COLUMNS[field]
export const COLUMN_FIELDS = Object.keys(COLUMNS) as readonly ColumnField[]

/** A zero value of these says nothing in an update: the field is left as it is. The others may be emptied. */
export const KEPT_WHEN_EMPTY: ReadonlySet<FieldName> = new Set(['type', 'name', 'models', 'group', 'other', 'settings'])

/** May send calls, and so keys, elsewhere, or change what they cost. */
export const SENSITIVE_FIELDS: ReadonlySet<string> = new Set([
  'type',
  'key',
  'base_url',
  'openai_organization',
  'header_override',
  'param_override',
  'setting',
  'other',
  'settings',
  'key_mode',
])

/** Longest text of the column, in characters. */
const LIMITS: readonly (readonly [FieldName, number])[] = [
  ['name', 191],
  ['base_url', 191],
  ['group', 64],
  ['tag', 191],
  ['remark', 255],
  ['status_code_mapping', 1024],
]
/** Bytes of a `text` column. */
const MAX_TEXT_BYTES = 65_535
const TEXT_COLUMNS: readonly FieldName[] = ['model_mapping', 'setting', 'param_override', 'header_override']
const MAX_MODEL_LENGTH = 255
const JSON_OBJECTS: readonly FieldName[] = [
  'model_mapping',
  'status_code_mapping',
  'setting',
  'settings',
  'param_override',
  'header_override',
]

const invalid = (field: string, reason: string): GatewayError =>
  new GatewayError('channel_field_invalid', { params: { field, reason } })

/** @throws GatewayError with the first field that cannot be stored or would break every call */
export const checkInput = (input: ChannelInput): void => {
  for (const [field, max] of LIMITS) {
    if (String(input[field] ?? '').length > max)
      throw new GatewayError('channel_field_too_long', { params: { field, max } })
  }
  for (const field of TEXT_COLUMNS) {
    if (Buffer.byteLength(String(input[field] ?? '')) > MAX_TEXT_BYTES)
      throw invalid(field, `more than ${MAX_TEXT_BYTES} bytes`)
  }
  const longest = Math.max(0, ...(input.models ?? '').split(',').map((model) => model.length))
  if (longest > MAX_MODEL_LENGTH) {
    throw new GatewayError('channel_field_too_long', { params: { field: 'models', max: MAX_MODEL_LENGTH } })
  }
  for (const field of ['weight', 'priority', 'auto_ban', 'type'] as const) {
    const value = input[field] ?? 0
    if (!Number.isSafeInteger(value)) throw invalid(field, 'not an integer')
    if (field !== 'priority' && value < 0) throw invalid(field, 'negative')
  }
  const address = input.base_url?.trim() ?? ''
  if (address !== '' && !isHttpUrl(address)) throw invalid('base_url', 'not an http or https address')
  for (const field of JSON_OBJECTS) readObject(field, input[field])
  checkSetting(readObject('setting', input.setting))
  checkHeaders(readObject('header_override', input.header_override))
}

/** A model's place in the address of a custom channel is no part of the address yet. */
const isHttpUrl = (text: string): boolean => /^https?:\/\//i.test(text) && URL.canParse(text.replaceAll('{model}', 'm'))

/** What would make every call of the channel fail is told to the one who writes it. */
const checkHeaders = (override: Record<string, unknown>): void => {
  try {
    resolveHeaderOverride(override, { apiKey: '', clientHeaders: new Headers(), isChannelTest: true })
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error
    throw invalid('header_override', (error.detail as { readonly reason: string }).reason)
  }
}

/** @throws GatewayError when the text is neither empty nor a JSON object */
const readObject = (field: string, value: unknown): Record<string, unknown> => {
  if (value === undefined || value === null || String(value).trim() === '') return {}
  let json: unknown
  try {
    json = JSON.parse(String(value))
  } catch {
    throw invalid(field, 'not JSON')
  }
  if (json === null) return {}
  if (!isRecord(json)) throw invalid(field, 'not a JSON object')
  return json
}

const checkSetting = (setting: Record<string, unknown>): void => {
  const { proxy = '', http_protocol: protocol = '', http2_connection_shards: shards = 0 } = setting
  if (proxy !== '' && !isProxyUrl(proxy)) throw invalid('setting', 'proxy is no http, https, socks5 or socks5h URL')
  if (!['', 'auto', 'http1'].includes(String(protocol))) throw invalid('setting', 'http_protocol is auto or http1')
  if (typeof shards !== 'number' || shards < 0 || shards > 8)
    throw invalid('setting', 'http2_connection_shards is 0 to 8')
}

const isProxyUrl = (proxy: unknown): boolean => {
  const url = typeof proxy === 'string' ? URL.parse(proxy) : null
  return url !== null && ['http:', 'https:', 'socks5:', 'socks5h:'].includes(url.protocol) && url.hostname !== ''
}

/** The columns of the fields that are given; fields we do not know have none. */
export const toColumns = (input: ChannelInput): RowPatch =>
  Object.fromEntries(
    COLUMN_FIELDS.filter((field) => input[field] !== undefined).map((field) => [COLUMNS[field], input[field]]),
  )
