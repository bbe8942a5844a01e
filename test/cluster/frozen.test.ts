/**
 * A node that stops without dying, longer than the others wait, and goes on: what it had parked serves the others, nothing is
 * spent that is not there, and what it had charged is charged once.
 */
import { expect, test } from 'bun:test'
import { eq, gt, sql } from 'drizzle-orm'
import type { MadeKey } from '../support/admin-client.ts'
import { chat, chatUntilDecided } from '../support/chat.ts'
import { openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE, sqlServer } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import type { RealNode } from '../support/node.ts'

const UNITS_PER_DOLLAR = 500_000
const MODEL = 'fixed'
const PRICE_DOLLAR = 0.002
const PRICE = PRICE_DOLLAR * UNITS_PER_DOLLAR
const CALLS = 60
const FIRST = 12
const DOOMED = 40
const LEASE_SEC = 3
/** The server lets go of rows that a node locked in a transaction and froze: 600 s for a lease of 90, in proportion. */
const WAIT_TIMEOUT_SEC = 10
/** A lease of 90 s leaves nothing parked for longer than this: in proportion. */
const BOUND_SEC = (300 * LEASE_SEC) / 90

async function signalAll(node: RealNode, signal: 'SIGSTOP' | 'SIGCONT'): Promise<void> {
  const pids = [...(await node.workerPids()), node.supervisorPid()]
  for (const pid of pids) process.kill(pid, signal)
}

const callUntilDecided = (node: RealNode | undefined, key: MadeKey): Promise<number> =>
  chatUntilDecided(node?.url ?? '', key, MODEL)

if (SERVER_ENGINE)
  test('a node frozen for longer than two leases costs nobody anything, and goes on as a new instance', async () => {
    const server = await sqlServer()
    await server.execute(`set global wait_timeout = ${WAIT_TIMEOUT_SEC}`)
    const cluster = await openCluster({
      slaves: 1,
      env: {
        LEDGER_LEASE: String(LEASE_SEC),
        JOB_LEASE: String(LEASE_SEC),
        WORKERS: '2',
        BATCH_UPDATE_ENABLED: 'true',
      },
      // What it charges stays on its disk while it is frozen.
      envOf: (node) => (node === 1 ? { BATCH_UPDATE_INTERVAL: '30' } : { BATCH_UPDATE_INTERVAL: '1' }),
    })
    const [master, slave] = cluster.nodes
    let isFrozen = false
    try {
      const { admin, upstream, testDb } = cluster
      const { clusterInstances, quotaAllotments, users } = testDb.db.tables
      await admin.options({ ModelPrice: { [MODEL]: PRICE_DOLLAR }, RetryTimes: 0 })
      await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [MODEL] })
      const wallet = await admin.user(CALLS * PRICE)
      const key = await admin.apiKey(wallet)
      const parked = async (): Promise<number> => {
        const [row] = await testDb.db
          .select({ sum: sql<unknown>`coalesce(sum(${quotaAllotments.amount}), 0)` })
          .from(quotaAllotments)
          .where(gt(quotaAllotments.amount, 0))
        return Number(row?.sum)
      }
      // Every worker is to freeze, so every worker must be there.
      await cluster.settled(4)
      const first = await Promise.all(Array.from({ length: FIRST }, () => callUntilDecided(slave, key)))
      expect(first.every((status) => status === 200)).toBe(true)
      await signalAll(slave!, 'SIGSTOP')
      isFrozen = true
      const frozenAt = performance.now()
      await eventually(
        'its instances are ended, by the living node',
        async () => (await testDb.db.$count(clusterInstances, eq(clusterInstances.state, 'reclaimed'))) >= 2,
        { withinMs: 60_000, everyMs: 50 },
      )
      await eventually('nothing is parked any more', async () => (await parked()) === 0, {
        withinMs: 30_000,
        everyMs: 50,
      })
      const sweptMs = performance.now() - frozenAt
      // All that is in the books may be spent elsewhere: what the frozen node has charged, nobody knows.
      const [row] = await testDb.db.select({ quota: users.quota }).from(users).where(eq(users.id, wallet.id))
      const there = Math.floor((row?.quota ?? 0) / PRICE)
      const others = await Promise.all(Array.from({ length: there + 5 }, () => callUntilDecided(master, key)))
      expect(others.filter((status) => status === 200)).toHaveLength(there)
      await signalAll(slave!, 'SIGCONT')
      isFrozen = false
      // It has what it thinks is its own in memory, and asks first.
      const after = await Promise.all(Array.from({ length: 20 }, () => callUntilDecided(slave, key)))
      expect(new Set(after)).toEqual(new Set([403]))
      expect(await callUntilDecided(slave, await admin.apiKey(await admin.user(10 * PRICE)))).toBe(200)

      // Killed, with calls under way: what it had parked comes back without it, what it had charged when it returns.
      const rich = await admin.apiKey(await admin.user(1_000 * PRICE))
      const complete: string[] = []
      const doomed = Array.from({ length: DOOMED }, async () => {
        const { status, id } = await chat(slave?.url ?? '', rich, MODEL)
        if (status === 200) complete.push(id)
      })
      await Promise.race(doomed)
      await slave!.kill()
      await Promise.allSettled(doomed)
      const killedAt = performance.now()
      await eventually('nothing is parked any more', async () => (await parked()) === 0, {
        withinMs: 60_000,
        everyMs: 50,
      })
      const returnedMs = performance.now() - killedAt
      slave!.start()
      await slave!.ready(60_000)
      const report = await cluster.stop({
        complete,
        upstream: upstream.ledger().map((line) => line.requestId),
        overdraft: new Map([[`u:${wallet.id}`, FIRST * PRICE]]),
      })
      expect(report.unlogged.length).toBeLessThanOrEqual(DOOMED - complete.length)
      expect(report.logRows).toBeGreaterThanOrEqual(FIRST + there + 1 + complete.length)
      const seconds = (ms: number): string => (ms / 1000).toFixed(1)
      console.log(
        `a lease of ${LEASE_SEC} s: nothing parked ${seconds(sweptMs)} s after a freeze, ${seconds(returnedMs)} s after a kill (bound: ${BOUND_SEC.toFixed(1)} s); ${FIRST} calls charged before the freeze, ${there} by others meanwhile; ${complete.length} complete before the kill, ${report.unlogged.length} in flight`,
      )
    } catch (error) {
      for (const node of cluster.nodes) console.log(await node.output())
      throw error
    } finally {
      if (isFrozen) await signalAll(slave!, 'SIGCONT')
      await cluster.remove()
      await server.execute('set global wait_timeout = default')
    }
  }, 180_000)
