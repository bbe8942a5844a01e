/** A crowd of clients that stop reading a fast stream: the node holds their upstreams back, and nobody else notices. */
import { expect, test } from 'bun:test'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createAdminClient } from '../support/admin-client.ts'
import { expectAudit } from '../support/auditor.ts'
import { ENGINES } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { createNode } from '../support/node.ts'
import { startUpstreamProcess } from '../support/upstream-process.ts'
import { ask, CHAT } from './world.ts'

/** Each fills some ten megabytes of the system's socket buffers, which have an end of their own. */
const READERS = 100
const FAST = 'fast?endless=1'
const SMALL = 'small'
/** Connections opened within one turn; more at once would only fill the listener's queue. */
const WAVE = 50
/**
 * What the worker may grow by for each: the runtime reads up to a megabyte ahead of whoever reads a response, and the chunk
 * in hand may be another. What is not held back makes that much in a fraction of a second.
 */
const GROWTH_MB = 4

test(`${READERS} clients that stop reading cost a bounded memory, and a small call beside them is answered at once`, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-stalled-'))
  const testDb = await ENGINES[0]!.freshDb({ isEmpty: true })
  const fast = await startUpstreamProcess(await mkdtemp(join(folder, 'fast-')))
  const calm = await startUpstreamProcess(await mkdtemp(join(folder, 'calm-')))
  const node = await createNode({ env: { ...testDb.env, WORKERS: '1', STREAMING_TIMEOUT: '15' } })
  const clients: Client[] = []
  try {
    node.start()
    await node.ready()
    const admin = createAdminClient(() => node.url)
    await admin.setUp()
    await admin.options({ ModelRatio: { [FAST]: 1, [SMALL]: 1 }, CompletionRatio: { [FAST]: 1, [SMALL]: 1 } })
    await admin.channel({ name: 'fast', baseUrl: fast.url, models: [FAST] })
    await admin.channel({ name: 'calm', baseUrl: calm.url, models: [SMALL] })
    const { key } = await admin.apiKey(await admin.user(2_000_000_000))
    const small = async (): Promise<number> => {
      const startedAtMs = performance.now()
      const reply = await fetch(`${node.url}${CHAT}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body: JSON.stringify(ask(SMALL)),
      })
      expect(reply.status).toBe(200)
      await reply.json()
      return performance.now() - startedAtMs
    }
    await small()
    const [pid] = await node.workerPids()
    const before = await residentMb(pid!)

    const body = JSON.stringify(ask(FAST, { stream: true, max_tokens: 1_000_000 }))
    for (let index = 0; index < READERS; index++) {
      clients.push(stalledClient(node.url, key, body))
      if (index % WAVE === WAVE - 1) await Bun.sleep(20)
    }
    await Promise.all(clients.map((client) => client.stalled))
    // An upstream that is not held back never comes to rest.
    let lastCpuMs = 0
    await eventually(
      'the streams stand still',
      async () => {
        const nowCpuMs = await cpuMs(fast.process.pid)
        const isAtRest = nowCpuMs - lastCpuMs < 100
        lastCpuMs = nowCpuMs
        return isAtRest
      },
      { withinMs: 30_000, everyMs: 500 },
    )
    const rested = await residentMb(pid!)
    const tookMs = await small()
    console.log(
      `${READERS} stalled readers: worker ${before} MB → ${rested} MB; a small call took ${Math.round(tookMs)} ms`,
    )
    expect(rested - before).toBeLessThan(READERS * GROWTH_MB)
    expect(tookMs).toBeLessThan(2_000)

    // Who takes nothing for too long is hung up on, and billed for what was produced.
    await eventually('the node has let go of them', async () => (await connectionsOf(node.url)) < WAVE, {
      withinMs: 60_000,
      everyMs: 250,
    })
    expect(await node.stop()).toBe(0)
    const report = await expectAudit(testDb.db, testDb.db, { granted: admin.granted })
    expect(report.logRows).toBe(READERS + 2)
  } catch (error) {
    console.log(await node.output())
    throw error
  } finally {
    for (const client of clients) client.leave()
    await node.remove()
    await fast.stop()
    await calm.stop()
    await testDb.close()
    await rm(folder, { recursive: true, force: true })
  }
}, 120_000)

interface Client {
  /** It has bytes of its answer and reads no more. */
  readonly stalled: Promise<void>
  leave(): void
}

function stalledClient(url: string, key: string, body: string): Client {
  const { hostname, port } = new URL(url)
  const stalled = Promise.withResolvers<void>()
  const head = [
    `POST ${CHAT} HTTP/1.1`,
    'host: localhost',
    `authorization: Bearer ${key}`,
    `content-length: ${body.length}`,
  ]
  const socket = Bun.connect({
    hostname,
    port: Number(port),
    socket: {
      open: (opened) => void opened.write(`${head.join('\r\n')}\r\n\r\n${body}`),
      data(opened) {
        opened.pause()
        stalled.resolve()
      },
    },
  })
  socket.catch(stalled.reject)
  return {
    stalled: stalled.promise,
    leave: () => void socket.then((opened) => opened.terminate()).catch(() => {}),
  }
}

/** Connections that the server of this address holds open. @source https://man7.org/linux/man-pages/man5/proc_pid_net.5.html */
async function connectionsOf(url: string): Promise<number> {
  const port = Number(new URL(url).port).toString(16).toUpperCase().padStart(4, '0')
  const lines = (await readFile('/proc/net/tcp', 'utf8')).split('\n').map((line) => line.trim().split(/\s+/))
  return lines.filter(([, local, , state]) => local?.endsWith(`:${port}`) && state === '01').length
}

/** @source https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html */
async function cpuMs(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8')
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10
}

/** @source https://man7.org/linux/man-pages/man5/proc_pid_status.5.html */
async function residentMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Math.round(Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) / 1024)
}
