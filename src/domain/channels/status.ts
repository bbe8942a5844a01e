/** Status of channels by hand, and the keys of a channel with several. */
import { inArray } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import { CHANNEL_STATUS } from './channel.ts'
import { type ChannelInfo, type KeyState, keyStates, readChannelInfo, withKeyStates } from './channel-info.ts'
import { readKeys, writeKeys } from './key-text.ts'
import type { StoredKeys } from './keys-at-rest.ts'
import { lockRow, type Row, updateRow, writeStatus } from './rows.ts'

/** @returns ids of the channels whose status changed; ids without a channel are passed over */
export const setStatusOf = async (
  tx: Db,
  ids: readonly number[],
  status: number,
  reason: string,
  nowSec: number,
): Promise<readonly number[]> => {
  const { channels } = tx.tables
  if (ids.length === 0) return []
  const rows = await tx.lock(
    tx
      .select()
      .from(channels)
      .where(inArray(channels.id, [...ids]))
      .orderBy(channels.id)
      .$dynamic(),
  )
  const others = rows.filter((row) => row.status !== status)
  for (const row of others) await writeStatus(tx, row, status, reason, nowSec)
  return others.map(({ id }) => id)
}

export interface KeyPage {
  readonly keys: readonly (KeyState & { readonly index: number })[]
  readonly total: number
  readonly enabledCount: number
  readonly manualDisabledCount: number
  readonly autoDisabledCount: number
}

/**
 * @param row with its key opened
 * @throws GatewayError `channel_single_key`, `channel_key_locked`
 */
const statesOf = (row: Row): { readonly info: ChannelInfo; readonly states: readonly KeyState[] } => {
  const info = readChannelInfo(row.channelInfo)
  if (!info.is_multi_key) throw new GatewayError('channel_single_key')
  return { info, states: keyStates(readKeys(row.key, true), info) }
}

/**
 * @param row with its key opened
 * @param status only keys of this status; the counts are of all
 */
export const listKeys = (row: Row, status?: number): KeyPage => {
  const { states } = statesOf(row)
  const count = (wanted: number): number => states.filter((state) => state.status === wanted).length
  const keys = states
    .map((state, index) => ({ ...state, index }))
    .filter((state) => status === undefined || state.status === status)
  return {
    keys,
    total: keys.length,
    enabledCount: count(CHANNEL_STATUS.enabled),
    manualDisabledCount: count(CHANNEL_STATUS.disabledByHand),
    autoDisabledCount: count(CHANNEL_STATUS.disabledAutomatically),
  }
}

export type KeyAction =
  | { readonly kind: 'disable' | 'enable' | 'delete'; readonly index: number }
  | { readonly kind: 'disable-all' | 'enable-all' | 'delete-disabled' }

/**
 * Enabling a key brings an automatically disabled channel back; disabling the last one disables it.
 * @returns how many keys the action concerned
 * @throws GatewayError
 */
export const manageKeys = async (
  tx: Db,
  channelId: number,
  action: KeyAction,
  stored: StoredKeys,
  nowSec: number,
): Promise<number> => {
  const row = await lockRow(tx, channelId)
  const { info, states } = statesOf({ ...row, key: stored.open(row.key) })
  const next = applyAction(states, action, nowSec)
  const count = states.length - next.length || states.filter((state, index) => state !== next[index]).length
  if (count === 0) return 0
  const channelInfo = JSON.stringify(withKeyStates(info, next))
  const keys = writeKeys(
    next.map((state) => state.key),
    true,
  )
  const key = next.length === states.length ? undefined : await stored.seal(tx, keys)
  const updated = await updateRow(tx, row, key === undefined ? { channelInfo } : { key, channelInfo })
  await followKeys(tx, updated, next, nowSec)
  return count
}

const applyAction = (states: readonly KeyState[], action: KeyAction, nowSec: number): readonly KeyState[] => {
  const disabled = (state: KeyState): KeyState =>
    state.status === CHANNEL_STATUS.disabledByHand
      ? state
      : { key: state.key, status: CHANNEL_STATUS.disabledByHand, reason: 'manual operation', disabledTime: nowSec }
  const enabled = (state: KeyState): KeyState =>
    state.status === CHANNEL_STATUS.enabled ? state : { key: state.key, status: CHANNEL_STATUS.enabled }
  switch (action.kind) {
    case 'disable-all':
      return states.map(disabled)
    case 'enable-all':
      return states.map(enabled)
    case 'delete-disabled': {
      const kept = states.filter(({ status }) => status !== CHANNEL_STATUS.disabledAutomatically)
      if (kept.length === 0) throw new GatewayError('channel_last_key')
      return kept
    }
    default: {
      const { kind, index } = action
      const state = states[index]
      if (!state) throw new GatewayError('channel_key_index', { params: { index } })
      if (kind === 'disable') return states.with(index, disabled(state))
      if (kind === 'enable') return states.with(index, enabled(state))
      if (states.length === 1) throw new GatewayError('channel_last_key')
      return states.toSpliced(index, 1)
    }
  }
}

export const ALL_KEYS_DISABLED = 'All keys are disabled'

/** A channel that people disabled stays so, whatever becomes of its keys. */
const followKeys = async (tx: Db, row: Row, states: readonly KeyState[], nowSec: number): Promise<void> => {
  const hasEnabled = states.some(({ status }) => status === CHANNEL_STATUS.enabled)
  if (!hasEnabled && row.status === CHANNEL_STATUS.enabled) {
    await writeStatus(tx, row, CHANNEL_STATUS.disabledAutomatically, ALL_KEYS_DISABLED, nowSec)
  }
  if (hasEnabled && row.status === CHANNEL_STATUS.disabledAutomatically) {
    await writeStatus(tx, row, CHANNEL_STATUS.enabled, 'a key was enabled', nowSec)
  }
}
