/**
 * Real nodes on whatever database a test has built, with a scripted upstream: what is asked of them while that database
 * is killed, frozen or exchanged is the same whatever it is made of.
 */
import { expect } from 'bun:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDb } from '../../src/db/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import { type Load, startLoad } from '../kill/load.ts'
import { expectExactBooks, furnish, MODELS } from '../kill/money.ts'
import { type AdminClient, createAdminClient, type MadeKey } from '../support/admin-client.ts'
import { eventually } from '../support/eventually.ts'
import { createNode, type RealNode } from '../support/node.ts'
import { startUpstreamProcess, type UpstreamProcess } from '../support/upstream-process.ts'

/** Where a database is: the address of a server, or the path of a file. */
export type Place = string | { readonly sqlitePath: string }

export interface World {
  readonly nodes: readonly RealNode[]
  readonly admin: AdminClient
  readonly upstream: UpstreamProcess
  readonly load: Load
  /** Calls that ended well since this was asked last. */
  completedSince(): number
  /**
   * Waits until every node serves a caller it has never seen, which it cannot without the database.
   * @returns how long the slowest took, ms
   */
  recovered(): Promise<number>
  /** Keys that no node has seen, for tests that ask with them. */
  readonly fresh: readonly MadeKey[]
  /** Ends the load and the nodes, and has the books compared. @param at the database as it is in the end */
  finish(at: Place): Promise<string>
  remove(): Promise<void>
}

/** Keys that no node has seen until somebody asks whether it has recovered. */
const FRESH_KEYS = 12

/** @param dsn where nodes find the database. @param options.nodes the first is the master; 2 if not given */
export async function openWorld(
  dsn: string,
  options: {
    readonly nodes?: number
    readonly clients?: number
    readonly freshKeys?: number
    readonly env?: Readonly<Record<string, string>>
  } = {},
): Promise<World> {
  const { nodes: count = 2, clients = 12, freshKeys = FRESH_KEYS } = options
  const folder = await mkdtemp(join(tmpdir(), 'headgate-world-'))
  const upstream = await startUpstreamProcess(folder)
  const nodes: RealNode[] = []
  let load: Load | undefined
  const remove = async (): Promise<void> => {
    await Promise.all(nodes.map((node) => node.remove()))
    await upstream.stop()
    await rm(folder, { recursive: true, force: true })
  }
  const admin = createAdminClient(() => nodes[0]?.url ?? '')
  const fresh: MadeKey[] = []
  try {
    for (let number = 0; number < count; number += 1) {
      const node = await createNode({
        env: {
          SQL_DSN: dsn,
          CRYPTO_SECRET: 'a crypto secret of tests, long enough',
          WORKERS: '1',
          NODE_NAME: `node-${number}`,
          ...(number > 0 && { NODE_TYPE: 'slave' }),
          ...options.env,
        },
      })
      nodes.push(node)
      node.start()
    }
    await Promise.all(nodes.map((node) => node.ready(90_000)))
    await admin.setUp()
    const keys = await furnish(admin, upstream.url)
    const owner = await admin.user(100_000_000)
    for (let n = 0; n < freshKeys; n += 1) fresh.push(await admin.apiKey(owner))
    load = startLoad({ urls: nodes.map(({ url }) => url), keys, models: MODELS, clients, seed: 1 })
  } catch (error) {
    for (const node of nodes) console.log(await node.output())
    await remove()
    throw error
  }
  const running = load
  const workers = await Promise.all(nodes.map((node) => node.workerPids()))
  let counted = 0
  return {
    nodes,
    admin,
    upstream,
    load: running,
    fresh,
    completedSince() {
      const since = running.ends.complete - counted
      counted = running.ends.complete
      return since
    },
    async recovered() {
      const startedAt = performance.now()
      await Promise.all(
        nodes.map((node) => {
          const key = fresh.pop()
          if (!key) throw new Error('no fresh key is left')
          const serves = async (): Promise<boolean> => {
            const reply = await fetch(`${node.url}/v1/chat/completions`, {
              method: 'POST',
              headers: { authorization: `Bearer ${key.key}`, 'content-type': 'application/json' },
              body: JSON.stringify({ model: 'quick', max_tokens: 20, messages: [{ role: 'user', content: 'hello' }] }),
            })
            await reply.bytes()
            return reply.status === 200
          }
          return eventually('a node serves a caller it has not seen before', serves, { withinMs: 30_000, everyMs: 50 })
        }),
      )
      return Math.round(performance.now() - startedAt)
    },
    async finish(at) {
      await running.stop()
      try {
        // Neither did a process end, nor was an answer cut because of the database.
        expect(await Promise.all(nodes.map((node) => node.workerPids()))).toEqual(workers)
        expect({ broken: running.ends.broken, down: running.ends.down }).toEqual({ broken: 0, down: 0 })
        for (const node of nodes) expect(await node.stop(60_000)).toBe(0)
      } catch (error) {
        for (const node of nodes) console.log(await node.output())
        throw error
      }
      const db = await openDb({ ...(typeof at === 'string' ? { dsn: at } : at), log: silentLog })
      try {
        return await expectExactBooks(db, { granted: admin.granted, load: running, upstream, kills: [] })
      } finally {
        await db.close()
      }
    },
    remove,
  }
}
