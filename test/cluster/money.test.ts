/**
 * Money over several nodes apart from kills: one-time credits, edits beside spending, batch mode, a log database that is
 * away, a Redis that goes back in time. The auditor closes each.
 */
import { expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { Redis } from 'ioredis'
import mysql from 'mysql2/promise'
import { createAdminClient, type MadeKey } from '../support/admin-client.ts'
import { expectAudit } from '../support/auditor.ts'
import { chat } from '../support/chat.ts'
import { type Cluster, openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE, sqlServer } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { openTcpProxy } from '../support/tcp-proxy.ts'

const MODEL = 'fixed'
const UNITS_PER_DOLLAR = 500_000
const PRICE_DOLLAR = 0.002
const PRICE = PRICE_DOLLAR * UNITS_PER_DOLLAR
const IS_SOAK = Boolean(process.env['SOAK'])

/** One price per call, one channel, one wallet with a key. */
async function furnish({ admin, upstream }: Cluster, quota = 10_000 * PRICE) {
  await admin.options({ ModelPrice: { [MODEL]: PRICE_DOLLAR }, RetryTimes: 0 })
  await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [MODEL] })
  const user = await admin.user(quota)
  return { user, key: await admin.apiKey(user) }
}

async function within(options: Parameters<typeof openCluster>[0], work: (cluster: Cluster) => Promise<void>) {
  const cluster = await openCluster(options)
  try {
    await work(cluster)
  } finally {
    await cluster.remove()
  }
}

