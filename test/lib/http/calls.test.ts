/** What goes out for a call, in which order the two sides may be slow, how a call ends, and which connection it takes. */
import { afterAll, beforeAll, describe, expect, spyOn, test } from 'bun:test'
import type { HttpRequest } from '../../../src/lib/http/client.ts'
import { openAuthority } from '../../support/certificates.ts'
import { eventually } from '../../support/eventually.ts'
import { openWireServer, type WireOptions } from '../../support/wire-server.ts'
import { failure, noise, OK, openClient, openClock, sha256, standsStill, whole } from './support.ts'

const authority = openAuthority()
const certificate = authority.sign('DNS:localhost', 'IP:127.0.0.1')
const unhandled: unknown[] = []
const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
beforeAll(() => void process.on('unhandledRejection', onUnhandled))
afterAll(() => {
  authority.close()
  process.off('unhandledRejection', onUnhandled)
  expect(unhandled).toEqual([])
})

async function withServer(
  options: WireOptions,
  work: (server: Awaited<ReturnType<typeof openWireServer>>) => Promise<void>,
): Promise<void> {
  const server = await openWireServer(options)
  try {
    await work(server)
    await eventually('no connection is left', () => server.open() === 0)
  } finally {
    server.stop()
  }
}
const answersOk: WireOptions = { answer: (socket) => socket.write(OK) }

async function* inPieces(bytes: Uint8Array, pieceBytes: number, onEnd = (): void => {}): AsyncGenerator<Uint8Array> {
  try {
    for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes)
  } finally {
    onEnd()
  }
}
const upload = (bytes: Uint8Array, pieceBytes: number, onEnd?: () => void): Exclude<HttpRequest['body'], string> => ({
  length: bytes.length,
  pieces: () => inPieces(bytes, pieceBytes, onEnd),
})

