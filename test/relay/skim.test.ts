/** What is skimmed means what decoding it means: for any bytes, in any order, the events are the same. */
import { describe, expect, test } from 'bun:test'
import { createSseParser } from '../../src/lib/sse.ts'
import { codecs, type Protocol, type StreamEvent } from '../../src/protocol/index.ts'
import { createSkim } from '../../src/relay/skim.ts'

const utf8 = new TextEncoder()

/** Reads chunks as a stream is read. @returns events by chunk, and how many chunks were not decoded */
function read(protocol: Protocol, chunks: readonly string[], isSkimmed: boolean) {
  const decoder = codecs[protocol].streamDecoder()
  const parser = createSseParser()
  const skim = createSkim(1_000_000)
  let skimmed = 0
  const events = chunks.map((text): readonly StreamEvent[] => {
    const chunk = utf8.encode(text)
    const isBetween = parser.isBetweenFrames()
    const quick = isSkimmed && isBetween ? skim.read(chunk) : undefined
    if (quick) {
      skimmed++
      return quick
    }
    const frames = parser.feed(chunk)
    const all = frames.map((frame) => decoder.feed(frame))
    if (isBetween && frames.length === 1 && parser.isBetweenFrames()) skim.learn(chunk, frames[0]!.data, all[0]!)
    else skim.forget()
    return all.flat()
  })
  return { events, skimmed, progress: decoder.progress() }
}

const same = (protocol: Protocol, chunks: readonly string[]): number => {
  const { skimmed, ...quick } = read(protocol, chunks, true)
  const { skimmed: none, ...slow } = read(protocol, chunks, false)
  expect(quick).toEqual(slow)
  expect(none).toBe(0)
  return skimmed
}

const chat = (delta: object, more: object = {}): string =>
  `data: ${JSON.stringify({ id: 'c', choices: [{ index: 0, delta, finish_reason: null }], ...more })}\n\n`
const claude = (text: string, type = 'text_delta', field = 'text'): string =>
  `event: content_block_delta\ndata: ${JSON.stringify({ type: 'content_block_delta', index: 0, delta: { type, [field]: text } })}\n\n`
const CLAUDE_START = [
  'event: message_start\ndata: {"type":"message_start","message":{"id":"m","model":"x"}}\n\n',
  'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n',
]

describe('a stream whose frames differ in their text', () => {
  const words = ['one', ' two', ' 世界', ' ', 'é😀', ' three']

  test('is decoded for its first two frames only', () => {
    expect(
      same(
        'openai-chat',
        words.map((content) => chat({ content })),
      ),
    ).toBe(words.length - 2)
    expect(
      same(
        'openai-chat',
        words.map((word) => chat({ reasoning_content: word })),
      ),
    ).toBe(words.length - 2)
    expect(same('claude', [...CLAUDE_START, ...words.map((word) => claude(word))])).toBe(words.length - 1)
  })

  test('may bring several in one chunk', () => {
    const frames = words.map((content) => chat({ content }))
    expect(same('openai-chat', [...frames.slice(0, 2), frames.slice(2).join(''), frames[0]! + frames[1]!])).toBe(2)
  })

  test('may differ in what hides the length of the text', () => {
    const hidden = words.map((content, at) => chat({ content }, { usage: null, obfuscation: 'x'.repeat(at) }))
    expect(same('openai-chat', hidden)).toBe(words.length - 2)
    const padded = words.map((word, at) => claude(word).replace('}\n', `${' '.repeat(at)}}\n`))
    expect(same('claude', [...CLAUDE_START, ...padded])).toBe(words.length - 1)
    const finish = chat({ content: 'word' }, { obfuscation: 'x' }).replace('null', '"stop"')
    same('openai-chat', [...hidden, finish, ...hidden])
    same('openai-chat', [chat({ content: 'word' }, { obfuscation: 'word' }), ...hidden])
    same('openai-chat', [...hidden, chat({ content: 'word' }, { obfuscation: '"' }), ...hidden])
    // A name in one frame may be a text in the next.
    same('openai-chat', [...hidden, chat({ content: 'obfuscation' }), chat({ content: 'x' }), ...hidden])
  })

  test('is decoded where a text is empty, has escapes, is cut, or where anything else differs', () => {
    const plain = chat({ content: 'word' })
    const others = [
      chat({ content: '' }),
      chat({ content: 'a "quoted" \\ text\n' }),
      chat({ content: 'word' }, { usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 } }),
      chat({ content: null, tool_calls: [{ index: 0, id: 't', function: { name: 'f', arguments: '{"a":1}' } }] }),
      chat({ reasoning_content: 'thought' }),
      chat({ role: 'assistant', content: 'word' }),
      plain.replace('"index":0', '"index":1'),
      plain.replace('null', '"stop"'),
      `${plain}: a comment\n\n`,
      `${plain}data: [DONE]\n\n`,
      'data: {"error":{"message":"no"}}\n\n',
      plain.replaceAll('\n', '\r\n'),
      plain.replaceAll('\n', '\r'),
    ]
    for (const other of others) same('openai-chat', [plain, plain, plain, other, plain, plain, plain])
  })

  test('is decoded where it is not certain which of two equal strings is the text', () => {
    for (const content of ['content', 'c', ':', ',', 'delta', 'id']) {
      const chunks = [chat({ content: 'x' }), chat({ content }), chat({ content: 'other' }), chat({ content: 'c' })]
      same('openai-chat', chunks)
    }
    same('openai-chat', [
      chat({ content: 'x' }),
      `: "y"\n${chat({ content: 'y' })}`,
      `: "z"\n${chat({ content: 'y' })}`,
      `: "y"\n${chat({ content: 'z' })}`,
    ])
  })
})

test('any mixture of frames in chunks of any size means the same', () => {
  let seed = 1
  const random = (below: number): number => {
    seed = (seed * 48_271) % 2_147_483_647
    return seed % below
  }
  const pieces = ['a', ' b', '世', '"', '\\', '\n', '', 'content', ' a longer piece of text']
  const piece = (): string => pieces[random(pieces.length)]!
  const frames = [
    () => chat({ content: piece() }),
    () => chat({ content: piece() }),
    () => chat({ content: piece() }),
    () => chat({ reasoning_content: piece() }),
    () => chat({ content: piece() }, { obfuscation: piece() }),
    () => chat({ content: piece(), reasoning_content: piece() }),
    () => chat({ tool_calls: [{ index: random(2), id: 't', function: { name: 'f', arguments: piece() } }] }),
  ]
  for (let round = 0; round < 300; round++) {
    const one = frames[random(frames.length)]!
    const all = Array.from({ length: 40 }, () => (random(3) > 0 ? one : frames[random(frames.length)]!)())
    same('openai-chat', all)
    const text = all.join('')
    const torn: string[] = []
    // By character: what tears characters apart is the parser's own test.
    for (let at = 0; at < text.length; ) {
      const next = random(8) > 0 ? text.indexOf('\n\n', at) + 2 : at + 1 + random(60)
      torn.push(text.slice(at, next))
      at = next
    }
    same('openai-chat', torn)
  }
})
