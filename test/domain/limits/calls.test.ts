/** Limits on calls are exact over everybody who shares the counts, and what a call took is ended with it. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type CallLimits, createCallLimits, createCounts, type Limits } from '../../../src/domain/limits/index.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { createMemoryState, openRedisState, type State } from '../../../src/state/index.ts'
import { testClock } from '../../admin/harness.ts'
import { HAS_SERVERS } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { redis, spawnTied } from '../../support/services.ts'

type Limit = Limits[number][number]
const MINUTE_MS = 60_000
const HOLD_MS = 1_500

let made = 0
/** A limit whose count is its own. */
const limit = (counts: Limit['counts'], most: number, scope: Limit['scope'] = 'API key'): Limit => ({
  counts,
  scope,
  key: `limit:${counts}:${++made}`,
  limit: most,
  windowMs: counts === 'concurrency' ? 0 : MINUTE_MS,
})
const asking = (inputTokens = 0, outputTokens = 0) => ({ id: crypto.randomUUID(), inputTokens, outputTokens })
const SERVED = { isSuccess: true, tokens: 0 }
const FAILED = { isSuccess: false, tokens: 0 }

const over = (state: State, options: { readonly share?: number; readonly holdMs?: number } = {}): CallLimits =>
  createCallLimits({
    counts: createCounts({ state, share: () => options.share ?? 1, log: silentLog }),
    clock: systemClock,
    ...(options.holdMs && { holdMs: options.holdMs }),
  })

/** A node of its own, with a clock that the test moves. */
function opened() {
  const clock = testClock()
  const state = createMemoryState({ clock, log: silentLog })
  const limits = createCallLimits({ counts: createCounts({ state, share: () => 1, log: silentLog }), clock })
  const admit = async (...scopes: Limits[number][]) => limits.admit(scopes, asking())
  const used = async ({ key, windowMs }: Limit) => (await state.take(key, { n: 0, limit: 1e9, windowMs })).used
  return { clock, state, limits, admit, used }
}

