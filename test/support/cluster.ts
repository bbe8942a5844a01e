/**
 * A cluster of real nodes: one master and slaves on one database and one Redis, each behind a proxy that can fail, with a
 * scripted upstream that keeps its own ledger. `stop()` ends the nodes and has the auditor compare all of it.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inArray } from 'drizzle-orm'
import { type AdminClient, createAdminClient } from './admin-client.ts'
import { type AuditOptions, type AuditReport, expectAudit } from './auditor.ts'
import { SERVER_ENGINE, sqlServer, type TestDb } from './engines.ts'
import { eventually } from './eventually.ts'
import { createNode, type RealNode } from './node.ts'
import { type RedisServer, startRedis } from './services.ts'
import { openTcpProxy, type TcpProxy } from './tcp-proxy.ts'
import { startUpstreamProcess, type UpstreamProcess } from './upstream-process.ts'

export interface ClusterOptions {
  /** Beside the one master; 2 if not given. */
  readonly slaves?: number
  /** `own` (default): a Redis server of its own, which a test may stop or flush. `none`: without Redis. */
  readonly redis?: 'own' | 'none'
  /** Variables that every node gets. */
  readonly env?: Readonly<Record<string, string>>
  /** Variables of one node, by its number; the master is 0. */
  readonly envOf?: (node: number) => Readonly<Record<string, string>>
}

export interface Cluster {
  /** The master first. */
  readonly nodes: readonly RealNode[]
  /** Asks the master, and keeps account of what was granted. */
  readonly admin: AdminClient
  /** The database itself, not through the proxy. */
  readonly testDb: TestDb
  readonly upstream: UpstreamProcess
  readonly databaseProxy: TcpProxy
  readonly redis: RedisServer | undefined
  readonly redisProxy: TcpProxy | undefined
  /** What a further node needs in its environment. */
  readonly env: Readonly<Record<string, string>>
  /** Starts one more slave; it is not ready yet. */
  addNode(env?: Readonly<Record<string, string>>): Promise<RealNode>
  /** Waits until no instance but those of living workers may hold money. */
  settled(workers: number): Promise<void>
  /** Stops every node. @throws Error when one does not end well, or when the auditor finds a difference */
  stop(audit?: AuditOptions): Promise<AuditReport>
  /** Ends and removes everything; for the `finally` of a test, also after `stop`. */
  remove(): Promise<void>
}

/** Ready, set up, without channels. Nodes have one worker each unless `env` says otherwise. */
export async function openCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const { slaves = 2, redis: wanted = 'own', envOf = () => ({}) } = options
  if (!SERVER_ENGINE) throw new Error('a cluster needs a server: set TEST_SERVERS')
  const folder = await mkdtemp(join(tmpdir(), 'headgate-cluster-'))
  const testDb = await SERVER_ENGINE.freshDb({ isEmpty: true })
  const server = await sqlServer()
  const databaseProxy = await openTcpProxy(server)
  const redis = wanted === 'own' ? await startRedis() : undefined
  const redisProxy = redis && (await openTcpProxy({ host: '127.0.0.1', port: redis.port }))
  const upstream = await startUpstreamProcess(folder)
  const env = {
    SQL_DSN: (testDb.env.SQL_DSN ?? '').replace(/\(([^)]*):\d+\)/, `(127.0.0.1:${databaseProxy.port})`),
    ...(redisProxy && { REDIS_CONN_STRING: `redis://127.0.0.1:${redisProxy.port}` }),
    CRYPTO_SECRET: 'a crypto secret of tests, long enough',
    WORKERS: '1',
    ...options.env,
  }
  const nodes: RealNode[] = []
  const make = async (own: Readonly<Record<string, string>>): Promise<RealNode> => {
    const number = nodes.length
    const node = await createNode({
      env: {
        ...env,
        NODE_NAME: `node-${number}`,
        ...(number > 0 && { NODE_TYPE: 'slave' }),
        ...envOf(number),
        ...own,
      },
    })
    nodes.push(node)
    node.start()
    return node
  }
  const admin = createAdminClient(() => nodes[0]?.url ?? '')
  let isRemoved = false
  const remove = async (): Promise<void> => {
    if (isRemoved) return
    isRemoved = true
    await Promise.all(nodes.map((node) => node.remove()))
    await upstream.stop()
    await databaseProxy.close()
    await redisProxy?.close()
    await testDb.close()
    await rm(folder, { recursive: true, force: true })
  }
  try {
    for (let number = 0; number <= slaves; number += 1) await make({})
    await Promise.all(nodes.map((node) => node.ready(60_000)))
    await admin.setUp()
  } catch (error) {
    await remove()
    throw error
  }
  return {
    nodes,
    admin,
    testDb,
    upstream,
    databaseProxy,
    redis,
    redisProxy,
    env,
    addNode: (own = {}) => make(own),
    async settled(workers) {
      const { clusterInstances } = testDb.db.tables
      await eventually(
        'only living workers may hold money',
        async () =>
          (await testDb.db.$count(clusterInstances, inArray(clusterInstances.state, ['live', 'draining']))) === workers,
        { withinMs: 60_000, everyMs: 100 },
      )
    },
    async stop(audit = {}) {
      const codes = await Promise.all(nodes.map((node) => node.stop(60_000)))
      if (codes.some((code) => code !== 0)) throw new Error(`nodes ended with ${codes.join(', ')}`)
      return expectAudit(testDb.db, testDb.db, { granted: admin.granted, ...audit })
    },
    remove,
  }
}
