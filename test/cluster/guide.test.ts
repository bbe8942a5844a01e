/**
 * New API's cluster deployment guide, followed word by word with this gateway in the place of the original: its compose
 * files, its environment blocks, its health check and its nginx block, as it prints them. Only hosts lead elsewhere, and the
 * image is this work tree.
 */
import { expect, test } from 'bun:test'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { eq } from 'drizzle-orm'
import { openDb } from '../../src/db/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import { createAdminClient } from '../support/admin-client.ts'
import { expectAudit } from '../support/auditor.ts'
import { createService, type Replacements, type RunningService, readCompose } from '../support/compose.ts'
import { SERVER_ENGINE, sqlServer } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { startNginx } from '../support/nginx.ts'
import { startRedis } from '../support/services.ts'
import { startUpstream } from '../support/upstream.ts'
import {
  HEALTH_CHECK,
  LOG_SETTINGS,
  MASTER,
  NGINX,
  REDIS_SETTINGS,
  SECRET_SETTINGS,
  SLAVE,
  SYNC_SETTINGS,
  withSettings,
} from './guide-blocks.ts'

const MODEL = 'gpt-4o-mini'
/** What every node gets beside the guide's own: a small machine has no room for more. */
const SMALL = { WORKERS: '1', LOG_LEVEL: 'info' }

const serviceOf = (file: string) => {
  const [service] = readCompose(file).values()
  if (!service) throw new Error('no service')
  return service
}

/** The guide's databases and Redis: its names, users and passwords, at other addresses. */
async function openDependencies() {
  const server = await sqlServer()
  const redis = await startRedis(['--requirepass', 'password'])
  const names = ['`new-api`', 'new_api_logs']
  await server.execute(
    "create user if not exists 'root'@'127.0.0.1'",
    "alter user 'root'@'127.0.0.1' identified by 'password'",
    "grant all on *.* to 'root'@'127.0.0.1'",
    ...names.map((name) => `create database ${name}`),
  )
  const database = `127.0.0.1:${server.port}`
  const replace: Replacements = [
    ['your-db-host:3306', database],
    ['log-db-host:3306', database],
    ['your-redis-host:6379', `127.0.0.1:${redis.port}`],
    ['your_redis_password', 'password'],
  ]
  return {
    redis,
    replace,
    open: (name: string, only?: 'logs') =>
      openDb({ dsn: `root:password@tcp(${database})/${name}`, log: silentLog, ...(only && { only }) }),
    close: () =>
      server.execute(
        ...names.map((name) => `drop database if exists ${name}`),
        "alter user 'root'@'127.0.0.1' identified by ''",
      ),
  }
}

const chat = (url: string, key: string, more: object = {}): Promise<Response> =>
  fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: MODEL, messages: [{ role: 'user', content: 'hello' }], ...more }),
  })

/** Everything in the folder that the guide mounts for logs. */
async function logOf(service: RunningService): Promise<string> {
  const folder = service.folder('/app/logs')
  const texts = (await readdir(folder)).map((name) => readFile(join(folder, name), 'utf8'))
  return (await Promise.all(texts)).join('\n')
}

async function configOf(url: string): Promise<ReadonlyMap<string, string>> {
  const client = createAdminClient(() => url)
  const variables = await client.call<readonly { name: string; value: string }[]>('GET', '/api/config/')
  return new Map(variables.map(({ name, value }) => [name, value]))
}

