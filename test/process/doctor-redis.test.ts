/** `doctor` says which form of Redis a node would use, how it is, and what to do when it is not as it should be. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { checkRedis } from '../../src/commands/doctor-redis.ts'
import { loadConfig } from '../../src/config.ts'
import { parseDsn } from '../../src/db/dsn.ts'
import { HAS_SERVERS } from '../support/engines.ts'
import { startClusterRedis, startRedisNode, startSentinelRedis } from '../support/redis-services.ts'
import { freePort } from '../support/services.ts'

/** The findings as they are printed. */
async function doctor(env: Readonly<Record<string, string>>): Promise<string> {
  const { config } = loadConfig(env, { parseDsn, cpus: 1, canSharePort: true })
  const findings = await checkRedis(config)
  const text = findings.map(({ level, text, advice }) => `${level} ${text}${advice ? ` → ${advice}` : ''}`).join('\n')
  expect(text).not.toContain('hunter2')
  return text
}

test('a server that is not there is a warning: nodes run without it', async () => {
  expect(await doctor({ REDIS_CONN_STRING: `redis://:hunter2@127.0.0.1:${await freePort()}` })).toMatch(
    /^warning REDIS_CONN_STRING: cannot be used \(127\.0\.0\.1:\d+: .*ECONNREFUSED.*→ nodes run without it/,
  )
})

if (HAS_SERVERS) {
  describe('one server', () => {
    let server: Awaited<ReturnType<typeof startRedisNode>>
    let env: Readonly<Record<string, string>>
    beforeAll(async () => {
      server = await startRedisNode({ password: 'hunter2' })
      env = { REDIS_CONN_STRING: `redis://127.0.0.1:${server.port}/3`, REDIS_PASSWORD: 'hunter2' }
    }, 60_000)
    afterAll(() => server.remove())

    test('is described', async () => {
      const text = await doctor(env)
      expect(text).toContain('ok REDIS_CONN_STRING: reachable, one server')
      expect(text).toMatch(/ok 127\.0\.0\.1:\d+: version \d+\.\d+\.\d+, \d+\.\d ms for a command, 0 replicas/)
      expect(text).not.toContain('warning')
    })

    test('with a wrong password, or none, the password is what to look at', async () => {
      for (const password of ['hunter2-wrong', ''])
        expect(await doctor({ ...env, REDIS_PASSWORD: password })).toMatch(
          /warning REDIS_CONN_STRING: cannot be used \(.*(WRONGPASS|NOAUTH).*REDIS_PASSWORD/,
        )
    })

    test('that a Sentinel was expected to be is used, with a warning', async () => {
      const text = await doctor({ ...env, REDIS_MASTER_NAME: 'mymaster' })
      expect(text).toContain('reachable, one server')
      expect(text).toMatch(/warning REDIS_MASTER_NAME: .* is no Sentinel, so it is used directly/)
    })

    test('that may drop keys is warned about', async () => {
      await server.call('CONFIG', 'SET', 'maxmemory', '100mb')
      await server.call('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru')
      expect(await doctor(env)).toContain('drops keys when its memory is full (maxmemory-policy allkeys-lru)')
      await server.call('CONFIG', 'SET', 'maxmemory', '0')
    })

    test('whose user may not do what nodes do is warned about, one thing at a time', async () => {
      await server.call('ACL', 'SETUSER', 'narrow', 'on', '>hunter2', '~*', '&*', '+@all', '-@scripting', '-publish')
      const text = await doctor({ ...env, REDIS_CONN_STRING: `redis://narrow@127.0.0.1:${server.port}` })
      expect(text).toContain('refuses to run a script (NOPERM')
      expect(text).toContain('refuses to pass on messages (NOPERM')
      expect(text).not.toContain('to keep a key')
    })

    test('that is a replica is no place to write to', async () => {
      await server.call('REPLICAOF', '127.0.0.1', await freePort())
      expect(await doctor(env)).toMatch(/cannot be used \(.*READONLY.*→ give the address of the primary/)
      await server.call('REPLICAOF', 'NO', 'ONE')
    })
  })

  test('Sentinels name their primary; their name and password are what to look at', async () => {
    const group = await startSentinelRedis({ password: 'hunter2', sentinelPassword: 'hunter2-sentinel' })
    const text = await doctor(group.env)
    expect(text).toContain('ok REDIS_CONN_STRING: reachable, the primary that the Sentinels name')
    expect(text).toMatch(new RegExp(`ok 127\\.0\\.0\\.1:${(await group.primary()).port}: .*, 1 replica$`, 'm'))
    expect(text).not.toContain('warning')
    expect(await doctor({ ...group.env, REDIS_MASTER_NAME: 'other' })).toContain('knows no primary `other`')
    expect(await doctor({ ...group.env, REDIS_SENTINEL_PASSWORD: '' })).toContain('and REDIS_SENTINEL_PASSWORD')
    await group.remove()
    const open = await startSentinelRedis()
    expect(await doctor({ ...open.env, REDIS_MASTER_NAME: '' })).toMatch(
      /is a Sentinel; name its primary.*→ set REDIS_/,
    )
    await open.remove()
  }, 120_000)

  test('a Redis Cluster is known by itself', async () => {
    const redis = await startClusterRedis({ password: 'hunter2' })
    const text = await doctor(redis.env)
    expect(text).toContain('ok REDIS_CONN_STRING: reachable, a Redis Cluster of 3 primaries')
    expect(text.match(/ok 127\.0\.0\.1:\d+: .*, 1 replica$/gm)).toHaveLength(3)
    expect(text).not.toContain('warning')
    await redis.remove()
  }, 120_000)
}
