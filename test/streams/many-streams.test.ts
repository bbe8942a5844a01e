/** Thousands of calls under way at once through one worker: nothing is lost, and each is charged. */
import { expect, test } from 'bun:test'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { eq } from 'drizzle-orm'
import { createAdminClient } from '../support/admin-client.ts'
import { expectAudit } from '../support/auditor.ts'
import { ENGINES } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { createNode } from '../support/node.ts'
import { CONTENT_FRAMES, PLAIN_MODEL, STREAM_MODEL, USAGE } from './script.ts'

const STREAMS = 5_000
const PLAIN_CALLS = 1_000

test(`${STREAMS} slow streams and then ${PLAIN_CALLS} slow calls are really open at once, and lose nothing`, async () => {
  const [engine] = ENGINES
  const testDb = await engine!.freshDb({ isEmpty: true })
  const upstream = startProgram('slow-upstream.ts')
  const node = await createNode({ env: { ...testDb.env, WORKERS: '1' } })
  try {
    node.start()
    await node.ready()
    const admin = createAdminClient(() => node.url)
    await admin.setUp()
    await admin.options({
      ModelRatio: { [STREAM_MODEL]: 1, [PLAIN_MODEL]: 1 },
      CompletionRatio: { [STREAM_MODEL]: 1, [PLAIN_MODEL]: 1 },
    })
    await admin.channel({ name: 'slow', baseUrl: await upstream.line(), models: [STREAM_MODEL, PLAIN_MODEL] })
    const user = await admin.user(100_000_000)
    const key = await admin.apiKey(user)
    const [pid] = await node.workerPids()
    const idle = await memoryOf(pid!)

    const streams = startProgram('clients.ts', node.url, key.key, 'stream', String(STREAMS))
    const startedAtMs = performance.now()
    expect(await streams.line()).toBe('open')
    const openAfterSec = (performance.now() - startedAtMs) / 1_000
    const memory: number[] = []
    const sampling = setInterval(() => void memoryOf(pid!).then(({ nowMb }) => memory.push(nowMb)), 1_000)
    expect(JSON.parse(await streams.line())).toEqual({ whole: STREAMS, wrong: 0, first: [] })
    clearInterval(sampling)
    expect((await underWay(upstream)).most).toBe(STREAMS)
    const peak = await memoryOf(pid!)
    console.log(
      `${STREAMS} streams of ${CONTENT_FRAMES} s, all open after ${openAfterSec.toFixed(1)} s; worker: ${idle.nowMb} MB idle, ` +
        `${memory.sort((a, b) => a - b)[memory.length >> 1]} MB while open (median), ${peak.peakMb} MB at most`,
    )

    await eventually('the upstream has ended every stream', async () => (await underWay(upstream)).now === 0)
    const plain = startProgram('clients.ts', node.url, key.key, 'plain', String(PLAIN_CALLS))
    expect(JSON.parse(await plain.line())).toEqual({ whole: PLAIN_CALLS, wrong: 0, first: [] })
    expect((await underWay(upstream)).most).toBe(PLAIN_CALLS)

    expect(await node.stop()).toBe(0)
    const report = await expectAudit(testDb.db, testDb.db, { granted: admin.granted })
    expect(report.logRows).toBe(STREAMS + PLAIN_CALLS)
    const { logs } = testDb.db.tables
    const charges = await testDb.db.select({ quota: logs.quota }).from(logs).where(eq(logs.modelName, STREAM_MODEL))
    expect(charges.every(({ quota }) => quota === USAGE.total_tokens)).toBe(true)
  } catch (error) {
    console.log(await node.output())
    throw error
  } finally {
    await node.remove()
    upstream.end()
    await testDb.close()
  }
}, 150_000)

/** Answers that the upstream has under way, and the most it had at once since it was last asked. */
async function underWay(upstream: Program): Promise<{ readonly now: number; readonly most: number }> {
  upstream.write('stats\n')
  return JSON.parse(await upstream.line())
}

interface Program {
  /** The next line it prints. */
  line(): Promise<string>
  write(text: string): void
  end(): void
}

/** Runs a program of this folder with as many files and requests as the system allows; it dies with this process. */
function startProgram(file: string, ...args: readonly string[]): Program {
  const tie = Bun.which('setpriv') ? ['setpriv', '--pdeathsig', 'KILL', '--'] : []
  const shell = ['sh', '-c', 'ulimit -n "$(ulimit -Hn)"; exec "$0" "$@"']
  const child = Bun.spawn([...tie, ...shell, process.execPath, '--no-env-file', join(import.meta.dir, file), ...args], {
    env: { ...process.env, BUN_CONFIG_MAX_HTTP_REQUESTS: '65535' },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const lines = linesOf(child.stdout)
  return {
    async line() {
      const { value, done } = await lines.next()
      if (done) throw new Error(`${file} ended with ${await child.exited}`)
      return value
    },
    write(text) {
      child.stdin.write(text)
      child.stdin.flush()
    },
    end: () => child.kill('SIGKILL'),
  }
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, void> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const part of stream) {
    const lines = (rest + decoder.decode(part, { stream: true })).split('\n')
    rest = lines.pop() ?? ''
    yield* lines
  }
}

/** @source https://man7.org/linux/man-pages/man5/proc_pid_status.5.html */
async function memoryOf(pid: number): Promise<{ readonly nowMb: number; readonly peakMb: number }> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  const megabytes = (field: string): number =>
    Math.round(Number(new RegExp(`${field}:\\s+(\\d+)`).exec(status)?.[1]) / 1024)
  return { nowMb: megabytes('VmRSS'), peakMb: megabytes('VmHWM') }
}
