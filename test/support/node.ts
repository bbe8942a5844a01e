/**
 * A real node in processes of its own: supervisor and workers, from source or from the compiled binary that
 * HEADGATE_BINARY names. It can be killed in parts or as a whole and started again in the same folder, at the same port.
 */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { TEST_ENV } from './app.ts'
import { eventually } from './eventually.ts'
import { freePort } from './services.ts'

export interface RealNode {
  /** Without a path; the same after each start. */
  readonly url: string
  /**
   * Starts the processes; they are not ready yet.
   * @param env variables of this start and of those after it, beside those of the node
   */
  start(env?: Readonly<Record<string, string>>): void
  /** Waits until the node as a whole is ready. */
  ready(withinMs?: number): Promise<void>
  supervisorPid(): number
  /** Server processes that are alive now. */
  workerPids(): Promise<readonly number[]>
  /** `kill -9` of supervisor and workers; waits until they are gone. */
  kill(): Promise<void>
  /** Waits until it ends by itself. @returns the exit code */
  ended(): Promise<number>
  /** SIGTERM, and waits. @returns the exit code */
  stop(withinMs?: number): Promise<number>
  /** Of a node that has ended by itself or by `stop`. */
  exitCode(): number | undefined
  /** The last lines that it printed, for the text of a failure. */
  output(): Promise<string>
  /** Ends what is left and removes the folder. */
  remove(): Promise<void>
}

/** @param options.env variables of the configuration, beside those that every test has */
export async function createNode(options: { readonly env?: Readonly<Record<string, string>> } = {}): Promise<RealNode> {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-node-'))
  const port = await freePort()
  const outputPath = join(folder, 'output')
  const binary = process.env['HEADGATE_BINARY']
  const program = binary
    ? [binary]
    : [process.execPath, '--no-env-file', join(import.meta.dir, '..', '..', 'src', 'main.ts')]
  let env: Readonly<Record<string, string>> = {
    PATH: process.env['PATH'] ?? '',
    HOME: folder,
    ...TEST_ENV,
    DATA_DIR: folder,
    LISTEN_HOST: '127.0.0.1',
    PORT: String(port),
    SHUTDOWN_TIMEOUT_SECONDS: '20',
    LOG_LEVEL: 'warn',
    ...options.env,
  }
  const url = `http://127.0.0.1:${port}`
  let supervisor: Bun.Subprocess | undefined

  const alive = (): Bun.Subprocess => {
    if (!supervisor) throw new Error('the node was not started')
    return supervisor
  }
  const output = async (): Promise<string> => (await readFile(outputPath, 'utf8').catch(() => '')).slice(-4_000)

  const kill = async (): Promise<void> => {
    const child = alive()
    const workers = await childrenOf(child.pid)
    child.kill('SIGKILL')
    for (const pid of workers) killProcess(pid)
    await child.exited
    await eventually('the workers of a killed node are gone', async () => {
      const states = await Promise.all(workers.map(statOf))
      return states.every((stat) => stat === undefined || stat.state === 'Z')
    })
  }

  return {
    url,
    start(more = {}) {
      env = { ...env, ...more }
      // Tied to this process, so that a test run that is killed leaves no node behind.
      const tie = Bun.which('setpriv') ? ['setpriv', '--pdeathsig', 'KILL', '--'] : []
      // A shell appends to one file over all starts, and lets the node have as many connections as the system allows.
      const append = ['sh', '-c', 'ulimit -n "$(ulimit -Hn)"; exec "$0" "$@" >>"$OUTPUT" 2>&1']
      supervisor = Bun.spawn([...tie, ...append, ...program, 'serve'], {
        cwd: folder,
        env: { ...env, OUTPUT: outputPath },
        stdio: ['ignore', 'ignore', 'ignore'],
      })
    },
    async ready(withinMs = 30_000) {
      const child = alive()
      try {
        await eventually(
          'the node is ready',
          async () => {
            if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}`)
            return (await fetch(`${url}/readyz`, { keepalive: false, signal: AbortSignal.timeout(2_000) })).ok
          },
          { withinMs, everyMs: 25 },
        )
      } catch (error) {
        throw new Error(`${error instanceof Error ? error.message : String(error)}\n${await output()}`)
      }
    },
    exitCode: () => supervisor?.exitCode ?? undefined,
    supervisorPid: () => alive().pid,
    workerPids: () => childrenOf(alive().pid),
    kill,
    ended: () => alive().exited,
    async stop(withinMs = 30_000) {
      const child = alive()
      child.kill('SIGTERM')
      const late = setTimeout(() => child.kill('SIGKILL'), withinMs)
      const code = await child.exited
      clearTimeout(late)
      return code
    },
    output,
    async remove() {
      if (supervisor && supervisor.exitCode === null && supervisor.signalCode === null) await kill()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** `kill -9`; a process that has just ended is no error. */
export function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as { code?: string }).code !== 'ESRCH') throw error
  }
}

/** @source https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html */
async function statOf(pid: number): Promise<{ readonly state: string; readonly parent: number } | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
  // The name may hold blanks and brackets; what follows its last bracket does not.
  const [state, parent] = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return state ? { state, parent: Number(parent) } : undefined
}

async function childrenOf(pid: number): Promise<readonly number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)
  const stats = await Promise.all(pids.map(async (each) => ({ pid: each, stat: await statOf(each) })))
  return stats.filter(({ stat }) => stat?.parent === pid && stat.state !== 'Z').map((each) => each.pid)
}