describe('a call that asks its limits', () => {
  test('is refused with the reason and the time to wait, and takes nothing then', async () => {
    const { admit, used, limits } = opened()
    const [requests, tokens] = [limit('requests', 1), limit('tokens', 1000)]
    expect((await admit([requests, tokens])).refusal).toBeUndefined()
    const { refusal } = await limits.admit([[requests, tokens]], asking(10))
    expect(refusal).toMatchObject({ code: 'rate_limit_exceeded', status: 429, blame: 'client', retry: false })
    expect(refusal?.public).toBe('Rate limit of this API key reached: 1 requests in a minute')
    expect(refusal?.retryAfterSec).toBeGreaterThan(59)
    expect(refusal?.retryAfterSec).toBeLessThanOrEqual(61)
    await limits.close()
    expect(await used(tokens)).toBe(0)
  })

  test('that its key refuses takes nothing of its user, so that other keys keep their part', async () => {
    const { admit, used } = opened()
    const [ofKey, ofUser] = [limit('requests', 1), limit('requests', 10, 'user')]
    const refusals = await Promise.all(Array.from({ length: 20 }, () => admit([ofKey], [ofUser])))
    expect(refusals.filter(({ refusal }) => !refusal)).toHaveLength(1)
    expect(await used(ofUser)).toBe(1)
  })

  test('counts as served only if it was, and all calls count from their start', async () => {
    const { admit, used, limits } = opened()
    const [calls, served] = [limit('requests', 10), limit('successes', 2)]
    const both = [await admit([calls, served]), await admit([calls, served])]
    // Both places are taken while the calls run: a third cannot slip through.
    expect((await admit([calls, served])).refusal?.public).toContain('2 served requests')
    both[0]?.done(FAILED)
    both[1]?.done(SERVED)
    await limits.close()
    expect([await used(calls), await used(served)]).toEqual([2, 1])
    expect((await admit([calls, served])).refusal).toBeUndefined()
  })

  test('takes its prompt and the output it names, and ends with what it used', async () => {
    const { limits, used, clock } = opened()
    const tokens = limit('tokens', 1000)
    const admit = (input: number, output: number) => limits.admit([[tokens]], asking(input, output))
    const first = await admit(100, 500)
    expect(await used(tokens)).toBe(600)
    expect((await admit(100, 500)).refusal?.public).toContain('1000 tokens in a minute; this request needs 600')
    first.done({ isSuccess: true, tokens: 150 })
    await limits.close()
    expect(await used(tokens)).toBe(150)
    const second = await admit(100, 500)
    second.done({ isSuccess: true, tokens: 900 })
    await limits.close()
    expect(await used(tokens)).toBe(1050)
    // What failed used nothing.
    clock.advance(2 * MINUTE_MS)
    ;(await admit(100, 0)).done(FAILED)
    await limits.close()
    expect(await used(tokens)).toBe(0)
  })

  test('may name more output than a minute has and then runs alone; a prompt of more than that never runs', async () => {
    const { limits, used } = opened()
    const tokens = limit('tokens', 1000)
    expect((await limits.admit([[tokens]], asking(10, 50_000))).refusal).toBeUndefined()
    expect(await used(tokens)).toBe(1000)
    const large = limit('tokens', 1000)
    const { refusal } = await limits.admit([[large]], asking(1001))
    expect(refusal?.public).toContain('needs 1001')
    expect(await used(large)).toBe(0)
  })

  test('that outlives its window gives back nothing that has left it, and adds what it used beyond', async () => {
    const { limits, used, clock } = opened()
    const [tokens, served] = [limit('tokens', 1000), limit('successes', 5)]
    const [short, long] = [
      await limits.admit([[tokens, served]], asking(300)),
      await limits.admit([[tokens, served]], asking(300)),
    ]
    clock.advance(2 * MINUTE_MS)
    const now = await limits.admit([[tokens, served]], asking(200))
    short.done({ isSuccess: false, tokens: 0 })
    long.done({ isSuccess: true, tokens: 700 })
    await limits.close()
    expect([await used(tokens), await used(served)]).toEqual([200 + 400, 1])
    now.done({ isSuccess: true, tokens: 200 })
  })

  test('ends once, whatever is said of it afterwards', async () => {
    const { limits, used } = opened()
    const [places, tokens] = [limit('concurrency', 1), limit('tokens', 1000)]
    const call = await limits.admit([[places, tokens]], asking(100))
    call.done({ isSuccess: true, tokens: 10 })
    call.done({ isSuccess: true, tokens: 999 })
    call.done(FAILED)
    await limits.close()
    expect(await used(tokens)).toBe(10)
  })

  test('shows where its caller stands with the limit that leaves least', async () => {
    const { limits } = opened()
    const [ofKey, ofUser, tokens] = [limit('requests', 10), limit('requests', 5, 'user'), limit('tokens', 1000)]
    const { requests, tokens: left } = await limits.admit([[ofKey, tokens], [ofUser]], asking(100, 50))
    expect(requests).toEqual({ limit: 5, remaining: 4, windowMs: MINUTE_MS })
    expect(left).toEqual({ limit: 1000, remaining: 850, windowMs: MINUTE_MS })
  })

  test('goes on when the store fails: limits protect, they do not end calls', async () => {
    const lines: string[] = []
    const fails = async (): Promise<never> => {
      throw new Error('the state of the node is closed')
    }
    const state = {
      ...createMemoryState({ clock: systemClock, log: silentLog }),
      ...{ take: fails, correct: fails, hold: fails, release: fails },
    }
    const log = { ...silentLog, error: (line: string) => void lines.push(line) }
    const limits = createCallLimits({ counts: createCounts({ state, share: () => 1, log }), clock: systemClock })
    const call = await limits.admit([[limit('requests', 1), limit('tokens', 1), limit('concurrency', 1)]], asking(1))
    expect(call.refusal).toBeUndefined()
    call.done(SERVED)
    await limits.close()
    expect(lines.length).toBeGreaterThan(2)
  })

  test('without a store that the nodes share each node grants its part, and at least one', async () => {
    const state = createMemoryState({ clock: systemClock, log: silentLog })
    const limits = over(state, { share: 3 })
    const granted = async (of: Limit) => {
      const answers = await Promise.all(Array.from({ length: 30 }, () => limits.admit([[of]], asking())))
      return answers.filter(({ refusal }) => !refusal).length
    }
    expect([await granted(limit('requests', 10)), await granted(limit('requests', 2))]).toEqual([3, 1])
    expect([await granted(limit('concurrency', 10)), await granted(limit('concurrency', 2))]).toEqual([3, 1])
    await limits.close()
  })
})

