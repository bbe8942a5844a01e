/** Starts a node as a process of its own, reads its log, and ends it. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { eventually } from '../support/eventually.ts'

export interface StartedNode {
  readonly process: Bun.Subprocess<'ignore', 'pipe', 'pipe'>
  readonly cwd: string
  /** Lines of standard output so far, parsed. */
  readonly lines: readonly Record<string, unknown>[]
  /** Standard error so far. */
  stderr(): string
  /** The port it said it took; waits for that. */
  port(): Promise<number>
  /** Kills what is left, and waits. */
  end(): Promise<void>
}

/** A folder for one test, removed by `remove`. */
export async function temporaryFolder(): Promise<{ readonly path: string; remove(): Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'headgate-node-'))
  return { path, remove: () => rm(path, { recursive: true, force: true }) }
}

/** Of the environment only what a program needs to run, so that a test sees no variable of the machine. */
export function bareEnvironment(): Record<string, string> {
  const names = ['PATH', 'HOME', 'TMPDIR', 'LANG', 'LD_LIBRARY_PATH', 'SystemRoot']
  return Object.fromEntries(names.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])))
}

export function startNode(
  command: readonly string[],
  options: { readonly cwd: string; readonly env?: Record<string, string> },
): StartedNode {
  const child = Bun.spawn([...command], {
    cwd: options.cwd,
    env: { ...bareEnvironment(), PORT: '0', ...options.env },
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'pipe',
  })
  const lines: Record<string, unknown>[] = []
  let errors = ''
  const reading = Promise.all([
    readLines(child.stdout, (line) => lines.push(line.startsWith('{') ? JSON.parse(line) : { text: line })),
    readLines(child.stderr, (line) => {
      errors += `${line}\n`
    }),
  ])
  return {
    process: child,
    cwd: options.cwd,
    lines,
    stderr: () => errors,
    port: () =>
      eventually(
        'the node took a port',
        () => {
          if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}: ${errors}`)
          return lines.find((line) => line['msg'] === 'starting')?.['port'] as number | undefined
        },
        { withinMs: 20_000 },
      ),
    async end() {
      child.kill('SIGKILL')
      await child.exited
      await reading
    },
  }
}

async function readLines(stream: ReadableStream<Uint8Array>, take: (line: string) => void): Promise<void> {
  let rest = ''
  const decoder = new TextDecoder()
  for await (const chunk of stream) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split('\n')
    rest = parts.pop() ?? ''
    for (const part of parts) if (part !== '') take(part)
  }
  if (rest !== '') take(rest)
}
