/**
 * A cluster behind our nginx that changes under load: every node is restarted in turn, slaves first and then the master,
 * with streams and calls under way, and no client notices; a node that is killed takes only the calls that were in it.
 */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { join } from 'node:path'
import type { MadeKey } from '../support/admin-client.ts'
import { type Cluster, openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { type Nginx, startNginx } from '../support/nginx.ts'

const CONF = join(import.meta.dir, '../../compose/cluster/nginx.conf')
const NAMES = ['master-node-ip:3000', 'slave-node1-ip:3000', 'slave-node2-ip:3000'] as const
const WEIGHTS = [3, 5, 5] as const
const IS_SOAK = Boolean(process.env['SOAK'])
/** Streams last longer than a restart would without them. */
const STREAM_PIECES = IS_SOAK ? 100 : 7
const PIECE_MS = 300
const ROUNDS = IS_SOAK ? 3 : 1
/** More than a busy machine takes to tell nginx that a connection is closed. */
const HEARD_MS = 2_000
const MODEL = 'short'
const SLOW_MODEL = `slow?chunks=${STREAM_PIECES}&pace=${PIECE_MS}`

interface Ended {
  readonly kind: 'call' | 'stream'
  readonly startedAtMs: number
  /** Absent: it ended as it should. */
  readonly fault?: string
  readonly requestId: string
}

/** Clients that call one after another until they are told to end. */
function load(url: string, key: MadeKey, clients: { readonly calls: number; readonly streams: number }) {
  const ended: Ended[] = []
  let isOver = false
  const run = async (kind: Ended['kind']): Promise<void> => {
    while (!isOver) {
      const startedAtMs = performance.now()
      const { fault, requestId } = await (kind === 'call' ? call(url, key) : stream(url, key))
      ended.push({ kind, startedAtMs, requestId, ...(fault !== undefined && { fault }) })
      await Bun.sleep(10)
    }
  }
  const all = [
    ...Array.from({ length: clients.calls }, () => run('call')),
    ...Array.from({ length: clients.streams }, () => run('stream')),
  ]
  return {
    ended: ended as readonly Ended[],
    async end(): Promise<readonly Ended[]> {
      isOver = true
      await Promise.all(all)
      return ended
    },
  }
}

const ask = (url: string, { key }: MadeKey, body: object): Promise<Response> =>
  fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ role: 'user', content: 'hello' }], ...body }),
  })

type Outcome = Pick<Ended, 'fault' | 'requestId'>

async function outcome(reply: Promise<Response>, faultOf: (text: string) => string | undefined): Promise<Outcome> {
  try {
    const answer = await reply
    const requestId = answer.headers.get('x-oneapi-request-id') ?? ''
    const text = await answer.text()
    const fault = answer.status === 200 ? faultOf(text) : `${answer.status} ${text.slice(0, 300)}`
    return { requestId, ...(fault !== undefined && { fault }) }
  } catch (error) {
    return { requestId: '', fault: String(error) }
  }
}

const call = (url: string, key: MadeKey): Promise<Outcome> =>
  outcome(ask(url, key, { model: MODEL }), (text) => (text.includes('"choices"') ? undefined : text.slice(0, 300)))

const stream = (url: string, key: MadeKey): Promise<Outcome> =>
  outcome(ask(url, key, { model: SLOW_MODEL, stream: true }), (text) => {
    const pieces = text.split('"content":"word').length - 1
    return pieces === STREAM_PIECES && text.trimEnd().endsWith('data: [DONE]')
      ? undefined
      : `a stream of ${pieces} pieces: …${text.slice(-300)}`
  })

const idsOf = (ended: readonly Ended[]): readonly string[] =>
  ended.filter(({ fault }) => fault === undefined).map(({ requestId }) => requestId)

