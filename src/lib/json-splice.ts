/**
 * Edits members of a JSON object in its raw bytes: big integers, key order, unknown fields, escapes and white space of all
 * that is not named stay as they were. It does not check the document; callers have parsed it already.
 */
import { concat } from './bytes.ts'

export type Edit =
  /** `value` is JSON text. The member is replaced, or added at the end of its object with the parents it lacks. */
  | { readonly path: readonly string[]; readonly value: string; readonly remove?: never }
  | { readonly path: readonly string[]; readonly remove: true; readonly value?: never }

/** The edits of one object, by key. A node with an `edit` has no use for its children. */
interface Plan {
  edit?: Edit
  readonly children: Map<string, Plan>
}

/** Where a member stands: its key and its value, as byte offsets, the end excluded. */
interface Member {
  readonly start: number
  readonly key: string | undefined
  readonly valueStart: number
  readonly end: number
}

interface Cut {
  readonly start: number
  readonly end: number
  readonly text: string
}

const QUOTE = 34
const COMMA = 44
const COLON = 58
const OPEN_BRACKET = 91
const BACKSLASH = 92
const CLOSE_BRACKET = 93
const OPEN_BRACE = 123
const CLOSE_BRACE = 125
/** Strings shorter than this are cheaper to walk than to search natively. */
const WALK_BYTES = 24

/**
 * Keys match whatever their escapes, and every occurrence of a duplicate key is edited, since readers differ in which one
 * they take. A parent that is not an object is replaced when something is to be set in it. Of two edits of one path the last
 * counts, and an edit of a parent goes before those inside it.
 * @returns the given bytes themselves when nothing changes
 * @throws SyntaxError when the document is not an object or is torn
 */
export function spliceJson(bytes: Uint8Array<ArrayBuffer>, edits: readonly Edit[]): Uint8Array<ArrayBuffer> {
  const parts = spliceParts(bytes, edits)
  return parts.length === 1 ? bytes : concat(parts)
}

/** The same without a copy: the parts of the result, views of the given bytes and new texts; one when nothing changes. */
export function spliceParts(
  bytes: Uint8Array<ArrayBuffer>,
  edits: readonly Edit[],
): readonly Uint8Array<ArrayBuffer>[] {
  const plan = planOf(edits)
  if (plan.children.size === 0) return [bytes]
  const start = skipSpace(bytes, hasByteOrderMark(bytes) ? 3 : 0)
  if (bytes[start] !== OPEN_BRACE) throw new SyntaxError('the document is not a JSON object')
  const cuts: Cut[] = []
  editObject(bytes, start, plan, cuts)
  return cuts.length === 0 ? [bytes] : applyCuts(bytes, cuts)
}

/** @returns the raw JSON texts of all occurrences of a path, in the document's order */
export function findJson(bytes: Uint8Array, path: readonly string[]): readonly string[] {
  let starts = [skipSpace(bytes, hasByteOrderMark(bytes) ? 3 : 0)]
  let found: Member[] = []
  for (const key of path) {
    found = starts.flatMap((at) => (bytes[at] === OPEN_BRACE ? readObject(bytes, at, keyFilter([key])) : []))
    found = found.filter((member) => member.key === key)
    starts = found.map((member) => member.valueStart)
  }
  const decoder = new TextDecoder()
  return found.map((member) => decoder.decode(bytes.subarray(member.valueStart, member.end)))
}

function planOf(edits: readonly Edit[]): Plan {
  const root: Plan = { children: new Map() }
  for (const edit of edits) {
    let node = root
    for (const key of edit.path) {
      let child = node.children.get(key)
      if (!child) {
        child = { children: new Map() }
        node.children.set(key, child)
      }
      node = child
    }
    if (node !== root) node.edit = edit
  }
  return root
}

/** Text of a member that is missing, with the parents it needs; undefined when there is nothing to set. */
function missingValue(plan: Plan): string | undefined {
  if (plan.edit) return plan.edit.value
  const members: string[] = []
  for (const [key, child] of plan.children) {
    const value = missingValue(child)
    if (value !== undefined) members.push(`${JSON.stringify(key)}:${value}`)
  }
  return members.length === 0 ? undefined : `{${members.join(',')}}`
}

function editObject(bytes: Uint8Array, open: number, plan: Plan, cuts: Cut[]): number {
  const members = readObject(bytes, open, keyFilter([...plan.children.keys()]))
  const seen = new Set<string>()
  let lastKept: Member | undefined
  /** Start of a run of removed members that reaches up to here. */
  let removedFrom: number | undefined
  let lastEnd = open + 1
  for (const member of members) {
    const child = member.key === undefined ? undefined : plan.children.get(member.key)
    if (member.key !== undefined && child) seen.add(member.key)
    lastEnd = member.end
    if (child?.edit?.remove) {
      removedFrom ??= member.start
      continue
    }
    if (removedFrom !== undefined) cuts.push({ start: removedFrom, end: member.start, text: '' })
    removedFrom = undefined
    lastKept = member
    if (child) editValue(bytes, member, child, cuts)
  }
  const added: string[] = []
  for (const [key, child] of plan.children) {
    const value = seen.has(key) ? undefined : missingValue(child)
    if (value !== undefined) added.push(`${JSON.stringify(key)}:${value}`)
  }
  const comma = lastKept && added.length > 0 ? ',' : ''
  const cutFrom = removedFrom === undefined ? lastEnd : (lastKept?.end ?? removedFrom)
  if (removedFrom !== undefined || added.length > 0)
    cuts.push({ start: cutFrom, end: lastEnd, text: comma + added.join(',') })
  return lastEnd
}

