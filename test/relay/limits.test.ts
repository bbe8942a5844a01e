/**
 * Limits of API keys, users and groups on model calls: refused in the client's dialect before anything starts, counted from
 * what was used, given back when a call ends, in force as soon as they are edited, and free of cost for callers without any.
 */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { MadeKey, MadeUser } from '../support/admin-client.ts'
import { HAS_SERVERS } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { startRedis } from '../support/services.ts'
import { ask, CHAT, MESSAGES, openRelayWorld, PROVIDER, type RelayWorld, readUntil } from './world.ts'

const PLENTY = 100_000_000
let world: RelayWorld
beforeAll(async () => {
  world = await openRelayWorld({ settings: { RetryTimes: 3 } })
}, 60_000)
afterAll(() => world.close(), 60_000)

interface Subject {
  readonly user: MadeUser
  readonly key: MadeKey
}
/** A user and a key of their own. @param fields of the key, such as its limits */
const someone = async (fields: Readonly<Record<string, unknown>> = {}): Promise<Subject> => {
  const user = await world.app.admin.user(PLENTY)
  return { user, key: await world.app.admin.apiKey(user, { fields }) }
}
const call = (key: MadeKey, model: string, fields: Readonly<Record<string, unknown>> = {}, path = CHAT) =>
  world.post(path, ask(model, fields), { key: key.key })
const statusOf = async (reply: Promise<Response>): Promise<number> => {
  const response = await reply
  await response.text()
  return response.status
}
const count = (statuses: readonly number[], status: number): number => statuses.filter((each) => each === status).length
const burst = (size: number, one: () => Promise<Response>): Promise<readonly number[]> =>
  Promise.all(Array.from({ length: size }, () => statusOf(one())))
const heardOf = (model: string): number => world.upstream.requests.filter((each) => each.model === model).length
const headersOf = (response: Response, part: string): Record<string, string> =>
  Object.fromEntries([...response.headers].filter(([name]) => name.includes(part)))

