/**
 * The fail-over drill: a master and two slaves by the guide's own blocks, behind our nginx, are called without a pause while
 * a slave, the master, the primary of Redis and the database are killed, one after another, and every node is restarted.
 * Calls fail only where nothing else is possible, and every one that was answered is charged once. SOAK repeats it, SEED
 * repeats a run.
 */
import { expect, test } from 'bun:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inArray } from 'drizzle-orm'
import { openDb } from '../../src/db/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import { type EndedCall, type Load, startLoad } from '../kill/load.ts'
import { expectExactBooks, furnish, MODELS, type Moment, SCARCE_KEYS } from '../kill/money.ts'
import { seeded } from '../protocol/random.ts'
import { createAdminClient } from '../support/admin-client.ts'
import { createService, type RunningService, readCompose } from '../support/compose.ts'
import { type OwnServer, startSingle } from '../support/database-clusters.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { type Nginx, startNginx } from '../support/nginx.ts'
import { type SentinelRedis, startSentinelRedis } from '../support/redis-services.ts'
import { startUpstreamProcess } from '../support/upstream-process.ts'
import { MASTER, REDIS_SETTINGS, SLAVE, withSettings } from './guide-blocks.ts'

const CONF = join(import.meta.dir, '../../compose/cluster/nginx.conf')
const ADDRESSES = ['master-node-ip:3000', 'slave-node1-ip:3000', 'slave-node2-ip:3000'] as const
const IS_SOAK = Boolean(process.env['SOAK'])
const ROUNDS = IS_SOAK ? 8 : 1
const SEED = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))
const CLIENTS = 12
/** How long the database stays away. */
const OUTAGE_MS = IS_SOAK ? 10_000 : 1_000
const SLOW_MACHINE = { withinMs: 60_000 }
/** Until nginx, on a busy machine, has heard that connections which it kept are closed: till then it may use one. */
const HEARD_MS = 2_000

