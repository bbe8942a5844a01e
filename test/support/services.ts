/**
 * Servers for tests: MariaDB, MySQL and Redis of our own, on free ports, in temporary folders. Each is started at most
 * once per test process, shared by all files, and ended with it, also when it crashes (the kernel ends the children).
 */
import { existsSync } from 'node:fs'
import { cp, link, mkdir, mkdtemp, readdir, readFile, rename, rm, unlink, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import mysql from 'mysql2/promise'
import { eventually } from './eventually.ts'

export interface SqlServer {
  readonly host: string
  readonly port: number
  readonly socketPath: string
  /** root has no password */
  readonly user: string
  readonly process: Bun.Subprocess
  /** Runs statements as root, e.g. to make a database. */
  execute(...statements: readonly string[]): Promise<void>
  /** Go form of the address of a database. */
  dsn(database: string): string
}

export interface RedisServer {
  readonly port: number
  readonly url: string
  readonly process: Bun.Subprocess
}

/** Running services of this test process: the one shared state of the suite, kept here and ended by `stopServices`. */
const started = new Map<string, Promise<unknown>>()
const closers: (() => Promise<void>)[] = []

const once = <T>(name: string, start: () => Promise<T>): Promise<T> => {
  const known = started.get(name) as Promise<T> | undefined
  if (known) return known
  const fresh = start()
  started.set(name, fresh)
  return fresh
}

export const mariadb = (): Promise<SqlServer> => once('mariadb', () => startMariadb())
export const mysqlServer = (): Promise<SqlServer> => once('mysql', startMysql)
export const redis = (): Promise<RedisServer> => once('redis', () => startRedis())

/** Something to do at the end of the run, after everything that was registered later. */
export const atEnd = (close: () => Promise<void>): void => {
  closers.push(close)
}

/** Runs all of it, and then throws what failed. */
export async function stopServices(): Promise<void> {
  const failures: unknown[] = []
  for (let close = closers.pop(); close; close = closers.pop())
    await close().catch((error: unknown) => failures.push(error))
  started.clear()
  if (failures.length > 0) throw new AggregateError(failures, failures.map(String).join('\n'))
}

/** A free TCP port of 127.0.0.1; another process may take it before it is used. */
export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/**
 * Starts a program that dies with this process, whatever ends it.
 * @param outputPath where what it prints goes
 */
export function spawnTied(command: readonly string[], outputPath: string): Bun.Subprocess {
  const tie = Bun.which('setpriv') ? ['setpriv', '--pdeathsig', 'KILL', '--'] : []
  return Bun.spawn([...tie, ...command], {
    stdin: 'ignore',
    stdout: Bun.file(outputPath),
    stderr: Bun.file(`${outputPath}.err`),
  })
}

async function end(child: Bun.Subprocess, graceMs: number): Promise<void> {
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMs)
  await child.exited
  clearTimeout(timer)
}

/** Where things are kept between runs. */
export const cacheFolder = (): string => join(import.meta.dir, '..', '..', '.cache')

/** Makes a thing that is kept between runs, once, though several test processes may want it. */
export async function cached(path: string, make: (unfinished: string) => Promise<void>): Promise<void> {
  if (existsSync(path)) return
  await mkdir(dirname(path), { recursive: true })
  const lock = `${path}.lock`
  for (;;) {
    const owner = await readFile(lock, 'utf8').catch(() => '')
    if (owner !== '' && !existsSync(`/proc/${owner}`)) await rm(lock, { force: true })
    try {
      // A link appears with its content or not at all.
      const own = `${lock}.${process.pid}`
      await writeFile(own, String(process.pid))
      await link(own, lock).finally(() => unlink(own))
      break
    } catch {
      await eventually(`another test process makes ${path}`, () => existsSync(path) || !existsSync(lock), {
        withinMs: 600_000,
        everyMs: 200,
      })
      if (existsSync(path)) return
    }
  }
  try {
    if (existsSync(path)) return
    const unfinished = `${path}.unfinished`
    await rm(unfinished, { recursive: true, force: true })
    await make(unfinished)
    await rename(unfinished, path)
  } finally {
    await rm(lock, { force: true })
  }
}

async function runToEnd(command: readonly string[]): Promise<void> {
  const child = Bun.spawn([...command], { stdin: 'ignore', stdout: 'pipe', stderr: 'pipe' })
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ])
  if (code !== 0) throw new Error(`${command.join(' ')} ended with ${code}:\n${out.slice(-2_000)}${err.slice(-2_000)}`)
}

/** The data folder of a MariaDB without options (its default character set is latin1), made once, to be copied. */
export async function mariadbTemplate(): Promise<{ readonly program: string; readonly data: string }> {
  const program = Bun.which('mariadbd') ?? '/usr/sbin/mariadbd'
  if (!existsSync(program)) throw new Error('mariadbd is not installed (Debian: mariadb-server)')
  const data = join(cacheFolder(), 'mariadb-data')
  await cached(data, (unfinished) =>
    runToEnd([
      'mariadb-install-db',
      '--no-defaults',
      `--datadir=${unfinished}`,
      `--user=${process.getuid?.() === 0 ? 'root' : String(process.env['USER'])}`,
      '--auth-root-authentication-method=normal',
      '--skip-test-db',
      '--innodb-log-file-size=16M',
    ]),
  )
  return { program, data }
}

/**
 * @param keptData a data folder that stays, made from the template if it is not there yet; a temporary one if not given
 * @param options further arguments of the server
 */
