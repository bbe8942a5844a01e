/**
 * Money under `kill -9`: while many clients call, workers and the whole node are killed at random moments, again and again.
 * In the end every account adds up, and whatever a client has seen complete is charged once. KILLS sets the number of kills
 * on each engine, SEED repeats a run.
 */
import { expect, test } from 'bun:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inArray } from 'drizzle-orm'
import { seeded } from '../protocol/random.ts'
import { createAdminClient } from '../support/admin-client.ts'
import { expectAudit } from '../support/auditor.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { createNode, killProcess, type RealNode } from '../support/node.ts'
import type { LedgerLine } from '../support/upstream.ts'
import { startUpstreamProcess } from '../support/upstream-process.ts'
import { startLoad } from './load.ts'

const KILLS = Number(process.env['KILLS'] ?? 28)
const SEED = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))
const CLIENTS = 24
const MS_PER_KILL = 6_000
/** What a busy machine may put between a kill and the moment the upstream hears of a call or of its end. */
const SLACK_MS = 1_000

/** What the upstream makes of each model; the names that clients use are mapped to these. */
const CHAT_MODELS = {
  quick: 'quick?chunks=4&pace=4',
  slow: 'slow?chunks=12&pace=50',
  silent: 'silent?chunks=5&pace=10&usage=none',
} as const
const CLAUDE_MODELS = { words: 'words?chunks=10&pace=20' } as const
const FLAKY = 'flaky'
const MODELS = [...Object.keys(CHAT_MODELS), ...Object.keys(CLAUDE_MODELS), FLAKY]
const COMPLETION_RATIO = 2
/** Models whose usage the upstream reports. */
const REPORTED = new Set([...MODELS].filter((model) => model !== 'silent'))

for (const engine of ENGINES)
  test(
    `${KILLS} kills on ${engine.name} leave every account exact`,
    async () => {
      console.log(`kill test on ${engine.name}: SEED=${SEED} KILLS=${KILLS}`)
      const random = seeded(SEED)
      const folder = await mkdtemp(join(tmpdir(), 'headgate-kill-'))
      const testDb = await engine.freshDb({ isEmpty: true })
      const upstream = await startUpstreamProcess(folder)
      const workers = engine.isServer ? 2 : 1
      const node = await createNode({ env: { ...testDb.env, WORKERS: String(workers) } })
      try {
        node.start()
        await node.ready()
        const { granted, keys } = await furnish(node, upstream.url)
        const load = startLoad({ url: node.url, keys, models: MODELS, clients: CLIENTS, seed: SEED })
        const kills = await killAtRandom(node, random)
        // Until a killed worker has its successor, neither the node's readiness nor the rows below know of its death.
        await eventually('every killed worker has a successor', async () => {
          const pids = await node.workerPids()
          return pids.length === workers && !pids.some((pid) => kills.pids.has(pid))
        })
        await node.ready()
        await load.stop()
        // What starts again returns what its earlier life had parked.
        const { clusterInstances } = testDb.db.tables
        await eventually(
          'every worker is back',
          async () =>
            (await testDb.db.$count(clusterInstances, inArray(clusterInstances.state, ['live', 'draining']))) ===
            workers,
          { withinMs: 60_000, everyMs: 100 },
        )
        expect(await node.stop()).toBe(0)

        // An answer that was refused is no production; the next channel made it.
        const produced = upstream.ledger().filter((line) => line.status < 400)
        const report = await expectAudit(testDb.db, testDb.db, {
          granted,
          complete: load.complete,
          upstream: produced.map((line) => line.requestId),
        })
        const unlogged = new Set(report.unlogged)
        const inFlight = produced.filter((line) => unlogged.has(line.requestId))
        expect(inFlight.filter((line) => !wasUnderWay(line, kills.moments))).toEqual([])
        const checked = await expectExactCharges(testDb, load.complete, produced)
        console.log(
          `kill test on ${engine.name}: ${kills.workers} workers and ${kills.nodes} nodes killed; calls ${JSON.stringify(load.ends)}; ` +
            `${report.logRows} charges (${checked} compared with the upstream), ${produced.length} at the upstream, ` +
            `${inFlight.length} in flight at a kill and not charged; difference 0`,
        )
        expect(kills.workers + kills.nodes).toBe(KILLS)
        expect(load.complete.size).toBeGreaterThan(KILLS * 10)
      } catch (error) {
        console.log(await node.output())
        throw error
      } finally {
        await node.remove()
        await upstream.stop()
        await testDb.close()
        await rm(folder, { recursive: true, force: true })
      }
    },
    60_000 + KILLS * MS_PER_KILL,
  )

