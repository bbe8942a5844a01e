/** Reads what the accounts of channels still hold, keeps it in their rows, and has those taken out of service that hold nothing. */
import { asc, eq } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { asGatewayError, GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import type { Outcome } from './breakers.ts'
import { CHANNEL_STATUS, type Channel } from './channel.ts'

export interface Balances {
  /** @returns in the upstream's currency. @throws GatewayError */
  update(channel: Channel): Promise<number>
  /** All enabled channels of one key whose kind has a balance; one that cannot be read keeps its last. */
  updateAll(signal: AbortSignal): Promise<void>
}

export const createBalances = (deps: {
  readonly db: Db
  readonly find: (id: number) => Channel | undefined
  /** Asks the upstream. */
  readonly read: (channel: Channel) => Promise<number>
  readonly report: (outcome: Outcome) => void
  readonly log: Log
  readonly clock: Clock
}): Balances => {
  const { db, find, read, report, log, clock } = deps
  const { channels } = db.tables

  const update = async (channel: Channel): Promise<number> => {
    if (channel.multiKey) throw new GatewayError('channel_balance_keys')
    if (!channel.provider.readBalance) throw new GatewayError('channel_no_balance')
    const balance = await read(channel).catch((thrown: unknown) => {
      // An answer to a person, not to a call: a refusal with its reason.
      const cause = asGatewayError(thrown)
      throw new GatewayError('channel_balance_failed', { params: { reason: cause.public }, cause })
    })
    const balanceUpdatedTime = Math.floor(clock.now() / 1000)
    await db.update(channels).set({ balance, balanceUpdatedTime }).where(eq(channels.id, channel.id))
    return balance
  }

  return {
    update,
    async updateAll(signal) {
      const rows = await db
        .select({ id: channels.id })
        .from(channels)
        .where(eq(channels.status, CHANNEL_STATUS.enabled))
        .orderBy(asc(channels.id))
      for (const { id } of rows) {
        signal.throwIfAborted()
        const channel = find(id)
        if (!channel?.provider.readBalance || channel.multiKey) continue
        try {
          const balance = await update(channel)
          if (balance <= 0) report({ channelId: id, keyIndex: 0, error: new GatewayError('channel:balance_used_up') })
        } catch (error) {
          if (!(error instanceof GatewayError)) throw error
          log.info('the balance of a channel could not be read', { channelId: id, error: error.public })
        }
      }
    },
  }
}
