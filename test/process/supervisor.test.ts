/** A node is one: it has its port and folder alone, its workers act together, come back when they die, and end with it. */
import { afterEach, describe, expect, test } from 'bun:test'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { openOutbox } from '../../src/domain/billing/outbox.ts'
import { eventually } from '../support/eventually.ts'
import { type StartedNode, startNode, temporaryFolder } from './started-node.ts'

const FIXTURE = [process.execPath, '--no-env-file', join(import.meta.dir, 'fixture-node.ts')]
/** Never connected to: the fixture opens no database. */
const TWO_WORKERS = { SQL_DSN: 'u:p@tcp(127.0.0.1:1)/none', WORKERS: '2', SESSION_SECRET: 'x'.repeat(32) }
const LONG = 30_000

const cleanUps: (() => Promise<void>)[] = []
afterEach(async () => {
  for (let cleanUp = cleanUps.pop(); cleanUp; cleanUp = cleanUps.pop()) await cleanUp()
})

async function folder(): Promise<string> {
  const { path, remove } = await temporaryFolder()
  cleanUps.push(remove)
  return path
}

function start(cwd: string, env: Record<string, string> = {}): StartedNode {
  const node = startNode(FIXTURE, { cwd, env })
  cleanUps.push(() => node.end())
  return node
}

/** Waits until a worker has begun a call of that path. */
const said = (node: StartedNode, path: string): Promise<unknown> =>
  eventually(`${path} has begun`, () => node.lines.some((line) => line['text'] === path))

interface Answer {
  readonly pid: number
  readonly workerIndex: number
  readonly workerCount: number
  readonly nodeId: string
  readonly readiness: { readonly ready: boolean; readonly missing: readonly string[] }
  readonly heard: readonly string[]
  readonly stopping: boolean
  readonly count: number
  readonly secret: string
  readonly maxRequests: string
}

async function call(port: number, path = '/'): Promise<Answer> {
  const response = await fetch(`http://localhost:${port}${path}`, {
    keepalive: false,
    signal: AbortSignal.timeout(5_000),
  })
  return (await response.json()) as Answer
}

/** Calls until each of `count` workers has answered. */
function callAll(port: number, count: number, path = '/'): Promise<ReadonlyMap<number, Answer>> {
  const answers = new Map<number, Answer>()
  return eventually(
    `all of ${count} workers answer`,
    async () => {
      const answer = await call(port, path)
      answers.set(answer.workerIndex, answer)
      return answers.size === count ? answers : undefined
    },
    { withinMs: 10_000 },
  )
}

/** A process that has ended and is not collected yet (state Z) is not alive. */
function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    // No such process.
    return false
  }
}

describe('the supervisor', () => {
  test(
    'keeps a journal short while it is written, and no kill of a worker or of itself costs a charge',
    async () => {
      const cwd = await folder()
      const file = join(cwd, 'ledger', '1.db')
      /** The log is put into the file by the supervisor alone. */
      const grown = (toBytes: number): Promise<unknown> =>
        eventually('the file grows', () => existsSync(file) && statSync(file).size > toBytes, { withinMs: 20_000 })
      const env = { ...TWO_WORKERS, WORKERS: '1', DATA_DIR: cwd }
      let longest = 0
      const watch = setInterval(() => {
        if (existsSync(`${file}-wal`)) longest = Math.max(longest, statSync(`${file}-wal`).size)
      }, 10)
      let node = start(cwd, env)
      let port = await node.port()
      for (let round = 1; round <= 4; round++) {
        const { pid } = await eventually('a worker', () => call(port, `/journal?value=${encodeURIComponent(cwd)}`))
        await grown(round * 16e6)
        if (round % 2 === 1) {
          process.kill(pid, 'SIGKILL')
          await eventually('another worker', async () => (await call(port)).pid !== pid, { withinMs: 10_000 })
        } else {
          node.process.kill('SIGKILL')
          await node.process.exited
          await eventually('its worker has ended', () => !isAlive(pid))
          node = start(cwd, env)
          port = await node.port()
        }
      }
      clearInterval(watch)
      await node.end()
      expect(readdirSync(join(cwd, 'ledger')).filter((name) => name.endsWith('.db'))).toEqual(['1.db'])
      // Without a new beginning it would be longer than the file.
      expect(longest).toBeLessThan(40e6)

      const opened = openOutbox({ path: file, sync: 'normal' })
      if (opened.kind !== 'open') throw new Error(`the outbox is ${opened.kind}`)
      const { outbox } = opened
      expect(outbox.tenures()).toHaveLength(4)
      const journalled = new Map<string, number>()
      for (const line of (await readFile(join(cwd, 'journalled'), 'utf8')).trim().split('\n')) {
        const [instanceId = '', seq] = line.split(' ')
        journalled.set(instanceId, Number(seq))
      }
      expect(journalled.size).toBe(4)
      for (const [instanceId, last] of journalled) expect(outbox.read(instanceId, 0, last)).toHaveLength(last)
      outbox.close()
    },
    2 * LONG,
  )
})

