/** What is an answer and where it ends, in whatever pieces it comes; and which connection may be used again after it. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { framingOf, parseHead } from '../../../src/lib/http/answer.ts'
import { eventually } from '../../support/eventually.ts'
import { openWireServer, trickle, type WireServer } from '../../support/wire-server.ts'
import { failure, noise, OK, openClient, sha256, whole } from './support.ts'

/** What the server says to each request, in which pieces, and whether it hangs up then. */
let script: { readonly bytes: string; readonly pieceBytes: number; readonly ends: boolean }
let server: WireServer
beforeAll(async () => {
  server = await openWireServer({
    answer: async (socket) => {
      const { bytes, pieceBytes, ends } = script
      if (pieceBytes === 0) socket.write(bytes, 'latin1')
      else await trickle(socket, bytes, pieceBytes)
      if (ends) socket.end()
    },
  })
})
afterAll(() => server.stop())

const PIECES = [0, 1, 2, 3, 7]
const head = (...lines: readonly string[]): string => `${lines.join('\r\n')}\r\n\r\n`
const CHUNKED = 'Transfer-Encoding: chunked'

interface Good {
  readonly bytes: string
  readonly status?: number
  readonly body?: string
  readonly fields?: Readonly<Record<string, string>>
  readonly isKept?: boolean
  readonly ends?: boolean
}
const good: Readonly<Record<string, Good>> = {
  'a length': { bytes: OK },
  'a length of nothing': { bytes: head('HTTP/1.1 200 OK', 'Content-Length: 0'), body: '' },
  'a length with zeros in front': { bytes: `${head('HTTP/1.1 200 OK', 'content-length: 0002')}ok` },
  'no reason': { bytes: `${head('HTTP/1.1 200', 'Content-Length: 2')}ok` },
  'no reason behind a blank': { bytes: `${head('HTTP/1.1 200 ', 'Content-Length: 2')}ok` },
  'one length twice': { bytes: `${head('HTTP/1.1 200 OK', 'Content-Length: 2', 'Content-Length: 2')}ok` },
  'one length twice in a field': { bytes: `${head('HTTP/1.1 200 OK', 'Content-Length: 2, 2')}ok` },
  'an error with a body': { bytes: `${head('HTTP/1.1 429 Too Many', 'Content-Length: 2')}ok`, status: 429 },
  'line ends in a body': { bytes: `${head('HTTP/1.1 200 OK', 'Content-Length: 6')}\r\n\r\n\r\n`, body: '\r\n\r\n\r\n' },
  'a body that looks like an answer': {
    bytes: `${head('HTTP/1.1 200 OK', `Content-Length: ${OK.length}`)}${OK}`,
    body: OK,
  },
  chunks: { bytes: `${head('HTTP/1.1 200 OK', CHUNKED)}1\r\no\r\n1\r\nk\r\n0\r\n\r\n` },
  'no chunk': { bytes: `${head('HTTP/1.1 200 OK', CHUNKED)}0\r\n\r\n`, body: '' },
  'a coding in capitals': { bytes: `${head('HTTP/1.1 200 OK', 'TRANSFER-ENCODING:  Chunked ')}2\r\nok\r\n0\r\n\r\n` },
  'sizes in every spelling': {
    bytes: `${head('HTTP/1.1 200 OK', CHUNKED)}00a\r\n0123456789\r\nA  \r\n0123456789\r\n000\r\n\r\n`,
    body: '01234567890123456789',
  },
  'extensions of chunks': {
    bytes: `${head('HTTP/1.1 200 OK', CHUNKED)}1;a\r\no\r\n1 ; b="c;d" ;e=0\r\nk\r\n0;last\r\n\r\n`,
  },
  'fields behind the chunks': {
    bytes: `${head('HTTP/1.1 200 OK', CHUNKED)}2\r\nok\r\n0\r\nX-Sum: 1\r\nContent-Length: 99\r\n\r\n`,
  },
  'line ends in chunks': {
    bytes: `${head('HTTP/1.1 200 OK', CHUNKED)}7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n`,
    body: '\r\n0\r\n\r\n',
  },
  'go on, and a hint, before the answer': {
    bytes: `${head('HTTP/1.1 100 Continue')}${head('HTTP/1.1 103 Early Hints', 'Link: </a>', 'Connection: close')}${OK}`,
  },
  'no content': { bytes: head('HTTP/1.1 204 No Content'), status: 204, body: '' },
  'no content, and its length': { bytes: head('HTTP/1.1 204 No', 'Content-Length: 0'), status: 204, body: '' },
  'not modified': { bytes: head('HTTP/1.1 304 Not Modified', 'ETag: "x"'), status: 304, body: '' },
  'not modified, with the length of what was not': {
    bytes: head('HTTP/1.1 304 Not Modified', 'Content-Length: 5'),
    status: 304,
    body: '',
    isKept: false,
  },
  'no content, but a length': {
    bytes: head('HTTP/1.1 204 No', 'Content-Length: 5'),
    status: 204,
    body: '',
    isKept: false,
  },
  'no content, but chunks': { bytes: head('HTTP/1.1 204 No', CHUNKED), status: 204, body: '', isKept: false },
  'HTTP/1.0 with a length': { bytes: `${head('HTTP/1.0 200 OK', 'Content-Length: 2')}ok`, isKept: false },
  'HTTP/1.0 that keeps connections': {
    bytes: `${head('HTTP/1.0 200 OK', 'Content-Length: 2', 'Connection: Keep-Alive')}ok`,
  },
  'HTTP/1.0 with chunks, which it does not know': {
    bytes: `${head('HTTP/1.0 200 OK', CHUNKED, 'Connection: keep-alive')}2\r\nok\r\n0\r\n\r\n`,
    isKept: false,
  },
  'HTTP/1.0 until it hangs up': { bytes: `${head('HTTP/1.0 200 OK')}ok`, ends: true, isKept: false },
  'until it hangs up': { bytes: `${head('HTTP/1.1 200 OK', 'Connection: keep-alive')}ok`, ends: true, isKept: false },
  'nothing until it hangs up': { bytes: head('HTTP/1.1 200 OK'), body: '', ends: true, isKept: false },
  'the connection closes': {
    bytes: `${head('HTTP/1.1 200 OK', 'Connection: close', 'Content-Length: 2')}ok`,
    isKept: false,
  },
  'the connection closes, among other words': {
    bytes: `${head('HTTP/1.1 200 OK', 'Connection: x-a', 'Connection: keep-alive, Close', 'Content-Length: 2')}ok`,
    isKept: false,
  },
  'kept for long': { bytes: `${head('HTTP/1.1 200 OK', 'Keep-Alive: timeout=30, max=9', 'Content-Length: 2')}ok` },
  'kept for a time without measure': {
    bytes: `${head('HTTP/1.1 200 OK', `Keep-Alive: timeout=${'9'.repeat(400)}`, 'Content-Length: 2')}ok`,
  },
  'kept for too short': {
    bytes: `${head('HTTP/1.1 200 OK', 'Keep-Alive: timeout=1', 'Content-Length: 2')}ok`,
    isKept: false,
  },
  'another answer behind it that nobody asked for': { bytes: `${OK}${OK}`, isKept: false },
  'a line end behind it': { bytes: `${OK}\r\n`, isKept: false },
  'another answer behind the chunks': {
    bytes: `${head('HTTP/1.1 200 OK', CHUNKED)}2\r\nok\r\n0\r\n\r\n${OK}`,
    isKept: false,
  },
  'an answer behind no content': { bytes: `${head('HTTP/1.1 204 No')}${OK}`, status: 204, body: '', isKept: false },
  'fields of all kinds': {
    bytes: `${head('HTTP/1.1 200 OK', 'X-A:1', 'x-a: \t two\twords \t', 'X-Empty:', '__proto__: p', 'X-L: caf\xe9', 'Content-Length: 2')}ok`,
    fields: { 'x-a': '1, two\twords', 'x-empty': '', ['__proto__']: 'p', 'x-l': 'caf\xe9' },
  },
}