describe('the request', () => {
  test('to the letter', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      const headers = new Headers({ 'X-One': 'a  b', authorization: 'Bearer k' })
      await whole(client.post(`${server.url}/v1/chat?x=1`, { headers, body: 'h\u00e9' }))
      expect(server.last().head.split('\r\n')).toEqual([
        'POST /v1/chat?x=1 HTTP/1.1',
        'authorization: Bearer k',
        'x-one: a  b',
        `host: 127.0.0.1:${server.port}`,
        'content-length: 3',
      ])
      expect([...server.last().body]).toEqual([0x68, 0xc3, 0xa9])
      client.close()
    }))

  test('a host of the caller is the only one', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      await whole(client.post(server.url, { headers: new Headers({ host: 'other.example' }) }))
      expect(server.last().head.match(/^host: .*$/gim)).toEqual(['host: other.example'])
      client.close()
    }))

  test('how the bytes are put on the wire is not the caller’s to say', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      const headers = new Headers({
        'content-length': '99',
        'transfer-encoding': 'chunked',
        connection: 'close',
        'keep-alive': 'timeout=1',
        upgrade: 'h2c',
        expect: '100-continue',
        te: 'trailers',
        'x-kept': '1',
      })
      await whole(client.post(server.url, { headers, body: 'ab' }))
      expect(Object.keys(server.last().fields).sort()).toEqual(['content-length', 'host', 'x-kept'])
      expect(server.last().fields['content-length']).toBe('2')
      client.close()
    }))

  test('a value goes out as Latin-1, one letter a byte; what no byte holds never comes so far', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      await whole(client.post(server.url, { headers: new Headers({ 'x-name': 'caf\u00e9 \u00ff' }), body: 'ab' }))
      expect(server.last().fields['x-name']).toBe('caf\xe9 \xff')
      expect(server.last().body.toString()).toBe('ab')
      // As a byte each of these would end the line, or the head.
      for (const value of ['\u010d\u010ax-evil: 1', '\u560a\u560d', 'a\r\nx-evil: 1', 'a\nb', 'a\0b', 'a\rb'])
        expect(() => new Headers({ 'x-name': value })).toThrow()
      client.close()
    }))

  test('fields may be a map: trimmed, and none that could be read as another', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      await whole(
        client.post(server.url, { headers: new Map([['x-name', ' \u00a0caf\u00e9\x7f\u00a0\t']]), body: 'ab' }),
      )
      expect(server.last().head).toContain('\r\nx-name: \xa0caf\xe9\x7f\xa0\r\n')
      const bad: readonly (readonly [string, string])[] = [
        ...['\u010d\u010ax-evil: 1', '\u560a\u560d', 'a\r\nx-evil: 1', 'a\nb', 'a\0b', 'a\rb'].map(
          (value) => ['x-name', value] as const,
        ),
        ...['', 'a b', 'a:', 'a\r\nx-evil', 'X-Name', 'Content-Length', 'n\u00e4me'].map(
          (name) => [name, '1'] as const,
        ),
      ]
      for (const field of bad)
        await expect(client.post(server.url, { headers: new Map([field]) }).answer).rejects.toMatchObject({
          code: 'HTTP_BAD_FIELD',
        })
      expect(server.last().head).toContain('\r\nx-name: \xa0caf\xe9\x7f\xa0\r\n')
      client.close()
    }))

  const URLS: Readonly<Record<string, string>> = {
    '': '/',
    '/': '/',
    '?a=1': '/?a=1',
    '/a#part': '/a',
    '/a?b=c#part?d': '/a?b=c',
    '/a b': '/a%20b',
    '/a/./b/../c': '/a/c',
    '/../c': '/c',
    '/.': '/',
    '/a/%2e%2E/c': '/c',
    '/a.b/..c/c..': '/a.b/..c/c..',
    '/a?up=/../x': '/a?up=/../x',
    '/caf\u00e9': '/caf%C3%A9',
    '\\a': '/a',
    '/a\r\nx-evil: 1': '/ax-evil:%201',
    '/a?b=\r\n\r\nGET /': '/a?b=GET%20/',
    '/%0d%0a': '/%0d%0a',
    '/v1/models/m:generate?alt=sse&k=%7B%7D': '/v1/models/m:generate?alt=sse&k=%7B%7D',
  }
  test('what stands in a URL and does not belong on the wire is left out, or written as URLs write it', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      for (const [written, sent] of Object.entries(URLS)) {
        await whole(client.post(`${server.url}${written}`))
        expect({ written, line: server.last().line }).toEqual({ written, line: `POST ${sent} HTTP/1.1` })
        expect(Object.keys(server.last().fields)).toEqual(['host', 'content-length'])
      }
      expect(server.accepted()).toBe(1)
      client.close()
    }))

  test('a name in the URL logs in, unless the caller does, and stands nowhere else', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      const url = `http://us%40er:p%25%20w%@127.0.0.1:${server.port}/x`
      await whole(client.post(url.replace('w%@', 'w@')))
      expect(server.last().fields['authorization']).toBe(`Basic ${btoa('us@er:p% w')}`)
      expect(server.last().head).toStartWith(`POST /x HTTP/1.1\r\nhost: 127.0.0.1:${server.port}\r\n`)
      await whole(client.post(url))
      expect(server.last().fields['authorization']).toBe(`Basic ${btoa('us@er:p%25%20w%')}`)
      await whole(client.post(url, { headers: new Headers({ authorization: 'Bearer k' }) }))
      expect(server.last().head.match(/authorization: .*/g)).toEqual(['authorization: Bearer k'])
      client.close()
    }))

  test('halves of pairs in a text take the bytes that were announced', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      for (const body of ['a\ud83dz', 'a\ude00', '\u{1f600}'.repeat(3), '\ud83d'.repeat(40_000)]) {
        await whole(client.post(server.url, { body }))
        expect(server.last().body.equals(Buffer.from(new TextEncoder().encode(body)))).toBe(true)
      }
      expect(server.accepted()).toBe(1)
      client.close()
    }))

  test('what is no http or https URL fails with a code', async () => {
    const client = openClient()
    for (const url of ['', 'x', 'http://', 'http://a b/', 'http://x:70000/', 'http://[::1/'])
      expect({ url, ...(await failure(client.post(url))) }).toEqual({ url, code: 'ERR_INVALID_URL', text: '' })
    for (const url of ['ftp://x.example/', 'ws://x.example/'])
      expect((await failure(client.post(url))).code).toBe('HTTP_BAD_URL')
    expect((await failure(client.post('file:///x'))).code).toBeString()
  })
})

