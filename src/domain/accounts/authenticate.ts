/**
 * Who an API key belongs to and what it may do, answered from memory. Entries are found by a keyed hash of the whole key
 * and die with the topics `api-keys` and `users`; while the database is gone they serve on for the lease, no longer.
 * Reads no balance: whether money is there is the ledger's question.
 */
import { randomBytes } from 'node:crypto'
import { eq, inArray } from 'drizzle-orm'
import { type Db, DbError, readTopicChanges, readTopicVersion } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import type { Topics } from '../../state/index.ts'
import { type Limits, limitsOf } from '../limits/index.ts'
import { autoGroups, type Options, usableGroups } from '../options/index.ts'
import { ROLE, USER_STATUS } from './actor.ts'
import { KEY_STATUS, type KeyOwner, readKeyOwners } from './api-key-owner.ts'
import { parseCredential } from './credential.ts'

/** Who makes a call, as the relay needs it. */
export interface Caller {
  readonly userId: number
  readonly username: string
  readonly role: number
  readonly userGroup: string
  readonly apiKeyId: number
  readonly apiKeyName: string
  /** The key's own group; '' when it has none. */
  readonly tokenGroup: string
  /** Groups to try in order; `auto` is expanded. */
  readonly groups: readonly string[]
  readonly isAuto: boolean
  readonly crossGroupRetry: boolean
  /** The same object for each call of the key. */
  readonly payer: { readonly userId: number; readonly apiKeyId: number; readonly isUnlimitedKey: boolean }
  /** Normalised model names; undefined: any. */
  readonly modelLimits: ReadonlySet<string> | undefined
  readonly acceptsUnpriced: boolean
  readonly recordsIp: boolean
  readonly forcedChannelId: number | undefined
  /** What bounds its calls; undefined: nothing. */
  readonly limits: Limits | undefined
  /** Normalised; '' unless `recordsIp`. */
  readonly ip: string
}

export interface AuthenticatorDeps {
  readonly db: Db
  readonly topics: Topics
  readonly options: Options
  readonly log: Log
  readonly clock: Clock
  /** How long an entry is taken for true without asking again, ms. */
  readonly freshMs: number
  /** How much longer it may serve while the database is gone, ms. */
  readonly leaseMs: number
  readonly maxEntries?: number
}

/** Who calls with a key, from any address, as the options of the moment have it. */
interface Known {
  /** The options it was worked out with. */
  readonly state: unknown
  readonly caller: Caller
}

interface Entry {
  readonly owner: KeyOwner
  /** The generation it holds in; a change of a topic begins a new one, which those that are not concerned enter as they are. */
  generation: number
  readonly loadedAtMs: number
  usedAtMs: number
}

/** What a key may be and what its owner may be. */
const KEY_TOPICS = ['api-keys', 'users'] as const
type KeyTopic = (typeof KEY_TOPICS)[number]

const MAX_ENTRIES = 20_000
/** Width of `tokens.key`. */
const MAX_KEY_LENGTH = 128
const RELOAD_BATCH = 500