describe('good answers, whole and in pieces of 1, 2, 3 and 7 bytes, twice on a client', () => {
  for (const [name, { bytes, status = 200, body = 'ok', fields = {}, isKept = true, ends = false }] of Object.entries(
    good,
  ))
    test(name, async () => {
      for (const pieceBytes of PIECES) {
        script = { bytes, pieceBytes, ends }
        const before = server.accepted()
        const client = openClient()
        for (const turn of [1, 2]) {
          const outcome = await whole(client.post(server.url))
          expect({ pieceBytes, turn, status: outcome.status, body: outcome.text }).toEqual({
            pieceBytes,
            turn,
            status,
            body,
          })
          for (const [field, value] of Object.entries(fields)) expect(outcome.fields[field]).toBe(value)
          // What comes late must have come before the connection could be taken for the next call.
          if (!isKept) await eventually('the connection is closed', () => server.open() === 0, { everyMs: 1 })
        }
        expect({ pieceBytes, connections: server.accepted() - before }).toEqual({
          pieceBytes,
          connections: isKept ? 1 : 2,
        })
        client.close()
        await eventually('nothing stays open', () => server.open() === 0, { everyMs: 1 })
      }
    })
})

const lengths = (value: string): string => `${head('HTTP/1.1 200 OK', `Content-Length: ${value}`)}ok`
const chunked = (text: string): string => `${head('HTTP/1.1 200 OK', CHUNKED)}${text}`
const field = (text: string): string => `${head('HTTP/1.1 200 OK', text, 'Content-Length: 2')}ok`
/** Bytes → what of the body may have come before. */
const bad: Readonly<Record<string, string | readonly [string, string]>> = {
  'a length and chunks': `${head('HTTP/1.1 200 OK', 'Content-Length: 2', CHUNKED)}2\r\nok\r\n0\r\n\r\n`,
  'chunks and a length': `${head('HTTP/1.1 200 OK', CHUNKED, 'Content-Length: 2')}2\r\nok\r\n0\r\n\r\n`,
  'two lengths': `${head('HTTP/1.1 200 OK', 'Content-Length: 2', 'Content-Length: 3')}ok`,
  'two lengths in a field': lengths('2, 3'),
  'no length': lengths(''),
  'a length with a sign': lengths('+2'),
  'a length below nothing': lengths('-2'),
  'a length in hexadecimal': lengths('0x2'),
  'a length with a point': lengths('2.0'),
  'a length and more': lengths('2 x'),
  'a length that no double holds': lengths('9007199254740993'),
  'a coding that was not asked for': `${head('HTTP/1.1 200 OK', 'Transfer-Encoding: gzip, chunked')}0\r\n\r\n`,
  'chunks of chunks': `${head('HTTP/1.1 200 OK', CHUNKED, CHUNKED)}0\r\n\r\n`,
  'a coding that is almost chunked': `${head('HTTP/1.1 200 OK', 'Transfer-Encoding: xchunked')}0\r\n\r\n`,
  'chunked and a vertical tab': `${head('HTTP/1.1 200 OK', 'Transfer-Encoding: \x0bchunked')}0\r\n\r\n`,
  'a folded field': field('X-A: 1\r\n two'),
  'a fold at the first field': `${head('HTTP/1.1 200 OK', ' Content-Length: 2')}ok`,
  'a fold by a tab': field('X-A: 1\r\n\tContent-Length: 3'),
  'a blank before the colon': `${head('HTTP/1.1 200 OK', 'Content-Length : 2')}ok`,
  'a blank in a name': field('X A: 1'),
  'no name': field(': 1'),
  'no colon': field('X-A'),
  'a name beyond ASCII': field('X-\xe9: 1'),
  'a bare line feed in a value': field('X-A: 1\nContent-Length: 3'),
  'a bare line feed before a value': field('X-A:\nContent-Length: 3'),
  'a bare line feed behind a value': field('X-A: 1\n'),
  'a bare carriage return in a value': field('X-A: 1\rContent-Length: 3'),
  'a bare carriage return behind a value': field('X-A: 1\r'),
  'a zero in a value': field('X-A: 1\0'),
  'a line feed for a line end behind the first line': 'HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok',
  'another protocol': 'SSH-2.0-OpenSSH_9\r\n\r\n',
  'another version': `${head('HTTP/2 200 OK', 'Content-Length: 2')}ok`,
  'a version to come': `${head('HTTP/1.2 200 OK', 'Content-Length: 2')}ok`,
  'a line end before the answer': `\r\n${OK}`,
  'no status': head('HTTP/1.1 OK'),
  'a status of two digits': head('HTTP/1.1 20 OK'),
  'a status of four digits': head('HTTP/1.1 2000 OK'),
  'a status of no class': head('HTTP/1.1 099 OK'),
  'two blanks before the status': head('HTTP/1.1  200 OK'),
  'another protocol that was not asked for': `${head('HTTP/1.1 101 Switching', 'Upgrade: x')}${OK}`,
  'a bad hint before the answer': `${head('HTTP/1.1 103 Hint', 'X A: 1')}${OK}`,
  'a chunk without size': chunked('\r\nok\r\n0\r\n\r\n'),
  'a size that is none': chunked('z\r\nok\r\n0\r\n\r\n'),
  'a size with a sign': chunked('+2\r\nok\r\n0\r\n\r\n'),
  'a size below nothing': chunked('-2\r\nok\r\n0\r\n\r\n'),
  'a size with 0x': chunked('0x2\r\nok\r\n0\r\n\r\n'),
  'a blank before a size': chunked(' 2\r\nok\r\n0\r\n\r\n'),
  'a size and more': chunked('2 2\r\nok\r\n0\r\n\r\n'),
  'a size beyond measure': chunked('1000000000002\r\nok\r\n0\r\n\r\n'),
  'a bare line feed behind a size': chunked('2\nok\r\n0\r\n\r\n'),
  'a bare carriage return in an extension': chunked('2;a\rb\r\nok\r\n0\r\n\r\n'),
  'a bare line feed behind a chunk': [chunked('2\r\nok\n0\r\n\r\n'), 'ok'],
  'a chunk longer than its size': [chunked('2\r\nokay\r\n0\r\n\r\n'), 'ok'],
  'a chunk shorter than its size': [chunked('4\r\nok\r\n0\r\n\r\n'), 'ok\r\n'],
  'a bare line feed at the very end': [chunked('2\r\nok\r\n0\r\n\n'), 'ok'],
}

