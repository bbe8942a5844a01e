/** Large bodies are read another way than small ones, and must mean the same: bytes, counts, conversions and errors. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createServer, type Socket } from 'node:net'
import { estimateInputTokens } from '../../src/domain/billing/estimate.ts'
import { codecs } from '../../src/protocol/index.ts'
import { CHAT, MESSAGES, openRelayWorld, PROVIDER, type RelayWorld } from './world.ts'

let world: RelayWorld
beforeAll(async () => {
  world = await openRelayWorld({ settings: { RetryTimes: 2 } })
}, 60_000)
afterAll(() => world.close(), 60_000)

const LONG = 'Füchse sind schlau, "狐狸" 🎉 also.\n\tSee https://example.com/?a=1 at 7:30.\\ '.repeat(6_000)
type Json = Record<string, unknown>

const SHORT = 'Go on.'
const IMAGE = 'iVBORw0KGgo'.repeat(40_000)

const chatBody = (model: string) => ({
  model,
  service_tier: 'auto',
  max_tokens: 50,
  messages: [
    { role: 'system', content: LONG },
    {
      role: 'user',
      name: 'fox',
      content: [
        { type: 'text', text: LONG },
        { type: 'image_url', image_url: { url: `data:image/png;base64,${IMAGE}` } },
      ],
    },
    {
      role: 'assistant',
      content: SHORT,
      tool_calls: [
        { id: 'c1', type: 'function', function: { name: 'write', arguments: JSON.stringify({ text: LONG }) } },
      ],
    },
    { role: 'tool', tool_call_id: 'c1', content: LONG },
    { role: 'user', content: SHORT },
  ],
  tools: [
    {
      type: 'function',
      function: { name: 'write', description: LONG, parameters: { type: 'object', description: LONG } },
    },
  ],
})
const claudeBody = (model: string) => ({
  model,
  max_tokens: 50,
  system: LONG,
  messages: [
    {
      role: 'user',
      content: [
        { type: 'image', source: { type: 'base64', media_type: 'image/png', data: IMAGE } },
        { type: 'text', text: LONG },
      ],
    },
    { role: 'assistant', content: [{ type: 'tool_use', id: 't1', name: 'write', input: { text: LONG } }] },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: 't1', content: LONG }] },
  ],
})
/** Escapes that no serialiser of ours writes. */
const written = (body: unknown): string => JSON.stringify(body, null, 1).replaceAll('schlau', 'schl\\u0061u')

const DIALECTS = [
  { path: CHAT, type: PROVIDER.openai, protocol: 'openai-chat', body: chatBody },
  { path: MESSAGES, type: PROVIDER.anthropic, protocol: 'claude', body: claudeBody },
] as const

for (const { path, type, protocol, body } of DIALECTS)
  describe(path, () => {
    test('goes out to the byte with its length, and costs what a count of the whole text says', async () => {
      const { model } = await world.model({ type, behaviour: { usage: 'none' } })
      const { service_tier: _filtered, ...kept } = body(model) as Json
      const reply = await world.post(path, written(body(model)))
      expect(reply.status).toBe(200)
      const sent = world.upstream.last()
      expect(new TextDecoder().decode(sent.body)).toBe(written(kept))
      expect(sent.headers['content-length']).toBe(String(sent.body.length))
      expect(sent.headers['transfer-encoding']).toBeUndefined()
      const counted = estimateInputTokens(codecs[protocol].countable(body(model)), model)
      expect((await world.row(reply)).prompt_tokens).toBe(counted)
    })

    const other = DIALECTS.find((dialect) => dialect.path !== path)!
    const expectConverted = (upstreamModel: string) => {
      const { value } = codecs[protocol].decodeRequest(body(upstreamModel))
      const { json } = codecs[other.protocol].encodeRequest(value)
      const { body: sent, headers } = world.upstream.last()
      const { service_tier: _filtered, ...arrived } = JSON.parse(new TextDecoder().decode(sent)) as object & Json
      expect(arrived).toEqual(json as Json)
      expect(headers['content-length']).toBe(String(sent.length))
    }

    test('is converted as a whole', async () => {
      const { model } = await world.model({ type: other.type })
      const reply = await world.post(path, written(body(model)))
      expect(reply.status).toBe(200)
      expectConverted(model)
    })

    test('is converted again when an upstream fails', async () => {
      const fields = { priority: 10 }
      const { model } = await world.model({ type: other.type, behaviour: { status: 503 }, fields })
      await world.channel({ model, type: other.type, sentAs: 'another-name' })
      const reply = await world.post(path, written(body(model)))
      expect(reply.status).toBe(200)
      expectConverted('another-name')
    })

    test('is converted and edited', async () => {
      const fields = { param_override: JSON.stringify({ temperature: 0.5 }) }
      const { model } = await world.model({ type: other.type, fields })
      expect((await world.post(path, written(body(model)))).status).toBe(200)
      const { temperature, messages } = world.upstream.last().json()
      expect(temperature).toBe(0.5)
      expect(JSON.stringify(messages)).toContain(JSON.stringify(LONG).slice(1, -3))
    })

    test('is sent again as a whole when an upstream fails', async () => {
      const { model } = await world.model({ type, behaviour: { status: 503 }, fields: { priority: 10 } })
      await world.channel({ model, type, sentAs: 'another-name' })
      const reply = await world.post(path, written(body(model)))
      expect(reply.status).toBe(200)
      expect(world.upstream.last().json()['messages']).toEqual(body(model).messages)
      expect(world.upstream.last().model).toBe('another-name')
    })

    test('is refused when it is none, wherever the fault is', async () => {
      const { model } = await world.model({ type })
      const heard = world.upstream.requests.length
      const good = written(body(model))
      const at = good.indexOf(IMAGE.slice(0, 50)) + 5_000
      const bytes = new TextEncoder().encode(good)
      bytes[at + 100] = 0xff
      for (const bad of [
        good.slice(0, -1),
        good.slice(0, at),
        `${good.slice(0, at)}\n${good.slice(at)}`,
        `${good} x`,
        bytes,
      ]) {
        const reply = await world.post(path, bad)
        expect([reply.status, await reply.text()]).toEqual([400, expect.stringContaining('body is not valid')])
      }
      expect(world.upstream.requests.length).toBe(heard)
    })
  })