/** Prices, three channels of two protocols, and wallets and keys from plenty to nearly nothing. */
async function furnish(node: RealNode, upstreamUrl: string) {
  const admin = createAdminClient(() => node.url)
  await admin.setUp()
  const all = (ratio: number) => Object.fromEntries(MODELS.map((model) => [model, ratio]))
  await admin.options({ ModelRatio: all(1), CompletionRatio: all(COMPLETION_RATIO), RetryTimes: 2 })
  await admin.channel({
    name: 'chat',
    baseUrl: upstreamUrl,
    models: [...Object.keys(CHAT_MODELS), FLAKY],
    modelMapping: { ...CHAT_MODELS, [FLAKY]: 'flaky?chunks=6&pace=15' },
  })
  await admin.channel({
    name: 'messages',
    type: 14,
    baseUrl: upstreamUrl,
    models: Object.keys(CLAUDE_MODELS),
    modelMapping: CLAUDE_MODELS,
  })
  await admin.channel({
    name: 'failing',
    baseUrl: upstreamUrl,
    models: [FLAKY],
    modelMapping: { [FLAKY]: 'down?status=503' },
    fields: { priority: 10 },
  })
  const rich = await admin.user(200_000_000)
  const middling = await admin.user(50_000_000)
  const poor = await admin.user(6_000)
  const keys = await Promise.all([
    admin.apiKey(rich),
    admin.apiKey(rich, { quota: 100_000_000 }),
    admin.apiKey(rich, { quota: 8_000 }),
    admin.apiKey(middling, { quota: 10_000_000 }),
    admin.apiKey(middling),
    admin.apiKey(poor),
  ])
  return { granted: admin.granted, keys: keys.map(({ key }) => key) }
}

interface Moment {
  readonly fromMs: number
  readonly toMs: number
}

/** Kills workers and, less often, the node, in calm and in the middle of a start. */
async function killAtRandom(node: RealNode, random: ReturnType<typeof seeded>) {
  const kills = { workers: 0, nodes: 0, moments: [] as Moment[], pids: new Set<number>() }
  // A supervisor waits longer before each start of a worker that keeps dying; a new one does not.
  let sinceNode = 0
  while (kills.moments.length < KILLS) {
    if (random.chance(0.75)) {
      await node.ready()
      await Bun.sleep(200 + random.int(1_300))
    } else await Bun.sleep(random.int(500))
    const isNode = sinceNode >= 5 || random.chance(0.25)
    if (isNode) {
      const fromMs = Date.now()
      await node.kill()
      kills.moments.push({ fromMs, toMs: Date.now() })
      node.start()
      kills.nodes += 1
      sinceNode = 0
    } else {
      const pids = await eventually('a worker lives', async () => {
        const alive = await node.workerPids()
        return alive.length > 0 ? alive : undefined
      })
      const fromMs = Date.now()
      const pid = random.pick(pids)
      killProcess(pid)
      kills.pids.add(pid)
      kills.moments.push({ fromMs, toMs: Date.now() })
      kills.workers += 1
      sinceNode += 1
    }
  }
  return kills
}

/** Was this answer, or what the gateway does with its end, cut by a kill? */
const wasUnderWay = (line: LedgerLine, kills: readonly Moment[]): boolean =>
  kills.some(({ fromMs, toMs }) => toMs >= line.atMs - line.tookMs - SLACK_MS && fromMs <= line.atMs + SLACK_MS)

/** Every complete call is charged by what the upstream itself counted. @returns how many were compared */
async function expectExactCharges(
  { db }: TestDb,
  complete: ReadonlySet<string>,
  produced: readonly LedgerLine[],
): Promise<number> {
  const usageOf = new Map(produced.map((line) => [line.requestId, line.usage]))
  const { logs } = db.tables
  const rows = await db
    .select({ id: logs.requestId, model: logs.modelName, quota: logs.quota })
    .from(logs)
    .where(inArray(logs.type, [2]))
  const compared = rows.filter((row) => complete.has(row.id ?? '') && REPORTED.has(row.model ?? ''))
  const wrong = compared.filter((row) => {
    const usage = usageOf.get(row.id ?? '')
    return !usage || row.quota !== usage.input + usage.output * COMPLETION_RATIO
  })
  expect(wrong).toEqual([])
  return compared.length
}
