/** Finds event-stream frames in raw bytes, so that a forwarded stream can be held, cut and thinned out without being rewritten. */
import { concat } from '../lib/bytes.ts'
import { createSseParser } from '../lib/sse.ts'

const LF = 10
const CR = 13

/** @returns the offset after the line end that starts at `at`; `at` itself when none does */
const afterLineEnd = (bytes: Uint8Array, at: number): number => {
  if (bytes[at] === LF) return at + 1
  if (bytes[at] !== CR) return at
  return bytes[at + 1] === LF ? at + 2 : at + 1
}

/** @returns the offset after the blank line that ends the frame at `from`; undefined when the frame is not complete */
function frameEnd(bytes: Uint8Array, from: number): number | undefined {
  for (let at = from; at < bytes.length; at++) {
    const next = afterLineEnd(bytes, at)
    if (next === at) continue
    const end = afterLineEnd(bytes, next)
    if (end > next) return end
    at = next - 1
  }
  return undefined
}

/** @returns the offset after the last complete frame; 0 when there is none */
export function lastFrameEnd(bytes: Uint8Array): number {
  // Nearly always the blank line is LF LF, near the end.
  for (let at = bytes.length - 1; at > 0; at = bytes.lastIndexOf(LF, at - 1)) {
    if (bytes[at] !== LF) continue
    if (bytes[at - 1] === LF) return at + 1
    if (bytes[at - 1] === CR && (bytes[at - 2] === LF || bytes[at - 2] === CR)) return at + 1
  }
  let last = 0
  for (let end = frameEnd(bytes, 0); end !== undefined; end = frameEnd(bytes, end)) last = end
  return last
}

/** @param hidden data of the frames to leave out; everything else stays to the byte */
export function withoutFrames(bytes: Uint8Array, hidden: ReadonlySet<string>): Uint8Array {
  const kept: Uint8Array[] = []
  let from = 0
  while (from < bytes.length) {
    const end = frameEnd(bytes, from) ?? bytes.length
    const block = bytes.subarray(from, end)
    const parser = createSseParser()
    const frames = [...parser.feed(block), ...parser.end()]
    if (!frames.some((frame) => hidden.has(frame.data))) kept.push(block)
    from = end
  }
  return concat(kept)
}
