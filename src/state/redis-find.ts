/** Finds out what is at a Redis address: one server, Sentinels that know it, or a Redis Cluster. */
import type { Redis } from 'ioredis'
import { parseRedisAddress, placeName, type RedisAddress, type RedisPlace } from './redis-address.ts'
import { connected, createClient, type Login, messageOf } from './redis-client.ts'

export interface RedisSettings {
  /** `redis://`, `rediss://` or `unix://` with user, password and database number; several places parted by commas */
  readonly address: string
  /** Used if the address has no password. */
  readonly password?: string
  /** What the Sentinels at the address call their primary. */
  readonly masterName?: string
  /** Of the Sentinels themselves. */
  readonly sentinelPassword?: string
}

export type RedisForm = 'single' | 'sentinel' | 'cluster'

export interface FoundRedis {
  readonly form: RedisForm
  readonly address: RedisAddress
  /** The primary; absent for a unix socket and for a cluster, which has several. */
  readonly primary?: RedisPlace
  /** What the Sentinels took; absent without Sentinels. */
  readonly sentinelLogin?: Login
  /** Works, but is likely not meant: in words for an operator. */
  readonly doubt?: string
}

interface Answer {
  readonly mode: RedisForm
  readonly isReplica: boolean
  readonly isLoading: boolean
  /** What a Sentinel says of the name; absent if it knows none. `epoch` grows with each fail-over. */
  readonly primary?: { readonly place: RedisPlace; readonly epoch: number }
  readonly login: Login
}

/** What the others may take longer than the first place that can be used, before they are left out. */
const STRAGGLER_MS = 200

/** @throws Error when no place gives an answer that can be used; its message names each, without secrets */
export async function findRedis(settings: RedisSettings): Promise<FoundRedis> {
  const address = parseRedisAddress(settings.address, settings.password)
  const places = address.path === undefined ? address.places : [undefined]
  const { found, errors } = await gather(
    places.map(async (place) => {
      const answer = await ask(settings, address, place)
      return { epoch: answer.primary?.epoch ?? 0, redis: judge(settings, address, place, answer) }
    }),
  )
  // Sentinels hear of a fail-over one after the other; the largest epoch is of the latest. Else as the address has them.
  const [best] = found.toSorted((a, b) => b.epoch - a.epoch)
  if (!best) throw new Error(errors.map(messageOf).join('; '))
  return best.redis
}

/** Waits for all, but not long for the others once there is one. */
async function gather<T>(asked: readonly Promise<T>[]): Promise<{ found: readonly T[]; errors: readonly unknown[] }> {
  const found: T[] = []
  const errors: unknown[] = []
  const all = Promise.all(
    asked.map((one, n) =>
      one.then(
        (value) => {
          found[n] = value
        },
        (error: unknown) => void errors.push(error),
      ),
    ),
  )
  await Promise.any(asked).catch(() => undefined)
  const enough = Promise.withResolvers<void>()
  const timer = setTimeout(enough.resolve, STRAGGLER_MS)
  await Promise.race([all, enough.promise])
  clearTimeout(timer)
  return { found: found.filter((value) => value !== undefined), errors }
}

function judge(
  { masterName = '' }: RedisSettings,
  address: RedisAddress,
  place: RedisPlace | undefined,
  answer: Answer,
): FoundRedis {
  const at = place ? placeName(place) : 'the socket'
  if (answer.mode === 'sentinel') {
    if (masterName === '') throw new Error(`${at}: is a Sentinel; name its primary in REDIS_MASTER_NAME`)
    if (!answer.primary) throw new Error(`${at}: this Sentinel knows no primary \`${masterName}\` (REDIS_MASTER_NAME)`)
    return { form: 'sentinel', address, primary: answer.primary.place, sentinelLogin: answer.login }
  }
  if (answer.isLoading) throw new Error(`${at}: LOADING its data`)
  const unneeded = masterName === '' ? [] : [`REDIS_MASTER_NAME: ${at} is no Sentinel, so it is used directly`]
  if (answer.mode === 'cluster') {
    if (address.db !== 0) unneeded.push(`a Redis Cluster has no database ${address.db}, so 0 is used`)
    return { form: 'cluster', address: { ...address, db: 0 }, ...doubtOf(unneeded) }
  }
  if (answer.isReplica) throw new Error(`${at}: READONLY, a replica; the address must lead to the primary`)
  return { form: 'single', address, ...(place && { primary: place }), ...doubtOf(unneeded) }
}

const doubtOf = (texts: readonly string[]): { readonly doubt?: string } =>
  texts.length === 0 ? {} : { doubt: texts.join('; ') }

/** A Sentinel has a login of its own, but only an answer tells whether it is one: both are tried. */
async function ask(settings: RedisSettings, address: RedisAddress, place: RedisPlace | undefined): Promise<Answer> {
  const { masterName = '', sentinelPassword } = settings
  if (masterName === '') return askAs(masterName, address, place, address)
  try {
    return await askAs(masterName, address, place, sentinelPassword ? { password: sentinelPassword } : {})
  } catch (error) {
    if (!/NOAUTH|WRONGPASS|AUTH/.test(messageOf(error)) || !address.password) throw error
    return askAs(masterName, address, place, address)
  }
}

async function askAs(
  masterName: string,
  { places, path, isTls }: RedisAddress,
  place: RedisPlace | undefined,
  { username, password }: Login,
): Promise<Answer> {
  const login = { ...(username && { username }), ...(password && { password }) }
  // A Sentinel has no databases.
  const bare = { places, isTls, db: 0, ...(path !== undefined && { path }), ...login }
  const client = await connected(createClient(bare, place), place)
  try {
    const info = parseInfo(await infoOf(client))
    const mode = info.get('redis_mode')
    const isSentinel = mode === 'sentinel'
    const primary = isSentinel && masterName !== '' ? await primaryOf(client, masterName) : undefined
    return {
      mode: isSentinel ? 'sentinel' : mode === 'cluster' || info.get('cluster_enabled') === '1' ? 'cluster' : 'single',
      isReplica: (info.get('role') ?? 'master') !== 'master',
      isLoading: info.get('loading') === '1',
      login,
      ...(primary && { primary }),
    }
  } catch (error) {
    throw new Error(`${place ? placeName(place) : 'the socket'}: ${messageOf(error)}`)
  } finally {
    client.disconnect()
  }
}

/** A user that may not ask gets an empty text: one server is assumed. */
async function infoOf(client: Redis): Promise<string> {
  try {
    return await client.info()
  } catch (error) {
    if (messageOf(error).startsWith('NOPERM')) return ''
    throw error
  }
}

/** @source https://redis.io/docs/latest/develop/reference/sentinel-clients/ */
async function primaryOf(client: Redis, masterName: string): Promise<Answer['primary']> {
  const reply = await client.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', masterName)
  if (!Array.isArray(reply)) return undefined
  const fields = (await client.call('SENTINEL', 'MASTER', masterName)) as readonly unknown[]
  const epoch = Number(fields[fields.indexOf('config-epoch') + 1])
  return { place: { host: String(reply[0]), port: Number(reply[1]) }, epoch: Number.isInteger(epoch) ? epoch : 0 }
}

/** `name:value` lines of INFO. */
export function parseInfo(text: string): ReadonlyMap<string, string> {
  const lines = text.split('\n').map((line) => line.trim())
  return new Map(
    lines.flatMap((line) => {
      const colon = line.indexOf(':')
      return colon < 1 || line.startsWith('#') ? [] : [[line.slice(0, colon), line.slice(colon + 1)] as const]
    }),
  )
}
