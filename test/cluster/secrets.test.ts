/**
 * Secrets of a cluster: a node with another one does not serve and says which, they can be replaced without logging
 * anybody out, upstream keys are encrypted with them, and none of them is found anywhere but in the nodes.
 */
import { expect, test } from 'bun:test'
import { readAgreed } from '../../src/domain/cluster/index.ts'
import { createAdminClient } from '../support/admin-client.ts'
import { expectAudit } from '../support/auditor.ts'
import { createBrowser } from '../support/browser.ts'
import { SERVER_ENGINE, type TestDb } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import type { RealNode } from '../support/node.ts'
import { withNodes } from '../support/nodes.ts'
import { startUpstream } from '../support/upstream.ts'

const SECRETS = {
  SESSION_SECRET: 'the session secret, with a comma',
  CRYPTO_SECRET: 'the crypto secret, with a comma',
} as const
/** All of what a node may say. */
const ENV = { ...SECRETS, LOG_LEVEL: 'debug' }
const NEW_SECRETS = {
  SESSION_SECRET: 'the next session secret of all nodes',
  CRYPTO_SECRET: 'the next crypto secret of all nodes',
} as const
const UPSTREAM_KEY = 'sk-upstream-0123456789-canary'
const EXIT_CONFIG = 78
const SIZE = process.env['SOAK'] ? { nodes: 4, people: 24 } : { nodes: 2, people: 4 }
const MODEL = 'shared'

/** All rows of all tables, as text. */
const dump = async ({ db }: TestDb): Promise<string> => {
  const tables = await Promise.all(Object.values(db.tables).map((table) => db.select().from(table)))
  return JSON.stringify(tables)
}

