/**
 * A node whose workers are small servers that do as they are told over HTTP: the real `serve` and supervisor, without the
 * gateway behind them. `FIXTURE` makes its workers fail their start (`config`, `crash`) or ignore a stop (`stubborn`).
 */
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { serve } from '../../src/commands/serve.ts'
import { createOutboxes } from '../../src/domain/billing/outboxes.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { createWorkerNode, type ToSupervisor, type ToWorker } from '../../src/node.ts'

const option = (name: string): string => process.argv[process.argv.indexOf(`--${name}`) + 1] ?? ''

if (process.argv[2] !== 'worker') {
  process.exit(await serve({}, [process.execPath, '--no-env-file', import.meta.path]))
}
const behaviour = process.env['FIXTURE']
if (behaviour === 'config') process.exit(78)
if (behaviour === 'crash') process.exit(1)

let stopping = false
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => {})
process.on('disconnect', () => process.exit(1))
const node = createWorkerNode({
  workerIndex: Number(option('index')),
  workerCount: Number(option('count')),
  nodeId: option('node-id'),
  log: silentLog,
  send: (message: ToSupervisor) => void process.send?.(message),
  onMessage: (receive) => process.on('message', (message) => receive(message as ToWorker)),
  onStop: () => void stop(),
})
const heard: string[] = []
node.state.subscribe('topic', (message) => heard.push(message))

/** Journals without an end into `ledger/<n>.db`, and notes each charge that was committed as a line `<instance> <number>`. */
async function journal(dataDir: string): Promise<void> {
  const outboxes = createOutboxes({
    dataDir,
    sync: 'normal',
    log: silentLog,
    clock: systemClock,
    checkpoint: node.checkpoint,
  })
  const outbox = outboxes.openOwn()
  const instanceId = crypto.randomUUID()
  outbox.begin(instanceId)
  setInterval(() => void outbox.sync(), 50)
  const entry = { body: 'x'.repeat(3_000), other: '{}' }
  for (let seq = 0; ; seq++) {
    await outbox.append(entry)
    if (seq % 4 === 0) await Bun.sleep(1)
    appendFileSync(join(dataDir, 'journalled'), `${instanceId} ${seq + 1}\n`)
  }
}

const server = Bun.serve({
  hostname: process.env['LISTEN_HOST'] ?? '',
  port: Number(process.env['PORT']),
  reusePort: node.workerCount > 1,
  idleTimeout: 0,
  async fetch(request) {
    const url = new URL(request.url)
    console.log(url.pathname)
    const value = url.searchParams.get('value') ?? ''
    if (url.pathname === '/die') process.kill(process.pid, 'SIGKILL')
    if (url.pathname === '/journal') void journal(value)
    if (url.pathname === '/hang') for (;;);
    if (url.pathname === '/slow') await Bun.sleep(Number(value))
    if (url.pathname === '/unready') node.report({ ready: false, missing: [value], isListening: true })
    if (url.pathname === '/publish') await node.state.publish('topic', value)
    const { workerIndex, workerCount, nodeId } = node
    return Response.json(
      {
        pid: process.pid,
        workerIndex,
        workerCount,
        nodeId,
        readiness: node.readiness(),
        heard,
        stopping,
        count: await node.state.add('calls', 1, 600_000),
        secret: process.env['SESSION_SECRET'],
        maxRequests: process.env['BUN_CONFIG_MAX_HTTP_REQUESTS'],
      },
      // Each call may meet another worker.
      { headers: { connection: 'close' } },
    )
  },
})
node.report({ ready: true, missing: [], isListening: true })

async function stop(): Promise<void> {
  if (behaviour === 'stubborn') return
  stopping = true
  await server.stop()
  process.exit(0)
}
