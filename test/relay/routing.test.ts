/** Which channel, key and group serve a call, what is refused before any upstream hears of it, and what else the routes offer. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { eventually } from '../support/eventually.ts'
import { adminInfo, ask, CHAT, costOf, MESSAGES, openRelayWorld, PROVIDER, type RelayWorld } from './world.ts'

let world: RelayWorld
beforeAll(async () => {
  world = await openRelayWorld({
    settings: {
      RetryTimes: 1,
      GroupRatio: { default: 1, vip: 2 },
      UserUsableGroups: { default: 'all', vip: 'few', auto: 'whichever has it' },
      AutoGroups: ['default', 'vip'],
    },
  })
}, 60_000)
afterAll(() => world.close(), 60_000)

const reached = (model: string) => world.upstream.requests.filter((request) => request.model === model)
const keyWith = (fields: Readonly<Record<string, unknown>>) =>
  world.app.admin.apiKey(world.app.user, { fields }).then(({ key }) => key)

describe('the choice of a channel', () => {
  test('follows priority first, and what cannot serve is left out with its reason', async () => {
    const { model, channel } = await world.model({ fields: { priority: 5 } })
    const off = await world.channel({ model, sentAs: 'of-a-disabled-one', fields: { priority: 9 } })
    await world.app.admin.call('POST', `/api/channel/${off}/status`, { status: 2 })
    await world.channel({ model, sentAs: 'of-a-lower-tier', fields: { priority: 1 } })
    const reply = await world.post(CHAT, ask(model))
    const row = await world.row(reply)
    expect(row.channel).toBe(channel)
    expect(adminInfo(row).left_out).toEqual([{ channelId: off, reason: 'disabled' }])
  })

  test('passes over a channel that does not offer the operation, at the cost of no attempt', async () => {
    const { model, channel } = await world.model({ type: PROVIDER.anthropic, fields: { priority: 9 } })
    const openai = await world.channel({ model })
    const row = await world.row(await world.post('/v1/embeddings', { model, input: 'x' }))
    expect(row.channel).toBe(openai)
    expect(adminInfo(row)).toMatchObject({
      use_channel: [String(openai)],
      left_out: [{ channelId: channel, reason: 'does not offer embeddings' }],
    })
  })

  test('takes the keys of a channel in turn, and the row says which', async () => {
    const { model } = await world.model()
    await world.app.admin.call('POST', '/api/channel/', {
      mode: 'multi_to_single',
      multi_key_mode: 'polling',
      channel: {
        name: `many keys of ${model}`,
        type: 1,
        key: 'key-a\nkey-b\nkey-c',
        base_url: world.upstream.url,
        models: model,
        group: 'default',
        priority: 9,
      },
    })
    const indexes: unknown[] = []
    for (let call = 0; call < 6; call++)
      indexes.push(adminInfo(await world.row(await world.post(CHAT, ask(model))))['multi_key_index'])
    expect(indexes).toEqual([0, 1, 2, 0, 1, 2])
    expect(reached(model).map((request) => request.headers['authorization'])).toEqual(
      [...'abcabc'].map((letter) => `Bearer key-${letter}`),
    )
  })

  test('of a key of `auto`: the first group that has the model serves it, at its price', async () => {
    const { model } = await world.model({ fields: { group: 'vip' } })
    const row = await world.row(await world.post(CHAT, ask(model), { key: await keyWith({ group: 'auto' }) }))
    expect(row.other).toMatchObject({ group_ratio: 2 })
    expect(row.quota).toBe(2 * costOf(row.prompt_tokens, row.completion_tokens))
  })

  test('goes to the next group only for a key that wants it, with the dearer price held first', async () => {
    const { model } = await world.model({ modelMapping: (name) => ({ [name]: 'x?status=500' }) })
    const vip = await world.channel({ model, sentAs: 'good', fields: { group: 'vip' } })
    const stays = await world.post(CHAT, ask(model), { key: await keyWith({ group: 'auto' }) })
    expect(stays.status).toBe(500)
    const crosses = await world.post(CHAT, ask(model), {
      key: await keyWith({ group: 'auto', cross_group_retry: true }),
    })
    expect(crosses.status).toBe(200)
    const row = await world.row(crosses)
    expect(row).toMatchObject({ channel: vip, other: { group_ratio: 2, hold_extensions: 1 } })
    expect(row.quota).toBe(2 * costOf(row.prompt_tokens, row.completion_tokens))
  })

  test('a dearer group is not tried when the wallet does not cover it', async () => {
    const { admin } = world.app
    const { model } = await world.model({ modelMapping: (name) => ({ [name]: 'x?status=500' }) })
    await world.channel({ model, sentAs: 'never-reached', fields: { group: 'vip' } })
    // The hold is about 310; twice of it is not there.
    const poor = await admin.user(400)
    const { key } = await admin.apiKey(poor, { fields: { group: 'auto', cross_group_retry: true } })
    const reply = await world.post(CHAT, ask(model), { key })
    expect(reply.status).toBe(403)
    expect(reached('never-reached')).toHaveLength(0)
    expect(await world.row(reply)).toMatchObject({ type: 5, quota: 0 })
  })
})

describe('refused before any upstream hears of it', () => {
  const cases = [
    ['a model without a channel', (model: string) => ask(`${model}-of-nobody`), 503, 'model_not_found'],
    ['no messages', (model: string) => ({ model }), 400, 'invalid_request'],
    ['messages of a wrong type', (model: string) => ({ model, messages: 'hello' }), 400, 'invalid_request'],
    [
      'a limit that no price can be held for',
      (model: string) => ask(model, { max_tokens: 1_073_741_824 }),
      400,
      'invalid_request',
    ],
    ['a list', () => [1], 400, 'invalid_request'],
  ] as const
  for (const [name, bodyOf, status, code] of cases) {
    test(`${name}: status ${status} in both dialects, a row that says why, no charge`, async () => {
      const { model } = await world.model()
      for (const path of [CHAT, MESSAGES]) {
        const reply = await world.post(path, bodyOf(model))
        expect(reply.status).toBe(status)
        const json = (await reply.json()) as { type?: string; error: { message: string; code?: string } }
        expect(json.error.message).toContain(reply.headers.get('x-oneapi-request-id')!)
        if (path === CHAT) expect(json.error.code).toBe(code)
        else expect(json.type).toBe('error')
        expect(await world.row(reply)).toMatchObject({
          type: 5,
          quota: 0,
          other: { error_code: code, status_code: status, request_path: path },
        })
      }
      expect(reached(model)).toHaveLength(0)
    })
  }

  test('a model without a price', async () => {
    const { model } = await world.model()
    await world.app.admin.channel({
      name: `unpriced ${model}`,
      baseUrl: world.upstream.url,
      models: [`unpriced-${model}`],
    })
    const reply = await world.post(CHAT, ask(`unpriced-${model}`))
    expect(reply.status).toBe(400)
    expect(await world.row(reply)).toMatchObject({
      type: 5,
      other: { error_code: 'model_price_error', blame: 'operator' },
    })
  })

  test('without a valid key: no row at all', async () => {
    const before = (await world.app.admin.logs('type=5')).length
    for (const path of [CHAT, MESSAGES])
      expect((await world.post(path, ask('x'), { key: 'sk-nothing' })).status).toBe(401)
    await world.row(await world.post(CHAT, ask('refused-as-a-marker')))
    expect(await world.app.admin.logs('type=5')).toHaveLength(before + 1)
  })

  test('a path that is none, or another method on one that is', async () => {
    for (const [method, path] of [
      ['POST', '/v1/nothing'],
      ['GET', CHAT],
    ] as const) {
      const reply = await fetch(`${world.app.url}${path}`, { method })
      expect(reply.status).toBe(404)
      const { error } = (await reply.json()) as { error: { message: string; type: string } }
      expect(error.message).toContain(`Invalid URL (${method} ${path})`)
      expect(error.type).toBe('invalid_request_error')
    }
  })

  test('an API of OpenAI that is not offered is told as not implemented', async () => {
    for (const [method, path] of [
      ['POST', '/v1/images/variations'],
      ['GET', '/v1/files/file-1/content'],
      ['POST', '/v1/fine-tunes'],
      ['DELETE', '/v1/models/x'],
    ] as const) {
      const reply = await fetch(`${world.app.url}${path}`, { method })
      expect(reply.status).toBe(501)
      expect(await reply.json()).toMatchObject({ error: { type: 'new_api_error', code: 'api_not_implemented' } })
    }
  })
})

describe('operations', () => {
  test('completions, whole and streamed, are billed by their usage', async () => {
    const { model } = await world.model({ behaviour: { text: 'and so on', usage: { input: 12, output: 6 } } })
    const whole = await world.post('/v1/completions', { model, prompt: 'Once', max_tokens: 20 })
    expect(await whole.json()).toMatchObject({ object: 'text_completion', choices: [{ text: 'and so on' }] })
    expect((await world.row(whole)).quota).toBe(costOf(12, 6))
    const streamed = await world.post('/v1/completions', { model, prompt: ['Once'], stream: true })
    const text = await streamed.text()
    expect(text).toContain('"text":"and"')
    expect(text).not.toContain('"usage":{')
    expect((await world.row(streamed)).quota).toBe(costOf(12, 6))
  })

  test('completions without usage are counted', async () => {
    const { model } = await world.model({ behaviour: { text: 'five words are here now', usage: 'none' } })
    for (const stream of [false, true]) {
      const reply = await world.post('/v1/completions', { model, prompt: 'Once upon a time', stream })
      await reply.text()
      const row = await world.row(reply)
      expect(row.completion_tokens).toBeGreaterThanOrEqual(5)
      expect(adminInfo(row).local_count_tokens).toBe(true)
    }
  })

  test('embeddings cost their input, and come back to the byte', async () => {
    const { model } = await world.model({ behaviour: { usage: { input: 9 } } })
    const reply = await world.post('/v1/embeddings', {
      model,
      input: ['a', 'b'],
      encoding_format: 'base64',
      dimensions: 3,
    })
    expect(await reply.json()).toMatchObject({ data: [{ index: 0, embedding: expect.any(String) }, { index: 1 }] })
    expect(world.upstream.last().json()).toEqual({ model, input: ['a', 'b'], encoding_format: 'base64', dimensions: 3 })
    expect(await world.row(reply)).toMatchObject({ prompt_tokens: 9, completion_tokens: 0, quota: 9 })
  })

  test('embeddings without usage cost their counted input', async () => {
    const { model } = await world.model({ behaviour: { usage: 'none' } })
    const row = await world.row(await world.post('/v1/embeddings', { model, input: 'one two three four' }))
    expect(row.prompt_tokens).toBeGreaterThanOrEqual(4)
    expect(row.quota).toBe(row.prompt_tokens)
  })

  describe('a count of tokens costs nothing, leaves one row, and', () => {
    const count = (model: string) =>
      world.post('/v1/messages/count_tokens', { model, messages: [{ role: 'user', content: 'one two three four' }] })

    test('is asked of an upstream that can', async () => {
      const { model, channel } = await world.model({ type: PROVIDER.anthropic, behaviour: { usage: { input: 77 } } })
      const reply = await count(model)
      expect(await reply.json()).toEqual({ input_tokens: 77 })
      expect(await world.row(reply)).toMatchObject({ type: 2, quota: 0, channel })
      expect(world.upstream.last().path).toEndWith('/v1/messages/count_tokens')
    })

    test('is our own where no channel can, without a word to any upstream', async () => {
      const { model } = await world.model()
      const reply = await count(model)
      const { input_tokens: counted } = (await reply.json()) as { input_tokens: number }
      expect(counted).toBeGreaterThanOrEqual(4)
      expect(reached(model)).toHaveLength(0)
      expect(await world.row(reply)).toMatchObject({ type: 2, quota: 0, other: { counted_tokens: counted } })
    })

    test('is our own when the upstream fails, but an upstream that finds the call wrong is believed', async () => {
      const down = await world.model({ type: PROVIDER.anthropic, behaviour: { status: 404 } })
      expect(await (await count(down.model)).json()).toMatchObject({ input_tokens: expect.any(Number) })
      const strict = await world.model({ type: PROVIDER.anthropic, behaviour: { status: 400 } })
      expect((await count(strict.model)).status).toBe(400)
    })

    test('adds nothing to what was charged, and no more does the test of a channel', async () => {
      const charged = async (): Promise<number> => {
        const text = await (await fetch(`${world.app.url}/metrics`)).text()
        return Number(/^headgate_quota_total (\d+)$/m.exec(text)?.[1])
      }
      const { model, channel } = await world.model({ type: PROVIDER.anthropic, behaviour: { usage: { input: 77 } } })
      await (await world.post(CHAT, ask(model))).text()
      const before = await charged()
      expect(before).toBeGreaterThanOrEqual(77)
      expect((await count(model)).status).toBe(200)
      await world.app.admin.call('GET', `/api/channel/test/${channel}`)
      expect(reached(model)).toHaveLength(3)
      expect(await charged()).toBe(before)
    })

    test('is the call that tries a channel out after its cool-down', async () => {
      const coolDown = 'channel_health_setting.cool_down_seconds'
      await world.app.admin.options({ [coolDown]: 0.1 })
      try {
        const { model, channel } = await world.model({
          type: PROVIDER.anthropic,
          behaviour: { status: 500 },
          fields: { priority: 9 },
        })
        await world.channel({ model, type: PROVIDER.anthropic, sentAs: 'of-one-that-is-well' })
        await eventually('it is left alone', async () => {
          const before = reached(model).length
          await count(model)
          return reached(model).length === before
        })
        world.upstream.on(model, {})
        await eventually('it is tried out', async () => (await world.row(await count(model))).channel === channel)
      } finally {
        await world.app.admin.options({ [coolDown]: 10 })
      }
    }, 20_000)

    test('is refused for a model that the key may not use or that nobody serves', async () => {
      const { model } = await world.model()
      const key = await keyWith({ model_limits_enabled: true, model_limits: 'another' })
      const body = { model, messages: [{ role: 'user', content: 'x' }] }
      expect((await world.post('/v1/messages/count_tokens', body, { key })).status).toBe(403)
      expect((await count('of-nobody')).status).toBe(503)
    })
  })

  test('Ollama’s own stream is told in both dialects of the clients, and billed by its counts', async () => {
    const { model } = await world.model({
      type: PROVIDER.ollama,
      behaviour: { text: 'from a llama', usage: { input: 8, output: 4 } },
    })
    const chat = await world.post(CHAT, ask(model, { stream: true }))
    expect(await chat.text()).toContain('data: [DONE]')
    expect((await world.row(chat)).quota).toBe(costOf(8, 4))
    const claude = await world.post(MESSAGES, ask(model))
    expect(await claude.json()).toMatchObject({
      type: 'message',
      content: [{ type: 'text', text: 'from a llama' }],
      usage: { input_tokens: 8, output_tokens: 4 },
    })
    expect(world.upstream.last().path).toBe('/api/chat')
  })
})

describe('lists of models', () => {
  const get = (path: string, headers: HeadersInit) => fetch(`${world.app.url}${path}`, { headers })

  test('have the form that the client’s headers ask for, and only what it may call', async () => {
    const { model } = await world.model()
    const other = await world.model()
    const key = await keyWith({ model_limits_enabled: true, model_limits: `${model},unknown` })
    const bearer = { authorization: `Bearer ${key}` }
    expect(await (await get('/v1/models', bearer)).json()).toMatchObject({
      object: 'list',
      data: [{ id: model, object: 'model', created: 1626777600 }],
    })
    const asClaude: readonly Record<string, string>[] = [
      { 'x-api-key': key, 'anthropic-version': '2023-06-01' },
      { ...bearer, 'anthropic-version': '2026-10-21' },
    ]
    for (const headers of asClaude) {
      expect(await (await get('/v1/models', headers)).json()).toMatchObject({
        data: [{ id: model, type: 'model', display_name: model }],
        first_id: model,
        last_id: model,
        has_more: false,
      })
    }
    for (const reply of [
      await get('/v1/models', { 'x-goog-api-key': key }),
      await get(`/v1/models?key=${key}`, {}),
      await get('/v1beta/models', bearer),
    ]) {
      expect(await reply.json()).toMatchObject({ models: [{ name: model, displayName: model }], nextPageToken: null })
    }
    expect(await (await get(`/v1/models/${model}`, bearer)).json()).toMatchObject({ id: model, object: 'model' })
    expect((await get(`/v1/models/${other.model}`, bearer)).status).toBe(404)
  })

  test('say whose a model is, and what its upstream speaks', async () => {
    const key = await keyWith({})
    for (const [type, owner, dialects] of [
      [PROVIDER.openai, 'OpenAI', ['openai']],
      [PROVIDER.anthropic, 'Anthropic', ['anthropic', 'openai']],
    ] as const) {
      const { model } = await world.model({ type })
      expect(await (await get(`/v1/models/${model}`, { authorization: `Bearer ${key}` })).json()).toMatchObject({
        owned_by: owner,
        supported_endpoint_types: dialects,
      })
    }
  })

  test('an unknown model is a 404 in the client’s dialect, also one whose name is no proper escape', async () => {
    const headers = { authorization: `Bearer ${world.app.key.key}` }
    for (const name of ['nothing', 'a/b', 'x%ff', '%2e%2e%2fetc', 'a%2525']) {
      const reply = await get(`/v1/models/${name}`, headers)
      expect([name, reply.status]).toEqual([name, 404])
      expect(await reply.json()).toMatchObject({ error: { message: expect.stringContaining('does not exist') } })
    }
    const claude = await get('/v1/models/nothing', { ...headers, 'anthropic-version': '2023-06-01' })
    expect(await claude.json()).toMatchObject({ type: 'error', error: { type: 'not_found_error' } })
  })

  test('a name with a slash is found', async () => {
    const name = 'maker/model-with-a-slash'
    await world.app.admin.channel({ name, baseUrl: world.upstream.url, models: [name] })
    await world.app.admin.options({ ModelPrice: { [name]: 0.01 } })
    const reply = await get(`/v1/models/${name}`, { authorization: `Bearer ${world.app.key.key}` })
    expect(await reply.json()).toMatchObject({ id: name })
  })
})

test('a channel test goes the same way, leaves a row with its tokens and no charge, and tells what failed', async () => {
  const { model, channel } = await world.model({ behaviour: { usage: { input: 5, output: 3 } } })
  const tested = await fetch(`${world.app.url}/api/channel/test/${channel}?model=${model}`, {
    headers: { authorization: `Bearer ${await rootToken()}` },
  })
  expect(await tested.json()).toMatchObject({ success: true })
  const row = await eventually('the test is logged', async () => (await world.app.admin.logs(`model_name=${model}`))[0])
  expect(row).toMatchObject({ type: 2, quota: 0, prompt_tokens: 5, completion_tokens: 3, channel })
  world.upstream.on(model, { status: 401, error: { message: 'wrong key' } })
  const failed = await fetch(`${world.app.url}/api/channel/test/${channel}?model=${model}`, {
    headers: { authorization: `Bearer ${await rootToken()}` },
  })
  expect(await failed.json()).toMatchObject({ success: false, message: expect.stringContaining('wrong key') })
})

async function rootToken(): Promise<string> {
  const reply = await fetch(`${world.app.url}/api/user/login`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ username: 'root', password: 'correct horse battery' }),
  })
  return ((await reply.json()) as { data: { access_token: string } }).data.access_token
}

test('the document of the administration API has none of the relay’s routes', async () => {
  const { paths } = (await (await fetch(`${world.app.url}/api/openapi.json`)).json()) as { paths: object }
  expect(Object.keys(paths).length).toBeGreaterThan(50)
  expect(Object.keys(paths).filter((path) => !path.startsWith('/api') && !/billing/.test(path))).toEqual([])
})

test('a path that is nobody’s is told as such, with a request id', async () => {
  const reply = await fetch(`${world.app.url}/chat/completions`, { method: 'POST' })
  expect(reply.status).toBe(404)
  expect(reply.headers.get('x-oneapi-request-id')).toBeString()
  expect((await reply.json()) as object).toHaveProperty('error.message')
})
