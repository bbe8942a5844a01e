/**
 * A client for HTTP/1.1 that keeps connections open between calls. It is here because `fetch` hands each call to a thread of
 * its own and back, through a stream of its own: a third of what a small call cost. It also says when it is connected,
 * reads only as fast as its caller, and goes through SOCKS5.
 *
 * A call is sent at most once: one that meets a connection which the upstream is just closing fails, for nobody can say
 * whether it was heard.
 */
import type { Socket } from 'bun'
import { concat } from '../bytes.ts'
import type { Clock } from '../clock.ts'
import { type Fields, type Framing, framingOf, type Head, HttpError, latin1, parseHead } from './answer.ts'
import { basicLogin, type Destination, type Owner, openConnection } from './connect.ts'
import { createProxyOf, type Proxies } from './proxy-of.ts'

export type { Fields } from './answer.ts'
export { HttpError } from './answer.ts'
export type { Proxies } from './proxy-of.ts'

export interface HttpRequest {
  /** http or https */
  readonly url: string
  readonly headers: Headers
  /** A body in pieces says its length. */
  readonly body: Uint8Array | string | { readonly length: number; pieces(): AsyncIterable<Uint8Array> }
  /** http, https, socks5 or socks5h URL; '': what holds for all calls */
  readonly proxy: string
}

/** A call under way. */
export interface HttpCall {
  /** Settles when the head of the answer is here. Rejects with an error that has a `code`. */
  readonly answer: Promise<HttpAnswer>
  isConnected(): boolean
  /** Ends it at once, also while its body is read: whoever waits gets the error. */
  abort(error: Error): void
}

export interface HttpAnswer {
  readonly status: number
  readonly fields: Fields
  /** The next bytes of the body. One read at a time. */
  read(): Promise<ReadResult>
}
export type ReadResult =
  | { readonly done: false; readonly value: Uint8Array<ArrayBuffer> }
  | { readonly done: true; readonly value: undefined }

export interface HttpClient {
  post(request: HttpRequest): HttpCall
  /** Closes the connections that no call has, now and whenever a call ends. */
  close(): void
}

/** A connection that no call had for so long is closed; many servers close theirs after five seconds, or a minute. */
const IDLE_MS = 60_000
const SWEEP_MS = 5_000
/** An upstream that says how long it keeps a connection is believed, but for what a call is under way. */
const MARGIN_MS = 1_000
const MAX_HEAD_BYTES = 64 * 1024
/** Bytes that wait for their reader; beyond them the upstream has to wait. */
const MAX_WAITING_BYTES = 64 * 1024
/** What a piece takes beside its bytes; there may be one for each byte. */
const PIECE_BYTES = 128
/** Up to here head and body go out as one write. */
const ONE_WRITE_BYTES = 64 * 1024
const HEAD_END = Buffer.from('\r\n\r\n')

const DONE: Promise<ReadResult> = Promise.resolve({ done: true, value: undefined })

/** Where calls go, and the connections there that no call has, the last used one at the end. */
interface Target extends Destination {
  readonly key: string
  readonly hostField: string
  readonly idle: Connection[]
}

/**
 * @param options.clock for connections out of use
 * @param options.isTlsChecked certificates must be valid, and of the host that was called
 * @param options.proxies for calls that name none
 */
