/** The operations of a parameter override on headers. They edit what the header override of the channel resolved to. */
import { isRecord } from './channel.ts'
import { checkedName, checkedValue, expandHeaderValue } from './header-override.ts'
import { PathError, parsePath, readPath, writePath } from './json-path.ts'
import type { Apply, Draft } from './param-override.ts'

/** The value that goes out so far: an edit, else what the client sent. */
const current = ({ headers, context }: Draft, name: string): string | undefined => {
  const edit = headers.get(name)
  return edit === undefined ? (context.clientHeaders.get(name) ?? undefined) : (edit ?? undefined)
}

const isSet = ({ headers }: Draft, name: string): boolean => (headers.get(name) ?? null) !== null

const put = (draft: Draft, name: string, value: string): void => {
  const text = expandHeaderValue(value, draft.context)
  if (text !== undefined) draft.headers.set(name, checkedValue(text, name))
}

const setHeader: Apply = ({ path, value, keepOrigin }, draft) => {
  const name = checkedName(path)
  if (keepOrigin && isSet(draft, name)) return
  if (isRecord(value)) return mapTokens(name, value, draft)
  if (value === undefined || value === null || typeof value === 'object') throw new PathError('the value is not a text')
  put(draft, name, String(value))
}

/**
 * Rewrites a comma-separated header token by token: `{token: replacement | [..] | null}`, `*` for the tokens without an
 * entry, `$append` for more at the end, `$keep_only_declared` to drop the tokens without an entry.
 */
const mapTokens = (name: string, mapping: Record<string, unknown>, draft: Draft): void => {
  const { $append: appended, $keep_only_declared: isClosed, '*': others, ...declared } = mapping
  const tokens = tokensOf(current(draft, name))
  const mapped = tokens.flatMap((token) => {
    if (Object.hasOwn(declared, token)) return tokensOf(declared[token])
    if (others !== undefined) return tokensOf(others)
    return isClosed === true ? [] : [token]
  })
  const result = [...new Set([...mapped, ...tokensOf(appended)])]
  if (result.length > 0) put(draft, name, result.join(','))
  else if (tokens.length > 0) draft.headers.set(name, null)
}

const tokensOf = (value: unknown): readonly string[] => {
  if (value === undefined || value === null) return []
  if (Array.isArray(value)) return value.flatMap(tokensOf)
  return String(value)
    .split(',')
    .map((token) => token.trim())
    .filter((token) => token !== '')
}

const transferHeader = (isMove: boolean): Apply => {
  return ({ path, from, to, keepOrigin }, draft) => {
    const source = checkedName(from || path)
    const target = checkedName(to || path)
    const value = current(draft, source)
    if (value === undefined) return
    if (isMove) draft.headers.set(source, null)
    if (!keepOrigin || !isSet(draft, target)) draft.headers.set(target, checkedValue(value, target))
  }
}

const passHeaders: Apply = ({ value, keepOrigin }, draft) => {
  const names = isRecord(value) ? (value.headers ?? value.names ?? value.header) : value
  for (const name of tokensOf(names).map(checkedName)) {
    const sent = draft.context.clientHeaders.get(name)
    if (sent !== null && !(keepOrigin && isSet(draft, name))) draft.headers.set(name, sent)
  }
}

interface Side {
  read(): string | undefined
  write(value: string): void
}

/** One side of `sync_fields`: `json:path` (also `body:path`) or `header:Name`. */
const sideOf = (text: string, draft: Draft): Side => {
  const [, kind, rest = ''] = /^(json|body|header):(.+)$/.exec(text) ?? []
  if (kind === undefined) throw new PathError(`${text} is neither json: nor header:`)
  if (kind === 'header') {
    const name = checkedName(rest)
    return {
      read: () => current(draft, name),
      write: (value) => void draft.headers.set(name, checkedValue(value, name)),
    }
  }
  const path = parsePath(rest)
  return {
    read: () => {
      const value = readPath(draft.json, path)?.value
      return value === undefined || value === null || typeof value === 'object' ? undefined : String(value)
    },
    write: (value) => writePath(draft.json, path, value),
  }
}

/** Whichever side is missing is filled from the other. */
export const syncFields: Apply = ({ from, to }, draft) => {
  const sides = [sideOf(from, draft), sideOf(to, draft)] as const
  const [first, second] = sides.map((side) => side.read() || undefined)
  if (first === undefined && second !== undefined) sides[0].write(second)
  if (second === undefined && first !== undefined) sides[1].write(first)
}

export const HEADER_MODES: Readonly<Record<string, Apply>> = {
  set_header: setHeader,
  delete_header: ({ path }, { headers }) => void headers.set(checkedName(path), null),
  copy_header: transferHeader(false),
  move_header: transferHeader(true),
  pass_headers: passHeaders,
}
