/** Frames are found in raw bytes where the parser of the stream finds them, whatever line ends they have. */
import { describe, expect, test } from 'bun:test'
import { lastFrameEnd, withoutFrames } from '../../src/relay/frame-bytes.ts'

const utf8 = new TextEncoder()
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

describe('the end of the last whole frame', () => {
  for (const [whole, rest] of [
    ['data: 1\n\ndata: 2\n\n', ''],
    ['data: 1\n\ndata: 2\n\n', 'data: 3'],
    ['data: 1\n\n', 'data: 2\n'],
    ['data: 1\r\n\r\n', 'data: 2\r\n'],
    ['data: 1\r\r', 'data: 2\r'],
    ['data: 1\r\n\n', 'data: 2'],
    ['data: 1\n\r\n', 'data: 2'],
    ['', 'data: without an end'],
    ['', ''],
  ] as const) {
    test(JSON.stringify([whole, rest]), () => expect(lastFrameEnd(utf8.encode(whole + rest))).toBe(whole.length))
  }
})

test('a frame that is left out takes nothing else with it: comments, ids, other line ends, half a frame stay', () => {
  const before = ': a comment\n\nid: 1\ndata: {"a":1}\r\n\r\n'
  const after = 'event: x\ndata: {"b":2}\r\rdata: {"c"'
  const bytes = utf8.encode(`${before}data: {"usage":{}}\n\n${after}`)
  expect(text(withoutFrames(bytes, new Set(['{"usage":{}}'])))).toBe(before + after)
})