describe('bodies of 10 MB', () => {
  const bytes = noise(10_000_000)
  const text = '{"text":"h\u00e9llo \u{1f600} \u4f60\u597d"}'.repeat(280_000)
  const BODIES: Readonly<Record<string, () => HttpRequest['body']>> = {
    bytes: () => bytes,
    text: () => text,
    'small pieces': () => upload(bytes, 10_007),
    'large pieces': () => upload(bytes, 3_000_000),
  }
  for (const isTls of [false, true])
    for (const isSlow of [false, true])
      for (const [kind, body] of Object.entries(BODIES))
        test(`arrive to the byte: ${kind}${isTls ? ', by TLS' : ''}${isSlow ? ', read slowly' : ''}`, () =>
          withServer(
            {
              tls: isTls ? certificate : undefined,
              answer: (socket) => socket.write(OK),
            },
            async (server) => {
              const client = openClient()
              const call = client.post(server.url, { body: body() })
              if (isSlow) {
                await eventually('the server is called', () => server.open() === 1, { everyMs: 1 })
                // Nothing is read for long enough to fill all that lies between, again and again.
                for (const socket of server.sockets) {
                  socket.pause()
                  const timer = setInterval(() => {
                    socket.resume()
                    setImmediate(() => socket.pause())
                  }, 1)
                  call.answer.finally(() => clearInterval(timer))
                }
              }
              expect((await whole(call)).text).toBe('ok')
              const sent = typeof body() === 'string' ? Buffer.from(text) : bytes
              expect(server.last().body.length).toBe(sent.length)
              expect(sha256(server.last().body)).toBe(sha256(sent))
              // The connection is where it was: at the start of a request.
              for (const socket of server.sockets) socket.resume()
              expect((await whole(client.post(server.url, { body: 'again' }))).text).toBe('ok')
              expect(server.last().body.toString()).toBe('again')
              client.close()
            },
          ))

  test('a head that the system does not take at once goes out before its body', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      const headers = new Headers({ 'x-long': 'y'.repeat(12_000_000) })
      const short = noise(1_000)
      for (const body of [short, noise(100_000), upload(noise(100_000), 7_000)]) {
        const call = client.post(server.url, { headers, body })
        await eventually('the server is called', () => server.open() === 1, { everyMs: 1 })
        for (const socket of server.sockets) {
          socket.pause()
          setTimeout(() => socket.resume(), 20)
        }
        await whole(call)
        expect(server.last().fields['x-long']?.length).toBe(12_000_000)
        expect(server.last().body.equals(body === short ? short : noise(100_000))).toBe(true)
        await eventually('kept', () => server.accepted() === 1)
      }
      client.close()
    }))

  test('bodies at the edge of one write', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      for (const length of [0, 1, 65_535, 65_536, 65_537, 65_536 * 4])
        for (const body of [noise(length), 'x'.repeat(length), upload(noise(length), 1_000)]) {
          await whole(client.post(server.url, { body }))
          const sent = typeof body === 'string' ? Buffer.from(body) : noise(length)
          expect(server.last().body.equals(sent)).toBe(true)
        }
      expect(server.accepted()).toBe(1)
      client.close()
    }))
})

