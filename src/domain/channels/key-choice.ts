/** Which key of a channel the next attempt uses. */
import { CHANNEL_STATUS, type Channel } from './channel.ts'

export interface ChosenKey {
  readonly key: string
  /** Position among the channel's keys: goes to the log, and back to `report`. */
  readonly index: number
}

export interface KeyChoice {
  /** @returns undefined when all keys are disabled */
  take(channel: Channel): ChosenKey | undefined
}

const isUsable = (channel: Channel, index: number): boolean =>
  (channel.multiKey?.statuses.get(index) ?? CHANNEL_STATUS.enabled) === CHANNEL_STATUS.enabled

/** A channel of one key is usable even without it: a local server asks for none. */
export const hasUsableKey = (channel: Channel): boolean =>
  channel.multiKey === undefined || channel.keys.some((_, index) => isUsable(channel, index))

/**
 * Rotation is kept in memory, by channel id, so that it survives reloads; each process rotates on its own, starting
 * where the row stood.
 * @param random in [0, 1)
 */
export const createKeyChoice = (random: () => number): KeyChoice => {
  const nextIndex = new Map<number, number>()

  const poll = (channel: Channel, storedIndex: number): ChosenKey | undefined => {
    const { keys } = channel
    const start = nextIndex.get(channel.id) ?? storedIndex
    for (let step = 0; step < keys.length; step++) {
      const index = (Math.max(0, start) + step) % keys.length
      const key = keys[index]
      if (key === undefined || !isUsable(channel, index)) continue
      nextIndex.set(channel.id, (index + 1) % keys.length)
      return { key, index }
    }
    return undefined
  }

  const drawAtRandom = (channel: Channel): ChosenKey | undefined => {
    const usable = channel.keys.map((key, index) => ({ key, index })).filter(({ index }) => isUsable(channel, index))
    return usable[Math.floor(random() * usable.length)]
  }

  return {
    take: (channel) => {
      if (!channel.multiKey) return { key: channel.keys[0] ?? '', index: 0 }
      return channel.multiKey.mode === 'polling' ? poll(channel, channel.multiKey.pollingIndex) : drawAtRandom(channel)
    },
  }
}
