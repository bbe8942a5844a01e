/** Proxies that real programs would use: HTTP with CONNECT, and SOCKS5. They lead to this machine, whatever name is asked for. */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import type { Certificate } from './certificates.ts'

export interface ProxyOptions {
  /** Whoever does not name these is refused. */
  readonly login?: { readonly user: string; readonly password: string }
  /** Says its part byte by byte. */
  readonly isSlow?: boolean
  /** Said behind the consent, in the same breath. */
  readonly early?: string
}

async function listen(onSocket: (socket: Socket) => void, tls?: Certificate) {
  const sockets = new Set<Socket>()
  const onConnection = (socket: Socket): void => {
    sockets.add(socket)
    socket.setNoDelay(true)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
    onSocket(socket)
  }
  const server = tls ? createTlsServer({ ...tls }, onConnection) : createServer(onConnection)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    open: () => sockets.size,
    stop() {
      server.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}

async function say(socket: Socket, bytes: Uint8Array, isSlow = false): Promise<void> {
  if (!isSlow) return void socket.write(bytes)
  for (const byte of bytes) {
    socket.write(Uint8Array.of(byte))
    await new Promise((resolve) => setImmediate(resolve))
  }
}

function lead(client: Socket, port: number, onOpen: () => Promise<void>): void {
  const upstream = connect(port, '127.0.0.1')
  upstream.once('connect', async () => {
    await onOpen()
    client.pipe(upstream)
    upstream.pipe(client)
  })
  upstream.on('error', () => client.destroy()).on('close', () => client.destroy())
  client.on('close', () => upstream.destroy())
}

/**
 * Plain calls it answers itself.
 * @param options.refusal what it says to everybody before it hangs up
 * @param options.tls it is itself spoken to by TLS
 */
export async function openConnectProxy({
  login,
  isSlow,
  early = '',
  refusal,
  tls,
}: ProxyOptions & { refusal?: string; tls?: Certificate } = {}) {
  const heads: string[] = []
  const wanted = login && `Basic ${Buffer.from(`${login.user}:${login.password}`).toString('base64')}`
  const server = await listen((socket) => {
    let heard = ''
    const onData = (bytes: Buffer): void => {
      heard += bytes.toString('latin1')
      const end = heard.indexOf('\r\n\r\n')
      if (end < 0) return
      const head = heard.slice(0, end)
      heard = ''
      heads.push(head)
      if (refusal !== undefined) return void socket.end(refusal)
      const given = /^proxy-authorization: (.*)$/im.exec(head)?.[1]
      if (wanted && given !== wanted) return void socket.end('HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n')
      const port = /^CONNECT \S+:(\d+) HTTP/.exec(head)?.[1]
      if (port === undefined) return void socket.write('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nproxy')
      socket.off('data', onData)
      lead(socket, Number(port), () => say(socket, Buffer.from(`HTTP/1.1 200 Yes\r\n\r\n${early}`), isSlow))
    }
    socket.on('data', onData)
  }, tls)
  return { ...server, url: `${tls ? 'https' : 'http'}://127.0.0.1:${server.port}`, heads }
}

/** @param options.reply what it says to the request: 0 is consent */
export async function openSocks5({ login, isSlow, early = '', reply = 0 }: ProxyOptions & { reply?: number } = {}) {
  const asked: { kind: 'name' | 'v4' | 'v6'; host: string; port: number }[] = []
  const server = await listen((socket) => {
    let heard = Buffer.alloc(0)
    let step: 'hello' | 'login' | 'request' = 'hello'
    const onData = (bytes: Buffer): void => {
      heard = Buffer.concat([heard, bytes])
      if (step === 'hello') {
        if (heard.length < 2 || heard.length < 2 + heard[1]!) return
        const methods = heard.subarray(2, 2 + heard[1]!)
        heard = heard.subarray(2 + heard[1]!)
        const method = login ? 2 : 0
        if (!methods.includes(method)) return void socket.end(Uint8Array.of(5, 255))
        step = login ? 'login' : 'request'
        void say(socket, Uint8Array.of(5, method), isSlow)
      }
      if (step === 'login') {
        if (heard.length < 2 || heard.length < 3 + heard[1]!) return
        const userEnds = 2 + heard[1]!
        const ends = userEnds + 1 + heard[userEnds]!
        if (heard.length < ends) return
        const user = heard.toString('utf8', 2, userEnds)
        const password = heard.toString('utf8', userEnds + 1, ends)
        heard = heard.subarray(ends)
        if (user !== login?.user || password !== login.password) return void socket.end(Uint8Array.of(1, 1))
        step = 'request'
        void say(socket, Uint8Array.of(1, 0), isSlow)
      }
      if (heard.length < 5) return
      const from = heard[3] === 3 ? 5 : 4
      const bytesOfHost = heard[3] === 1 ? 4 : heard[3] === 4 ? 16 : heard[4]!
      if (heard.length < from + bytesOfHost + 2) return
      const host = heard.subarray(from, from + bytesOfHost)
      const port = heard.readUInt16BE(from + bytesOfHost)
      const [kind, text] =
        heard[3] === 1
          ? (['v4', host.join('.')] as const)
          : heard[3] === 4
            ? (['v6', host.toString('hex')] as const)
            : (['name', host.toString()] as const)
      asked.push({ kind, host: text, port })
      socket.off('data', onData)
      // Its own address may be of any kind; a name is the one of which the length is not known before.
      const own = [3, 4, ...Buffer.from('here'), 4, 56]
      if (reply !== 0) return void socket.end(Uint8Array.of(5, reply, 0, 1, 0, 0, 0, 0, 0, 0))
      lead(socket, port, () => say(socket, Buffer.from([5, 0, 0, ...own, ...Buffer.from(early)]), isSlow))
    }
    socket.on('data', onData)
  })
  return { ...server, url: `socks5://127.0.0.1:${server.port}`, asked }
}