describe('a call beyond a limit', () => {
  for (const stream of [false, true])
    for (const [path, body] of [
      [
        CHAT,
        {
          error: {
            message: expect.stringMatching(
              /^Rate limit of this API key reached: 1 requests in a minute \(request id: /,
            ),
            type: 'new_api_error',
            param: null,
            code: 'rate_limit_exceeded',
          },
        },
      ],
      [
        MESSAGES,
        {
          type: 'error',
          error: { type: 'rate_limit_error', message: expect.stringContaining('Rate limit of this API key reached') },
          request_id: expect.any(String),
        },
      ],
    ] as const)
      test(`is 429 in the dialect of ${path}${stream ? ', also of a stream, before it starts' : ''}, and reaches no channel`, async () => {
        const { key } = await someone({ rpm_limit: 1 })
        const { model } = await world.model()
        // Another channel would be tried for any fault but the client's.
        await world.channel({ model })
        expect(await statusOf(call(key, model, { stream }, path))).toBe(200)
        const refused = await call(key, model, { stream }, path)
        expect(refused.status).toBe(429)
        expect(refused.headers.get('content-type')).toContain('application/json')
        const waitSec = Number(refused.headers.get('retry-after'))
        expect(waitSec).toBeGreaterThan(0)
        expect(waitSec).toBeLessThanOrEqual(61)
        expect(await refused.json()).toEqual(body)
        expect(heardOf(model)).toBe(1)
        const row = await world.row(refused)
        expect(row).toMatchObject({
          type: 5,
          quota: 0,
          other: { error_code: 'rate_limit_exceeded', status_code: 429, blame: 'client' },
        })
      })

  test('is counted to the last one in a burst: a limit of L serves L', async () => {
    const { key } = await someone({ rpm_limit: 10 })
    const { model } = await world.model()
    const statuses = await burst(40, () => call(key, model))
    expect([count(statuses, 200), count(statuses, 429)]).toEqual([10, 30])
    expect(heardOf(model)).toBe(10)
  })
})

describe('a caller with limits', () => {
  test('sees where it stands in OpenAI’s headers, and not where the operator stands upstream', async () => {
    const { key } = await someone({ rpm_limit: 5, tpm_limit: 100_000 })
    const headers = { 'x-ratelimit-limit-requests': '777', 'x-ratelimit-limit-project-tokens': '888' }
    const { model } = await world.model({ behaviour: { headers } })
    const seen = headersOf(await call(key, model), 'ratelimit')
    expect(seen).toEqual({
      'x-ratelimit-limit-requests': '5',
      'x-ratelimit-remaining-requests': '4',
      'x-ratelimit-reset-requests': '60s',
      'x-ratelimit-limit-tokens': '100000',
      'x-ratelimit-remaining-tokens': expect.stringMatching(/^99\d{3}$/),
      'x-ratelimit-reset-tokens': '60s',
    })
    await burst(4, () => call(key, model))
    const refused = await call(key, model, { stream: true })
    expect(refused.status).toBe(429)
    expect(headersOf(refused, 'ratelimit')).toMatchObject({ 'x-ratelimit-remaining-requests': '0' })
    // Who has no limits sees what the upstream says, as ever.
    expect(headersOf(await call(world.app.key, model), 'ratelimit')).toEqual(headers)
  })

  test('sees where it stands in Claude’s headers', async () => {
    const { key } = await someone({ rpm_limit: 5, tpm_limit: 100_000 })
    const { model } = await world.model()
    const response = await call(key, model, { stream: true }, MESSAGES)
    await response.text()
    expect(headersOf(response, 'ratelimit')).toEqual({
      'anthropic-ratelimit-requests-limit': '5',
      'anthropic-ratelimit-requests-remaining': '4',
      'anthropic-ratelimit-requests-reset': expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
      'anthropic-ratelimit-tokens-limit': '100000',
      'anthropic-ratelimit-tokens-remaining': expect.stringMatching(/^99\d{3}$/),
      'anthropic-ratelimit-tokens-reset': expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
    })
  })

  for (const stream of [false, true])
    test(`holds the tokens it may use and pays with those it used${stream ? ', as a stream' : ''}`, async () => {
      const { key } = await someone({ tpm_limit: 1000 })
      const { model } = await world.model({ behaviour: { usage: { input: 30, output: 12 } } })
      const left = (response: Response): number => Number(response.headers.get('x-ratelimit-remaining-tokens'))
      const first = await call(key, model, { stream, max_tokens: 600 })
      await first.text()
      expect(left(first)).toBeLessThan(400)
      const row = await world.row(first)
      const used = row.prompt_tokens + row.completion_tokens
      expect(used).toBe(42)
      await eventually('what was held too much is given back', async () => {
        const asked = await call(key, model, { stream, max_tokens: 600 })
        await asked.text()
        return asked.status === 200
      })
    })

  test('has as many calls at once as its limit, and the next one as soon as one of them ends or its client leaves', async () => {
    const { key } = await someone({ concurrency_limit: 2 })
    const { model } = await world.model({ behaviour: { chunks: 2_000, paceMs: 20 } })
    const leave = new AbortController()
    const running = await Promise.all(
      [leave.signal, undefined].map((signal) =>
        world.post(CHAT, ask(model, { stream: true }), { key: key.key, ...(signal && { signal }) }),
      ),
    )
    expect(running.map(({ status }) => status)).toEqual([200, 200])
    const readers = running.map(({ body }) => body!.getReader())
    await Promise.all(readers.map((reader) => readUntil(reader, 'word1 ')))
    const quick = (await world.model()).model
    const refused = await call(key, quick)
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '1'])
    expect(await refused.text()).toContain('Too many calls of this API key at once: the limit is 2')
    leave.abort()
    await readers[0]?.cancel().catch(() => undefined)
    await eventually('there is a place again', async () => (await statusOf(call(key, quick))) === 200)
    await readers[1]?.cancel()
    await eventually('there are two places again', async () => {
      const statuses = await burst(2, () => call(key, quick))
      return count(statuses, 200) === 2
    })
  })

  test('gets its place back from calls that fail, are refused or only count tokens', async () => {
    const { key } = await someone({ concurrency_limit: 1 })
    const failing = (await world.model({ behaviour: { status: 400 } })).model
    const { model } = await world.model()
    const ends = async (path: string, ofModel: string) => {
      await eventually('there is a place', async () => (await statusOf(call(key, ofModel, {}, path))) !== 429)
    }
    for (const [path, ofModel] of [
      [CHAT, failing],
      [CHAT, 'no-such-model'],
      [`${MESSAGES}/count_tokens`, model],
      [`${MESSAGES}/count_tokens`, 'no-such-model'],
      [CHAT, model],
    ] as const)
      await ends(path, ofModel)
  })
})

/** Somebody in a group of their own, to which the options grant 12 calls, of which so many are served. */
async function inLimitedGroup(served: number): Promise<{ readonly key: MadeKey; readonly group: string }> {
  const { key, user } = await someone()
  const group = `limited-${user.id}`
  await world.app.admin.call('PUT', '/api/user/', { id: user.id, group })
  await world.app.admin.options({
    GroupRatio: { default: 1, [group]: 1 },
    ModelRequestRateLimitEnabled: true,
    ModelRequestRateLimitSuccessCount: 1_000_000,
    ModelRequestRateLimitGroup: { [group]: [12, served] },
  })
  return { key, group }
}

