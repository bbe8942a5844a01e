/** Column `channel_info`: the keys of a channel with several, as stored. Indexes are texts, as JSON has it. */
import { isRecord, parseJson } from './channel.ts'

export interface ChannelInfo {
  readonly is_multi_key: boolean
  readonly multi_key_size: number
  /** Only keys that are not enabled; null at first. */
  readonly multi_key_status_list: Readonly<Record<string, number>> | null
  readonly multi_key_disabled_reason?: Readonly<Record<string, string>>
  readonly multi_key_disabled_time?: Readonly<Record<string, number>>
  readonly multi_key_polling_index: number
  readonly multi_key_mode: string
}

export const SINGLE_KEY: ChannelInfo = {
  is_multi_key: false,
  multi_key_size: 0,
  multi_key_status_list: null,
  multi_key_polling_index: 0,
  multi_key_mode: '',
}

/** What is absent or damaged has the value of a single key; fields that we do not know are kept. */
export const readChannelInfo = (value: unknown): ChannelInfo => {
  const info = parseJson(value, 'channel_info', () => {})
  return isRecord(info) ? { ...SINGLE_KEY, ...info } : SINGLE_KEY
}

/** One key with what is kept about it. */
export interface KeyState {
  readonly key: string
  /** 1 enabled, 2 by hand, 3 automatically. */
  readonly status: number
  readonly reason?: string
  readonly disabledTime?: number
}

export const keyStates = (keys: readonly string[], info: ChannelInfo): readonly KeyState[] =>
  keys.map((key, index) => {
    const status = info.multi_key_status_list?.[index] ?? 1
    const reason = info.multi_key_disabled_reason?.[index]
    const disabledTime = info.multi_key_disabled_time?.[index]
    return {
      key,
      status,
      ...(status !== 1 && reason !== undefined && { reason }),
      ...(status !== 1 && disabledTime !== undefined && { disabledTime }),
    }
  })

/** The column for these keys in this order: whatever is kept about a key moves with it. */
export const withKeyStates = (info: ChannelInfo, states: readonly KeyState[]): ChannelInfo => {
  const {
    multi_key_disabled_reason: _reasons,
    multi_key_disabled_time: _times,
    multi_key_status_list: _statuses,
    ...rest
  } = info
  const disabled = states
    .map((state, index) => [String(index), state] as const)
    .filter(([, { status }]) => status !== 1)
  const reasons = disabled.flatMap(([index, { reason }]) => (reason === undefined ? [] : [[index, reason] as const]))
  const times = disabled.flatMap(([index, { disabledTime }]) =>
    disabledTime === undefined ? [] : [[index, disabledTime] as const],
  )
  return {
    ...rest,
    multi_key_size: states.length,
    multi_key_status_list: Object.fromEntries(disabled.map(([index, { status }]) => [index, status])),
    ...(reasons.length > 0 && { multi_key_disabled_reason: Object.fromEntries(reasons) }),
    ...(times.length > 0 && { multi_key_disabled_time: Object.fromEntries(times) }),
  }
}