if (SERVER_ENGINE) {
  describe('three nodes behind our nginx', () => {
    let cluster: Cluster
    let nginx: Nginx
    let key: MadeKey
    /** All calls of all tests, for the auditor. */
    const made: Ended[] = []

    beforeAll(async () => {
      // Longer than the longest stream.
      cluster = await openCluster({ env: { SHUTDOWN_TIMEOUT_SECONDS: '60' } })
      const { admin, nodes, upstream } = cluster
      await admin.options({ ModelPrice: { [MODEL]: 0.002, [SLOW_MODEL]: 0.004 }, RetryTimes: 0 })
      await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [MODEL, SLOW_MODEL] })
      key = await admin.apiKey(await admin.user(500_000_000))
      nginx = await startNginx(await Bun.file(CONF).text(), {
        addresses: Object.fromEntries(NAMES.map((name, n) => [name, new URL(nodes[n]?.url ?? '').host])),
      })
    }, 120_000)

    afterAll(async () => {
      try {
        await cluster.settled(cluster.nodes.length)
        const complete = idsOf(made)
        // The upstream writes a call down when it ends, which for some is the end of their node.
        for (const node of cluster.nodes) expect(await node.stop(60_000)).toBe(0)
        const produced = cluster.upstream.ledger().map(({ requestId }) => requestId)
        const report = await cluster.stop({ complete, upstream: produced })
        console.log(
          `auditor: no difference; ${report.logRows} charges for ${complete.length} calls that clients saw complete`,
        )
      } finally {
        await nginx?.stop()
        await cluster?.remove()
      }
    }, 180_000)

    test(
      'a rolling restart of all nodes under calls and streams fails none of them',
      async () => {
        const { nodes } = cluster
        const clients = load(nginx.url, key, { calls: 6, streams: 6 })
        await eventually('streams end', () => clients.ended.some(({ kind }) => kind === 'stream'), { withinMs: 60_000 })
        for (let round = 0; round < ROUNDS; round += 1) {
          for (const [number, name] of [
            [1, 'slave'],
            [2, 'slave'],
            [0, 'master'],
          ] as const) {
            const node = nodes[number]
            const startedAtMs = performance.now()
            if ((await node?.stop(90_000)) !== 0) throw new Error(`node ${number} did not end well`)
            const stoppedAtMs = performance.now()
            node?.start()
            await node?.ready(60_000)
            console.log(
              `${name} ${number}: drained in ${Math.round(stoppedAtMs - startedAtMs)} ms, ready again after ${Math.round(performance.now() - stoppedAtMs)} ms`,
            )
          }
        }
        // Each node is used again.
        const before = (await nginx.accessLog()).length
        await eventually(
          'every node takes calls again',
          async () => {
            const later = (await nginx.accessLog()).slice(before)
            return nodes.every(({ url }) => later.some((line) => line.includes(`node=${new URL(url).host} status=200`)))
          },
          { withinMs: 60_000, everyMs: 100 },
        )
        const ended = await clients.end()
        made.push(...ended)
        const faults = ended.filter(({ fault }) => fault !== undefined)
        const streams = ended.filter(({ kind }) => kind === 'stream').length
        console.log(`${ended.length - streams} calls and ${streams} streams, ${faults.length} failed`)
        if (faults.length > 0) console.log(await nginx.errorLog())
        expect(faults).toEqual([])
        expect(streams).toBeGreaterThanOrEqual(12)
      },
      IS_SOAK ? 1_200_000 : 240_000,
    )

    test('1,300 calls are spread 3:5:5', async () => {
      const before = (await nginx.accessLog()).length
      let left = 1_300
      const ended: Ended[] = []
      await Promise.all(
        Array.from({ length: 10 }, async () => {
          while (left > 0) {
            left -= 1
            ended.push({ kind: 'call', startedAtMs: performance.now(), ...(await call(nginx.url, key)) })
          }
        }),
      )
      made.push(...ended)
      expect(ended.filter(({ fault }) => fault !== undefined)).toEqual([])
      const lines = (await nginx.accessLog()).slice(before)
      const counts = cluster.nodes.map(
        ({ url }) => lines.filter((line) => line.includes(`node=${new URL(url).host} `)).length,
      )
      console.log(`1,300 calls to real nodes: ${counts.join(' : ')}`)
      counts.forEach((count, n) => {
        const wanted = 100 * (WEIGHTS[n] ?? 0)
        expect(Math.abs(count - wanted) / wanted).toBeLessThanOrEqual(0.05)
      })
    }, 120_000)

    test('a client that leaves is let go at the upstream too, through nginx and its node, and pays once', async () => {
      const leave = new AbortController()
      const reply = await fetch(`${nginx.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key.key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ model: SLOW_MODEL, stream: true, messages: [{ role: 'user', content: 'hello' }] }),
        signal: leave.signal,
      })
      await reply.body?.getReader().read()
      const leftAtMs = Date.now()
      leave.abort()
      const requestId = reply.headers.get('x-oneapi-request-id') ?? ''
      const line = await eventually(
        'the upstream has ended it',
        () => cluster.upstream.ledger().find((each) => each.requestId === requestId),
        { withinMs: 30_000 },
      )
      expect(line.end).toBe('aborted')
      const rows = await eventually(
        'it is charged',
        async () => {
          const found = await cluster.admin.logs(`request_id=${encodeURIComponent(requestId)}`)
          return found.length > 0 ? found : undefined
        },
        { withinMs: 30_000 },
      )
      expect(rows).toMatchObject([{ type: 2, other: { stream_status: { end_reason: 'client_gone' } } }])
      console.log(`the upstream was let go ${line.atMs - leftAtMs} ms after the client had left`)
    }, 120_000)

    test('a killed node takes only calls that were in it with it, and none is made twice', async () => {
      const { nodes, upstream } = cluster
      const before = upstream.ledger().length
      const clients = load(nginx.url, key, { calls: 6, streams: 0 })
      await eventually('calls are made', () => clients.ended.length > 50, { withinMs: 30_000 })
      await nodes[2]?.kill()
      const killedAtMs = performance.now()
      const seen = clients.ended.length
      await eventually('calls go on', () => clients.ended.length > seen + 100, { withinMs: 30_000 })
      const ended = await clients.end()
      made.push(...ended)
      const faults = ended.filter(({ fault }) => fault !== undefined)
      console.log(`one node killed: ${ended.length} calls, ${faults.length} failed that were in it`)
      // Until nginx has heard that connections which it kept are closed it may use one, and it never sends a POST again.
      expect(faults.filter(({ startedAtMs }) => startedAtMs >= killedAtMs + HEARD_MS)).toEqual([])
      // Each client had one call under way at most.
      expect(faults.length).toBeLessThanOrEqual(6)
      expect(upstream.ledger().length - before).toBeLessThanOrEqual(ended.length)
      nodes[2]?.start()
      await nodes[2]?.ready(60_000)
    }, 120_000)
  })
}
