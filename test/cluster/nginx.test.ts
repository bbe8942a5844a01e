/**
 * The balancer configurations that we supply, between clients and stand-ins for nodes that do what a test says: what
 * passes, what is asked again, and what never is.
 */
import { afterEach, describe, expect, test } from 'bun:test'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { VARIABLES } from '../../src/config-variables.ts'
import { HAS_SERVERS } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { type Nginx, startNginx } from '../support/nginx.ts'
import { freePort, spawnTied } from '../support/services.ts'

const FOLDER = join(import.meta.dir, '../../compose/cluster')
const NAMES = ['master-node-ip:3000', 'slave-node1-ip:3000', 'slave-node2-ip:3000'] as const
const WEIGHTS = [3, 5, 5] as const
const MIB = 1024 * 1024
const QUIET_MS = process.env['SOAK'] ? 90_000 : 1_500

interface StandIn {
  readonly address: string
  /** Bodies of what it received whole. */
  readonly bodies: string[]
  stop(): Promise<void>
}

const cleanUps: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (let clean = cleanUps.pop(); clean; clean = cleanUps.pop()) await clean()
})

/** A node that answers with its number; at a port of old, as one that is started again. */
function standIn(number: number, answer?: (request: Request) => Response | undefined, port = 0): StandIn {
  const bodies: string[] = []
  const server = Bun.serve({
    port,
    hostname: '127.0.0.1',
    idleTimeout: 0,
    maxRequestBodySize: 1 << 30,
    async fetch(request, own) {
      if (request.headers.get('upgrade') === 'websocket' && own.upgrade(request)) return undefined
      const early = answer?.(request)
      if (early) return early
      const body = await request.text()
      bodies.push(body)
      return Response.json({ node: number, bytes: body.length, ...Object.fromEntries(request.headers) })
    },
    websocket: { message: (socket, text) => void socket.send(`${number}: ${text}`) },
  })
  const stop = () => server.stop(true)
  cleanUps.push(stop)
  return { address: `127.0.0.1:${server.port}`, bodies, stop }
}

/** A node that is ready, takes a POST in, and then hangs up without a word. */
async function deserter(): Promise<StandIn> {
  const bodies: string[] = []
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('data', (bytes) => {
      if (!String(bytes).startsWith('POST'))
        return void socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
      bodies.push(String(bytes))
      socket.destroy()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const stop = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy()
    server.close()
  }
  cleanUps.push(stop)
  return { address: `127.0.0.1:${(server.address() as { port: number }).port}`, bodies, stop }
}

/** @param switchOn by the line that the file itself names: writes under /api go to the master */
async function balance(addresses: readonly string[], switchOn = false): Promise<Nginx> {
  const text = await Bun.file(join(FOLDER, 'nginx.conf')).text()
  const command = /^ *#\s+(sed -i .+) nginx\.conf$/m.exec(text)?.[1] ?? ''
  const conf = switchOn ? await edited(text, command) : text
  const nginx = await startNginx(conf, {
    addresses: Object.fromEntries(NAMES.map((name, n) => [name, addresses[n] ?? ''])),
  })
  cleanUps.push(nginx.stop)
  return nginx
}

async function edited(text: string, command: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-conf-'))
  const file = join(folder, 'nginx.conf')
  await writeFile(file, text)
  const child = Bun.spawn(['sh', '-c', `${command} ${file}`], { stderr: 'inherit' })
  expect(await child.exited).toBe(0)
  const changed = await Bun.file(file).text()
  await rm(folder, { recursive: true })
  expect(changed).not.toBe(text)
  return changed
}

async function startHaproxy(addresses: readonly string[]): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-haproxy-'))
  const port = await freePort()
  let text = (await Bun.file(join(FOLDER, 'haproxy.cfg')).text()).replace('bind :80\n', `bind 127.0.0.1:${port}\n`)
  NAMES.forEach((name, n) => {
    text = text.replace(name, addresses[n] ?? '')
  })
  const file = join(folder, 'haproxy.cfg')
  await writeFile(file, text)
  const child = spawnTied([Bun.which('haproxy') ?? '/usr/sbin/haproxy', '-f', file], join(folder, 'out'))
  cleanUps.push(async () => {
    child.kill('SIGKILL')
    await child.exited
    await rm(folder, { recursive: true })
  })
  const url = `http://127.0.0.1:${port}`
  await eventually('HAProxy has found the nodes', async () => (await fetch(`${url}/v1/models`)).status === 200, {
    withinMs: 20_000,
  })
  return url
}