test('a channel that edits bodies edits large ones', async () => {
  const fields = {
    param_override: JSON.stringify({ temperature: 0.5 }),
    setting: JSON.stringify({ system_prompt: 'Be brief.' }),
  }
  const { model } = await world.model({ fields })
  const { messages, ...rest } = chatBody(model)
  const reply = await world.post(CHAT, written({ ...rest, messages: messages.slice(1) }))
  expect(reply.status).toBe(200)
  expect(world.upstream.last().json()).toMatchObject({
    temperature: 0.5,
    messages: [{ role: 'system', content: 'Be brief.' }, ...messages.slice(1)],
  })
})

test('a model that is named twice, far apart, is seen', async () => {
  const { model } = await world.model()
  const body = JSON.stringify({ ...chatBody(model), model: 'dearer' }).replace(/}$/, `,"model":"${model}"}`)
  expect((await world.post(CHAT, body)).status).toBe(200)
  expect(new TextDecoder().decode(world.upstream.last().body)).not.toContain('dearer')
})

test('a compressed upload is read as any other', async () => {
  const { model } = await world.model()
  const headers = { 'content-encoding': 'gzip' }
  expect((await world.post(CHAT, Bun.gzipSync(written(chatBody(model))), { headers })).status).toBe(200)
  expect(world.upstream.last().json()['messages']).toEqual(chatBody(model).messages)
})

test('an upstream that answers before it has read all still gets all', async () => {
  const received: Buffer[] = []
  const size = () => received.reduce((sum, part) => sum + part.length, 0)
  const frame = (delta: object, finish: string | null) =>
    `data: ${JSON.stringify({ id: 'x', object: 'chat.completion.chunk', created: 1, model: 'm', choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`
  const chunk = (text: string) => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`
  const answer = (socket: Socket): void => {
    socket.on('error', () => {})
    socket.on('data', (part) => {
      if (received.length === 0) {
        socket.write('HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n')
        socket.write(chunk(frame({ role: 'assistant', content: 'Early.' }, null)))
      }
      received.push(Buffer.from(part))
      const all = Buffer.concat(received)
      const headEnd = all.indexOf('\r\n\r\n')
      const length = Number(/content-length: (\d+)/i.exec(all.toString('latin1', 0, headEnd))?.[1])
      if (size() - headEnd - 4 < length) {
        // Slowly, so that the client has its answer's beginning long before.
        socket.pause()
        setTimeout(() => socket.resume(), 20)
      } else socket.end(`${chunk(`${frame({}, 'stop')}data: [DONE]\n\n`)}0\r\n\r\n`)
    })
  }
  const server = createServer(answer)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  try {
    const { port } = server.address() as { port: number }
    const { model } = await world.model({ baseUrl: `http://127.0.0.1:${port}` })
    const { service_tier: _filtered, ...body } = {
      ...chatBody(model),
      stream: true,
      stream_options: { include_usage: true },
    }
    const reply = await world.post(CHAT, body)
    expect(await reply.text()).toEndWith('data: [DONE]\n\n')
    const all = Buffer.concat(received)
    expect(all.subarray(all.indexOf('\r\n\r\n') + 4).toString()).toBe(JSON.stringify(body))
  } finally {
    server.close()
  }
})