const engine = SERVER_ENGINE
if (engine) {
  test(
    'a redemption code credits once, however many nodes are asked and killed at once',
    () =>
      within({}, async (cluster) => {
        const { admin, nodes, testDb } = cluster
        const users = await Promise.all(Array.from({ length: 5 }, () => admin.user(0)))
        const codes = await admin.call<readonly string[]>('POST', '/api/redemption/', {
          name: 'gift',
          quota: 700,
          count: 4,
        })
        const attempts = codes.flatMap((code) =>
          Array.from({ length: 25 }, (_, n) => {
            const user = users[n % users.length]
            const node = nodes[n % nodes.length]
            if (!user || !node) throw new Error('nobody is there')
            const client = createAdminClient(() => node.url)
            return client.call<number>('POST', '/api/user/topup', { key: code }, user).catch(() => undefined)
          }),
        )
        await Bun.sleep(30)
        await nodes[2]?.kill()
        nodes[2]?.start()
        await Promise.all(attempts)
        await nodes[2]?.ready(60_000)
        // A reply may have been lost with the node; what counts is what the accounts and the codes say.
        const { redemptions } = testDb.db.tables
        const used = await testDb.db.select().from(redemptions).where(eq(redemptions.status, 3))
        expect(used.length).toBe(codes.length)
        for (const { id } of users) {
          const { quota } = await admin.call<{ quota: number }>('GET', `/api/user/${id}`)
          expect(quota).toBe(used.filter((code) => code.usedUserId === id).length * 700)
        }
        const credited = new Map(admin.granted)
        for (const { usedUserId } of used) credited.set(`u:${usedUserId}`, (credited.get(`u:${usedUserId}`) ?? 0) + 700)
        await cluster.settled(nodes.length)
        await cluster.stop({ granted: credited })
      }),
    120_000,
  )

  test(
    'edits of users and keys undo no spending, also when a form sends back what it had read before',
    () =>
      within({}, async (cluster) => {
        const { admin, nodes } = cluster
        const { user, key } = await furnish(cluster)
        const limited = await admin.apiKey(user, { quota: 5_000 * PRICE })
        let isOver = false
        let calls = 0
        const callers = nodes.flatMap(({ url }) =>
          [key, limited].map(async (each) => {
            while (!isOver) if ((await chat(url, each, MODEL)).status === 200) calls += 1
          }),
        )
        const userForm = await admin.call<Record<string, unknown>>('GET', `/api/user/${user.id}`)
        const keyForm = await admin.call<Record<string, unknown>>('GET', `/api/token/${limited.id}`, undefined, user)
        const clients = nodes.map(({ url }) => createAdminClient(() => url))
        for (let n = 0; n < 40; n += 1) {
          const client = clients[n % clients.length] ?? admin
          await client.call('PUT', '/api/user/', { ...userForm, display_name: `name ${n}`, remark: `remark ${n}` })
          await client.call('PUT', '/api/token/', { ...keyForm, name: `key ${n}` }, user)
        }
        isOver = true
        await Promise.all(callers)
        expect(calls).toBeGreaterThan(20)
        await cluster.stop()
      }),
    120_000,
  )

  test(
    'batch mode loses nothing through kills and a database that is cut, and saves writes',
    () =>
      within({ slaves: 1, env: { BATCH_UPDATE_ENABLED: 'true', BATCH_UPDATE_INTERVAL: '3' } }, async (cluster) => {
        const { nodes, databaseProxy, admin, testDb, upstream } = cluster
        const { key } = await furnish(cluster)
        const served = await callFor(
          4_000,
          nodes.map(({ url }) => url),
          key,
        )
        databaseProxy.refuse()
        const away = await callFor(
          IS_SOAK ? 60_000 : 4_000,
          nodes.map(({ url }) => url),
          key,
        )
        // What both nodes have is on their disks alone.
        await nodes[1]?.kill()
        databaseProxy.admit()
        nodes[1]?.start()
        await nodes[1]?.ready(60_000)
        await cluster.settled(nodes.length)
        const again = await callFor(
          500,
          nodes.map(({ url }) => url),
          key,
        )
        for (const node of nodes) expect(await node.stop()).toBe(0)
        const produced = upstream.ledger().map((line) => line.requestId)
        const report = await expectAudit(testDb.db, testDb.db, {
          granted: admin.granted,
          complete: [...served, ...away, ...again],
          upstream: produced,
        })
        console.log(
          `batch mode: ${served.length} calls, ${away.length} without a database, ${again.length} after; ${report.logRows} charged`,
        )
        expect(served.length).toBeGreaterThan(50)
      }),
    180_000,
  )

  test('batch mode writes a hot account at least five times less often', async () => {
    const writes = async (env: Readonly<Record<string, string>>): Promise<number> => {
      let perCall = 0
      await within({ slaves: 0, redis: 'none', env }, async (cluster) => {
        // Enough for the calls of 26 seconds.
        const { key } = await furnish(cluster, 100_000 * PRICE)
        const url = cluster.nodes.map((node) => node.url)
        // An account is hot once its acquires have grown to what it spends.
        await callFor(6_000, url, key)
        const before = await updatedRows()
        // Whole intervals: else one flush of batch mode more or less is a fifth of all.
        const calls = await callFor(20_000, url, key)
        const rows = (await updatedRows()) - before
        perCall = rows / calls.length
        console.log(`${JSON.stringify(env)}: ${calls.length} calls, ${rows} rows updated`)
        await cluster.stop()
      })
      return perCall
    }
    const directly = await writes({})
    const inBatches = await writes({ BATCH_UPDATE_ENABLED: 'true', BATCH_UPDATE_INTERVAL: '5' })
    expect(directly / inBatches).toBeGreaterThanOrEqual(5)
  }, 120_000)

  test('a log database that is away delays log rows and nothing else, on every node and over a kill', async () => {
    const logs = await engine.freshDb({ isEmpty: true, only: 'logs' })
    const proxy = await openTcpProxy(await sqlServer())
    const dsn = (logs.env.SQL_DSN ?? '').replace(/:\d+\)/, `:${proxy.port})`)
    try {
      await within({ env: { LOG_SQL_DSN: dsn } }, async (cluster) => {
        const { nodes, admin, testDb } = cluster
        const urls = nodes.map(({ url }) => url)
        const { key } = await furnish(cluster)
        const before = await callFor(500, urls, key)
        proxy.refuse()
        const away = await callFor(IS_SOAK ? 120_000 : 2_000, urls, key)
        await nodes[1]?.kill()
        nodes[1]?.start()
        await nodes[1]?.ready(60_000)
        const restarted = await callFor(500, [nodes[1]?.url ?? ''], key)
        const rowsMeanwhile = await logs.db.$count(logs.db.tables.logs, eq(logs.db.tables.logs.type, 2))
        proxy.admit()
        const complete = [...before, ...away, ...restarted]
        expect(rowsMeanwhile).toBeLessThan(complete.length)
        expect(away.length).toBeGreaterThan(20)
        await cluster.settled(nodes.length)
        await eventually(
          'every row has arrived',
          async () => (await logs.db.$count(logs.db.tables.logs, eq(logs.db.tables.logs.type, 2))) >= complete.length,
          { withinMs: 30_000, everyMs: 100 },
        )
        for (const node of nodes) expect(await node.stop()).toBe(0)
        await expectAudit(testDb.db, logs.db, { granted: admin.granted, complete })
      })
    } finally {
      await proxy.close()
      await logs.close()
    }
  }, 240_000)

  test(
    'no balance moves when Redis forgets everything or comes back with what it knew long ago',
    () =>
      within({}, async (cluster) => {
        const { nodes, redis, admin } = cluster
        const { user, key } = await furnish(cluster)
        const urls = nodes.map(({ url }) => url)
        const client = new Redis(redis?.url ?? '')
        const first = await callFor(500, urls, key)
        const old = await dumpAll(client)
        const second = await callFor(500, urls, key)
        await client.flushall()
        const third = await callFor(500, urls, key)
        await client.flushall()
        for (const { name, value } of old) await client.restore(name, 0, value, 'REPLACE')
        const fourth = await callFor(500, urls, key)
        client.disconnect()
        const calls = first.length + second.length + third.length + fourth.length
        await eventually(
          'what people see is what was spent',
          async () => {
            const { quota } = await admin.call<{ quota: number }>('GET', `/api/user/${user.id}`)
            return quota === (10_000 - calls) * PRICE
          },
          { withinMs: 20_000 },
        )
        const report = await cluster.stop({ complete: [...first, ...second, ...third, ...fourth] })
        expect(report.logRows).toBe(calls)
      }),
    120_000,
  )
}

