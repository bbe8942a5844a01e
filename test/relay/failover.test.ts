/** What happens when an upstream fails: who is tried next, what the client hears, what is billed and what the log says. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { eventually } from '../support/eventually.ts'
import { refusingUrl } from '../support/upstream.ts'
import { adminInfo, ask, CHAT, costOf, framesOf, MESSAGES, openRelayWorld, PROVIDER, type RelayWorld } from './world.ts'

let world: RelayWorld
beforeAll(async () => {
  world = await openRelayWorld({
    env: { STREAMING_TIMEOUT: '1', RELAY_FIRST_BYTE_TIMEOUT: '1' },
    settings: { RetryTimes: 2 },
  })
}, 60_000)
afterAll(() => world.close(), 60_000)

/** A model whose first channel does `first`, with a good one behind it. */
async function failing(first: string, options: { readonly firstUrl?: string; readonly type?: number } = {}) {
  const made = await world.model({
    ...(options.type !== undefined && { type: options.type }),
    ...(options.firstUrl !== undefined && { baseUrl: options.firstUrl }),
    modelMapping: (model) => ({ [model]: first }),
    fields: { priority: 10 },
  })
  const second = await world.channel({ model: made.model, sentAs: 'good' })
  return { ...made, second }
}

describe('another channel is tried', () => {
  for (const status of [401, 403, 404, 429, 500, 502, 503, 529]) {
    test(`after status ${status}, once each, and the call is one row with both attempts`, async () => {
      const { model, channel, second } = await failing(`x?status=${status}`)
      const reply = await world.post(CHAT, ask(model))
      expect(reply.status).toBe(200)
      const row = await world.row(reply)
      expect(row).toMatchObject({ type: 2, channel: second })
      expect(adminInfo(row).use_channel).toEqual([String(channel), String(second)])
      expect(adminInfo(row).attempts).toMatchObject([
        { channel, status, reason: expect.stringContaining(`scripted ${status}`) },
        { channel: second, status: 200, reason: '' },
      ])
    })
  }

  test('when none can be reached, when the connection breaks, when the answer breaks off, when it is an error of status 200', async () => {
    const error200 = 'error-in-200'
    world.upstream.on(error200, {
      raw: { contentType: 'application/json', parts: ['{"error":{"message":"overloaded","type":"server_error"}}'] },
    })
    world.upstream.on('empty', { raw: { contentType: 'application/json', parts: [''] } })
    const cases = [
      await failing('x', { firstUrl: await refusingUrl() }),
      await failing('x?cut=0'),
      await failing('x?cut=1&chunks=5'),
      await failing(error200),
      await failing('empty'),
    ]
    for (const { model, second } of cases) {
      const reply = await world.post(CHAT, ask(model))
      expect(reply.status).toBe(200)
      const row = await world.row(reply)
      expect(row.channel).toBe(second)
      expect(adminInfo(row).attempts).toHaveLength(2)
      expect(adminInfo(row).attempts[0]!.reason).not.toBe('')
    }
  })

  test('when the upstream closes the kept connection on which it gets the call, without sending it there again', async () => {
    const heard = new Map<unknown, number>()
    const answer = '{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}'
    const fickle = Bun.listen({
      hostname: '127.0.0.1',
      port: 0,
      socket: {
        data(socket) {
          const calls = (heard.get(socket) ?? 0) + 1
          heard.set(socket, calls)
          if (calls > 1) socket.terminate()
          else
            socket.write(
              `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${answer.length}\r\n\r\n${answer}`,
            )
        },
      },
    })
    try {
      const { model, channel, second } = await failing('x', { firstUrl: `http://127.0.0.1:${fickle.port}` })
      expect((await world.row(await world.post(CHAT, ask(model)))).channel).toBe(channel)
      const row = await world.row(await world.post(CHAT, ask(model)))
      expect(adminInfo(row).use_channel).toEqual([String(channel), String(second)])
      expect(adminInfo(row).attempts[0]).toMatchObject({
        status: 0,
        reason: expect.stringContaining('do_request_failed'),
      })
      expect([...heard.values()]).toEqual([2])
    } finally {
      fickle.stop(true)
    }
  })

  test('when a stream fails before its first frame: by an error event, a cut, or an empty body', async () => {
    world.upstream.on('error-event', {
      raw: {
        contentType: 'text/event-stream',
        parts: ['data: {"error":{"message":"busy","type":"overloaded_error"}}\n\n'],
      },
    })
    world.upstream.on('nothing', { raw: { contentType: 'text/event-stream', parts: [] } })
    for (const first of ['error-event', 'x?cut=0', 'nothing']) {
      const { model, second } = await failing(first)
      const reply = await world.post(CHAT, ask(model, { stream: true }))
      expect(await reply.text()).toContain('data: [DONE]')
      expect((await world.row(reply)).channel).toBe(second)
    }
  })

  test('when the upstream is silent before its headers', async () => {
    const { model, channel, second } = await failing('x?delay=60000')
    const reply = await world.post(CHAT, ask(model))
    expect(reply.status).toBe(200)
    const { attempts } = adminInfo(await world.row(reply))
    expect(attempts).toMatchObject([
      { channel, status: 0, reason: expect.stringContaining('upstream_timeout') },
      { channel: second },
    ])
    expect(attempts[0]!.ms).toBeGreaterThanOrEqual(900)
    await eventually('the first upstream was let go', () =>
      world.upstream.ledger.some((line) => line.model === 'x?delay=60000' && line.end === 'aborted'),
    )
  }, 15_000)

  test('one that speaks another dialect takes over', async () => {
    const { model } = await world.model({
      type: PROVIDER.anthropic,
      modelMapping: (name) => ({ [name]: 'x?status=500' }),
      fields: { priority: 10 },
    })
    await world.channel({ model, sentAs: 'good' })
    const reply = await world.post(MESSAGES, ask(model))
    expect(await reply.json()).toMatchObject({
      type: 'message',
      content: [{ type: 'text', text: 'Hello from upstream.' }],
    })
    const row = await world.row(reply)
    expect(adminInfo(row).attempts.map((attempt) => attempt.way)).toEqual(['forward', 'convert'])
    expect(row.other['request_conversion']).toEqual(['Claude Messages', 'OpenAI Compatible'])
  })

  test('never more often than RetryTimes allows, never one channel twice, and the last error is told', async () => {
    const { model } = await world.model({ modelMapping: (name) => ({ [name]: 'x?status=500' }) })
    for (let more = 0; more < 4; more++) await world.channel({ model, sentAs: 'x?status=500' })
    const reply = await world.post(CHAT, ask(model))
    expect(reply.status).toBe(500)
    const row = await world.row(reply)
    expect(row).toMatchObject({ type: 5, quota: 0 })
    const tried = adminInfo(row).use_channel
    expect(tried).toHaveLength(3)
    expect(new Set(tried).size).toBe(3)
  })

  test('not after a status outside of the ranges, whose error the client gets', async () => {
    for (const status of [400, 408, 504, 524]) {
      const { model, channel } = await failing(`x?status=${status}`)
      const reply = await world.post(CHAT, ask(model))
      expect(reply.status).toBe(status)
      expect(adminInfo(await world.row(reply)).use_channel).toEqual([String(channel)])
    }
  })

  test('after a redirect, which is not followed and is no answer for the client either', async () => {
    const headers = { location: 'http://127.0.0.1:9/elsewhere' }
    const { model } = await world.model({
      behaviour: { status: 307, headers, raw: { contentType: 'text/plain', parts: ['moved'] } },
    })
    const alone = await world.post(CHAT, ask(model))
    expect(alone.status).toBe(502)
    expect(alone.headers.has('location')).toBe(false)
    expect(adminInfo(await world.row(alone)).attempts).toMatchObject([{ status: 307 }])
    await world.channel({ model, sentAs: 'good' })
    expect((await world.post(CHAT, ask(model))).status).toBe(200)
  })

  test('by the mapped status, which the client sees, too', async () => {
    const fields = { status_code_mapping: JSON.stringify({ 400: '503', 429: 418 }) }
    const { model } = await world.model({
      modelMapping: (name) => ({ [name]: 'x?status=400' }),
      fields: { ...fields, priority: 10 },
    })
    const second = await world.channel({ model, sentAs: 'good' })
    const reply = await world.post(CHAT, ask(model))
    expect((await world.row(reply)).channel).toBe(second)
    const alone = await world.model({ modelMapping: (name) => ({ [name]: 'x?status=429' }), fields })
    expect((await world.post(CHAT, ask(alone.model))).status).toBe(418)
  })
})