if (SERVER_ENGINE) {
  test(
    'one wrong value keeps a node from serving and is named; what may differ is shown; no secret leaves the nodes',
    () =>
      withNodes(1, ENV, async ({ testDb, nodes, add, run }) => {
        const wrong = {
          SESSION_SECRET: 'a wrong session secret',
          CRYPTO_SECRET: 'a wrong crypto secret',
          LEDGER_LEASE: '7',
        }
        await Promise.all(
          Object.entries(wrong).map(async ([name, value]) => {
            const node = await add({ [name]: value })
            node.start()
            expect([name, await node.ended()]).toEqual([name, EXIT_CONFIG])
            const output = await node.output()
            expect(output).toContain(`${name}: this node's value differs`)
            for (const other of Object.keys(wrong))
              if (other !== name) expect(output).not.toContain(`${other}: this node`)
            expect(output).not.toContain('"serving"')
            await expect(fetch(`${node.url}/healthz`)).rejects.toThrow()
          }),
        )
        // Nothing was taken over from any of them.
        const like = await add({
          FRONTEND_BASE_URL: 'https://another.example',
          SYNC_FREQUENCY: '61',
          TZ: 'Asia/Shanghai',
          VERSION: '0.0.9',
        })
        like.start()
        await like.ready()

        const looked = await run(['doctor'], { NODE_NAME: 'looking', ...SECRETS, SESSION_SECRET: wrong.SESSION_SECRET })
        expect(looked.code).toBe(1)
        expect(looked.text).toContain("PROBLEM SESSION_SECRET differs from the cluster's")
        for (const name of ['FRONTEND_BASE_URL', 'SYNC_FREQUENCY', 'time zone', 'version'])
          expect(looked.text).toContain(`${name} is not the same everywhere`)
        for (const name of ['SQL_DSN', 'REDIS_CONN_STRING'])
          expect(looked.text).not.toContain(`${name} is not the same`)

        const admin = createAdminClient(() => nodes[0]!.url)
        await admin.setUp()
        const told = await Promise.all([
          ...['/api/status', '/readyz', '/'].map(async (path) => (await fetch(`${like.url}${path}`)).text()),
          admin.call('GET', '/api/config/').then(JSON.stringify, String),
          ...nodes.map((node) => node.output()),
          dump(testDb),
          looked.text,
        ])
        for (const secret of [...Object.values(SECRETS), wrong.SESSION_SECRET, wrong.CRYPTO_SECRET])
          expect(told.filter((text) => text.includes(secret))).toEqual([])
      }),
    90_000,
  )

  test(
    'a cluster that stopped starts with other secrets, but not with one that cannot read its keys',
    () =>
      withNodes(1, ENV, async ({ testDb, nodes, run }) => {
        const node = nodes[0]!
        const admin = createAdminClient(() => node.url)
        await admin.setUp()
        const upstream = startUpstream()
        try {
          await admin.channel({ name: 'c', baseUrl: upstream.url, models: [MODEL], key: UPSTREAM_KEY })
          expect(await node.stop()).toBe(0)
          node.start(NEW_SECRETS)
          expect(await node.ended()).toBe(EXIT_CONFIG)
          expect(await node.output()).toContain('CRYPTO_SECRET: upstream keys in the database are encrypted')
          expect((await run(['keys', 'rotate'], NEW_SECRETS)).code).toBe(EXIT_CONFIG)
          node.start({ CRYPTO_SECRET: SECRETS.CRYPTO_SECRET })
          await node.ready()
          expect(await node.output()).toContain('the cluster takes over the values of this node')
          expect(await dump(testDb)).not.toContain(UPSTREAM_KEY)
        } finally {
          await upstream.stop()
        }
      }),
    60_000,
  )

  test(
    'secrets are replaced one node after the other under load: nobody is logged out, no call fails, no key is lost',
    () =>
      withNodes(SIZE.nodes, ENV, async ({ testDb, nodes, run }) => {
        const upstream = startUpstream()
        const admin = createAdminClient(() => nodes[0]!.url)
        await admin.setUp()
        const user = await admin.user(100_000_000)
        const key = await admin.apiKey(user)
        await admin.options({ ModelPrice: { [MODEL]: 0.0001 } })
        const channelId = await admin.channel({ name: 'c', baseUrl: upstream.url, models: [MODEL], key: UPSTREAM_KEY })
        expect(await dump(testDb)).not.toContain(UPSTREAM_KEY)

        const call = async (url: string): Promise<string | undefined> => {
          const reply = await fetch(`${url}/v1/chat/completions`, {
            method: 'POST',
            headers: { authorization: `Bearer ${key.key}`, 'content-type': 'application/json' },
            body: JSON.stringify({ model: MODEL, messages: [{ role: 'user', content: 'hi' }] }),
          })
          const text = await reply.text()
          return reply.status === 200 ? undefined : `call: ${reply.status} ${text.slice(0, 200)}`
        }
        for (const { url } of nodes)
          await eventually('every node knows the channel', async () => (await call(url)) === undefined)

        // A node that is told to stop takes nothing new: a balancer's job, done here by a set.
        const serving = new Set(nodes)
        const busy = new Map<RealNode, number>(nodes.map((node) => [node, 0]))
        let turn = 0
        const onNext = async <T>(work: (url: string) => Promise<T>): Promise<T> => {
          const up = [...serving]
          const node = up[turn++ % up.length]!
          busy.set(node, busy.get(node)! + 1)
          try {
            return await work(node.url)
          } finally {
            busy.set(node, busy.get(node)! - 1)
          }
        }
        const takeOut = async (node: RealNode): Promise<void> => {
          serving.delete(node)
          await eventually('the node has no requests any more', () => busy.get(node) === 0, { withinMs: 20_000 })
        }
        const failures: string[] = []
        const counts = { refreshes: 0, calls: 0 }
        const note = (what: string, status: number): void => {
          if (status !== 200) failures.push(`${what}: ${status}`)
        }
        let isDone = false
        const people = await Promise.all(
          Array.from({ length: SIZE.people }, async () => {
            const browser = createBrowser()
            await onNext((url) => browser.login(url, user))
            return browser
          }),
        )
        const idle = createBrowser()
        await onNext((url) => idle.login(url, user))
        const load = [
          ...people.map(async (browser) => {
            while (!isDone) {
              note('self', await onNext(browser.self))
              note('refresh', await onNext(browser.refresh))
              counts.refreshes++
            }
          }),
          ...Array.from({ length: 2 }, async () => {
            while (!isDone) {
              const failure = await onNext(call)
              if (failure !== undefined) failures.push(failure)
              counts.calls++
            }
          }),
        ]
        const before = await readAgreed(testDb.db)
        const restart = async (node: RealNode, env: Readonly<Record<string, string>>): Promise<void> => {
          await takeOut(node)
          expect(await node.stop()).toBe(0)
          node.start(env)
          await node.ready(60_000)
          serving.add(node)
        }
        const both = {
          ...NEW_SECRETS,
          SESSION_SECRET_PREVIOUS: SECRETS.SESSION_SECRET,
          CRYPTO_SECRET_PREVIOUS: SECRETS.CRYPTO_SECRET,
        }
        try {
          await restart(nodes[0]!, both)
          // While a node lacks the new secret, no key may be encrypted with it.
          const early = await run(['keys', 'rotate'], both)
          expect(early.code).toBe(EXIT_CONFIG)
          expect(early.text).toContain('CRYPTO_SECRET: these nodes do not have this value')
          for (const node of nodes.slice(1)) await restart(node, both)
          await eventually(
            'the cluster goes over to the new secrets',
            async () => {
              const now = await readAgreed(testDb.db)
              return now?.SESSION_SECRET !== before?.SESSION_SECRET && now?.CRYPTO_SECRET !== before?.CRYPTO_SECRET
            },
            { withinMs: 30_000, everyMs: 100 },
          )
          expect(await run(['keys', 'rotate'], both)).toEqual({ code: 0, text: 'channels encrypted: 1\n' })
          expect((await run(['keys', 'status'], NEW_SECRETS)).text).toContain('encrypted with CRYPTO_SECRET')
          // Whoever was away all the time is still logged in while the old secret is at hand.
          note('refresh after an absence', await onNext(idle.refresh))
          for (const node of nodes) await restart(node, { SESSION_SECRET_PREVIOUS: '', CRYPTO_SECRET_PREVIOUS: '' })
          note('refresh at the end', await onNext(idle.refresh))
        } finally {
          isDone = true
          await Promise.all(load)
        }
        for (const browser of people) note('self at the end', await onNext(browser.self))
        console.log(`rotation: ${counts.refreshes} refreshes, ${counts.calls} calls, ${failures.length} failures`)
        expect(failures).toEqual([])
        for (const { headers } of upstream.requests) expect(headers['authorization']).toBe(`Bearer ${UPSTREAM_KEY}`)
        expect(
          await createAdminClient(() => nodes[1]!.url).call('POST', `/api/channel/${channelId}/key`, {
            password: 'correct horse battery',
          }),
        ).toEqual({ key: UPSTREAM_KEY })
        const rows = await dump(testDb)
        for (const secret of [UPSTREAM_KEY, ...Object.values(SECRETS), ...Object.values(NEW_SECRETS)])
          expect(rows).not.toContain(secret)
        for (const node of nodes) expect(await node.stop()).toBe(0)
        await expectAudit(testDb.db, testDb.db, { granted: admin.granted })
        await upstream.stop()
      }),
    180_000,
  )
}
