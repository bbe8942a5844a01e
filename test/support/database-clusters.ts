/**
 * MariaDB servers of a test's own, which it may kill and start again, and the two ways to have several of them: a primary
 * with a replica (GTID, semi-synchronous), and three equal Galera nodes behind HAProxy. All in temporary folders, on free
 * ports, with little memory, and ended with the test process whatever ends it.
 */
import { existsSync } from 'node:fs'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { $ } from 'bun'
import mysql from 'mysql2/promise'
import { eventually } from './eventually.ts'
import { freePort, mariadbTemplate, spawnTied } from './services.ts'

export interface OwnServer {
  readonly host: string
  readonly port: number
  /** Starts it on its folder and waits until it takes statements. @param extra options of this start alone */
  start(extra?: readonly string[]): Promise<void>
  /** `kill -9`, and waits until it is gone. */
  kill(): Promise<void>
  /** SIGTERM, and waits. */
  stop(): Promise<void>
  /** SIGSTOP: connections stay and nobody answers. */
  freeze(): void
  thaw(): void
  /** As root, past whatever stands before the server. @returns the rows of the statement */
  query(statement: string): Promise<readonly Readonly<Record<string, unknown>>[]>
  /** What it wrote last, for the text of a failure. */
  output(): Promise<string>
  /** Kills it and removes its folder. */
  remove(): Promise<void>
}

/** A user with every right on data and none on the server, as gateways should have: `read_only` holds for it. */
export const APP_USER = { user: 'app', password: 'app' } as const
const APP_RIGHTS = 'select, insert, update, delete, create, alter, drop, index, references'

/** Go form of an address. */
export const dsnOf = (at: { readonly host: string; readonly port: number }, database: string): string =>
  `${APP_USER.user}:${APP_USER.password}@tcp(${at.host}:${at.port})/${database}`

const LITTLE_MEMORY = [
  '--innodb-buffer-pool-size=48M',
  '--innodb-log-file-size=16M',
  '--innodb-flush-log-at-trx-commit=2',
  '--key-buffer-size=1M',
  '--performance-schema=off',
  '--aria-pagecache-buffer-size=2M',
]

/**
 * One server that is not started yet.
 * @param options command-line options of every start
 */
