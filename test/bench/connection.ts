/**
 * A client that is cheap, so that a measured program and not its client is the limit: HTTP/1.1 on a kept connection of its
 * own, whole requests as bytes, each answer read to its last byte by its length or by chunks. One exchange at a time.
 */

export interface Answer {
  readonly status: number
  readonly body: Buffer
  /** When the first bytes of the body were here, by `performance.now()`. */
  readonly firstByteAtMs: number
}

export interface Connection {
  /** @throws Error when the connection ends before the answer does, or the answer is not HTTP */
  exchange(request: Uint8Array): Promise<Answer>
  close(): void
}

/** @returns the bytes of a POST with JSON, with headers as common clients send them */
export function requestOf(
  url: string,
  path: string,
  headers: Readonly<Record<string, string>>,
  body: string | Uint8Array,
): Uint8Array {
  const all = {
    Host: new URL(url).host,
    'User-Agent': 'bench',
    Accept: '*/*',
    'Accept-Encoding': 'gzip, deflate, br',
    'Content-Type': 'application/json',
    ...headers,
    'Content-Length': String(Buffer.byteLength(body)),
  }
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`)
  return Buffer.concat([Buffer.from(`POST ${path} HTTP/1.1\r\n${lines.join('')}\r\n`), Buffer.from(body)])
}

/** @param url without a path; a server that closes a kept connection is called again at the next exchange */
export async function openConnection(url: string): Promise<Connection> {
  const { hostname, port } = new URL(url)
  let socket: Bun.Socket<undefined> | undefined
  let pending: { resolve(answer: Answer): void; reject(error: Error): void } | undefined
  let answer = createAnswerReader()
  let unsent: Uint8Array = new Uint8Array()

  const fail = (error: Error): void => {
    socket = undefined
    const waiting = pending
    pending = undefined
    waiting?.reject(error)
  }
  const send = (to: Bun.Socket<undefined>, bytes: Uint8Array): void => {
    unsent = bytes.subarray(to.write(bytes))
  }
  const connect = (): Promise<Bun.Socket<undefined>> =>
    Bun.connect<undefined>({
      hostname,
      port: Number(port),
      socket: {
        data(_, bytes) {
          try {
            const whole = answer.read(bytes)
            if (!whole) return
            const waiting = pending
            pending = undefined
            waiting?.resolve(whole)
          } catch (error) {
            fail(error instanceof Error ? error : new Error(String(error)))
          }
        },
        drain: (to) => send(to, unsent),
        close: () => fail(new Error('the connection ended before the answer')),
        error: (_, error) => fail(error),
      },
    })

  socket = await connect()
  return {
    async exchange(request) {
      socket ??= await connect()
      answer = createAnswerReader()
      const answered = new Promise<Answer>((resolve, reject) => {
        pending = { resolve, reject }
      })
      send(socket, request)
      return answered
    },
    close: () => void socket?.end(),
  }
}

const LINE_END = '\r\n'
const HEAD_END = '\r\n\r\n'

/** Reads one answer, in whatever pieces it comes. @throws Error for what is not HTTP/1.1 with a length or chunks */
function createAnswerReader(): { read(bytes: Buffer): Answer | undefined } {
  /** What is not yet understood. */
  let held: Buffer = Buffer.alloc(0)
  let head: { readonly status: number; readonly length: number | undefined } | undefined
  let firstByteAtMs = 0
  const parts: Buffer[] = []

  /** @returns whether the last chunk has come */
  const readChunks = (): boolean => {
    for (;;) {
      const lineEnd = held.indexOf(LINE_END)
      if (lineEnd < 0) return false
      const size = Number.parseInt(held.toString('latin1', 0, lineEnd), 16)
      if (!(size >= 0)) throw new Error(`not the size of a chunk: ${held.toString('latin1', 0, lineEnd)}`)
      const start = lineEnd + LINE_END.length
      if (held.length > start && size > 0) firstByteAtMs ||= performance.now()
      if (held.length < start + size + LINE_END.length) return false
      if (size > 0) parts.push(held.subarray(start, start + size))
      held = held.subarray(start + size + LINE_END.length)
      if (size === 0) return true
    }
  }

  return {
    read(bytes) {
      held = held.length === 0 ? bytes : Buffer.concat([held, bytes])
      if (!head) {
        const headEnd = held.indexOf(HEAD_END)
        if (headEnd < 0) return undefined
        head = parseHead(held.toString('latin1', 0, headEnd))
        held = held.subarray(headEnd + HEAD_END.length)
      }
      const { status, length } = head
      if (length === undefined) return readChunks() ? { status, body: Buffer.concat(parts), firstByteAtMs } : undefined
      if (held.length > 0) firstByteAtMs ||= performance.now()
      return held.length >= length ? { status, body: held, firstByteAtMs } : undefined
    },
  }
}

/** @returns a length of undefined for a body in chunks */
function parseHead(head: string): { status: number; length: number | undefined } {
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1])
  const length = /^content-length: *(\d+)/im.exec(head)?.[1]
  if (!status || (length === undefined && !/^transfer-encoding: *chunked/im.test(head)))
    throw new Error(`not an answer that can be read: ${head.slice(0, 300)}`)
  return { status, length: length === undefined ? undefined : Number(length) }
}
