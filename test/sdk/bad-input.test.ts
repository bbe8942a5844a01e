/**
 * Whatever is sent, the answer is a clear error in the client's dialect, nothing is charged, the upstream hears nothing and
 * the node goes on; and what was refused can be found in the log.
 */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { and, eq } from 'drizzle-orm'
import type { AdminClient, LogRow } from '../support/admin-client.ts'
import { openApp, type TestApp } from '../support/app.ts'
import { ENGINES } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { startUpstream, type Upstream } from '../support/upstream.ts'
import { requestIdOf } from './world.ts'

const LIMIT_BYTES = 1 << 20
const MODELS = { chat: 'served-by-chat', claude: 'served-by-claude', failing: 'fails-over' } as const
const ENTRANCES = [
  { dialect: 'openai', path: '/v1/chat/completions' },
  { dialect: 'claude', path: '/v1/messages' },
] as const
type Dialect = (typeof ENTRANCES)[number]['dialect']

let app: TestApp
let admin: AdminClient
let upstream: Upstream
const channels = { down: 0, up: 0 }

beforeAll(async () => {
  upstream = startUpstream()
  app = await openApp(ENGINES[0]!, { env: { MAX_REQUEST_BODY_MB: '1' } })
  admin = app.admin
  const ratio = Object.fromEntries(Object.values(MODELS).map((model) => [model, 1]))
  await admin.options({ ModelRatio: { ...ratio, 'no-channel': 1, flooded: 1 }, RetryTimes: 2 })
  await admin.channel({ name: 'chat', baseUrl: upstream.url, models: [MODELS.chat] })
  await admin.channel({ name: 'claude', type: 14, baseUrl: upstream.url, models: [MODELS.claude] })
  const failing = { baseUrl: upstream.url, models: [MODELS.failing] }
  channels.down = await admin.channel({
    ...failing,
    name: 'down',
    modelMapping: { [MODELS.failing]: 'down?status=503' },
    fields: { priority: 10 },
  })
  channels.up = await admin.channel({ ...failing, name: 'up', modelMapping: { [MODELS.failing]: 'up' } })
}, 60_000)

afterAll(async () => {
  await app.stop({ upstream: upstream.ledger.map((line) => line.requestId) })
  await upstream.stop()
}, 60_000)

interface Sent {
  readonly body: string | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>
  readonly headers?: Readonly<Record<string, string>>
  readonly apiKey?: string
}

