/**
 * The database is killed, swallowed by a black hole, and exchanged for its replica, and one of three Galera members dies,
 * while clients call: no process ends, no answer is cut, what was called is charged once, and callers that no node has seen
 * are served soon after. SOAK makes the outages as long as they may be.
 */
import { expect, test } from 'bun:test'
import { eq, inArray } from 'drizzle-orm'
import { type Db, openDb } from '../../src/db/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import { dsnOf, type OwnServer, startGalera, startReplication, startSingle } from '../support/database-clusters.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { openTcpProxy } from '../support/tcp-proxy.ts'
import { openWorld, type World } from './database-world.ts'

const IS_SOAK = Boolean(process.env['SOAK'])
const BLACK_HOLE_MS = IS_SOAK ? 30_000 : 2_000
const DATABASE = 'headgate'

/** The outage itself: what the callers do meanwhile goes on for so long. */
const lasting = (ms: number): Promise<void> => Bun.sleep(ms)

/** Waits until callers get answers as before. */
const flowing = async (world: World): Promise<void> => {
  const before = world.load.ends.complete
  await eventually('calls are served', () => world.load.ends.complete >= before + 30, { withinMs: 30_000 })
}

/** Transactions that this member has given to the others since it was started. */
async function writeSetsOf(server: OwnServer): Promise<number> {
  const [row] = await server.query(`show global status like 'wsrep_replicated'`)
  return Number(row?.['Value'])
}

/** Each member is written to, and the others show it at once; rows that all of them change lose no change. */
async function expectOneDatabase(servers: readonly OwnServer[]): Promise<void> {
  const dbs = await Promise.all(servers.map((server) => openDb({ dsn: dsnOf(server, DATABASE), log: silentLog })))
  try {
    const [first, second] = dbs
    if (!first || !second) throw new Error('there are no members')
    const { clusterMeta } = first.tables
    const [counter, mark] = ['test counter', 'test mark']
    const key = { key: [clusterMeta.key] }
    for (const name of [counter, mark])
      await first.upsert(clusterMeta, { key: name, value: '0' }, { ...key, set: { value: '0' } })
    const read = async (db: Db, name: string): Promise<number> =>
      Number((await db.select().from(clusterMeta).where(eq(clusterMeta.key, name)))[0]?.value)
    for (let n = 1; n <= 50; n += 1) {
      await first
        .update(clusterMeta)
        .set({ value: String(n) })
        .where(eq(clusterMeta.key, mark))
      expect(await read(second, mark)).toBe(n)
    }
    const rounds = 15
    const increments = dbs.map(async (db) => {
      for (let n = 0; n < rounds; n += 1)
        await db.transaction(
          async (tx) => {
            const query = tx.select().from(clusterMeta).where(eq(clusterMeta.key, counter))
            const [row] = await tx.lock(query)
            await tx
              .update(clusterMeta)
              .set({ value: String(Number(row?.value) + 1) })
              .where(eq(clusterMeta.key, counter))
          },
          { deadlineMs: 30_000 },
        )
    })
    await Promise.all(increments)
    expect(await read(second, counter)).toBe(rounds * dbs.length)
    await first.delete(clusterMeta).where(inArray(clusterMeta.key, [counter, mark]))
  } finally {
    for (const db of dbs) await db.close()
  }
}

