/** Redis addresses as people write them. A password may hold any character, also such as a URL would want escaped. */
import type { RedisOptions } from 'ioredis'

const DEFAULT_PORT = 6379

/**
 * @param address `redis[s]://[user[:password]@]host[:port][/db]` or `unix://[user:password@]/path[?db=n]`
 * @param password used if the address has none
 * @throws on an address that cannot be read; the message holds no secret
 */
export function parseRedisAddress(address: string, password = ''): RedisOptions {
  const scheme = /^(redis|rediss|unix):\/\//.exec(address)
  if (!scheme) throw new Error('a Redis address begins with redis:// or rediss://')
  const rest = address.slice(scheme[0].length)
  const at = rest.lastIndexOf('@')
  const login = parseLogin(at < 0 ? '' : rest.slice(0, at))
  const options: RedisOptions = {
    ...(login.user ? { username: login.user } : {}),
    ...(login.password || password ? { password: login.password || password } : {}),
  }
  const [place = '', query = ''] = rest.slice(at + 1).split('?')
  const parameters = new URLSearchParams(query)
  if (scheme[1] === 'unix') return { ...options, path: place, db: databaseOf(parameters.get('db') ?? '') }
  const match = /^(\[[^\]]+\]|[^:/]*)(?::(\d+))?(?:\/(.*))?$/.exec(place)
  if (!match) throw new Error('the Redis address is not host:port/database')
  const host = match[1]!.replace(/^\[|\]$/g, '') || '127.0.0.1'
  return {
    ...options,
    host,
    port: match[2] ? Number(match[2]) : DEFAULT_PORT,
    db: databaseOf(parameters.get('db') ?? match[3] ?? ''),
    ...(scheme[1] === 'rediss' ? { tls: { servername: host } } : {}),
  }
}

function parseLogin(text: string): { user: string; password: string } {
  const colon = text.indexOf(':')
  if (colon < 0) return { user: decoded(text), password: '' }
  return { user: decoded(text.slice(0, colon)), password: decoded(text.slice(colon + 1)) }
}

function databaseOf(text: string): number {
  if (text === '') return 0
  if (!/^\d+$/.test(text)) throw new Error(`the Redis database \`${text}\` is not a number`)
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
