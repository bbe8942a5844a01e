/** Which key of a channel the next attempt uses. */
import { type Counters, ownCounters } from '../../lib/shared-counters.ts'
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

/** What the health of keys has to say. */
export interface KeyGate {
  /** Some key of the channel is cooling down. */
  hasCoolingKeys(channelId: number): boolean
  isKeyCooling(channelId: number, index: number): boolean
  /** For the key in turn: may it be used now, be it as a probe? */
  enterKey(channelId: number, index: number): boolean
  /** Until when it cools down, on the monotonic clock. */
  keyUntilMs(channelId: number, index: number): number
}

const ALL_WELL: KeyGate = {
  hasCoolingKeys: () => false,
  isKeyCooling: () => false,
  enterKey: () => true,
  keyUntilMs: () => 0,
}

const isUsable = (channel: Channel, index: number): boolean =>
  (channel.multiKey?.statuses.get(index) ?? CHANNEL_STATUS.enabled) === CHANNEL_STATUS.enabled

/** A channel of one key is usable even without it: a local server asks for none. */
export const hasUsableKey = (channel: Channel): boolean =>
  channel.multiKey === undefined || channel.keys.some((_, index) => isUsable(channel, index))

/** Indices of the keys that are not disabled; worked out once per reload. */
export const createUsableKeys = (): ((channel: Channel) => readonly number[]) => {
  const known = new WeakMap<Channel, readonly number[]>()
  return (channel) => {
    const found = known.get(channel)
    if (found) return found
    const usable = [...channel.keys.keys()].filter((index) => isUsable(channel, index))
    known.set(channel, usable)
    return usable
  }
}

/**
 * Rotation takes strict turns over all processes that share the counters, starting where the row stood: each key of a node
 * serves as often as any other, give or take one.
 * @param random in [0, 1)
 */
export const createKeyChoice = (
  random: () => number,
  turns: Counters = ownCounters(),
  gate: KeyGate = ALL_WELL,
): KeyChoice => {
  const usableKeys = createUsableKeys()

  const choose = (channel: Channel, draw: (count: number) => number): ChosenKey | undefined => {
    const usable = usableKeys(channel)
    const inTurn = usable[draw(usable.length)]
    if (inTurn === undefined) return undefined
    if (!gate.hasCoolingKeys(channel.id) || gate.enterKey(channel.id, inTurn)) return at(channel, inTurn)
    // Drawn anew over the rest: handing the turn to a neighbour would double its share.
    const warm = usable.filter((index) => !gate.isKeyCooling(channel.id, index))
    const other = warm[draw(warm.length)]
    if (other !== undefined) return at(channel, other)
    const until = (index: number): number => gate.keyUntilMs(channel.id, index)
    return at(
      channel,
      usable.reduce((soonest, index) => (until(index) < until(soonest) ? index : soonest)),
    )
  }

  return {
    take(channel) {
      const { multiKey } = channel
      if (!multiKey) return { key: channel.keys[0] ?? '', index: 0 }
      if (multiKey.mode !== 'polling') return choose(channel, (count) => Math.floor(random() * count))
      const turn = turns.next(channel.id)
      const first = usableKeys(channel).filter((index) => index < multiKey.pollingIndex).length
      return choose(channel, (count) => (turn + first) % count)
    },
  }
}

const at = (channel: Channel, index: number): ChosenKey => ({ key: channel.keys[index] ?? '', index })
