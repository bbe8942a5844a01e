/**
 * What a test of money under kills works with: channels of two protocols with models of every temper, wallets from plenty
 * to nearly nothing, and the comparison of what was charged with what the upstream itself counted.
 */
import { expect } from 'bun:test'
import { inArray } from 'drizzle-orm'
import type { Db } from '../../src/db/index.ts'
import type { AdminClient } from '../support/admin-client.ts'
import { expectAudit } from '../support/auditor.ts'
import type { LedgerLine } from '../support/upstream.ts'
import type { UpstreamProcess } from '../support/upstream-process.ts'
import type { Load } from './load.ts'

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
export const MODELS = [...Object.keys(CHAT_MODELS), ...Object.keys(CLAUDE_MODELS), FLAKY]
const COMPLETION_RATIO = 2
/** Models whose usage the upstream reports. */
const REPORTED = new Set([...MODELS].filter((model) => model !== 'silent'))

/** Which of the keys run dry soon: from then on their calls are refused, or asked to come again. */
export const SCARCE_KEYS: readonly number[] = [2, 5]

/** @returns API keys. Prices, three channels of two protocols, and wallets and keys from plenty to nearly nothing. */
export async function furnish(admin: AdminClient, upstreamUrl: string): Promise<readonly string[]> {
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
  return keys.map(({ key }) => key)
}

/** A kill, or a time in which there were some. */
export interface Moment {
  readonly fromMs: number
  readonly toMs: number
}

/**
 * After the nodes have ended: every account adds up, what clients saw complete is charged once and by what the upstream
 * counted, and what the upstream has beyond the logs was in flight at a kill.
 * @returns the figures, for people
 */
export async function expectExactBooks(
  db: Db,
  world: {
    readonly granted: ReadonlyMap<string, number>
    readonly load: Load
    readonly upstream: Pick<UpstreamProcess, 'ledger'>
    readonly kills: readonly Moment[]
  },
): Promise<string> {
  const { granted, load, kills } = world
  // An answer that was refused is no production; the next channel made it.
  const produced = world.upstream.ledger().filter((line) => line.status < 400)
  const upstream = produced.map((line) => line.requestId)
  const report = await expectAudit(db, db, { granted, complete: load.complete, upstream })
  const unlogged = new Set(report.unlogged)
  const inFlight = produced.filter((line) => unlogged.has(line.requestId))
  expect(inFlight.filter((line) => !wasUnderWay(line, kills))).toEqual([])
  const checked = await expectExactCharges(db, load.complete, produced)
  return (
    `calls ${JSON.stringify(load.ends)}; ${report.logRows} charges (${checked} compared with the upstream), ` +
    `${produced.length} at the upstream, ${inFlight.length} in flight at a kill and not charged; difference 0`
  )
}

/** Was this answer, or what the gateway does with its end, cut by a kill? */
const wasUnderWay = (line: LedgerLine, kills: readonly Moment[]): boolean =>
  kills.some(({ fromMs, toMs }) => toMs >= line.atMs - line.tookMs - SLACK_MS && fromMs <= line.atMs + SLACK_MS)

/** Every complete call is charged by what the upstream itself counted. @returns how many were compared */
async function expectExactCharges(
  db: Db,
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
