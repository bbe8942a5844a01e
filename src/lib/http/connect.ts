/**
 * Opens connections: straight to a host, or through a proxy (HTTP with CONNECT, SOCKS5), with TLS on top where the URL says
 * `https`. A connection is ready when bytes of a call may be written.
 */
import type { Socket, SocketHandler } from 'bun'
import { isIp } from '../ip.ts'
import { HttpError, latin1 } from './answer.ts'

/** Where calls of one origin go. */
export interface Destination {
  readonly hostname: string
  readonly port: number
  readonly isTls: boolean
  /** http, socks5 or socks5h URL */
  readonly proxy: URL | undefined
  readonly isTlsChecked: boolean
}

/** Who owns a connection hears of it here. After `onClosed` nothing more is called. */
export interface Owner {
  onReady(socket: Socket<unknown>): void
  onBytes(bytes: Uint8Array<ArrayBuffer>): void
  onDrain(): void
  onClosed(error: Error | undefined): void
}

/** What a socket carries: its owner, or the talk with a proxy that comes first. */
interface Link {
  readonly owner: Owner
  readonly to: Destination
  /** Undefined once the way to the destination is open. */
  talk: Talk | undefined
  /** The one whose bytes count: the socket below TLS reports its bytes, too. */
  socket: Socket<Link> | undefined
  /** TLS stands. */
  isReady: boolean
  isOver: boolean
}

const KEEP_ALIVE_MS = 30_000

const codeOf = (error: Error): unknown => (error as { code?: unknown }).code

/** @returns a function that gives the connection up */
export function openConnection(to: Destination, owner: Owner): () => void {
  const { proxy } = to
  const link: Link = {
    owner,
    to,
    talk: proxy && talkWith(proxy, to),
    socket: undefined,
    isReady: false,
    isOver: false,
  }
  const isTlsNow = to.isTls && !link.talk
  Bun.connect<Link>({
    hostname: proxy ? bare(proxy.hostname) : to.hostname,
    port: proxy ? Number(proxy.port) || (isSocks(proxy) ? 1080 : 80) : to.port,
    data: link,
    socket: handlers,
    ...(isTlsNow && { tls: tlsOf(to) }),
  }).catch((error) => over(link, error))
  return () => {
    if (link.isOver) return
    link.isOver = true
    link.socket?.terminate()
  }
}

const tlsOf = ({ hostname, isTlsChecked, proxy }: Destination): Bun.TLSOptions => ({
  // An address is no server name; behind a proxy it is the only thing that the certificate can be held against.
  ...((proxy || !isIp(hostname)) && { serverName: hostname }),
  rejectUnauthorized: isTlsChecked,
})

const bare = (hostname: string): string => hostname.replace(/^\[|\]$/g, '')
const isSocks = ({ protocol }: URL): boolean => protocol.startsWith('socks5')

function over(link: Link, error: Error | undefined): void {
  if (link.isOver) return
  link.isOver = true
  link.socket?.terminate()
  link.owner.onClosed(error)
}

/** The way is open: TLS comes next, or the call. */
function opened(link: Link, socket: Socket<Link>): void {
  link.talk = undefined
  if (!link.to.isTls) {
    link.owner.onReady(socket)
    return
  }
  const [, secure] = socket.upgradeTLS<Link>({ data: link, tls: tlsOf(link.to), socket: handlers })
  link.socket = secure
}

const plainHandlers: SocketHandler<Link, 'uint8array'> = {
  binaryType: 'uint8array',
  open(socket) {
    const link = socket.data
    // Also the socket on which TLS was put reports that it is open.
    if (link.socket) return
    if (link.isOver) return void socket.terminate()
    link.socket = socket
    socket.setNoDelay(true)
    // A model may think for many minutes: a way that is gone is noticed, and one that is quiet not forgotten by those on it.
    socket.setKeepAlive(true, KEEP_ALIVE_MS)
    if (link.talk) socket.write(link.talk.hello)
    else if (!link.to.isTls) link.owner.onReady(socket)
  },
  handshake(socket, isDone, error) {
    const link = socket.data
    if (link.isOver) return
    // Unchecked, what is wrong with a certificate is told all the same; what is no certificate's fault is EPROTO.
    const isFine = link.to.isTlsChecked ? isDone && !error : isDone || (error && codeOf(error) !== 'EPROTO')
    if (!isFine) return over(link, error ?? new HttpError('HTTP_TLS', 'no TLS'))
    // A server may ask for another handshake at any time; the call under way is not sent again for that.
    if (link.isReady) return
    link.isReady = true
    link.owner.onReady(socket)
  },
  data(socket, bytes) {
    const link = socket.data
    if (link.isOver || socket !== link.socket) return
    if (!link.talk) return link.owner.onBytes(bytes as Uint8Array<ArrayBuffer>)
    try {
      const next = link.talk.hear(bytes)
      if (next === 'open') opened(link, socket)
      else if (next) socket.write(next)
    } catch (error) {
      over(link, error as Error)
    }
  },
  drain(socket) {
    const link = socket.data
    if (!link.isOver && !link.talk && socket === link.socket) link.owner.onDrain()
  },
  error(socket, error) {
    over(socket.data, error)
  },
  end(socket) {
    // Whoever stops sending to us gets nothing more from us.
    over(socket.data, undefined)
  },
  close(socket, error) {
    over(socket.data, error)
  },
  connectError(socket, error) {
    over(socket.data, error)
  },
}
/** Bun's types know of one kind of bytes only. */
const handlers = plainHandlers as unknown as SocketHandler<Link>

