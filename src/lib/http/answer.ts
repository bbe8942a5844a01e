/**
 * Reads answers of HTTP/1.1: the head, and where the body ends. Strict where leniency would let one answer's bytes be taken
 * for the next one's.
 * @source https://www.rfc-editor.org/rfc/rfc9112
 */

/** Lower-case name → value; several fields of one name are joined by a comma. */
export type Fields = Readonly<Record<string, string>>

export interface Head {
  readonly status: number
  readonly fields: Fields
  /** Bytes of the body, or how its end is known. */
  readonly length: number | 'chunked' | 'until-close'
  /** May the connection carry another call? */
  readonly isKept: boolean
}

/** `code` names what went wrong, as a system's error code does. */
export class HttpError extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message)
    this.name = 'HttpError'
  }
}

const bad = (what: string): HttpError =>
  new HttpError('HTTP_BAD_ANSWER', `the upstream's answer is no HTTP/1.1: ${what}`)

const STATUS_LINE = /^HTTP\/1\.([01]) ([1-5]\d\d)(?: .*)?$/
const NAME = /^[!#$%&'*+\-.^_`|~\dA-Za-z]+$/
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what may not be in a value
const NO_VALUE = /[\0-\x08\n-\x1f\x7f]/
const LENGTH = /^\d{1,15}$/
/** Of plain bytes: a `Buffer` is not given out, since its `slice` does not copy. */
export const latin1 = (bytes: Uint8Array, from: number, to = bytes.length): string =>
  Buffer.prototype.toString.call(bytes, 'latin1', from, to)

/**
 * @param head without its last two line ends
 * @throws HttpError
 */
export function parseHead(head: string): Head {
  const lines = head.split('\r\n')
  const [, minor, code] = STATUS_LINE.exec(lines[0]!) ?? []
  if (code === undefined) throw bad('its first line')
  const fields: Record<string, string> = Object.create(null)
  for (let i = 1; i < lines.length; i++) {
    const line = lines[i]!
    const colon = line.indexOf(':')
    const name = line.slice(0, colon).toLowerCase()
    const text = line.slice(colon + 1)
    // A line that goes on with the one before begins with a blank, which is no name either.
    if (colon < 0 || !NAME.test(name) || NO_VALUE.test(text)) throw bad('a field')
    const value = text.trim()
    const before = fields[name]
    fields[name] = before === undefined ? value : `${before}, ${value}`
  }
  const status = Number(code)
  const connection = fields['connection']?.toLowerCase() ?? ''
  const isAsked = minor === '1' ? !connection.includes('close') : connection.includes('keep-alive')
  const length = lengthOf(status, fields)
  return { status, fields, length, isKept: isAsked && length !== 'until-close' && !isDoubtful(minor, length, fields) }
}

/** Whether the next answer begins where we think: HTTP/1.0 knows no chunks, and there may be a body where none belongs. */
function isDoubtful(minor: string | undefined, length: Head['length'], fields: Fields): boolean {
  if (length === 'chunked') return minor === '0'
  return length === 0 && (fields['transfer-encoding'] !== undefined || Number(fields['content-length'] ?? 0) !== 0)
}

function lengthOf(status: number, fields: Fields): Head['length'] {
  if (status < 200 || status === 204 || status === 304) return 0
  const coding = fields['transfer-encoding']
  const length = fields['content-length']
  if (coding !== undefined) {
    // Both at once is how one answer is hidden in another.
    if (length !== undefined) throw bad('two lengths')
    if (coding.toLowerCase() !== 'chunked') throw bad('its transfer coding')
    return 'chunked'
  }
  if (length === undefined) return 'until-close'
  const [one, ...others] = length.split(', ')
  if (!LENGTH.test(one!) || others.some((other) => other !== one)) throw bad('its length')
  return Number(one)
}

export interface Sink {
  give(piece: Uint8Array<ArrayBuffer>): void
}

/** Finds where a body ends. */
export interface Framing {
  /**
   * @param sink gets the bytes of the body, as views of `bytes`
   * @returns where in `bytes` the answer ended; -1 when it goes on
   * @throws HttpError
   */
  take(bytes: Uint8Array<ArrayBuffer>, sink: Sink): number
  /** Does a closed connection end the body in good order? */
  readonly endsAtClose: boolean
}

export function framingOf(length: Head['length']): Framing {
  if (length === 'chunked') return new Chunks()
  return length === 'until-close' ? UNTIL_CLOSE : new Counted(length)
}

const UNTIL_CLOSE: Framing = {
  take(bytes, sink) {
    sink.give(bytes)
    return -1
  },
  endsAtClose: true,
}

class Counted implements Framing {
  readonly endsAtClose = false
  #left: number
  constructor(length: number) {
    this.#left = length
  }
  take(bytes: Uint8Array<ArrayBuffer>, sink: Sink): number {
    const end = Math.min(this.#left, bytes.length)
    this.#left -= end
    if (end > 0) sink.give(end === bytes.length ? bytes : bytes.subarray(0, end))
    return this.#left === 0 ? end : -1
  }
}

const CR = 13
const LF = 10
/** A size with its extensions, or a field behind the last chunk. */
const MAX_LINE_BYTES = 16 * 1024
const SIZE = /^([\dA-Fa-f]{1,12})[ \t]*(?:;.*)?$/

/** `size CRLF data CRLF`, again and again, then a chunk of size 0, fields that nobody asked for, and an empty line. */
class Chunks implements Framing {
  readonly endsAtClose = false
  /** Bytes of the chunk that are still to come. */
  #left = 0
  #expects: 'size' | 'data' | 'line end' | 'field' = 'size'
  /** A line whose end has not come yet. */
  #line = ''

  take(bytes: Uint8Array<ArrayBuffer>, sink: Sink): number {
    let at = 0
    while (at < bytes.length) {
      if (this.#expects === 'data') {
        const end = Math.min(at + this.#left, bytes.length)
        this.#left -= end - at
        sink.give(bytes.subarray(at, end))
        at = end
        if (this.#left === 0) this.#expects = 'line end'
        continue
      }
      const end = bytes.indexOf(LF, at)
      if (end < 0) {
        this.#hold(latin1(bytes, at))
        return -1
      }
      const line = this.#hold(latin1(bytes, at, end))
      this.#line = ''
      at = end + 1
      if (line.charCodeAt(line.length - 1) !== CR) throw bad('a line end')
      if (this.#isLast(line.slice(0, -1))) return at
    }
    return -1
  }

  #hold(part: string): string {
    this.#line = this.#line === '' ? part : this.#line + part
    if (this.#line.length > MAX_LINE_BYTES) throw bad('a chunk')
    return this.#line
  }

  /** @returns whether the body ends with this line */
  #isLast(line: string): boolean {
    if (this.#expects === 'field') return line === ''
    if (this.#expects === 'line end') {
      if (line !== '') throw bad('the end of a chunk')
      this.#expects = 'size'
      return false
    }
    const [, size] = SIZE.exec(line) ?? []
    if (size === undefined) throw bad('the size of a chunk')
    this.#left = Number.parseInt(size, 16)
    this.#expects = this.#left === 0 ? 'field' : 'data'
    return false
  }
}
