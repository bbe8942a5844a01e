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

type Piece = Extract<BlockDelta, { text: string }>
interface Pattern {
  readonly bytes: Uint8Array
  /** Where the text begins in `bytes`, and where it ends. */
  readonly from: number
  readonly to: number
  readonly event: StreamEvent & { type: 'block-delta' }
  readonly kind: Piece['type']
}

/** A pattern is kept as long as its stream is open, so it must be small; decoding what is larger is not what costs. */
const MAX_PATTERN_BYTES = 2_048
/** A stream whose frames differ in more than a text is no longer learned from. */
const MAX_USELESS = 8

const QUOTE = 34
const BACKSLASH = 92
const FIRST_PRINTABLE = 32
const BOM_START = 0xef

/** @param maxBytes of a chunk: what a decoder would find too long is left to it */
export function createSkim(maxBytes: number): Skim {
  // A mark of byte order in a text is a part of it.
  const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
  let pattern: Pattern | undefined
  /** Patterns in a row that fitted nothing. */
  let useless = 0

  /** @returns where the text of the frame at `at` ends; -1 when the bytes there are not the pattern with another text */
  const textEnd = ({ bytes, from, to }: Pattern, chunk: Uint8Array, at: number): number => {
    for (let index = 0; index < from; index++) if (chunk[at + index] !== bytes[index]) return -1
    let end = at + from
    for (;;) {
      const byte = chunk[end]
      if (byte === undefined || byte < FIRST_PRINTABLE || byte === BACKSLASH) return -1
      if (byte === QUOTE) break
      end++
    }
    for (let index = to; index < bytes.length; index++) if (chunk[end + index - to] !== bytes[index]) return -1
    return end
  }

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
      const { bytes, from, to, kind } = pattern
      const { type, index, choice } = pattern.event
      const events: StreamEvent[] = []
      for (let at = 0; at < chunk.length; ) {
        const start = at + from
        const end = textEnd(pattern, chunk, at)
        // An empty text may mean anything, such as nothing.
        if (end <= start) return undefined
        const delta = { type: kind, text: utf8.decode(chunk.subarray(start, end)) }
        events.push(choice === undefined ? { type, index, delta } : { type, index, delta, choice })
        at = end + bytes.length - to
      }
      useless = 0
      return events
    },
  }
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
  return { bytes: chunk.slice(), from: from + 1, to: from + needle.length - 1, event, kind: delta.type }
}
