/** Which channels are tried for a model, and in which order: priority tiers, and within a tier by weight at random. */
import { GatewayError } from '../../errors.ts'
import type { Provider } from '../../provider/provider.ts'
import type { ChannelGate } from './breakers.ts'
import { CHANNEL_STATUS, type Channel } from './channel.ts'
import { hasUsableKey } from './key-choice.ts'
import type { Change } from './load.ts'
import { normaliseModel } from './model-name.ts'
import { createTier, drawNext, narrow, type Obstacles, type Tier } from './tiers.ts'

export interface CandidatesQuery {
  readonly model: string
  readonly group: string
  /** What is asked of a channel, and which providers can; absent: anything. */
  readonly operation?: { readonly name: string; readonly isOffered: (provider: Provider) => boolean }
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
  /** One of the best that can do what is asked, for those who call nobody: it is not entered. */
  any(): Channel | undefined
  /** Some of them: as many as a person reads. */
  readonly leftOut: readonly LeftOut[]
  /** No channel serves the model, whatever the operation. */
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
  /** @returns an index in which these have changed; what it shares with this one stays in order */
  with(changes: readonly Change[]): CandidateIndex
}

type Buckets = ReadonlyMap<string, ReadonlyMap<string, Bucket>>

interface Resolved {
  readonly tiers: readonly Tier[]
  readonly providers: ReadonlySet<Provider>
  readonly leftOut: readonly LeftOut[]
  /** Tiers of those providers alone that offer an operation, by its name and their ids. */
  readonly offering: Map<string, Resolved>
}
/** Who offers a model to a group; put in order when it is first asked for, so that a reload of many stays cheap. */
interface Bucket {
  /** By id; not changed once the index is made. */
  readonly members: Member[]
  /** With which changes it was made. */
  readonly madeFor: readonly Change[]
  resolved?: Resolved
}

/** Of thousands that are left out so many are named, and so many of those that cool down are looked at for them. */
const MAX_LEFT_OUT = 20
const MAX_LOOKED_AT = 50

/**
 * What a call asks is answered in a time that does not grow with the number of channels: it may be thousands for one model,
 * some of which are always disabled or cool down.
 * @param random in [0, 1)
 * @param gate what the health of channels has to say
 */
export const createCandidateIndex = (
  members: readonly Member[],
  random: () => number,
  gate: ChannelGate = ALL_WELL,
): CandidateIndex =>
  indexOf({ byId: new Map(), byGroup: new Map() }, random, gate).with(members.map((after) => ({ after })))