describe('a start', () => {
  test(
    'on an empty folder makes the secret once, private, keeps it and the node id over restarts, and lifts the cap on requests',
    async () => {
      const cwd = await folder()
      const seen: Answer[] = []
      for (let i = 0; i < 2; i++) {
        const node = start(cwd)
        const port = await node.port()
        seen.push(await eventually('it answers', () => call(port)))
        node.process.kill('SIGTERM')
        expect(await node.process.exited).toBe(0)
      }
      expect(seen[0]!.secret).toMatch(/^[0-9a-f]{64}$/)
      expect(seen[1]!.secret).toBe(seen[0]!.secret)
      expect(seen[1]!.nodeId).toBe(seen[0]!.nodeId)
      expect(seen[0]!.maxRequests).toBe('65535')
      expect((await stat(join(cwd, 'session-secret'))).mode & 0o777).toBe(0o600)
      expect((await readFile(join(cwd, 'session-secret'), 'utf8')).trim()).toBe(seen[0]!.secret)
    },
    LONG,
  )

  test(
    'listens on IPv4 and IPv6',
    async () => {
      const node = start(await folder())
      const port = await node.port()
      await eventually('it answers on IPv4', async () => (await fetch(`http://127.0.0.1:${port}/`)).ok)
      if (existsSync('/proc/net/if_inet6') && (await readFile('/proc/net/if_inet6', 'utf8')) !== '') {
        expect((await fetch(`http://[::1]:${port}/`)).ok).toBe(true)
      }
    },
    LONG,
  )

  test(
    'is refused on a port that another node has, although workers of a node share one',
    async () => {
      const first = start(await folder(), TWO_WORKERS)
      const port = await first.port()
      await callAll(port, 2)
      const second = start(await folder(), { ...TWO_WORKERS, PORT: String(port) })
      expect(await second.process.exited).toBe(1)
      expect(second.lines.find((line) => line['level'] === 'error')).toMatchObject({
        msg: expect.stringContaining('port is taken'),
        port,
      })
      expect((await call(port)).nodeId).toBe((await call(port)).nodeId)
    },
    LONG,
  )

  test(
    'is refused on a data directory that another node has, also by way of the SQLite file',
    async () => {
      const cwd = await folder()
      const first = start(cwd)
      await first.port()
      const other = await folder()
      const envs: Record<string, string>[] = [
        { DATA_DIR: cwd },
        { SQLITE_PATH: join(cwd, 'one-api.db'), DATA_DIR: other },
      ]
      for (const env of envs) {
        const second = start(other, env)
        expect(await second.process.exited).toBe(1)
        expect(second.lines.find((line) => line['level'] === 'error')).toMatchObject({ folder: cwd })
      }
    },
    LONG,
  )

  test(
    'with a bad configuration lists every problem and ends with 78, before anything is opened',
    async () => {
      const cwd = await folder()
      const node = start(cwd, { NODE_TYPE: 'slave', WORKERS: '3', TZ: 'Mars/Olympus' })
      expect(await node.process.exited).toBe(78)
      await node.end()
      for (const name of ['NODE_TYPE', 'WORKERS', 'TZ']) expect(node.stderr()).toContain(`- ${name}: `)
      expect(existsSync(join(cwd, 'headgate.lock'))).toBe(false)
    },
    LONG,
  )

  test(
    'that a worker refuses for its configuration ends with 78 instead of trying for ever',
    async () => {
      const node = start(await folder(), { FIXTURE: 'config' })
      expect(await node.process.exited).toBe(78)
    },
    LONG,
  )

  test(
    'that fails for another reason is tried again, ever more slowly, and says so',
    async () => {
      const node = start(await folder(), { FIXTURE: 'crash' })
      const waits = () =>
        node.lines.filter((line) => line['msg'] === 'a worker will be started again').map((line) => line['inMs'])
      await eventually('three tries', () => waits().length >= 3)
      expect(waits().slice(0, 3)).toEqual([100, 200, 400])
      expect(node.process.exitCode).toBeNull()
      node.process.kill('SIGTERM')
      expect(await node.process.exited).toBe(0)
    },
    LONG,
  )
})