if (SERVER_ENGINE) {
  test("a master and two slaves by the guide's files serve behind the guide's nginx block as one system", async () => {
    const { replace, open, close } = await openDependencies()
    const upstream = startUpstream()
    const services: RunningService[] = []
    let nginx: Awaited<ReturnType<typeof startNginx>> | undefined
    try {
      for (const file of [MASTER, SLAVE, SLAVE])
        services.push(await createService(serviceOf(file), { replace, env: SMALL }))
      for (const service of services) service.start()
      await Promise.all(services.map((service) => service.ready(60_000)))
      const [master, ...slaves] = services
      nginx = await startNginx(NGINX, {
        addresses: Object.fromEntries(
          ['master-node-ip:3000', 'slave-node1-ip:3000', 'slave-node2-ip:3000'].map((name, n) => [
            name,
            new URL(services[n]?.url ?? '').host,
          ]),
        ),
      })
      const { url } = nginx

      // Each request meets another node.
      const admin = createAdminClient(() => url)
      await admin.setUp()
      await admin.options({ ModelRatio: { [MODEL]: 1 } })
      await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [MODEL] })
      const user = await admin.user(1_000_000)
      const { key } = await admin.apiKey(user)
      await eventually(
        'every node knows the key and the channel',
        async () => (await Promise.all(services.map((service) => chat(service.url, key)))).every(({ ok }) => ok),
        { withinMs: 20_000 },
      )
      const ids: string[] = []
      for (let n = 0; n < 39; n += 1) {
        const reply = await chat(url, key)
        expect(reply.status).toBe(200)
        ids.push(reply.headers.get('x-oneapi-request-id') ?? '')
        await reply.bytes()
      }
      // A stream comes in pieces, though the guide's block does not switch nginx's buffers off.
      upstream.on(MODEL, { chunks: 3, pauseAfter: 2 })
      const streamed = await chat(url, key, { stream: true })
      const reader = streamed.body?.getReader()
      const decoder = new TextDecoder()
      let text = ''
      await eventually('the first pieces arrive before the last is made', async () => {
        text += decoder.decode((await reader?.read())?.value)
        return text.includes('word1')
      })
      upstream.resume()
      for (let piece = await reader?.read(); piece && !piece.done; piece = await reader?.read())
        text += decoder.decode(piece.value)
      expect(text.trimEnd()).toEndWith('data: [DONE]')
      ids.push(streamed.headers.get('x-oneapi-request-id') ?? '')

      const check = (Bun.YAML.parse(HEALTH_CHECK.replaceAll('$$', '$')) as { healthcheck: { test: string[] } })
        .healthcheck.test
      for (const service of services) expect(await service.check(check)).toEqual({ code: 0, text: 'true' })

      const expected = {
        NODE_TYPE: 'slave',
        SYNC_FREQUENCY: '60',
        TZ: 'Asia/Shanghai',
        FRONTEND_BASE_URL: 'https://your-domain.com',
        SESSION_SECRET: '***',
        CRYPTO_SECRET: '***',
      }
      for (const slave of slaves) {
        const shown = await configOf(slave.url)
        for (const [name, value] of Object.entries(expected)) expect([name, shown.get(name)]).toEqual([name, value])
        expect([...shown.values()].join('\n')).not.toContain('password')
      }
      expect((await configOf(master?.url ?? '')).get('NODE_TYPE')).toBe('master')
      for (const service of services) {
        expect((await readdir(service.folder('/data'))).length).toBeGreaterThan(0)
        expect((await readdir(service.folder('/app/logs'))).length).toBeGreaterThan(0)
        // Its secrets are those of an example that everybody can read.
        expect(await logOf(service)).toContain('SESSION_SECRET: still has the value of an example')
      }

      for (const service of services) expect(await service.stop()).toBe(0)
      const db = await open('new-api')
      try {
        await expectAudit(db, db, { granted: admin.granted, complete: ids })
      } finally {
        await db.close()
      }
    } finally {
      await nginx?.stop()
      await Promise.all(services.map((service) => service.remove()))
      await upstream.stop()
      await close()
    }
  }, 120_000)

  test("the guide's advanced settings work together: batches, a password and a group name for one plain Redis, logs elsewhere", async () => {
    const { redis, replace, open, close } = await openDependencies()
    const upstream = startUpstream()
    const file = withSettings(MASTER, REDIS_SETTINGS, SECRET_SETTINGS, LOG_SETTINGS)
    const service = await createService(serviceOf(file), {
      replace,
      // Two names that are almost right, as a person may write them.
      env: { ...SMALL, ...SYNC_SETTINGS, SYNC_FREQUENCE: '30', REDIS_CONN_STRNG: 'redis://elsewhere' },
    })
    try {
      expect(service.service.environment).toMatchObject({
        REDIS_CONN_STRING: 'redis://your-redis-host:6379',
        REDIS_MASTER_NAME: 'mymaster',
        LOG_SQL_DSN: 'root:password@tcp(log-db-host:3306)/new_api_logs',
      })
      service.start()
      await service.ready(60_000)
      const admin = createAdminClient(() => service.url)
      await admin.setUp()
      await admin.options({ ModelRatio: { [MODEL]: 1 } })
      await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [MODEL] })
      const { key } = await admin.apiKey(await admin.user(1_000_000))
      const reply = await chat(service.url, key)
      expect(reply.status).toBe(200)
      await reply.bytes()
      const id = reply.headers.get('x-oneapi-request-id') ?? ''
      const client = new Bun.RedisClient(`redis://default:password@127.0.0.1:${redis.port}`)
      const connected = String(await client.send('CLIENT', ['LIST']))
        .trim()
        .split('\n').length
      client.close()
      expect(connected).toBeGreaterThan(1)

      const shown = await configOf(service.url)
      for (const [name, value] of Object.entries({
        ...SYNC_SETTINGS,
        REDIS_MASTER_NAME: 'mymaster',
        REDIS_CONN_POOL_SIZE: '10',
        REDIS_PASSWORD: '***',
      }))
        expect([name, shown.get(name)]).toEqual([name, value])
      expect(shown.get('LOG_SQL_DSN')).toContain('/new_api_logs')
      expect(shown.get('LOG_SQL_DSN')).not.toContain('root:password')
      const said = await logOf(service)
      expect(said).toContain('SYNC_FREQUENCE: is not known; did you mean SYNC_FREQUENCY?')
      expect(said).toContain('REDIS_CONN_STRNG: is not known; did you mean REDIS_CONN_STRING?')

      expect(await service.stop()).toBe(0)
      const [db, logDb] = [await open('new-api'), await open('new_api_logs', 'logs')]
      try {
        expect(await db.$count(db.tables.logs)).toBe(0)
        expect(await logDb.$count(logDb.tables.logs, eq(logDb.tables.logs.requestId, id))).toBe(1)
        await expectAudit(db, logDb, { granted: admin.granted, complete: [id] })
      } finally {
        await db.close()
        await logDb.close()
      }
    } finally {
      await service.remove()
      await upstream.stop()
      await close()
    }
  }, 120_000)
}
