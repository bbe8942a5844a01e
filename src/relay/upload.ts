/**
 * A large body on its way upstream, piece by piece: `fetch` copies what it is given as a whole, which takes milliseconds
 * and as much memory again until the answer has come. The length is known, so that the upstream sees a plain body.
 */

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

export const isUpload = (body: Uint8Array | string | Upload): body is Upload =>
  typeof body === 'object' && 'pieces' in body

/** @param readers of the bytes that the parts are views of */
export function uploadOf(parts: readonly Uint8Array[], readers: Readers): Upload {
  const lengthOf = (): number => parts.reduce((sum, part) => sum + part.length, 0)
  const length = lengthOf()
  return {
    length,
    async *pieces() {
      // Given back already: the answer came before anybody asked for a piece. Less than was announced must not end well.
      if (lengthOf() !== length) throw new Error('nobody waits for this body any more')
      readers.count++
      try {
        for (const part of parts)
          for (let at = 0; at < part.length; at += PIECE_BYTES) yield part.subarray(at, at + PIECE_BYTES)
      } finally {
        readers.count--
      }
    },
  }
}

/** @param text without halves of pairs, such as what `JSON.stringify` makes */
export function uploadOfText(text: string): Upload {
  return {
    length: Buffer.byteLength(text),
    async *pieces() {
      const encoder = new TextEncoder()
      for (let from = 0; from < text.length; ) {
        let to = from + PIECE_BYTES
        // A pair stays together.
        if (isFirstHalf(text.charCodeAt(to - 1))) to--
        yield encoder.encode(text.slice(from, to))
        from = to
      }
    },
  }
}

const isFirstHalf = (code: number): boolean => code >= 0xd800 && code < 0xdc00