const indexOf = (
  { byId, byGroup }: { readonly byId: ReadonlyMap<number, Channel>; readonly byGroup: Buckets },
  random: () => number,
  gate: ChannelGate,
): CandidateIndex => {
  const resolve = (group: string, model: string): Resolved => {
    const bucket = byGroup.get(group)?.get(model)
    if (!bucket) return NOBODY
    bucket.resolved ??= resolveMembers(bucket.members)
    return bucket.resolved
  }
  const cooling = (group: string, model: string): readonly LeftOut[] => {
    const found: LeftOut[] = []
    let looks = 0
    for (const channelId of gate.cooling()) {
      if (found.length === MAX_LEFT_OUT || ++looks > MAX_LOOKED_AT) break
      const channel = byId.get(channelId)
      if (!channel?.groups.includes(group) || !channel.models.includes(model)) continue
      if (reasonAgainst(channel) === undefined && gate.isCooling(channel))
        found.push({ channelId, reason: 'cooling down' })
    }
    return found
  }

  return {
    groups: [...byGroup.keys()],
    find: (id) => byId.get(id),
    candidates: ({ model, group, operation, forcedChannelId, isTest = false }) => {
      if (forcedChannelId !== undefined) return only(forced(byId, forcedChannelId, isTest), operation)
      const exact = resolve(group, model)
      const family = exact.tiers.length > 0 ? model : normaliseModel(model)
      const found = family === model ? exact : resolve(group, family)
      const offering = operation ? narrowed(found, operation) : found
      const leftOut = found === exact ? offering.leftOut : [...exact.leftOut, ...offering.leftOut]
      const isQuiet = gate.isQuiet()
      return {
        leftOut: isQuiet ? leftOut : [...leftOut, ...cooling(group, family)],
        isEmpty: found.tiers.length === 0,
        any: () => offering.tiers.find(({ channels }) => channels.length > 0)?.channels[0],
        next: isQuiet
          ? (attempt, tried) =>
              drawNext(offering.tiers, attempt, random, { ...FREE, isTried: ({ id }) => tried.has(id) })
          : pastCooling(offering.tiers, random, gate),
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
    with: (changes) =>
      indexOf({ byId: changedIds(byId, changes), byGroup: changedBuckets(byGroup, changes) }, random, gate),
  }
}

const NOBODY: Resolved = { tiers: [], providers: new Set(), leftOut: [], offering: new Map() }

const ALL_WELL: ChannelGate = {
  isQuiet: () => true,
  cooling: () => [],
  isCooling: () => false,
  enter: () => true,
  leave: () => {},
  untilMs: () => 0,
}
const FREE = { isCooling: () => false, enter: () => true } satisfies Partial<Obstacles>

/**
 * For one call: past channels that cool down. If all of them do, the one that is soonest over is tried rather than nobody.
 */
const pastCooling = (tiers: readonly Tier[], random: () => number, gate: ChannelGate): Candidates['next'] => {
  let entered: Channel | undefined
  let hasServed = false
  return (attempt, tried) => {
    // A call that asks again has either ended its attempt or never begun it.
    if (entered) gate.leave(entered)
    entered = drawNext(tiers, attempt, random, { ...gate, isTried: ({ id }) => tried.has(id) })
    if (entered) hasServed = true
    return entered ?? (hasServed ? undefined : soonest(tiers, tried, gate))
  }
}

const soonest = (tiers: readonly Tier[], tried: ReadonlySet<number>, gate: ChannelGate): Channel | undefined => {
  let best: { readonly channel: Channel; readonly untilMs: number } | undefined
  for (const { channels } of tiers) {
    for (const channel of channels) {
      if (tried.has(channel.id)) continue
      const untilMs = gate.untilMs(channel)
      if (!best || untilMs < best.untilMs) best = { channel, untilMs }
    }
  }
  return best?.channel
}

const isChannel = (member: Member): member is Channel => !('unusableReason' in member)

const changedIds = (byId: ReadonlyMap<number, Channel>, changes: readonly Change[]): ReadonlyMap<number, Channel> => {
  const next = new Map(byId)
  for (const { before } of changes) if (before) next.delete(before.id)
  for (const { after } of changes) if (after && isChannel(after)) next.set(after.id, after)
  return next
}

/** Only the buckets of the changed members are made anew. */
const changedBuckets = (byGroup: Buckets, changes: readonly Change[]): Buckets => {
  const gone = new Set(changes.flatMap(({ before }) => before ?? []))
  const next = new Map([...byGroup].map(([group, byModel]) => [group, new Map(byModel)]))
  const touch = (member: Member, each: (members: Member[]) => void): void => {
    for (const group of member.groups) {
      const byModel = next.get(group) ?? new Map<string, Bucket>()
      next.set(group, byModel)
      for (const model of member.models) {
        const bucket = byModel.get(model)
        if (bucket?.madeFor === changes) {
          each(bucket.members)
          continue
        }
        const members = bucket ? bucket.members.filter((other) => !gone.has(other)) : []
        byModel.set(model, { members, madeFor: changes })
        each(members)
      }
    }
  }
  for (const { before, after } of changes) {
    if (before) touch(before, () => {})
    if (after) touch(after, (members) => insertById(members, after))
  }
  for (const [group, byModel] of next) {
    for (const [model, { members }] of byModel) if (members.length === 0) byModel.delete(model)
    if (byModel.size === 0) next.delete(group)
  }
  return next
}

const insertById = (members: Member[], member: Member): void => {
  if ((members.at(-1)?.id ?? 0) < member.id) members.push(member)
  else members.splice(positionOf(members, member.id), 0, member)
}

const positionOf = (members: readonly Member[], id: number): number => {
  let low = 0
  let high = members.length
  while (low < high) {
    const middle = (low + high) >> 1
    if ((members[middle]?.id ?? 0) < id) low = middle + 1
    else high = middle
  }
  return low
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
  const leaveOut = (channelId: number, reason: string): void => {
    if (leftOut.length < MAX_LEFT_OUT) leftOut.push({ channelId, reason })
  }
  for (const member of members) {
    const reason = reasonAgainst(member)
    if (reason !== undefined || !isChannel(member)) {
      leaveOut(member.id, reason ?? '')
      continue
    }
    const tier = byPriority.get(member.priority)
    if (tier) tier.push(member)
    else byPriority.set(member.priority, [member])
  }
  const tiers = [...byPriority]
    .sort(([a], [b]) => b - a)
    .map(([, channels]) => {
      const { tier, never } = createTier(channels)
      for (const { id } of never) leaveOut(id, 'weight 0 beside weighted channels')
      return tier
    })
  return { tiers, providers: providersOf(tiers), leftOut, offering: new Map() }
}

const providersOf = (tiers: readonly Tier[]): ReadonlySet<Provider> => {
  const providers = new Set<Provider>()
  for (const { channels } of tiers) for (const { provider } of channels) providers.add(provider)
  return providers
}

/** Those that can do what is asked. A tier of which none can stays as an empty one: attempts count tiers. */
const narrowed = (all: Resolved, { name, isOffered }: NonNullable<CandidatesQuery['operation']>): Resolved => {
  if (isOfferedByAll(all, isOffered)) return all
  const able = new Set<Provider>()
  for (const provider of all.providers) if (isOffered(provider)) able.add(provider)
  const key = [name, ...[...able].map(({ id }) => id)].join(' ')
  const known = all.offering.get(key)
  if (known) return known
  const leftOut = [...all.leftOut]
  const tiers = all.tiers.map((tier) =>
    narrow(tier, (channel) => {
      if (able.has(channel.provider)) return true
      if (leftOut.length < MAX_LEFT_OUT) leftOut.push({ channelId: channel.id, reason: notOffered(name) })
      return false
    }),
  )
  const fresh: Resolved = { tiers, providers: able, leftOut, offering: new Map() }
  all.offering.set(key, fresh)
  return fresh
}

const isOfferedByAll = ({ providers }: Resolved, isOffered: (provider: Provider) => boolean): boolean => {
  for (const provider of providers) if (!isOffered(provider)) return false
  return true
}

const notOffered = (operation: string): string => `does not offer ${operation}`

const forced = (byId: ReadonlyMap<number, Channel>, id: number, isTest: boolean): Channel => {
  const channel = byId.get(id)
  if (!channel)
    throw new GatewayError('invalid_request', { params: { reason: 'The channel named by the key does not exist' } })
  if (channel.status !== CHANNEL_STATUS.enabled && !isTest) {
    throw new GatewayError('access_denied', { params: { reason: 'The channel named by the key is disabled' } })
  }
  return channel
}

const only = (channel: Channel, operation: CandidatesQuery['operation']): Candidates => {
  const isAble = operation?.isOffered(channel.provider) ?? true
  return {
    leftOut: isAble ? [] : [{ channelId: channel.id, reason: notOffered(operation?.name ?? '') }],
    isEmpty: false,
    any: () => (isAble ? channel : undefined),
    next: (_attempt, tried) => (isAble && !tried.has(channel.id) ? channel : undefined),
  }
}
