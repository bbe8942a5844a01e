import { expect, test } from 'bun:test'
import { createSseParser, type SseFrame, SseLimitError, sseComment, sseFrame } from '../../src/lib/sse.ts'

const bytes = (text: string) => new TextEncoder().encode(text)

function parse(input: Uint8Array, chunkBytes: number): SseFrame[] {
  const parser = createSseParser()
  const frames: SseFrame[] = []
  for (let at = 0; at < input.length; at += chunkBytes) frames.push(...parser.feed(input.subarray(at, at + chunkBytes)))
  return [...frames, ...parser.end()]
}

const STREAM = [
  ': a comment\n\n',
  'data: {"a":1}\n\n',
  'event: message_start\ndata: {"b":"héllo 你好 🎉"}\n\n',
  'data: first\ndata: second\n\n',
  'data:no space\nid: 7\nretry: 10\n\n',
  'event:named\ndata:\n\n',
  'data\n\n',
  'event: without data\n\n',
  'data:  two spaces\n\n',
  'data: [DONE]\n\n',
].join('')

const FRAMES: SseFrame[] = [
  { data: '{"a":1}' },
  { event: 'message_start', data: '{"b":"héllo 你好 🎉"}' },
  { data: 'first\nsecond' },
  { data: 'no space' },
  { event: 'named', data: '' },
  { data: '' },
  { data: ' two spaces' },
  { data: '[DONE]' },
]

for (const [name, end] of [
  ['LF', '\n'],
  ['CRLF', '\r\n'],
  ['CR', '\r'],
] as const) {
  test(`frames are the same for every chunk size with ${name} line ends`, () => {
    const input = bytes(STREAM.replaceAll('\n', end))
    for (const size of [1, 2, 3, 5, 7, 16, 64, input.length]) expect(parse(input, size)).toEqual(FRAMES)
  })
}

test('a stream that ends without its last blank line still yields its last frame', () => {
  expect(parse(bytes('data: a\n\ndata: b'), 4)).toEqual([{ data: 'a' }, { data: 'b' }])
  expect(parse(bytes('data: b\r'), 1)).toEqual([{ data: 'b' }])
})

test('a byte order mark does not hide the first frame', () => {
  expect(parse(new Uint8Array([0xef, 0xbb, 0xbf, ...bytes('data: a\n\n')]), 1)).toEqual([{ data: 'a' }])
})

test('torn or invalid UTF-8 becomes replacement characters instead of an error', () => {
  const input = new Uint8Array([...bytes('data: '), 0xe4, 0xbd, ...bytes('x\n\n')])
  expect(parse(input, 1)).toEqual([{ data: '\ufffdx' }])
})

test('a line, and a frame of many lines, is bounded', () => {
  const long = createSseParser({ maxLineChars: 100 })
  expect(() => {
    for (let i = 0; i < 200; i++) long.feed(bytes('x'))
  }).toThrow(SseLimitError)
  const many = createSseParser({ maxLineChars: 100 })
  expect(() => {
    for (let i = 0; i < 200; i++) many.feed(bytes('data: x\n'))
  }).toThrow('longer than 100 characters')
})

test('a comment is only put where no frame is open', () => {
  const parser = createSseParser()
  const states: boolean[] = []
  for (const piece of ['data: a', '\n', '\n', 'event: x\n', 'data: b\n\n', ': ping', '\n\n']) {
    parser.feed(bytes(piece))
    states.push(parser.isBetweenFrames())
  }
  expect(states).toEqual([false, false, true, false, true, false, true])
  parser.feed(new Uint8Array([0xe4]))
  expect(parser.isBetweenFrames()).toBe(false)
})

test('encoded frames are read back as they were', () => {
  const text = sseFrame('{"a":1}') + sseComment('PING') + sseFrame('{}', 'ping')
  expect(parse(bytes(text), 3)).toEqual([{ data: '{"a":1}' }, { event: 'ping', data: '{}' }])
})

test('a long line in one-byte chunks costs no more than its length', () => {
  const parser = createSseParser()
  const piece = bytes('x')
  const started = performance.now()
  parser.feed(bytes('data: '))
  for (let i = 0; i < 300_000; i++) parser.feed(piece)
  const [frame] = parser.feed(bytes('\n\n'))
  expect(frame?.data.length).toBe(300_000)
  // Searching the whole line for each byte would take minutes.
  expect(performance.now() - started).toBeLessThan(5_000)
})