describe('what is no answer is refused, whole and in pieces, and its connection closed', () => {
  for (const [name, expected] of Object.entries(bad))
    test(name, async () => {
      const [bytes, body] = typeof expected === 'string' ? [expected, ''] : expected
      for (const pieceBytes of PIECES) {
        script = { bytes, pieceBytes, ends: false }
        const client = openClient()
        expect({ pieceBytes, ...(await failure(client.post(server.url))) }).toEqual({
          pieceBytes,
          code: 'HTTP_BAD_ANSWER',
          text: body,
        })
        await eventually('the connection is closed', () => server.open() === 0, { everyMs: 1 })
      }
    })
})

const cut: Readonly<Record<string, readonly [string, string]>> = {
  'before the answer': ['', ''],
  'in the first line': ['HTTP/1.1 20', ''],
  'in the head': ['HTTP/1.1 200 OK\r\nContent-Length: 2\r\n', ''],
  'of bare line feeds': ['HTTP/1.1 200 OK\nContent-Length: 2\n\nok', ''],
  'behind a hint': [head('HTTP/1.1 100 Continue'), ''],
  'before the body': [head('HTTP/1.1 200 OK', 'Content-Length: 2'), ''],
  'in the body': [`${head('HTTP/1.1 200 OK', 'Content-Length: 3')}ok`, 'ok'],
  'in a size': [chunked('2'), ''],
  'in a chunk': [chunked('3\r\nok'), 'ok'],
  'behind a chunk': [chunked('2\r\nok'), 'ok'],
  'before the last chunk': [chunked('2\r\nok\r\n'), 'ok'],
  'before the last line': [chunked('2\r\nok\r\n0\r\n'), 'ok'],
}
describe('an answer that breaks off is an error, behind the bytes that came', () => {
  for (const [name, [bytes, text]] of Object.entries(cut))
    test(name, async () => {
      for (const pieceBytes of PIECES) {
        script = { bytes, pieceBytes, ends: true }
        const client = openClient()
        expect(await failure(client.post(server.url))).toEqual({ code: 'ECONNRESET', text })
      }
    })
})

