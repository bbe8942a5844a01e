/**
 * Estimates tokens without a tokenizer: characters fall into classes, each class has a weight, a run of letters or digits
 * counts once. Serves holds, and bills of upstreams that report no usage. One pass over the text.
 */
import type { LongStrings } from '../../lib/long-strings.ts'
import type { Turns } from '../../lib/turns.ts'
import type { Countable } from '../../protocol/codec.ts'

/** Adds up text that arrives in pieces; a word cut between two pieces counts once. */
export interface TokenCounter {
  add(text: string): void
  /**
   * The same of a part of a valid JSON string in UTF-8, without making it a string: from a character to where one ends at
   * or after `until`. @returns where it ended
   */
  addJson(bytes: Uint8Array, from: number, until: number): number
  /** Tokens so far, rounded up. */
  total(): number
}

/** Tokens of a piece of a prompt that is not text; images of OpenAI-type models cost less. */
const MEDIA = { imageOpenAi: 17.5, image: 520, audio: 256, video: 8192, file: 4096 } as const
/** What chat formats add around each message, name and tool, and once for the answer. */
const FRAME = { message: 3, name: 3, tool: 8, answer: 3 } as const

/** Input tokens of a request, rounded up. */
export function estimateInputTokens(countable: Countable, model: string): number {
  const counter = createTokenCounter(model)
  for (const text of countable.texts) {
    counter.add(text)
    counter.add(GAP)
  }
  return totalOf(counter, countable, model)
}

/** The same of a document whose long strings are marks, in turns. */
export async function estimateLongInput(
  countable: Countable,
  model: string,
  long: LongStrings,
  turns: Turns,
): Promise<number> {
  const counter = createTokenCounter(model)
  for (const text of countable.texts) {
    const { start, end } = long.find(text) ?? { start: 0, end: 0 }
    if (end === 0) counter.add(long.restore(text))
    for (let at = start; at < end; at = counter.addJson(long.bytes, at, Math.min(end, at + PIECE_BYTES)))
      if (turns.isOver()) await turns.next()
    counter.add(GAP)
  }
  return totalOf(counter, countable, model)
}

/** Ends a run; costs nothing. */
const GAP = '\u0000'
/** Between two looks at the clock: 20 µs, and a millisecond in code that is not yet compiled. */
const PIECE_BYTES = 1 << 14

function totalOf(counter: TokenCounter, countable: Countable, model: string): number {
  const frame =
    countable.messages * FRAME.message + countable.names * FRAME.name + countable.tools * FRAME.tool + FRAME.answer
  const media =
    countable.images * (isOpenAiType(model) ? MEDIA.imageOpenAi : MEDIA.image) +
    countable.audios * MEDIA.audio +
    countable.videos * MEDIA.video +
    countable.files * MEDIA.file
  return Math.ceil(counter.total() + frame + media)
}

export function estimateTextTokens(text: string, model: string): number {
  const counter = createTokenCounter(model)
  counter.add(text)
  return counter.total()
}

export function createTokenCounter(model: string): TokenCounter {
  const weights = weightsOf(model)
  const counts = new Float64Array(CLASS_COUNT)
  let previous: number = CLASS.none
  return {
    add(text) {
      for (let index = 0; index < text.length; index++) {
        const kind = CLASS_OF[text.charCodeAt(index)]!
        if (kind !== previous || kind > CLASS.number) counts[kind]! += 1
        previous = kind
      }
    },
    addJson(bytes, from, until) {
      let at = from
      while (at < until) {
        const byte = bytes[at]!
        const isPlain = byte < 128 && byte !== BACKSLASH
        const kind = CLASS_OF[isPlain ? byte : codeAt(bytes, at)]!
        if (isPlain) at++
        else {
          at += byte === BACKSLASH ? (bytes[at + 1] === LETTER_U ? 6 : 2) : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4
        }
        if (kind !== previous || kind > CLASS.number) counts[kind]! += 1
        previous = byte >= 0xf0 ? CLASS.none : kind // The second half of a pair ends a run.
      }
      return at
    },
    total() {
      const sum = weights.reduce((tokens, weight, kind) => tokens + weight * counts[kind]!, 0)
      return Math.ceil(Math.max(0, sum - ROUNDING))
    },
  }
}

/** Sums of weights such as 1.02 + 0.42 miss whole numbers by a last binary digit; that must not cost a token. */
const ROUNDING = 1e-9

const isOpenAiType = (model: string): boolean => /^(?:gpt-|o1|o3|o4|chatgpt)/.test(model)

// Classes

/** The classes up to `number` count once per run. */
const CLASS = {
  word: 0,
  number: 1,
  cjk: 2,
  symbol: 3,
  math: 4,
  urlDelimiter: 5,
  at: 6,
  emoji: 7,
  newline: 8,
  space: 9,
  none: 10,
} as const
const CLASS_COUNT = 11

