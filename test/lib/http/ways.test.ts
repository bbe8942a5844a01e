/** The ways to an upstream: by TLS, whose names are checked, through proxies, and what happens when a way is closed. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { networkInterfaces } from 'node:os'
import { createProxyOf } from '../../../src/lib/http/proxy-of.ts'
import { openAuthority } from '../../support/certificates.ts'
import { eventually } from '../../support/eventually.ts'
import { openConnectProxy, openSocks5 } from '../../support/proxies.ts'
import { openWireServer, type WireServer } from '../../support/wire-server.ts'
import { failure, noise, OK, openClient, sha256, standsStill, whole } from './support.ts'

const authority = openAuthority()
const signed = {
  name: authority.sign('DNS:localhost', 'DNS:*.wild.example'),
  address: authority.sign('IP:127.0.0.1'),
  other: authority.sign('DNS:other.example', 'DNS:localhost.example', 'IP:127.0.0.2', 'IP:192.0.2.7', 'IP:2001:db8::7'),
}
let plain: WireServer
let secure: Record<keyof typeof signed, WireServer>
let connectProxy: Awaited<ReturnType<typeof openConnectProxy>>
let socks: Awaited<ReturnType<typeof openSocks5>>
beforeAll(async () => {
  const answer = (socket: { write(text: string): void }): void => socket.write(OK)
  plain = await openWireServer({ answer })
  secure = {
    name: await openWireServer({ tls: signed.name, answer }),
    address: await openWireServer({ tls: signed.address, answer }),
    other: await openWireServer({ tls: signed.other, answer }),
  }
  connectProxy = await openConnectProxy()
  socks = await openSocks5()
})
afterAll(() => {
  for (const server of [plain, ...Object.values(secure), connectProxy, socks]) server.stop()
  authority.close()
})
const proxies = () => ({ straight: '', CONNECT: connectProxy.url, SOCKS5: socks.url })
const ok = async (call: Parameters<typeof whole>[0]): Promise<void> => expect((await whole(call)).text).toBe('ok')

describe('TLS', () => {
  test('a certificate must be of the name or the address that was called, straight and through proxies', async () => {
    const wrong = 'ERR_TLS_CERT_ALTNAME_INVALID'
    const cases = [
      ['localhost', 'name', 'none'],
      ['localhost', 'address', wrong],
      ['localhost', 'other', wrong],
      ['127.0.0.1', 'name', wrong],
      ['127.0.0.1', 'address', 'none'],
      ['127.0.0.1', 'other', wrong],
    ] as const
    /** Names that only a proxy can find. */
    const far = [
      ['a.wild.example', 'name', 'none'],
      ['wild.example', 'name', wrong],
      ['a.b.wild.example', 'name', wrong],
      ['other.example', 'other', 'none'],
      ['other.example', 'name', wrong],
      // The proxy's own address proves nothing.
      ['192.0.2.7', 'address', wrong],
      ['192.0.2.7', 'other', 'none'],
      ['192.0.2.8', 'other', wrong],
      ['[2001:db8::7]', 'other', 'none'],
      ['[2001:db8::8]', 'other', wrong],
    ] as const
    const ways: string[] = []
    const expected: string[] = []
    for (const proxy of Object.values(proxies()))
      for (const [host, server, code] of proxy === '' ? cases : [...cases, ...far]) {
        ways.push(`https://${host}:${secure[server].port}/ ${proxy}`)
        expected.push(code)
      }
    const before = Object.values(secure).map(({ requests }) => requests.length)
    const child = Bun.spawn([process.execPath, `${import.meta.dir}/trusting-caller.ts`, ...ways], {
      env: { ...process.env, NODE_EXTRA_CA_CERTS: authority.file },
      stdout: 'pipe',
      stderr: 'inherit',
    })
    const outcomes = JSON.parse(await new Response(child.stdout).text()) as string[]
    const told = (codes: readonly string[]) => codes.map((code, i) => `${ways[i]} ${code}`)
    expect(told(outcomes)).toEqual(told(expected))
    // The key goes to nobody else.
    const heard = Object.values(secure).map(({ requests }, i) => requests.length - before[i]!)
    expect(heard.reduce((sum, count) => sum + count, 0)).toBe(expected.filter((code) => code === 'none').length)
  })

  test('of an authority that nobody knows no certificate counts, and nothing is sent', async () => {
    const client = openClient({ isTlsChecked: true })
    for (const proxy of Object.values(proxies()))
      for (const [host, server] of [
        ['localhost', secure.name],
        ['127.0.0.1', secure.address],
      ] as const) {
        const before = server.requests.length
        const call = client.post(`https://${host}:${server.port}/`, { proxy, body: 'secret' })
        expect(await failure(call)).toEqual({ code: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE', text: '' })
        expect(call.isConnected()).toBe(true)
        expect(server.requests.length).toBe(before)
        await eventually('hung up', () => server.open() === 0)
      }
  })

  test('unchecked, each counts', async () => {
    for (const proxy of Object.values(proxies()))
      for (const host of ['localhost', '127.0.0.1'])
        for (const server of Object.values(secure)) {
          const client = openClient()
          const before = server.accepted()
          for (let i = 0; i < 3; i++) await ok(client.post(`https://${host}:${server.port}/`, { proxy }))
          expect(server.accepted() - before).toBe(1)
          client.close()
          await eventually('closed', () => server.open() === 0)
        }
  })

  test('a server that speaks no TLS is an error with a code, checked or not', async () => {
    for (const isTlsChecked of [false, true])
      for (const proxy of Object.values(proxies())) {
        let heard = ''
        const talker = await openWireServer({
          onSocket: (socket) =>
            socket.on('data', (bytes) => {
              if (heard === '') socket.write('SSH-2.0-OpenSSH_9\r\n')
              heard += bytes.toString('latin1')
            }),
        })
        const call = openClient({ isTlsChecked }).post(`https://localhost:${talker.port}/`, { proxy, body: 'secret' })
        expect(await failure(call)).toEqual({ code: 'EPROTO', text: '' })
        await eventually('hung up', () => talker.open() === 0)
        expect(heard).not.toContain('secret')
        talker.stop()
      }
  })

  test('a server that hangs up within the handshake is an error with a code', async () => {
    for (const proxy of Object.values(proxies())) {
      const rude = await openWireServer({ onSocket: (socket) => void socket.once('data', () => socket.destroy()) })
      const { code } = await failure(openClient().post(`https://localhost:${rude.port}/`, { proxy }))
      expect(code).toBe('ECONNRESET')
      rude.stop()
    }
  })

  test('a second handshake in the middle of a call does not send it again', async () => {
    await Bun.write(`${authority.file}.key`, signed.name.key)
    await Bun.write(`${authority.file}.cert`, signed.name.cert)
    const args = ['s_server', '-accept', '0', '-key', `${authority.file}.key`, '-cert', `${authority.file}.cert`]
    const server = Bun.spawn(['openssl', ...args, '-tls1_2', '-crlf'], {
      stdin: 'pipe',
      stdout: 'pipe',
      stderr: 'ignore',
    })
    let said = ''
    const reading = (async () => {
      for await (const bytes of server.stdout) said += Buffer.from(bytes).toString('latin1')
    })()
    const port = await eventually('it listens', () => /ACCEPT \S*:(\d+)/.exec(said)?.[1])
    const call = openClient().post(`https://127.0.0.1:${port}/`, { body: 'THE BODY' })
    await eventually('it has the call', () => said.includes('THE BODY'))
    const tell = async (text: string): Promise<void> => {
      server.stdin.write(text)
      await server.stdin.flush()
    }
    await tell('R\n')
    await eventually('it shakes hands again', () => said.includes('SSL_do_handshake -> 1'))
    // Whatever came of it is heard in order before the answer to it.
    await Bun.sleep(50)
    await tell('HTTP/1.1 200 OK\nContent-Length: 2\n\nok\n')
    expect((await call.answer).status).toBe(200)
    expect(said.match(/POST \//g)).toHaveLength(1)
    expect(said.match(/THE BODY/g)).toHaveLength(1)
    server.kill()
    await reading
  })
})

describe('an HTTP proxy', () => {
  test('is asked for the way to an https upstream, once for calls that share it', async () => {
    const proxy = await openConnectProxy()
    const client = openClient()
    const url = `https://upstream.example:${secure.name.port}/v1/chat`
    for (let i = 0; i < 3; i++)
      await ok(client.post(url, { proxy: proxy.url, headers: new Headers({ 'x-secret': 's' }) }))
    const at = `upstream.example:${secure.name.port}`
    expect(proxy.heads).toEqual([`CONNECT ${at} HTTP/1.1\r\nHost: ${at}`])
    expect(secure.name.last().head).not.toContain('proxy')
    expect(secure.name.last().line).toBe('POST /v1/chat HTTP/1.1')
    expect(secure.name.last().fields['host']).toBe(at)
    // The way belongs to who asked by this proxy.
    await expect(client.post(url).answer).rejects.toMatchObject({ code: 'ENOTFOUND' })
    client.close()
    await eventually('closed', () => proxy.open() === 0)
    proxy.stop()
  })

  test('gets plain calls itself, with the whole address', async () => {
    const proxy = await openConnectProxy({ login: { user: 'us:er', password: 'p@ss w\u00f6rd' } })
    const client = openClient()
    const own = proxy.url.replace('//', '//us%3Aer:p%40ss%20w%C3%B6rd@')
    for (let i = 0; i < 2; i++) {
      const { text } = await whole(client.post('http://upstream.example/v1?x=1#y', { proxy: own, body: 'b' }))
      expect(text).toBe('proxy')
    }
    expect(proxy.heads).toHaveLength(2)
    expect(proxy.heads[0]!.split('\r\n')).toEqual([
      'POST http://upstream.example/v1?x=1 HTTP/1.1',
      'host: upstream.example',
      `proxy-authorization: Basic ${Buffer.from('us:er:p@ss w\u00f6rd').toString('base64')}`,
      'content-length: 1',
    ])
    client.close()
    await eventually('closed', () => proxy.open() === 0)
    proxy.stop()
  })

  test('that wants a login gets it, and the upstream does not', async () => {
    const proxy = await openConnectProxy({ login: { user: 'user', password: '100%' }, isSlow: true })
    const client = openClient()
    const url = `https://localhost:${secure.name.port}/`
    for (const password of ['100%', '100%25']) {
      await ok(client.post(url, { proxy: proxy.url.replace('//', `//user:${password}@`) }))
      expect(secure.name.last().head.toLowerCase()).not.toContain('authorization')
    }
    for (const own of [proxy.url, proxy.url.replace('//', '//user:wrong@')])
      await expect(client.post(url, { proxy: own }).answer).rejects.toMatchObject({
        code: 'PROXY_REFUSED',
        message: 'the proxy refused: status 407',
      })
    client.close()
    await eventually('closed', () => proxy.open() === 0)
    proxy.stop()
  })

  const REFUSALS: Readonly<Record<string, string>> = {
    'HTTP/1.1 502 Bad Gateway\r\n\r\nno way': 'status 502',
    'HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n': 'status 302',
    'HTTP/1.1 100 Continue\r\n\r\n': 'status 100',
    'SSH-2.0\r\n\r\n': 'status unknown',
    'HTTP/1.1 2000 OK\r\n\r\n': 'status unknown',
    'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil': 'bytes came too early',
    [`HTTP/1.1 200 OK\r\nX: ${'x'.repeat(20_000)}`]: 'its answer is too long',
  }
  test('that refuses, or says anything else, is an error of its own', async () => {
    for (const [refusal, reason] of Object.entries(REFUSALS)) {
      const proxy = await openConnectProxy({ refusal })
      const { answer } = openClient().post(`https://localhost:${secure.name.port}/`, { proxy: proxy.url })
      await expect(answer).rejects.toMatchObject({ code: 'PROXY_REFUSED', message: `the proxy refused: ${reason}` })
      await eventually('hung up', () => proxy.open() === 0)
      proxy.stop()
    }
  })

  test('whose consent brings bytes with it is not believed: the upstream had nothing to say yet', async () => {
    const proxy = await openConnectProxy({ early: 'x' })
    const call = openClient().post(`https://localhost:${secure.name.port}/`, { proxy: proxy.url })
    expect(await failure(call)).toEqual({ code: 'PROXY_REFUSED', text: '' })
    proxy.stop()
  })

  test('that is spoken to by TLS works as well, if slowly', async () => {
    const proxy = await openConnectProxy({ tls: signed.address, login: { user: 'user', password: 'pass' } })
    const client = openClient()
    const bytes = noise(100_000)
    const own = proxy.url.replace('//', '//user:pass@')
    const pieces = async function* (): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < bytes.length; at += 30_000) yield bytes.subarray(at, at + 30_000)
    }
    for (const body of [bytes, { length: bytes.length, pieces }]) {
      await ok(client.post(`https://localhost:${secure.name.port}/v1`, { proxy: own, body }))
      expect(sha256(secure.name.last().body)).toBe(sha256(bytes))
    }
    expect(proxy.heads[0]).toStartWith(`CONNECT localhost:${secure.name.port} `)
    proxy.stop()
  })
})