describe('workers', () => {
  test(
    'share the port, the counters, the bus and the readiness of their node',
    async () => {
      const node = start(await folder(), TWO_WORKERS)
      const port = await node.port()
      const answers = [...(await callAll(port, 2)).values()]
      expect(new Set(answers.map(({ pid }) => pid)).size).toBe(2)
      expect(new Set(answers.map(({ nodeId }) => nodeId)).size).toBe(1)
      const [first, second] = [await call(port), await call(port)]
      expect(second.count).toBe(first.count + 1)
      await call(port, '/publish?value=hello')
      await eventually('both have heard', async () =>
        [...(await callAll(port, 2)).values()].every(({ heard }) => heard.includes('hello')),
      )
      await call(port, '/unready?value=disk')
      await eventually('both say that the node is not ready', async () =>
        [...(await callAll(port, 2)).values()].every(
          ({ readiness }) => !readiness.ready && readiness.missing.includes('disk'),
        ),
      )
    },
    LONG,
  )

  test(
    'that are killed are started again under their index, while the others serve',
    async () => {
      const node = start(await folder(), TWO_WORKERS)
      const port = await node.port()
      const before = await callAll(port, 2)
      await call(port, '/die').catch(() => undefined)
      const after = await eventually('both answer, one of them new', async () => {
        const now = await callAll(port, 2)
        return [...now.values()].some(({ pid }) => ![...before.values()].some((old) => old.pid === pid))
          ? now
          : undefined
      })
      expect([...after.keys()].sort()).toEqual([0, 1])
      expect([...after.values()].every(({ readiness }) => readiness.ready)).toBe(true)
      expect(node.lines.some((line) => line['msg'] === 'a worker ended')).toBe(true)
    },
    LONG,
  )

  test(
    'end when their supervisor is killed, also one that is deep in a computation, and the next start has its port and folder',
    async () => {
      const cwd = await folder()
      const node = start(cwd, TWO_WORKERS)
      const port = await node.port()
      const pids = [...(await callAll(port, 2)).values()].map(({ pid }) => pid)
      void call(port, '/hang').catch(() => undefined)
      await said(node, '/hang')
      node.process.kill('SIGKILL')
      await eventually('no worker is left', () => !pids.some(isAlive))
      const next = start(cwd, { ...TWO_WORKERS, PORT: String(port) })
      expect(await next.port()).toBe(port)
      await callAll(port, 2)
    },
    LONG,
  )
})

describe('a stop', () => {
  test.each(['SIGTERM', 'SIGINT'] as const)(
    'by %s lets running calls finish, then ends with 0',
    async (signal) => {
      const node = start(await folder(), TWO_WORKERS)
      const port = await node.port()
      await callAll(port, 2)
      const slow = call(port, '/slow?value=700')
      await said(node, '/slow')
      node.process.kill(signal)
      expect((await slow).stopping).toBe(true)
      expect(await node.process.exited).toBe(0)
    },
    LONG,
  )

  test(
    'at the second signal is immediate',
    async () => {
      const node = start(await folder(), { FIXTURE: 'stubborn' })
      const port = await node.port()
      const { pid } = await eventually('it answers', () => call(port))
      node.process.kill('SIGTERM')
      await eventually('the stop has begun', () => node.lines.some((line) => line['msg'] === 'stopping'))
      expect(isAlive(pid)).toBe(true)
      // One that comes at once is the echo of a wrapper, so it is given again until it counts.
      await eventually('it has ended', () => {
        node.process.kill('SIGTERM')
        return node.process.exitCode !== null
      })
      expect(node.process.exitCode).toBe(1)
      expect(isAlive(pid)).toBe(false)
    },
    LONG,
  )

  test(
    'kills what has not ended past the deadline, and says so',
    async () => {
      const node = start(await folder(), { FIXTURE: 'stubborn', SHUTDOWN_TIMEOUT_SECONDS: '0' })
      const port = await node.port()
      await eventually('it answers', () => call(port))
      node.process.kill('SIGTERM')
      expect(await node.process.exited).toBe(1)
      expect(node.lines.some((line) => String(line['msg']).includes('did not end in time'))).toBe(true)
    },
    LONG,
  )
})