test('a body until the end that is torn off is not taken for whole', async () => {
  const torn = await openWireServer({
    answer(socket) {
      socket.write('HTTP/1.1 200 OK\r\n\r\nhalf', () => setTimeout(() => socket.resetAndDestroy(), 20))
    },
  })
  expect(await failure(openClient().post(torn.url))).toEqual({ code: 'ECONNRESET', text: 'half' })
  torn.stop()
})

test('a body may be had without a wait once it is here, and only then', async () => {
  const client = openClient()
  const ok = await openWireServer({
    answer: async (socket, { line }) => {
      if (line.includes('/at-once'))
        return socket.write(`${head('HTTP/1.1 200 OK', CHUNKED)}1\r\no\r\n1\r\nk\r\n0\r\n\r\n`)
      socket.write(`${head('HTTP/1.1 200 OK', 'Content-Length: 4')}o`)
      await Bun.sleep(50)
      socket.write('k')
      await Bun.sleep(50)
      return line.includes('/cut') ? socket.destroy() : socket.write('ok')
    },
  })
  const textOf = (bytes: Uint8Array | undefined): string | undefined => bytes && Buffer.from(bytes).toString()
  try {
    const whole = await client.post(`${ok.url}/at-once`).answer
    expect(textOf(whole.readNow!())).toBe('ok')
    expect(textOf(whole.readNow!())).toBe('')
    expect(await whole.read()).toEqual({ done: true, value: undefined })

    const slow = await client.post(`${ok.url}/slow`).answer
    expect(slow.readNow!()).toBeUndefined()
    expect(textOf((await slow.read()).value)).toBe('o')
    expect(textOf((await slow.read()).value)).toBe('k')
    await eventually('the rest is here', () => slow.readNow!() !== undefined)

    const cut = await client.post(`${ok.url}/cut`).answer
    expect(textOf((await cut.read()).value)).toBe('o')
    await Bun.sleep(200)
    expect(cut.readNow!()).toBeUndefined()
    expect(textOf((await cut.read()).value)).toBe('k')
    await expect(cut.read()).rejects.toThrow()
  } finally {
    client.close()
    ok.stop()
  }
})

