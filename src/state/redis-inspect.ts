/** Looks at Redis as a node would use it, for an operator: what form it has, how its primaries are, what it refuses. */
import type { Redis } from 'ioredis'
import { placeName } from './redis-address.ts'
import { messageOf } from './redis-client.ts'
import { parseInfo, type RedisForm, type RedisSettings } from './redis-find.ts'
import { openSession, type RedisSession } from './redis-session.ts'

export interface RedisReport {
  readonly form: RedisForm
  /** Works, but is likely not meant. */
  readonly doubt?: string
  readonly primaries: readonly PrimaryReport[]
  /** What was tried and refused, with the server's words: `to keep a key`, … */
  readonly refused: readonly { readonly what: string; readonly why: string }[]
}

export interface PrimaryReport {
  readonly name: string
  /** '' if this user may not ask. */
  readonly version: string
  /** There and back, the best of a few. */
  readonly answerMs: number
  /** What its clock is ahead of this machine's. */
  readonly offsetMs: number
  readonly replicas: number
  /** What it does when its memory is full; undefined where nothing bounds it. */
  readonly evictionPolicy?: string
}

const ASKED = 5

/** @throws Error that says why it cannot be used, without secrets */
export async function inspectRedis(settings: RedisSettings, prefix: string): Promise<RedisReport> {
  const session = await openSession({ settings, connections: 1, probeKey: `${prefix}alive`, onEnd: () => undefined })
  try {
    const { form, doubt } = session
    return {
      form,
      ...(doubt && { doubt }),
      primaries: await Promise.all(session.primaries().map(reportOf)),
      refused: await refusalsOf(session, `${prefix}${crypto.randomUUID()}`),
    }
  } finally {
    session.close()
  }
}

async function reportOf(client: Redis): Promise<PrimaryReport> {
  const { host, port, path } = client.options
  let answerMs = Infinity
  let offsetMs = 0
  for (let n = 0; n < ASKED; n++) {
    const askedAtMs = Date.now()
    const startedAt = performance.now()
    const [seconds = 0, micros = 0] = (await client.time()).map(Number)
    const tookMs = performance.now() - startedAt
    if (tookMs >= answerMs) continue
    answerMs = tookMs
    offsetMs = seconds * 1_000 + micros / 1_000 - (askedAtMs + tookMs / 2)
  }
  const info = parseInfo(await client.info().catch(() => ''))
  return {
    name: path ?? placeName({ host: host ?? '', port: port ?? 0 }),
    version: info.get('redis_version') ?? '',
    answerMs,
    offsetMs,
    replicas: Number(info.get('connected_slaves') ?? 0),
    ...(Number(info.get('maxmemory') ?? 0) > 0 && { evictionPolicy: info.get('maxmemory_policy') ?? 'unknown' }),
  }
}

/** What a node does there, tried once each. */
async function refusalsOf(session: RedisSession, key: string): Promise<RedisReport['refused']> {
  const redis = session.commands()
  const trials: readonly (readonly [string, () => Promise<unknown>])[] = [
    [
      'to keep a key',
      async () => {
        await redis.set(key, 'kept', 'PX', 10_000)
        if ((await redis.get(key)) !== 'kept') throw new Error('it was gone at once')
      },
    ],
    ['to run a script', () => redis.eval("return redis.call('TIME')", 1, key)],
    ['to pass on messages', () => redis.publish(key, '')],
    [
      'to take subscribers',
      async () => {
        const messages = await session.openMessages()
        await messages.subscribe(key).finally(() => messages.disconnect())
      },
    ],
  ]
  const refused: { what: string; why: string }[] = []
  for (const [what, trial] of trials)
    await trial().catch((error: unknown) => refused.push({ what, why: messageOf(error) }))
  return refused
}
