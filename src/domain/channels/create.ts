/** New channels: one, one per key, or one with several keys; and copies of an existing one. */
import type { Db } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import { CHANNEL_STATUS } from './channel.ts'
import { readChannelInfo, SINGLE_KEY, withKeyStates } from './channel-info.ts'
import { type ChannelInput, checkInput, toColumns } from './input.ts'
import { readKeys, writeKeys } from './key-text.ts'
import type { StoredKeys } from './keys-at-rest.ts'
import { insertRow, type Row, readRow } from './rows.ts'

export interface CreateInput {
  /** `single`, `batch` (a channel per line of the key), `multi_to_single` (one channel with all lines). */
  readonly mode: string
  readonly multiKeyMode?: string | undefined
  /** In a batch: the beginning of its key joins each channel's name. */
  readonly isNamedByKey?: boolean | undefined
  readonly channel: ChannelInput & { readonly status?: number | undefined }
}

/** The kinds of channel there are; a base URL of '' must be given by the operator. */
export interface Kinds {
  find(type: number): { readonly baseUrl: string } | undefined
}

const KEY_PREFIX_LENGTH = 8

/**
 * Writes the channels in one transaction.
 * @returns their ids
 * @throws GatewayError of the field that is wrong
 */
export const createRows = async (
  tx: Db,
  input: CreateInput,
  keys: StoredKeys,
  nowSec: number,
): Promise<readonly number[]> => {
  const ids: number[] = []
  for (const row of rowsOf(input, nowSec)) ids.push(await insertRow(tx, { ...row, key: await keys.seal(tx, row.key) }))
  return ids
}

/** @throws GatewayError; called before the transaction, since nothing of it needs the database */
export const checkNew = ({ mode, multiKeyMode, channel }: CreateInput, kinds: Kinds): void => {
  if (!['single', 'batch', 'multi_to_single'].includes(mode))
    throw new GatewayError('channel_mode_unknown', { params: { mode } })
  if (mode === 'multi_to_single') checkMultiKeyMode(multiKeyMode ?? 'random')
  const kind = checkKind(channel.type ?? 0, kinds)
  if (keysOf(mode, channel.key).length === 0) throw new GatewayError('channel_key_required')
  if (!channel.name?.trim()) throw new GatewayError('channel_field_required', { params: { field: 'name' } })
  if (kind.baseUrl === '' && !channel.base_url?.trim()) {
    throw new GatewayError('channel_field_required', { params: { field: 'base_url' } })
  }
  checkInput(channel)
}

/** @throws GatewayError `channel_type_unknown` */
export const checkKind = (type: number, kinds: Kinds): { readonly baseUrl: string } => {
  const kind = kinds.find(type)
  if (!kind) throw new GatewayError('channel_type_unknown', { params: { type } })
  return kind
}

/** @throws GatewayError `channel_mode_unknown` */
export const checkMultiKeyMode = (mode: string): void => {
  if (mode !== 'random' && mode !== 'polling') throw new GatewayError('channel_mode_unknown', { params: { mode } })
}

const keysOf = (mode: string, key = ''): readonly string[] =>
  mode === 'single' ? readKeys(key.trim(), false) : readKeys(key, true)

const rowsOf = (
  { mode, multiKeyMode, isNamedByKey, channel }: CreateInput,
  nowSec: number,
): readonly Omit<Row, 'id'>[] => {
  const keys = keysOf(mode, channel.key)
  const base = { ...EMPTY, ...withDefaults(channel), createdTime: nowSec }
  if (mode === 'multi_to_single') {
    const states = keys.map((key) => ({ key, status: 1 }))
    const info = { ...SINGLE_KEY, is_multi_key: true, multi_key_mode: multiKeyMode ?? 'random' }
    const channelInfo = { ...withKeyStates(info, states), multi_key_status_list: null }
    return [{ ...base, key: writeKeys(keys, true), channelInfo: JSON.stringify(channelInfo) }]
  }
  return keys.map((key) => {
    const name = isNamedByKey && mode === 'batch' ? `${channel.name} ${key.slice(0, KEY_PREFIX_LENGTH)}` : base.name
    return { ...base, name: name?.slice(0, 191) ?? null, key: writeKeys([key], false) }
  })
}

const withDefaults = (channel: CreateInput['channel']) => {
  const columns = toColumns(channel)
  return {
    ...columns,
    group: columns.group || EMPTY.group,
    status: channel.status === CHANNEL_STATUS.disabledByHand ? CHANNEL_STATUS.disabledByHand : CHANNEL_STATUS.enabled,
  }
}

const EMPTY: Omit<Row, 'id'> = {
  type: 0,
  key: '',
  openAiOrganization: null,
  testModel: null,
  status: CHANNEL_STATUS.enabled,
  name: '',
  weight: 0,
  createdTime: 0,
  testTime: 0,
  responseTime: 0,
  baseUrl: '',
  other: '',
  balance: 0,
  balanceUpdatedTime: 0,
  models: '',
  group: 'default',
  usedQuota: 0,
  modelMapping: null,
  statusCodeMapping: '',
  priority: 0,
  autoBan: 1,
  otherInfo: '',
  tag: null,
  setting: null,
  paramOverride: null,
  headerOverride: null,
  remark: null,
  channelInfo: JSON.stringify(SINGLE_KEY),
  settings: '',
}

export interface CopyOptions {
  readonly suffix: string
  readonly isBalanceReset: boolean
}

/**
 * A second channel like the first, with its key; what was measured of the first starts anew.
 * @returns the id of the copy
 */
export const copyRow = async (
  tx: Db,
  id: number,
  options: CopyOptions,
  keys: StoredKeys,
  nowSec: number,
): Promise<number> => {
  const { id: _id, ...row } = await readRow(tx, id)
  const measured = options.isBalanceReset ? { balance: 0, usedQuota: 0 } : {}
  return insertRow(tx, {
    ...row,
    ...measured,
    key: await keys.seal(tx, keys.open(row.key)),
    name: `${row.name ?? ''}${options.suffix}`.slice(0, 191),
    createdTime: nowSec,
    testTime: 0,
    responseTime: 0,
    channelInfo: JSON.stringify(readChannelInfo(row.channelInfo)),
  })
}
