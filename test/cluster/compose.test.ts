/**
 * The compose files that we supply, started by the little engine of the tests: what they demand, what outlives a container,
 * how they end, that their health check can fail, and that the Redis with Sentinels of the whole cluster fails over.
 */
import { describe, expect, test } from 'bun:test'
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createAdminClient } from '../support/admin-client.ts'
import { expectAudit } from '../support/auditor.ts'
import { type ComposeService, createService, type RunningService, readCompose } from '../support/compose.ts'
import { SERVER_ENGINE, sqlServer } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { startNginx } from '../support/nginx.ts'
import { freePort, spawnTied } from '../support/services.ts'
import { startUpstream } from '../support/upstream.ts'

const FOLDER = join(import.meta.dir, '../../compose')
const read = (name: string): Promise<string> => Bun.file(join(FOLDER, name)).text()

const SECRET = 'a'.repeat(64)
/** What an operator fills in, by file. */
const FILLED: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'cluster/master.yml': {
    SQL_DSN: 'headgate:password@tcp(your-db-host:3306)/headgate',
    REDIS_CONN_STRING: 'redis://default:password@your-redis-host:6379',
    SESSION_SECRET: SECRET,
    CRYPTO_SECRET: SECRET,
  },
  'cluster/slave.yml': {
    SQL_DSN: 'headgate:password@tcp(your-db-host:3306)/headgate',
    REDIS_CONN_STRING: 'redis://default:password@your-redis-host:6379',
    SESSION_SECRET: SECRET,
    CRYPTO_SECRET: SECRET,
    NODE_NAME: 'slave-1',
  },
  'cluster/all-in-one.yml': {
    MYSQL_ROOT_PASSWORD: SECRET,
    MYSQL_PASSWORD: 'test',
    REDIS_PASSWORD: SECRET,
    SESSION_SECRET: SECRET,
    CRYPTO_SECRET: SECRET,
  },
}

interface ClusterSeen {
  readonly nodes: readonly {
    readonly name: string
    readonly role: string
    readonly state: string
    readonly unflushed: number
    readonly workers: readonly { readonly dependencies: readonly { readonly name: string; readonly up: boolean }[] }[]
  }[]
  readonly jobs: readonly { readonly name: string; readonly outcome: string }[]
  readonly differences: readonly unknown[]
}

const isNode = ({ image }: ComposeService): boolean => image.startsWith('headgate')

describe('our compose files', () => {
  for (const [name, variables] of Object.entries(FILLED)) {
    test(`${name} demands each password, secret and address, and takes no example for one`, async () => {
      const text = await read(name)
      readCompose(text, variables)
      for (const required of Object.keys(variables)) {
        for (const missing of [undefined, '']) {
          const lacking = Object.entries({ ...variables, [required]: missing }).filter(
            ([, value]) => value !== undefined,
          )
          expect(() => readCompose(text, Object.fromEntries(lacking) as Record<string, string>)).toThrow(required)
        }
      }
      const example = await read('cluster/env.example')
      for (const required of Object.keys(variables)) expect(example).toMatch(new RegExp(`^${required}=$`, 'm'))
    })
  }

  for (const name of ['single.yml', ...Object.keys(FILLED)])
    test(`${name} gives each node volumes for its journal and logs, and more time to stop than it takes`, async () => {
      const nodes = [...readCompose(await read(name), FILLED[name]).values()].filter(isNode)
      expect(nodes.length).toBeGreaterThan(0)
      for (const node of nodes) {
        expect(node.volumes.map(({ target }) => target)).toEqual(['/data', '/app/logs'])
        const shutdownMs = Number(node.environment['SHUTDOWN_TIMEOUT_SECONDS']) * 1000
        // The supervisor kills workers 5 seconds after that.
        expect(node.stopGraceMs).toBeGreaterThan(shutdownMs + 5_000)
        expect(node.healthcheck?.test.join(' ')).toContain('/readyz')
      }
      const sources = nodes.flatMap(({ volumes }) => volumes.map(({ source }) => source))
      expect(new Set(sources).size).toBe(sources.length)
    })
})