export function createHttpClient({
  clock,
  isTlsChecked,
  proxies,
}: {
  readonly clock: Clock
  readonly isTlsChecked: boolean
  readonly proxies: Proxies
}): HttpClient {
  const proxyOf = createProxyOf(proxies)
  const targets = new Map<string, Target>()
  let sweeper: ReturnType<typeof setInterval> | undefined
  let isClosed = false

  const targetOf = (origin: string, ownProxy: string): Target => {
    const key = ownProxy === '' ? origin : `${origin} ${ownProxy}`
    const known = targets.get(key)
    if (known) return known
    const proxy = proxyUrl(ownProxy || proxyOf(origin))
    const { protocol, hostname, port, host } = new URL(origin)
    if (protocol !== 'http:' && protocol !== 'https:') throw new HttpError('HTTP_BAD_URL', 'no http or https URL')
    const isTls = protocol === 'https:'
    const target: Target = {
      key,
      hostname: hostname.replace(/^\[|\]$/g, ''),
      port: Number(port) || (isTls ? 443 : 80),
      isTls,
      isTlsChecked,
      proxy,
      hostField: host,
      idle: [],
    }
    targets.set(key, target)
    return target
  }

  const sweep = (): void => {
    const now = clock.monotonic()
    for (const target of targets.values()) {
      for (const connection of target.idle.filter(({ closesAtMs }) => closesAtMs <= now)) connection.close()
      if (target.idle.length === 0) targets.delete(target.key)
    }
    if (targets.size > 0) return
    clearInterval(sweeper)
    sweeper = undefined
  }
  const keep = (connection: Connection, seconds: number | undefined): void => {
    const forMs = seconds === undefined ? IDLE_MS : Math.min(seconds * 1000 - MARGIN_MS, IDLE_MS)
    connection.closesAtMs = clock.monotonic() + forMs
    // The sweeper may have forgotten the place while its last connection was at work.
    const { target } = connection
    if (!targets.has(target.key)) targets.set(target.key, target)
    if (isClosed || forMs <= 0 || targets.get(target.key) !== target) {
      connection.close()
      return
    }
    target.idle.push(connection)
    if (sweeper) return
    sweeper = setInterval(sweep, SWEEP_MS)
    sweeper.unref()
  }

  return {
    post(request) {
      const call = new Call(request.body)
      try {
        const parts = splitUrl(request.url)
        const target = targetOf(parts.origin, request.proxy)
        // TLS within TLS is beyond the sockets at hand.
        if (target.proxy?.protocol === 'https:') return postByFetch(request, target)
        call.head = headOf(target, parts, request)
        const connection = keptConnection(target, clock.monotonic()) ?? new Connection(target, keep)
        connection.carry(call)
      } catch (error) {
        call.fail(error as Error)
      }
      return call
    },
    close() {
      isClosed = true
      clearInterval(sweeper)
      sweeper = undefined
      for (const { idle } of targets.values()) for (const connection of [...idle]) connection.close()
      targets.clear()
    },
  }
}

/** The one used last; the sweeper may be late, and the upstream about to close what it keeps no longer. */
function keptConnection({ idle }: Target, nowMs: number): Connection | undefined {
  for (;;) {
    const connection = idle.at(-1)
    if (!connection || connection.closesAtMs > nowMs) return idle.pop()
    connection.close()
  }
}

const PROXIES = new Set(['http:', 'https:', 'socks5:', 'socks5h:'])

function proxyUrl(text: string): URL | undefined {
  if (text === '') return undefined
  const url = URL.parse(text)
  if (url && PROXIES.has(url.protocol) && url.hostname !== '') return url
  throw new HttpError('HTTP_BAD_PROXY', 'the proxy is no http, https, socks5 or socks5h URL')
}

interface UrlParts {
  readonly origin: string
  readonly path: string
  /** For `Authorization`, when the URL names somebody. */
  readonly login?: string | undefined
}