describe('a SOCKS5 proxy', () => {
  test('finds names itself, and is asked once for calls that share the way', async () => {
    const before = socks.asked.length
    for (const scheme of ['socks5', 'socks5h'])
      for (const server of [plain, secure.name]) {
        const client = openClient()
        const proxy = socks.url.replace('socks5', scheme)
        const url = server.url.replace('127.0.0.1', 'upstream.example')
        for (let i = 0; i < 3; i++) await ok(client.post(`${url}/v1/chat`, { proxy }))
        expect(server.last().line).toBe('POST /v1/chat HTTP/1.1')
        expect(server.last().fields['host']).toBe(`upstream.example:${server.port}`)
        client.close()
      }
    expect(socks.asked.slice(before)).toEqual(
      [plain, secure.name, plain, secure.name].map(({ port }) => ({ kind: 'name', host: 'upstream.example', port })),
    )
    await eventually('closed', () => socks.open() === 0)
  })

  test('is told addresses as addresses', async () => {
    const client = openClient()
    const HOSTS = {
      '127.0.0.1': ['v4', '127.0.0.1'],
      '[::1]': ['v6', '00000000000000000000000000000001'],
      '[2001:db8::a:0:f00]': [
        'v6',
        '20010db80000000000000000000a00000f00'.replace('0000000000000000000a', '000000000000000a'),
      ],
      '[2001:DB8:1:2:3:4:5:6]': ['v6', '20010db8000100020003000400050006'],
      '[fe80::]': ['v6', 'fe800000000000000000000000000000'],
      '[::ffff:192.0.2.1]': ['v6', '00000000000000000000ffffc0000201'],
    } as const
    for (const [host, [kind, told]] of Object.entries(HOSTS)) {
      await ok(client.post(`http://${host}:${plain.port}/`, { proxy: socks.url }))
      expect(socks.asked.at(-1)).toEqual({ kind, host: told, port: plain.port })
    }
    client.close()
  })

  test('logs us in, byte by byte if need be', async () => {
    const login = { user: 'us:er\u00f6', password: 'p@ss:w%rd' }
    const proxy = await openSocks5({ login, isSlow: true })
    const client = openClient()
    const named = (user: string, password: string): string =>
      proxy.url.replace('//', `//${encodeURIComponent(user)}:${encodeURIComponent(password)}@`)
    for (const server of [plain, secure.name])
      await ok(client.post(server.url, { proxy: named(login.user, login.password) }))
    const refusal = (own: string) => client.post(plain.url, { proxy: own }).answer
    await expect(refusal(named(login.user, 'wrong'))).rejects.toMatchObject({
      code: 'PROXY_REFUSED',
      message: 'the proxy refused: user or password',
    })
    await expect(refusal(proxy.url)).rejects.toMatchObject({
      code: 'PROXY_REFUSED',
      message: 'the proxy refused: it wants another kind of login',
    })
    await expect(refusal(named('u'.repeat(256), 'p'))).rejects.toMatchObject({ code: 'HTTP_BAD_PROXY' })
    await ok(client.post(plain.url, { proxy: named(login.user, login.password) }))
    client.close()
    await eventually('closed', () => proxy.open() === 0)
    proxy.stop()
  })

  test('that wants no login gets none', async () => {
    const client = openClient()
    await ok(client.post(plain.url, { proxy: socks.url.replace('//', '//user:pass@') }))
    client.close()
  })

  test('that refuses says why', async () => {
    for (const [reply, reason] of [
      [1, 'general failure'],
      [2, 'not allowed'],
      [5, 'connection refused'],
      [99, 'reply 99'],
    ] as const) {
      const proxy = await openSocks5({ reply })
      const { answer } = openClient().post(plain.url, { proxy: proxy.url })
      await expect(answer).rejects.toMatchObject({ code: 'PROXY_REFUSED', message: `the proxy refused: ${reason}` })
      proxy.stop()
    }
  })

  test('whose consent brings bytes with it is not believed', async () => {
    for (const server of [plain, secure.name]) {
      const proxy = await openSocks5({ early: OK })
      const before = server.requests.length
      expect(await failure(openClient().post(server.url, { proxy: proxy.url }))).toEqual({
        code: 'PROXY_REFUSED',
        text: '',
      })
      expect(server.requests.length).toBe(before)
      proxy.stop()
    }
  })

  test('that says more than it was asked is not believed', async () => {
    const CHATTER = [
      [5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
      [5, 0, 0],
    ]
    for (const said of CHATTER) {
      const proxy = await openWireServer({
        onSocket: (socket) => void socket.once('data', () => socket.write(Uint8Array.from(said))),
      })
      const { answer } = openClient().post(plain.url, { proxy: `socks5://127.0.0.1:${proxy.port}` })
      await expect(answer).rejects.toMatchObject({
        code: 'PROXY_REFUSED',
        message: 'the proxy refused: bytes came too early',
      })
      await eventually('hung up', () => proxy.open() === 0)
      proxy.stop()
    }
  })

  test('that is none is not believed', async () => {
    for (const said of ['HTTP/1.1 400 Bad Request\r\n\r\n', '\x05\xff', '\x04\x00', '\x05\x02']) {
      const proxy = await openWireServer({
        onSocket: (socket) => void socket.once('data', () => socket.write(said, 'latin1')),
      })
      const call = openClient().post(plain.url, { proxy: `socks5://127.0.0.1:${proxy.port}` })
      expect(await failure(call)).toEqual({ code: 'PROXY_REFUSED', text: '' })
      proxy.stop()
    }
  })

  test('carries megabytes both ways', async () => {
    const bytes = noise(3_000_000)
    const server = await openWireServer({
      tls: signed.name,
      answer: (socket, { body }) => {
        socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n`)
        socket.write(body)
      },
    })
    const client = openClient()
    for (let i = 0; i < 2; i++)
      expect(sha256((await whole(client.post(server.url, { proxy: socks.url, body: bytes }))).bytes)).toBe(
        sha256(bytes),
      )
    expect(server.accepted()).toBe(1)
    client.close()
    server.stop()
  })
})

describe('a proxy', () => {
  test('holds the upstream back for a reader that does not read, as the straight way does', async () => {
    const block = noise(1_000_000)
    const size = 40 * block.length
    for (const tls of [undefined, signed.name])
      for (const proxy of tls ? [connectProxy.url, socks.url] : [socks.url]) {
        let said = 0
        const server = await openWireServer({
          tls,
          answer(socket) {
            socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${size}\r\n\r\n`)
            const say = (): void => {
              while (said < size) {
                said += block.length
                if (!socket.write(block)) return void socket.once('drain', say)
              }
            }
            say()
          },
        })
        const client = openClient()
        const call = client.post(server.url, { proxy })
        await call.answer
        await standsStill(() => said)
        expect(said).toBeLessThan(30_000_000)
        const expected = new Bun.CryptoHasher('sha256')
        for (let i = 0; i < 40; i++) expected.update(block)
        expect(sha256((await whole(call)).bytes)).toBe(expected.digest('hex'))
        client.close()
        server.stop()
      }
  })

  test('of no known kind is refused', async () => {
    for (const proxy of ['nonsense', 'socks4://127.0.0.1:1', 'socks5x://127.0.0.1:1', 'ftp://127.0.0.1:1', 'socks5:x'])
      expect({ proxy, ...(await failure(openClient().post(plain.url, { proxy }))) }).toEqual({
        proxy,
        code: 'HTTP_BAD_PROXY',
        text: '',
      })
  })

  test('that is not there, is silent until the caller leaves, or hangs up', async () => {
    for (const scheme of ['http', 'socks5']) {
      const silent = await openWireServer({ onSocket: (socket) => socket.resume() })
      const rude = await openWireServer({ onSocket: (socket) => void socket.once('data', () => socket.end()) })
      const url = secure.name.url
      const client = openClient()
      expect((await failure(client.post(url, { proxy: `${scheme}://127.0.0.1:1` }))).code).toBe('ECONNREFUSED')
      expect((await failure(client.post(url, { proxy: `${scheme}://127.0.0.1:${rude.port}` }))).code).toBe('ECONNRESET')
      const call = client.post(url, { proxy: `${scheme}://127.0.0.1:${silent.port}` })
      const failed = failure(call)
      await eventually('it is asked', () => silent.open() === 1)
      expect(call.isConnected()).toBe(false)
      call.abort(Object.assign(new Error('stop'), { code: 'E_STOP' }))
      expect((await failed).code).toBe('E_STOP')
      await eventually('hung up', () => silent.open() === 0)
      silent.stop()
      rude.stop()
    }
  })

  test('of all calls holds for those that name none, but for hosts that are exempt', async () => {
    const client = openClient({
      proxies: { http: `127.0.0.1:${connectProxy.port}`, https: socks.url, no: `localhost,127.0.0.1:${plain.port}` },
    })
    expect((await whole(client.post('http://upstream.example/'))).text).toBe('proxy')
    await ok(client.post(plain.url))
    await ok(client.post(`http://localhost:${plain.port}`))
    const before = socks.asked.length
    await ok(client.post(`https://upstream.example:${secure.name.port}`))
    await ok(client.post(`https://upstream.example:${secure.name.port}`, { proxy: connectProxy.url }))
    expect(socks.asked.length).toBe(before + 1)
    client.close()
  })
})

