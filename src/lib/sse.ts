/**
 * Server-sent events: an incremental parser over byte chunks of any size, and the text of frames. It knows nothing of what
 * the frames carry.
 */

export interface SseFrame {
  /** Absent when the frame has no `event:` line. */
  readonly event?: string
  /** The `data:` lines, joined by LF. */
  readonly data: string
}

export interface SseParser {
  /** @throws SseLimitError when a line or a frame outgrows the limit */
  feed(chunk: Uint8Array): readonly SseFrame[]
  /** The frame that the stream ended in, if any: many upstreams leave out the last blank line. */
  end(): readonly SseFrame[]
  /** True where a comment may be put without tearing a frame apart. */
  isBetweenFrames(): boolean
}

export class SseLimitError extends Error {
  constructor(readonly maxLineChars: number) {
    super(`a line of the event stream is longer than ${maxLineChars} characters`)
    this.name = 'SseLimitError'
  }
}

/** Ends a stream of OpenAI's dialect. */
export const SSE_DONE = 'data: [DONE]\n\n'

const NONE: readonly SseFrame[] = []
const SPACE = 32
const DEFAULT_MAX_LINE_CHARS = 128 * 1024 * 1024

/**
 * Line ends are CRLF, LF or CR, also when torn between chunks; a byte order mark at the start is dropped; comments, `id` and
 * `retry` are skipped. Text is only searched where it is new, so that one-byte chunks cost no more than their number.
 * @param options.maxLineChars longest line, and longest data of one frame, in UTF-16 units
 * @source https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
 */
export function createSseParser(options: { readonly maxLineChars?: number } = {}): SseParser {
  const limit = options.maxLineChars ?? DEFAULT_MAX_LINE_CHARS
  const decoder = new TextDecoder()
  let pending = ''
  let isLineOpen = false
  let isAfterCr = false
  let event: string | undefined
  let data: string | undefined

  const line = (text: string, frames: SseFrame[]) => {
    if (text === '') {
      if (data !== undefined) frames.push(event === undefined ? { data } : { event, data })
      event = data = undefined
      return
    }
    if (text.startsWith('data:')) {
      const value = text.slice(text.charCodeAt(5) === SPACE ? 6 : 5)
      data = data === undefined ? value : `${data}\n${value}`
      if (data.length > limit) throw new SseLimitError(limit)
    } else if (text.startsWith('event:')) {
      event = text.slice(text.charCodeAt(6) === SPACE ? 7 : 6)
    } else if (text === 'data') {
      data = data === undefined ? '' : `${data}\n`
    }
  }

  const take = (decoded: string): readonly SseFrame[] => {
    let text = decoded
    if (isAfterCr) {
      isAfterCr = false
      if (text.startsWith('\n')) text = text.slice(1)
      if (text === '') return NONE
    }
    if (text.includes('\r')) {
      isAfterCr = text.endsWith('\r')
      text = text.replace(/\r\n?/g, '\n')
    }
    let end = text.indexOf('\n')
    if (end === -1) {
      pending += text
      isLineOpen = true
      if (pending.length > limit) throw new SseLimitError(limit)
      return NONE
    }
    const frames: SseFrame[] = []
    line(pending === '' ? text.slice(0, end) : pending + text.slice(0, end), frames)
    let start = end + 1
    for (end = text.indexOf('\n', start); end !== -1; end = text.indexOf('\n', start)) {
      line(text.slice(start, end), frames)
      start = end + 1
    }
    pending = text.slice(start)
    isLineOpen = pending !== ''
    return frames
  }

  return {
    feed(chunk) {
      const text = decoder.decode(chunk, { stream: true })
      if (text !== '') return take(text)
      // Only the head of a character arrived: it belongs to a line that is open now.
      if (chunk.byteLength > 0) isLineOpen = true
      return NONE
    },
    end() {
      // Two line ends close whatever is open; a stream that ended properly has nothing left to close.
      const rest = decoder.decode()
      return [...(rest === '' ? NONE : take(rest)), ...take('\n\n')]
    },
    isBetweenFrames: () => !isLineOpen && event === undefined && data === undefined,
  }
}

/** @param data has no line end: JSON text never does */
export const sseFrame = (data: string, event?: string): string =>
  event === undefined ? `data: ${data}\n\n` : `event: ${event}\ndata: ${data}\n\n`

export const sseComment = (text: string): string => `: ${text}\n\n`
