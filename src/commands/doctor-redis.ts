/** What `doctor` finds about Redis. */
import type { Config } from '../config.ts'
import { systemClock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { createMemoryState, openRedisState } from '../state/index.ts'
import type { Finding } from './doctor.ts'

export async function checkRedis(config: Config): Promise<readonly Finding[]> {
  if (config.redisConnString === '') {
    return [
      {
        level: 'ok',
        text: config.isSingleNode
          ? 'not used; a single node needs none'
          : 'not used; nodes find changes through the database',
      },
    ]
  }
  let why = ''
  const log = {
    ...silentLog,
    warn: (_msg: string, fields?: Record<string, unknown>) => {
      why = why || describe(fields?.['error'])
    },
  }
  const fallback = createMemoryState({ clock: systemClock, log: silentLog })
  const state = await openRedisState({
    address: config.redisConnString,
    password: config.redisPassword,
    prefix: 'headgate:doctor:',
    fallback,
    log,
    connectWaitMs: 5_000,
  })
  try {
    if (!state.isUp()) {
      return [
        {
          level: 'warning',
          text: `REDIS_CONN_STRING: cannot be reached${why ? ` (${why})` : ''}`,
          advice: 'nodes run without it, more slowly in step; check address, password and TLS (rediss://)',
        },
      ]
    }
    const startedAt = systemClock.monotonic()
    await state.set('ping', String(startedAt), 10_000)
    const isKept = (await state.get('ping')) === String(startedAt) && state.isUp()
    const text = `REDIS_CONN_STRING: reachable, ${(systemClock.monotonic() - startedAt).toFixed(1)} ms for two commands`
    return [
      isKept
        ? { level: 'ok', text }
        : {
            level: 'warning',
            text: 'REDIS_CONN_STRING: answers, but does not keep a key',
            advice: 'check what its user may do',
          },
    ]
  } finally {
    await state.close()
    await fallback.close()
  }
}

const describe = (error: unknown): string => (error instanceof Error ? error.message : '')