describe('an upload', () => {
  test('is asked for its pieces only as fast as the server reads, and told when nobody wants more', () =>
    withServer({ onSocket: (socket) => socket.pause() }, async (server) => {
      const client = openClient()
      let given = 0
      let ends = 0
      const piece = new Uint8Array(100_000)
      const call = client.post(server.url, {
        body: {
          length: 1e9,
          async *pieces() {
            try {
              for (; given < 1e9; given += piece.length) yield piece
            } finally {
              ends++
            }
          },
        },
      })
      await standsStill(() => given)
      expect(given).toBeLessThan(20_000_000)
      expect(ends).toBe(0)
      call.abort(new Error('enough'))
      await expect(call.answer).rejects.toThrow('enough')
      await eventually('it is told', () => ends === 1)
      for (const socket of server.sockets) socket.resume()
    }))

  test('that throws fails the call, and its connection carries no other', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      const broken = async function* (): AsyncGenerator<Uint8Array> {
        yield new Uint8Array(10)
        throw Object.assign(new Error('no more'), { code: 'E_MINE' })
      }
      expect(await failure(client.post(server.url, { body: { length: 20, pieces: broken } }))).toEqual({
        code: 'E_MINE',
        text: '',
      })
      const atOnce = (): never => {
        throw Object.assign(new Error('never'), { code: 'E_MINE' })
      }
      for (let i = 0; i < 2; i++) {
        expect((await failure(client.post(server.url, { body: { length: 20, pieces: atOnce } }))).code).toBe('E_MINE')
        await eventually('hung up', () => server.open() === 0)
        await whole(client.post(server.url))
      }
      // The second call without pieces met a connection that was kept.
      expect(server.requests.map(({ body }) => body.length)).toEqual([0, 0])
      client.close()
    }))

  test('longer or shorter than announced fails: what is too much would be read as the next call, and is not sent', () => {
    let heard = ''
    return withServer(
      { onSocket: (socket) => socket.on('data', (bytes) => (heard += bytes.toString())) },
      async (server) => {
        for (const [length, pieces] of [
          [10, [6, 6]],
          [10, [10, 1]],
          [10, [6, 3]],
          [10, []],
          [0, [1]],
        ] as const) {
          let ends = 0
          const body = {
            length,
            async *pieces(): AsyncGenerator<Uint8Array> {
              try {
                for (const bytes of pieces) yield new Uint8Array(bytes).fill(120)
              } finally {
                ends++
              }
            },
          }
          expect(await failure(openClient().post(server.url, { body }))).toEqual({ code: 'HTTP_BAD_BODY', text: '' })
          expect(ends).toBe(1)
          await eventually('hung up', () => server.open() === 0)
          const sent = heard.slice(heard.indexOf('\r\n\r\n') + 4)
          expect(sent.length).toBeLessThanOrEqual(length)
          heard = ''
        }
      },
    )
  })

  for (const kind of ['pieces', 'bytes', 'text'] as const)
    test(`that is answered before it was sent is left off, and its connection carries no other: ${kind}`, () =>
      withServer({ isEager: true, answer: (socket) => socket.write(OK) }, async (server) => {
        const client = openClient()
        let ends = 0
        const bytes = new Uint8Array(30_000_000).fill(120)
        const body =
          kind === 'pieces' ? upload(bytes, 50_000, () => ends++) : kind === 'text' ? 'x'.repeat(bytes.length) : bytes
        for (const turn of [1, 2]) {
          expect((await whole(client.post(server.url, { body }))).text).toBe('ok')
          await eventually('it is told', () => kind !== 'pieces' || ends === turn)
        }
        expect(server.accepted()).toBe(2)
        for (const socket of server.sockets) socket.resume()
      }))

  test('whose next piece is not there yet when the answer ends sends nothing into the next call', () =>
    withServer({ isEager: true, answer: (socket) => void socket.resume().write(OK) }, async (server) => {
      const client = openClient()
      // The connection has carried a call that was sent to its end.
      await whole(client.post(server.url))
      const gate = Promise.withResolvers<void>()
      let isOver = false
      const body = {
        length: 20,
        async *pieces(): AsyncGenerator<Uint8Array> {
          try {
            yield Buffer.from('0123456789')
            await gate.promise
            yield Buffer.from('9876543210')
          } finally {
            isOver = true
          }
        },
      }
      await whole(client.post(server.url, { body }))
      expect(server.accepted()).toBe(1)
      const next = whole(client.post(server.url))
      gate.resolve()
      await next
      await eventually('the upload is over', () => isOver)
      expect(server.accepted()).toBe(2)
      client.close()
      for (const socket of server.sockets) socket.resume()
    }))

  test('refused with an answer and a hang-up: the answer is read', () =>
    withServer(
      {
        isEager: true,
        answer: (socket) => socket.end('HTTP/1.1 413 Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nlarge'),
      },
      async (server) => {
        for (const body of [new Uint8Array(5_000_000), upload(new Uint8Array(5_000_000), 100_000)]) {
          const { status, text } = await whole(openClient().post(server.url, { body }))
          expect({ status, text }).toEqual({ status: 413, text: 'large' })
        }
        for (const socket of server.sockets) socket.resume()
      },
    ))
})

