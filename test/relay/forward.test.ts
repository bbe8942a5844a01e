/** What is carried between equals is carried to the byte, and only what must change is changed. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { adminInfo, ask, CHAT, MESSAGES, openRelayWorld, PROVIDER, type RelayWorld } from './world.ts'

let world: RelayWorld
beforeAll(async () => {
  world = await openRelayWorld()
}, 60_000)
afterAll(() => world.close(), 60_000)

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)
const utf8 = new TextEncoder()
/** Odd spacing, an escaped letter, a number that no double holds, an unknown field, an emoji: none may move. */
const odd = (model: string, extra = '') =>
  `{ "model":"${model}",\n\t"messages" : [{"role":"user","content":"h\\u00e9llo 🎉 \\/"}], "seed": 12345678901234567890,"x_unknown":{"b":1.0,"a":[1e2]}${extra} }`

describe('requests', () => {
  for (const [path, type] of [
    [CHAT, PROVIDER.openai],
    [MESSAGES, PROVIDER.anthropic],
  ] as const) {
    test(`the bytes of ${path} reach an upstream of the same dialect as they were sent`, async () => {
      const { model } = await world.model({ type })
      const body = odd(model)
      const reply = await world.post(path, body)
      expect(reply.status).toBe(200)
      expect(text(world.upstream.last().body)).toBe(body)
      expect((await world.row(reply)).other['request_conversion']).toHaveLength(1)
    })
  }

  test('a mapped model is spliced in, everything around it stays', async () => {
    const { model } = await world.model({ modelMapping: (name) => ({ [name]: 'step', step: 'the-real-one' }) })
    const reply = await world.post(CHAT, odd(model))
    expect(text(world.upstream.last().body)).toBe(odd('the-real-one'))
    expect((await world.row(reply)).other).toMatchObject({ is_model_mapped: true, upstream_model_name: 'the-real-one' })
  })

  test('a byte order mark in front is no part of the JSON, and stays', async () => {
    const { model } = await world.model({ modelMapping: (name) => ({ [name]: 'the-real-one' }) })
    const reply = await world.post(CHAT, utf8.encode(`\ufeff${odd(model)}`))
    expect(reply.status).toBe(200)
    expect(world.upstream.last().body).toEqual(utf8.encode(`\ufeff${odd('the-real-one')}`))
  })

  test('a model named twice, in whatever spelling, goes out as the one that was priced', async () => {
    const { model } = await world.model()
    await world.post(
      CHAT,
      `{"model":"dear-model","mod\\u0065l":"dearer","messages":[{"role":"user","content":"x"}],"model":"${model}"}`,
    )
    const sent = text(world.upstream.last().body)
    expect(sent).not.toContain('dear')
    expect(sent.match(/"model"|"mod\\u0065l"/g)).toHaveLength(3)
    expect(sent.split(`"${model}"`)).toHaveLength(4)
  })

  test('fields that change the price are taken out, also when given twice or in disguise', async () => {
    const { model } = await world.model()
    const extra =
      ',"service_tier":"priority","service_ti\\u0065r":"flex","speed":"fast","service_tier":1,"inference_geo":"us","safety_identifier":"u1","store":true'
    await world.post(CHAT, odd(model, extra))
    expect(text(world.upstream.last().body)).toBe(odd(model, ',"store":true'))
  })

  test('a channel may let each of them through, and may take `store` out', async () => {
    const settings = { allow_service_tier: true, allow_speed: true, disable_store: true }
    const { model } = await world.model({ fields: { settings: JSON.stringify(settings) } })
    await world.post(CHAT, odd(model, ',"service_tier":"flex","speed":"fast","inference_geo":"us","store":true'))
    expect(text(world.upstream.last().body)).toBe(odd(model, ',"service_tier":"flex","speed":"fast"'))
  })

  test('they are taken out as well where the body is edited and where it is converted', async () => {
    const override = { param_override: JSON.stringify({ temperature: 0.25 }) }
    for (const options of [{ fields: override }, { type: PROVIDER.anthropic }]) {
      const { model } = await world.model(options)
      await world.post(CHAT, ask(model, { service_tier: 'priority', speed: 'fast', inference_geo: 'us' }))
      const sent = world.upstream.last().json()
      for (const name of ['service_tier', 'speed', 'inference_geo']) expect(sent).not.toHaveProperty(name)
    }
  })

  test('a channel that passes bodies through changes nothing at all', async () => {
    const { model } = await world.model({
      fields: {
        setting: JSON.stringify({ pass_through_body_enabled: true }),
        param_override: JSON.stringify({ temperature: 0 }),
        header_override: JSON.stringify({ 'x-operator': 'yes' }),
      },
    })
    const body = odd(model, ',"service_tier":"priority","stream":true')
    await (await world.post(CHAT, body)).text()
    expect(text(world.upstream.last().body)).toBe(body)
    expect(world.upstream.last().headers['x-operator']).toBe('yes')
  })

  test('parameter override, system prompt and header override of a channel are in force, and noted', async () => {
    const { model } = await world.model({
      fields: {
        param_override: JSON.stringify({ temperature: 0.25, model: 'overridden' }),
        setting: JSON.stringify({ system_prompt: 'Be brief.' }),
        header_override: JSON.stringify({ 'x-key-copy': 'k {api_key}', 'x-agent': '{client_header:X-Agent}' }),
      },
    })
    const reply = await world.post(CHAT, ask(model), { headers: { 'x-agent': 'me' } })
    const { headers, json } = world.upstream.last()
    expect(json()).toMatchObject({ temperature: 0.25, model: 'overridden', max_tokens: 100 })
    expect(json()['messages']).toEqual([
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Say hello.' },
    ])
    expect(headers).toMatchObject({ 'x-key-copy': 'k upstream-key', 'x-agent': 'me' })
    expect((await world.row(reply)).other).toMatchObject({ is_system_prompt_overwritten: true, po: ['model'] })
  })

  test('of the client’s headers none that names it, and no credential, goes upstream', async () => {
    const { model } = await world.model()
    const reply = await world.post(CHAT, ask(model), {
      headers: { cookie: 'session=1', 'x-forwarded-for': '203.0.113.9', 'x-real-ip': '203.0.113.9', 'x-odd': '1' },
    })
    const { headers } = world.upstream.last()
    expect(headers['authorization']).toBe('Bearer upstream-key')
    for (const name of ['cookie', 'x-forwarded-for', 'x-real-ip', 'x-odd']) expect(headers).not.toHaveProperty(name)
    expect(JSON.stringify(headers)).not.toContain(world.app.key.key.slice(3))
    expect(headers['x-client-request-id']).toBe(reply.headers.get('x-oneapi-request-id')!)
  })

  test('whatever bytes a client may put into a header go on as they came, and are no channel’s fault', async () => {
    const { model, channel } = await world.model({ type: PROVIDER.anthropic, fields: { priority: 10 } })
    await world.channel({ model, type: PROVIDER.anthropic, sentAs: `second of ${model}` })
    // The last byte of `Voilà` in UTF-8 is a blank of Latin-1; what DEL is worth the upstream says.
    for (const beta of ['Voil\u00c3\u00a0', 'a\x7fb']) {
      for (let n = 0; n < 10; n++) {
        const reply = await world.post(MESSAGES, ask(model), { headers: { 'anthropic-beta': beta } })
        expect([reply.status, world.upstream.last().headers['anthropic-beta']]).toEqual([200, beta])
        await reply.text()
      }
    }
    const after = await world.post(MESSAGES, ask(model))
    await after.text()
    expect(adminInfo(await world.row(after)).use_channel).toEqual([String(channel)])
  })

  test('a packed body goes on unpacked', async () => {
    const { model } = await world.model()
    const body = odd(model)
    const reply = await world.post(CHAT, Bun.gzipSync(utf8.encode(body)), { headers: { 'content-encoding': 'gzip' } })
    expect(reply.status).toBe(200)
    expect(text(world.upstream.last().body)).toBe(body)
    expect(world.upstream.last().headers).not.toHaveProperty('content-encoding')
  })
})

