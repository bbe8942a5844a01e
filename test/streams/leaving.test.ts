/** Clients that leave at any moment: before, between and after the frames, streamed or not. Nothing stays behind. */
import { expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { seeded } from '../protocol/random.ts'
import { openApp } from '../support/app.ts'
import { ENGINES } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { startUpstream } from '../support/upstream.ts'

const CALLS = 1_500
const AT_ONCE = 50
const SEED = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))
const MODELS = ['spoken-by-chat', 'spoken-by-claude'] as const
const PATHS = ['/v1/chat/completions', '/v1/messages'] as const

test(`${CALLS} calls that are left at random moments leave no upstream call and no hold behind`, async () => {
  console.log(`clients that leave: SEED=${SEED}`)
  const upstream = startUpstream()
  const app = await openApp(ENGINES[0]!)
  const { admin, url, key } = app
  await admin.options({ ModelRatio: Object.fromEntries(MODELS.map((model) => [model, 1])) })
  await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [MODELS[0]] })
  await admin.channel({ name: 'claude', type: 14, baseUrl: upstream.url, models: [MODELS[1]] })
  for (const model of MODELS) upstream.on(model, { chunks: 15, paceMs: 1, firstFrameMs: 3 })

  const random = seeded(SEED)
  const call = async (): Promise<void> => {
    const model = random.pick(MODELS)
    const stream = random.chance(0.8)
    const leave = new AbortController()
    const timer = setTimeout(() => leave.abort(), random.int(60))
    try {
      const reply = await fetch(`${url}${random.pick(PATHS)}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key.key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ model, stream, max_tokens: 40, messages: [{ role: 'user', content: 'hi' }] }),
        signal: leave.signal,
      })
      expect(reply.status).toBe(200)
      await reply.bytes()
    } catch (error) {
      if (!leave.signal.aborted) throw error
    } finally {
      clearTimeout(timer)
    }
  }
  let started = 0
  const client = async (): Promise<void> => {
    while (started++ < CALLS) await call()
  }
  await Promise.all(Array.from({ length: AT_ONCE }, client))
  await eventually('the upstream is left alone', () => upstream.active() === 0)
  expect(upstream.ledger.some((line) => line.end === 'aborted')).toBe(true)
  expect(upstream.ledger.some((line) => line.end === 'complete')).toBe(true)

  // A hold that nobody ends is waited for until the deadline of the stop.
  const stoppingAtMs = performance.now()
  await app.drain()
  expect(performance.now() - stoppingAtMs).toBeLessThan(5_000)
  // Whether a request that is dropped within its first milliseconds has left the machine, nobody can tell: it counts as sent.
  const known = new Set(upstream.ledger.map((line) => line.requestId))
  const { logs } = app.db.tables
  const rows = await app.db.select().from(logs).where(eq(logs.type, 2))
  const unsure = rows.filter((row) => !known.has(row.requestId ?? ''))
  expect(unsure.filter((row) => row.completionTokens !== 0 || row.quota !== row.promptTokens)).toEqual([])
  console.log(`${rows.length} charged, of which ${unsure.length} were dropped before the upstream had them`)
  await app.stop({ upstream: [...known, ...unsure.map((row) => row.requestId ?? '')] })
  await upstream.stop()
}, 60_000)
