/** The order in which channels are tried for a model: priority tiers, and within a tier by weight at random. */
import { GatewayError } from '../../errors.ts'
import type { ChannelGate } from './breakers.ts'
import { CHANNEL_STATUS, type Channel } from './channel.ts'
import { hasUsableKey } from './key-choice.ts'
import { normaliseModel } from './model-name.ts'

export interface CandidatesQuery {
  readonly model: string
  readonly group: string
  /** The caller's key names a channel: only that one, whatever it offers. */
  readonly forcedChannelId?: number | undefined
  /** A test also goes to a channel that is disabled. */
  readonly isTest?: boolean
}

/** Why a channel that offers the model is not among the candidates. */
export interface LeftOut {
  readonly channelId: number
  readonly reason: string
}

export interface Candidates {
  /**
   * @param attempt index from 0: chooses the tier, the last one when there are no more
   * @param tried channels that this call already failed on; never returned again
   * @returns undefined when every candidate was tried
   */
  next(attempt: number, tried: ReadonlySet<number>): Channel | undefined
  /** One of the best tier, for those who call nobody. */
  any(): Channel | undefined
  readonly leftOut: readonly LeftOut[]
  readonly isEmpty: boolean
}

/** A stored channel that cannot serve whatever its status, such as one of a kind that this build does not know. */
export interface Unusable {
  readonly id: number
  readonly groups: readonly string[]
  readonly models: readonly string[]
  readonly unusableReason: string
}
export type Member = Channel | Unusable

export interface CandidateIndex {
  /** @throws GatewayError when a forced channel is missing or disabled */
  candidates(query: CandidatesQuery): Candidates
  models(groups: readonly string[]): readonly string[]
  find(id: number): Channel | undefined
  /** All groups that any stored channel serves. */
  readonly groups: readonly string[]
}

/** Members of one tier with their running sums of weight; the last sum is the total. */
interface Tier {
  readonly channels: readonly Channel[]
  readonly sums: readonly number[]
}
interface Resolved {
  readonly tiers: readonly Tier[]
  readonly leftOut: readonly LeftOut[]
}
/** Who offers a model to a group; put in order when it is first asked for, so that a reload of many stays cheap. */
interface Bucket {
  readonly members: Member[]
  resolved?: Resolved
}

/**
 * Built once per reload.
 * @param random in [0, 1)
 * @param gate what the health of channels has to say
 */
export const createCandidateIndex = (
  members: readonly Member[],
  random: () => number,
  gate: ChannelGate = ALL_WELL,
): CandidateIndex => {
  const channels = members.filter(isChannel)
  const byId = new Map(channels.map((channel) => [channel.id, channel]))
  const byGroup = indexMembers(members)

  const resolve = (group: string, model: string): Resolved => {
    const bucket = byGroup.get(group)?.get(model)
    if (!bucket) return NOBODY
    bucket.resolved ??= resolveMembers(bucket.members)
    return bucket.resolved
  }

  return {
    groups: [...byGroup.keys()],
    find: (id) => byId.get(id),
    candidates: ({ model, group, forcedChannelId, isTest = false }) => {
      if (forcedChannelId !== undefined) return only(forced(byId, forcedChannelId, isTest))
      const exact = resolve(group, model)
      const family = normaliseModel(model)
      const found = exact.tiers.length > 0 || family === model ? exact : resolve(group, family)
      const leftOut = found === exact ? exact.leftOut : [...exact.leftOut, ...found.leftOut]
      const isQuiet = gate.isQuiet()
      return {
        leftOut: isQuiet ? leftOut : [...leftOut, ...cooling(found.tiers, gate)],
        isEmpty: found.tiers.length === 0,
        any: () => found.tiers[0]?.channels[0],
        next: isQuiet
          ? (attempt, tried) => nextOf(found.tiers, attempt, tried, random)
          : pastCooling(found.tiers, random, gate),
      }
    },
    models: (groups) => {
      const names = new Set<string>()
      for (const group of groups) {
        for (const [model, bucket] of byGroup.get(group) ?? []) {
          if (!names.has(model) && bucket.members.some((member) => reasonAgainst(member) === undefined))
            names.add(model)
        }
      }
      return [...names].sort()
    },
  }
}

const NOBODY: Resolved = { tiers: [], leftOut: [] }

const ALL_WELL: ChannelGate = {
  isQuiet: () => true,
  isCooling: () => false,
  enter: () => true,
  leave: () => {},
  untilMs: () => 0,
}

const cooling = (tiers: readonly Tier[], gate: ChannelGate): readonly LeftOut[] =>
  tiers.flatMap(({ channels }) =>
    channels
      .filter((channel) => gate.isCooling(channel))
      .map((channel) => ({ channelId: channel.id, reason: 'cooling down' })),
  )

/**
 * For one call: as `nextOf`, but past channels that cool down. If all of them do, the one that is soonest over is tried
 * rather than nobody.
 */