const post = (url: string, body: string): Promise<Response> => fetch(url, { method: 'POST', body })

/** @returns how many of `calls` POSTs each node answered. @throws on one that is not answered by a node */
async function spread(url: string, calls: number): Promise<readonly number[]> {
  const counts = [0, 0, 0]
  const lanes = 10
  await Promise.all(
    Array.from({ length: lanes }, async () => {
      for (let n = 0; n < calls / lanes; n += 1) {
        const reply = await post(`${url}/v1/chat/completions`, 'x')
        if (reply.status !== 200) throw new Error(`a call ended with ${reply.status}`)
        const { node } = (await reply.json()) as { node: number }
        counts[node] = (counts[node] ?? 0) + 1
      }
    }),
  )
  return counts
}

function expectWeights(counts: readonly number[]): void {
  const calls = counts.reduce((sum, count) => sum + count, 0)
  counts.forEach((count, n) => {
    const wanted = (calls * (WEIGHTS[n] ?? 0)) / 13
    expect(Math.abs(count - wanted) / wanted).toBeLessThanOrEqual(0.05)
  })
}

/** A stream of three pieces with silence between them. */
function quietStream(): Response {
  const pieces = ['data: one\n\n', 'data: two\n\n', 'data: [DONE]\n\n']
  return new Response(
    new ReadableStream({
      async pull(controller) {
        const piece = pieces.shift()
        if (piece === undefined) return controller.close()
        if (pieces.length < 2) await Bun.sleep(QUIET_MS)
        controller.enqueue(new TextEncoder().encode(piece))
      },
    }),
    { headers: { 'content-type': 'text/event-stream' } },
  )
}