describe('answers', () => {
  const answer =
    '{ "id":"x","object":"chat.completion","created":12345678901234567890, "model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"h\\u00e9 🎉"},"finish_reason":"stop"}],\n"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12},"x_unknown":[1.0] }\n'

  test('the bytes of an answer come back as the upstream sent them, with filtered headers', async () => {
    const { model } = await world.model()
    world.upstream.on(model, {
      raw: { contentType: 'application/json; odd=1', parts: [answer.slice(0, 61), answer.slice(61)] },
      headers: {
        'set-cookie': 'a=b',
        'openai-organization': 'org-of-the-operator',
        'x-ratelimit-remaining-tokens': '17',
        'x-oneapi-request-id': 'of-another-gateway',
        'content-language': 'en',
      },
    })
    const reply = await world.post(CHAT, ask(model))
    expect(await reply.text()).toBe(answer)
    expect(reply.headers.get('content-type')).toBe('application/json; odd=1')
    expect(reply.headers.get('content-language')).toBe('en')
    expect(reply.headers.get('x-ratelimit-remaining-tokens')).toBe('17')
    for (const name of ['set-cookie', 'openai-organization', 'transfer-encoding'])
      expect(reply.headers.has(name)).toBe(false)
    expect(reply.headers.get('x-new-api-version')).toBeTruthy()
    expect(reply.headers.get('x-headgate-node')).toBe('test')
    const id = reply.headers.get('x-oneapi-request-id')!
    expect(id).toMatch(/^20\d{12}\d{9}[\w]{16}$/)
    expect(await world.row(reply)).toMatchObject({
      request_id: id,
      upstream_request_id: 'of-another-gateway',
      prompt_tokens: 7,
      completion_tokens: 5,
      quota: 7 + 5 * 3,
    })
  })

  test('an answer that we cannot make sense of is still the client’s, and its bill is counted', async () => {
    const { model } = await world.model()
    world.upstream.on(model, { raw: { contentType: 'application/json', parts: ['{"choices":"none"}'] } })
    const reply = await world.post(CHAT, ask(model))
    expect(await reply.text()).toBe('{"choices":"none"}')
    expect(await world.row(reply)).toMatchObject({ type: 2, completion_tokens: 0 })
  })

  const chunk = (delta: string, more = '') =>
    `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m", "choices":[{"index":0,"delta":${delta},"finish_reason":null}]${more}}\n\n`
  const finish = 'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
  const usage = 'data: {"id":"c","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":4,"total_tokens":15}}\n\n'
  const done = 'data: [DONE]\n\n'
  /** Comments, ids, a big integer, a torn emoji, line ends of another system. */
  const before = `: OPENROUTER PROCESSING\n\nid: 7\nretry: 10\n${chunk('{"role":"assistant","content":""}')}${chunk('{"content":"h\\u00e9 🎉"}', ',"big":12345678901234567890')}event: x\r\ndata: {"id":"c","choices":[{"index":0,"delta":{"content":"!"}}]}\r\n\r\n`
  const inPieces = (whole: string, size: number) => {
    const bytes = utf8.encode(whole)
    return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.slice(i * size, (i + 1) * size))
  }

  for (const size of [1, 3, 17, 100_000]) {
    test(`a stream in pieces of ${size} bytes comes back to the byte, and is billed by its usage`, async () => {
      const { model } = await world.model()
      const whole = before + finish + usage + done
      world.upstream.on(model, { raw: { contentType: 'text/event-stream', parts: inPieces(whole, size) } })
      const reply = await world.post(CHAT, ask(model, { stream: true, stream_options: { include_usage: true } }))
      expect(reply.headers.get('x-accel-buffering')).toBe('no')
      expect(reply.headers.get('content-type')).toStartWith('text/event-stream')
      expect(await reply.text()).toBe(whole)
      expect(await world.row(reply)).toMatchObject({
        type: 2,
        prompt_tokens: 11,
        completion_tokens: 4,
        quota: 11 + 4 * 3,
        is_stream: true,
      })
    })

    test(`usage that the client did not ask for is asked for and left out, all else to the byte (pieces of ${size})`, async () => {
      const { model } = await world.model()
      const whole = before + finish + usage + done
      world.upstream.on(model, { raw: { contentType: 'text/event-stream', parts: inPieces(whole, size) } })
      const body = odd(model, ',"stream":true')
      const reply = await world.post(CHAT, body)
      expect(await reply.text()).toBe(before + finish + done)
      expect(text(world.upstream.last().body)).toBe(
        odd(model, ',"stream":true,"stream_options":{"include_usage":true}'),
      )
      expect(await world.row(reply)).toMatchObject({ prompt_tokens: 11, completion_tokens: 4 })
    })
  }

  test('a finish reason that travels with the usage is never left out', async () => {
    const { model } = await world.model()
    const last =
      'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    const whole = before + last + done
    world.upstream.on(model, { raw: { contentType: 'text/event-stream', parts: [whole] } })
    const reply = await world.post(CHAT, ask(model, { stream: true, stream_options: { include_usage: false } }))
    expect(await reply.text()).toBe(whole)
    expect(world.upstream.last().json()['stream_options']).toEqual({ include_usage: true })
    expect(await world.row(reply)).toMatchObject({ prompt_tokens: 3, completion_tokens: 2 })
  })

  test('a stream whose last blank line is missing, and one without its terminator, are whole', async () => {
    for (const whole of [before + finish + usage + done.trimEnd(), before + finish]) {
      const { model } = await world.model()
      world.upstream.on(model, { raw: { contentType: 'text/event-stream', parts: [whole] } })
      const reply = await world.post(CHAT, ask(model, { stream: true, stream_options: { include_usage: true } }))
      expect(await reply.text()).toBe(whole)
      expect((await world.row(reply)).other['stream_status']).toMatchObject({ status: 'ok', end_reason: 'done' })
    }
  })

  // Kinds that are asked for usage, kinds that report it on their own, and kinds that are not asked.
  for (const [name, type] of [
    ['OpenAI', PROVIDER.openai],
    ['Ollama', PROVIDER.ollama],
    ['OpenRouter', PROVIDER.openrouter],
    ['OhMyGPT', PROVIDER.plain],
  ] as const) {
    test(`on ${name} the usage of a stream is shown to a client that asks, and to no other`, async () => {
      const { model } = await world.model({ type })
      const asked = await world.post(CHAT, ask(model, { stream: true, stream_options: { include_usage: true } }))
      expect(await asked.text()).toContain('"choices":[],"usage"')
      expect((await world.row(asked)).other['admin_info']).not.toHaveProperty('local_count_tokens')
      const silent = await world.post(CHAT, ask(model, { stream: true }))
      expect(await silent.text()).not.toContain('"choices":[]')
      if (type !== PROVIDER.ollama)
        expect(world.upstream.last().json()['stream_options']).toEqual(
          type === PROVIDER.openai ? { include_usage: true } : undefined,
        )
    })
  }

  test('stream options are not sent to an upstream that was not asked for a stream', async () => {
    const { model } = await world.model()
    await world.post(CHAT, odd(model, ',"stream_options":{"include_usage":true}'))
    expect(text(world.upstream.last().body)).toBe(odd(model))
  })

  test('FORCE_STREAM_OPTION off leaves a stream as the client asked for it, and counts', async () => {
    const quiet = await openRelayWorld({ env: { FORCE_STREAM_OPTION: 'false' } })
    try {
      const { model } = await quiet.model()
      const body = odd(model, ',"stream":true')
      const reply = await quiet.post(CHAT, body)
      await reply.text()
      expect(text(quiet.upstream.last().body)).toBe(body)
      expect((await quiet.row(reply)).other['admin_info']).toMatchObject({ local_count_tokens: true })
    } finally {
      await quiet.close()
    }
  }, 60_000)
})