const send = (path: string, { body, headers = {}, apiKey = app.key.key }: Sent): Promise<Response> =>
  fetch(`${app.url}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json', ...headers },
    body,
    signal: AbortSignal.timeout(20_000),
  })

/** An error that a client of the dialect can read, with a text for people that names the call. @returns that text */
function expectError(dialect: Dialect, json: unknown): string {
  const { error } = json as { error: { message: string; type: string; code?: string | null } }
  expect(error.type).toBeString()
  if (dialect === 'claude') expect(json).toMatchObject({ type: 'error' })
  else expect(error).toHaveProperty('code')
  expect(error.message).toBeString()
  expect(error.message.length).toBeGreaterThan(10)
  expect(error.message).toContain('request id')
  return error.message
}

/** The refusal of one call: status, shape, silence of the upstream, and a row that costs nothing. */
async function expectRefusal(dialect: Dialect, path: string, sent: Sent, statuses: readonly number[]): Promise<LogRow> {
  const heard = upstream.requests.length
  const reply = await send(path, sent)
  const text = await reply.text()
  expect({ status: statuses.includes(reply.status), text }).toEqual({ status: true, text })
  expectError(dialect, JSON.parse(text))
  expect(upstream.requests.length).toBe(heard)
  const row = await admin.logOf(requestIdOf(reply.headers))
  expect(row).toMatchObject({ type: 5, quota: 0, token_id: app.key.id })
  expect(row.content).not.toBe('')
  return row
}

const good = (model: string, extra: Readonly<Record<string, unknown>> = {}): string =>
  JSON.stringify({ model, max_tokens: 20, messages: [{ role: 'user', content: 'hi' }], ...extra })
/** A body that unpacks to this many bytes. */
const padded = (bytes: number): Uint8Array<ArrayBuffer> => {
  const body = new TextEncoder().encode(good(MODELS.chat, { padding: '@' }))
  const at = body.indexOf('@'.charCodeAt(0))
  const whole = new Uint8Array(bytes).fill('x'.charCodeAt(0))
  whole.set(body.subarray(0, at))
  whole.set(body.subarray(at), bytes - (body.length - at))
  return whole
}
const deep = (levels: number): string =>
  `{"model":"${MODELS.chat}","messages":${'['.repeat(levels)}${']'.repeat(levels)}}`

const REFUSED = [400]
const TOO_LARGE = [413]

for (const { dialect, path } of ENTRANCES) {
  describe(`bodies that are none, in the dialect of ${dialect}`, () => {
    const bad: Readonly<Record<string, string | Uint8Array<ArrayBuffer>>> = {
      'an empty body': '',
      'half a body': good(MODELS.chat).slice(0, 30),
      'words after the body': `${good(MODELS.chat)} and more`,
      'a list': '[]',
      'a number': '5',
      null: 'null',
      'an empty object': '{}',
      'no model': JSON.stringify({ messages: [{ role: 'user', content: 'hi' }] }),
      'a model that is a number': good(MODELS.chat, { model: 5 }),
      'a model that is a list': good(MODELS.chat, { model: [MODELS.chat] }),
      'an empty model': good(''),
      'no messages': JSON.stringify({ model: MODELS.chat }),
      'messages that are a text': good(MODELS.chat, { messages: 'hi' }),
      'messages that are an object': good(MODELS.chat, { messages: {} }),
      'no message at all': good(MODELS.chat, { messages: [] }),
      'a maximum that is absurd': good(MODELS.chat, { max_tokens: 1e15 }),
      'a negative maximum': good(MODELS.chat, { max_tokens: -5 }),
      'bytes that are no UTF-8': new Uint8Array([...new TextEncoder().encode('{"model":"'), 0xff, 0xfe, 0x22, 0x7d]),
      'a hundred thousand levels': deep(100_000),
    }
    for (const [name, body] of Object.entries(bad))
      test(name, async () => {
        await expectRefusal(dialect, path, { body }, REFUSED)
      })

    test('messages that cannot be put into the words of the other protocol', async () => {
      const model = dialect === 'openai' ? MODELS.claude : MODELS.chat
      for (const messages of [[null], [5], ['hi'], [{ role: 'user', content: 5 }], [{ role: 'user', content: [null] }]])
        await expectRefusal(dialect, path, { body: good(model, { messages }) }, REFUSED)
    })

    test('a deep content does not bring the node down, whoever has to read it', async () => {
      for (const model of [MODELS.chat, MODELS.claude]) {
        const content = `${'['.repeat(20_000)}${']'.repeat(20_000)}`
        const body = `{"model":"${model}","max_tokens":5,"messages":[{"role":"user","content":${content}}]}`
        const reply = await send(path, { body })
        expect(reply.status).toBeLessThan(500)
        await reply.bytes()
      }
    })
  })

  describe(`bodies that are too large or cut, in the dialect of ${dialect}`, () => {
    test('a body past the limit, with and without its length announced', async () => {
      const body = padded(LIMIT_BYTES + 1)
      await expectRefusal(dialect, path, { body }, TOO_LARGE)
      const inParts = new ReadableStream<Uint8Array>({
        start(controller) {
          for (let at = 0; at < body.length; at += 65_536) controller.enqueue(body.slice(at, at + 65_536))
          controller.close()
        },
      })
      await expectRefusal(dialect, path, { body: inParts }, TOO_LARGE)
    })

    test('a small body that unpacks to a huge one, in each encoding', async () => {
      const huge = padded(64 << 20)
      const packed = {
        gzip: Bun.gzipSync(huge),
        deflate: new Uint8Array(await packWith('deflate', huge)),
        br: new Uint8Array(await packWith('brotli', huge)),
        zstd: new Uint8Array(await Bun.zstdCompress(huge)),
      }
      for (const [encoding, body] of Object.entries(packed)) {
        expect(body.length).toBeLessThan(LIMIT_BYTES)
        await expectRefusal(dialect, path, { body, headers: { 'content-encoding': encoding } }, TOO_LARGE)
      }
    })

    test('a packed body that is damaged, cut, or in no known encoding', async () => {
      const packed = Bun.gzipSync(new TextEncoder().encode(good(MODELS.chat)))
      const gzip = { 'content-encoding': 'gzip' }
      await expectRefusal(dialect, path, { body: good(MODELS.chat), headers: gzip }, REFUSED)
      await expectRefusal(dialect, path, { body: packed.slice(0, packed.length - 12), headers: gzip }, REFUSED)
      await expectRefusal(dialect, path, { body: packed, headers: { 'content-encoding': 'rot13' } }, REFUSED)
    })

    test('a packed body within the limit is served', async () => {
      const body = Bun.gzipSync(new TextEncoder().encode(good(MODELS.chat)))
      const reply = await send(path, { body, headers: { 'content-encoding': 'gzip' } })
      expect(reply.status).toBe(200)
      await reply.json()
    })

    test('uploads that are cut, announced or in chunks, leave no trace upstream', async () => {
      const heard = upstream.requests.length
      const { port } = new URL(app.url)
      const head = `POST ${path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${app.key.key}\r\nContent-Type: application/json\r\n`
      const whole = good(MODELS.chat)
      const cut = whole.slice(0, 20)
      for (const rest of [
        `Content-Length: ${whole.length}\r\n\r\n${cut}`,
        `Transfer-Encoding: chunked\r\n\r\n${cut.length.toString(16)}\r\n${cut}\r\n`,
        `Transfer-Encoding: chunked\r\n\r\nnot a length\r\n${cut}\r\n`,
      ]) {
        const socket = await Bun.connect({ hostname: '127.0.0.1', port: Number(port), socket: { data: () => {} } })
        socket.write(head + rest)
        socket.flush()
        socket.end()
      }
      expect((await send(path, { body: good(MODELS.chat) })).status).toBe(200)
      expect(upstream.requests.length).toBe(heard + 1)
    })
  })

  describe(`keys that may not call, in the dialect of ${dialect}`, () => {
    const refusal = async (apiKey: string, status: number, model: string = MODELS.chat): Promise<string> => {
      const heard = upstream.requests.length
      // A change of a key is known on the whole node within milliseconds, not at once.
      const text = await eventually('the key is refused', async () => {
        const reply = await send(path, { body: good(model), apiKey })
        const said = await reply.text()
        return reply.status === status ? said : undefined
      })
      expect(upstream.requests.length).toBe(heard)
      return expectError(dialect, JSON.parse(text))
    }

    test('none, an unknown one, an expired one, a disabled one, one of a disabled user', async () => {
      await refusal('', 401)
      await refusal('sk-unknown', 401)
      await refusal((await admin.apiKey(app.user, { fields: { expired_time: 1_000_000_000 } })).key, 401)
      const disabled = await admin.apiKey(app.user)
      await admin.call('PUT', '/api/token/?status_only=true', { id: disabled.id, status: 2 }, app.user)
      await refusal(disabled.key, 401)
      const user = await admin.user(1_000_000)
      const orphan = await admin.apiKey(user)
      await admin.call('POST', '/api/user/manage', { id: user.id, action: 'disable' })
      await refusal(orphan.key, 403)
    })

    test('one from another address, one for other models', async () => {
      const elsewhere = await admin.apiKey(app.user, { fields: { allow_ips: '203.0.113.7' } })
      await refusal(elsewhere.key, 403)
      const narrow = await admin.apiKey(app.user, {
        fields: { model_limits_enabled: true, model_limits: MODELS.claude },
      })
      expect(await refusal(narrow.key, 403)).toContain(MODELS.chat)
    })

    test('one of an empty wallet, one that is used up', async () => {
      const poor = await admin.apiKey(await admin.user(0))
      await refusal(poor.key, 403)
      const small = await admin.apiKey(app.user, { quota: 1 })
      await refusal(small.key, 403)
    })
  })
}

describe('the other entrances', () => {
  test('completions and embeddings without their input are refused in the shape of OpenAI', async () => {
    await expectRefusal('openai', '/v1/completions', { body: JSON.stringify({ model: MODELS.chat }) }, REFUSED)
    await expectRefusal('openai', '/v1/embeddings', { body: JSON.stringify({ model: MODELS.chat }) }, REFUSED)
    await expectRefusal('claude', '/v1/messages/count_tokens', { body: '{"model":' }, REFUSED)
  })
})

describe('what the log says', () => {
  test('40 calls to a model without a channel leave 40 rows that say so', async () => {
    const key = await admin.apiKey(app.user, { name: 'forty' })
    const body = good('no-channel')
    const ids: string[] = []
    for (let i = 0; i < 40; i++) {
      const { dialect, path } = ENTRANCES[i % 2]!
      const reply = await send(path, { body, apiKey: key.key })
      expect(reply.status).toBe(503)
      expect(expectError(dialect, await reply.json())).toContain('no-channel')
      ids.push(requestIdOf(reply.headers))
    }
    const rows = await eventually('40 rows', async () => {
      const found = await admin.logs('token_name=forty')
      return found.length >= 40 ? found : undefined
    })
    expect(rows.map((row) => row.request_id).sort()).toEqual(ids.sort())
    for (const row of rows) {
      expect(row).toMatchObject({ type: 5, quota: 0, model_name: 'no-channel', channel: 0 })
      expect(row.content).toContain('no-channel')
      expect(row.other['error_code']).toBe('model_not_found')
    }
  })

  test('a call that fails over leaves one row with its attempts, which its user sees without channels', async () => {
    const reply = await send('/v1/chat/completions', { body: good(MODELS.failing) })
    expect(reply.status).toBe(200)
    await reply.json()
    const id = requestIdOf(reply.headers)
    const row = await admin.logOf(id)
    expect(row).toMatchObject({ type: 2, channel: channels.up })
    const { attempts } = row.other['admin_info'] as { attempts: readonly Record<string, unknown>[] }
    expect(attempts).toHaveLength(2)
    expect(attempts[0]).toMatchObject({ channel: channels.down, status: 503 })
    expect(attempts[1]).toMatchObject({ channel: channels.up, status: 200 })
    const [own] = await admin.logs(`request_id=${id}`, app.user)
    expect(own).toMatchObject({ type: 2, channel: 0, quota: row.quota })
    expect(own?.other).not.toHaveProperty('admin_info')
    expect(JSON.stringify(own)).not.toContain('"down"')
  })

  // The last one: it ends the app, as a stop also writes what was joined.
  test('of 200 equal refusals within a minute, what is past 60 is joined into a row with its count', async () => {
    const key = await admin.apiKey(app.user, { name: 'flood' })
    const replies = await Promise.all(
      Array.from({ length: 200 }, () => send('/v1/chat/completions', { body: good('flooded'), apiKey: key.key })),
    )
    expect(replies.map((reply) => reply.status)).toEqual(Array<number>(200).fill(503))
    await app.drain()
    const { logs } = app.db.tables
    const rows = await app.db
      .select({ other: logs.other, content: logs.content })
      .from(logs)
      .where(and(eq(logs.tokenId, key.id), eq(logs.type, 5)))
    const counts = rows.map((row) => {
      const { refusals_joined } = JSON.parse(row.other ?? '{}') as { refusals_joined?: number }
      return refusals_joined ?? 1
    })
    // The flood may fall into two minutes.
    expect(rows.length).toBeLessThanOrEqual(122)
    expect(counts.some((count) => count > 1)).toBe(true)
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(200)
  })
})

async function packWith(format: Bun.CompressionFormat, bytes: Uint8Array<ArrayBuffer>): Promise<ArrayBuffer> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream(format as CompressionFormat))
  return new Response(stream).arrayBuffer()
}
