/**
 * Single connections to Redis: made, waited for, and never mended, since whoever holds one opens another (a fail-over may
 * have moved what the address leads to). Errors hold no login.
 */
import { Redis, type RedisOptions } from 'ioredis'
import { placeName, type RedisAddress, type RedisPlace } from './redis-address.ts'

/** A server that has not answered for this long is treated as gone. */
const ANSWER_MS = 1_000
const CONNECT_MS = 1_500

export interface Login {
  readonly username?: string
  readonly password?: string
}

/** What all connections have in common, those of a Redis Cluster too. */
export const connectionOptions = (isTls: boolean, login: Login) =>
  ({
    ...(login.username ? { username: login.username } : {}),
    ...(login.password ? { password: login.password } : {}),
    ...(isTls ? { tls: {} } : {}),
    connectTimeout: CONNECT_MS,
    commandTimeout: ANSWER_MS,
    // A silent server does not answer a farewell either.
    disconnectTimeout: 50,
    keepAlive: 10_000,
    disableClientInfo: true,
  }) satisfies RedisOptions

/** @param place one of the address's or one that a server named; absent for a unix socket */
export function createClient(address: RedisAddress, place: RedisPlace | undefined, options: RedisOptions = {}): Redis {
  const client = new Redis({
    ...connectionOptions(address.isTls, address),
    ...(place ? { host: place.host, port: place.port } : { path: address.path ?? '' }),
    db: address.db,
    lazyConnect: true,
    retryStrategy: () => null,
    enableOfflineQueue: false,
    enableReadyCheck: false,
    ...options,
  })
  // Without a listener it is printed; whoever connects gets it, and `end` tells of the rest.
  client.on('error', () => undefined)
  return client
}

/** @throws Error that says where and why; the client is closed then */
export async function connected(client: Redis, place: RedisPlace | undefined): Promise<Redis> {
  let cause: unknown
  const onError = (error: unknown): void => {
    cause ??= error
  }
  client.on('error', onError)
  try {
    await client.connect()
    return client
  } catch (error) {
    client.disconnect()
    throw new Error(`${place ? placeName(place) : 'the socket'}: ${messageOf(cause ?? error)}`)
  } finally {
    client.off('error', onError)
  }
}

/** Never the error itself: one of ioredis carries the command, and so the password of a login. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/**
 * Answers that say that this is not, or not any more, the server to ask; anything but an answer (a time-out, a closed
 * connection) says so as well. What else a server refuses is about the command.
 * @source https://redis.io/docs/latest/develop/reference/protocol-spec/ (simple errors), redis.conf
 */
const WRONG_SERVER = /\b(READONLY|MASTERDOWN|LOADING|CLUSTERDOWN|MOVED|ASK|NOAUTH|WRONGPASS)\b/

export const isLost = (error: unknown): boolean =>
  !(error instanceof Error && error.name === 'ReplyError') || WRONG_SERVER.test(error.message)