if (HAS_SERVERS)
  describe('over nodes that share a Redis', () => {
    const prefix = `test:${crypto.randomUUID()}:`
    const nodes: { readonly state: State; readonly limits: CallLimits }[] = []
    let address = ''
    beforeAll(async () => {
      address = (await redis()).url
      for (let n = 0; n < 3; n += 1) {
        const state = await openRedisState({
          address,
          prefix,
          fallback: createMemoryState({ clock: systemClock, log: silentLog }),
          log: silentLog,
        })
        nodes.push({ state, limits: over(state, { holdMs: HOLD_MS }) })
      }
    }, 60_000)
    afterAll(async () => {
      for (const { state, limits } of nodes) {
        await limits.close()
        await state.close()
      }
    })
    const burst = (calls: number, limits: Limits, tokens = 0) =>
      Promise.all(Array.from({ length: calls }, (_, n) => nodes[n % 3]!.limits.admit(limits, asking(tokens))))
    const admitted = (answers: Awaited<ReturnType<typeof burst>>) => answers.filter(({ refusal }) => !refusal)

    test('a burst is admitted to the last one of the limit and no further, for requests, served calls and tokens', async () => {
      expect(admitted(await burst(300, [[limit('requests', 100)]]))).toHaveLength(100)
      expect(admitted(await burst(300, [[limit('successes', 100)]]))).toHaveLength(100)
      expect(admitted(await burst(300, [[limit('tokens', 1000)]], 10))).toHaveLength(100)
      const [ofKeys, ofUser] = [Array.from({ length: 4 }, () => limit('requests', 40)), limit('requests', 100, 'user')]
      const answers = await Promise.all(ofKeys.map((ofKey) => burst(60, [[ofKey], [ofUser]])))
      expect(admitted(answers.flat())).toHaveLength(100)
    })

    test('calls at once are never more than the limit, whoever asks, and each end makes room for one', async () => {
      const places = limit('concurrency', 7)
      let [now, most, served] = [0, 0, 0]
      const client = async (n: number): Promise<void> => {
        const { limits } = nodes[n % 3]!
        for (let turn = 0; turn < 10; turn += 1) {
          const call = await limits.admit([[places]], asking())
          if (call.refusal) continue
          now += 1
          served += 1
          most = Math.max(most, now)
          await new Promise(setImmediate)
          now -= 1
          call.done(SERVED)
        }
      }
      await Promise.all(Array.from({ length: 30 }, (_, n) => client(n)))
      expect(most).toBeLessThanOrEqual(7)
      expect(served).toBeGreaterThanOrEqual(7)
      for (const { limits } of nodes) await limits.close()
      expect(admitted(await burst(20, [[places]]))).toHaveLength(7)
    })

    test('a place is kept as long as its call runs, also over a store that has forgotten it, and falls to the next one', async () => {
      const places = limit('concurrency', 1)
      const { state, limits } = nodes[0]!
      const running = asking()
      const call = await limits.admit([[places]], running)
      const isFree = async (): Promise<boolean> => {
        const other = await nodes[1]!.limits.admit([[places]], asking())
        other.done(SERVED)
        return !other.refusal
      }
      expect(await isFree()).toBe(false)
      await state.release(places.key, running.id)
      await eventually('the place is known again', async () => !(await isFree()), { everyMs: 100 })
      // Twice as long as it would be held without being renewed.
      const untilMs = performance.now() + 2 * HOLD_MS
      while (performance.now() < untilMs) {
        expect(await isFree()).toBe(false)
        await Bun.sleep(50)
      }
      call.done(SERVED)
      await eventually('the next call has the place', isFree)
    }, 30_000)

    test('the places of a process that was killed are free again', async () => {
      const folder = await mkdtemp(join(tmpdir(), 'headgate-limits-'))
      const output = join(folder, 'holder')
      const own = `test:${crypto.randomUUID()}:`
      const program = join(import.meta.dir, 'holder.ts')
      const child = spawnTied([process.execPath, '--no-env-file', program, address, own, '3', '2000'], output)
      const state = await openRedisState({
        address,
        prefix: own,
        fallback: createMemoryState({ clock: systemClock, log: silentLog }),
        log: silentLog,
      })
      try {
        await eventually('the places are taken', async () => (await readFile(output, 'utf8')).includes('held'), {
          withinMs: 30_000,
        })
        const limits = over(state)
        const places: Limit = {
          counts: 'concurrency',
          scope: 'API key',
          key: 'limit:concurrency:t:1',
          limit: 3,
          windowMs: 0,
        }
        expect((await limits.admit([[places]], asking())).refusal).toBeDefined()
        child.kill('SIGKILL')
        await child.exited
        let free = 0
        await eventually(
          'all three places are free',
          async () => {
            if (!(await limits.admit([[places]], asking())).refusal) free += 1
            return free === 3
          },
          { withinMs: 30_000, everyMs: 50 },
        )
        expect((await limits.admit([[places]], asking())).refusal).toBeDefined()
        await limits.close()
      } finally {
        child.kill('SIGKILL')
        await state.close()
        await rm(folder, { recursive: true, force: true })
      }
    }, 90_000)
  })
