/** Channels on the wire: the shapes of requests and replies, and the view of a row. Keys are never part of it. */
import { type Static, t } from 'elysia'
import { type ChannelRow, readChannelInfo } from '../domain/channels/index.ts'

const nullableText = t.Nullable(t.String())
const texts = t.Nullable(t.Record(t.String(), t.String()))
const numbers = t.Nullable(t.Record(t.String(), t.Integer()))

export const channelJson = t.Object({
  id: t.Integer(),
  type: t.Integer({ description: 'Id of the provider' }),
  key: t.Literal('', { description: 'Always empty: keys are written, not read' }),
  openai_organization: nullableText,
  test_model: nullableText,
  status: t.Integer({ description: '1 enabled, 2 disabled by hand, 3 disabled automatically' }),
  name: t.String(),
  weight: t.Integer(),
  created_time: t.Integer(),
  test_time: t.Integer(),
  response_time: t.Integer({ description: 'Milliseconds of the last test' }),
  base_url: t.String(),
  other: t.String(),
  balance: t.Number(),
  balance_updated_time: t.Integer(),
  models: t.String({ description: 'Separated by commas' }),
  group: t.String({ description: 'Separated by commas' }),
  used_quota: t.Integer(),
  model_mapping: nullableText,
  status_code_mapping: t.String(),
  priority: t.Integer(),
  auto_ban: t.Integer(),
  other_info: t.String(),
  tag: nullableText,
  setting: nullableText,
  param_override: nullableText,
  header_override: nullableText,
  remark: nullableText,
  channel_info: t.Object({
    is_multi_key: t.Boolean(),
    multi_key_size: t.Integer(),
    multi_key_status_list: numbers,
    multi_key_disabled_reason: t.Optional(texts),
    multi_key_disabled_time: t.Optional(numbers),
    multi_key_polling_index: t.Integer(),
    multi_key_mode: t.String(),
  }),
  settings: t.String(),
})
export type ChannelJson = Static<typeof channelJson>

/** @param isInList reasons and times of disabled keys are left out */
export const channelView = (row: ChannelRow, isInList = false): ChannelJson => ({
  id: row.id,
  type: row.type ?? 0,
  key: '',
  openai_organization: row.openAiOrganization,
  test_model: row.testModel,
  status: row.status ?? 0,
  name: row.name ?? '',
  weight: row.weight ?? 0,
  created_time: row.createdTime ?? 0,
  test_time: row.testTime ?? 0,
  response_time: row.responseTime ?? 0,
  base_url: row.baseUrl ?? '',
  other: row.other ?? '',
  balance: row.balance ?? 0,
  balance_updated_time: row.balanceUpdatedTime ?? 0,
  models: row.models ?? '',
  group: row.group ?? '',
  used_quota: row.usedQuota ?? 0,
  model_mapping: row.modelMapping,
  status_code_mapping: row.statusCodeMapping ?? '',
  priority: row.priority ?? 0,
  auto_ban: row.autoBan ?? 0,
  other_info: row.otherInfo ?? '',
  tag: row.tag,
  setting: row.setting,
  param_override: row.paramOverride,
  header_override: row.headerOverride,
  remark: row.remark,
  channel_info: infoView(row.channelInfo, isInList),
  settings: row.settings ?? '',
})

const infoView = (stored: unknown, isInList: boolean): ChannelJson['channel_info'] => {
  const info = readChannelInfo(stored)
  return {
    is_multi_key: info.is_multi_key,
    multi_key_size: info.multi_key_size,
    multi_key_status_list: info.multi_key_status_list,
    ...(!isInList && info.multi_key_disabled_reason && { multi_key_disabled_reason: info.multi_key_disabled_reason }),
    ...(!isInList && info.multi_key_disabled_time && { multi_key_disabled_time: info.multi_key_disabled_time }),
    multi_key_polling_index: info.multi_key_polling_index,
    multi_key_mode: info.multi_key_mode,
  }
}

const optionalText = t.Optional(t.String())
const optionalNullableText = t.Optional(nullableText)
const optionalNumber = t.Optional(t.Nullable(t.Integer()))

const channelFields = {
  type: t.Optional(t.Integer({ description: 'Id of the provider' })),
  key: t.Optional(t.String({ description: 'One key, or a line each' })),
  openai_organization: optionalNullableText,
  test_model: optionalNullableText,
  name: optionalText,
  weight: optionalNumber,
  base_url: optionalNullableText,
  other: optionalText,
  models: optionalText,
  group: optionalText,
  model_mapping: optionalNullableText,
  status_code_mapping: optionalNullableText,
  priority: optionalNumber,
  auto_ban: optionalNumber,
  tag: optionalNullableText,
  setting: optionalNullableText,
  param_override: optionalNullableText,
  header_override: optionalNullableText,
  remark: optionalNullableText,
  settings: optionalText,
}

export const createBody = t.Object({
  mode: t.Optional(t.String({ description: 'single (default), batch, multi_to_single' })),
  multi_key_mode: optionalText,
  batch_add_set_key_prefix_2_name: t.Optional(t.Boolean()),
  channel: t.Object({ ...channelFields, status: t.Optional(t.Integer()) }),
})

/** Names that are not known are kept here, so that they can be refused where the caller may not send them. */
export const updateBody = t.Object(
  { id: t.Integer({ minimum: 1 }), ...channelFields, key_mode: optionalText, multi_key_mode: optionalText },
  { additionalProperties: true },
)

export const tagBody = t.Object({
  tag: t.String(),
  new_tag: optionalNullableText,
  priority: optionalNumber,
  weight: optionalNumber,
  model_mapping: optionalNullableText,
  models: optionalNullableText,
  groups: optionalNullableText,
  param_override: optionalNullableText,
  header_override: optionalNullableText,
})

export const listQuery = {
  group: optionalText,
  status: t.Optional(t.String({ description: 'enabled or 1, disabled or 0, else all' })),
  type: optionalText,
  id_sort: optionalText,
  sort_by: optionalText,
  sort_order: optionalText,
  tag_mode: t.Optional(t.String({ description: 'true: a page counts tags' })),
}