describe('a reader that does not read', () => {
  const BYTES = 50_000_000
  const block = noise(1_000_003)
  for (const isTls of [false, true])
    for (const kind of ['length', 'chunks', 'until close'] as const)
      test(`holds the server back, and then gets everything to the byte: ${kind}${isTls ? ', by TLS' : ''}`, async () => {
        const size = isTls ? BYTES / 2 : BYTES
        let said = 0
        const expected = new Bun.CryptoHasher('sha256')
        const server = await openWireServer({
          tls: isTls ? certificate : undefined,
          answer(socket) {
            const field = { length: `Content-Length: ${size}\r\n`, chunks: 'Transfer-Encoding: chunked\r\n' }
            socket.write(`HTTP/1.1 200 OK\r\n${kind === 'until close' ? '' : field[kind]}\r\n`)
            const say = (): void => {
              while (said < size) {
                const piece = block.subarray(0, Math.min(block.length, size - said))
                said += piece.length
                expected.update(piece)
                if (kind === 'chunks') socket.write(`${piece.length.toString(16)}\r\n`)
                const isTaken = socket.write(piece)
                if (kind === 'chunks') socket.write(said < size ? '\r\n' : '\r\n0\r\n\r\n')
                if (said === size && kind === 'until close') socket.end()
                if (!isTaken) return void socket.once('drain', say)
              }
            }
            say()
          },
        })
        const client = openClient()
        const answer = await client.post(server.url).answer
        await standsStill(() => said)
        // What the system holds for both sides, and one block.
        expect(said).toBeLessThan(16_000_000)
        const got = new Bun.CryptoHasher('sha256')
        let length = 0
        for (;;) {
          const { done, value } = await answer.read()
          if (done) break
          length += value.length
          got.update(value)
        }
        expect(length).toBe(size)
        expect(got.digest('hex')).toBe(expected.digest('hex'))
        if (kind !== 'until close') {
          await Bun.sleep(0)
          expect(server.open()).toBe(1)
        }
        client.close()
        await eventually('closed', () => server.open() === 0)
        server.stop()
      })

  test('of small pieces in large chunks’ clothing holds no more than their bytes', async () => {
    // Each byte comes with 10 kB that nobody wants.
    const one = Buffer.from(`1;${'x'.repeat(10_000)}\r\no\r\n`)
    let said = 0
    const server = await openWireServer({
      answer(socket) {
        socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
        const say = (): void => {
          while (said < 40_000 && !socket.destroyed) {
            said++
            if (!socket.write(one)) return void socket.once('drain', say)
          }
        }
        say()
      },
    })
    const call = openClient().post(server.url)
    const answer = await call.answer
    await standsStill(() => said)
    expect(said).toBeLessThan(10_000)
    let held = 0
    const buffers = new Set<ArrayBufferLike>()
    for (let i = 0; i < 400; i++) {
      const { value } = await answer.read()
      if (!buffers.has(value!.buffer)) held += value!.buffer.byteLength
      buffers.add(value!.buffer)
    }
    // The first may have gone straight to the reader.
    expect(held).toBeLessThan(1_000_000)
    call.abort(new Error('enough'))
    await eventually('closed', () => server.open() === 0)
    server.stop()
  })

  test('and reads the last of it after the server hung up', () =>
    withServer(
      { answer: (socket) => socket.end(Buffer.concat([Buffer.from('HTTP/1.1 200 OK\r\n\r\n'), noise(3_000_000)])) },
      async (server) => {
        const call = openClient().post(server.url)
        await call.answer
        await Bun.sleep(100)
        expect(sha256((await whole(call)).bytes)).toBe(sha256(noise(3_000_000)))
      },
    ))
})

