/**
 * Redis in the forms that fail over: a primary with a replica and three Sentinels, and a Redis Cluster of three primaries
 * with a replica each. On free ports, in temporary folders, ended with the process. Fail-over is as fast as the servers allow.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import type { RedisSettings } from '../../src/state/index.ts'
import { eventually } from './eventually.ts'
import { atEnd, freePort, spawnTied } from './services.ts'

export interface RedisNode {
  readonly port: number
  /** Asks the server itself. */
  call(...command: readonly [string, ...(string | number)[]]): Promise<unknown>
  /** `kill -9`, and waits. */
  kill(): Promise<void>
  /** SIGSTOP: it is connected to, and silent. */
  freeze(): void
  thaw(): void
  /** After `kill`: at the same port, with what it had on disk. */
  restart(): Promise<void>
}

export interface SentinelRedis {
  /** How to reach it, for the state; the address leads to the Sentinels. */
  readonly settings: RedisSettings & { readonly masterName: string }
  /** The same, for a node. */
  readonly env: Readonly<Record<string, string>>
  readonly sentinels: readonly RedisNode[]
  /** Who the Sentinels say is the primary. */
  primary(): Promise<RedisNode>
  /** `SENTINEL failover`; tried until it is begun. */
  failOver(): Promise<void>
  /** Waits until the Sentinels agree that a fail-over can be made; most of half a minute after the last one. */
  settled(): Promise<void>
  remove(): Promise<void>
}

export interface ClusterRedis {
  readonly settings: RedisSettings
  readonly env: Readonly<Record<string, string>>
  readonly nodes: readonly RedisNode[]
  /** The primary that has the slot of a key. */
  primaryOf(key: string): Promise<RedisNode>
  /** Has a replica of this primary take its place. */
  failOver(primary: RedisNode): Promise<void>
  /** Waits until every slot is served and every primary has a replica. */
  settled(): Promise<void>
  remove(): Promise<void>
}

/** For servers that take nothing but TLS: paths of files. Their certificate is for `localhost` and 127.0.0.1. */
export interface Certificates {
  /** Who signed it; what a node needs in `NODE_EXTRA_CA_CERTS`. */
  readonly ca: string
  readonly certificate: string
  readonly key: string
}

/** @param folder where the files go */
export async function makeCertificates(folder: string): Promise<Certificates> {
  if (!Bun.which('openssl')) throw new Error('openssl is not installed (Debian: openssl)')
  const fresh = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '30']
  const openssl = async (...args: readonly string[]): Promise<void> => {
    const run = Bun.spawn(['openssl', 'req', '-x509', ...fresh, ...args], { cwd: folder, stderr: 'pipe' })
    if ((await run.exited) !== 0) throw new Error(await new Response(run.stderr).text())
  }
  await openssl('-subj', '/CN=tests', '-keyout', 'ca.key', '-out', 'ca.pem')
  const names = [
    '-addext',
    'subjectAltName=DNS:localhost,IP:127.0.0.1',
    '-addext',
    'basicConstraints=critical,CA:FALSE',
  ]
  await openssl('-subj', '/CN=redis', ...names, '-CA', 'ca.pem', '-CAkey', 'ca.key', '-keyout', 'key', '-out', 'pem')
  return { ca: join(folder, 'ca.pem'), certificate: join(folder, 'pem'), key: join(folder, 'key') }
}