// These servers are MariaDB's own kind.
if (SERVER_ENGINE?.name === 'mariadb') {
  test('a database that is killed, in a black hole, or left for its replica costs no call in flight and no charge', async () => {
    const pair = await startReplication(DATABASE)
    const proxy = await openTcpProxy(pair.primary)
    const world = await openWorld(dsnOf({ host: '127.0.0.1', port: proxy.port }, DATABASE))
    try {
      await flowing(world)
      world.completedSince()
      await pair.primary.kill()
      await lasting(IS_SOAK ? 10_000 : 1_000)
      const whileDown = world.completedSince()
      await pair.primary.start()
      const afterKillMs = await world.recovered()
      await flowing(world)

      world.completedSince()
      proxy.freeze()
      await lasting(BLACK_HOLE_MS)
      const inHole = world.completedSince()
      proxy.thaw()
      const afterHoleMs = await world.recovered()
      await flowing(world)

      // The old primary goes on and lets everybody in: whoever stays with it may read what was, and write nothing.
      await pair.primary.query('set global read_only = on')
      await pair.caughtUp()
      await pair.promote()
      proxy.lead(pair.replica)
      const switchedMs = await world.recovered()
      await flowing(world)
      const books = await world.finish(dsnOf(pair.replica, DATABASE))
      console.log(
        `database killed: ${whileDown} calls served meanwhile, recovered ${afterKillMs} ms after it was back; ` +
          `black hole of ${BLACK_HOLE_MS} ms: ${inHole} calls served, recovered after ${afterHoleMs} ms; ` +
          `switched to the promoted replica: recovered after ${switchedMs} ms; ${books}`,
      )
      expect(whileDown).toBeGreaterThan(0)
      expect(inHole).toBeGreaterThan(0)
    } finally {
      await world.remove()
      await proxy.close()
      await pair.remove()
    }
  }, 240_000)

  test('a server for 40 connections serves three nodes that are called 500 times at once', async () => {
    const server = await startSingle(DATABASE, ['--max-connections=40'])
    const world = await openWorld(dsnOf(server, DATABASE), { nodes: 3, clients: 0, freshKeys: 50 })
    try {
      let waited = 0
      const call = async (n: number): Promise<void> => {
        const url = world.nodes[n % world.nodes.length]?.url
        const key = world.fresh[n % world.fresh.length]?.key
        await eventually(
          'a call is served',
          async () => {
            const reply = await fetch(`${url}/v1/chat/completions`, {
              method: 'POST',
              headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
              body: JSON.stringify({ model: 'quick', max_tokens: 20, messages: [{ role: 'user', content: 'hello' }] }),
            })
            await reply.bytes()
            if (reply.status === 503) waited += 1
            else if (reply.status !== 200) throw new Error(`a call ended with ${reply.status}`)
            return reply.status === 200
          },
          { withinMs: 60_000, everyMs: 500 },
        )
      }
      await Promise.all(Array.from({ length: 500 }, (_, n) => call(n)))
      const [row] = await server.query(`show global status like 'Max_used_connections'`)
      console.log(
        `500 calls at once: ${waited} were asked to come again; at most ${row?.['Value']} connections; ` +
          (await world.finish(dsnOf(server, DATABASE))),
      )
      expect(Number(row?.['Value'])).toBeLessThanOrEqual(41)
    } finally {
      await world.remove()
      await server.remove()
    }
  }, 240_000)

  test('three Galera members behind HAProxy: all take writes, one is killed, and every account adds up', async () => {
    const cluster = await startGalera(DATABASE)
    const [first, second, third] = cluster.servers
    if (!first || !second || !third) throw new Error('there are not three members')
    const world = await openWorld(dsnOf(cluster, DATABASE)).catch(async (error: unknown) => {
      await cluster.remove()
      throw error
    })
    try {
      await expectOneDatabase(cluster.servers)
      const own = await Promise.all(cluster.servers.map(writeSetsOf))
      const writes = await eventually(
        'every member takes writes of the nodes',
        async () => {
          const counts = await Promise.all(cluster.servers.map(writeSetsOf))
          return counts.every((count, at) => count >= (own[at] ?? 0) + 10) ? counts : undefined
        },
        { withinMs: 60_000, everyMs: 200 },
      )
      const figures: string[] = []
      if (IS_SOAK) {
        // It goes on to let clients in, and tells each of them that it is not ready.
        await third.query("set global wsrep_provider_options = 'gmcast.isolate=1'")
        figures.push(`isolated member ${await world.recovered()} ms`)
        await flowing(world)
        await third.query("set global wsrep_provider_options = 'gmcast.isolate=0'")
        await cluster.synced(third)
      }
      for (const victim of IS_SOAK ? [second, third, first, second] : [second]) {
        await victim.kill()
        const ms = await world.recovered()
        await flowing(world)
        figures.push(`${ms} ms`)
        if (IS_SOAK) await cluster.rejoin(victim)
      }
      if (IS_SOAK) {
        third.freeze()
        figures.push(`frozen member ${await world.recovered()} ms`)
        third.thaw()
        await cluster.synced(third)
      }
      const books = await world.finish(dsnOf(first, DATABASE))
      console.log(
        `Galera: recovered ${figures.join(', ')} after a member was killed; write sets by member ${writes.join(', ')}; ${books}`,
      )
    } finally {
      await world.remove()
      await cluster.remove()
    }
  }, 600_000)
}