describe('connections', () => {
  test('one after the other share one, at the same time each has its own, and the last used is taken first', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      for (let i = 0; i < 20; i++) await whole(client.post(server.url))
      expect(server.accepted()).toBe(1)
      await Promise.all([1, 2, 3, 4].map(() => whole(client.post(server.url))))
      expect(server.accepted()).toBe(4)
      const last = server.last().connection
      await whole(client.post(server.url))
      expect(server.last().connection).toBe(last)
      client.close()
    }))

  test('an unread answer keeps its connection from others until it is whole', () =>
    withServer(
      { answer: (socket, { line }) => void (line.includes('half') ? socket.write(OK.slice(0, -1)) : socket.write(OK)) },
      async (server) => {
        const client = openClient()
        const half = await client.post(`${server.url}/half`).answer
        await whole(client.post(server.url))
        expect(server.accepted()).toBe(2)
        const [first] = server.sockets
        first!.write('k')
        expect((await half.read()).value?.length).toBe(1)
        expect((await half.read()).value?.length).toBe(1)
        expect((await half.read()).done).toBe(true)
        await Promise.all([whole(client.post(server.url)), whole(client.post(server.url))])
        expect(server.accepted()).toBe(2)
        client.close()
      },
    ))

  test('what is said while nobody asked ends the connection, and is nobody’s answer', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      await whole(client.post(server.url))
      for (const socket of server.sockets) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil')
      await eventually('hung up', () => server.open() === 0)
      expect((await whole(client.post(server.url))).text).toBe('ok')
      expect(server.accepted()).toBe(2)
      client.close()
    }))

  test('one that the server closed is not taken', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      for (const end of ['end', 'destroy', 'resetAndDestroy'] as const) {
        await whole(client.post(server.url))
        for (const socket of server.sockets) socket[end]()
        await eventually('closed', () => server.open() === 0)
        // Its end is heard with the next turn of the loop.
        await Bun.sleep(5)
      }
      await whole(client.post(server.url))
      expect(server.accepted()).toBe(4)
      client.close()
    }))

  test('one that breaks before the answer fails the call, which is not sent again', () =>
    withServer(
      { answer: (socket, { line }) => void (line.includes('cut') ? socket.destroy() : socket.write(OK)) },
      async (server) => {
        const client = openClient()
        await whole(client.post(server.url))
        expect(await failure(client.post(`${server.url}/cut`))).toEqual({ code: 'ECONNRESET', text: '' })
        expect(server.requests).toHaveLength(2)
        client.close()
      },
    ))

  test('out of use it is closed after a minute, or before the server does, also when the sweeper is late', async () => {
    const sweeps: (() => void)[] = []
    const interval = spyOn(globalThis, 'setInterval').mockImplementation(((sweep: () => void) => {
      sweeps.push(sweep)
      return Object.assign(
        setTimeout(() => {}, 0),
        { unref: () => {} },
      )
    }) as unknown as typeof setInterval)
    const kept = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\n\r\n'
    await withServer(
      {
        answer: (socket, { line }) =>
          void socket.write(line.includes('five') ? kept : line.includes('half') ? OK.slice(0, -1) : OK),
      },
      async (server) => {
        const clock = openClock()
        const client = openClient({ clock })
        await whole(client.post(server.url))
        clock.move(59_000)
        expect(sweeps).toHaveLength(1)
        sweeps[0]!()
        await whole(client.post(server.url))
        expect(server.accepted()).toBe(1)
        clock.move(60_000)
        await whole(client.post(server.url))
        expect(server.accepted()).toBe(2)
        clock.move(60_000)
        sweeps[0]!()
        await eventually('closed', () => server.open() === 0)
        await whole(client.post(`${server.url}/five`))
        // It was forgotten, with the sweeper; both are there again.
        expect(sweeps).toHaveLength(2)
        clock.move(3_900)
        await whole(client.post(`${server.url}/five`))
        expect(server.accepted()).toBe(3)
        clock.move(4_000)
        await whole(client.post(`${server.url}/five`))
        expect(server.accepted()).toBe(4)
        // The sweeper forgets a place whose only connection is at work; it is kept all the same.
        const call = client.post(server.url)
        sweeps[1]!()
        await whole(call)
        await whole(client.post(server.url))
        expect(server.accepted()).toBe(4)
        // One that comes back when others have taken that place would never be taken, nor swept.
        const half = client.post(`${server.url}/half`)
        await half.answer
        sweeps.at(-1)!()
        await whole(client.post(server.url))
        expect(server.accepted()).toBe(5)
        for (const socket of server.sockets) socket.write('k')
        await whole(half)
        await eventually('the one that came back is closed', () => server.open() === 0)
        client.close()
      },
    )
    interval.mockRestore()
  })

  test('after `close` the ones at work are closed when their calls end', () =>
    withServer(
      { answer: (socket, { line }) => void socket.write(line.includes('half') ? OK.slice(0, -1) : OK) },
      async (server) => {
        const client = openClient()
        const answer = await client.post(`${server.url}/half`).answer
        await whole(client.post(server.url))
        client.close()
        await eventually('one is left', () => server.open() === 1)
        for (const socket of server.sockets) socket.write('k')
        while (!(await answer.read()).done);
      },
    ))

  test('another host, port or proxy is another place', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      await whole(client.post(server.url))
      await whole(client.post(server.url.replace('127.0.0.1', 'localhost')))
      expect(server.accepted()).toBe(2)
      expect(server.last().fields['host']).toBe(`localhost:${server.port}`)
      client.close()
    }))
})