/** One server that a test may kill, freeze or set otherwise; `redis()` of the services is everybody's. */
export async function startRedisNode(
  options: { readonly password?: string; readonly tls?: Certificates; readonly lines?: readonly string[] } = {},
): Promise<RedisNode & { remove(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-redis-node-'))
  const remove = removal(folder)
  const { password = '', tls, lines = [] } = options
  return { ...(await startNode(folder, { password, tls, lines })), remove }
}

const MASTER_NAME = 'mymaster'
const SLOW_MACHINE_MS = 60_000

/** @param options.password of the data servers; @param options.sentinelPassword of the Sentinels */
export async function startSentinelRedis(
  options: {
    readonly password?: string
    readonly sentinelPassword?: string
    readonly downAfterMs?: number
    readonly tls?: Certificates
  } = {},
): Promise<SentinelRedis> {
  const { password = '', sentinelPassword = '', downAfterMs = 1_000, tls } = options
  const folder = await mkdtemp(join(tmpdir(), 'headgate-sentinel-'))
  const remove = removal(folder)
  const [first, second] = await Promise.all([
    startNode(folder, { password, tls }),
    startNode(folder, { password, tls }),
  ] as const)
  await second.call('REPLICAOF', '127.0.0.1', first.port)
  await eventually('the replica follows', async () => String(await second.call('ROLE')).includes('connected'), {
    withinMs: SLOW_MACHINE_MS,
  })
  const sentinels = await Promise.all(
    [0, 1, 2].map(() =>
      startNode(folder, {
        password: sentinelPassword,
        tls,
        sentinel: [
          `sentinel monitor ${MASTER_NAME} 127.0.0.1 ${first.port} 2`,
          `sentinel down-after-milliseconds ${MASTER_NAME} ${downAfterMs}`,
          `sentinel failover-timeout ${MASTER_NAME} 5000`,
          ...(password ? [`sentinel auth-pass ${MASTER_NAME} ${password}`] : []),
          ...(sentinelPassword
            ? [`requirepass ${sentinelPassword}`, `sentinel sentinel-pass ${sentinelPassword}`]
            : []),
        ],
      }),
    ),
  )
  const settled = async (): Promise<void> => {
    for (const sentinel of sentinels)
      await eventually(
        'a Sentinel knows the others, and a replica that could take over',
        async () => {
          const about = fieldsOf(await sentinel.call('SENTINEL', 'MASTER', MASTER_NAME))
          const replicas = (await sentinel.call('SENTINEL', 'REPLICAS', MASTER_NAME)) as readonly unknown[]
          const ready = replicas.map(fieldsOf).filter((replica) => {
            return replica.get('flags') === 'slave' && replica.get('master-link-status') === 'ok'
          })
          return about.get('num-other-sentinels') === '2' && about.get('flags') === 'master' && ready.length === 1
        },
        { withinMs: SLOW_MACHINE_MS, everyMs: 50 },
      )
  }
  await settled()
  const login = password ? `:${password}@` : ''
  const address = `${tls ? 'rediss' : 'redis'}://${login}${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}`
  return {
    settings: { address, masterName: MASTER_NAME, sentinelPassword },
    env: { REDIS_CONN_STRING: address, REDIS_MASTER_NAME: MASTER_NAME, REDIS_SENTINEL_PASSWORD: sentinelPassword },
    sentinels,
    settled,
    async failOver() {
      await eventually('a fail-over begins', () => sentinels[0]!.call('SENTINEL', 'FAILOVER', MASTER_NAME), {
        withinMs: SLOW_MACHINE_MS,
        everyMs: 100,
      })
    },
    async primary() {
      for (const sentinel of sentinels) {
        const reply = await sentinel.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', MASTER_NAME).catch(() => undefined)
        const port = Number((reply as readonly string[] | undefined)?.[1])
        const found = [first, second].find((node) => node.port === port)
        if (found) return found
      }
      throw new Error('no Sentinel answers')
    },
    remove,
  }
}

/** @param options.password of every node */
export async function startClusterRedis(
  options: { readonly password?: string; readonly nodeTimeoutMs?: number; readonly tls?: Certificates } = {},
): Promise<ClusterRedis> {
  const { password = '', nodeTimeoutMs = 1_000, tls } = options
  const folder = await mkdtemp(join(tmpdir(), 'headgate-redis-cluster-'))
  const remove = removal(folder)
  const nodes = await Promise.all(
    Array.from({ length: 6 }, () => startNode(folder, { password, tls, cluster: { nodeTimeoutMs } })),
  )
  const primaries = nodes.slice(0, 3)
  const replicas = nodes.slice(3)
  await Promise.all(
    primaries.map((node, n) =>
      node.call('CLUSTER', 'ADDSLOTSRANGE', Math.floor((n * 16_384) / 3), Math.floor(((n + 1) * 16_384) / 3) - 1),
    ),
  )
  // Epochs that differ from the start spare the nodes to find out.
  for (const [n, node] of nodes.entries()) await node.call('CLUSTER', 'SET-CONFIG-EPOCH', n + 1)
  for (const node of nodes.slice(1)) await node.call('CLUSTER', 'MEET', '127.0.0.1', nodes[0]!.port)
  for (const [n, replica] of replicas.entries()) {
    const id = String(await primaries[n]!.call('CLUSTER', 'MYID'))
    await eventually('a replica knows its primary', () => replica.call('CLUSTER', 'REPLICATE', id), {
      withinMs: SLOW_MACHINE_MS,
      everyMs: 50,
    })
  }
  const living = async (): Promise<RedisNode> => {
    for (const node of nodes) if (await node.call('PING').catch(() => undefined)) return node
    throw new Error('no node answers')
  }
  const settled = async (): Promise<void> => {
    await eventually(
      'every node sees all slots served, with a replica each',
      async () => {
        for (const node of nodes) {
          const info = String(await node.call('CLUSTER', 'INFO'))
          if (!info.includes('cluster_state:ok')) return false
          const shards = (await node.call('CLUSTER', 'SLOTS')) as readonly (readonly unknown[])[]
          if (shards.length !== 3 || shards.some((shard) => shard.length < 4)) return false
          const list = String(await node.call('CLUSTER', 'NODES'))
          if (list.includes('fail') || list.includes('handshake')) return false
          if (!String(await node.call('ROLE')).match(/^master|connected/)) return false
        }
        return true
      },
      { withinMs: SLOW_MACHINE_MS, everyMs: 50 },
    )
  }
  await settled()
  const login = password ? `:${password}@` : ''
  const address = `${tls ? 'rediss' : 'redis'}://${login}${nodes.map(({ port }) => `127.0.0.1:${port}`).join(',')}`
  return {
    settings: { address },
    env: { REDIS_CONN_STRING: address },
    nodes,
    async primaryOf(key) {
      const node = await living()
      const slot = Number(await node.call('CLUSTER', 'KEYSLOT', key))
      const shards = (await node.call('CLUSTER', 'SLOTS')) as [number, number, [string, number]][]
      const [, , [, port]] = shards.find(([from, to]) => from <= slot && slot <= to)!
      return nodes.find((each) => each.port === port)!
    },
    async failOver(primary) {
      const [, , own] = (await primary.call('ROLE')) as [string, number, [string, string][]]
      const replica = nodes.find(({ port }) => port === Number(own[0]?.[1]))
      const isReplaced = async (): Promise<boolean> => !String(await primary.call('ROLE')).startsWith('master')
      await eventually(
        'a replica has taken over',
        async () => {
          await replica?.call('CLUSTER', 'FAILOVER')
          // One that is not done in 5 s is given up, silently.
          return eventually('it takes over', isReplaced, { withinMs: 6_000 })
        },
        { withinMs: SLOW_MACHINE_MS },
      )
    },
    settled,
    remove,
  }
}

/** A folder's end, and that of the servers in it; at the end of the run if nobody asks for it before. */
const running = new Map<string, Set<() => Promise<void>>>()

function removal(folder: string): () => Promise<void> {
  running.set(folder, new Set())
  const remove = async (): Promise<void> => {
    await Promise.all([...(running.get(folder) ?? [])].map((kill) => kill()))
    running.delete(folder)
    await rm(folder, { recursive: true, force: true })
  }
  atEnd(remove)
  return remove
}

interface NodeOptions {
  readonly password: string
  readonly tls?: Certificates | undefined
  /** Of its configuration, beside those that all have. */
  readonly lines?: readonly string[]
  readonly sentinel?: readonly string[]
  readonly cluster?: { readonly nodeTimeoutMs: number }
}

async function startNode(
  folder: string,
  { password, tls, lines: extra = [], sentinel, cluster }: NodeOptions,
): Promise<RedisNode> {
  const program = Bun.which('redis-server')
  if (!program) throw new Error('redis-server is not installed (Debian: redis-server)')
  const port = cluster ? await freePortOfTwo() : await freePort()
  const own = await mkdtemp(join(folder, `${port}-`))
  const config = join(own, 'redis.conf')
  const lines = [
    ...(tls
      ? [
          'port 0',
          `tls-port ${port}`,
          `tls-cert-file ${tls.certificate}`,
          `tls-key-file ${tls.key}`,
          `tls-ca-cert-file ${tls.ca}`,
          'tls-auth-clients no',
          'tls-replication yes',
          ...(cluster ? ['tls-cluster yes'] : []),
        ]
      : [`port ${port}`]),
    'bind 127.0.0.1',
    ...extra,
    `dir ${own}`,
    ...(sentinel ?? [
      'save ""',
      'repl-diskless-sync-delay 0',
      'repl-ping-replica-period 1',
      ...(password ? [`requirepass "${password}"`, `masterauth "${password}"`] : []),
    ]),
    ...(cluster
      ? ['cluster-enabled yes', `cluster-node-timeout ${cluster.nodeTimeoutMs}`, 'cluster-replica-validity-factor 0']
      : []),
  ]
  // The server writes to it: a Sentinel keeps its state there.
  await writeFile(config, `${lines.join('\n')}\n`)

  let child: Bun.Subprocess
  const call: RedisNode['call'] = async (...command) => {
    const client = new Redis({
      port,
      host: '127.0.0.1',
      ...(password && { password }),
      ...(tls && { tls: { ca: await readFile(tls.ca) } }),
      retryStrategy: () => null,
      commandTimeout: 2_000,
      lazyConnect: true,
      enableReadyCheck: false,
    })
    client.on('error', () => undefined)
    try {
      const [name, ...args] = command
      return await client.call(name, ...args)
    } finally {
      client.disconnect()
    }
  }
  const start = async (): Promise<void> => {
    child = spawnTied([program, config, ...(sentinel ? ['--sentinel'] : [])], join(own, 'out'))
    await eventually('a Redis server answers', () => call('PING'), { withinMs: SLOW_MACHINE_MS, everyMs: 20 })
  }
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL')
    await child.exited
  }
  await start()
  running.get(folder)?.add(kill)
  return {
    port,
    call,
    kill,
    freeze: () => child.kill('SIGSTOP'),
    thaw: () => child.kill('SIGCONT'),
    restart: start,
  }
}

/** Nodes of a cluster talk to each other 10,000 ports above the one for clients. */
async function freePortOfTwo(): Promise<number> {
  for (;;) {
    const port = (await freePort()) - 10_000
    const listener = createServer()
    const isFree = await new Promise<boolean>((resolve) => {
      listener.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true))
    })
    await new Promise((resolve) => listener.close(resolve))
    if (isFree) return port
  }
}

/** `name, value, name, value…` as Sentinels answer. */
function fieldsOf(reply: unknown): ReadonlyMap<string, string> {
  const texts = (reply as readonly unknown[]).map(String)
  return new Map(texts.flatMap((text, i) => (i % 2 === 0 ? [[text, texts[i + 1] ?? ''] as const] : [])))
}