export function createAuthenticator(deps: AuthenticatorDeps) {
  const { db, options, log, clock, freshMs, leaseMs, maxEntries = MAX_ENTRIES } = deps
  const secret = randomBytes(32)
  const entries = new Map<string, Entry>()
  const loads = new Map<string, { readonly generation: number; readonly owner: Promise<KeyOwner | undefined> }>()
  const callers = new WeakMap<KeyOwner, Known>()
  let generation = 0
  /** The generation of the entries that have in them all that the versions in `seen` tell of. */
  let held = 0
  const seen = new Map<KeyTopic, number>()
  /** Changes that are not dealt with yet. */
  let waiting = 0
  let reloading: Promise<void> | undefined

  const digest = (key: string): string => new Bun.CryptoHasher('sha256', secret).update(key).digest('base64')

  const remember = (hash: string, owner: KeyOwner, usedAtMs: number): void => {
    entries.delete(hash)
    entries.set(hash, { owner, generation, loadedAtMs: clock.monotonic(), usedAtMs })
    if (entries.size > maxEntries) entries.delete(entries.keys().next().value!)
  }

  /** Reads one key; concurrent callers of one generation share the read. */
  const load = (hash: string, key: string): Promise<KeyOwner | undefined> => {
    const running = loads.get(hash)
    if (running?.generation === generation) return running.owner
    const begun = generation
    const owner = (async () => {
      const found = (await readKeyOwners(db, eq(db.tables.tokens.key, key))).find((row) => row.key === key)?.owner
      // A change came while this was read: it may show what was before the change, so it is read again.
      if (begun !== generation) return load(hash, key)
      if (found) remember(hash, found, clock.monotonic())
      else entries.delete(hash)
      return found
    })()
    const record = { generation: begun, owner }
    loads.set(hash, record)
    const forget = (): void => {
      if (loads.get(hash) === record) loads.delete(hash)
    }
    owner.then(forget, forget)
    return owner
  }

  const isCurrent = (entry: Entry, maxAgeMs: number, nowMs: number): boolean =>
    entry.generation === generation && nowMs - entry.loadedAtMs < maxAgeMs

  /** From memory, where it is not in doubt. */
  const remembered = (hash: string): KeyOwner | undefined => {
    const entry = entries.get(hash)
    const nowMs = clock.monotonic()
    if (!entry || !isCurrent(entry, freshMs, nowMs)) return undefined
    entry.usedAtMs = nowMs
    return entry.owner
  }

  /** @throws GatewayError 503 when the database is needed and gone */
  const find = async (hash: string, key: string): Promise<KeyOwner | undefined> => {
    if (reloading && entries.get(hash)?.generation !== generation) await reloading.catch(() => undefined)
    const entry = entries.get(hash)
    const nowMs = clock.monotonic()
    if (entry && isCurrent(entry, freshMs + leaseMs, nowMs)) {
      entry.usedAtMs = nowMs
      // The periodic reload keeps entries fresh. One that is not is a sign of a database in trouble: nobody waits for it.
      if (!isCurrent(entry, freshMs, nowMs))
        load(hash, key).catch((error) => log.debug('an API key was not refreshed', { error }))
      return entry.owner
    }
    try {
      return await load(hash, key)
    } catch (cause) {
      if (cause instanceof DbError) throw new GatewayError('dependency_unavailable', { cause, retryAfterSec: 1 })
      throw cause
    }
  }

  /**
   * A change of keys or users puts all in doubt until it is dealt with. What it names is forgotten; with thousands of keys in
   * use somebody changes one all the time, so the others stay as they are. One after the other.
   */
  const reload = (topic: KeyTopic, isFull: boolean): Promise<void> => {
    generation++
    waiting++
    const current = (reloading ?? Promise.resolve())
      .catch(() => undefined)
      .then(() => renew(topic, isFull))
      .finally(() => {
        waiting--
        if (reloading === current) reloading = undefined
      })
    reloading = current
    return current
  }
  const renew = async (topic: KeyTopic, isFull: boolean): Promise<void> => {
    const after = isFull ? undefined : seen.get(topic)
    if (after === undefined) return rereadAll()
    const upTo = await readTopicVersion(db, topic)
    const changed = await readTopicChanges(db, topic, { after, upTo })
    if (!changed) return rereadAll()
    const ids = new Set(changed)
    // A key that was read meanwhile may show what was before this version; it stays behind, and is read again.
    const next = ++generation
    for (const [hash, entry] of entries) {
      if (entry.generation !== held) continue
      if (ids.has(topic === 'users' ? entry.owner.userId : entry.owner.apiKeyId)) entries.delete(hash)
      else entry.generation = next
    }
    held = next
    seen.set(topic, upTo)
    // Another change waits: all is in doubt again.
    if (waiting > 1) generation++
  }
  /** Nothing passes: each key is read when it is asked for, and the next change reads all. */
  const letGo = (): void => {
    seen.clear()
    held = ++generation
  }
  /** What is in use is read again at once, the rest forgotten. */
  const rereadAll = async (): Promise<void> => {
    if (waiting > 1 || entries.size === 0) return letGo()
    const versions = new Map<KeyTopic, number>()
    for (const topic of KEY_TOPICS) versions.set(topic, await readTopicVersion(db, topic))
    // What several loads read together may be older than a change that was dealt with before it.
    if (KEY_TOPICS.some((topic) => versions.get(topic)! < (seen.get(topic) ?? 0))) return letGo()
    const next = ++generation
    if (!(await reread(next))) return letGo()
    held = next
    for (const [topic, version] of versions) seen.set(topic, version)
  }
  /** @returns false when another change came: what was read may show what was before it */
  const reread = async (begun: number): Promise<boolean> => {
    const oldestMs = clock.monotonic() - freshMs - leaseMs
    for (const [hash, entry] of entries) if (entry.usedAtMs < oldestMs) entries.delete(hash)
    const wanted = [...entries]
    for (let at = 0; at < wanted.length; at += RELOAD_BATCH) {
      const batch = wanted.slice(at, at + RELOAD_BATCH)
      const ids = batch.map(([, entry]) => entry.owner.apiKeyId)
      const rows = await readKeyOwners(db, inArray(db.tables.tokens.id, ids))
      if (begun !== generation) return false
      const byHash = new Map(rows.map((row) => [digest(row.key), row.owner]))
      for (const [hash, entry] of batch) {
        const owner = byHash.get(hash)
        if (owner) remember(hash, owner, entry.usedAtMs)
        else entries.delete(hash)
      }
    }
    return true
  }
  const unwatch = KEY_TOPICS.map((topic) => deps.topics.watch(topic, (isFull) => reload(topic, isFull)))

  /** The same object for each call of a key, until the key or the options change. */
  const callerOf = (owner: KeyOwner): Caller => {
    const state = options.state()
    const known = callers.get(owner)
    if (known?.state === state) return known.caller
    const caller: Caller = {
      userId: owner.userId,
      username: owner.username,
      role: owner.role,
      userGroup: owner.userGroup,
      apiKeyId: owner.apiKeyId,
      apiKeyName: owner.apiKeyName,
      tokenGroup: owner.tokenGroup,
      groups: resolveGroups(options, owner),
      isAuto: owner.tokenGroup === 'auto',
      crossGroupRetry: owner.crossGroupRetry,
      payer: { userId: owner.userId, apiKeyId: owner.apiKeyId, isUnlimitedKey: owner.isUnlimited },
      modelLimits: owner.modelLimits,
      acceptsUnpriced: owner.acceptsUnpriced,
      recordsIp: owner.recordsIp,
      forcedChannelId: undefined,
      limits: limitsOf(options, owner),
      ip: '',
    }
    callers.set(owner, { state, caller })
    return caller
  }

  /** Whose key it is, unless it is unknown or disabled. */
  const findUsable = (key: string): KeyOwner | Promise<KeyOwner> => {
    if (key === '' || key.length > MAX_KEY_LENGTH) throw new GatewayError('invalid_api_key')
    const hash = digest(key)
    const owner = remembered(hash)
    return owner ? usable(owner) : find(hash, key).then(usable)
  }
  const usable = (owner: KeyOwner | undefined): KeyOwner => {
    if (!owner || owner.status === KEY_STATUS.disabled) throw new GatewayError('invalid_api_key')
    return owner
  }

  return {
    /**
     * @param credential as presented, `sk-` and channel suffix included
     * @param ip normalised address of the client; asked for only where it matters, since the runtime takes its time
     * @throws GatewayError 401 `invalid_api_key`, 403 `access_denied`, 400 `invalid_request`, 503 `dependency_unavailable`
     */
    async authenticate(credential: string, ip: () => string): Promise<Caller> {
      const { key, channel } = parseCredential(credential)
      const owner = await findUsable(key)
      // Exhausted keys pass: the ledger knows the balance of this moment and answers for it.
      if (owner.status !== KEY_STATUS.enabled && owner.status !== KEY_STATUS.exhausted)
        throw new GatewayError('invalid_api_key')
      if (isExpired(owner, clock.now())) throw new GatewayError('invalid_api_key')
      if (owner.allowedIps && !owner.allowedIps.has(ip())) throw denied('This address may not use the API key')
      if (owner.userStatus !== USER_STATUS.enabled) throw denied('The user is disabled')
      const caller = callerOf(owner)
      const forcedChannelId = forcedChannel(owner, channel)
      if (!owner.recordsIp && forcedChannelId === undefined) return caller
      return { ...caller, forcedChannelId, ip: owner.recordsIp ? ip() : '' }
    },

    /**
     * The key behind a credential for reading about itself: expired and exhausted keys pass.
     * @throws GatewayError 401 `invalid_api_key`, 403 `access_denied`, 503 `dependency_unavailable`
     */
    async identifyKey(credential: string): Promise<KeyOwner> {
      const owner = await findUsable(parseCredential(credential).key)
      if (owner.userStatus !== USER_STATUS.enabled) throw denied('The user is disabled')
      return owner
    },

    /** Keys in memory. */
    size: (): number => entries.size,
    close(): void {
      for (const stop of unwatch) stop()
    },
  }
}
export type Authenticator = ReturnType<typeof createAuthenticator>

const denied = (reason: string): GatewayError => new GatewayError('access_denied', { params: { reason } })

export const isExpired = (key: { readonly expiresAtSec: number }, nowMs: number): boolean =>
  key.expiresAtSec !== -1 && key.expiresAtSec * 1000 < nowMs

function forcedChannel(owner: KeyOwner, channel: string | undefined): number | undefined {
  if (channel === undefined) return undefined
  if (owner.role < ROLE.admin) throw denied('Only administrators may choose a channel')
  if (!/^\d{1,15}$/.test(channel))
    throw new GatewayError('invalid_request', { params: { reason: 'The channel behind the API key is not a number' } })
  return Number(channel)
}

function resolveGroups(options: Options, owner: KeyOwner): readonly string[] {
  const { tokenGroup, userGroup } = owner
  if (tokenGroup === '') return [userGroup]
  if (!usableGroups(options, userGroup).has(tokenGroup)) throw denied(`Group ${tokenGroup} is not open to this user`)
  if (tokenGroup === 'auto') return autoGroups(options, userGroup, owner.autoGroups)
  if (!Object.hasOwn(options.get('GroupRatio'), tokenGroup)) throw denied(`Group ${tokenGroup} does not exist`)
  return [tokenGroup]
}