describe('an abort', () => {
  const stop = Object.assign(new Error('stop'), { code: 'E_STOP' })
  /** Nothing answers from there. https://www.rfc-editor.org/rfc/rfc5737 */
  const NOBODY = 'http://192.0.2.1:9/'

  test('before the connection stands', async () => {
    const client = openClient()
    const call = client.post(NOBODY)
    expect(call.isConnected()).toBe(false)
    call.abort(stop)
    expect(await failure(call)).toEqual({ code: 'E_STOP', text: '' })
    expect(call.isConnected()).toBe(true)
  })
  test('before the connection stands, on a host that is there: nothing is sent to it', () =>
    withServer(answersOk, async (server) => {
      const call = openClient().post(server.url, { body: 'x' })
      call.abort(stop)
      expect(await failure(call)).toEqual({ code: 'E_STOP', text: '' })
      await Bun.sleep(20)
      expect(server.requests).toEqual([])
    }))
  test('within the TLS handshake', () =>
    withServer({ onSocket: (socket) => socket.resume() }, async (server) => {
      const call = openClient().post(server.url.replace('http:', 'https:'))
      await eventually('the server is called', () => server.open() === 1)
      expect(call.isConnected()).toBe(false)
      call.abort(stop)
      expect(await failure(call)).toEqual({ code: 'E_STOP', text: '' })
    }))
  test('before the answer, within its head, within its body, with bytes that nobody read, while one reads', () =>
    withServer(
      { answer: (socket, { line }) => void socket.write(OK.slice(0, Number(/\d+/.exec(line)?.[0]))) },
      async (server) => {
        const client = openClient()
        for (const bytes of [0, 20]) {
          const call = client.post(`${server.url}/${bytes}`)
          const failed = failure(call)
          const wanted = server.requests.length + 1
          await eventually('it is asked', () => server.requests.length === wanted)
          call.abort(stop)
          expect(await failed).toEqual({ code: 'E_STOP', text: '' })
          await eventually('hung up', () => server.open() === 0)
        }
        for (const isReading of [false, true]) {
          const call = client.post(`${server.url}/${OK.length - 1}`)
          const answer = await call.answer
          if (isReading) expect((await answer.read()).value?.length).toBe(1)
          const read = isReading ? answer.read() : undefined
          call.abort(stop)
          if (read) await expect(read).rejects.toBe(stop)
          await expect(answer.read()).rejects.toBe(stop)
          await expect(answer.read()).rejects.toBe(stop)
          call.abort(new Error('late'))
          await eventually('hung up', () => server.open() === 0)
        }
      },
    ))
  test('after the end changes nothing, and leaves the connection to the next call', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      for (let i = 0; i < 3; i++) {
        const call = client.post(server.url)
        expect((await whole(call)).text).toBe('ok')
        const next = client.post(server.url)
        call.abort(stop)
        expect((await whole(next)).text).toBe('ok')
      }
      expect(server.accepted()).toBe(1)
      client.close()
    }))
  test('of a call whose answer is whole but not yet read leaves it to be read', () =>
    withServer(answersOk, async (server) => {
      const client = openClient()
      const call = client.post(server.url)
      await call.answer
      await eventually('it is whole', () => call.isConnected() && server.open() === 1)
      call.abort(stop)
      expect((await whole(call)).text).toBe('ok')
      client.close()
    }))
  test('nobody needs to wait for the answer: an error that nobody asked for is no accident', async () => {
    const call = openClient().post('http://127.0.0.1:1/')
    const { code } = await failure(call)
    expect(code).toBe('ECONNREFUSED')
    await Bun.sleep(10)
    expect(unhandled).toEqual([])
  })
})

test('calls are connected when bytes may go, not before', () =>
  withServer({ answer: () => {} }, async (server) => {
    const call = openClient().post(server.url)
    expect(call.isConnected()).toBe(false)
    await eventually('connected', () => call.isConnected(), { everyMs: 1 })
    call.abort(new Error('x'))
    await failure(call)
  }))