/** A URL that goes out as it is: visible letters, nobody's name, no fragment, no steps up. */
const PLAIN_URL = /^(https?:\/\/[^/?#@\\]+)((?!.*\/(?:\.|%2[eE]))\/[!"$-[\]-~]*)$/

function splitUrl(url: string): UrlParts {
  const [, origin, path] = PLAIN_URL.exec(url) ?? []
  if (origin !== undefined && path !== undefined) return { origin, path }
  const parsed = new URL(url)
  return { origin: parsed.origin, path: parsed.pathname + parsed.search, login: basicLogin(parsed) }
}

function headOf(target: Target, { path, login }: UrlParts, { headers, body }: HttpRequest): string {
  // A plain proxy wants to know where to.
  const isProxied = target.proxy?.protocol === 'http:' && !target.isTls
  let head = `POST ${isProxied ? `http://${target.hostField}${path}` : path} HTTP/1.1\r\n`
  let hasHost = false
  headers.forEach((value, name) => {
    if (name === 'host') hasHost = true
    if (!OURS.has(name)) head += `${name}: ${value}\r\n`
  })
  if (!hasHost) head += `host: ${target.hostField}\r\n`
  if (login && !headers.has('authorization')) head += `authorization: ${login}\r\n`
  const proxyLogin = isProxied ? basicLogin(target.proxy) : undefined
  if (proxyLogin) head += `proxy-authorization: ${proxyLogin}\r\n`
  return `${head}content-length: ${typeof body === 'string' ? Buffer.byteLength(body) : body.length}\r\n\r\n`
}

/** Fields that say how the bytes are put on the wire. */
const OURS = new Set(['content-length', 'transfer-encoding', 'connection', 'keep-alive', 'upgrade', 'expect', 'te'])

/** One call, from its request to the last byte of its answer. */
class Call implements HttpCall, HttpAnswer {
  readonly answer: Promise<HttpAnswer>
  head = ''
  body: HttpRequest['body']
  status = 0
  fields: Fields = {}
  connection: Connection | undefined
  /** Set when nothing more comes: in good order, or with an error. */
  isOver = false
  error: Error | undefined
  #answered!: (answer: HttpAnswer) => void
  #failed!: (error: Error) => void
  #pieces: Uint8Array<ArrayBuffer>[] = []
  #waitingBytes = 0
  #reader: PromiseWithResolvers<ReadResult> | undefined

  constructor(body: HttpRequest['body']) {
    this.body = body
    this.answer = new Promise((resolve, reject) => {
      this.#answered = resolve
      this.#failed = reject
    })
  }

  isConnected(): boolean {
    return this.isOver || this.connection?.isReady === true
  }
  abort(error: Error): void {
    if (this.isOver) return
    const { connection } = this
    this.#pieces = []
    this.fail(error)
    connection?.close()
  }

  begin({ status, fields }: Head): void {
    this.status = status
    this.fields = fields
    this.#answered(this)
  }
  give(piece: Uint8Array<ArrayBuffer>): void {
    const reader = this.#reader
    if (reader) {
      this.#reader = undefined
      reader.resolve({ done: false, value: piece })
      return
    }
    // A small piece is kept without the bytes that came with it.
    this.#pieces.push(piece.length < piece.buffer.byteLength / 2 ? piece.slice() : piece)
    this.#waitingBytes += piece.length + PIECE_BYTES
    if (this.#waitingBytes > MAX_WAITING_BYTES) this.connection?.pause(true)
  }
  end(): void {
    this.#finish(undefined)
    this.#reader?.resolve(DONE)
  }
  fail(error: Error): void {
    this.#finish(error)
    // Bytes that came before it may still be read.
    this.#reader?.reject(error)
    this.#failed(error)
  }
  #finish(error: Error | undefined): void {
    this.isOver = true
    this.error = error
    this.connection = undefined
    this.body = ''
  }

  read(): Promise<ReadResult> {
    const piece = this.#pieces.shift()
    if (piece) {
      this.#waitingBytes -= piece.length + PIECE_BYTES
      if (this.#waitingBytes === 0) this.connection?.pause(false)
      return Promise.resolve({ done: false, value: piece })
    }
    if (this.error) return Promise.reject(this.error)
    if (this.isOver) return DONE
    this.#reader = Promise.withResolvers()
    return this.#reader.promise
  }
}

/** A connection and the call that it carries, if any. */
class Connection implements Owner {
  readonly target: Target
  isReady = false
  /** Monotonic milliseconds, while no call has it. */
  closesAtMs = 0
  readonly #keep: (connection: Connection, seconds: number | undefined) => void
  readonly #giveUp: () => void
  #socket: Socket<unknown> | undefined
  #isClosed = false
  #isPaused = false
  #call: Call | undefined
  /** Bytes that the socket has not taken yet. */
  #unsent: Uint8Array | undefined
  #onDrained: PromiseWithResolvers<boolean> | undefined
  #isSent = false
  /** Bytes of a head that is not complete. */
  #heard: Uint8Array<ArrayBuffer> | undefined
  #answer: Head | undefined
  #framing: Framing | undefined

  constructor(target: Target, keep: (connection: Connection, seconds: number | undefined) => void) {
    this.target = target
    this.#keep = keep
    this.#giveUp = openConnection(target, this)
  }

  carry(call: Call): void {
    this.#call = call
    call.connection = this
    this.#isSent = false
    if (this.isReady) this.#send(call)
  }
  /** The caller does not keep up: nothing more is read. */
  pause(isPaused: boolean): void {
    if (this.#isPaused === isPaused || this.#isClosed) return
    this.#isPaused = isPaused
    if (isPaused) this.#socket?.pause()
    else this.#socket?.resume()
  }
  close(): void {
    this.#closed(undefined)
    this.#giveUp()
  }

  onReady(socket: Socket<unknown>): void {
    this.#socket = socket
    this.isReady = true
    if (this.#call) this.#send(this.#call)
  }
  onDrain(): void {
    const rest = this.#unsent
    if (!rest) return
    this.#unsent = undefined
    if (this.#write(rest)) this.#drained(true)
  }
  onClosed(error: Error | undefined): void {
    this.#closed(error)
  }

  onBytes(bytes: Uint8Array<ArrayBuffer>): void {
    try {
      // An answer that nobody asked for.
      if (!this.#call) this.close()
      else if (this.#framing) this.#onBody(this.#call, this.#framing, bytes)
      else this.#onHead(this.#call, bytes)
    } catch (error) {
      this.#closed(error as Error)
      this.#giveUp()
    }
  }

  #onHead(call: Call, bytes: Uint8Array<ArrayBuffer>): void {
    let rest = this.#heard ? concat([this.#heard, bytes]) : bytes
    this.#heard = undefined
    for (;;) {
      const end = Buffer.prototype.indexOf.call(rest, HEAD_END)
      if (end > MAX_HEAD_BYTES || (end < 0 && rest.length > MAX_HEAD_BYTES))
        throw new HttpError('HTTP_BAD_ANSWER', 'the head of the answer is too long')
      if (end < 0) {
        this.#heard = rest
        return
      }
      const head = parseHead(latin1(rest, 0, end))
      rest = rest.subarray(end + HEAD_END.length)
      if (head.status === 101) throw new HttpError('HTTP_BAD_ANSWER', 'the upstream changes the protocol')
      // What comes before the answer itself is of no interest; another protocol was not asked for.
      if (head.status >= 200) {
        this.#onAnswer(call, head, rest)
        return
      }
    }
  }

  #onAnswer(call: Call, head: Head, rest: Uint8Array<ArrayBuffer>): void {
    this.#answer = head
    this.#framing = framingOf(head.length)
    call.begin(head)
    if (head.length === 0) this.#ended(rest.length > 0)
    else if (rest.length > 0) this.#onBody(call, this.#framing, rest)
  }

  #onBody(call: Call, framing: Framing, bytes: Uint8Array<ArrayBuffer>): void {
    const end = framing.take(bytes, call)
    if (end >= 0) this.#ended(end < bytes.length)
  }

  /** @param isMore bytes came that belong to no answer */
  #ended(isMore: boolean): void {
    const call = this.#call
    const answer = this.#answer
    this.#call = undefined
    this.#answer = undefined
    this.#framing = undefined
    call?.end()
    // An answer may come before the body was sent; what is left of that would be read as the next call.
    if (isMore || !this.#isSent || this.#unsent || !answer?.isKept) {
      this.close()
      return
    }
    this.pause(false)
    const seconds = /timeout=(\d+)/.exec(answer.fields['keep-alive'] ?? '')?.[1]
    this.#keep(this, seconds === undefined ? undefined : Number(seconds))
  }

  #closed(error: Error | undefined): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.isReady = false
    const at = this.target.idle.indexOf(this)
    if (at >= 0) this.target.idle.splice(at, 1)
    this.#drained(false)
    const call = this.#call
    this.#call = undefined
    if (!call || call.isOver) return
    if (this.#framing?.endsAtClose && !error) call.end()
    else call.fail(error ?? new HttpError('ECONNRESET', 'the upstream closed the connection'))
  }

  #drained(isOpen: boolean): void {
    this.#onDrained?.resolve(isOpen)
    this.#onDrained = undefined
  }

  /** @returns whether the socket took all of it; the rest follows by itself */
  #write(bytes: Uint8Array): boolean {
    const count = Math.max(this.#socket?.write(bytes) ?? 0, 0)
    if (count >= bytes.length) return true
    this.#unsent = bytes.subarray(count)
    return false
  }
  /** @returns false when the connection closed */
  #whenDrained(): Promise<boolean> {
    if (this.#isClosed) return Promise.resolve(false)
    this.#onDrained ??= Promise.withResolvers()
    return this.#onDrained.promise
  }

  #send(call: Call): void {
    const { head, body } = call
    if (typeof body === 'object' && 'pieces' in body) {
      this.#sendPieces(call, body).catch((error) => {
        if (call.connection !== this) return
        this.#closed(error)
        this.#giveUp()
      })
      return
    }
    const bodyBytes = typeof body === 'string' ? Buffer.byteLength(body) : body.length
    if (bodyBytes <= ONE_WRITE_BYTES) {
      const bytes = Buffer.allocUnsafe(head.length + bodyBytes)
      bytes.write(head, 0, 'latin1')
      if (typeof body === 'string') bytes.write(body, head.length)
      else bytes.set(body, head.length)
      this.#write(bytes)
    } else {
      const bytes = typeof body === 'string' ? Buffer.from(body) : body
      if (this.#write(Buffer.from(head, 'latin1'))) this.#write(bytes)
      else this.#unsent = concat([this.#unsent!, bytes])
    }
    this.#isSent = true
    call.body = ''
  }

  async #sendPieces(call: Call, body: Extract<HttpRequest['body'], { pieces(): unknown }>): Promise<void> {
    const isMine = (): boolean => call.connection === this
    if (!this.#write(Buffer.from(call.head, 'latin1')) && !(await this.#whenDrained())) return
    let left = body.length
    for await (const piece of body.pieces()) {
      if (!isMine()) return
      left -= piece.length
      if (left < 0) break
      if (!this.#write(piece) && !(await this.#whenDrained())) return
      if (!isMine()) return
    }
    // The upstream would wait for the rest, or take what is too much for the next call.
    if (left !== 0) throw new HttpError('HTTP_BAD_BODY', 'the body has not the length that was announced')
    this.#isSent = true
    call.body = ''
  }
}

/** As slow as it is, it knows proxies that are themselves spoken to by TLS. */
function postByFetch({ url, headers, body }: HttpRequest, { proxy, isTlsChecked }: Target): HttpCall {
  const controller = new AbortController()
  const isInPieces = typeof body === 'object' && 'pieces' in body
  if (isInPieces) headers.set('content-length', String(body.length))
  const init: Record<string, unknown> = {
    method: 'POST',
    headers,
    body: isInPieces ? body.pieces() : body,
    redirect: 'manual',
    decompress: false,
    signal: controller.signal,
    // The caller has limits of its own.
    timeout: false,
    proxy: proxy?.href,
    tls: { rejectUnauthorized: isTlsChecked },
  }
  const answer = fetch(url, init as RequestInit).then((response): HttpAnswer => {
    const reader = response.body?.getReader()
    return {
      status: response.status,
      fields: Object.fromEntries(response.headers),
      read: () => (reader ? (reader.read() as Promise<ReadResult>) : DONE),
    }
  })
  return { answer, isConnected: () => true, abort: (error) => controller.abort(error) }
}
