/** The whole gateway as processes: its workers are one node, and one worker carries as many slow calls as come. */
import { Database } from 'bun:sqlite'
import { afterEach, expect, test } from 'bun:test'
import { join } from 'node:path'
import { runFirstCall } from '../binary/readme-lines.ts'
import { HAS_SERVERS, SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { startUpstream, type Upstream } from '../support/upstream.ts'
import { type StartedNode, startNode, temporaryFolder } from './started-node.ts'

const SOURCE = [process.execPath, '--no-env-file', join(import.meta.dir, '../../src/main.ts')]
const LONG = 120_000

const cleanUps: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (let cleanUp = cleanUps.pop(); cleanUp; cleanUp = cleanUps.pop()) await cleanUp()
})

async function start(env: Record<string, string> = {}): Promise<{ node: StartedNode; port: number; address: string }> {
  const folder = await temporaryFolder()
  cleanUps.push(folder.remove)
  const node = startNode(SOURCE, { cwd: folder.path, env })
  cleanUps.push(() => node.end())
  const port = await node.port()
  const address = `http://localhost:${port}`
  await eventually('it is ready', async () => (await fetch(`${address}/readyz`)).ok, { withinMs: 30_000 })
  return { node, port, address }
}

function upstream(): Upstream {
  const started = startUpstream({ port: 0 })
  cleanUps.push(() => started.stop())
  return started
}

/** Sets the gateway up by the README's lines. @returns an unlimited API key and an access token of root */
async function setUp(port: number, upstreamPort: number): Promise<{ key: string; token: string }> {
  expect(await runFirstCall({ gateway: port, upstream: upstreamPort })).toContain('"chat.completion"')
  const address = `http://localhost:${port}`
  const post = async (path: string, body: unknown, token = ''): Promise<Record<string, unknown>> => {
    const response = await fetch(address + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
      body: JSON.stringify(body),
    })
    return ((await response.json()) as { data: Record<string, unknown> }).data
  }
  const login = await post('/api/user/login', { username: 'root', password: 'change-me-now' })
  const token = String(login['access_token'])
  const { key } = await post('/api/token/', { name: 'crowd', unlimited_quota: true }, token)
  return { key: `sk-${key}`, token }
}

test(
  '1,000 slow upstream calls through one worker are under way at once',
  async () => {
    const calls = 1_000
    const slow = upstream()
    const { port, address } = await start()
    const { key } = await setUp(port, slow.port)
    // No answer comes before all of them are there, so the test ends only if they really are concurrent.
    slow.on('gpt-4o-mini', { delayMs: 6_000 })
    let most = 0
    const watch = setInterval(() => {
      most = Math.max(most, slow.active())
    }, 20)
    cleanUps.push(async () => clearInterval(watch))
    const crowd = Bun.spawn(
      [process.execPath, '--no-env-file', join(import.meta.dir, 'crowd.ts'), address, key, String(calls)],
      {
        env: { ...process.env, BUN_CONFIG_MAX_HTTP_REQUESTS: '65535' },
        stdout: 'pipe',
        stderr: 'inherit',
      },
    )
    expect((await new Response(crowd.stdout).text()).trim()).toBe(String(calls))
    expect(most).toBe(calls)
  },
  LONG,
)

test(
  'a stop lets a running stream end, refuses readiness meanwhile, and leaves the charge in the database',
  async () => {
    const slow = upstream()
    const { node, port, address } = await start()
    const { key } = await setUp(port, slow.port)
    slow.on('gpt-4o-mini', { chunks: 20, paceMs: 100 })
    const response = await fetch(`${address}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
      body: JSON.stringify({ model: 'gpt-4o-mini', stream: true, messages: [{ role: 'user', content: 'Hello' }] }),
    })
    const reading = response.text()
    node.process.kill('SIGTERM')
    await eventually('it is not ready', async () => (await fetch(`${address}/readyz`)).status === 503)
    expect(await reading).toEndWith('data: [DONE]\n\n')
    expect(await node.process.exited).toBe(0)
    const database = new Database(join(node.cwd, 'one-api.db'), { readonly: true })
    const rows = database.query('select is_stream, completion_tokens from logs where type = 2 order by id').all()
    database.close()
    expect(rows).toEqual([
      { is_stream: 0, completion_tokens: expect.any(Number) },
      { is_stream: 1, completion_tokens: 20 },
    ])
  },
  LONG,
)

if (HAS_SERVERS && SERVER_ENGINE) {
  const engine = SERVER_ENGINE
  test(
    `on ${engine.name} two workers are one node: a change made at one is in force at both, a killed one comes back, and a stop is clean`,
    async () => {
      const database = await engine.freshDb({ isEmpty: true })
      cleanUps.push(() => database.close())
      const scripted = upstream()
      const { node, port, address } = await start({
        SQL_DSN: database.env.SQL_DSN ?? '',
        WORKERS: '2',
        SESSION_SECRET: 'x'.repeat(32),
      })
      const serving = () => node.lines.filter((line) => line['msg'] === 'serving').map((line) => line['process'])
      await eventually('both workers serve', () => new Set(serving()).size === 2, { withinMs: 20_000 })
      const { key, token } = await setUp(port, scripted.port)
      const call = (): Promise<Response> =>
        fetch(`${address}/v1/chat/completions`, {
          method: 'POST',
          // A connection of its own each time, so that both workers are met.
          keepalive: false,
          headers: { 'content-type': 'application/json', authorization: `Bearer ${key}`, connection: 'close' },
          body: JSON.stringify({ model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'Hello' }] }),
        })
      for (let i = 0; i < 20; i++) expect((await call()).status).toBe(200)

      const list = await fetch(`${address}/api/channel/`, { headers: { authorization: `Bearer ${token}` } })
      const { data } = (await list.json()) as { data: { items: { id: number }[] } }
      const disabled = await fetch(`${address}/api/channel/${data.items[0]!.id}/status`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
        body: JSON.stringify({ status: 2 }),
      })
      expect(((await disabled.json()) as { success: boolean }).success).toBe(true)
      await eventually(
        'neither worker uses the channel',
        async () => {
          for (let i = 0; i < 12; i++) if ((await call()).status === 200) return false
          return true
        },
        { withinMs: 3_000 },
      )

      const child = (await Bun.file(`/proc/${node.process.pid}/task/${node.process.pid}/children`).text())
        .trim()
        .split(' ')[0]
      const before = serving().length
      process.kill(Number(child), 'SIGKILL')
      await eventually('a worker serves again', () => serving().length === before + 1, { withinMs: 20_000 })
      expect((await fetch(`${address}/readyz`)).ok).toBe(true)
      node.process.kill('SIGTERM')
      expect(await node.process.exited).toBe(0)
    },
    LONG,
  )
}
