/**
 * State on one Redis server, with a state of this node behind it: while Redis is away, refusing or silent, callers get the
 * node's own answers at once and never an error. The store's name in keys and channels is `prefix`, since channels know
 * no database number.
 */
import { Redis, type RedisOptions } from 'ioredis'
import type { Log } from '../lib/log.ts'
import { createListeners } from './listeners.ts'
import { parseRedisAddress } from './redis-address.ts'
import type { State } from './state.ts'

export interface RedisStateOptions {
  /** `redis://`, `rediss://` or `unix://` with user, password and database number */
  readonly address: string
  /** Used if the address has no password. */
  readonly password?: string
  /** Begins every key and channel, such as `hg:<cluster>:`. */
  readonly prefix: string
  /** What serves while Redis does not. It is the caller's to close. */
  readonly fallback: State
  readonly log: Log
  /** How long the first connection is waited for, ms; 2,000. */
  readonly connectWaitMs?: number
}

/** A server that has not answered for this long is treated as gone. */
const COMMAND_TIMEOUT_MS = 1_000
const CONNECT_TIMEOUT_MS = 2_000
const RETRY_MIN_MS = 50
const RETRY_MAX_MS = 1_000
/** A key written during an outage is kept on this node for at most this long, so that the next outage does not meet it. */
const FALLBACK_TTL_MS = 60_000

/** Never rejects: without a server it comes up in degraded mode and goes on trying. */
export async function openRedisState(options: RedisStateOptions): Promise<State> {
  const { prefix, fallback, log, connectWaitMs = 2_000 } = options
  const listeners = createListeners(log)
  const connection: RedisOptions = {
    ...parseRedisAddress(options.address, options.password),
    lazyConnect: true,
    connectTimeout: CONNECT_TIMEOUT_MS,
    keepAlive: 10_000,
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    autoResubscribe: false,
    retryStrategy: (attempt) => Math.min(RETRY_MIN_MS * 2 ** Math.min(attempt, 10), RETRY_MAX_MS),
    // A demoted primary refuses writes: look again where the address leads now.
    reconnectOnError: (error) => error.message.startsWith('READONLY'),
  }
  const commands = new Redis({ ...connection, commandTimeout: COMMAND_TIMEOUT_MS, enableAutoPipelining: true })
  const messages = new Redis(connection)
  const firstReady = Promise.withResolvers<void>()
  let isUp = false
  let isClosed = false
  let wasReported = false

  const goneDown = (error?: unknown): void => {
    isUp = false
    if (wasReported || isClosed) return
    wasReported = true
    log.warn('Redis cannot be reached; this node goes on by itself', { error })
  }
  commands.on('ready', () => {
    isUp = true
    firstReady.resolve()
    if (wasReported) log.info('Redis can be reached again')
    wasReported = false
  })
  commands.on('error', goneDown)
  commands.on('close', () => goneDown())
  messages.on('error', () => {
    // The other connection reports the outage; this one only must not end the process.
  })
  messages.on('ready', () => {
    for (const topic of listeners.topics()) subscribeRemote(topic)
  })
  messages.on('message', (channel: string, message: string) => listeners.deliver(channel.slice(prefix.length), message))

  const subscribeRemote = (topic: string): void => {
    if (messages.status === 'ready') messages.subscribe(prefix + topic).catch(() => undefined)
  }
  const attempt = async <T>(work: () => Promise<T>, otherwise: () => Promise<T>): Promise<T> => {
    if (!isUp) return otherwise()
    try {
      return await work()
    } catch (error) {
      if (isTimeout(error) && isUp) {
        // A silent server: a new connection finds out when it is back, and nobody waits for this one again.
        goneDown(error)
        commands.disconnect(true)
        messages.disconnect(true)
      } else if (commands.status === 'ready') {
        log.warn('Redis refused a command', { error })
      }
      return otherwise()
    }
  }

  commands.connect().catch(() => undefined)
  messages.connect().catch(() => undefined)
  const patience = setTimeout(firstReady.resolve, connectWaitMs)
  await firstReady.promise
  clearTimeout(patience)

  return {
    kind: 'redis',
    get: (key) =>
      attempt(
        async () => (await commands.get(prefix + key)) ?? undefined,
        () => fallback.get(key),
      ),
    set: (key, value, ttlMs) =>
      attempt(
        async () => {
          if (ttlMs === undefined) await commands.set(prefix + key, value)
          else await commands.set(prefix + key, value, 'PX', Math.max(1, Math.ceil(ttlMs)))
        },
        () => fallback.set(key, value, Math.min(ttlMs ?? Infinity, FALLBACK_TTL_MS)),
      ),
    delete: (key) =>
      attempt(
        async () => void (await commands.del(prefix + key)),
        () => fallback.delete(key),
      ),
    add: (key, n, ttlMs) =>
      attempt(
        async () => {
          // One transaction on one key: the counter is made with its end, or only added to.
          const replies = await commands
            .multi()
            .set(prefix + key, 0, 'PX', Math.max(1, Math.ceil(ttlMs)), 'NX')
            .incrby(prefix + key, n)
            .exec()
          const [error, sum] = replies?.[1] ?? [new Error('no reply'), 0]
          if (error) throw error
          return Number(sum)
        },
        () => fallback.add(key, n, ttlMs),
      ),
    publish: (topic, message) =>
      attempt(
        async () => void (await commands.publish(prefix + topic, message)),
        () => fallback.publish(topic, message),
      ),
    subscribe(topic, listener) {
      if (!listeners.has(topic)) subscribeRemote(topic)
      const leaveRemote = listeners.add(topic, listener)
      const leaveFallback = fallback.subscribe(topic, listener)
      return () => {
        leaveRemote()
        leaveFallback()
        if (!listeners.has(topic) && messages.status === 'ready')
          messages.unsubscribe(prefix + topic).catch(() => undefined)
      }
    },
    isUp: () => isUp,
    async close() {
      isClosed = true
      isUp = false
      listeners.clear()
      commands.disconnect()
      messages.disconnect()
    },
  }
}

const isTimeout = (error: unknown): boolean => error instanceof Error && /timed out|timeout/i.test(error.message)
