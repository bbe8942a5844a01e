/**
 * Reads a large JSON document without making strings of its long texts: they stay where they are, the rest is parsed with a
 * mark in the place of each, and whoever needs a text finds its bytes by the mark. A document of 10 MB then costs the
 * collector next to nothing, while its text and its strings would be 20 to 40 MB, kept until it looks.
 */
import { isUtf8 } from 'node:buffer'
import { concat } from './bytes.ts'
import type { Turns } from './turns.ts'

/** A string's content in its document, or a part of it, as byte offsets between the quotes. */
export interface Span {
  readonly start: number
  readonly end: number
}

export interface LongStrings {
  readonly bytes: Uint8Array<ArrayBuffer>
  /** The document. Keys are never cut. */
  readonly json: unknown
  /** @returns undefined for a string that is no mark */
  find(text: string): Span | undefined
  /** JSON text made from a part of the document, with the strings themselves in the place of marks. */
  restore(text: string): string
  /** What is between two characters of a string. */
  text(span: Span): string
  mark(span: Span): string
  /** The same as `restore` without a copy: strings in the place of marks are views of the document's bytes. */
  parts(text: string): readonly (string | Uint8Array<ArrayBuffer>)[]
}

/** Shorter strings are cheaper to make than to mark. */
const LONG_BYTES = 1024
/** Between two looks at the clock: 10 µs, and a millisecond in code that is not yet compiled. */
const PIECE_BYTES = 1 << 14

const QUOTE = 34
const COLON = 58
const BACKSLASH = 92
const LETTER_U = 117

/**
 * @returns undefined when nothing is long, or when the document is not valid: whoever parses it whole learns why. What is
 * returned is what `JSON.parse` would read, but for the marks.
 */
export async function readLongStrings(bytes: Uint8Array<ArrayBuffer>, turns: Turns): Promise<LongStrings | undefined> {
  const scan: Scan = { at: 0, open: -1, isValid: true, spans: [] }
  while (scan.at < bytes.length && scan.isValid) {
    if (turns.isOver()) await turns.next()
    scanPiece(bytes, scan, Math.min(scan.at + PIECE_BYTES, bytes.length))
  }
  const { spans } = scan
  if (!scan.isValid || scan.open !== -1 || spans.length === 0) return undefined
  await turns.next()
  if (!isUtf8(bytes)) return undefined
  // Nobody can name a mark that is made now.
  const name = crypto.randomUUID()
  const json = parse(withMarks(bytes, spans, name))
  if (json === undefined) return undefined
  const pattern = new RegExp(`<${name}:(\\d+):(\\d+)>`, 'g')
  const whole = new RegExp(`^<${name}:(\\d+):(\\d+)>$`)
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  const textAt = ({ start, end }: Span): string => JSON.parse(`"${decoder.decode(bytes.subarray(start, end))}"`)
  return {
    bytes,
    json,
    find(text) {
      const [, start, end] = whole.exec(text) ?? []
      return end === undefined ? undefined : { start: Number(start), end: Number(end) }
    },
    restore: (text) =>
      text.includes(name)
        ? text.replace(pattern, (_, start: string, end: string) =>
            JSON.stringify(textAt({ start: Number(start), end: Number(end) })).slice(1, -1),
          )
        : text,
    text: textAt,
    mark: (span) => markOf(name, span),
    parts(text) {
      const parts: (string | Uint8Array<ArrayBuffer>)[] = []
      let from = 0
      for (const { 0: mark, 1: start, 2: end, index } of text.matchAll(pattern)) {
        parts.push(text.slice(from, index), bytes.subarray(Number(start), Number(end)))
        from = index + mark.length
      }
      return [...parts, text.slice(from)]
    },
  }
}

const markOf = (name: string, { start, end }: Span): string => `<${name}:${start}:${end}>`

/** @returns where the last character of a string's content starts; the halves of a pair written as escapes are two */
export function lastCharacter(bytes: Uint8Array, { start, end }: Span): number {
  let from = end - 1
  while (from > start && (bytes[from]! & 0xc0) === 0x80) from--
  if (isEscaped(bytes, start, from)) return from - 1
  return bytes[end - 5] === LETTER_U && isEscaped(bytes, start, end - 5) ? end - 6 : from
}

function isEscaped(bytes: Uint8Array, start: number, at: number): boolean {
  let first = at
  while (first > start && bytes[first - 1] === BACKSLASH) first--
  return (at - first) % 2 === 1
}

interface Scan {
  at: number
  /** Where the content of the string starts in which the piece ended; -1 outside of strings. */
  open: number
  isValid: boolean
  readonly spans: Span[]
}

/** Walks to `until` or a little further; inside strings it checks what `JSON.parse` will not see. */
function scanPiece(bytes: Uint8Array, scan: Scan, until: number): void {
  let { at, open } = scan
  while (at < until) {
    if (open === -1) {
      while (at < until && bytes[at] !== QUOTE) at++
      if (at >= until) break
      open = ++at
    }
    while (at < until && PLAIN[bytes[at]!] === 1) at++
    if (at >= until) break
    if (bytes[at] === QUOTE) {
      if (at - open >= LONG_BYTES && !isKeyBefore(bytes, at + 1)) scan.spans.push({ start: open, end: at })
      open = -1
      at++
    } else {
      const length = bytes[at] === BACKSLASH ? escapeLength(bytes, at) : 0
      if (length === 0) {
        scan.isValid = false
        break
      }
      at += length
    }
  }
  scan.at = at
  scan.open = open
}

/** Bytes that a string may have as they are; the rest are its end, escapes and control characters. */
const PLAIN = Uint8Array.from({ length: 256 }, (_, byte) => (byte < 32 || byte === QUOTE || byte === BACKSLASH ? 0 : 1))

/** @returns 0 for what is no escape */
function escapeLength(bytes: Uint8Array, at: number): number {
  const byte = bytes[at + 1]
  if (byte !== LETTER_U) return byte !== undefined && SIMPLE_ESCAPES.has(byte) ? 2 : 0
  for (let digit = at + 2; digit < at + 6; digit++) if (!isHexDigit(bytes[digit])) return 0
  return 6
}

const SIMPLE_ESCAPES = new Set([...'"\\/bfnrt'].map((character) => character.charCodeAt(0)))

const isHexDigit = (byte: number | undefined): boolean =>
  byte !== undefined && ((byte >= 48 && byte <= 57) || ((byte | 32) >= 97 && (byte | 32) <= 102))

function isKeyBefore(bytes: Uint8Array, from: number): boolean {
  let at = from
  for (let byte = bytes[at]; byte === 32 || byte === 10 || byte === 13 || byte === 9; byte = bytes[at]) at++
  return bytes[at] === COLON
}

function withMarks(bytes: Uint8Array, spans: readonly Span[], name: string): Uint8Array {
  const encoder = new TextEncoder()
  const parts: Uint8Array[] = []
  let from = 0
  for (const span of spans) {
    parts.push(bytes.subarray(from, span.start), encoder.encode(markOf(name, span)))
    from = span.end
  }
  return concat([...parts, bytes.subarray(from)])
}

/** @returns undefined when it is no JSON */
function parse(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes))
  } catch {
    return undefined
  }
}