describe('bounds', () => {
  const long = (bytes: number): string =>
    `HTTP/1.1 200 OK\r\nX-Long: ${'x'.repeat(bytes)}\r\nContent-Length: 2\r\n\r\nok`
  const endless = async (start: string, more: string) => {
    let said = 0
    const flood = await openWireServer({
      answer(socket) {
        socket.write(start)
        const say = (): void => {
          while (!socket.destroyed && said < 8_000_000 && socket.write(more)) said += more.length
        }
        socket.on('drain', say)
        say()
      },
    })
    const outcome = await failure(openClient().post(flood.url))
    await eventually('it is hung up on', () => flood.open() === 0)
    flood.stop()
    return outcome
  }

  test('a head of 60 kB is read, also in pieces', async () => {
    for (const pieceBytes of [0, 1_000]) {
      script = { bytes: long(60_000), pieceBytes, ends: false }
      const client = openClient()
      expect((await whole(client.post(server.url))).text).toBe('ok')
      client.close()
    }
  })
  test('one of 70 kB is not, also in pieces', async () => {
    for (const pieceBytes of [0, 1_000]) {
      script = { bytes: long(70_000), pieceBytes, ends: false }
      expect(await failure(openClient().post(server.url))).toEqual({ code: 'HTTP_BAD_ANSWER', text: '' })
    }
  })
  test('a head, a size, an extension and a field behind the chunks without end are given up', async () => {
    const refused = { code: 'HTTP_BAD_ANSWER', text: '' }
    const filler = 'x'.repeat(10_000)
    expect(await endless('HTTP/1.1 200 OK\r\n', filler)).toEqual(refused)
    expect(await endless('HTTP/1.1 200 OK\r\n', `X: ${filler}\r\n`)).toEqual(refused)
    expect(await endless(chunked(''), '0000000000')).toEqual(refused)
    expect(await endless(chunked('1;'), filler)).toEqual(refused)
    expect(await endless(chunked('0\r\nX: '), filler)).toEqual(refused)
  })
  test('tens of thousands of hints before an answer are read', async () => {
    script = { bytes: 'HTTP/1.1 103 Hint\r\n\r\n'.repeat(40_000) + OK, pieceBytes: 0, ends: false }
    const client = openClient()
    expect((await whole(client.post(server.url))).text).toBe('ok')
    client.close()
  })
})