if (HAS_SERVERS) {
  describe('our nginx.conf', () => {
    test('spreads 1,300 calls 3:5:5', async () => {
      const { url } = await balance([0, 1, 2].map((n) => standIn(n).address))
      const counts = await spread(url, 1_300)
      console.log(`nginx, 1,300 calls: ${counts.join(' : ')}`)
      expectWeights(counts)
    }, 60_000)

    test(
      'hands on each piece of a quiet stream as it comes, and waits longer for a word than any node does',
      async () => {
        const conf = await Bun.file(join(FOLDER, 'nginx.conf')).text()
        for (const name of ['proxy_read_timeout', 'proxy_send_timeout', 'send_timeout']) {
          const seconds = Number(new RegExp(`^ *${name} (\\d+)s;`, 'm').exec(conf)?.[1])
          expect(seconds).toBeGreaterThan(VARIABLES.relayFirstByteTimeoutSec.fallback)
          expect(seconds).toBeGreaterThan(VARIABLES.streamingTimeoutSec.fallback)
        }
        const { url } = await balance([0, 1, 2].map((n) => standIn(n, quietStream).address))
        const reply = await post(`${url}/v1/chat/completions`, 'x')
        const arrivals: { text: string; atMs: number }[] = []
        const decoder = new TextDecoder()
        if (!reply.body) throw new Error('no body')
        for await (const bytes of reply.body) arrivals.push({ text: decoder.decode(bytes), atMs: performance.now() })
        expect(arrivals.map(({ text }) => text)).toEqual(['data: one\n\n', 'data: two\n\n', 'data: [DONE]\n\n'])
        const [first, second, third] = arrivals.map(({ atMs }) => atMs)
        expect((second ?? 0) - (first ?? 0)).toBeGreaterThan(QUIET_MS / 2)
        expect((third ?? 0) - (second ?? 0)).toBeGreaterThan(QUIET_MS / 2)
      },
      4 * QUIET_MS + 30_000,
    )

    test('carries bodies as large as a node takes, and hands a larger one to nobody', async () => {
      const conf = await Bun.file(join(FOLDER, 'nginx.conf')).text()
      const limit = Number(/client_max_body_size (\d+)m;/.exec(conf)?.[1])
      expect(limit).toBeGreaterThan(VARIABLES.maxRequestBodyMb.fallback)
      const nodes = [0, 1, 2].map((n) => standIn(n))
      const { url } = await balance(nodes.map(({ address }) => address))
      const body = 'x'.repeat(VARIABLES.maxRequestBodyMb.fallback * MIB)
      const reply = await post(`${url}/v1/embeddings`, body)
      expect(((await reply.json()) as { bytes: number }).bytes).toBe(body.length)
      const tooLarge = await post(`${url}/v1/embeddings`, 'x'.repeat(limit * MIB + 1)).catch(() => undefined)
      // It may hang up on a body that is still coming.
      if (tooLarge) expect(tooLarge.status).toBe(413)
      expect(nodes.reduce((sum, { bodies }) => sum + bodies.length, 0)).toBe(1)
    }, 120_000)

    test('lets a WebSocket through, and says whose a request is, not what the client claims', async () => {
      const { url } = await balance([0, 1, 2].map((n) => standIn(n).address))
      const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/realtime`)
      const message = Promise.withResolvers<string>()
      socket.onmessage = (event) => message.resolve(String(event.data))
      socket.onerror = () => message.reject(new Error('the WebSocket failed'))
      socket.onopen = () => socket.send('hello')
      expect(await message.promise).toMatch(/^[0-2]: hello$/)
      socket.close()
      const reply = await fetch(`${url}/api/status`, {
        headers: { host: 'gate.example.com', 'x-forwarded-for': '203.0.113.9' },
      })
      const seen = (await reply.json()) as Readonly<Record<string, string>>
      expect(seen['x-forwarded-for']).toBe('127.0.0.1')
      expect(seen['x-real-ip']).toBe('127.0.0.1')
      expect(seen['x-forwarded-proto']).toBe('http')
      expect(seen['host']).toBe('gate.example.com')
    }, 30_000)

    test('shows the figures of the cluster to nobody', async () => {
      const { url } = await balance([0, 1, 2].map((n) => standIn(n).address))
      expect((await fetch(`${url}/metrics`)).status).toBe(404)
    })

    test('loses no call to nodes that are gone, however they went', async () => {
      const nodes = [0, 1, 2].map((n) => standIn(n))
      const { url } = await balance(nodes.map(({ address }) => address))
      await spread(url, 130)
      // Kept connections lead to it.
      await nodes[1]?.stop()
      const one = await spread(url, 260)
      expect(one[1]).toBe(0)
      await nodes[2]?.stop()
      expect(await spread(url, 130)).toEqual([130, 0, 0])
    }, 60_000)

    test('asks nodes that it has left out before it gives up', async () => {
      const nodes = [0, 1, 2].map((n) => standIn(n))
      const { url } = await balance(nodes.map(({ address }) => address))
      await spread(url, 130)
      await Promise.all(nodes.map((node) => node.stop()))
      const refused = await post(`${url}/v1/chat/completions`, 'x')
      expect(refused.status).toBe(502)
      await refused.text()
      standIn(1, undefined, Number(nodes[1]?.address.split(':')[1]))
      expect(await spread(url, 50)).toEqual([0, 50, 0])
    }, 60_000)

    test('never sends a POST again that has reached a node', async () => {
      const nodes = await Promise.all([deserter(), deserter(), deserter()])
      const { url } = await balance(nodes.map(({ address }) => address))
      const markers = Array.from({ length: 40 }, (_, n) => `marker-${n}-of-a-call`)
      for (const marker of markers) {
        const reply = await post(`${url}/v1/chat/completions`, marker)
        expect(reply.status).toBe(502)
        await reply.text()
      }
      const received = nodes.flatMap(({ bodies }) => bodies).join('\n')
      for (const marker of markers) expect(received.split(marker).length - 1).toBe(1)
    }, 60_000)

    test('with the map switched on, what changes something under /api goes to the master, to a slave only without it', async () => {
      const nodes = [0, 1, 2].map((n) => standIn(n))
      const { url } = await balance(
        nodes.map(({ address }) => address),
        true,
      )
      const nodeOf = async (method: string, path: string): Promise<number> =>
        ((await (await fetch(`${url}${path}`, { method })).json()) as { node: number }).node
      const many = async (method: string, path: string): Promise<ReadonlySet<number>> => {
        const seen = new Set<number>()
        for (let n = 0; n < 26; n += 1) seen.add(await nodeOf(method, path))
        return seen
      }
      for (const method of ['POST', 'PUT', 'DELETE']) expect(await many(method, '/api/channel/')).toEqual(new Set([0]))
      expect((await many('GET', '/api/channel/')).size).toBe(3)
      expect((await many('POST', '/v1/chat/completions')).size).toBe(3)
      await nodes[0]?.stop()
      expect((await many('POST', '/api/channel/')).has(0)).toBe(false)
    }, 60_000)
  })

  describe('our haproxy.cfg', () => {
    test(
      'spreads 1,300 calls 3:5:5, and hands on pieces of a stream, WebSockets and client addresses',
      async () => {
        const addresses = [0, 1, 2].map((n) =>
          standIn(n, (request) => (request.url.endsWith('/stream') ? quietStream() : undefined)),
        )
        const url = await startHaproxy(addresses.map(({ address }) => address))
        await eventually('all nodes are in use', async () => (await spread(url, 130)).every((count) => count > 0))
        const counts = await spread(url, 1_300)
        console.log(`HAProxy, 1,300 calls: ${counts.join(' : ')}`)
        expectWeights(counts)
        expect(await (await post(`${url}/stream`, 'x')).text()).toEndWith('[DONE]\n\n')
        const seen = (await (await fetch(`${url}/api/status`)).json()) as Readonly<Record<string, string>>
        expect(seen['x-forwarded-for']).toBe('127.0.0.1')
        expect((await fetch(`${url}/metrics`)).status).toBe(404)
      },
      4 * QUIET_MS + 60_000,
    )

    test('leaves a node alone that says it is not ready, and never sends a POST again', async () => {
      let isReady = true
      const leaving = standIn(0, (request) =>
        !isReady && request.url.endsWith('/readyz') ? new Response('', { status: 503 }) : undefined,
      )
      const staying = standIn(1)
      const leaver = await deserter()
      const url = await startHaproxy([leaving.address, staying.address, leaver.address])
      // HAProxy answers 502, or hangs up in turn: either way the client knows that it has no answer.
      const call = (body: string): Promise<unknown> =>
        post(`${url}/v1/chat/completions`, body).then(
          (reply) => reply.text(),
          () => '',
        )
      const received = () => [leaving, staying, leaver].map(({ bodies }) => bodies.join('\n'))
      const markers = Array.from({ length: 26 }, (_, n) => `marker-${n}-of-a-call`)
      for (const marker of markers) await call(marker)
      expect(leaver.bodies.length).toBeGreaterThan(0)
      for (const marker of markers) expect(received().join('\n').split(marker).length - 1).toBe(1)
      isReady = false
      await eventually(
        'the node that is not ready gets nothing',
        async () => {
          const before = leaving.bodies.length
          for (let n = 0; n < 13; n += 1) await call('later')
          return leaving.bodies.length === before
        },
        { withinMs: 30_000 },
      )
    }, 60_000)
  })
}