describe('what the client hears', () => {
  test('how long the upstream asked to wait, when no other channel helps', async () => {
    const { model } = await world.model({ behaviour: { status: 429, headers: { 'retry-after': '7' } } })
    for (const path of [CHAT, MESSAGES]) {
      const reply = await world.post(path, ask(model))
      expect(reply.status).toBe(429)
      expect(reply.headers.get('retry-after')).toBe('7')
    }
  })

  test('the upstream’s own words in the client’s dialect, without its addresses and keys', async () => {
    const message = 'Bad key upstream-key at https://api.secret-host.com/v1/chat?key=abc (10.1.2.3)'
    const error = { message, type: 'invalid_request_error', code: 'bad_thing' }
    const chat = await world.model({ behaviour: { status: 400, error } })
    const openai = await world.post(CHAT, ask(chat.model))
    const claude = await world.post(MESSAGES, ask(chat.model))
    const [openaiText, claudeText] = [await openai.text(), await claude.text()]
    const row = await world.row(openai)
    for (const shown of [openaiText, claudeText, JSON.stringify(row)]) {
      expect(shown).toContain('Bad key')
      for (const secret of ['upstream-key', 'secret-host', 'key=abc', '10.1.2.3']) expect(shown).not.toContain(secret)
    }
    expect(JSON.parse(openaiText)).toMatchObject({ error: { type: 'invalid_request_error', code: 'bad_thing' } })
    expect(JSON.parse(claudeText)).toMatchObject({ type: 'error', error: { type: 'invalid_request_error' } })
    expect(row).toMatchObject({ type: 5, other: { status_code: 400, error_code: 'bad_thing', blame: 'upstream' } })
  })

  for (const [path, type] of [
    [CHAT, PROVIDER.openai],
    [CHAT, PROVIDER.anthropic],
    [MESSAGES, PROVIDER.anthropic],
    [MESSAGES, PROVIDER.openai],
  ] as const) {
    const pair = `${path} on provider ${type}`
    test(`${pair}: a stream that is cut ends in an error event, and what was delivered is billed`, async () => {
      const { model } = await world.model({ type, behaviour: { chunks: 50, cutAfter: 20, paceMs: 5 } })
      const reply = await world.post(path, ask(model, { stream: true }))
      expect(reply.status).toBe(200)
      const frames = framesOf(await reply.text())
      const last = frames.at(-1)!
      if (path === CHAT) expect(last.data).toMatchObject({ error: { message: expect.any(String) } })
      else
        expect(last).toMatchObject({ event: 'error', data: { type: 'error', error: { message: expect.any(String) } } })
      expect(JSON.stringify(frames)).not.toContain('[DONE]')
      const row = await world.row(reply)
      expect(row).toMatchObject({ type: 2, other: { stream_status: { status: 'error' } } })
      // A break may take with it what has arrived and was not read yet. A `word<n> ` counts between one and five.
      const delivered = JSON.stringify(frames).match(/word\d+ /g)?.length ?? 0
      expect(delivered).toBeGreaterThan(0)
      expect(row.completion_tokens).toBeGreaterThanOrEqual(delivered)
      expect(row.completion_tokens).toBeLessThan(5 * delivered)
      expect(row.quota).toBe(costOf(row.prompt_tokens, row.completion_tokens))
    })

    test(`${pair}: silence in mid-stream ends in an error event within the limit`, async () => {
      const { model } = await world.model({ type, behaviour: { chunks: 50, pauseAfter: 3 } })
      const reply = await world.post(path, ask(model, { stream: true }))
      const frames = framesOf(await reply.text())
      expect(JSON.stringify(frames.at(-1))).toContain('error')
      expect((await world.row(reply)).other['stream_status']).toMatchObject({ status: 'error', end_reason: 'timeout' })
      await eventually('the upstream was let go', () =>
        world.upstream.ledger.some((line) => line.model === model && line.end === 'aborted'),
      )
    }, 15_000)
  }

  test('an error event never lands inside a frame that was sent by half', async () => {
    const { model } = await world.model()
    const whole = 'data: {"id":"c","choices":[{"index":0,"delta":{"content":"one"}}]}\n\n'
    const half = 'data: {"id":"c","choices":[{"index":0,"delta":{"con'
    world.upstream.on(model, { paceMs: 50, raw: { contentType: 'text/event-stream', parts: [whole, half] } })
    const reply = await world.post(CHAT, ask(model, { stream: true, stream_options: { include_usage: true } }))
    const text = await reply.text()
    expect(text).toStartWith(whole)
    const last = text.trimEnd().split('\n\n').at(-1)!
    expect(JSON.parse(last.slice('data: '.length))).toMatchObject({ error: {} })
  })

  test('an upstream’s own error event in mid-stream is handed on once, and what came before it is billed', async () => {
    const first =
      'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":40,"output_tokens":1}}}\n\nevent: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\nevent: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"five words are said here"}}\n\n'
    const error = 'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    const { model } = await world.model({ type: PROVIDER.anthropic })
    world.upstream.on(model, { paceMs: 50, raw: { contentType: 'text/event-stream', parts: [first, error] } })
    const reply = await world.post(MESSAGES, ask(model, { stream: true }))
    expect(await reply.text()).toBe(first + error)
    const row = await world.row(reply)
    expect(row).toMatchObject({
      type: 2,
      prompt_tokens: 40,
      other: { stream_status: { status: 'error', end_reason: 'handler_stop' } },
    })
    expect(row.completion_tokens).toBeGreaterThanOrEqual(5)

    const converted = framesOf(await (await world.post(CHAT, ask(model, { stream: true }))).text())
    expect(converted.filter(({ data }) => JSON.stringify(data).includes('Overloaded'))).toHaveLength(1)
  })
})