const HAS_IPV6 = Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === '::1'))
if (!HAS_IPV6) console.log('left out: calls to addresses of IPv6, which this machine has not')
else
  test('addresses of IPv6 are called as they are written', async () => {
    for (const tls of [undefined, authority.sign('IP:::1')]) {
      const server = await openWireServer({ hostname: '::1', tls, answer: (socket) => socket.write(OK) })
      const client = openClient()
      for (let i = 0; i < 2; i++) await ok(client.post(server.url))
      expect(server.accepted()).toBe(1)
      expect(server.last().fields['host']).toBe(`[::1]:${server.port}`)
      if (tls) {
        const ways = [`${server.url}/`, server.url.replace('[::1]', 'localhost')]
        const child = Bun.spawn([process.execPath, `${import.meta.dir}/trusting-caller.ts`, ...ways], {
          env: { ...process.env, NODE_EXTRA_CA_CERTS: authority.file },
          stdout: 'pipe',
        })
        expect((JSON.parse(await new Response(child.stdout).text()) as string[])[0]).toBe('none')
      }
      client.close()
      server.stop()
    }
  })

test('through CONNECT an address of IPv6 stands in brackets', async () => {
  const client = openClient()
  await ok(client.post(`https://[2001:db8::1]:${secure.name.port}/`, { proxy: connectProxy.url }))
  expect(connectProxy.heads.at(-1)).toStartWith(`CONNECT [2001:db8::1]:${secure.name.port} HTTP/1.1\r\n`)
  client.close()
})

