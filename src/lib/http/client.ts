/**
 * A client for HTTP/1.1 that keeps connections open between calls. It is here because `fetch` hands each call and each
 * piece of its answer to a thread of its own and back: with thousands of streams a sixth of the memory, and of the CPU time
 * of a chunk. It also says when it is connected, reads only as fast as its caller, and goes through SOCKS5.
 *
 * A call is sent at most once: one that meets a connection which the upstream is just closing fails, for nobody can say
 * whether it was heard.
 */
import type { Clock } from '../clock.ts'
import { trimField } from '../headers.ts'
import { HttpError } from './answer.ts'
import { basicLogin } from './connect.ts'
import {
  Call,
  Connection,
  DONE,
  type HttpAnswer,
  type HttpBody,
  type HttpCall,
  type ReadResult,
  type Target,
} from './connection.ts'
import { createProxyOf, type Proxies } from './proxy-of.ts'

export type { Fields } from './answer.ts'
export { HttpError } from './answer.ts'
export type { HttpAnswer, HttpCall, ReadResult } from './connection.ts'
export type { Proxies } from './proxy-of.ts'

/** What is sent before the body: a `Headers`, or a `Map` with names in lower case, which costs a fraction. */
export interface HttpFields {
  has(name: string): boolean
  forEach(call: (value: string, name: string) => void): void
}

export interface HttpRequest {
  /** http or https */
  readonly url: string
  readonly headers: HttpFields
  readonly body: HttpBody
  /** http, https, socks5 or socks5h URL; '': what holds for all calls */
  readonly proxy: string
}

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
  headers.forEach((text, name) => {
    const value = trimField(text)
    // One that breaks out of its line would be read as another.
    if (!FIELD_NAME.test(name) || !FIELD_VALUE.test(value)) throw new HttpError('HTTP_BAD_FIELD', `no field: ${name}`)
    if (name === 'host') hasHost = true
    if (!OURS.has(name)) head += `${name}: ${value}\r\n`
  })
  if (!hasHost) head += `host: ${target.hostField}\r\n`
  if (login && !headers.has('authorization')) head += `authorization: ${login}\r\n`
  const proxyLogin = isProxied ? basicLogin(target.proxy) : undefined
  if (proxyLogin) head += `proxy-authorization: ${proxyLogin}\r\n`
  return `${head}content-length: ${typeof body === 'string' ? Buffer.byteLength(body) : body.length}\r\n\r\n`
}

const FIELD_NAME = /^[a-z\d!#$%&'*+.^_`|~-]+$/
const FIELD_VALUE = /^[\t\x20-\xff]*$/
/** Fields that say how the bytes are put on the wire. */
const OURS = new Set(['content-length', 'transfer-encoding', 'connection', 'keep-alive', 'upgrade', 'expect', 'te'])

/** As slow as it is, it knows proxies that are themselves spoken to by TLS. */
function postByFetch({ url, headers: fields, body }: HttpRequest, { proxy, isTlsChecked }: Target): HttpCall {
  const controller = new AbortController()
  const headers = new Headers()
  fields.forEach((value, name) => {
    headers.set(name, value)
  })
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