function editValue(bytes: Uint8Array, member: Member, plan: Plan, cuts: Cut[]): void {
  if (plan.edit?.value !== undefined) {
    cuts.push({ start: member.valueStart, end: member.end, text: plan.edit.value })
  } else if (bytes[member.valueStart] === OPEN_BRACE) {
    editObject(bytes, member.valueStart, plan, cuts)
  } else {
    const value = missingValue(plan)
    if (value !== undefined) cuts.push({ start: member.valueStart, end: member.end, text: value })
  }
}

function applyCuts(bytes: Uint8Array<ArrayBuffer>, cuts: readonly Cut[]): readonly Uint8Array<ArrayBuffer>[] {
  const encoder = new TextEncoder()
  const parts: Uint8Array<ArrayBuffer>[] = []
  let from = 0
  for (const cut of cuts) {
    parts.push(bytes.subarray(from, cut.start), encoder.encode(cut.text))
    from = cut.end
  }
  parts.push(bytes.subarray(from))
  return parts
}

type KeyFilter = (bytes: Uint8Array, start: number, end: number) => string | undefined

/** Names a raw key if it is one of those wanted. Without escapes it is compared by bytes, and most differ in length. */
function keyFilter(keys: readonly string[]): KeyFilter {
  const encoder = new TextEncoder()
  const wanted = keys.map((key) => ({ key, raw: encoder.encode(key) }))
  const decoder = new TextDecoder()
  return (bytes, start, end) => {
    if (hasByte(bytes, BACKSLASH, start, end)) {
      const key: unknown = JSON.parse(decoder.decode(bytes.subarray(start - 1, end + 1)))
      return keys.find((candidate) => candidate === key)
    }
    return wanted.find(({ raw }) => raw.byteLength === end - start && raw.every((byte, i) => byte === bytes[start + i]))
      ?.key
  }
}

/** Lists the members of the object that opens at `open`; `key` is set on those that the filter names. */
function readObject(bytes: Uint8Array, open: number, filter: KeyFilter): Member[] {
  const members: Member[] = []
  let at = skipSpace(bytes, open + 1)
  while (bytes[at] !== CLOSE_BRACE) {
    if (bytes[at] !== QUOTE) throw torn(at)
    const start = at
    const keyEnd = skipString(bytes, at)
    at = skipSpace(bytes, keyEnd)
    if (bytes[at] !== COLON) throw torn(at)
    const valueStart = skipSpace(bytes, at + 1)
    const end = skipValue(bytes, valueStart)
    members.push({ start, key: filter(bytes, start + 1, keyEnd - 1), valueStart, end })
    at = skipSpace(bytes, end)
    if (bytes[at] === COMMA) at = skipSpace(bytes, at + 1)
    else if (bytes[at] !== CLOSE_BRACE) throw torn(at)
  }
  return members
}

const torn = (at: number) => new SyntaxError(`the JSON document is torn at byte ${at}`)

const hasByteOrderMark = (bytes: Uint8Array) => bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf

function hasByte(bytes: Uint8Array, byte: number, start: number, end: number): boolean {
  for (let i = start; i < end; i++) if (bytes[i] === byte) return true
  return false
}

function skipSpace(bytes: Uint8Array, from: number): number {
  let at = from
  for (let byte = bytes[at]; byte === 32 || byte === 10 || byte === 13 || byte === 9; byte = bytes[at]) at++
  return at
}

/** @param from offset of the opening quote @returns offset after the closing quote */
function skipString(bytes: Uint8Array, from: number): number {
  let at = from + 1
  const walkEnd = at + WALK_BYTES
  for (; at < walkEnd; at++) {
    const byte = bytes[at]
    if (byte === QUOTE) return at + 1
    if (byte === BACKSLASH) at++
    else if (byte === undefined) throw torn(at)
  }
  // A quote ends the string if an even number of backslashes stands before it, back to where the walk stopped.
  for (let quote = bytes.indexOf(QUOTE, at); quote !== -1; quote = bytes.indexOf(QUOTE, quote + 1)) {
    let first = quote
    while (first > at && bytes[first - 1] === BACKSLASH) first--
    if ((quote - first) % 2 === 0) return quote + 1
  }
  throw torn(bytes.byteLength)
}

/** @returns offset after the value; nesting is counted, not recursed into */
function skipValue(bytes: Uint8Array, from: number): number {
  const first = bytes[from]
  if (first === QUOTE) return skipString(bytes, from)
  let at = from
  if (first !== OPEN_BRACE && first !== OPEN_BRACKET) {
    for (; at < bytes.byteLength; at++) {
      const byte = bytes[at]!
      if (byte === COMMA || byte === CLOSE_BRACE || byte === CLOSE_BRACKET || byte <= 32) break
    }
    if (at === from) throw torn(at)
    return at
  }
  let depth = 0
  while (at < bytes.byteLength) {
    const byte = bytes[at]!
    if (byte === QUOTE) {
      at = skipString(bytes, at)
      continue
    }
    at++
    if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth++
    else if ((byte === CLOSE_BRACE || byte === CLOSE_BRACKET) && --depth === 0) return at
  }
  throw torn(at)
}