describe('proxies for all calls', () => {
  const P = 'http://proxy.example:3128'
  const proxyOf = (no: string, origin: string): string =>
    createProxyOf({ http: P, https: 'socks5://s.example', no })(origin)
  test('by scheme', () => {
    expect(proxyOf('', 'http://a.example')).toBe(P)
    expect(proxyOf('', 'https://a.example')).toBe('socks5://s.example')
    expect(createProxyOf({ http: '', https: '', no: '' })('http://a.example')).toBe('')
    expect(createProxyOf({ http: P, https: '', no: '' })('https://a.example')).toBe('')
    expect(createProxyOf({ http: 'proxy.example:3128', https: '', no: '' })('http://a.example')).toBe(P)
  })
  test.each([
    ['*', 'http://a.example', true],
    ['a.example', 'http://a.example', true],
    ['A.Example', 'http://a.example:8080', true],
    ['a.example', 'http://b.a.example', true],
    ['.a.example', 'http://b.a.example', true],
    ['*.a.example', 'http://b.a.example', true],
    ['.a.example', 'http://a.example', true],
    ['a.example', 'http://ba.example', false],
    ['a.example', 'http://a.example.org', false],
    ['x.example, a.example', 'http://a.example', true],
    ['x.example a.example', 'http://a.example', true],
    [' , ,', 'http://a.example', false],
    ['a.example:8080', 'http://a.example:8080', true],
    ['a.example:8080', 'http://a.example', false],
    ['a.example:80', 'http://a.example', true],
    ['a.example:443', 'https://a.example', true],
    ['127.0.0.1', 'http://127.0.0.1:99', true],
    ['0.0.1', 'http://127.0.0.1', false],
    ['::1', 'http://[::1]:99', true],
    ['0:0::1', 'http://[::1]', true],
    ['127.0.0.1:8080', 'http://127.0.0.1:8080', true],
    ['127.0.0.1:8080', 'http://127.0.0.1:81', false],
    ['[::1]', 'http://[::1]', true],
    ['[::1]:99', 'http://[::1]:99', true],
    ['[::1]:98', 'http://[::1]:99', false],
    ['10.0.0.0/8', 'http://10.200.0.1:99', true],
    ['10.0.0.0/8', 'http://11.0.0.1', false],
    ['fd00::/8', 'http://[fd12::1]', true],
    ['10.0.0.0/99', 'http://10.0.0.1', false],
    ['10.0.0.0/8', 'http://a.example', false],
  ])('without one: %j covers %s: %p', (no, origin, isExempt) => {
    expect(proxyOf(no, origin) === '').toBe(isExempt)
  })
})