/** Weights in the order of the classes. */
const WEIGHTS = {
  gemini: [1.15, 2.8, 0.68, 0.38, 1.05, 1.2, 2.5, 1.08, 1.15, 0.2, 0],
  claude: [1.13, 1.63, 1.21, 0.4, 4.52, 1.26, 2.82, 2.6, 0.89, 0.39, 0],
  other: [1.02, 1.55, 0.85, 0.4, 2.68, 1.0, 2.0, 2.12, 0.5, 0.42, 0],
} as const

function weightsOf(model: string): readonly number[] {
  const name = model.toLowerCase()
  if (name.includes('gemini')) return WEIGHTS.gemini
  return name.includes('claude') ? WEIGHTS.claude : WEIGHTS.other
}

/** [first code, class]: each range ends where the next begins. UTF-16 units, so what lies beyond comes as surrogates. */
const RANGES: readonly (readonly [first: number, kind: number])[] = [
  [0x80, CLASS.none], // control characters
  [0xa0, CLASS.symbol], // Latin-1 punctuation
  [0xc0, CLASS.word], // letters of Latin, Greek, Cyrillic, Arabic, Indic and the like
  [0x1100, CLASS.cjk], // Hangul parts
  [0x1200, CLASS.word],
  [0x2000, CLASS.symbol], // punctuation, currency, letter-like
  [0x2190, CLASS.symbol], // arrows
  [0x2200, CLASS.math], // operators
  [0x2300, CLASS.symbol], // technical, boxes, shapes
  [0x2600, CLASS.emoji], // pictographs, dingbats
  [0x27c0, CLASS.math],
  [0x2800, CLASS.symbol],
  [0x2a00, CLASS.math],
  [0x2b00, CLASS.symbol],
  [0x2c00, CLASS.word],
  [0x2e00, CLASS.symbol],
  [0x2e80, CLASS.cjk], // radicals
  [0x3000, CLASS.symbol], // CJK punctuation
  [0x3040, CLASS.cjk], // kana, bopomofo, ideographs
  [0xa000, CLASS.word],
  [0xac00, CLASS.cjk], // Hangul
  [0xd7b0, CLASS.word],
  [0xd800, CLASS.emoji], // first halves of pairs: mostly pictographs
  [0xdc00, CLASS.none], // second halves
  [0xe000, CLASS.symbol],
  [0xf900, CLASS.cjk],
  [0xfb00, CLASS.word],
  [0xfe00, CLASS.none], // variation selectors
  [0xfe10, CLASS.symbol],
  [0xfe70, CLASS.word],
  [0xff00, CLASS.symbol], // full-width forms
  [0xff66, CLASS.cjk],
  [0xffa0, CLASS.cjk],
  [0xffe0, CLASS.symbol],
]

const BACKSLASH = 92
const LETTER_U = 117
/** What the character after a backslash stands for: itself, or a control character. */
const ESCAPES = Uint8Array.from({ length: 128 }, (_, code) => code)
for (const [letter, code] of ['b\b', 'f\f', 'n\n', 'r\r', 't\t'].map((pair) => [
  pair.charCodeAt(0),
  pair.charCodeAt(1),
]))
  ESCAPES[letter!] = code!

/** UTF-16 unit of what stands at a place of a JSON string in UTF-8; of a pair the first. */
function codeAt(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!
  const second = bytes[at + 1]!
  if (first === BACKSLASH) {
    if (second !== LETTER_U) return ESCAPES[second]!
    return Number.parseInt(String.fromCharCode(bytes[at + 2]!, bytes[at + 3]!, bytes[at + 4]!, bytes[at + 5]!), 16)
  }
  if (first < 0xe0) return ((first & 31) << 6) | (second & 63)
  const third = bytes[at + 2]!
  if (first < 0xf0) return ((first & 15) << 12) | ((second & 63) << 6) | (third & 63)
  const point = ((first & 7) << 18) | ((second & 63) << 12) | ((third & 63) << 6) | (bytes[at + 3]! & 63)
  return 0xd800 + ((point - 0x10000) >> 10)
}

/** Class of each UTF-16 unit. */
const CLASS_OF = new Uint8Array(0x10000)
for (const [index, [first, kind]] of RANGES.entries()) CLASS_OF.fill(kind, first, RANGES[index + 1]?.[0])
for (let code = 0; code < 128; code++) CLASS_OF[code] = classOfAscii(String.fromCharCode(code))

function classOfAscii(character: string): number {
  if (/[A-Za-z]/.test(character)) return CLASS.word
  if (/\d/.test(character)) return CLASS.number
  if (character === ' ') return CLASS.space
  if (character === '\n' || character === '\t') return CLASS.newline
  if (character === '@') return CLASS.at
  if ('/:?&=;#%'.includes(character)) return CLASS.urlDelimiter
  return character < ' ' || character === '\u007f' ? CLASS.none : CLASS.symbol
}