const pastCooling = (tiers: readonly Tier[], random: () => number, gate: ChannelGate): Candidates['next'] => {
  let entered: Channel | undefined
  let hasServed = false
  return (attempt, tried) => {
    // A call that asks again has either ended its attempt or never begun it.
    if (entered) gate.leave(entered)
    entered = undefined
    const past = new Set(tried)
    for (;;) {
      const channel = nextOf(tiers, attempt, past, random)
      if (!channel) break
      if (gate.enter(channel)) {
        hasServed = true
        entered = channel
        return channel
      }
      past.add(channel.id)
    }
    if (hasServed) return undefined
    const rest = tiers.flatMap(({ channels }) => channels).filter(({ id }) => !tried.has(id))
    const [first] = rest
    return first && rest.reduce((best, channel) => (gate.untilMs(channel) < gate.untilMs(best) ? channel : best), first)
  }
}

const isChannel = (member: Member): member is Channel => !('unusableReason' in member)

const indexMembers = (members: readonly Member[]): ReadonlyMap<string, ReadonlyMap<string, Bucket>> => {
  const byGroup = new Map<string, Map<string, Bucket>>()
  for (const member of members) {
    for (const group of member.groups) {
      const byModel = byGroup.get(group) ?? new Map<string, Bucket>()
      byGroup.set(group, byModel)
      for (const model of member.models) {
        const bucket = byModel.get(model)
        if (bucket) bucket.members.push(member)
        else byModel.set(model, { members: [member] })
      }
    }
  }
  return byGroup
}

/** @returns undefined when the member may serve */
const reasonAgainst = (member: Member): string | undefined => {
  if (!isChannel(member)) return member.unusableReason
  if (member.status === CHANNEL_STATUS.disabledByHand) return 'disabled'
  if (member.status === CHANNEL_STATUS.disabledAutomatically) return 'disabled automatically'
  if (member.status !== CHANNEL_STATUS.enabled) return `status ${member.status}`
  if (member.baseUrl === '') return 'no base URL'
  return hasUsableKey(member) ? undefined : 'all keys are disabled'
}

const resolveMembers = (members: readonly Member[]): Resolved => {
  const leftOut: LeftOut[] = []
  const byPriority = new Map<number, Channel[]>()
  for (const member of members) {
    const reason = reasonAgainst(member)
    if (reason !== undefined || !isChannel(member)) {
      leftOut.push({ channelId: member.id, reason: reason ?? '' })
      continue
    }
    const tier = byPriority.get(member.priority)
    if (tier) tier.push(member)
    else byPriority.set(member.priority, [member])
  }
  const tiers = [...byPriority].sort(([a], [b]) => b - a).map(([, tier]) => createTier(tier, leftOut))
  return { tiers, leftOut }
}

/** A weight of 0 beside positive ones means never; if all are 0 they are equal. */
const createTier = (channels: readonly Channel[], leftOut: LeftOut[]): Tier => {
  const isWeighted = channels.some((channel) => channel.weight > 0)
  if (!isWeighted) return { channels, sums: channels.map((_, index) => index + 1) }
  const weighted = channels.filter((channel) => channel.weight > 0)
  for (const channel of channels) {
    if (channel.weight === 0) leftOut.push({ channelId: channel.id, reason: 'weight 0 beside weighted channels' })
  }
  let sum = 0
  return {
    channels: weighted,
    sums: weighted.map((channel) => {
      sum += channel.weight
      return sum
    }),
  }
}

/** The tier of this attempt first, then the others from the best one down. */
const nextOf = (
  tiers: readonly Tier[],
  attempt: number,
  tried: ReadonlySet<number>,
  random: () => number,
): Channel | undefined => {
  const own = tiers[Math.min(attempt, tiers.length - 1)]
  if (!own) return undefined
  const drawn = drawUntried(own, tried, random)
  if (drawn) return drawn
  for (const tier of tiers) {
    const channel = tier === own ? undefined : drawUntried(tier, tried, random)
    if (channel) return channel
  }
  return undefined
}

/** One draw over the whole tier; only if it hits a tried channel are the weights of the rest summed up anew. */
const drawUntried = (tier: Tier, tried: ReadonlySet<number>, random: () => number): Channel | undefined => {
  const drawn = draw(tier.channels, tier.sums, random)
  if (!drawn || !tried.has(drawn.id)) return drawn
  const channels: Channel[] = []
  const sums: number[] = []
  let sum = 0
  tier.channels.forEach((channel, index) => {
    if (tried.has(channel.id)) return
    sum += (tier.sums[index] ?? 0) - (tier.sums[index - 1] ?? 0)
    channels.push(channel)
    sums.push(sum)
  })
  return draw(channels, sums, random)
}

/** @param sums running sums of positive weights, as long as `channels` */
const draw = (channels: readonly Channel[], sums: readonly number[], random: () => number): Channel | undefined => {
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

const forced = (byId: ReadonlyMap<number, Channel>, id: number, isTest: boolean): Channel => {
  const channel = byId.get(id)
  if (!channel)
    throw new GatewayError('invalid_request', { params: { reason: 'The channel named by the key does not exist' } })
  if (channel.status !== CHANNEL_STATUS.enabled && !isTest) {
    throw new GatewayError('access_denied', { params: { reason: 'The channel named by the key is disabled' } })
  }
  return channel
}

const only = (channel: Channel): Candidates => ({
  leftOut: [],
  isEmpty: false,
  any: () => channel,
  next: (_attempt, tried) => (tried.has(channel.id) ? undefined : channel),
})
