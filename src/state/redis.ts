/**
 * State on Redis (one server, Sentinels or a Redis Cluster), with a state of this node behind it: while Redis is away,
 * refusing or silent, callers get the node's own answers at once and never an error. The store's name in keys and channels
 * is `prefix`, since channels know no database number. No command touches two keys.
 */
import type { Redis, RedisCommander } from 'ioredis'
import type { Log } from '../lib/log.ts'
import { type KeptOpen, keepOpen } from './keep-open.ts'
import { createListeners } from './listeners.ts'
import { parseRedisAddress } from './redis-address.ts'
import { isLost, messageOf } from './redis-client.ts'
import type { RedisSettings } from './redis-find.ts'
import { openSession, type RedisSession } from './redis-session.ts'
import { ADD, CORRECT, HOLD, type Script, TAKE } from './scripts.ts'
import type { State } from './state.ts'
import { stepMsOf } from './window.ts'

export interface RedisStateOptions extends RedisSettings {
  /** Begins every key and channel, such as `hg:<cluster>:`. */
  readonly prefix: string
  /** What serves while Redis does not. It is the caller's to close. */
  readonly fallback: State
  readonly log: Log
  /** Command connections of this process, to each primary; 1 if not given. One more is for messages. */
  readonly connections?: number
  /** Live nodes, at least 1: without Redis each of them grants this part of a limit. 1 if not given. */
  readonly share?: () => number
  /** How long the first connection is waited for, ms; 2,000. */
  readonly connectWaitMs?: number
}

const RHYTHM = { probeEveryMs: 1_000, retryMinMs: 50, retryMaxMs: 500 }
/** A key written during an outage is kept on this node for at most this long, so that the next outage does not meet it. */
const FALLBACK_TTL_MS = 60_000
/** What the server refuses, such as when its memory is full, is logged this often at most. */
const REFUSAL_EVERY_MS = 60_000

