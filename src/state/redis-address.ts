/** Redis addresses as people write them. A password may hold any character, also such as a URL would want escaped. */

export interface RedisPlace {
  readonly host: string
  readonly port: number
}

export interface RedisAddress {
  /** At least one, but for a unix socket. */
  readonly places: readonly RedisPlace[]
  /** The unix socket. */
  readonly path?: string
  readonly username?: string
  readonly password?: string
  readonly db: number
  readonly isTls: boolean
}

const DEFAULT_PORT = 6379

/**
 * @param address `redis[s]://[user[:password]@]host[:port][,host[:port]…][/db]` or `unix://[user:password@]/path[?db=n]`
 * @param password used if the address has none
 * @throws on an address that cannot be read; the message holds no secret
 */
export function parseRedisAddress(address: string, password = ''): RedisAddress {
  const scheme = /^(redis|rediss|unix):\/\//.exec(address)
  if (!scheme) throw new Error('a Redis address begins with redis:// or rediss://')
  const rest = address.slice(scheme[0].length)
  const at = rest.lastIndexOf('@')
  const login = parseLogin(at < 0 ? '' : rest.slice(0, at))
  const common = {
    ...(login.user ? { username: login.user } : {}),
    ...(login.password || password ? { password: login.password || password } : {}),
    isTls: scheme[1] === 'rediss',
  }
  const [target = '', query = ''] = rest.slice(at + 1).split('?')
  const parameters = new URLSearchParams(query)
  if (scheme[1] === 'unix') return { ...common, places: [], path: target, db: databaseOf(parameters.get('db') ?? '') }
  const slash = target.indexOf('/')
  const hosts = slash < 0 ? target : target.slice(0, slash)
  return {
    ...common,
    places: hosts.split(',').map(parsePlace),
    db: databaseOf(parameters.get('db') ?? (slash < 0 ? '' : target.slice(slash + 1))),
  }
}

/** For logs and findings: no login is in it. */
export const placeName = (place: RedisPlace): string =>
  `${place.host.includes(':') ? `[${place.host}]` : place.host}:${place.port}`

function parsePlace(text: string): RedisPlace {
  const match = /^(\[[^\]]+\]|[^:]*)(?::(\d+))?$/.exec(text.trim())
  if (!match) throw new Error('the Redis address is not host:port/database, or host:port,host:port/database')
  return {
    host: match[1]!.replace(/^\[|\]$/g, '') || '127.0.0.1',
    port: match[2] ? Number(match[2]) : DEFAULT_PORT,
  }
}

function parseLogin(text: string): { user: string; password: string } {
  const colon = text.indexOf(':')
  if (colon < 0) return { user: decoded(text), password: '' }
  return { user: decoded(text.slice(0, colon)), password: decoded(text.slice(colon + 1)) }
}

function databaseOf(text: string): number {
  if (text === '') return 0
  if (!/^\d+$/.test(text)) throw new Error('the Redis database is not a number')
  return Number(text)
}

/** Percent escapes, if they are well formed; else the text as it is. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
