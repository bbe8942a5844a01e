/**
 * A process that spends until it is killed, for the tests of kills: holds, extends, settles and releases at random, and
 * writes down what an upstream and what its clients saw, so that nothing depends on what it remembers.
 */
import { appendFileSync } from 'node:fs'
import { basename } from 'node:path'
import { openDb } from '../../../src/db/index.ts'
import { createLedger } from '../../../src/domain/billing/index.ts'
import { GatewayError } from '../../../src/errors.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { createMemoryState } from '../../../src/state/index.ts'

export interface SpenderTask {
  readonly dsn?: string
  readonly sqlitePath?: string
  readonly dataDir: string
  readonly worker: number
  readonly payers: readonly {
    readonly userId: number
    readonly apiKeyId: number
    readonly isUnlimitedKey: boolean
    readonly username: string
    readonly apiKeyName: string
  }[]
  readonly channelId: number
  /** Files that get a request id per line. */
  readonly upstreamPath: string
  readonly completePath: string
  readonly callers: number
  /** Told to stop (by a line on its input), it drains. */
  readonly isBatch: boolean
  /** 1,800 if not given */
  readonly leaseMs?: number
}

const task = JSON.parse(process.argv[2] ?? '') as SpenderTask
const random = (below: number): number => Math.floor(Math.random() * below)
const db = await openDb({
  ...(task.dsn ? { dsn: task.dsn } : {}),
  ...(task.sqlitePath ? { sqlitePath: task.sqlitePath } : {}),
  log: silentLog,
})
const ledger = createLedger({
  db,
  logDb: db,
  bus: createMemoryState({ clock: systemClock, log: silentLog }),
  log: silentLog,
  clock: systemClock,
  dataDir: task.dataDir,
  instance: { node: basename(task.dataDir), worker: task.worker, role: 'master', version: 'test' },
  leaseMs: task.leaseMs ?? 1_800,
  sync: 'normal',
  flush: { isBatch: task.isBatch, intervalMs: 100 },
  isSingleNode: task.sqlitePath !== undefined,
  isLogged: () => true,
  isExported: () => true,
})
await ledger.open()
console.log('open')

let isStopping = false
const call = async (): Promise<void> => {
  const payer = task.payers[random(task.payers.length)]!
  try {
    const hold = await ledger.hold(payer, 1 + random(400))
    if (random(6) === 0) await hold.extend(1 + random(400))
    await Bun.sleep(random(4))
    if (random(10) === 0) return await hold.release()
    const requestId = crypto.randomUUID()
    appendFileSync(task.upstreamPath, `${requestId}\n`)
    await hold.settle({
      quota: random(hold.amount + 1),
      record: {
        requestId,
        type: 2,
        createdAtSec: Math.floor(Date.now() / 1000),
        userId: payer.userId,
        username: payer.username,
        apiKeyId: payer.apiKeyId,
        apiKeyName: payer.apiKeyName,
        modelName: `model-${random(3)}`,
        channelId: task.channelId,
        group: 'default',
        ip: '',
        content: '',
        promptTokens: 1,
        completionTokens: 2,
        useTimeSec: 0,
        isStream: true,
        other: { text: '价格 💰' },
        isCounted: true,
      },
    })
    appendFileSync(task.completePath, `${requestId}\n`)
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error
    await Bun.sleep(20)
  }
}
const callers = Array.from({ length: task.callers }, async () => {
  while (!isStopping) await call()
})
for await (const _ of Bun.stdin.stream()) break
isStopping = true
await Promise.all(callers)
await ledger.drain(20_000)
await db.close()
console.log('drained')