/** Never rejects for a server's sake: without one it comes up in degraded mode and goes on trying. @throws on an address that cannot be read */
export async function openRedisState(options: RedisStateOptions): Promise<State> {
  const { prefix, fallback, log, connections = 1, share = () => 1, connectWaitMs = 2_000 } = options
  // What can never work is said at once.
  parseRedisAddress(options.address)
  const listeners = createListeners(log)
  const firstReady = Promise.withResolvers<void>()
  const doubtsSaid = new Set<string>()
  let messages: KeptOpen<Redis> | undefined
  let isReportedDown = false
  let refusedAtMs = -Infinity

  const link = keepOpen<RedisSession>({
    ...RHYTHM,
    open: (onEnd) => openSession({ settings: options, connections, probeKey: `${prefix}alive`, onEnd }),
    probe: (session) => session.probe(),
    close: (session) => session.close(),
    onUp(session) {
      messages = keepMessages(session)
      firstReady.resolve()
      if (isReportedDown) log.info('Redis can be reached again', { form: session.form })
      isReportedDown = false
      if (!session.doubt || doubtsSaid.has(session.doubt)) return
      doubtsSaid.add(session.doubt)
      log.warn('Redis is used in another way than configured', { doubt: session.doubt })
    },
    onDown(error) {
      messages?.close()
      messages = undefined
      if (isReportedDown) return
      isReportedDown = true
      log.warn('Redis cannot be used; this node goes on by itself', { reason: messageOf(error) })
    },
  })

  /** Its loss is the messages' alone: whoever keeps in step by them also looks at versions. */
  const keepMessages = (session: RedisSession): KeptOpen<Redis> =>
    keepOpen<Redis>({
      ...RHYTHM,
      async open(onEnd) {
        const client = await session.openMessages()
        client.once('end', () => onEnd(new Error('the connection for messages was closed')))
        client.on('message', (channel: string, message: string) =>
          listeners.deliver(channel.slice(prefix.length), message),
        )
        return client
      },
      probe: async (client) => void (await client.ping()),
      close: (client) => client.disconnect(),
      onUp: (client) => listenTo(client, listeners.topics()),
    })
  const listenTo = (client: Redis, topics: readonly string[]): void => {
    if (topics.length === 0) return
    client.subscribe(...topics.map((topic) => prefix + topic)).catch((error) => {
      if (!isLost(error)) refused('subscribers', error)
      messages?.broke(client, error)
    })
  }
  const refused = (what: string, error: unknown): void => {
    if (performance.now() - refusedAtMs < REFUSAL_EVERY_MS) return
    refusedAtMs = performance.now()
    log.warn(`Redis refuses ${what}`, { reason: messageOf(error) })
  }

  const attempt = async <T>(work: (redis: RedisCommander) => Promise<T>, otherwise: () => Promise<T>): Promise<T> => {
    const session = link.current()
    if (!session) return otherwise()
    try {
      return await work(session.commands())
    } catch (error) {
      if (isLost(error)) link.broke(session, error)
      else refused('commands', error)
      return otherwise()
    }
  }
  /** The server may have forgotten a script: a restart, a fail-over, `SCRIPT FLUSH`. */
  const run = async (
    redis: RedisCommander,
    script: Script,
    key: string,
    ...args: readonly (string | number)[]
  ): Promise<unknown> => {
    try {
      return await redis.evalsha(script.sha, 1, key, ...args)
    } catch (error) {
      if (!messageOf(error).startsWith('NOSCRIPT')) throw error
      return redis.eval(script.text, 1, key, ...args)
    }
  }
  const ownPart = (limit: number): number => Math.min(limit, Math.max(1, Math.floor(limit / Math.max(1, share()))))
  /** Holds that this node's own state gave; a release may come when Redis is back. */
  const heldHere = new Set<string>()

  const patience = setTimeout(firstReady.resolve, connectWaitMs)
  await firstReady.promise
  clearTimeout(patience)

  return {
    kind: 'redis',
    get: (key) =>
      attempt(
        async (redis) => (await redis.get(prefix + key)) ?? undefined,
        () => fallback.get(key),
      ),
    set: (key, value, ttlMs) =>
      attempt(
        async (redis) => {
          if (ttlMs === undefined) await redis.set(prefix + key, value)
          else await redis.set(prefix + key, value, 'PX', wholeMs(ttlMs))
        },
        () => fallback.set(key, value, Math.min(ttlMs ?? Infinity, FALLBACK_TTL_MS)),
      ),
    delete: (key) =>
      attempt(
        async (redis) => void (await redis.del(prefix + key)),
        () => fallback.delete(key),
      ),
    add: (key, n, ttlMs) =>
      attempt(
        async (redis) => Number(await run(redis, ADD, prefix + key, n, wholeMs(ttlMs))),
        () => fallback.add(key, n, ttlMs),
      ),
    take: (key, q) =>
      attempt(
        async (redis) => {
          const { n, limit, windowMs } = q
          const reply = await run(redis, TAKE, `${prefix}window:${key}`, n, windowMs, stepMsOf(windowMs), limit)
          const [taken, used, retryAfterMs] = reply as readonly [number, number, number]
          return { taken: taken === 1, used, retryAfterMs }
        },
        () => fallback.take(key, { ...q, limit: ownPart(q.limit) }),
      ),
    correct: (key, q) =>
      attempt(
        async (redis) =>
          void (await run(redis, CORRECT, `${prefix}window:${key}`, q.n, q.windowMs, stepMsOf(q.windowMs))),
        () => fallback.correct(key, q),
      ),
    hold: (key, q) =>
      attempt(
        async (redis) => (await run(redis, HOLD, `${prefix}holders:${key}`, q.holder, q.limit, q.ttlMs)) === 1,
        async () => {
          const isHeld = await fallback.hold(key, { ...q, limit: ownPart(q.limit) })
          if (isHeld) heldHere.add(`${key} ${q.holder}`)
          return isHeld
        },
      ),
    async release(key, holder) {
      if (heldHere.delete(`${key} ${holder}`)) await fallback.release(key, holder)
      await attempt(
        async (redis) => void (await redis.zrem(`${prefix}holders:${key}`, holder)),
        async () => undefined,
      )
    },
    publish: (topic, message) =>
      attempt(
        async (redis) => void (await redis.publish(prefix + topic, message)),
        () => fallback.publish(topic, message),
      ),
    subscribe(topic, listener) {
      const client = messages?.current()
      if (client && !listeners.has(topic)) listenTo(client, [topic])
      const leaveRemote = listeners.add(topic, listener)
      const leaveFallback = fallback.subscribe(topic, listener)
      return () => {
        leaveRemote()
        leaveFallback()
        if (!listeners.has(topic))
          messages
            ?.current()
            ?.unsubscribe(prefix + topic)
            .catch(() => undefined)
      }
    },
    isUp: () => link.current() !== undefined,
    form: () => link.current()?.form ?? 'away',
    async close() {
      listeners.clear()
      messages?.close()
      link.close()
    },
  }
}

const wholeMs = (ms: number): number => Math.max(1, Math.ceil(ms))
