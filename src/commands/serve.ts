/**
 * The default command: checks everything that can be checked before a start, takes the port and the folders for this node
 * alone, then supervises the workers until the node is told to stop.
 */
import { join } from 'node:path'
import { COMMIT, VERSION } from '../build-info.ts'
import { type Config, EXIT_CONFIG } from '../config.ts'
import { systemClock } from '../lib/clock.ts'
import { type DirectoryLock, lockDirectory } from '../lib/dir-lock.ts'
import { readOrCreate } from '../lib/files.ts'
import type { Log } from '../lib/log.ts'
import { createSupervisor } from '../supervisor.ts'
import { becomeUser } from './become-user.ts'
import { type Flags, ownFolders, preflight } from './preflight.ts'
import { openProcessLog } from './process-log.ts'

/** A predecessor that was killed, or is just ending, may hold its port and lock for a moment. */
const HANDOVER_MS = 2_000
/** What a worker gets beyond its own deadline to close what the deadline cut off. */
const STOP_GRACE_MS = 5_000

/**
 * @param startWorker program and first arguments that start a worker of this build
 * @returns the exit code
 */
export async function serve(flags: Flags, startWorker: readonly string[]): Promise<number> {
  const { config, env, problems, warnings } = await preflight(flags)
  if (problems.length > 0) {
    process.stderr.write(
      `headgate cannot start; ${problems.length} ${problems.length === 1 ? 'problem' : 'problems'}:\n${problems.map((text) => `  - ${text}\n`).join('')}`,
    )
    return EXIT_CONFIG
  }
  // The workers get it with their environment; this process needs it for the days of its log files.
  if (config.timeZone !== '') process.env['TZ'] = config.timeZone
  try {
    if (flags.user)
      await becomeUser(
        flags.user,
        [...ownFolders(config), config.logDir].filter((folder) => folder !== ''),
      )
    const log = openProcessLog(config, 'supervisor')
    for (const warning of warnings) log.warn(warning)
    try {
      return await supervise(config, env, startWorker, log)
    } finally {
      await log.close()
    }
  } catch (error) {
    process.stderr.write(`headgate cannot start: ${error instanceof Error ? error.message : String(error)}\n`)
    return 1
  }
}

async function supervise(
  config: Config,
  env: Readonly<Record<string, string | undefined>>,
  startWorker: readonly string[],
  log: Log,
): Promise<number> {
  for (const folder of ownFolders(config)) {
    if (!takeFolder(folder)) {
      log.error('another headgate runs in this folder, or is still stopping; give each node a folder of its own', {
        folder,
      })
      return 1
    }
  }
  const place = await claimPort(config.listenHost, config.port)
  if (!place) {
    log.error('the port is taken; choose another with PORT or --port', { port: config.port })
    return 1
  }
  const nodeId = await readOrCreate(join(config.dataDir, 'node-id'), () => `${crypto.randomUUID()}\n`, 0o644)
  const secret =
    config.sessionSecret || (await readOrCreate(join(config.dataDir, 'session-secret'), makeSecret, 0o600)).trim()

  const supervisor = createSupervisor({
    workers: config.workers,
    command: (index) => [
      ...startWorker,
      'worker',
      ...['--index', String(index)],
      ...['--count', String(config.workers)],
      ...['--node-id', nodeId.trim()],
    ],
    env: { ...env, PORT: String(place.port), LISTEN_HOST: place.host, SESSION_SECRET: secret, LOG_DIR: config.logDir },
    stopMs: config.shutdownTimeoutSec * 1000 + STOP_GRACE_MS,
    log,
    clock: systemClock,
  })
  // Not SIGHUP: a handler would undo `nohup`.
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => supervisor.stop(signal))
  const { workers, dataDir } = config
  log.info('starting', {
    version: VERSION,
    commit: COMMIT,
    workers,
    port: place.port,
    host: place.host,
    dataDir,
    pid: process.pid,
  })
  return supervisor.run()
}

/** The lock is held until this process ends. @returns undefined if another process has the folder */
function takeFolder(folder: string): DirectoryLock | undefined {
  try {
    return lockDirectory(folder, HANDOVER_MS)
  } catch (error) {
    throw new Error(`the folder ${folder} cannot be used: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    })
  }
}

// `node:crypto` would cost the supervisor 3 MB for this alone.
const makeSecret = (): string => `${crypto.getRandomValues(new Uint8Array(32)).toHex()}\n`

/**
 * Binds the port once without sharing it: workers share it with each other, and would share it with any other install.
 * @returns where workers listen: the port that was found for 0, and all addresses of IPv6 and IPv4, or of IPv4 alone
 * where there is no IPv6; undefined if the port is taken
 */
async function claimPort(host: string, port: number): Promise<{ host: string; port: number } | undefined> {
  const hosts = host === '' ? ['::', '0.0.0.0'] : [host]
  for (const candidate of hosts) {
    const until = systemClock.monotonic() + HANDOVER_MS
    for (;;) {
      const outcome = tryBind(candidate, port)
      if (typeof outcome === 'number') return { host: candidate, port: outcome }
      if (outcome === 'EACCES') throw new Error(`port ${port} needs more rights; choose one above 1023`)
      if (outcome !== 'EADDRINUSE') break
      if (systemClock.monotonic() > until) return undefined
      await Bun.sleep(50)
    }
  }
  throw new Error(`LISTEN_HOST: ${hosts.join(' and ')} cannot be listened on`)
}

function tryBind(hostname: string, port: number): number | string {
  try {
    const listener = Bun.listen({ hostname, port, socket: { data: () => undefined } })
    const bound = listener.port
    listener.stop(true)
    return bound
  } catch (error) {
    return (error as { code?: string }).code ?? 'unknown'
  }
}
