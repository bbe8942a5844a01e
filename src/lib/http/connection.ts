/** One connection to an upstream, and the call that it carries: writes the request, reads the answer as fast as it is asked for. */
import type { Socket } from 'bun'
import { concat } from '../bytes.ts'
import { type Fields, type Framing, framingOf, type Head, HttpError, latin1, parseHead } from './answer.ts'
import { type Destination, type Owner, openConnection } from './connect.ts'

/** A body in pieces says its length. */
export type HttpBody = Uint8Array | string | { readonly length: number; pieces(): AsyncIterable<Uint8Array> }

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
  /** What is left of the body, if all of it is here already, as small answers are; nothing is to be read then. */
  readNow?(): Uint8Array<ArrayBuffer> | undefined
}
export type ReadResult =
  | { readonly done: false; readonly value: Uint8Array<ArrayBuffer> }
  | { readonly done: true; readonly value: undefined }

const MAX_HEAD_BYTES = 64 * 1024
/** Bytes that wait for their reader; beyond them the upstream has to wait. */
const MAX_WAITING_BYTES = 64 * 1024
/** What a piece takes beside its bytes; there may be one for each byte. */
const PIECE_BYTES = 128
/** Up to here head and body go out as one write. */
const ONE_WRITE_BYTES = 64 * 1024
const HEAD_END = Buffer.from('\r\n\r\n')

export const DONE: Promise<ReadResult> = Promise.resolve({ done: true, value: undefined })

/** Where calls go, and the connections there that no call has, the last used one at the end. */
export interface Target extends Destination {
  readonly key: string
  readonly hostField: string
  readonly idle: Connection[]
}

/** One call, from its request to the last byte of its answer. */
export class Call implements HttpCall, HttpAnswer {
  readonly answer: Promise<HttpAnswer>
  head = ''
  body: HttpBody
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

  constructor(body: HttpBody) {
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
  readNow(): Uint8Array<ArrayBuffer> | undefined {
    if (!this.isOver || this.error) return undefined
    const pieces = this.#pieces.splice(0)
    return pieces.length === 1 ? pieces[0]! : concat(pieces)
  }
}

/** A connection and the call that it carries, if any. */
export class Connection implements Owner {
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

  async #sendPieces(call: Call, body: Extract<HttpBody, { pieces(): unknown }>): Promise<void> {
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
