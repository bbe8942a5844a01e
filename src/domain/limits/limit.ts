/**
 * Which bounds apply to the calls of an API key: its own, its user's, its group's, and those of the options on calls per
 * user. Pure, and worked out once per key and state of the options.
 */
import type { Options } from '../options/index.ts'

/** What may be set for an API key, a user or a group; 0: no bound. */
export interface Bounds {
  readonly rpm: number
  readonly tpm: number
  readonly concurrency: number
}

/** Highest bound that is stored. */
export const MAX_BOUND = 2_147_483_647

/** Whose calls a limit counts together; the words are those of its refusal. */
export type Scope = 'API key' | 'user' | 'group'

/** One bound on one count, which all nodes share. */
export interface Limit {
  /** `successes`: of calls that were served; the others count from their start. */
  readonly counts: 'requests' | 'successes' | 'tokens' | 'concurrency'
  readonly scope: Scope
  /** Names the count in the store. */
  readonly key: string
  readonly limit: number
  /** 0 for concurrency, which knows no window. */
  readonly windowMs: number
}

/** Every limit of a caller, by scope, the narrowest first. */
export type Limits = readonly (readonly Limit[])[]

export interface LimitedOwner {
  readonly apiKeyId: number
  readonly userId: number
  readonly userGroup: string
  /** The key's own group; '' when it has none. */
  readonly tokenGroup: string
  readonly keyBounds: Bounds
  readonly userBounds: Bounds
}

const MINUTE_MS = 60_000

/**
 * The group is the key's own, else the user's, as in New API; a key of group `auto` counts as group `auto`.
 * @returns undefined when nothing bounds the calls of this key, which then cost no look at any count
 */
export function limitsOf(options: Pick<Options, 'get'>, owner: LimitedOwner): Limits | undefined {
  const group = owner.tokenGroup || owner.userGroup
  const scopes = [
    bounded('API key', `t:${owner.apiKeyId}`, owner.keyBounds),
    [...bounded('user', `u:${owner.userId}`, owner.userBounds), ...callsOfUser(options, owner.userId, group)],
    bounded('group', `g:${group}`, options.get('GroupLimits')[group] ?? {}),
  ].filter((limits) => limits.length > 0)
  return scopes.length > 0 ? scopes : undefined
}

function bounded(scope: Scope, name: string, bounds: Partial<Bounds>): Limit[] {
  const { rpm = 0, tpm = 0, concurrency = 0 } = bounds
  const limits: Limit[] = [
    { counts: 'concurrency', scope, key: `limit:concurrency:${name}`, limit: concurrency, windowMs: 0 },
    { counts: 'requests', scope, key: `limit:rpm:${name}`, limit: rpm, windowMs: MINUTE_MS },
    { counts: 'tokens', scope, key: `limit:tpm:${name}`, limit: tpm, windowMs: MINUTE_MS },
  ]
  return limits.filter(({ limit }) => limit > 0)
}

/** `ModelRequestRateLimit…`: calls of a user, and served calls of a user, in a window of minutes; a group may have its own. */
function callsOfUser(options: Pick<Options, 'get'>, userId: number, group: string): Limit[] {
  if (!options.get('ModelRequestRateLimitEnabled')) return []
  const own = options.get('ModelRequestRateLimitGroup')[group]
  const total = own?.[0] ?? options.get('ModelRequestRateLimitCount')
  const served = own?.[1] ?? options.get('ModelRequestRateLimitSuccessCount')
  const windowMs = options.get('ModelRequestRateLimitDurationMinutes') * MINUTE_MS
  const limits: Limit[] = [
    { counts: 'requests', scope: 'user', key: `limit:calls:u:${userId}`, limit: total, windowMs },
    { counts: 'successes', scope: 'user', key: `limit:served:u:${userId}`, limit: served, windowMs },
  ]
  return limits.filter(({ limit }) => limit > 0)
}