test('a megabyte in chunks of every size arrives to the byte', async () => {
  const body = noise(1_000_000)
  const parts: Uint8Array[] = []
  for (let at = 0, size = 1; at < body.length; at += size, size = (size * 3 + 1) % 30_011) {
    const piece = body.subarray(at, at + size)
    parts.push(Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from('\r\n'))
  }
  const chunks = Buffer.concat([...parts, Buffer.from('0\r\n\r\n')])
  for (const pieceBytes of [chunks.length, 4_093]) {
    const sender = await openWireServer({
      answer: (socket) => {
        socket.write(chunked(''))
        return trickle(socket, chunks, pieceBytes)
      },
    })
    const client = openClient()
    expect(sha256((await whole(client.post(sender.url))).bytes)).toBe(sha256(body))
    client.close()
    sender.stop()
  }
})

test('bytes given out are the reader’s own: later ones do not change them, and a slice is a copy', async () => {
  script = { bytes: `${head('HTTP/1.1 200 OK', 'Content-Length: 4')}abcd`, pieceBytes: 0, ends: false }
  const client = openClient()
  const answer = await client.post(server.url).answer
  const { value } = await answer.read()
  const copy = value!.slice(1, 3)
  copy.fill(0)
  expect([...value!]).toEqual([...Buffer.from('abcd')])
  expect(copy.buffer).not.toBe(value!.buffer)
  client.close()
})

/** The same without sockets, so that the split is certain. */
test('every split of every good answer means the same', () => {
  for (const [name, { bytes, body = 'ok' }] of Object.entries(good)) {
    const all = Uint8Array.from(Buffer.from(bytes, 'latin1'))
    const [, first = '', rest = ''] = /^((?:HTTP\/1\.1 10.*\r\n(?:.+\r\n)*\r\n)*)([\s\S]*)$/.exec(bytes) ?? []
    const headEnds = rest.indexOf('\r\n\r\n')
    const { length } = parseHead(rest.slice(0, headEnds))
    if (length === 0) continue
    const wire = all.subarray(first.length + headEnds + 4)
    for (let a = 0; a <= wire.length; a++)
      for (let b = a; b <= wire.length; b += 3) {
        const framing = framingOf(length)
        let text = ''
        let isOver = false
        for (const piece of [wire.slice(0, a), wire.slice(a, b), wire.slice(b)]) {
          if (isOver || piece.length === 0) continue
          isOver = framing.take(piece, { give: (given) => (text += Buffer.from(given).toString('latin1')) }) >= 0
        }
        expect({ name, a, b, text, isOver }).toEqual({ name, a, b, text: body, isOver: length !== 'until-close' })
      }
  }
})