/** Runs a service's own command here: a name of a service is an address, its port a free one. */
async function startCommand(service: ComposeService, folder: string, places: ReadonlyMap<string, number>) {
  const data = join(folder, service.name)
  await mkdir(data, { recursive: true })
  let script = service.command.join('\n').replace(/^sh\n-c\n/, '')
  for (const [name, port] of places) {
    const kind = name.startsWith('sentinel') ? 26379 : 6379
    script = script.replaceAll(`${name} ${kind}`, `127.0.0.1 ${port}`)
    if (name === service.name)
      script = script
        .replaceAll(`port ${kind}`, `port ${port}`)
        .replaceAll(`replica-announce-ip ${name}`, 'replica-announce-ip 127.0.0.1')
  }
  script = script.replaceAll('/data', data)
  const environment = Object.entries(service.environment).map(([name, value]) => `${name}=${value}`)
  return spawnTied(['env', ...environment, 'sh', '-c', script], join(folder, `${service.name}.out`))
}

const engine = SERVER_ENGINE
if (engine) {
  test('the whole cluster of all-in-one.yml serves through its nginx, outlives its Redis primary, and loses nothing over new containers', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'headgate-compose-'))
    const testDb = await engine.freshDb({ isEmpty: true })
    const upstream = startUpstream()
    const file = readCompose(await read('cluster/all-in-one.yml'), FILLED['cluster/all-in-one.yml'])
    const services = new Map<string, RunningService>()
    const programs = new Map<string, Bun.Subprocess>()
    let nginx: Awaited<ReturnType<typeof startNginx>> | undefined
    try {
      const places = new Map<string, number>()
      for (const { name, image } of file.values()) if (image.startsWith('redis:')) places.set(name, await freePort())
      for (const name of places.keys()) {
        const service = file.get(name)
        if (service) programs.set(name, await startCommand(service, folder, places))
      }
      const redisCli = async (name: string, ...words: readonly string[]): Promise<string> => {
        const client = new Bun.RedisClient(
          `redis://${name.startsWith('redis') ? `:${SECRET}@` : ''}127.0.0.1:${places.get(name)}`,
        )
        try {
          return JSON.stringify(await client.send(words[0] ?? '', words.slice(1)))
        } finally {
          client.close()
        }
      }
      await eventually(
        'each Sentinel knows the replica and the two others',
        async () => {
          const said = await Promise.all(
            [1, 2, 3].map((n) => redisCli(`sentinel-${n}`, 'SENTINEL', 'CKQUORUM', 'mymaster')),
          )
          const replicas = await Promise.all(
            [1, 2, 3].map((n) => redisCli(`sentinel-${n}`, 'SENTINEL', 'REPLICAS', 'mymaster')),
          )
          return (
            said.every((text) => text.includes('OK 3 usable')) &&
            replicas.every((text) => text.includes(String(places.get('redis-2'))))
          )
        },
        { withinMs: 60_000, everyMs: 200 },
      )

      const database = /\/(\w+)$/.exec(testDb.env.SQL_DSN ?? '')?.[1] ?? ''
      const server = await sqlServer()
      for (const name of ['master', 'slave-1', 'slave-2']) {
        const service = file.get(name)
        if (!service) throw new Error(`no service ${name}`)
        services.set(
          name,
          await createService(service, {
            replace: [
              ['headgate:test@tcp(mysql:3306)/headgate', `test:test@tcp(127.0.0.1:${server.port})/${database}`],
              ...[1, 2, 3].map(
                (n) => [`sentinel-${n}:26379`, `127.0.0.1:${places.get(`sentinel-${n}`)}`] as [string, string],
              ),
            ],
            env: { WORKERS: '1', CRITICAL_RATE_LIMIT_ENABLE: 'false' },
          }),
        )
      }
      const nodes = [...services.values()]
      for (const node of nodes) node.start()
      await Promise.all(nodes.map((node) => node.ready(60_000)))
      nginx = await startNginx(await read('cluster/nginx.conf'), {
        addresses: Object.fromEntries(
          ['master-node-ip:3000', 'slave-node1-ip:3000', 'slave-node2-ip:3000'].map((name, n) => [
            name,
            new URL(nodes[n]?.url ?? '').host,
          ]),
        ),
      })
      const { url } = nginx
      const admin = createAdminClient(() => url)
      await admin.setUp()
      await admin.options({ ModelPrice: { m: 0.002 } })
      await admin.channel({ name: 'chat', baseUrl: upstream.url, models: ['m'] })
      const { key } = await admin.apiKey(await admin.user(10_000_000))
      const ids: string[] = []
      const call = async (): Promise<number> => {
        const reply = await fetch(`${url}/v1/chat/completions`, {
          method: 'POST',
          headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
          body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'hello' }] }),
        })
        await reply.bytes()
        if (reply.ok) ids.push(reply.headers.get('x-oneapi-request-id') ?? '')
        return reply.status
      }
      await eventually('calls are served', async () => (await call()) === 200, { withinMs: 20_000 })

      // What the guide says that one should see.
      const view = await eventually(
        'the cluster shows three nodes that live, and nothing on its way',
        async () => {
          const seen = await admin.call<ClusterSeen>('GET', '/api/cluster/')
          const isCalm = seen.nodes.every(({ state, unflushed }) => state === 'live' && unflushed === 0)
          return isCalm && seen.jobs.length > 0 ? seen : undefined
        },
        { withinMs: 60_000, everyMs: 200 },
      )
      expect(view.nodes.map(({ name, role }) => `${name} ${role}`).sort()).toEqual([
        'master master',
        'slave-1 slave',
        'slave-2 slave',
      ])
      expect(view.differences).toEqual([])
      for (const { workers } of view.nodes)
        for (const { dependencies } of workers) expect(dependencies.filter(({ up }) => !up)).toEqual([])

      // Each health check says what is so.
      const slave = services.get('slave-1')
      for (const node of nodes) expect((await node.check()).code).toBe(0)
      programs.get('redis-1')?.kill('SIGKILL')
      const calls = async (count: number): Promise<void> => {
        for (let n = 0; n < count; n += 1) expect(await call()).toBe(200)
      }
      await calls(13)
      await eventually(
        'the Sentinels made the replica the primary',
        async () => {
          await calls(5)
          return (await redisCli('redis-2', 'INFO', 'replication')).includes('role:master')
        },
        { withinMs: 60_000, everyMs: 200 },
      )
      const footer = `after the fail-over`
      await admin.options({ Footer: footer })
      await eventually(
        'a change reaches every node again',
        async () =>
          (await Promise.all(nodes.map((node) => fetch(`${node.url}/api/status`).then((reply) => reply.text())))).every(
            (text) => text.includes(footer),
          ),
        { withinMs: 30_000, everyMs: 50 },
      )

      // A container that is gone: the check fails, nginx leaves it out, and its journal waits in the volume.
      await slave?.kill()
      expect((await slave?.check())?.code).not.toBe(0)
      await calls(26)
      slave?.start()
      await slave?.ready(60_000)
      expect((await slave?.check())?.code).toBe(0)
      expect((await readdir(slave?.folder('/app/logs') ?? '')).length).toBeGreaterThan(0)
      for (const node of nodes) expect(await node.stop()).toBe(0)
      await expectAudit(testDb.db, testDb.db, { granted: admin.granted, complete: ids })
    } finally {
      await nginx?.stop()
      await Promise.all([...services.values()].map((service) => service.remove()))
      for (const program of programs.values()) {
        program.kill('SIGKILL')
        await program.exited
      }
      await upstream.stop()
      await testDb.close()
      await rm(folder, { recursive: true, force: true })
    }
  }, 240_000)
}