/** Six clients call in turn for a while. @returns request ids of the calls that succeeded; 503s are left out, anything else throws */
async function callFor(ms: number, urls: readonly string[], key: MadeKey): Promise<readonly string[]> {
  const untilMs = performance.now() + ms
  const ids: string[] = []
  await Promise.all(
    Array.from({ length: 6 }, async (_, client) => {
      for (let n = client; performance.now() < untilMs; n += 1) {
        const { status, id } = await chat(urls[n % urls.length] ?? '', key, MODEL)
        if (status === 200) ids.push(id)
        else if (status !== 503) throw new Error(`a call ended with ${status}`)
        await Bun.sleep(10)
      }
    }),
  )
  return ids
}

/** Rows that the server has updated in all tables so far. */
async function updatedRows(): Promise<number> {
  const { socketPath } = await sqlServer()
  const connection = await mysql.createConnection({ socketPath, user: 'root' })
  const [rows] = await connection.query("show global status like 'Handler_update'")
  await connection.end()
  return Number((rows as { Value: string }[])[0]?.Value)
}

async function dumpAll(client: Redis): Promise<readonly { readonly name: string; readonly value: Buffer }[]> {
  const names = await client.keys('*')
  const values = await Promise.all(names.map((name) => client.dumpBuffer(name)))
  return names.flatMap((name, n) => {
    const value = values[n]
    return value ? [{ name, value }] : []
  })
}
