/**
 * Channels of one model by priority, and how one of them is drawn: by weight, in a time that does not grow with their
 * number. Who may not be drawn is met and drawn again; only where that fails often are all of them looked at.
 */
import type { Channel } from './channel.ts'

/** Channels of one priority with their running sums of weight; the last sum is the total. May be empty. */
export interface Tier {
  readonly channels: readonly Channel[]
  readonly sums: readonly number[]
}

/** What stands in the way of a channel. */
export interface Obstacles {
  isTried(channel: Channel): boolean
  /** It would be refused by `enter`, as far as one can tell without trying. */
  isCooling(channel: Channel): boolean
  /** May this call go there? Asked once per channel, in the order of the draw. */
  enter(channel: Channel): boolean
}

/** So many draws before all channels of a big tier are looked at: where half of them are out of the question, one in 65,536 needs it. */
const DRAWS = 16
/** A tier of which looking at all costs no more than drawing again and again. */
const SMALL_TIER = 16

/**
 * Those of one priority, the weights of which decide. A weight of 0 beside positive ones means never; if all are 0 they are
 * equal.
 * @returns the tier, and who never serves in it
 */
export function createTier(channels: readonly Channel[]): { readonly tier: Tier; readonly never: readonly Channel[] } {
  const weighted = channels.filter((channel) => channel.weight > 0)
  if (weighted.length === 0) return { tier: { channels, sums: channels.map((_, index) => index + 1) }, never: [] }
  let sum = 0
  const sums = weighted.map(({ weight }) => {
    sum += weight
    return sum
  })
  const never = weighted.length === channels.length ? [] : channels.filter(({ weight }) => weight === 0)
  return { tier: { channels: weighted, sums }, never }
}

/** The same tier with some channels alone; their proportions stay. */
export function narrow({ channels, sums }: Tier, isWanted: (channel: Channel) => boolean): Tier {
  const wanted: Channel[] = []
  const wantedSums: number[] = []
  let sum = 0
  channels.forEach((channel, index) => {
    if (!isWanted(channel)) return
    sum += (sums[index] ?? 0) - (sums[index - 1] ?? 0)
    wanted.push(channel)
    wantedSums.push(sum)
  })
  return { channels: wanted, sums: wantedSums }
}

/** The tier of this attempt first, then the others from the best one down. @returns a channel that has been entered */
export function drawNext(
  tiers: readonly Tier[],
  attempt: number,
  random: () => number,
  obstacles: Obstacles,
): Channel | undefined {
  const own = tiers[Math.min(attempt, tiers.length - 1)]
  if (!own) return undefined
  const drawn = drawFrom(own, random, obstacles)
  if (drawn) return drawn
  for (const tier of tiers) {
    const channel = tier === own ? undefined : drawFrom(tier, random, obstacles)
    if (channel) return channel
  }
  return undefined
}

function drawFrom(tier: Tier, random: () => number, obstacles: Obstacles): Channel | undefined {
  const { isTried, isCooling, enter } = obstacles
  // Nearly always the first one drawn serves.
  let refused: Set<Channel> | undefined
  const isOut = (channel: Channel): boolean => isTried(channel) || refused?.has(channel) === true
  const draws = tier.channels.length > SMALL_TIER ? DRAWS : 1
  for (let n = 0; n < draws; n++) {
    const channel = draw(tier, random)
    if (!channel) return undefined
    if (isOut(channel)) continue
    if (enter(channel)) return channel
    refused ??= new Set()
    refused.add(channel)
  }
  const warm = draw(
    narrow(tier, (channel) => !isOut(channel) && !isCooling(channel)),
    random,
  )
  if (warm && enter(warm)) return warm
  // Of those that cool down one may be ready to be tried out.
  return tier.channels.find((channel) => !isOut(channel) && isCooling(channel) && enter(channel))
}

function draw({ channels, sums }: Tier, random: () => number): Channel | undefined {
  const point = random() * (sums.at(-1) ?? 0)
  let low = 0
  let high = sums.length - 1
  while (low < high) {
    const middle = (low + high) >> 1
    if ((sums[middle] ?? 0) > point) high = middle
    else low = middle + 1
  }
  return channels[low]
}
