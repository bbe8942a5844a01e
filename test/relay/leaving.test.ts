/**
 * The policy for calls that end early on the client's side: the upstream hears of it within a second, and what was produced
 * is billed; a channel that drains runs to the end. And for clients that stay but no longer read.
 */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { LogRow } from '../support/admin-client.ts'
import { eventually } from '../support/eventually.ts'
import type { LedgerLine } from '../support/upstream.ts'
import {
  adminInfo,
  ask,
  CHAT,
  costOf,
  framesOf,
  MESSAGES,
  openRelayWorld,
  PROVIDER,
  type RelayWorld,
  readUntil,
} from './world.ts'

let world: RelayWorld
beforeAll(async () => {
  world = await openRelayWorld({
    env: { STREAMING_TIMEOUT: '2' },
    settings: { 'general_setting.ping_interval_enabled': true, 'general_setting.ping_interval_seconds': 1 },
  })
}, 60_000)
afterAll(() => world.close(), 60_000)

const lineOf = (model: string): Promise<LedgerLine> =>
  eventually('the upstream noted how its answer ended', () =>
    world.upstream.ledger.find((line) => line.model === model),
  )
const rowOf = (model: string): Promise<LogRow> =>
  eventually('the call is logged', async () => (await world.app.admin.logs(`model_name=${model}`))[0])
const drains = { setting: JSON.stringify({ drain: true }) }

async function leaveWhenUnderWay(model: string, path: string, body: unknown): Promise<number> {
  const leave = new AbortController()
  const reply = world.post(path, body, { signal: leave.signal })
  await eventually('the upstream has the call', () =>
    world.upstream.requests.some((request) => request.model === model),
  )
  const leftAtMs = Date.now()
  leave.abort()
  await expect(reply).rejects.toThrow()
  return leftAtMs
}

describe('a client that leaves', () => {
  for (const type of [PROVIDER.openai, PROVIDER.anthropic]) {
    for (const path of [CHAT, MESSAGES]) {
      test(`a stream of ${path} on provider ${type}: cut upstream within a second, billed for what was produced`, async () => {
        const { model } = await world.model({ type, behaviour: { chunks: 2_000, paceMs: 10 } })
        const leave = new AbortController()
        const reply = await world.post(path, ask(model, { stream: true }), { signal: leave.signal })
        await readUntil(reply.body!.getReader(), 'word20 ')
        const leftAtMs = Date.now()
        leave.abort()
        const line = await lineOf(model)
        expect(line.end).toBe('aborted')
        expect(line.atMs - leftAtMs).toBeLessThan(1_000)
        const row = await world.row(reply)
        expect(row).toMatchObject({
          type: 2,
          is_stream: true,
          other: { stream_status: { status: 'error', end_reason: 'client_gone' } },
        })
        // `word<n> ` weighs a bit under three tokens.
        expect(row.completion_tokens).toBeGreaterThan(40)
        expect(row.completion_tokens).toBeLessThan(line.usage.output * 3.5 + 10)
        expect(row.quota).toBe(costOf(row.prompt_tokens, row.completion_tokens))
        expect(adminInfo(row).local_count_tokens).toBe(true)
      })
    }
  }

  for (const isStream of [false, true]) {
    test(`before the first byte (${isStream ? 'streamed' : 'whole'}): cut upstream within a second, billed for its counted input`, async () => {
      const { model } = await world.model({ behaviour: { delayMs: 60_000 } })
      const leftAtMs = await leaveWhenUnderWay(model, CHAT, ask(model, { stream: isStream }))
      const line = await lineOf(model)
      expect(line).toMatchObject({ end: 'aborted' })
      expect(line.atMs - leftAtMs).toBeLessThan(1_000)
      const row = await rowOf(model)
      expect(row).toMatchObject({ type: 2, completion_tokens: 0 })
      expect(row.prompt_tokens).toBeGreaterThan(3)
      expect(row.quota).toBe(row.prompt_tokens)
    })

    test(`of a channel that drains (${isStream ? 'streamed' : 'whole'}): runs to the end and is billed in full`, async () => {
      const usage = { input: 500, output: 700 }
      const { model } = await world.model({
        fields: drains,
        behaviour: { chunks: 30, paceMs: 10, firstFrameMs: 100, usage },
      })
      await leaveWhenUnderWay(model, CHAT, ask(model, { stream: isStream }))
      expect(await lineOf(model)).toMatchObject({ end: 'complete', usage })
      expect(await rowOf(model)).toMatchObject({
        type: 2,
        prompt_tokens: 500,
        completion_tokens: 700,
        quota: costOf(500, 700),
      })
    })
  }

  test('of a channel that drains, in mid-stream: is read to its end and billed in full', async () => {
    const usage = { input: 50, output: 70 }
    const { model } = await world.model({ fields: drains, behaviour: { chunks: 60, paceMs: 10, usage } })
    const leave = new AbortController()
    const reply = await world.post(CHAT, ask(model, { stream: true }), { signal: leave.signal })
    await readUntil(reply.body!.getReader(), 'word5 ')
    leave.abort()
    expect(await lineOf(model)).toMatchObject({ end: 'complete' })
    expect(await world.row(reply)).toMatchObject({ quota: costOf(50, 70), other: { stream_status: { status: 'ok' } } })
  })

  test('while another channel is being tried: that one is let go, nobody else is asked', async () => {
    await world.app.admin.options({ RetryTimes: 3 })
    const { model } = await world.model({
      modelMapping: (name) => ({ [name]: 'x?status=500' }),
      fields: { priority: 10 },
    })
    await world.channel({ model, sentAs: 'slow?delay=60000', fields: { priority: 5 } })
    await world.channel({ model, sentAs: 'never-asked' })
    await leaveWhenUnderWay('slow?delay=60000', CHAT, ask(model))
    const row = await rowOf(model)
    expect(row.type).toBe(2)
    expect(adminInfo(row).attempts).toHaveLength(2)
    expect(world.upstream.requests.some((request) => request.model === 'never-asked')).toBe(false)
  })
})

