/** A server of HTTP/1.1 that says exactly the bytes that it is told to, and counts who comes. */
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import type { Certificate } from './certificates.ts'

export interface WireRequest {
  /** The head to the letter, without its last two line ends. */
  readonly head: string
  /** First line. */
  readonly line: string
  /** Lower-case name → value. */
  readonly fields: Readonly<Record<string, string>>
  /** Empty for a server that answers at the head. */
  readonly body: Buffer
  /** Which connection it came on, from 1. */
  readonly connection: number
}

export interface WireOptions {
  readonly tls?: Certificate | undefined
  readonly hostname?: string
  /** Called when a request is complete. */
  readonly answer?: (socket: Socket, request: WireRequest) => unknown
  /** Answers come as soon as the head is here; the body is not read. */
  readonly isEager?: boolean
  /** Takes the socket instead. */
  readonly onSocket?: (socket: Socket) => void
}

export type WireServer = Awaited<ReturnType<typeof openWireServer>>

export async function openWireServer({ tls, hostname = '127.0.0.1', answer, isEager, onSocket }: WireOptions) {
  const sockets = new Set<Socket>()
  const requests: WireRequest[] = []
  let accepted = 0
  const onConnection = (socket: Socket): void => {
    const connection = ++accepted
    sockets.add(socket)
    socket.setNoDelay(true)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
    if (onSocket) {
      onSocket(socket)
      return
    }
    let parts: Buffer[] = []
    let waitingFor = 0
    let size = 0
    socket.on('data', (bytes: Buffer) => {
      parts.push(bytes)
      size += bytes.length
      while (size > 0 && size >= waitingFor) {
        const all = Buffer.concat(parts)
        parts = [all]
        const end = all.indexOf('\r\n\r\n')
        if (end < 0) return
        const head = all.toString('latin1', 0, end)
        const [line = '', ...rest] = head.split('\r\n')
        const fields: Record<string, string> = {}
        for (const text of rest) {
          const colon = text.indexOf(':')
          fields[text.slice(0, colon).toLowerCase()] = text.slice(colon + 1).trim()
        }
        const ends = end + 4 + (isEager ? 0 : Number(fields['content-length'] ?? 0))
        if (all.length < ends) {
          waitingFor = ends
          return
        }
        if (isEager) socket.pause()
        const request = { head, line, fields, body: all.subarray(end + 4, ends), connection }
        parts = [all.subarray(ends)]
        size = parts[0]!.length
        waitingFor = 0
        requests.push(request)
        answer?.(socket, request)
        if (isEager) return
      }
    })
  }
  const server = tls ? createTlsServer({ ...tls }, onConnection) : createServer(onConnection)
  server.on('tlsClientError', () => {})
  await new Promise<void>((resolve) => server.listen(0, hostname, resolve))
  const { port } = server.address() as AddressInfo
  const host = hostname.includes(':') ? `[${hostname}]` : hostname
  return {
    port,
    url: `${tls ? 'https' : 'http'}://${host}:${port}`,
    requests,
    last: (): WireRequest => requests.at(-1)!,
    /** connections so far */
    accepted: () => accepted,
    /** connections open now */
    open: () => sockets.size,
    sockets,
    stop() {
      server.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}

/** Each piece arrives by itself. */
export async function trickle(socket: Socket, bytes: string | Uint8Array, pieceBytes: number): Promise<void> {
  const all = typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes
  for (let at = 0; at < all.length && !socket.destroyed; at += pieceBytes) {
    socket.write(all.subarray(at, at + pieceBytes))
    await new Promise((resolve) => setImmediate(resolve))
  }
}
