import { expect, test } from 'bun:test'
import { createTokenCounter } from '../../src/domain/billing/estimate.ts'
import { type LongStrings, readLongStrings } from '../../src/lib/long-strings.ts'
import { createTurns } from '../../src/lib/turns.ts'
import { type Random, seeded } from '../protocol/random.ts'

const turns = createTurns({ monotonic: () => performance.now() })
const encode = (text: string) => new TextEncoder().encode(text)
const raw = ({ bytes }: LongStrings, start: number, end: number): unknown =>
  JSON.parse(new TextDecoder().decode(bytes.subarray(start - 1, end + 1)))

/** The document with all marks replaced by what they stand for. */
function filled(long: LongStrings, value: unknown = long.json): unknown {
  if (typeof value === 'string') {
    const span = long.find(value)
    return span ? raw(long, span.start, span.end) : value
  }
  if (Array.isArray(value)) return value.map((item) => filled(long, item))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, filled(long, item)]))
}

/** JSON text of any value, written as clients may write it: any escapes, any white space, keys twice. */
function document(random: Random, depth = 0): string {
  const space = () => random.pick(['', '', '', ' ', '\n\t'])
  const list = (open: string, close: string, item: () => string) =>
    open + space() + Array.from({ length: random.int(4) }, item).join(`${space()},${space()}`) + space() + close
  const kind = random.int(depth > 4 ? 3 : 5)
  if (kind === 0) return random.pick(['null', 'true', '12345678901234567890', '-1.5e3'])
  if (kind < 3) return stringOf(random, random.chance(0.4) ? 1 + random.int(1500) : random.int(4))
  if (kind === 3) return list('[', ']', () => document(random, depth + 1))
  const key = () =>
    random.chance(0.1) ? stringOf(random, 600) : random.pick(['"a"', '"\\u0061"', '"b"', '"__proto_"'])
  return list('{', '}', () => `${key()}${space()}:${space()}${document(random, depth + 1)}`)
}

const stringOf = (random: Random, pieces: number): string =>
  `"${Array.from({ length: pieces }, () => (random.chance(0.2) ? escapeOf(random) : JSON.stringify(random.text()).slice(1, -1))).join('')}"`
const escapeOf = (random: Random): string =>
  random.pick(['\\/', '\\b', '\\f', '\\u00e9', '\\uD83D\\uDE00', '\\ud83d', '\\u4F60', '\\\\', '\\"'])

test('a document reads as JSON.parse reads it, its long strings by their marks', async () => {
  let cut = 0
  for (let seed = 0; seed < 300; seed++) {
    const text = document(seeded(seed))
    const long = await readLongStrings(encode(text), turns)
    if (!long) continue
    cut++
    expect(filled(long)).toEqual(JSON.parse(text))
    expect(JSON.parse(long.restore(JSON.stringify(long.json)))).toEqual(JSON.parse(text))
  }
  expect(cut).toBeGreaterThan(50)
})

test('a long string counts as many tokens as its text, in pieces of any size', async () => {
  for (let seed = 0; seed < 60; seed++) {
    const random = seeded(seed)
    const text = stringOf(random, 900)
    const long = await readLongStrings(encode(`[${text}]`), turns)
    const [mark] = long!.json as [string]
    const { start, end } = long!.find(mark)!
    for (const model of ['gpt-4o', 'claude-x', 'gemini-x']) {
      const whole = createTokenCounter(model)
      whole.add(JSON.parse(text) as string)
      const pieces = createTokenCounter(model)
      for (let at = start; at < end; ) at = pieces.addJson(long!.bytes, at, Math.min(end, at + 1 + random.int(50)))
      expect(pieces.total()).toBe(whole.total())
    }
  }
})

test('what JSON.parse refuses is left to it, wherever in a long string the fault is', async () => {
  const filler = 'x'.repeat(2000)
  const faults = ['\n', '\u0000', '\\x', '\\u12g4', '\\u12', '\\', '"', '\\"}', '","b":"', '":1,"']
  for (const fault of faults)
    for (const text of [
      `{"a":"${fault}${filler}"}`,
      `{"a":"${filler}${fault}${filler}"}`,
      `{"a":"${filler}${fault}"}`,
    ]) {
      const long = await readLongStrings(encode(text), turns)
      const parsed = (() => {
        try {
          return JSON.parse(text) as unknown
        } catch {
          return undefined
        }
      })()
      expect(long && filled(long)).toEqual(parsed)
    }
})

test('torn anywhere, or with a byte that is no UTF-8, a document is not read', async () => {
  const bytes = encode(`{"a":"${'é🎉\\n'.repeat(300)}","b":["${'y'.repeat(1500)}"]}`)
  for (let length = 0; length < bytes.length; length += 7)
    expect(await readLongStrings(bytes.slice(0, length), turns)).toBeUndefined()
  for (let at = 6; at < 1500; at += 11) {
    const bad = bytes.slice()
    bad[at] = 0xff
    expect(await readLongStrings(bad, turns)).toBeUndefined()
  }
})

test('nobody can write a mark, and keys are never cut', async () => {
  const long = await readLongStrings(
    encode(JSON.stringify({ ['k'.repeat(3000)]: 'v'.repeat(3000), b: '<1:0>' })),
    turns,
  )
  const [[key, mark], [, other]] = Object.entries(long!.json as object) as [[string, string], [string, string]]
  expect(key).toBe('k'.repeat(3000))
  expect(long!.find(mark)).toBeDefined()
  expect(long!.find(other)).toBeUndefined()
  expect(long!.find(`${mark} `)).toBeUndefined()
})

test('deep nesting is judged by JSON.parse', async () => {
  const deep = '['.repeat(200_000)
  const text = `["${'x'.repeat(2000)}",${deep}${']'.repeat(200_000)}]`
  const isReadable = (() => {
    try {
      return JSON.parse(text) !== undefined
    } catch {
      return false
    }
  })()
  expect((await readLongStrings(encode(text), turns)) !== undefined).toBe(isReadable)
})
