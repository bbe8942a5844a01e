/** Time-outs of one upstream call, and the connection that no host takes. */
import { afterAll, afterEach, describe, expect, test } from 'bun:test'
import { systemClock } from '../../src/lib/clock.ts'
import { createHttpClient } from '../../src/lib/http/client.ts'
import { createSender, readAnswer, type UpstreamLimits } from '../../src/relay/upstream.ts'
import { createWatch } from '../../src/relay/watch.ts'
import { eventually } from '../support/eventually.ts'
import { startUpstream } from '../support/upstream.ts'

const upstream = startUpstream()
afterEach(() => upstream.clear())
afterAll(() => upstream.stop())

const NONE: UpstreamLimits = { connectMs: 0, firstByteMs: 0, idleMs: 0, totalMs: 0 }

function sender() {
  const watch = createWatch(systemClock, 10)
  const client = createHttpClient({ clock: systemClock, isTlsChecked: true, proxies: { http: '', https: '', no: '' } })
  const { send: sendTo } = createSender({ client, clock: systemClock, watch })
  const send = (model: string, limits: Partial<UpstreamLimits>, url = upstream.url, proxy = '') =>
    sendTo({
      url: `${url}/v1/chat/completions`,
      headers: new Headers({ 'content-type': 'application/json' }),
      body: JSON.stringify({ model }),
      proxy,
      limits: { ...NONE, idleMs: 60_000, ...limits },
      onOpen: () => {},
    })
  return { send, watch }
}

/** Takes no connection and refuses none: nothing answers from these addresses. https://www.rfc-editor.org/rfc/rfc5737 */
const NOBODY = '192.0.2.1:9'

describe('time-outs', () => {
  test('a host that takes no connection is given up after the connect limit, long before the first-byte limit', async () => {
    const { send, watch } = sender()
    const startedAtMs = performance.now()
    const call = send('x', { connectMs: 200, firstByteMs: 60_000 }, `http://${NOBODY}`)
    await expect(call).rejects.toMatchObject({ code: 'do_request_failed' })
    expect(performance.now() - startedAtMs).toBeLessThan(2_000)
    expect(watch.size).toBe(0)
  })

  test('so is one that takes the connection and never ends its TLS handshake', async () => {
    const silent = Bun.listen({ hostname: '127.0.0.1', port: 0, socket: { data: () => {} } })
    const { send } = sender()
    const call = send('x', { connectMs: 200, firstByteMs: 60_000 }, `https://127.0.0.1:${silent.port}`)
    await expect(call).rejects.toMatchObject({ code: 'do_request_failed', detail: 'connect time-out' })
    silent.stop(true)
  })

  test('a slow model on a host that does take connections is not mistaken for a dead host', async () => {
    const { send } = sender()
    const exchange = await send('x?delay=400', { connectMs: 100, firstByteMs: 60_000 })
    expect(exchange.answer.status).toBe(200)
    await readAnswer(exchange, 10_000)
    exchange.close()
  })

  test('a proxy that does not let us through is a host that takes no connection', async () => {
    const silent = Bun.listen({ hostname: '127.0.0.1', port: 0, socket: { data: () => {} } })
    const { send } = sender()
    for (const scheme of ['http', 'socks5', 'socks5h']) {
      const proxy = `${scheme}://user:secret@127.0.0.1:${silent.port}`
      const call = send('x', { connectMs: 100 }, 'https://upstream.example', proxy)
      await expect(call).rejects.toMatchObject({ code: 'do_request_failed', detail: 'connect time-out' })
    }
    silent.stop(true)
  })

  test('until the headers, and of the whole call, each with its own limit', async () => {
    const { send, watch } = sender()
    await expect(send('x?delay=60000', { firstByteMs: 100 })).rejects.toMatchObject({ code: 'upstream_timeout' })
    await expect(send('x?delay=60000', { totalMs: 100 })).rejects.toMatchObject({ code: 'upstream_timeout' })
    expect(watch.size).toBe(0)
    await eventually('the upstream was let go', () => upstream.active() === 0)
  })

  test('an answer that says from time to time that it still works may take longer than the silence limit', async () => {
    const parts = [...Array.from({ length: 8 }, () => '\n'), '{"a":1}']
    upstream.next({ paceMs: 60, raw: { contentType: 'application/json', parts } })
    const { send } = sender()
    const exchange = await send('x', { idleMs: 200 })
    expect(new TextDecoder().decode(await readAnswer(exchange, 1_000)).trim()).toBe('{"a":1}')
    exchange.close()
  })

  test('an answer that falls silent, or outgrows what may be held, is given up', async () => {
    const { send } = sender()
    upstream.next({ pauseAfter: 1, raw: { contentType: 'application/json', parts: ['{', '}'] } })
    const silent = await send('x', { idleMs: 100 })
    await expect(readAnswer(silent, 1_000)).rejects.toMatchObject({ code: 'upstream_timeout' })
    silent.close()
    upstream.next({ raw: { contentType: 'application/json', parts: ['x'.repeat(600), 'x'.repeat(600)] } })
    const large = await send('x', {})
    await expect(readAnswer(large, 1_000)).rejects.toMatchObject({ code: 'bad_response_body' })
    large.abort('done')
    large.close()
  })
})

test('redirects are not followed: their address would get the key', async () => {
  const { send } = sender()
  upstream.next({
    status: 302,
    headers: { location: `${upstream.url}/elsewhere` },
    raw: { contentType: 'text/plain', parts: ['x'] },
  })
  const exchange = await send('x', {})
  expect(exchange.answer.status).toBe(302)
  exchange.abort('done')
  exchange.close()
  expect(upstream.requests).toHaveLength(1)
})
