/**
 * Frames of a stream mostly differ in one text. Who has decoded one knows the bytes before and after that text, and what the
 * next frame means if it has the same bytes around another text: it needs no decoding. Of a small frame that comes alone,
 * decoding is the dearest part by far, since its code has left the processor's caches by the time the next one comes.
 */
import type { BlockDelta, StreamEvent } from '../protocol/index.ts'

export interface Skim {
  /**
   * After each chunk that was decoded. Only one that was exactly one frame and meant exactly one piece of text is a pattern,
   * and only until the next chunk is decoded: another frame may change what the same bytes mean.
   * @param chunk whole, from between two frames
   * @param data of its frame
   */
  learn(chunk: Uint8Array, data: string, events: readonly StreamEvent[]): void
  forget(): void
  /** @returns the events of a chunk that holds nothing but whole frames of the pattern; undefined when it must be decoded */
  read(chunk: Uint8Array): readonly StreamEvent[] | undefined
}

/** Offsets in the bytes of a pattern. */
interface Range {
  readonly from: number
  readonly to: number
}
type Piece = Extract<BlockDelta, { text: string }>
interface Pattern {
  readonly bytes: Buffer
  readonly text: Range
  /** What else may differ, and means nothing to a decoder: behind the text. */
  readonly noise: Range & { readonly isString: boolean }
  readonly event: StreamEvent & { type: 'block-delta' }
  readonly kind: Piece['type']
}

/** A pattern is kept as long as its stream is open, so it must be small; decoding what is larger is not what costs. */
const MAX_PATTERN_BYTES = 2_048
/** A stream whose frames differ in more than a text is no longer learned from. */
const MAX_USELESS = 8

/** Of any bytes: a decoder needs a view of just the text, which costs as much again. Keeps a mark of byte order. */
const textIn = (bytes: Uint8Array, from: number, to: number): string =>
  Buffer.prototype.toString.call(bytes, 'utf8', from, to)

const QUOTE = 34
const BACKSLASH = 92
const BLANK = 32
const BOM_START = 0xef
const OBFUSCATION = '"obfuscation":"'

/** @param maxBytes of a chunk: what a decoder would find too long is left to it */
export function createSkim(maxBytes: number): Skim {
  let pattern: Pattern | undefined
  /** Patterns in a row that fitted nothing. */
  let useless = 0

  return {
    learn(chunk, data, events) {
      if (pattern) useless++
      pattern = useless < MAX_USELESS ? patternOf(chunk, data, events) : undefined
    },
    forget() {
      pattern = undefined
    },
    read(chunk) {
      if (!pattern || chunk.length > maxBytes) return undefined
      const { kind } = pattern
      const { type, index, choice } = pattern.event
      const events: StreamEvent[] = []
      for (let at = 0; at < chunk.length; ) {
        const start = at + pattern.text.from
        const textEnd = isSame(pattern, 0, pattern.text.from, chunk, at) ? stringEnd(chunk, start) : -1
        const end = textEnd === -1 ? -1 : frameEnd(pattern, chunk, textEnd)
        // An empty text may mean anything, such as nothing.
        if (end === -1 || textEnd === start) return undefined
        const delta = { type: kind, text: textIn(chunk, start, textEnd) }
        events.push(choice === undefined ? { type, index, delta } : { type, index, delta, choice })
        at = end
      }
      useless = 0
      return events
    },
  }
}

/** Has `chunk` at `at` what the pattern has from `from` to `to`? */
function isSame({ bytes }: Pattern, from: number, to: number, chunk: Uint8Array, at: number): boolean {
  const end = at + to - from
  return end <= chunk.length && bytes.compare(chunk, at, end, from, to) === 0
}

/** @returns where the JSON string that goes on at `at` ends; -1 when it has an escape or is not complete */
function stringEnd(chunk: Uint8Array, at: number): number {
  for (let end = at; ; end++) {
    const byte = chunk[end]
    if (byte === QUOTE) return end
    if (byte === undefined || byte < BLANK || byte === BACKSLASH) return -1
  }
}

/** @returns the offset after the frame whose text ends at `textEnd`; -1 when it is not the pattern's */
function frameEnd(pattern: Pattern, chunk: Uint8Array, textEnd: number): number {
  const { bytes, text, noise } = pattern
  if (!isSame(pattern, text.to, noise.from, chunk, textEnd)) return -1
  let end = textEnd + noise.from - text.to
  if (noise.isString) end = stringEnd(chunk, end)
  else while (chunk[end] === BLANK) end++
  if (end === -1 || !isSame(pattern, noise.to, bytes.length, chunk, end)) return -1
  return end + bytes.length - noise.to
}

function patternOf(chunk: Uint8Array, data: string, events: readonly StreamEvent[]): Pattern | undefined {
  const [event] = events
  if (chunk.length > MAX_PATTERN_BYTES || events.length !== 1 || event?.type !== 'block-delta') return undefined
  const { delta } = event
  if ((delta.type !== 'text' && delta.type !== 'thinking') || delta.text === '') return undefined
  // Without escapes each JSON string stands there as it is; one that is there once can only be the one that was read.
  if (data.includes('\\') || chunk[0] === BOM_START) return undefined
  const quoted = `"${delta.text}"`
  const at = data.indexOf(quoted)
  if (at === -1 || at !== data.lastIndexOf(quoted)) return undefined
  const raw = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length)
  const needle = Buffer.from(quoted)
  const from = raw.indexOf(needle)
  // Comments and other lines of the frame could hold it, too.
  if (from === -1 || from !== raw.lastIndexOf(needle)) return undefined
  const text = { from: from + 1, to: from + needle.length - 1 }
  return { bytes: Buffer.from(chunk.slice().buffer), text, noise: noiseOf(raw, text.to), event, kind: delta.type }
}

/**
 * OpenAI hides the length of texts behind a string of random length, Anthropic behind blanks before the last brace.
 * @param frame without escapes, so that each quote begins or ends a string
 * @source https://platform.openai.com/docs/api-reference/chat-streaming (`include_obfuscation`), read 2026-11
 */
function noiseOf(frame: Buffer, textTo: number): Pattern['noise'] {
  const key = frame.indexOf(OBFUSCATION, textTo)
  if (key !== -1) {
    const from = key + OBFUSCATION.length
    return { from, to: frame.indexOf('"', from), isString: true }
  }
  const to = frame.lastIndexOf('}')
  let from = to
  while (frame[from - 1] === BLANK) from--
  return { from, to, isString: false }
}
