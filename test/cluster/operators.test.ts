/** What operators get: each event told once by webhook and mail, however many nodes saw it; figures to those who may see them. */
import { expect, test } from 'bun:test'
import { createHmac } from 'node:crypto'
import type { MadeKey } from '../support/admin-client.ts'
import { catchMail, catchWebhooks } from '../support/catchers.ts'
import { chat } from '../support/chat.ts'
import { type Cluster, openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'

const SECRET = 'a webhook secret'
const LEASE_SEC = 3
/** Of a whole lease and some looks, on a slow machine. */
const PATIENT = { withinMs: 60_000, everyMs: 50 } as const

/** Alerts go to both catchers. */
async function watched(
  options: Parameters<typeof openCluster>[0],
  work: (
    cluster: Cluster,
    told: (kind: string) => Promise<string>,
    /** Waits until it was told that it is over. */
    over: (kind: string) => Promise<string>,
  ) => Promise<void>,
): Promise<void> {
  const hooks = catchWebhooks()
  const mail = await catchMail()
  const cluster = await openCluster({ ...options, env: { LEDGER_LEASE: String(LEASE_SEC), ...options?.env } })
  try {
    await cluster.admin.options({
      'alert_setting.webhook_url': hooks.url,
      'alert_setting.webhook_secret': SECRET,
      'alert_setting.email': 'ops@example.com, night@example.com',
      SMTPServer: '127.0.0.1',
      SMTPPort: mail.port,
      SMTPFrom: 'gateway@example.com',
    })
    /** Waits until an alert has come both ways, gives others time to come a second time. @returns the texts, each key's once */
    const told = async (kind: string): Promise<string> => {
      await eventually(`${kind} comes by webhook`, () => hooks.caught(kind).length > 0, PATIENT)
      await eventually(`${kind} comes by mail`, () => mail.caught(kind).length > 0, PATIENT)
      // Every node has looked again by then.
      await Bun.sleep(2_000)
      const alerts = hooks.caught(kind)
      const keys = alerts.map(({ key }) => key).toSorted()
      expect(keys).toEqual([...new Set(keys)])
      expect(mail.caught(kind)).toHaveLength(keys.length)
      for (const { signature, body } of alerts)
        expect(signature).toBe(`sha256=${createHmac('sha256', SECRET).update(body).digest('hex')}`)
      expect(mail.caught(kind)[0]).toContain('night@example.com')
      return alerts.map(({ text }) => text).join('\n')
    }
    const over = async (kind: string): Promise<string> =>
      (await eventually(`${kind} is over`, () => hooks.resolved(kind)[0], PATIENT)).text
    await work(cluster, told, over)
  } finally {
    hooks.close()
    mail.close()
    await cluster.remove()
  }
}

if (SERVER_ENGINE) {
  test(
    'a lost node, a cluster without a master and a trial are each told once',
    () =>
      watched({ redis: 'none' }, async ({ nodes, admin }, told, over) => {
        await admin.call('POST', '/api/alert/test')
        expect(await told('test')).toContain('root')
        await nodes[2]?.kill()
        expect(await told('node-lost')).toContain('node-2')
        nodes[2]?.start()
        expect(await over('node-lost')).toContain('node-2')
        await nodes[0]?.kill()
        expect(await told('no-master')).toContain('master')
      }),
    180_000,
  )

  test(
    'a node with another secret is told of, and does not start',
    () =>
      watched({ slaves: 1, redis: 'none' }, async (cluster, told) => {
        const stranger = await cluster.addNode({
          CRYPTO_SECRET: 'another secret, also long enough',
          NODE_NAME: 'stranger',
        })
        expect(await told('secret-mismatch')).toContain('CRYPTO_SECRET')
        await eventually('it has ended', () => stranger.exitCode() !== undefined, PATIENT)
        expect(stranger.exitCode()).toBe(78)
      }),
    180_000,
  )

  test(
    'a dead dependency, an outbox that only grows and a channel that was taken out are each told once',
    () =>
      watched(
        {
          slaves: 1,
          env: { LOG_SQL_DSN: 'test:test@tcp(127.0.0.1:1)/logs' },
          envOf: (n) => ({ WORKERS: n === 0 ? '2' : '1' }),
        },
        async ({ nodes, admin, upstream }, told) => {
          expect(await told('dependency-down')).toContain('log database')
          await admin.options({ ModelRatio: { free: 0, shut: 0 }, AutomaticDisableChannelEnabled: true, RetryTimes: 0 })
          await admin.channel({ name: 'chat', baseUrl: upstream.url, models: ['free'] })
          await admin.channel({
            name: 'shut',
            baseUrl: upstream.url,
            models: ['shut'],
            modelMapping: { shut: 'shut?status=401' },
          })
          const key = await admin.apiKey(await admin.user(1_000))
          await Promise.all(nodes.map(({ url }) => callOnce(url, key, 'shut')))
          expect(await told('channel-disabled')).toContain('shut')
          for (let n = 0; n < 10; n += 1) expect(await callOnce(nodes[0]?.url ?? '', key, 'free')).toBe(200)
          expect(await told('outbox-growing')).toContain('node-0')
        },
      ),
    180_000,
  )

  test(
    'figures are for this machine, for named addresses and for the token, and are those of all workers',
    () =>
      watched(
        {
          slaves: 0,
          redis: 'none',
          env: { WORKERS: '2', METRICS_TOKEN: 'a token of tests', METRICS_ALLOW: '192.0.2.0/24' },
        },
        async ({ nodes, admin, upstream }) => {
          const url = `${nodes[0]?.url}/metrics`
          const ask = async (headers: Record<string, string>) => (await fetch(url, { headers })).status
          expect(await ask({})).toBe(200)
          expect(await ask({ 'x-forwarded-for': '203.0.113.9' })).toBe(403)
          expect(await ask({ 'x-forwarded-for': '127.0.0.1' })).toBe(403)
          expect(await ask({ 'x-forwarded-for': '192.0.2.7' })).toBe(200)
          expect(await ask({ 'x-forwarded-for': '203.0.113.9', authorization: 'Bearer a token of tests' })).toBe(200)
          expect(await ask({ 'x-forwarded-for': '203.0.113.9', authorization: 'Bearer another' })).toBe(403)
          await admin.options({ ModelRatio: { counted: 0 } })
          await admin.channel({ name: 'chat', baseUrl: upstream.url, models: ['counted'] })
          const key = await admin.apiKey(await admin.user(1_000))
          for (let n = 0; n < 20; n += 1) expect(await callOnce(nodes[0]?.url ?? '', key, 'counted')).toBe(200)
          const text = await (await fetch(url)).text()
          expect(text).toContain(
            'headgate_calls_total{protocol="openai-chat",operation="chat",ending="complete",code=""} 20',
          )
          expect(text).toContain('headgate_workers 2')
          expect(text).toContain('headgate_ready 1')
          expect(text).not.toContain(key.key)
        },
      ),
    120_000,
  )
}

const callOnce = async (url: string, key: MadeKey, model: string): Promise<number> =>
  (await chat(url, key, model, { isFresh: true })).status