export async function createServer(options: readonly string[] = []): Promise<OwnServer> {
  const { program, data: template } = await mariadbTemplate()
  const folder = await mkdtemp(join(tmpdir(), 'headgate-mariadb-'))
  await cp(template, join(folder, 'data'), { recursive: true })
  // A server of root would start an rsync that gives root up, and then could not read what it is to send.
  const isRoot = process.getuid?.() === 0
  if (isRoot) await $`chown -R mysql:mysql ${folder}`.quiet()
  const asMysql = isRoot ? ['setpriv', '--reuid=mysql', '--regid=mysql', '--init-groups', '--pdeathsig=KILL', '--'] : []
  const port = await freePort()
  const host = '127.0.0.1'
  const socketPath = join(folder, 's')
  let child: Bun.Subprocess | undefined

  const query: OwnServer['query'] = async (statement) => {
    const connection = await mysql.createConnection({ socketPath, user: 'root', connectTimeout: 5_000 })
    try {
      const [rows] = await connection.query(statement)
      return Array.isArray(rows) ? (rows as Readonly<Record<string, unknown>>[]) : []
    } finally {
      connection.destroy()
    }
  }
  const output = async (): Promise<string> =>
    (await readFile(join(folder, 'out.err'), 'utf8').catch(() => '')).slice(-3_000)
  const end = async (signal: 'SIGKILL' | 'SIGTERM'): Promise<void> => {
    if (!child) return
    child.kill(signal)
    const late = setTimeout(() => child?.kill('SIGKILL'), 20_000)
    await child.exited
    clearTimeout(late)
    child = undefined
  }

  return {
    host,
    port,
    async start(extra = []) {
      const running = spawnTied(
        [
          ...asMysql,
          program,
          '--no-defaults',
          `--datadir=${join(folder, 'data')}`,
          `--tmpdir=${folder}`,
          `--socket=${socketPath}`,
          `--port=${port}`,
          `--bind-address=${host}`,
          `--pid-file=${join(folder, 'pid')}`,
          '--skip-name-resolve',
          '--max-connections=300',
          ...LITTLE_MEMORY,
          ...options,
          ...extra,
        ],
        join(folder, 'out'),
      )
      child = running
      await eventually(
        'the database server answers',
        async () => {
          if (running.exitCode !== null || running.signalCode !== null) throw new Error(`it ended: ${await output()}`)
          return (await query('select 1')).length === 1
        },
        { withinMs: 90_000, everyMs: 50 },
      )
    },
    kill: () => end('SIGKILL'),
    stop: () => end('SIGTERM'),
    freeze: () => child?.kill('SIGSTOP'),
    thaw: () => child?.kill('SIGCONT'),
    query,
    output,
    async remove() {
      await end('SIGKILL')
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** Makes the gateway's user and an empty database. */
async function furnish(server: OwnServer, database: string): Promise<void> {
  await server.query(`create user ${APP_USER.user}@'%' identified by '${APP_USER.password}'`)
  await server.query(`grant ${APP_RIGHTS} on *.* to ${APP_USER.user}@'%'`)
  await server.query(`create database ${database} character set utf8mb4`)
}

/** One server with a database, ready for nodes. */
export async function startSingle(database: string, options: readonly string[] = []): Promise<OwnServer> {
  const server = await createServer(options)
  try {
    await server.start()
    await furnish(server, database)
    return server
  } catch (error) {
    await server.remove()
    throw error
  }
}

export interface ReplicationPair {
  readonly primary: OwnServer
  /** Read-only until it is promoted. */
  readonly replica: OwnServer
  /** Waits until the replica has everything that the primary has. */
  caughtUp(): Promise<void>
  /** Cuts the replica off its primary and lets it take writes; what leads clients there is the caller's. */
  promote(): Promise<void>
  remove(): Promise<void>
}

/**
 * A primary and its replica, which has every transaction before the client hears of its commit (semi-synchronous).
 * @source https://mariadb.com/kb/en/gtid/, https://mariadb.com/kb/en/semisynchronous-replication/
 */
export async function startReplication(database: string): Promise<ReplicationPair> {
  const common = ['--log-bin=bin', '--log-slave-updates=on', '--binlog-format=ROW', '--sync-binlog=0']
  const primary = await createServer([
    ...common,
    '--server-id=1',
    '--rpl-semi-sync-master-enabled=on',
    '--rpl-semi-sync-master-wait-point=AFTER_SYNC',
    '--rpl-semi-sync-master-timeout=10000',
  ])
  const replica = await createServer([...common, '--server-id=2', '--rpl-semi-sync-slave-enabled=on'])
  const remove = async (): Promise<void> => {
    await Promise.all([primary.remove(), replica.remove()])
  }
  const gtidOf = async (server: OwnServer): Promise<string> =>
    String((await server.query('select @@gtid_binlog_pos as pos'))[0]?.['pos'])
  const caughtUp = async (): Promise<void> => {
    const wanted = await gtidOf(primary)
    const [row] = await replica.query(`select master_gtid_wait('${wanted}', 30) as late`)
    if (Number(row?.['late']) !== 0) throw new Error(`the replica did not reach ${wanted}`)
  }
  try {
    await Promise.all([primary.start(['--rpl-semi-sync-master-enabled=off']), replica.start(['--read-only=on'])])
    await primary.query(`create user repl@'%' identified by 'repl'`)
    await primary.query(`grant replication slave on *.* to repl@'%'`)
    await replica.query(
      `change master to master_host='${primary.host}', master_port=${primary.port}, master_user='repl', ` +
        `master_password='repl', master_use_gtid=slave_pos, master_connect_retry=1`,
    )
    await replica.query('start slave')
    await furnish(primary, database)
    await caughtUp()
    await primary.query('set global rpl_semi_sync_master_enabled = on')
    await eventually('the replica acknowledges', async () => {
      const [row] = await primary.query(`show global status like 'Rpl_semi_sync_master_clients'`)
      return Number(row?.['Value']) === 1
    })
  } catch (error) {
    await remove()
    throw error
  }
  return {
    primary,
    replica,
    caughtUp,
    async promote() {
      // What has arrived is applied first: it was acknowledged.
      await replica.query('stop slave io_thread')
      await eventually(
        'the replica has applied what it received',
        async () => {
          const [row] = await replica.query('show slave status')
          return /has read all relay log/i.test(String(row?.['Slave_SQL_Running_State']))
        },
        { withinMs: 30_000, everyMs: 20 },
      )
      await replica.query('stop slave')
      await replica.query('reset slave all')
      await replica.query('set global read_only = off')
    },
    remove,
  }
}

export interface GaleraCluster {
  readonly servers: readonly OwnServer[]
  /** Of HAProxy, which spreads connections over all three. */
  readonly host: string
  readonly port: number
  /** Waits until a node that was started again is a full member. */
  synced(server: OwnServer): Promise<void>
  /** Starts a killed server again: it joins the others. */
  rejoin(server: OwnServer): Promise<void>
  remove(): Promise<void>
}

const GALERA_LIBRARIES = ['/usr/lib/galera/libgalera_smm.so', '/usr/lib64/galera/libgalera_smm.so']
const GALERA_SIZE = 3

/**
 * Three nodes that all take writes, with HAProxy before them in TCP mode. It asks only whether a server lets it in, so a
 * node that is not part of the cluster (any more, or yet) still gets connections: the gateway has to leave it by itself.
 * @source https://mariadb.com/kb/en/galera-cluster-system-variables/
 */
export async function startGalera(database: string): Promise<GaleraCluster> {
  const library = GALERA_LIBRARIES.find((path) => existsSync(path))
  if (!library) throw new Error('the Galera library is not installed (Debian: galera-4)')
  const ports: { readonly base: number; readonly ist: number; readonly sst: number }[] = []
  for (let n = 0; n < GALERA_SIZE; n += 1)
    ports.push({ base: await freePort(), ist: await freePort(), sst: await freePort() })
  const members = ports.map(({ base }) => `127.0.0.1:${base}`).join(',')
  const servers = await Promise.all(
    ports.map(({ base, ist, sst }, n) =>
      createServer([
        '--binlog-format=ROW',
        '--innodb-autoinc-lock-mode=2',
        '--wsrep-on=ON',
        `--wsrep-provider=${library}`,
        '--wsrep-cluster-name=headgate-test',
        `--wsrep-cluster-address=gcomm://${members}`,
        `--wsrep-node-name=node${n}`,
        '--wsrep-node-address=127.0.0.1',
        `--wsrep-node-incoming-address=127.0.0.1`,
        '--wsrep-sst-method=rsync',
        `--wsrep-sst-receive-address=127.0.0.1:${sst}`,
        `--wsrep-provider-options=${[
          `base_port=${base}`,
          `gmcast.listen_addr=tcp://127.0.0.1:${base}`,
          `ist.recv_addr=127.0.0.1:${ist}`,
          'gcache.size=32M',
          'evs.keepalive_period=PT0.5S',
          'evs.suspect_timeout=PT2S',
          'evs.inactive_timeout=PT4S',
          'evs.inactive_check_period=PT0.5S',
          'evs.install_timeout=PT4S',
        ].join(';')}`,
      ]),
    ),
  )
  const haproxyPort = await freePort()
  const folder = await mkdtemp(join(tmpdir(), 'headgate-haproxy-'))
  let haproxy: Bun.Subprocess | undefined
  const remove = async (): Promise<void> => {
    haproxy?.kill('SIGKILL')
    await haproxy?.exited
    await Promise.all(servers.map((server) => server.remove()))
    await rm(folder, { recursive: true, force: true })
  }
  const stateOf = async (server: OwnServer): Promise<string> => {
    const [row] = await server.query(`show global status like 'wsrep_local_state_comment'`)
    return String(row?.['Value'])
  }
  const synced: GaleraCluster['synced'] = async (server) => {
    await eventually('the node is a member', async () => (await stateOf(server)) === 'Synced', {
      withinMs: 90_000,
      everyMs: 50,
    })
  }
  try {
    const [first, ...others] = servers
    if (!first) throw new Error('there is no first node')
    await first.start(['--wsrep-new-cluster'])
    await furnish(first, database)
    await first.query(`create user haproxy@'%'`)
    // One after the other: a node that gives its state to another cannot give it to a third.
    for (const server of others) {
      await server.start()
      await synced(server)
    }
    await writeFile(
      join(folder, 'haproxy.cfg'),
      [
        'global',
        '  maxconn 2000',
        'defaults',
        '  mode tcp',
        '  timeout connect 2s',
        '  timeout client 1h',
        '  timeout server 1h',
        '  option redispatch',
        'listen galera',
        `  bind 127.0.0.1:${haproxyPort}`,
        '  balance roundrobin',
        '  option mysql-check user haproxy post-41',
        '  default-server inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions',
        ...servers.map((server, n) => `  server node${n} ${server.host}:${server.port} check`),
        '',
      ].join('\n'),
    )
    haproxy = spawnTied(
      [Bun.which('haproxy') ?? '/usr/sbin/haproxy', '-db', '-f', join(folder, 'haproxy.cfg')],
      join(folder, 'out'),
    )
    await eventually(
      'HAProxy leads to a server',
      async () => {
        const connection = await mysql.createConnection({ host: '127.0.0.1', port: haproxyPort, ...APP_USER })
        await connection.end()
        return true
      },
      { withinMs: 20_000, everyMs: 50 },
    )
  } catch (error) {
    const outputs = await Promise.all(servers.map((server) => server.output()))
    await remove()
    throw new Error(`${error instanceof Error ? error.message : String(error)}\n${outputs.join('\n---\n')}`)
  }
  return {
    servers,
    host: '127.0.0.1',
    port: haproxyPort,
    synced,
    async rejoin(server) {
      await server.start()
      await synced(server)
    },
    remove,
  }
}