describe('limits', () => {
  const edit = {
    'an API key': (subject: Subject, rpm: number) =>
      world.app.admin.call('PUT', '/api/token/', { id: subject.key.id, rpm_limit: rpm }, subject.user),
    'a user': ({ user }: Subject, rpm: number) =>
      world.app.admin.call('PUT', '/api/user/', { id: user.id, rpm_limit: rpm }),
    'a group': async ({ user }: Subject, rpm: number) => {
      const group = `group-${user.id}`
      await world.app.admin.call('PUT', '/api/user/', { id: user.id, group })
      await world.app.admin.options({ GroupRatio: { default: 1, [group]: 1 }, GroupLimits: { [group]: { rpm } } })
      return group
    },
  }
  for (const [of, set] of Object.entries(edit))
    test(`of ${of} are in force from the next call, and gone when they are taken away`, async () => {
      const subject = await someone()
      const { model, channel } = await world.model()
      const group = await set(subject, 2)
      if (typeof group === 'string')
        await world.app.admin.call('PUT', '/api/channel/', { id: channel, group: `default,${group}` })
      const first = await burst(6, () => call(subject.key, model))
      expect([count(first, 200), count(first, 429)]).toEqual([2, 4])
      await set(subject, 0)
      const then = await burst(6, () => call(subject.key, model))
      expect(count(then, 200)).toBe(6)
    })

  test('of a user bound all of its keys together', async () => {
    const { user, key } = await someone()
    const other = await world.app.admin.apiKey(user)
    await world.app.admin.call('PUT', '/api/user/', { id: user.id, rpm_limit: 5 })
    const { model } = await world.model()
    const turns = [key, other]
    let turn = 0
    const statuses = await burst(20, () => call(turns[turn++ % 2]!, model))
    expect(count(statuses, 200)).toBe(5)
  })

  test('of the options count served calls only where they were served, and all calls from their start', async () => {
    const { key, group } = await inLimitedGroup(4)
    try {
      const failing = await world.model({ behaviour: { status: 400 } })
      const { model, channel } = await world.model()
      for (const id of [failing.channel, channel])
        await world.app.admin.call('PUT', '/api/channel/', { id, group: `default,${group}` })
      for (let n = 0; n < 6; n += 1) expect(await statusOf(call(key, failing.model))).toBe(400)
      const served = await burst(5, () => call(key, model))
      expect([count(served, 200), count(served, 429)]).toEqual([4, 1])
      // The keys of others are bound by the numbers for all.
      expect(await statusOf(call(world.app.key, model))).toBe(200)
    } finally {
      await world.app.admin.options({ ModelRequestRateLimitEnabled: false })
    }
  })

  test('of the options count as served a count of tokens that is our own since the upstream failed', async () => {
    const { key, group } = await inLimitedGroup(2)
    try {
      const { model, channel } = await world.model({ type: PROVIDER.anthropic, behaviour: { status: 404 } })
      await world.app.admin.call('PUT', '/api/channel/', { id: channel, group: `default,${group}` })
      const statuses: number[] = []
      for (let n = 0; n < 4; n += 1) statuses.push(await statusOf(call(key, model, {}, `${MESSAGES}/count_tokens`)))
      expect(statuses).toEqual([200, 200, 429, 429])
      expect(heardOf(model)).toBe(2)
    } finally {
      await world.app.admin.options({ ModelRequestRateLimitEnabled: false })
    }
  })

  test('bind no test of a channel', async () => {
    await world.app.admin.options({ GroupLimits: { default: { rpm: 1 } } })
    try {
      const { model, channel } = await world.model()
      await statusOf(call(world.app.key, model))
      expect(await statusOf(call(world.app.key, model))).toBe(429)
      await world.app.admin.call('GET', `/api/channel/test/${channel}`)
      expect(heardOf(model)).toBe(2)
    } finally {
      await world.app.admin.options({ GroupLimits: {} })
    }
  })
})

if (HAS_SERVERS)
  test('a caller without limits asks the shared store nothing; one with limits asks it, and is served when it is gone', async () => {
    const redis = await startRedis()
    const limited = await openRelayWorld({ env: { REDIS_CONN_STRING: redis.url } })
    try {
      const { model } = await limited.model()
      const one = (key: MadeKey) => statusOf(limited.post(CHAT, ask(model), { key: key.key }))
      const bounded = await limited.app.admin.apiKey(limited.app.user, { fields: { rpm_limit: 1000, tpm_limit: 1e6 } })
      await one(limited.app.key)
      await one(bounded)
      /** Scripts and whatever else counts; messages between nodes are not among them. */
      const asked = async (): Promise<number> => {
        const client = new Bun.RedisClient(redis.url)
        const stats = String(await client.send('INFO', ['commandstats']))
        client.close()
        const lines = [...stats.matchAll(/^cmdstat_(evalsha|eval|get|set|incrby|zadd|zrem|hset):calls=(\d+)/gm)]
        return lines.reduce((sum, [, , calls]) => sum + Number(calls), 0)
      }
      const before = await asked()
      for (let n = 0; n < 20; n += 1) expect(await one(limited.app.key)).toBe(200)
      // What the node itself asks now and then is far less than one for each call.
      expect((await asked()) - before).toBeLessThan(20)
      for (let n = 0; n < 20; n += 1) expect(await one(bounded)).toBe(200)
      expect(await asked()).toBeGreaterThanOrEqual(before + 40)
      redis.process.kill('SIGKILL')
      await redis.process.exited
      for (let n = 0; n < 5; n += 1) expect(await one(bounded)).toBe(200)
    } finally {
      await limited.close()
    }
  }, 60_000)