describe('a client that stays', () => {
  test('and no longer reads: the upstream is held back, and after the silence limit the call ends and is billed', async () => {
    const { model } = await world.model({ behaviour: { isEndless: true } })
    const body = JSON.stringify(ask(model, { stream: true, max_tokens: 50_000_000 }))
    const { hostname, port } = new URL(world.app.url)
    const socket = await Bun.connect({ hostname, port: Number(port), socket: { data: (open) => void open.pause() } })
    try {
      const head = [
        `POST ${CHAT} HTTP/1.1`,
        'host: localhost',
        `authorization: Bearer ${world.app.key.key}`,
        `content-length: ${body.length}`,
      ]
      socket.write(`${head.join('\r\n')}\r\n\r\n${body}`)
      const line = await lineOf(model)
      expect(line.end).toBe('aborted')
      // What fits into the buffers of four sockets, at 200 bytes a frame; an upstream that is not held back makes millions.
      expect(line.usage.output).toBeLessThan(200_000)
      expect((await rowOf(model)).other['stream_status']).toMatchObject({ end_reason: 'client_gone' })
    } finally {
      socket.terminate()
    }
  }, 30_000)

  for (const path of [CHAT, MESSAGES]) {
    test(`and waits: ${path} sees comments in the upstream’s silence, between frames, and nothing else is changed`, async () => {
      const { model } = await world.model({ behaviour: { chunks: 6, pauseAfter: 3 } })
      const reply = await world.post(path, ask(model, { stream: true, stream_options: { include_usage: true } }))
      const reader = reply.body!.getReader()
      const first = await readUntil(reader, ': PING\n\n')
      expect(first).toContain('word2 ')
      world.upstream.resume()
      let text = first
      const decoder = new TextDecoder()
      for (let read = await reader.read(); !read.done; read = await reader.read())
        text += decoder.decode(read.value, { stream: true })
      expect(text.split('\n\n').filter((block) => block.includes(': PING'))).toEqual([': PING'])
      const last = framesOf(text).at(-1)!
      expect(path === CHAT ? last.data : last.event).toBe(path === CHAT ? '[DONE]' : 'message_stop')
      expect((await world.row(reply)).other['stream_status']).toMatchObject({ status: 'ok' })
    }, 15_000)
  }
})

describe('money while a stream runs', () => {
  test('a stream that outgrows its hold extends it, and its row adds up', async () => {
    const { model } = await world.model({ behaviour: { chunks: 4_000, pauseAfter: 3_900 } })
    const reply = await world.post(CHAT, { ...ask(model, { stream: true }), max_tokens: undefined })
    const reader = reply.body!.getReader()
    await readUntil(reader, 'word3899 ')
    world.upstream.resume()
    while (!(await reader.read()).done);
    const row = await world.row(reply)
    const { hold, hold_extensions: extensions } = row.other as { hold: number; hold_extensions: number }
    expect(extensions).toBeGreaterThan(0)
    // What had been read before the pause was covered before more was read.
    expect(hold).toBeGreaterThanOrEqual(costOf(row.prompt_tokens, 3_900))
    expect(row).toMatchObject({ completion_tokens: 4_000, quota: costOf(row.prompt_tokens, 4_000) })
  })

  for (const path of [CHAT, MESSAGES]) {
    test(`a stream of ${path} whose extension is refused ends in an error event and is billed for what was delivered`, async () => {
      const { admin } = world.app
      const poor = await admin.user(3_500)
      const { key } = await admin.apiKey(poor)
      const { model } = await world.model({ behaviour: { isEndless: true, paceMs: 1 } })
      const reply = await world.post(path, { ...ask(model, { stream: true }), max_tokens: undefined }, { key })
      expect(reply.status).toBe(200)
      const last = framesOf(await reply.text()).at(-1)!
      expect(JSON.stringify(last.data)).toContain('quota')
      if (path === MESSAGES) expect(last.event).toBe('error')
      const row = await world.row(reply)
      expect(row).toMatchObject({ type: 2, other: { stream_status: { end_reason: 'out_of_quota' } } })
      expect(row.quota).toBeGreaterThan(2_000)
      expect(row.quota).toBeLessThanOrEqual(3_500)
      expect((await lineOf(model)).end).toBe('aborted')
    }, 30_000)
  }
})

test('a stop lets a stream go on until the deadline, then ends it with an error event, and bills it', async () => {
  const other = await openRelayWorld()
  const { model } = await other.model({ behaviour: { isEndless: true, paceMs: 20 } })
  const reply = await other.post(MESSAGES, ask(model, { stream: true }))
  const reader = reply.body!.getReader()
  await readUntil(reader, 'word')
  const stopped = other.app.drain()
  expect(await readUntil(reader, 'event: error')).toContain('event: error')
  await stopped
  const { logs } = other.app.db.tables
  const rows = await other.app.db.select().from(logs)
  const row = rows.find((each) => each.requestId === reply.headers.get('x-oneapi-request-id'))!
  expect(JSON.parse(row.other!)).toMatchObject({ stream_status: { end_reason: 'shutting_down' } })
  expect(row.quota).toBe(costOf(row.promptTokens!, row.completionTokens!))
  await other.close()
}, 60_000)
