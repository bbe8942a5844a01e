/**
 * A set of connections to what was found at an address, good until any of them ends or does not answer: command
 * connections, the watch on Sentinels, and on demand a connection for messages. A new session looks anew.
 */
import { Cluster, type Redis, type RedisCommander } from 'ioredis'
import type { RedisPlace } from './redis-address.ts'
import { connected, connectionOptions, createClient, isLost, messageOf } from './redis-client.ts'
import { type FoundRedis, findRedis, type RedisForm, type RedisSettings } from './redis-find.ts'

export interface RedisSession {
  readonly form: RedisForm
  readonly doubt?: string
  /** One of the command connections. Those of one turn of the event loop share one, and with it a write. */
  commands(): RedisCommander
  /** A connection to each primary: one, but for a Redis Cluster. */
  primaries(): readonly Redis[]
  /** @throws when a primary does not answer, or takes no writes */
  probe(): Promise<void>
  /** A connection that may subscribe; the caller closes it. */
  openMessages(): Promise<Redis>
  close(): void
}

export interface SessionOptions {
  readonly settings: RedisSettings
  /** Command connections (to each primary of a Redis Cluster). */
  readonly connections: number
  /** Is written every second: says whether writes are taken. */
  readonly probeKey: string
  /** Called when a connection ends by itself, or when Sentinels say that another server is the primary now. */
  readonly onEnd: (error: unknown) => void
}

const PROBE_TTL_MS = 10_000
const SENTINEL_RETRY_MS = 1_000
const CLUSTER_OPEN_MS = 3_000

/** @throws Error without secrets when there is nothing that can be used */
export async function openSession(options: SessionOptions): Promise<RedisSession> {
  const found = await findRedis(options.settings)
  const session = found.form === 'cluster' ? await openCluster(found, options) : await openPrimary(found, options)
  try {
    await session.probe()
    return session
  } catch (error) {
    session.close()
    throw new Error(messageOf(error))
  }
}

async function openPrimary(found: FoundRedis, options: SessionOptions): Promise<RedisSession> {
  const { settings, connections, probeKey, onEnd } = options
  const { form, address, primary, doubt } = found
  const clients = Array.from({ length: connections }, () =>
    createClient(address, primary, { enableAutoPipelining: true }),
  )
  const unwatch = form === 'sentinel' ? watchSentinels(found, settings.masterName, onEnd) : () => undefined
  const close = (): void => {
    unwatch()
    for (const client of clients) client.disconnect()
  }
  try {
    await Promise.all(clients.map((client) => connected(client, primary)))
  } catch (error) {
    close()
    throw error
  }
  for (const client of clients) client.once('end', () => onEnd(new Error('the connection was closed')))
  return {
    form,
    ...(doubt && { doubt }),
    commands: inTurn(clients),
    primaries: () => clients.slice(0, 1),
    async probe() {
      const [first, ...others] = clients
      await Promise.all([
        // A refused write, such as of a full memory, is no reason to go: reads and messages still work.
        first?.set(probeKey, 1, 'PX', PROBE_TTL_MS).catch(throwIfLost),
        ...others.map((client) => client.ping()),
      ])
    },
    openMessages: () => connected(createClient(address, primary), primary),
    close,
  }
}

/**
 * The old primary may live on, cut off from the Sentinels and not from us: they say when there is another.
 * @source https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/#sentinel-pubsub-messages
 */
function watchSentinels(
  { address, primary, sentinelLogin }: FoundRedis,
  masterName: string | undefined,
  onEnd: (error: unknown) => void,
): () => void {
  const watches = address.places.map((place) => {
    const { places, isTls } = address
    const watch = createClient({ places, isTls, db: 0, ...sentinelLogin }, place, {
      retryStrategy: () => SENTINEL_RETRY_MS,
      enableOfflineQueue: true,
    })
    watch.on('message', (_channel: string, text: string) => {
      // `<name> <old host> <old port> <new host> <new port>`, from each of them, also after we have followed.
      const [name, , , host, port] = text.split(' ')
      if (name === masterName && (host !== primary?.host || Number(port) !== primary?.port))
        onEnd(new Error('the Sentinels chose another primary'))
    })
    watch.on('ready', () => void watch.subscribe('+switch-master').catch(() => undefined))
    watch.connect().catch(() => undefined)
    return watch
  })
  return () => {
    for (const watch of watches) watch.disconnect()
  }
}

async function openCluster({ address, doubt }: FoundRedis, options: SessionOptions): Promise<RedisSession> {
  const { connections, onEnd } = options
  const clusters = Array.from(
    { length: connections },
    () =>
      new Cluster([...address.places], {
        redisOptions: connectionOptions(address.isTls, address),
        lazyConnect: true,
        enableOfflineQueue: false,
        clusterRetryStrategy: () => null,
        // A primary that is gone is not waited for here: this node's own state answers meanwhile.
        retryDelayOnFailover: 0,
        retryDelayOnClusterDown: 0,
        // Names as they were given, which certificates are for.
        dnsLookup: (name, callback) => callback(null, name),
        // Not `enableAutoPipelining`: it hands MOVED answers to callers.
      }),
  )
  for (const cluster of clusters) cluster.on('error', () => undefined)
  const close = (): void => {
    for (const cluster of clusters) cluster.disconnect()
  }
  try {
    await Promise.all(clusters.map(connectedCluster))
  } catch (error) {
    close()
    throw error
  }
  for (const cluster of clusters) cluster.once('end', () => onEnd(new Error('the connections were closed')))
  const primaries = clusters[0]?.nodes('master').length ?? 0
  return {
    form: 'cluster',
    ...(doubt && { doubt }),
    commands: inTurn(clusters),
    primaries: () => clusters[0]?.nodes('master') ?? [],
    async probe() {
      const nodes = clusters.flatMap((cluster) => cluster.nodes('master'))
      if (nodes.length < primaries * clusters.length) throw new Error('a primary of the Redis Cluster is gone')
      await Promise.all(nodes.map((node) => node.ping()))
    },
    openMessages() {
      // Any node passes on the messages of all.
      const nodes = clusters[0]?.nodes() ?? []
      const node = nodes[Math.floor(Math.random() * nodes.length)]
      if (!node) throw new Error('the Redis Cluster has no nodes')
      const place: RedisPlace = { host: node.options.host ?? '', port: node.options.port ?? 0 }
      return connected(createClient(address, place), place)
    },
    close,
  }
}

/** Its `connect` may leave one waiting for ever, such as when the cluster says of itself that it does not work. */
async function connectedCluster(cluster: Cluster): Promise<void> {
  const given = Promise.withResolvers<never>()
  const onEnd = (): void => given.reject(new Error('the Redis Cluster cannot be used: not all of its slots are served'))
  const patience = setTimeout(() => given.reject(new Error('the Redis Cluster does not answer')), CLUSTER_OPEN_MS)
  cluster.once('end', onEnd)
  try {
    await Promise.race([cluster.connect(), given.promise])
  } finally {
    clearTimeout(patience)
    cluster.off('end', onEnd)
  }
}

function inTurn<T>(clients: readonly T[]): () => T {
  if (clients.length === 1) return () => clients[0]!
  let turn = 0
  let isSameTurn = false
  return () => {
    if (!isSameTurn) {
      isSameTurn = true
      turn = (turn + 1) % clients.length
      setImmediate(() => {
        isSameTurn = false
      })
    }
    return clients[turn]!
  }
}

function throwIfLost(error: unknown): void {
  if (isLost(error)) throw error
}
