/** What `doctor` finds about Redis. Nothing here is a problem: nodes run without it, more slowly in step. */
import type { Config } from '../config.ts'
import { inspectRedis, type PrimaryReport, type RedisReport } from '../state/redis-inspect.ts'
import type { Finding } from './doctor.ts'

const SLOW_MS = 50
const SKEW_MS = 2_000

const FORMS = {
  single: 'one server',
  sentinel: 'the primary that the Sentinels name',
  cluster: 'a Redis Cluster',
} as const satisfies Record<RedisReport['form'], string>

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
  try {
    return findingsOf(
      await inspectRedis(
        {
          address: config.redisConnString,
          password: config.redisPassword,
          masterName: config.redisMasterName,
          sentinelPassword: config.redisSentinelPassword,
        },
        'headgate:doctor:',
      ),
    )
  } catch (error) {
    const why = error instanceof Error ? error.message : 'it does not answer'
    return [{ level: 'warning', text: `REDIS_CONN_STRING: cannot be used (${why})`, advice: adviceFor(why) }]
  }
}

function findingsOf({ form, doubt, primaries, refused }: RedisReport): readonly Finding[] {
  return [
    {
      level: 'ok',
      text: `REDIS_CONN_STRING: reachable, ${FORMS[form]}${form === 'cluster' ? ` of ${primaries.length} primaries` : ''}`,
    },
    ...(doubt
      ? [{ level: 'warning', text: doubt, advice: 'set what is meant, so that all nodes agree' } as const]
      : []),
    ...refused.map(
      ({ what, why }): Finding => ({
        level: 'warning',
        text: `REDIS_CONN_STRING: refuses ${what} (${why})`,
        advice: 'check what its user may do, and its memory and disk',
      }),
    ),
    ...primaries.flatMap((primary) => findingsOfPrimary(primary, form)),
  ]
}

function findingsOfPrimary(primary: PrimaryReport, form: RedisReport['form']): readonly Finding[] {
  const { name, version, answerMs, offsetMs, replicas, evictionPolicy } = primary
  const findings: Finding[] = [
    {
      level: 'ok',
      text: `${name}: ${version ? `version ${version}, ` : ''}${answerMs.toFixed(1)} ms for a command, ${replicas} ${replicas === 1 ? 'replica' : 'replicas'}`,
    },
  ]
  if (answerMs > SLOW_MS)
    findings.push({
      level: 'warning',
      text: `${name}: is far away (${answerMs.toFixed(0)} ms)`,
      advice: 'each call of a caller with limits waits for it; put Redis near the nodes',
    })
  if (form !== 'single' && replicas === 0)
    findings.push({
      level: 'warning',
      text: `${name}: has no replica that could take its place`,
      advice: 'add one, or wait until it has come back',
    })
  if (evictionPolicy && evictionPolicy !== 'noeviction')
    findings.push({
      level: 'warning',
      text: `${name}: drops keys when its memory is full (maxmemory-policy ${evictionPolicy})`,
      advice: 'limits would begin anew then; use maxmemory-policy noeviction',
    })
  if (Math.abs(offsetMs) > SKEW_MS)
    findings.push({
      level: 'warning',
      text: `${name}: its clock is ${(Math.abs(offsetMs) / 1000).toFixed(1)} s ${offsetMs > 0 ? 'ahead of' : 'behind'} this machine's`,
      advice: 'keep clocks in step (NTP): limits go by the clock of Redis',
    })
  return findings
}

function adviceFor(why: string): string {
  if (/WRONGPASS|NOAUTH|AUTH/.test(why)) {
    return 'check user and password of the address or REDIS_PASSWORD, and REDIS_SENTINEL_PASSWORD for Sentinels'
  }
  if (/READONLY|replica/.test(why)) return 'give the address of the primary, or those of the Sentinels'
  if (/Sentinel/.test(why)) return 'set REDIS_MASTER_NAME to the name in `sentinel monitor <name> …`'
  return 'nodes run without it, more slowly in step; check address, port and TLS (rediss://)'
}