export async function startMariadb(keptData?: string, options: readonly string[] = []): Promise<SqlServer> {
  const { program, data: template } = await mariadbTemplate()
  const folder = await mkdtemp(join(tmpdir(), 'headgate-mariadb-'))
  const data = keptData ?? join(folder, 'data')
  if (!existsSync(data)) await cp(template, data, { recursive: true })
  const port = await freePort()
  const socketPath = join(folder, 's')
  const child = spawnTied(
    [
      program,
      '--no-defaults',
      ...(process.getuid?.() === 0 ? ['--user=root'] : []),
      `--datadir=${data}`,
      // A server that starts clears the folder of temporary tables: in a shared one, those of others.
      `--tmpdir=${folder}`,
      `--socket=${socketPath}`,
      `--port=${port}`,
      '--bind-address=127.0.0.1',
      `--pid-file=${join(folder, 'pid')}`,
      '--innodb-flush-log-at-trx-commit=2',
      '--innodb-log-file-size=16M',
      '--max-connections=500',
      '--skip-name-resolve',
      ...options,
    ],
    join(folder, 'out'),
  )
  return ready(child, folder, { port, socketPath, withinMs: 60_000 })
}

/**
 * MySQL itself, which Debian has only in unstable: a small root folder of its own, made once, in which it runs.
 * @source https://wiki.debian.org/Debootstrap
 */
async function startMysql(): Promise<SqlServer> {
  if (process.getuid?.() !== 0) throw new Error('MySQL in a folder of its own needs root (chroot)')
  const root = join(cacheFolder(), 'mysql-root')
  await cached(root, async (unfinished) => {
    await runToEnd([
      'debootstrap',
      '--variant=minbase',
      '--include=mysql-server-core,libaio1t64',
      'unstable',
      unfinished,
      await debianMirror(),
    ])
    await runToEnd([
      'chroot',
      unfinished,
      'mysqld',
      '--no-defaults',
      '--initialize-insecure',
      '--user=root',
      '--datadir=/template',
    ])
  })
  const folder = await mkdtemp(join(root, 'tmp', 'headgate-'))
  const inside = folder.slice(root.length)
  await cp(join(root, 'template'), join(folder, 'data'), { recursive: true })
  const port = await freePort()
  const child = spawnTied(
    [
      'chroot',
      root,
      'mysqld',
      '--no-defaults',
      '--user=root',
      `--datadir=${inside}/data`,
      `--socket=${inside}/s`,
      `--port=${port}`,
      '--bind-address=127.0.0.1',
      '--mysqlx=OFF',
      `--pid-file=${inside}/pid`,
      '--secure-file-priv=NULL',
      '--innodb-flush-log-at-trx-commit=2',
      '--skip-log-bin',
      '--max-connections=500',
      '--skip-name-resolve',
    ],
    join(folder, 'out'),
  )
  return ready(child, folder, { port, socketPath: join(folder, 's'), withinMs: 120_000 })
}

/** The mirror this machine installs from. */
async function debianMirror(): Promise<string> {
  const folder = '/etc/apt/sources.list.d'
  const files = (await readdir(folder).catch(() => [])).map((name) => join(folder, name))
  for (const file of ['/etc/apt/sources.list', ...files]) {
    const text = await readFile(file, 'utf8').catch(() => '')
    for (const [, uri = ''] of text.matchAll(/^(?:URIs:|deb(?: \[[^\]]*\])?)\s+(\S+)/gm))
      if (/\/debian\/?$/.test(uri)) return uri
  }
  throw new Error("no Debian mirror among apt's sources")
}

async function ready(
  child: Bun.Subprocess,
  folder: string,
  at: { readonly port: number; readonly socketPath: string; readonly withinMs: number },
): Promise<SqlServer> {
  closers.push(async () => {
    await end(child, 10_000)
    await rm(folder, { recursive: true, force: true })
  })
  const host = '127.0.0.1'
  const execute = async (...statements: readonly string[]): Promise<void> => {
    const connection = await mysql.createConnection({ socketPath: at.socketPath, user: 'root' })
    try {
      for (const statement of statements) await connection.query(statement)
    } finally {
      await connection.end()
    }
  }
  const isReady = async (): Promise<true> => {
    if (child.exitCode !== null) throw new Error(await readFile(join(folder, 'out.err'), 'utf8'))
    await execute("create user if not exists 'test'@'%' identified by 'test'", "grant all on *.* to 'test'@'%'")
    return true
  }
  await eventually('the database server answers', isReady, { withinMs: at.withinMs, everyMs: 100 })
  return {
    host,
    port: at.port,
    socketPath: at.socketPath,
    user: 'test',
    process: child,
    execute,
    dsn: (database) => `test:test@tcp(${host}:${at.port})/${database}`,
  }
}

/** @param options further arguments of the server, e.g. `--requirepass` and its value */
export async function startRedis(options: readonly string[] = []): Promise<RedisServer> {
  const program = Bun.which('redis-server')
  if (!program) throw new Error('redis-server is not installed (Debian: redis-server)')
  const folder = await mkdtemp(join(tmpdir(), 'headgate-redis-'))
  const port = await freePort()
  const child = spawnTied(
    [program, '--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', '', ...options],
    join(folder, 'out'),
  )
  closers.push(async () => {
    await end(child, 5_000)
    await rm(folder, { recursive: true, force: true })
  })
  await eventually('the Redis server answers', async () => {
    const socket = await Bun.connect({ hostname: '127.0.0.1', port, socket: { data: () => {} } })
    socket.end()
    return true
  })
  return { port, url: `redis://127.0.0.1:${port}`, process: child }
}
