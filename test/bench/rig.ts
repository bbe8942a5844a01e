/** Starts the parts around the gateway, each a process of its own: mock upstream, reference proxy, generator. */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { eventually } from '../support/eventually.ts'
import { spawnTied } from '../support/services.ts'
import type { Job, LoadResult } from './load.ts'
import type { Timed, TimedJob } from './timed.ts'

export interface Program {
  /** Without a path. */
  readonly url: string
  readonly pid: number
  stop(): Promise<void>
}

export interface Rig {
  readonly folder: string
  readonly mock: Program
  /** A file of this folder that prints its address. */
  start(file: string, ...arguments_: readonly string[]): Promise<Program>
  /** Another that ends by itself. @returns what it printed @throws Error when it failed */
  run(file: string, ...arguments_: readonly string[]): Promise<string>
  /** A new process each time: memory that a proxy once took is never given back. */
  startReference(upstreamUrl?: string, upstreamOfLargeBodies?: string): Promise<Program>
  /** @throws Error when an answer was not what the mock sent, unless `isTolerant` */
  load(job: Job, isTolerant?: boolean): Promise<LoadResult>
  /** @throws Error when an answer was not what the mock sent */
  time(job: TimedJob): Promise<Timed>
  close(): Promise<void>
}

/** Without it, Bun has at most 256 outgoing requests open. */
const ENV = ['env', 'BUN_CONFIG_MAX_HTTP_REQUESTS=65535']

export async function openRig(): Promise<Rig> {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-bench-'))
  let outputs = 0
  const spawn = (file: string, arguments_: readonly string[]) => {
    const output = join(folder, `output${++outputs}`)
    const program = [process.execPath, '--no-env-file', join(import.meta.dir, file), ...arguments_]
    return { output, child: spawnTied([...ENV, ...program], output) }
  }
  const start = async (file: string, ...arguments_: readonly string[]): Promise<Program> => {
    const { child, output } = spawn(file, arguments_)
    const url = await eventually(`${file} listens`, async () => (await readFile(output, 'utf8')).trim(), {
      withinMs: 20_000,
      everyMs: 2,
    })
    return {
      url,
      pid: child.pid,
      async stop() {
        child.kill('SIGKILL')
        await child.exited
      },
    }
  }
  const run = async (file: string, ...arguments_: readonly string[]): Promise<string> => {
    const { child, output } = spawn(file, arguments_)
    if ((await child.exited) !== 0) throw new Error(`${file} failed: ${await readFile(`${output}.err`, 'utf8')}`)
    return readFile(output, 'utf8')
  }
  const generate = async <R extends LoadResult | Timed>(job: Job | TimedJob, isTolerant = false): Promise<R> => {
    const result = JSON.parse(await run('load.ts', JSON.stringify(job))) as R
    if (result.failures.length > 0 && !isTolerant) throw new Error(`answers differ: ${result.failures.join('\n')}`)
    return result
  }
  const mock = await start('mock.ts')
  return {
    folder,
    mock,
    start,
    run,
    startReference: (upstreamUrl = mock.url, upstreamOfLargeBodies = '') =>
      start('reference.ts', upstreamUrl, upstreamOfLargeBodies),
    load: (job, isTolerant) => generate(job, isTolerant),
    time: (job) => generate(job),
    async close() {
      await mock.stop()
      await rm(folder, { recursive: true, force: true })
    },
  }
}
