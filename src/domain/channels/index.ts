/** Channels: which upstream accounts may serve a model, in which order, with which key. Nothing reaches past this file. */
export type { Candidates, CandidatesQuery, LeftOut } from './candidates.ts'
export type { Channel, ChannelSetting, ChannelSettings, MultiKey } from './channel.ts'
export { CHANNEL_STATUS, upstreamChannel } from './channel.ts'
export { readChannelInfo } from './channel-info.ts'
export {
  type Channels,
  type ChannelsDeps,
  createChannels,
  type ModelListQuery,
  type Tester,
  type TestQuery,
  type TestResult,
} from './channels.ts'
export type { CreateInput } from './create.ts'
export { FIELD_FILTERS, type FieldFilter, filteredFields } from './field-filters.ts'
export {
  applyHeaderEdits,
  type HeaderEdits,
  type HeaderOverrideContext,
  resolveHeaderOverride,
} from './header-override.ts'
export type { ChosenKey } from './key-choice.ts'
export { beginKeysAtRest, type KeysState, lockedKeys, readKeysState } from './keys-at-rest.ts'
export { type ChannelFilter, type ChannelList, SORT_FIELDS, type SortField } from './list.ts'
export { mappedStatus } from './mapping.ts'
export { normaliseModel } from './model-name.ts'
export { applyParamOverride, type Overridden, type OverrideContext } from './param-override.ts'
export { type RetryQuestion, shouldRetry } from './retry.ts'
export { discardUnreadable, type KeysReport, type RewriteResult, reportKeys, rewriteKeys } from './rewrite-keys.ts'
export type { Row as ChannelRow } from './rows.ts'
export type { KeyAction, KeyPage } from './status.ts'
export { applySystemPrompt } from './system-prompt.ts'
export { createTestChannels, type TestChannels, type TestProgress } from './test-all.ts'
export type { TagInput, UpdateInput } from './update.ts'