/** The guide's nodes with its settings for Sentinels; only addresses and passwords are those of this machine. */
async function startNodes(database: OwnServer, redis: SentinelRedis): Promise<readonly RunningService[]> {
  await database.query("create user if not exists 'root'@'127.0.0.1'")
  await database.query("alter user 'root'@'127.0.0.1' identified by 'password'")
  await database.query("grant all on *.* to 'root'@'127.0.0.1'")
  const services: RunningService[] = []
  for (const file of [MASTER, SLAVE, SLAVE])
    for (const service of readCompose(withSettings(file, REDIS_SETTINGS)).values())
      services.push(
        await createService(service, {
          replace: [
            ['your-db-host:3306', `127.0.0.1:${database.port}`],
            ['your-redis-host:6379', redis.sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')],
            ['your_redis_password', 'data'],
          ],
          // A small machine has no room for more.
          env: { WORKERS: '1' },
        }),
      )
  for (const service of services) service.start()
  try {
    await Promise.all(services.map((service) => service.ready(90_000)))
  } catch (error) {
    await Promise.all(services.map((service) => service.remove()))
    throw error
  }
  return services
}

/** What people see of the calls that failed. */
const shown = (calls: readonly EndedCall[]): string =>
  `${calls.length} failed${calls.length > 0 ? ` (${[...new Set(calls.map(({ end, status }) => `${end} ${status}`))].join(', ')})` : ''}`

if (SERVER_ENGINE)
  test(
    'nodes, the primary of Redis and the database are killed in turn under load: nothing is lost, nothing is charged twice',
    async () => {
      console.log(`fail-over drill: SEED=${SEED}`)
      const random = seeded(SEED)
      const folder = await mkdtemp(join(tmpdir(), 'headgate-drill-'))
      const database = await startSingle('`new-api`')
      const redis = await startSentinelRedis({ password: 'data' })
      const upstream = await startUpstreamProcess(folder)
      const db = await openDb({ dsn: `app:app@tcp(127.0.0.1:${database.port})/new-api`, log: silentLog })
      let nodes: readonly RunningService[] = []
      let nginx: Nginx | undefined
      let load: Load | undefined
      try {
        nodes = await startNodes(database, redis)
        const entrance = await startNginx(await Bun.file(CONF).text(), {
          addresses: Object.fromEntries(ADDRESSES.map((name, n) => [name, new URL(nodes[n]?.url ?? '').host])),
        })
        nginx = entrance
        const admin = createAdminClient(() => entrance.url)
        await admin.setUp()
        const keys = await furnish(admin, upstream.url)
        const scarce = new Set(SCARCE_KEYS.map((number) => keys[number]))
        const owner = await admin.user(100_000_000)
        const fresh: string[] = []
        for (let n = 0; n < 6 * ROUNDS; n += 1) fresh.push((await admin.apiKey(owner)).key)

        const ended: EndedCall[] = []
        const running = startLoad({
          urls: [entrance.url],
          keys,
          models: MODELS,
          clients: CLIENTS,
          seed: SEED,
          onEnd: (call) => void ended.push(call),
        })
        load = running
        const flowing = async (): Promise<void> => {
          const before = running.ends.complete
          await eventually('calls are served', () => running.ends.complete >= before + 40, SLOW_MACHINE)
        }
        /** A refusal is a fault, unless the key has run dry or waits for money that another node still has. */
        const isFailure = ({ end, status, key }: EndedCall): boolean =>
          end === 'broken' || end === 'down' || (end === 'refused' && !(scarce.has(key) && [403, 503].includes(status)))
        /** What happens under load from here to its end, and until calls flow again. @returns the calls that failed */
        const during = async (what: string, fault: () => Promise<string>): Promise<readonly EndedCall[]> => {
          await flowing()
          await Bun.sleep(random.int(300))
          const before = ended.length
          const figures = await fault()
          await flowing()
          const calls = ended.slice(before)
          const failed = calls.filter(isFailure)
          console.log(`${what}: ${calls.length} calls, ${shown(failed)}; ${figures}`)
          return failed
        }
        const callerUnknown = async (url: string, key = fresh.pop()): Promise<number> => {
          const reply = await fetch(`${url}/v1/chat/completions`, {
            method: 'POST',
            headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
            body: JSON.stringify({ model: 'quick', max_tokens: 20, messages: [{ role: 'user', content: 'hello' }] }),
          })
          await reply.bytes()
          return reply.status
        }
        const kills: Moment[] = []

        const killNode = async (what: string, node: RunningService): Promise<void> => {
          const host = new URL(node.url).host
          const lines = (await entrance.accessLog()).length
          let goneAtMs = 0
          const failed = await during(`kill -9 of ${what}`, async () => {
            const fromMs = Date.now()
            await node.kill()
            goneAtMs = Date.now()
            kills.push({ fromMs, toMs: goneAtMs })
            await flowing()
            const startedAtMs = Date.now()
            node.start()
            await node.ready(90_000)
            return `ready ${Date.now() - startedAtMs} ms after its new start`
          })
          // Calls that were in it, or on their way to it, end with it; new ones go elsewhere.
          expect(failed.filter(({ startedAtMs }) => startedAtMs > goneAtMs + HEARD_MS)).toEqual([])
          expect(failed.length).toBeLessThanOrEqual(CLIENTS)
          const refused = (await entrance.accessLog()).slice(lines).filter((line) => /" 50[24] /.test(line))
          expect(refused.filter((line) => !line.includes(`node=${host}`))).toEqual([])
        }

        for (let round = 0; round < ROUNDS; round += 1) {
          const [master, ...slaves] = nodes
          const slave = random.pick(slaves)
          if (!master || !slave) throw new Error('there are not three nodes')
          await killNode('a slave', slave)
          await killNode('the master', master)

          const withoutRedis = await during('kill -9 of the primary of Redis', async () => {
            const old = await redis.primary()
            const killedAtMs = Date.now()
            await old.kill()
            await eventually(
              'another one is primary',
              async () => {
                const now = await redis.primary()
                return now !== old && String(await now.call('ROLE')).startsWith('master')
              },
              { ...SLOW_MACHINE, everyMs: 20 },
            )
            const promotedAtMs = Date.now()
            // The guide has nodes look by themselves every minute only: this is the bus.
            await eventually(
              'a change reaches every node at once',
              async () => {
                const footer = `after fail-over ${crypto.randomUUID()}`
                await admin.options({ Footer: footer })
                const sees = async ({ url }: RunningService): Promise<boolean> =>
                  (await (await fetch(`${url}/api/status`)).text()).includes(footer)
                return eventually('all see it', async () => (await Promise.all(nodes.map(sees))).every(Boolean), {
                  withinMs: 1_000,
                })
              },
              SLOW_MACHINE,
            )
            const normalMs = Date.now() - promotedAtMs
            if (round + 1 < ROUNDS) {
              await old.restart()
              await redis.settled()
            }
            return `promoted after ${promotedAtMs - killedAtMs} ms, changes reach every node ${normalMs} ms later`
          })
          expect(withoutRedis).toEqual([])

          const withoutDatabase = await during('kill -9 of the database', async () => {
            await database.kill()
            const complete = running.ends.complete
            // Who nobody knows cannot be known now: that is no reason to say that the key is wrong.
            for (const { url } of nodes) expect(await callerUnknown(url)).toBe(503)
            await Bun.sleep(OUTAGE_MS)
            const served = running.ends.complete - complete
            expect(served).toBeGreaterThan(0)
            await database.start()
            const backAtMs = Date.now()
            await Promise.all(
              nodes.map(({ url }) => {
                const key = fresh.pop()
                return eventually(
                  'a node serves a caller it has not seen',
                  async () => (await callerUnknown(url, key)) === 200,
                  SLOW_MACHINE,
                )
              }),
            )
            return `${served} calls served meanwhile, all nodes serve new callers ${Date.now() - backAtMs} ms after it was back`
          })
          // Calls beyond what their node has of the caller's money are asked to come again; none is cut.
          expect(withoutDatabase.filter(({ end, status }) => end !== 'refused' || status !== 503)).toEqual([])

          const restarted = await during('rolling restart', async () => {
            const tookMs: number[] = []
            for (const node of [...slaves, master]) {
              const fromMs = Date.now()
              expect(await node.stop()).toBe(0)
              node.start()
              await node.ready(90_000)
              tookMs.push(Date.now() - fromMs)
            }
            return `nodes were away ${tookMs.join(', ')} ms`
          })
          expect(restarted).toEqual([])
        }

        await running.stop()
        const { clusterInstances } = db.tables
        const mayHoldMoney = inArray(clusterInstances.state, ['live', 'draining'])
        await eventually(
          'only living nodes may hold money',
          async () => (await db.$count(clusterInstances, mayHoldMoney)) === nodes.length,
          { ...SLOW_MACHINE, everyMs: 100 },
        )
        for (const node of nodes) expect(await node.stop()).toBe(0)
        const books = await expectExactBooks(db, { granted: admin.granted, load: running, upstream, kills })
        console.log(`fail-over drill: ${books}`)
        expect(running.complete.size).toBeGreaterThan(200 * ROUNDS)
      } catch (error) {
        for (const node of nodes) console.log(await node.output())
        console.log(await nginx?.errorLog())
        throw error
      } finally {
        await load?.stop()
        await nginx?.stop()
        await Promise.all(nodes.map((node) => node.remove()))
        await db.close()
        await upstream.stop()
        await redis.remove()
        await database.remove()
        await rm(folder, { recursive: true, force: true })
      }
    },
    120_000 + ROUNDS * 180_000,
  )
