/**
 * A large body on its way upstream, piece by piece: joined as a whole it would take milliseconds and as much memory again
 * until the answer has come. The length is known, so that the upstream sees a plain body.
 */
import { concat } from '../lib/bytes.ts'

export interface Upload {
  readonly length: number
  /** To be read once. */
  pieces(): AsyncGenerator<Uint8Array>
}

/** Who still reads a body; its bytes are given back when nobody does. */
export interface Readers {
  count: number
}

const PIECE_BYTES = 256 * 1024
/** Smaller pieces are cheaper to copy than to send. */
const SMALL_BYTES = 32 * 1024

/**
 * @param parts views of bytes, and texts without halves of pairs, such as what `JSON.stringify` makes
 * @param readers of the bytes
 */
export function uploadOf(parts: readonly (string | Uint8Array)[], readers: Readers = { count: 0 }): Upload {
  const bytesOfViews = (): number => parts.reduce((sum, part) => sum + (typeof part === 'string' ? 0 : part.length), 0)
  const viewed = bytesOfViews()
  const length = parts.reduce((sum, part) => sum + (typeof part === 'string' ? Buffer.byteLength(part) : 0), viewed)
  return {
    length,
    async *pieces() {
      // Given back already: the answer came before anybody asked for a piece. Less than was announced must not end well.
      if (bytesOfViews() !== viewed) throw new Error('nobody waits for this body any more')
      readers.count++
      try {
        yield* gathered(parts)
      } finally {
        readers.count--
      }
    },
  }
}

/** Small parts go together: there may be one for each kilobyte. */
function* gathered(parts: readonly (string | Uint8Array)[]): Generator<Uint8Array> {
  let small: Uint8Array[] = []
  let length = 0
  for (const part of parts)
    for (const piece of typeof part === 'string' ? piecesOfText(part) : piecesOf(part)) {
      const isSmall = piece.length < SMALL_BYTES
      if (length > 0 && (!isSmall || length + piece.length > PIECE_BYTES)) {
        yield concat(small)
        small = []
        length = 0
      }
      if (isSmall) {
        small.push(piece)
        length += piece.length
      } else yield piece
    }
  if (length > 0) yield concat(small)
}

function* piecesOf(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) yield bytes.subarray(at, at + PIECE_BYTES)
}

function* piecesOfText(text: string): Generator<Uint8Array> {
  const encoder = new TextEncoder()
  for (let from = 0; from < text.length; ) {
    let to = from + PIECE_BYTES
    // A pair stays together.
    if (isFirstHalf(text.charCodeAt(to - 1))) to--
    yield encoder.encode(text.slice(from, to))
    from = to
  }
}

const isFirstHalf = (code: number): boolean => code >= 0xd800 && code < 0xdc00