/** What is said to a proxy before it lets bytes through. */
interface Talk {
  readonly hello: Uint8Array
  /** @returns what is said next; `open`: the way is open. @throws HttpError the proxy refuses */
  hear(bytes: Uint8Array): Uint8Array | 'open' | undefined
}

const refused = (reason: string): HttpError => new HttpError('PROXY_REFUSED', `the proxy refused: ${reason}`)

function talkWith(proxy: URL, to: Destination): Talk | undefined {
  if (isSocks(proxy)) return socks5(proxy, to)
  // A plain proxy reads plain calls itself.
  return to.isTls ? connectMethod(proxy, to) : undefined
}

/** Value of an `Authorization` or `Proxy-Authorization` field; undefined when the URL names nobody. */
export function basicLogin({ username, password }: URL): string | undefined {
  if (username === '' && password === '') return undefined
  return `Basic ${Buffer.from(`${decoded(username)}:${decoded(password)}`).toString('base64')}`
}

/** A password with a bare `%` means just that. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** @source https://www.rfc-editor.org/rfc/rfc9110#name-connect */
function connectMethod(proxy: URL, { hostname, port }: Destination): Talk {
  const at = `${hostname.includes(':') ? `[${hostname}]` : hostname}:${port}`
  const authorization = basicLogin(proxy)
  let heard = ''
  return {
    hello: Buffer.from(
      `CONNECT ${at} HTTP/1.1\r\nHost: ${at}\r\n${authorization ? `Proxy-Authorization: ${authorization}\r\n` : ''}\r\n`,
    ),
    hear(bytes) {
      heard += latin1(bytes, 0)
      const end = heard.indexOf('\r\n\r\n')
      if (end < 0) {
        if (heard.length > 16_384) throw refused('its answer is too long')
        return undefined
      }
      const [, status] = /^HTTP\/1\.[01] (\d{3})[ \r]/.exec(heard) ?? []
      if (!status?.startsWith('2')) throw refused(`status ${status ?? 'unknown'}`)
      // The server waits for us to begin.
      if (end + 4 !== heard.length) throw refused('bytes came too early')
      return 'open'
    },
  }
}

const SOCKS_ERRORS = [
  '',
  'general failure',
  'not allowed',
  'network unreachable',
  'host unreachable',
  'connection refused',
  'TTL expired',
  'command not supported',
  'address type not supported',
] as const

/**
 * Names are always resolved by the proxy, as `socks5h` asks: what `socks5` means by resolving here helps nobody.
 * @source https://www.rfc-editor.org/rfc/rfc1928 and https://www.rfc-editor.org/rfc/rfc1929
 */
function socks5(proxy: URL, { hostname, port }: Destination): Talk {
  const user = Buffer.from(decoded(proxy.username))
  const password = Buffer.from(decoded(proxy.password))
  const name = Buffer.from(hostname)
  if (user.length > 255 || password.length > 255 || name.length > 255)
    throw new HttpError('HTTP_BAD_PROXY', 'a name is too long for SOCKS5')
  const address = addressBytes(hostname) ?? [3, name.length, ...name]
  const request = Buffer.from([5, 1, 0, ...address, port >> 8, port & 255])
  let heard = Buffer.alloc(0)
  let expects: 'method' | 'login' | 'reply' = 'method'
  const answered = (length: number): Buffer | undefined => {
    if (heard.length < length) return undefined
    // It waits for us, and so does the server behind it.
    if (heard.length > length) throw refused('bytes came too early')
    const answer = heard
    heard = Buffer.alloc(0)
    return answer
  }
  return {
    hello: Buffer.from(user.length > 0 ? [5, 2, 0, 2] : [5, 1, 0]),
    hear(bytes) {
      heard = Buffer.concat([heard, bytes])
      // In the answer to a login some give the version of the protocol rather than of the login.
      if (expects !== 'login' && heard[0] !== 5) throw refused('it speaks no SOCKS5')
      if (expects === 'method') {
        const answer = answered(2)
        if (!answer) return undefined
        const isLogin = answer[1] === 2 && user.length > 0
        if (answer[1] !== 0 && !isLogin) throw refused('it wants another kind of login')
        expects = isLogin ? 'login' : 'reply'
        if (!isLogin) return request
        return Buffer.concat([Buffer.from([1, user.length]), user, Buffer.from([password.length]), password])
      }
      if (expects === 'login') {
        const answer = answered(2)
        if (!answer) return undefined
        if (answer[1] !== 0) throw refused('user or password')
        expects = 'reply'
        return request
      }
      if (heard.length < 5) return undefined
      if (heard[1] !== 0) throw refused(SOCKS_ERRORS[heard[1]!] || `reply ${heard[1]}`)
      const hostBytes = heard[3] === 1 ? 4 : heard[3] === 4 ? 16 : 1 + heard[4]!
      return answered(4 + hostBytes + 2) && 'open'
    },
  }
}

/** Kind and bytes of an address as URLs spell it; undefined for a name. */
function addressBytes(hostname: string): readonly number[] | undefined {
  if (/^[\d.]+$/.test(hostname)) return [1, ...hostname.split('.').map(Number)]
  if (!hostname.includes(':')) return undefined
  const [before = [], after = []] = hostname.split('::').map((side) => side.split(':').filter((word) => word !== ''))
  const words = [...before, ...Array<string>(8 - before.length - after.length).fill('0'), ...after]
  return [4, ...words.flatMap((word) => [Number.parseInt(word, 16) >> 8, Number.parseInt(word, 16) & 255])]
}
