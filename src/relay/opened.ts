/**
 * Large bodies are converted with marks in the place of their long strings. This file knows which strings the codecs of
 * chat look into, whatever the dialect: these they get, or the part that they look at.
 */
import { type LongStrings, lastCharacter, type Span } from '../lib/long-strings.ts'

/** Texts that are copied, joined, and trimmed at their end. `data`: of media and documents. */
const TEXTS: ReadonlySet<string> = new Set([
  'content',
  'data',
  'description',
  'reasoning',
  'reasoning_content',
  'refusal',
  'signature',
  'system',
  'text',
  'thinking',
])
/** Data URLs are cut at their comma. */
const URLS: ReadonlySet<string> = new Set(['file_data', 'image_url', 'url', 'video_url'])
/** Arguments of tools are an object in one dialect, and its text in the other. */
const WRITTEN: ReadonlySet<string> = new Set(['arguments', 'input'])

const MAX_DEPTH = 1000
const MAX_WHITE_SPACE = 64
const MAX_HEAD_BYTES = 256
const COMMA = 44

type Json = Readonly<Record<string, unknown>>

/**
 * @returns the document with marks only in the place of what a codec copies: what is not known to be copied is opened;
 * undefined when it is nested too deep
 */
export function withOpened(json: Json, long: LongStrings): Json | undefined {
  let isTooDeep = false
  /** @param key undefined: all that is within is opened */
  const value = (given: unknown, key: string | undefined, depth: number): unknown => {
    if (typeof given === 'string') {
      const span = long.find(given)
      return span ? (marked(long, span, key) ?? long.text(span)) : given
    }
    if (typeof given !== 'object' || given === null) return given
    if (depth > MAX_DEPTH) isTooDeep = true
    if (isTooDeep) return given
    return Array.isArray(given) ? given.map((item) => value(item, key, depth + 1)) : object(given as Json, key, depth)
  }
  const object = (given: Json, within: string | undefined, depth: number): Json => {
    const isOpened = within === undefined || WRITTEN.has(within) || isTextImage(given)
    return Object.fromEntries(
      Object.entries(given).map(([key, item]) => [key, value(item, isOpened ? undefined : key, depth + 1)]),
    )
  }
  const opened = object(json, '', 0)
  return isTooDeep ? undefined : opened
}

/** No upstream takes it; it would become a data URL. */
const isTextImage = ({ type, source }: Json): boolean =>
  type === 'image' && (source as Json | null)?.['type'] === 'text'

/** @returns undefined for what must be opened */
function marked(long: LongStrings, span: Span, key = ''): string | undefined {
  if (URLS.has(key)) return markedUrl(long, span)
  return TEXTS.has(key) ? markedText(long, span) : undefined
}

/** White space at the end stays behind the mark, where it can be trimmed. Blank texts, which codecs leave out, are opened. */
function markedText(long: LongStrings, { start, end }: Span): string | undefined {
  let at = end
  for (let count = 0; count < MAX_WHITE_SPACE && at > start; count++) {
    const from = lastCharacter(long.bytes, { start, end: at })
    if (long.text({ start: from, end: at }).trim() !== '')
      return long.mark({ start, end: at }) + long.text({ start: at, end })
    at = from
  }
  return undefined
}

/** Text in base64 becomes text. */
const DATA_URL = /^data:(?!text\/)[^;,]+(?:;[^;,]*)*;base64,$/i

function markedUrl(long: LongStrings, { start, end }: Span): string | undefined {
  const comma = long.bytes.subarray(start, Math.min(start + MAX_HEAD_BYTES, end)).indexOf(COMMA)
  const head = { start, end: start + comma + 1 }
  const text = long.text(head)
  return DATA_URL.test(text) ? text + long.mark({ start: head.end, end }) : undefined
}
