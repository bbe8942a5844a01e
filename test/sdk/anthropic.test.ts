/** The official `@anthropic-ai/sdk` package, unmodified, as a client; against an upstream of its own protocol and of OpenAI's. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import Anthropic, {
  APIUserAbortError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  PermissionDeniedError,
  RateLimitError,
} from '@anthropic-ai/sdk'
import type { ContentBlock, MessageParam, MessageStreamEvent, Tool } from '@anthropic-ai/sdk/resources/messages'
import { eventually } from '../support/eventually.ts'
import {
  CACHED_QUOTA,
  CACHED_USAGE,
  EMBEDDING_MODEL,
  failureOf,
  MODELS,
  openWorld,
  PNG,
  PROTOCOLS,
  requestIdOf,
  type SdkWorld,
  TOOLS_QUOTA,
  TWO_TOOLS,
} from './world.ts'

let world: SdkWorld
let client: Anthropic
const connect = (apiKey: string): Anthropic => new Anthropic({ baseURL: world.app.url, apiKey, maxRetries: 0 })

beforeAll(async () => {
  world = await openWorld()
  client = connect(world.app.key.key)
}, 60_000)
afterAll(() => world.close(), 60_000)
afterEach(() => {
  for (const model of Object.values(MODELS)) world.upstream.on(model, {})
})

const hello: MessageParam[] = [{ role: 'user', content: 'Say hello.' }]
const max_tokens = 200
const TOOLS: Tool[] = [
  {
    name: 'weather',
    description: 'Weather of a city',
    input_schema: { type: 'object', properties: { city: { type: 'string' }, days: { type: 'integer' } } },
  },
  { name: 'clock', input_schema: { type: 'object', properties: { zone: { type: 'string' } } } },
]
const textOf = (content: readonly ContentBlock[]): string =>
  content.map((block) => (block.type === 'text' ? block.text : '')).join('')
const toolsOf = (content: readonly ContentBlock[]) =>
  content.flatMap((block) => (block.type === 'tool_use' ? [[block.name, block.input]] : []))

for (const protocol of PROTOCOLS) {
  const model = MODELS[protocol]

  describe(`messages on an upstream that speaks ${protocol}`, () => {
    test('a plain answer has text, stop reason and usage, and is billed by that usage', async () => {
      world.upstream.on(model, { text: 'Grüezi, 世界!', usage: CACHED_USAGE })
      const { data, response } = await client.messages.create({ model, max_tokens, messages: hello }).withResponse()
      expect(textOf(data.content)).toBe('Grüezi, 世界!')
      expect(data).toMatchObject({ type: 'message', role: 'assistant', stop_reason: 'end_turn' })
      // This dialect counts cached input beside the rest.
      expect(data.usage).toMatchObject({ input_tokens: 60, cache_read_input_tokens: 40, output_tokens: 20 })
      expect(await world.completed(response.headers)).toMatchObject({
        type: 2,
        quota: CACHED_QUOTA,
        model_name: model,
        is_stream: false,
        channel: world.channels[protocol],
        token_id: world.app.key.id,
        completion_tokens: 20,
      })
    })

    test('a streamed answer has the events of the dialect in their order, and is billed by the usage', async () => {
      world.upstream.on(model, { text: 'one two three four', usage: CACHED_USAGE })
      const { data, response } = await client.messages
        .create({ model, max_tokens, messages: hello, stream: true })
        .withResponse()
      const events = (await Array.fromAsync(data)).filter(({ type }) => (type as string) !== 'ping')
      expect(events.map(({ type }) => type)).toEqual([
        'message_start',
        'content_block_start',
        ...Array<MessageStreamEvent['type']>(4).fill('content_block_delta'),
        'content_block_stop',
        'message_delta',
        'message_stop',
      ])
      const row = await world.completed(response.headers)
      expect(row).toMatchObject({ quota: CACHED_QUOTA, is_stream: true })

      const stream = client.messages.stream({ model, max_tokens, messages: hello })
      const message = await stream.finalMessage()
      expect(textOf(message.content)).toBe('one two three four')
      expect(message.stop_reason).toBe('end_turn')
      expect(message.usage).toMatchObject({ output_tokens: 20 })
    })

    test('parallel tool calls come with their input', async () => {
      world.upstream.on(model, TWO_TOOLS)
      const { data, response } = await client.messages
        .create({ model, max_tokens, messages: hello, tools: TOOLS, tool_choice: { type: 'auto' } })
        .withResponse()
      expect(data.stop_reason).toBe('tool_use')
      expect(toolsOf(data.content)).toEqual([
        ['weather', { city: 'Zürich', days: 3 }],
        ['clock', { zone: 'Asia/Shanghai' }],
      ])
      expect(await world.completed(response.headers)).toMatchObject({ quota: TOOLS_QUOTA })
      expect(world.upstream.last().json()['tools']).toHaveLength(2)
    })

    test('streamed tool calls are put together by the SDK as they were made', async () => {
      world.upstream.on(model, TWO_TOOLS)
      const message = await client.messages.stream({ model, max_tokens, messages: hello, tools: TOOLS }).finalMessage()
      expect(message.stop_reason).toBe('tool_use')
      expect(toolsOf(message.content)).toEqual([
        ['weather', { city: 'Zürich', days: 3 }],
        ['clock', { zone: 'Asia/Shanghai' }],
      ])
    })

    test('results of tools go back to the upstream, each to its call', async () => {
      world.upstream.on(model, { text: 'Sunny.' })
      const { data, response } = await client.messages
        .create({
          model,
          max_tokens,
          tools: TOOLS,
          system: 'Be brief.',
          messages: [
            ...hello,
            {
              role: 'assistant',
              content: [
                { type: 'tool_use', id: 'toolu_a', name: 'weather', input: { city: 'Bern' } },
                { type: 'tool_use', id: 'toolu_b', name: 'clock', input: {} },
              ],
            },
            {
              role: 'user',
              content: [
                { type: 'tool_result', tool_use_id: 'toolu_a', content: 'sun' },
                { type: 'tool_result', tool_use_id: 'toolu_b', content: [{ type: 'text', text: 'noon' }] },
              ],
            },
          ],
        })
        .withResponse()
      expect(textOf(data.content)).toBe('Sunny.')
      const sent = JSON.stringify(world.upstream.last().json())
      expect(sent).toContain('Be brief.')
      const places = ['toolu_a', 'toolu_b', 'sun', 'noon'].map((word) => sent.lastIndexOf(word))
      expect(places.every((place) => place > 0)).toBe(true)
      await world.completed(response.headers)
    })

    test('an image reaches the upstream', async () => {
      world.upstream.on(model, { echoesImages: true })
      const { data, response } = await client.messages
        .create({
          model,
          max_tokens,
          messages: [
            {
              role: 'user',
              content: [
                { type: 'image', source: { type: 'base64', media_type: 'image/png', data: PNG } },
                { type: 'text', text: 'What is this?' },
              ],
            },
          ],
        })
        .withResponse()
      expect(textOf(data.content)).toBe('I see 1 images.')
      expect(JSON.stringify(world.upstream.last().json())).toContain(PNG)
      await world.completed(response.headers)
    })

    test('what the model thought comes before the answer, streamed or not', async () => {
      world.upstream.on(model, { thinking: 'Let me think it over.', text: 'Yes.' })
      const thinking = { type: 'enabled', budget_tokens: 1024 } as const
      const asked = { model, max_tokens: 2048, messages: hello, thinking }
      const plain = await client.messages.create(asked).withResponse()
      const streamed = await client.messages.stream(asked).finalMessage()
      for (const { content } of [plain.data, streamed]) {
        expect(content.map((block) => block.type)).toEqual(['thinking', 'text'])
        expect(content[0]).toMatchObject({ thinking: 'Let me think it over.' })
        expect(textOf(content)).toBe('Yes.')
      }
      if (protocol === 'claude') expect(plain.data.content[0]).toMatchObject({ signature: 'c2lnbmF0dXJl' })
      await world.completed(plain.response.headers)
    })

    test('a length limit is told as such', async () => {
      world.upstream.on(model, { finish: protocol === 'claude' ? 'max_tokens' : 'length' })
      const { data, response } = await client.messages.create({ model, max_tokens: 3, messages: hello }).withResponse()
      expect(data.stop_reason).toBe('max_tokens')
      const sent = world.upstream.last().json()
      expect(sent['max_tokens'] ?? sent['max_completion_tokens']).toBe(3)
      await world.completed(response.headers)
    })

    test("an upstream's error keeps its status and its words, and costs nothing", async () => {
      for (const [status, type, kind] of [
        [400, BadRequestError, 'invalid_request_error'],
        [429, RateLimitError, 'rate_limit_error'],
        [500, InternalServerError, 'api_error'],
      ] as const) {
        for (const stream of [false, true]) {
          world.upstream.on(model, { status, error: { message: `the words of ${status}`, type: kind } })
          const error = await failureOf(client.messages.create({ model, max_tokens, messages: hello, stream }), type)
          expect(error.status).toBe(status)
          expect(error.error).toMatchObject({ type: 'error', error: { type: kind } })
          expect(error.message).toContain(`the words of ${status}`)
          const row = await world.app.admin.logOf(requestIdOf(error.headers as Headers))
          expect(row).toMatchObject({ type: 5, quota: 0, channel: world.channels[protocol], is_stream: stream })
        }
      }
    })

    test('a stream that the client leaves is cut upstream within a second, and billed for what was produced', async () => {
      world.upstream.on(model, { isEndless: true, paceMs: 10 })
      const before = world.upstream.ledger.length
      const { data, response } = await client.messages
        .create({ model, max_tokens, messages: hello, stream: true })
        .withResponse()
      let received = 0
      let leftAtMs = 0
      for await (const event of data) {
        if (event.type === 'content_block_delta') received += 1
        if (received === 10) {
          leftAtMs = Date.now()
          data.controller.abort()
          break
        }
      }
      const id = requestIdOf(response.headers)
      const line = await world.upstreamLine(before)
      expect(line.end).toBe('aborted')
      expect(line.atMs - leftAtMs).toBeLessThan(1_000)
      const row = await world.app.admin.logOf(id)
      expect(row).toMatchObject({ type: 2, is_stream: true })
      expect(row.completion_tokens).toBeGreaterThanOrEqual(received)
      expect(row.completion_tokens).toBeLessThanOrEqual(2 * line.usage.output)
      expect(row.quota).toBe((row.prompt_tokens + row.completion_tokens * 3) * 2)
    })

    test('a stream that the upstream cuts ends in an error, and is billed for what was delivered', async () => {
      world.upstream.on(model, { chunks: 20, cutAfter: 8, paceMs: 5 })
      const { data, response } = await client.messages
        .create({ model, max_tokens, messages: hello, stream: true })
        .withResponse()
      let received = 0
      await expect(
        (async () => {
          for await (const event of data) if (event.type === 'content_block_delta') received += 1
        })(),
      ).rejects.toThrow()
      expect(received).toBe(8)
      const row = await world.app.admin.logOf(requestIdOf(response.headers))
      expect(row).toMatchObject({ type: 2, is_stream: true })
      expect(row.completion_tokens).toBeGreaterThanOrEqual(8)
    })
  })
}

describe('refusals', () => {
  const create = (apiKey: string, model: string = MODELS.claude) =>
    connect(apiKey).messages.create({ model, max_tokens, messages: hello })

  test('an unknown key is told by AuthenticationError', async () => {
    const error = await failureOf(create('sk-nobody'), AuthenticationError)
    expect(error.error).toMatchObject({ type: 'error', error: { type: 'authentication_error' } })
  })

  test('an empty wallet is told by PermissionDeniedError', async () => {
    const { admin } = world.app
    const key = await admin.apiKey(await admin.user(0))
    const error = await failureOf(create(key.key), PermissionDeniedError)
    expect(error.error).toMatchObject({ type: 'error', error: { type: 'permission_error' } })
    expect(await admin.logOf(requestIdOf(error.headers as Headers))).toMatchObject({ type: 5, quota: 0 })
  })

  test('a model without a channel is told by its name', async () => {
    const error = await failureOf(create(world.app.key.key, 'no-such-model'), InternalServerError)
    expect(error.status).toBe(503)
    expect(error.error).toMatchObject({ type: 'error', error: { type: 'overloaded_error' } })
    expect(error.message).toContain('no-such-model')
  })
})

describe('the other operations', () => {
  test('tokens are counted by the upstream, for nothing', async () => {
    world.upstream.on(MODELS.claude, { usage: { input: 321 } })
    const { data, response } = await client.messages
      .countTokens({ model: MODELS.claude, messages: hello })
      .withResponse()
    expect(data.input_tokens).toBe(321)
    expect(await world.completed(response.headers)).toMatchObject({ type: 2, quota: 0 })
  })

  test('tokens are counted here where the upstream does not count, for nothing', async () => {
    const count = async (messages: MessageParam[]) => {
      const model = MODELS['openai-chat']
      const { data, response } = await client.messages.countTokens({ model, messages }).withResponse()
      expect(await world.answeredHere(response.headers)).toMatchObject({ type: 2, quota: 0 })
      return data.input_tokens
    }
    const short = await count(hello)
    expect(short).toBeGreaterThan(3)
    expect(await count([{ role: 'user', content: 'word '.repeat(1_000) }])).toBeGreaterThan(short + 500)
  })

  test('models are listed and found one by one', async () => {
    const models = await Array.fromAsync(client.models.list())
    expect(models.map((model) => model.id).sort()).toEqual([...Object.values(MODELS), EMBEDDING_MODEL].sort())
    expect(models.every((model) => model.type === 'model')).toBe(true)
    expect(await client.models.retrieve(MODELS.claude)).toMatchObject({ id: MODELS.claude, type: 'model' })
  })

  test('a call that was not streamed and is left is cut upstream, and billed for its input', async () => {
    const model = MODELS.claude
    world.upstream.on(model, { delayMs: 10_000 })
    const leave = new AbortController()
    const before = world.upstream.ledger.length
    const pending = client.messages.create({ model, max_tokens, messages: hello }, { signal: leave.signal })
    await eventually('the upstream has the call', () => world.upstream.active() === 1)
    const leftAtMs = Date.now()
    leave.abort()
    await failureOf(pending, APIUserAbortError)
    const line = await world.upstreamLine(before)
    expect(line.end).toBe('aborted')
    expect(line.atMs - leftAtMs).toBeLessThan(1_000)
    const row = await world.app.admin.logOf(line.requestId)
    expect(row).toMatchObject({ type: 2, completion_tokens: 0 })
    expect(row.quota).toBe(row.prompt_tokens * 2)
  })
})
