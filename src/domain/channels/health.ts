/**
 * Takes channels, or single keys of them, out of service when their upstream says that the account is at fault. Runs
 * beside the calls: they report and go on. What a person disabled or enabled is never undone here.
 */
import { eq } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import type { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { redactText } from '../../lib/redact.ts'
import { hasStatus, type Options, parseStatusCodes } from '../options/index.ts'
import type { Alert } from './breakers.ts'
import { CHANNEL_STATUS, type Channel } from './channel.ts'
import { keyStates, readChannelInfo, withKeyStates } from './channel-info.ts'
import { readKeys } from './key-text.ts'
import { lockRow, writeStatus } from './rows.ts'
import { ALL_KEYS_DISABLED } from './status.ts'

export interface Failure {
  readonly channelId: number
  readonly keyIndex: number
  readonly error: GatewayError
}

export interface Health {
  report(failure: Failure): void
  /** Resolves when all that was reported is dealt with. */
  idle(): Promise<void>
}

const MAX_REASON_LENGTH = 500

/** Does this error say that the account, not the call, is at fault? */
export const isAccountFault = (error: GatewayError, options: Pick<Options, 'get'>): boolean => {
  if (error.code.startsWith('channel:')) return true
  if (!error.retry || error.blame !== 'upstream') return false
  const codes = parseStatusCodes(options.get('AutomaticDisableStatusCodes')) ?? []
  if (error.upstream !== undefined && hasStatus(codes, error.status)) return true
  const message = (error.upstream?.message ?? error.public).toLowerCase()
  return options
    .get('AutomaticDisableKeywords')
    .split('\n')
    .map((keyword) => keyword.trim().toLowerCase())
    .some((keyword) => keyword !== '' && message.includes(keyword))
}

export const createHealth = (deps: {
  readonly db: Db
  readonly options: Pick<Options, 'get'>
  readonly find: (id: number) => Channel | undefined
  /** Called within the transaction that changed a channel. */
  readonly bump: (tx: Db, channelId: number) => Promise<void>
  readonly published: () => Promise<void>
  /** Opens the stored text of a key. */
  readonly openKey: (stored: string) => string
  readonly alert: Alert
  readonly log: Log
  readonly clock: Clock
}): Health => {
  const { db, options, find, bump, published, openKey, alert, log, clock } = deps
  /** One at a time per key: a burst of equal failures is one event. */
  const running = new Map<string, Promise<void>>()

  const disable = async (channel: Channel, { keyIndex, error }: Failure): Promise<void> => {
    const key = channel.multiKey ? channel.keys[keyIndex] : undefined
    const reason = redactText(error.upstream?.message ?? error.public).slice(0, MAX_REASON_LENGTH)
    const atSec = Math.floor(clock.now() / 1000)
    const effect = await db.transaction(async (tx) => {
      const done = await disableRow(tx, channel, { keyIndex, key, reason, openKey }, atSec)
      if (done !== 'nothing') await bump(tx, channel.id)
      return done
    })
    if (effect === 'nothing') return
    log.warn('a channel was taken out of service', {
      channelId: channel.id,
      name: channel.name,
      effect,
      keyIndex,
      reason,
    })
    const part = effect === 'key' ? `Key ${keyIndex} of channel` : 'Channel'
    alert({
      kind: 'channel-disabled',
      // Each is an event of its own, whoever brought the channel back in between.
      key: `channel:${channel.id}${effect === 'key' ? `:${keyIndex}` : ''}@${atSec}`,
      text: `${part} ${channel.id} (${channel.name}) was disabled: ${reason}`,
    })
    await published()
  }

  return {
    report: (failure) => {
      const { channelId, keyIndex, error } = failure
      const mark = `${channelId}:${keyIndex}`
      try {
        if (running.has(mark) || !options.get('AutomaticDisableChannelEnabled')) return
        const channel = find(channelId)
        if (!channel?.isAutoBan || channel.status !== CHANNEL_STATUS.enabled || !isAccountFault(error, options)) return
        const work = disable(channel, failure)
          .catch((thrown: unknown) => log.error('a channel could not be disabled', { channelId, error: thrown }))
          .finally(() => running.delete(mark))
        running.set(mark, work)
      } catch (thrown) {
        log.error('a failure of a channel could not be judged', { channelId, error: thrown })
      }
    },
    idle: async () => {
      while (running.size > 0) await Promise.all(running.values())
    },
  }
}

type Effect = 'nothing' | 'key' | 'channel'

/** @param failed.key the one that failed: an index may name another by now, when keys were deleted meanwhile */
const disableRow = async (
  tx: Db,
  channel: Channel,
  failed: {
    readonly keyIndex: number
    readonly key: string | undefined
    readonly reason: string
    readonly openKey: (stored: string) => string
  },
  nowSec: number,
): Promise<Effect> => {
  const { keyIndex, key, reason } = failed
  const row = await lockRow(tx, channel.id)
  if (row.status !== CHANNEL_STATUS.enabled) return 'nothing'
  const info = readChannelInfo(row.channelInfo)
  if (!info.is_multi_key) {
    if (key !== undefined) return 'nothing'
    await writeStatus(tx, row, CHANNEL_STATUS.disabledAutomatically, reason, nowSec)
    return 'channel'
  }
  const states = keyStates(readKeys(failed.openKey(row.key), true), info)
  const state = states[keyIndex]
  if (state === undefined || state.key !== key || state.status !== CHANNEL_STATUS.enabled) return 'nothing'
  const disabled = { key, status: CHANNEL_STATUS.disabledAutomatically, reason, disabledTime: nowSec }
  const next = states.with(keyIndex, disabled)
  const channelInfo = JSON.stringify(withKeyStates(info, next))
  if (next.some(({ status }) => status === CHANNEL_STATUS.enabled)) {
    const { channels } = tx.tables
    await tx.update(channels).set({ channelInfo }).where(eq(channels.id, row.id))
    return 'key'
  }
  await writeStatus(tx, row, CHANNEL_STATUS.disabledAutomatically, ALL_KEYS_DISABLED, nowSec, { channelInfo })
  return 'channel'
}
