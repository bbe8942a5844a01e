/** The official `openai` package, unmodified, as a client; against an upstream of its own protocol and of Claude's. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import OpenAI, {
  APIUserAbortError,
  AuthenticationError,
  BadRequestError,
  InternalServerError,
  PermissionDeniedError,
  RateLimitError,
} from 'openai'
import type { ChatCompletionMessageParam, ChatCompletionTool } from 'openai/resources/chat/completions'
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
let client: OpenAI
const connect = (apiKey: string): OpenAI => new OpenAI({ baseURL: `${world.app.url}/v1`, apiKey, maxRetries: 0 })

beforeAll(async () => {
  world = await openWorld()
  client = connect(world.app.key.key)
}, 60_000)
afterAll(() => world.close(), 60_000)
// The ledger of the upstream is kept for the audit; its scripts are not.
afterEach(() => {
  for (const model of [...Object.values(MODELS), EMBEDDING_MODEL]) world.upstream.on(model, {})
})

const hello: ChatCompletionMessageParam[] = [{ role: 'user', content: 'Say hello.' }]
const TOOLS: ChatCompletionTool[] = [
  {
    type: 'function',
    function: {
      name: 'weather',
      description: 'Weather of a city',
      parameters: { type: 'object', properties: { city: { type: 'string' }, days: { type: 'integer' } } },
    },
  },
  {
    type: 'function',
    function: { name: 'clock', parameters: { type: 'object', properties: { zone: { type: 'string' } } } },
  },
]

for (const protocol of PROTOCOLS) {
  const model = MODELS[protocol]

  describe(`chat on an upstream that speaks ${protocol}`, () => {
    test('a plain answer has text, finish and usage, and is billed by that usage', async () => {
      world.upstream.on(model, { text: 'Grüezi, 世界!', usage: CACHED_USAGE })
      const { data, response } = await client.chat.completions.create({ model, messages: hello }).withResponse()
      expect(data.choices[0]?.message.content).toBe('Grüezi, 世界!')
      expect(data.choices[0]?.message.role).toBe('assistant')
      expect(data.choices[0]?.finish_reason).toBe('stop')
      expect(data.usage).toMatchObject({ prompt_tokens: 100, completion_tokens: 20, total_tokens: 120 })
      expect(data.usage?.prompt_tokens_details?.cached_tokens).toBe(40)
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

    test('a streamed answer arrives in pieces, without usage unless it is asked for, and is billed by the usage', async () => {
      world.upstream.on(model, { text: 'one two three four', usage: CACHED_USAGE })
      const { data, response } = await client.chat.completions
        .create({ model, messages: hello, stream: true })
        .withResponse()
      const chunks = await Array.fromAsync(data)
      const texts = chunks.flatMap((chunk) => chunk.choices[0]?.delta.content || [])
      expect(texts).toEqual(['one', ' two', ' three', ' four'])
      expect(chunks.every((chunk) => chunk.choices.length === 1)).toBe(true)
      expect(
        chunks.filter((chunk) => chunk.choices[0]?.finish_reason).map((chunk) => chunk.choices[0]?.finish_reason),
      ).toEqual(['stop'])
      expect(chunks.some((chunk) => chunk.usage)).toBe(false)
      expect(await world.completed(response.headers)).toMatchObject({ quota: CACHED_QUOTA, is_stream: true })
    })

    test('a streamed answer ends with the usage for a client that asks for it', async () => {
      world.upstream.on(model, { text: 'one two', usage: CACHED_USAGE })
      const { data, response } = await client.chat.completions
        .create({ model, messages: hello, stream: true, stream_options: { include_usage: true } })
        .withResponse()
      const chunks = await Array.fromAsync(data)
      const last = chunks.at(-1)
      expect(last?.choices).toEqual([])
      expect(last?.usage).toMatchObject({ prompt_tokens: 100, completion_tokens: 20, total_tokens: 120 })
      expect(chunks.filter((chunk) => chunk.usage)).toHaveLength(1)
      await world.completed(response.headers)
    })

    test('parallel tool calls come with their arguments', async () => {
      world.upstream.on(model, TWO_TOOLS)
      const { data, response } = await client.chat.completions
        .create({ model, messages: hello, tools: TOOLS, tool_choice: 'auto' })
        .withResponse()
      const [choice] = data.choices
      expect(choice?.finish_reason).toBe('tool_calls')
      const calls = (choice?.message.tool_calls ?? []).flatMap((call) => (call.type === 'function' ? [call] : []))
      expect(calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)])).toEqual([
        ['weather', { city: 'Zürich', days: 3 }],
        ['clock', { zone: 'Asia/Shanghai' }],
      ])
      expect(new Set(calls.map((call) => call.id)).size).toBe(2)
      expect(await world.completed(response.headers)).toMatchObject({ quota: TOOLS_QUOTA })
      const sent = world.upstream.last().json()
      expect(sent['tools']).toHaveLength(2)
    })

    test('streamed tool calls are put together by the SDK as they were made', async () => {
      world.upstream.on(model, TWO_TOOLS)
      const stream = client.chat.completions.stream({ model, messages: hello, tools: TOOLS })
      const { choices } = await stream.finalChatCompletion()
      expect(choices[0]?.finish_reason).toBe('tool_calls')
      const calls = (choices[0]?.message.tool_calls ?? []).flatMap((call) =>
        'function' in call ? [call.function] : [],
      )
      expect(calls.map((call) => [call.name, JSON.parse(call.arguments)])).toEqual([
        ['weather', { city: 'Zürich', days: 3 }],
        ['clock', { zone: 'Asia/Shanghai' }],
      ])
    })

    test('results of tools go back to the upstream, each to its call', async () => {
      world.upstream.on(model, { text: 'Sunny.' })
      const call = (id: string, name: string, args: string) => ({
        id,
        type: 'function' as const,
        function: { name, arguments: args },
      })
      const { data, response } = await client.chat.completions
        .create({
          model,
          tools: TOOLS,
          messages: [
            { role: 'system', content: 'Be brief.' },
            ...hello,
            {
              role: 'assistant',
              content: null,
              tool_calls: [call('call_a', 'weather', '{"city":"Bern"}'), call('call_b', 'clock', '{}')],
            },
            { role: 'tool', tool_call_id: 'call_a', content: 'sun' },
            { role: 'tool', tool_call_id: 'call_b', content: 'noon' },
          ],
        })
        .withResponse()
      expect(data.choices[0]?.message.content).toBe('Sunny.')
      const sent = world.upstream.last().json()
      const text = JSON.stringify(sent)
      expect(text).toContain('Be brief.')
      expect(toolResults(sent)).toEqual([
        ['call_a', 'sun'],
        ['call_b', 'noon'],
      ])
      await world.completed(response.headers)
    })

    test('an image reaches the upstream', async () => {
      world.upstream.on(model, { echoesImages: true })
      const { data, response } = await client.chat.completions
        .create({
          model,
          messages: [
            {
              role: 'user',
              content: [
                { type: 'text', text: 'What is this?' },
                { type: 'image_url', image_url: { url: `data:image/png;base64,${PNG}` } },
              ],
            },
          ],
        })
        .withResponse()
      expect(data.choices[0]?.message.content).toBe('I see 1 images.')
      expect(JSON.stringify(world.upstream.last().json())).toContain(PNG)
      await world.completed(response.headers)
    })

    test('what the model thought is shown beside the answer, streamed or not', async () => {
      world.upstream.on(model, { thinking: 'Let me think it over.', text: 'Yes.' })
      const plain = await client.chat.completions.create({ model, messages: hello }).withResponse()
      expect(plain.data.choices[0]?.message).toMatchObject({
        reasoning_content: 'Let me think it over.',
        content: 'Yes.',
      })
      await world.completed(plain.response.headers)

      const streamed = await client.chat.completions.create({ model, messages: hello, stream: true }).withResponse()
      const deltas = (await Array.fromAsync(streamed.data)).flatMap((chunk) => chunk.choices.map(({ delta }) => delta))
      const thought = deltas.map((delta) => ('reasoning_content' in delta ? delta.reasoning_content : '')).join('')
      expect(thought).toBe('Let me think it over.')
      expect(deltas.map((delta) => delta.content ?? '').join('')).toBe('Yes.')
      await world.completed(streamed.response.headers)
    })

    test('a length limit is told as such', async () => {
      world.upstream.on(model, { finish: protocol === 'claude' ? 'max_tokens' : 'length' })
      const { data, response } = await client.chat.completions
        .create({ model, messages: hello, max_completion_tokens: 3 })
        .withResponse()
      expect(data.choices[0]?.finish_reason).toBe('length')
      const sent = world.upstream.last().json()
      expect(sent['max_tokens'] ?? sent['max_completion_tokens']).toBe(3)
      await world.completed(response.headers)
    })

    test("an upstream's error keeps its status and its words, and costs nothing", async () => {
      for (const [status, type] of [
        [400, BadRequestError],
        [429, RateLimitError],
        [500, InternalServerError],
      ] as const) {
        for (const stream of [false, true]) {
          world.upstream.on(model, { status, error: { message: `the words of ${status}`, type: 'some_type' } })
          const error = await failureOf(client.chat.completions.create({ model, messages: hello, stream }), type)
          expect(error.status).toBe(status)
          expect(error.message).toContain(`the words of ${status}`)
          const row = await world.app.admin.logOf(requestIdOf(error.headers as Headers))
          expect(row).toMatchObject({ type: 5, quota: 0, channel: world.channels[protocol], is_stream: stream })
        }
      }
    })

    test('a stream that the client leaves is cut upstream within a second, and billed for what was produced', async () => {
      world.upstream.on(model, { isEndless: true, paceMs: 10 })
      const before = world.upstream.ledger.length
      const { data, response } = await client.chat.completions
        .create({ model, messages: hello, stream: true })
        .withResponse()
      let received = 0
      let leftAtMs = 0
      for await (const chunk of data) {
        if (chunk.choices[0]?.delta.content) received += 1
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
      // The upstream never told its usage: what passed through is counted. A word is at least a token.
      expect(row.completion_tokens).toBeGreaterThanOrEqual(received)
      expect(row.completion_tokens).toBeLessThanOrEqual(2 * line.usage.output)
      expect(row.quota).toBe((row.prompt_tokens + row.completion_tokens * 3) * 2)
    })

    test('a call that was not streamed and is left is cut upstream, and billed for its input', async () => {
      world.upstream.on(model, { delayMs: 10_000 })
      const leave = new AbortController()
      const pending = client.chat.completions.create({ model, messages: hello }, { signal: leave.signal })
      const before = world.upstream.ledger.length
      await eventually('the upstream has the call', () => world.upstream.active() === 1)
      const leftAtMs = Date.now()
      leave.abort()
      await failureOf(pending, APIUserAbortError)
      const line = await world.upstreamLine(before)
      expect(line.end).toBe('aborted')
      expect(line.atMs - leftAtMs).toBeLessThan(1_000)
      const row = await world.app.admin.logOf(line.requestId)
      expect(row).toMatchObject({ type: 2, completion_tokens: 0 })
      expect(row.prompt_tokens).toBeGreaterThan(0)
      expect(row.quota).toBe(row.prompt_tokens * 2)
    })
  })
}

describe('refusals', () => {
  const create = (apiKey: string, model: string = MODELS['openai-chat']) =>
    connect(apiKey).chat.completions.create({ model, messages: hello })

  test('an unknown key is told by AuthenticationError', async () => {
    const error = await failureOf(create('sk-nobody'), AuthenticationError)
    expect(error.code).toBe('invalid_api_key')
  })

  test('an empty wallet is told by PermissionDeniedError, and so is a used-up key', async () => {
    const { admin } = world.app
    const poor = await admin.user(0)
    const key = await admin.apiKey(poor)
    const error = await failureOf(create(key.key), PermissionDeniedError)
    expect(error.code).toBe('insufficient_user_quota')
    expect(await admin.logOf(requestIdOf(error.headers as Headers))).toMatchObject({ type: 5, quota: 0 })

    const small = await admin.apiKey(world.app.user, { quota: 5 })
    expect((await failureOf(create(small.key), PermissionDeniedError)).code).toBe('pre_consume_token_quota_failed')
  })

  test('a model without a channel is told by its name', async () => {
    const error = await failureOf(create(world.app.key.key, 'no-such-model'), InternalServerError)
    expect(error.status).toBe(503)
    expect(error.code).toBe('model_not_found')
    expect(error.message).toContain('no-such-model')
  })

  test('a path that is none is a 404', async () => {
    const reply = await fetch(`${world.app.url}/v1/no-such-path`, { method: 'POST', body: '{}' })
    expect(reply.status).toBe(404)
    expect(await reply.json()).toMatchObject({ error: { type: expect.any(String), message: expect.any(String) } })
  })
})

describe('the other operations', () => {
  test('embeddings, as numbers and in base64, are billed by their input', async () => {
    for (const encoding_format of [undefined, 'float'] as const) {
      const { data, response } = await client.embeddings
        .create({
          model: EMBEDDING_MODEL,
          input: ['first text', 'second'],
          ...(encoding_format && { encoding_format }),
        })
        .withResponse()
      expect(data.data.map((item) => item.embedding)).toEqual([
        [0.5, -0.25, 0.125],
        [0.5, -0.25, 0.125],
      ])
      expect(await world.completed(response.headers)).toMatchObject({
        quota: data.usage.prompt_tokens,
        prompt_tokens: data.usage.prompt_tokens,
      })
    }
  })

  test('completions, plain and streamed', async () => {
    const model = MODELS['openai-chat']
    world.upstream.on(model, { text: 'and so on', usage: CACHED_USAGE })
    const plain = await client.completions.create({ model, prompt: 'Once' }).withResponse()
    expect(plain.data.choices[0]?.text).toBe('and so on')
    expect(await world.completed(plain.response.headers)).toMatchObject({ quota: CACHED_QUOTA })
    const streamed = await client.completions.create({ model, prompt: 'Once', stream: true }).withResponse()
    const chunks = await Array.fromAsync(streamed.data)
    expect(chunks.map((chunk) => chunk.choices[0]?.text ?? '').join('')).toBe('and so on')
    expect(await world.completed(streamed.response.headers)).toMatchObject({ quota: CACHED_QUOTA })
  })

  test('models are listed and found one by one', async () => {
    const models = await Array.fromAsync(client.models.list())
    expect(models.map((model) => model.id).sort()).toEqual([...Object.values(MODELS), EMBEDDING_MODEL].sort())
    expect(await client.models.retrieve(MODELS.claude)).toMatchObject({ id: MODELS.claude, object: 'model' })
  })
})

/** Which call each tool result belongs to, in either dialect. */
function toolResults(sent: Record<string, unknown>): readonly (readonly [string, string])[] {
  const messages = sent['messages'] as readonly Record<string, unknown>[]
  return messages.flatMap((message): readonly (readonly [string, string])[] => {
    if (message['role'] === 'tool') return [[String(message['tool_call_id']), String(message['content'])]]
    if (!Array.isArray(message['content'])) return []
    return (message['content'] as readonly Record<string, unknown>[])
      .filter((part) => part['type'] === 'tool_result')
      .map((part) => [String(part['tool_use_id']), textOf(part['content'])] as const)
  })
}

const textOf = (content: unknown): string =>
  typeof content === 'string' ? content : ((content as readonly { text?: string }[])[0]?.text ?? '')
