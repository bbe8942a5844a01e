/** A channel that goes through a proxy of its own: the whole way, to upstreams with and without TLS. */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import type { Socket } from 'node:net'
import { openAuthority } from '../support/certificates.ts'
import { openConnectProxy, openSocks5 } from '../support/proxies.ts'
import { openWireServer, type WireServer } from '../support/wire-server.ts'
import { adminInfo, ask, CHAT, costOf, openRelayWorld, type RelayWorld } from './world.ts'

const LOGIN = { user: 'us:er', password: 'p@ss w%rd' }
const authority = openAuthority()
let world: RelayWorld
let secure: WireServer
let socks: Awaited<ReturnType<typeof openSocks5>>
let http: Awaited<ReturnType<typeof openConnectProxy>>
beforeAll(async () => {
  world = await openRelayWorld({ env: { TLS_INSECURE_SKIP_VERIFY: 'true' } })
  // A certificate of nobody's authority, and of another name: a tunnel checks neither when told so.
  secure = await openWireServer({
    tls: authority.sign('DNS:other.example'),
    answer: (socket, { body }) => (body.includes('"stream":true') ? sayStream(socket) : sayWhole(socket)),
  })
  socks = await openSocks5({ login: LOGIN, isSlow: true })
  http = await openConnectProxy({ login: LOGIN })
}, 60_000)
afterAll(async () => {
  for (const server of [secure, socks, http]) server.stop()
  authority.close()
  await world.close()
}, 60_000)

const whole = JSON.stringify({
  id: 'x',
  object: 'chat.completion',
  choices: [{ index: 0, message: { role: 'assistant', content: 'h\u00e9 \u{1f389}' }, finish_reason: 'stop' }],
  usage: { prompt_tokens: 7, completion_tokens: 5, total_tokens: 12 },
})
const streamed = [
  'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"h\u00e9 \u{1f389}"}}]}\n\n',
  'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
  'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\n\n',
  'data: [DONE]\n\n',
]
function sayWhole(socket: Socket): void {
  const length = Buffer.byteLength(whole)
  socket.write(`HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n${whole}`)
}
function sayStream(socket: Socket): void {
  socket.write('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n')
  for (const frame of streamed) socket.write(`${Buffer.byteLength(frame).toString(16)}\r\n${frame}\r\n`)
  socket.write('0\r\n\r\n')
}

const named = (url: string, { user, password } = LOGIN): string =>
  url.replace('//', `//${encodeURIComponent(user)}:${encodeURIComponent(password)}@`)
const through = (proxy: string) => ({ setting: JSON.stringify({ proxy }) })

const KINDS = {
  socks5: () => named(socks.url),
  socks5h: () => named(socks.url.replace('socks5', 'socks5h')),
  http: () => named(http.url),
}
for (const [kind, proxy] of Object.entries(KINDS)) {
  test(`${kind}, to an https upstream whose name only the proxy knows: whole and streamed, on one connection`, async () => {
    const host = `upstream.example:${secure.port}`
    const { model } = await world.model({ baseUrl: `https://${host}`, fields: through(proxy()) })
    const before = secure.accepted()
    for (let i = 0; i < 2; i++) {
      const reply = await world.post(CHAT, ask(model))
      expect(reply.status).toBe(200)
      expect(await reply.text()).toBe(whole)
      expect(await world.row(reply)).toMatchObject({ prompt_tokens: 7, completion_tokens: 5, quota: costOf(7, 5) })
    }
    const options = { stream: true, stream_options: { include_usage: true } }
    const reply = await world.post(CHAT, ask(model, options))
    expect(await reply.text()).toBe(streamed.join(''))
    expect(await world.row(reply)).toMatchObject({ quota: costOf(7, 5), is_stream: true })
    expect(secure.accepted() - before).toBe(1)
    expect(secure.last()).toMatchObject({
      line: 'POST /v1/chat/completions HTTP/1.1',
      fields: { host, authorization: 'Bearer upstream-key', 'user-agent': 'headgate' },
    })
    expect(secure.last().head).not.toContain('proxy')
    if (kind === 'http') expect(http.heads.at(-1)).toStartWith(`CONNECT ${host} HTTP/1.1\r\n`)
    else expect(socks.asked.at(-1)).toEqual({ kind: 'name', host: 'upstream.example', port: secure.port })
  })
}

test('socks5, to a plain upstream, with a large body', async () => {
  const { model } = await world.model({ fields: through(named(socks.url)) })
  const content = 'x'.repeat(3_000_000)
  const reply = await world.post(CHAT, ask(model, { messages: [{ role: 'user', content }] }))
  expect(reply.status).toBe(200)
  expect(world.upstream.last().json()['messages']).toEqual([{ role: 'user', content }])
  expect(socks.asked.at(-1)).toEqual({ kind: 'v4', host: '127.0.0.1', port: Number(new URL(world.upstream.url).port) })
})

test('a proxy that does not know us is an upstream that cannot be reached; the client learns nothing of it', async () => {
  const wrong = { user: LOGIN.user, password: 'wrong-password' }
  for (const proxy of [named(socks.url, wrong), named(http.url, wrong)]) {
    const before = secure.requests.length
    const { model } = await world.model({ baseUrl: `https://upstream.example:${secure.port}`, fields: through(proxy) })
    const reply = await world.post(CHAT, ask(model))
    expect(reply.status).toBe(502)
    const text = await reply.text()
    expect(text).toContain('do_request_failed')
    for (const secret of ['wrong-', 'us:er', '127.0.0.1', 'upstream.example', 'proxy'])
      expect(text).not.toContain(secret)
    const row = await world.row(reply)
    expect(row.quota).toBe(0)
    expect(JSON.stringify(adminInfo(row))).not.toContain('wrong-password')
    expect(secure.requests.length).toBe(before)
  }
})