describe('usage that is missing', () => {
  for (const type of [PROVIDER.openai, PROVIDER.anthropic]) {
    for (const isStream of [false, true]) {
      test(`provider ${type}, ${isStream ? 'streamed' : 'whole'}: is counted, noted as such, and told to a client of another dialect`, async () => {
        const { model } = await world.model({ type, behaviour: { text: 'one two three four five', usage: 'none' } })
        const own = await world.post(type === PROVIDER.openai ? CHAT : MESSAGES, ask(model, { stream: isStream }))
        await own.text()
        const row = await world.row(own)
        expect(row.completion_tokens).toBeGreaterThanOrEqual(5)
        expect(row.prompt_tokens).toBeGreaterThan(3)
        expect(row.quota).toBe(costOf(row.prompt_tokens, row.completion_tokens))
        expect(adminInfo(row).local_count_tokens).toBe(true)

        const other = await world.post(
          type === PROVIDER.openai ? MESSAGES : CHAT,
          ask(model, { stream: isStream, stream_options: { include_usage: true } }),
        )
        const counts = /"(?:output|completion)_tokens":(\d+)/g
        const shown = [...(await other.text()).matchAll(counts)].map((match) => Number(match[1]))
        expect(Math.max(...shown)).toBe((await world.row(other)).completion_tokens)
      })
    }
  }
})
