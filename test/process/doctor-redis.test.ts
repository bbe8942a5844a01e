/** `doctor` says which form of Redis a node would use, how it is, and what to do when it is not as it should be. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { join } from 'node:path'
import { checkRedis } from '../../src/commands/doctor-redis.ts'
import { loadConfig } from '../../src/config.ts'
import { parseDsn } from '../../src/db/dsn.ts'
import { HAS_SERVERS } from '../support/engines.ts'
import { makeCertificates, startClusterRedis, startRedisNode, startSentinelRedis } from '../support/redis-services.ts'
import { freePort } from '../support/services.ts'
import { startNode, temporaryFolder } from './started-node.ts'

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
    const [group, alike] = await Promise.all([
      startSentinelRedis({ password: 'hunter2', sentinelPassword: 'hunter2-sentinel' }),
      startSentinelRedis({ password: 'hunter2', sentinelPassword: 'hunter2' }),
    ])
    const text = await doctor(group.env)
    expect(text).toContain('ok REDIS_CONN_STRING: reachable, the primary that the Sentinels name')
    expect(text).toMatch(new RegExp(`ok 127\\.0\\.0\\.1:${(await group.primary()).port}: .*, 1 replica$`, 'm'))
    expect(text).not.toContain('warning')
    expect(await doctor({ ...group.env, REDIS_MASTER_NAME: 'other' })).toContain('knows no primary `other`')
    expect(await doctor({ ...group.env, REDIS_SENTINEL_PASSWORD: '' })).toContain('and REDIS_SENTINEL_PASSWORD')
    expect(await doctor({ ...alike.env, REDIS_SENTINEL_PASSWORD: '' })).toContain('that the Sentinels name')
    await group.remove()
    expect(await doctor({ ...alike.env, REDIS_MASTER_NAME: '' })).toMatch(
      /is a Sentinel; name its primary.*→ set REDIS_/,
    )
    await alike.remove()
  }, 120_000)

  test('a Redis Cluster is known by itself', async () => {
    const redis = await startClusterRedis({ password: 'hunter2' })
    const text = await doctor(redis.env)
    expect(text).toContain('ok REDIS_CONN_STRING: reachable, a Redis Cluster of 3 primaries')
    expect(text.match(/ok 127\.0\.0\.1:\d+: .*, 1 replica$/gm)).toHaveLength(3)
    expect(text).not.toContain('warning')
    await redis.remove()
  }, 120_000)

  test('over TLS each form is found, and a server that is not who it says it is, is not used', async () => {
    const { path: folder, remove } = await temporaryFolder()
    const tls = await makeCertificates(folder)
    const [single, sentinels, cluster] = await Promise.all([
      startRedisNode({ tls }),
      startSentinelRedis({ tls, password: 'hunter2' }),
      startClusterRedis({ tls }),
    ])
    /** A process reads what it trusts when it starts. */
    const looked = async (env: Readonly<Record<string, string>>): Promise<string> => {
      const main = join(import.meta.dir, '../../src/main.ts')
      const run = startNode([process.execPath, '--no-env-file', main, 'doctor'], { cwd: folder, env })
      await run.process.exited
      await run.end()
      return run.lines.map((line) => line['text']).join('\n')
    }
    const trusted = { NODE_EXTRA_CA_CERTS: tls.ca }
    for (const host of ['localhost', '127.0.0.1'])
      expect(await looked({ ...trusted, REDIS_CONN_STRING: `rediss://${host}:${single.port}` })).toContain(
        'reachable, one server',
      )
    expect(await looked({ ...trusted, ...sentinels.env })).toContain('reachable, the primary that the Sentinels name')
    expect(await looked({ ...trusted, ...cluster.env })).toContain('reachable, a Redis Cluster of 3 primaries')
    const address = { REDIS_CONN_STRING: `rediss://localhost:${single.port}` }
    expect(await looked(address)).toMatch(/cannot be used \(.*self.signed certificate/)
    await Promise.all([single.remove(), sentinels.remove(), cluster.remove()])
    await remove()
  }, 120_000)

  test('a unix socket is an address as well', async () => {
    const { path: folder, remove } = await temporaryFolder()
    const socket = join(folder, 'redis.sock')
    const server = await startRedisNode({ password: 'hunter2', lines: [`unixsocket ${socket}`] })
    const text = await doctor({ REDIS_CONN_STRING: `unix://:hunter2@${socket}?db=2` })
    expect(text).toContain('reachable, one server')
    expect(text).not.toContain('warning')
    await server.remove()
    await remove()
  }, 60_000)
}
