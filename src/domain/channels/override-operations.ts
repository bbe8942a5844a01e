/** The operations of a parameter override on the body: one function per mode, each changing the draft in place. */
import { GatewayError } from '../../errors.ts'
import { isRecord } from './channel.ts'
import { deletePath, expandPath, type Path, PathError, parsePath, readPath, writePath } from './json-path.ts'
import { holds, logicOf } from './override-conditions.ts'
import { syncFields } from './override-headers.ts'
import type { Apply } from './param-override.ts'

type Json = Record<string, unknown>

/** Each place that the path names; with `*` that may be many or none. */
const eachPath = (json: Json, text: string, change: (path: Path) => void): void => {
  const path = parsePath(text)
  if (path.length === 0) throw new PathError('the path is empty')
  for (const place of expandPath(json, path)) change(place)
}

/** Rewrites a text; what is not there is left alone, what is no text is an error unless it is one of many. */
const onText = (edit: (text: string, operation: Parameters<Apply>[0]) => string): Apply => {
  return (operation, { json }) => {
    eachPath(json, operation.path, (path) => {
      const found = readPath(json, path)
      if (!found) return
      if (typeof found.value === 'string') writePath(json, path, edit(found.value, operation))
      else if (!operation.path.includes('*')) throw new PathError('not a text')
    })
  }
}

const textOf = (value: unknown): string => {
  if (typeof value !== 'string') throw new PathError('the value is not a text')
  return value
}

const set: Apply = ({ path, value, keepOrigin }, { json }) =>
  eachPath(json, path, (place) => {
    if (!keepOrigin || !readPath(json, place)) writePath(json, place, structuredClone(value))
  })

/** Texts are joined, lists grow, objects are merged; what is not there becomes the value. */
const extend = (isAtEnd: boolean): Apply => {
  const join = (own: unknown, value: unknown, keepOrigin: boolean): unknown => {
    if (own === undefined || own === null) return value
    if (Array.isArray(own)) {
      const added = Array.isArray(value) ? value : [value]
      return isAtEnd ? [...own, ...added] : [...added, ...own]
    }
    if (typeof own === 'string') return isAtEnd ? own + textOf(value) : textOf(value) + own
    if (isRecord(own) && isRecord(value)) return keepOrigin ? { ...value, ...own } : { ...own, ...value }
    throw new PathError('the two values cannot be joined')
  }
  return ({ path, value, keepOrigin }, { json }) =>
    eachPath(json, path, (place) => {
      writePath(json, place, join(readPath(json, place)?.value, structuredClone(value), keepOrigin))
    })
}

const transfer = (isMove: boolean): Apply => {
  return ({ from, to }, { json }) => {
    const source = parsePath(from)
    const found = source.length > 0 ? readPath(json, source) : undefined
    if (!found) throw new PathError(`nothing at ${from}`)
    // Taken away first: the target may lie beside it in the same list, or under its own old name.
    if (isMove) deletePath(json, source)
    writePath(json, parsePath(to), isMove ? found.value : structuredClone(found.value))
  }
}

const returnError: Apply = ({ value }) => {
  const given = isRecord(value) ? value : { message: value }
  const message = String(given.message ?? given.msg ?? 'The request was refused')
  const status = Number(given.status_code ?? given.status ?? 400)
  throw new GatewayError('invalid_request', {
    public: message,
    status: Number.isInteger(status) && status >= 400 && status <= 599 ? status : 400,
    retry: given.skip_retry === false,
    upstream: {
      status,
      message,
      type: String(given.type ?? 'invalid_request_error'),
      code: String(given.code ?? 'invalid_request'),
    },
  })
}

/** Takes objects out of lists: by type, by equal fields, by conditions on the object itself. */
const pruneObjects: Apply = ({ path, value }, { json }) => {
  const rule = isRecord(value) ? value : { type: value }
  const { type, where, conditions } = rule
  if (type === undefined && where === undefined && conditions === undefined)
    throw new PathError('nothing says what to prune')
  const isPruned = (element: unknown): boolean => {
    if (!isRecord(element)) return false
    const lookUp = (name: string) => readPath(element, parsePath(name))
    return (
      (type === undefined || element.type === type) &&
      (where === undefined || sameFields(element, where)) &&
      holds(conditions, logicOf(rule.logic, 'AND'), lookUp)
    )
  }
  const isRecursive = rule.recursive !== false
  const prune = (node: unknown): unknown => {
    if (Array.isArray(node)) {
      const kept = node.filter((element) => !isPruned(element))
      return isRecursive ? kept.map(prune) : kept
    }
    if (!isRecord(node) || !isRecursive) return node
    for (const [name, child] of Object.entries(node)) node[name] = prune(child)
    return node
  }
  if (path === '') prune(json)
  else
    eachPath(json, path, (place) => {
      const found = readPath(json, place)
      if (found) writePath(json, place, prune(found.value))
    })
}

const sameFields = (element: Json, where: unknown): boolean =>
  isRecord(where) &&
  Object.entries(where).every(([name, value]) => {
    const found = readPath(element, parsePath(name))
    return found !== undefined && Bun.deepEquals(found.value, value)
  })

/**
 * Stored patterns are RE2's: leading flags `(?i)` and `(?P<name>…)` are put into JavaScript's words.
 * @throws PathError when JavaScript cannot read it either
 */
const compile = (source: string): RegExp => {
  const flags = /^\(\?([ims]+)\)/.exec(source)
  try {
    return new RegExp(source.slice(flags?.[0].length ?? 0).replaceAll('(?P<', '(?<'), `g${flags?.[1] ?? ''}`)
  } catch {
    throw new PathError(`${source} is no regular expression`)
  }
}

/** `$1`, `${1}`, `${name}` and `$$` of the replacement. */
const expand = (
  template: string,
  groups: readonly string[],
  named: Readonly<Record<string, string>> | undefined,
): string =>
  template.replace(/\$(?:\$|(\w+)|\{(\w+)\})/g, (whole, bare?: string, braced?: string) => {
    const name = bare ?? braced
    if (name === undefined) return whole === '$$' ? '$' : whole
    return (/^\d+$/.test(name) ? groups[Number(name)] : named?.[name]) ?? ''
  })

const regexReplace = (text: string, from: string, to: string): string =>
  text.replace(compile(from), (...match: unknown[]) => {
    const named = isRecord(match.at(-1)) ? (match.pop() as Record<string, string>) : undefined
    return expand(to, match.slice(0, -2) as string[], named)
  })

export const BODY_MODES: Readonly<Record<string, Apply>> = {
  set,
  delete: ({ path }, { json }) => eachPath(json, path, (place) => deletePath(json, place)),
  move: transfer(true),
  copy: transfer(false),
  prepend: extend(false),
  append: extend(true),
  trim_prefix: onText((text, { value }) => (text.startsWith(textOf(value)) ? text.slice(textOf(value).length) : text)),
  trim_suffix: onText((text, { value }) =>
    textOf(value) !== '' && text.endsWith(textOf(value)) ? text.slice(0, -textOf(value).length) : text,
  ),
  ensure_prefix: onText((text, { value }) => (text.startsWith(textOf(value)) ? text : textOf(value) + text)),
  ensure_suffix: onText((text, { value }) => (text.endsWith(textOf(value)) ? text : text + textOf(value))),
  trim_space: onText((text) => text.trim()),
  to_lower: onText((text) => text.toLowerCase()),
  to_upper: onText((text) => text.toUpperCase()),
  replace: onText((text, { from, to }) => (from === '' ? text : text.replaceAll(from, () => to))),
  regex_replace: onText((text, { from, to }) => regexReplace(text, from, to)),
  return_error: returnError,
  prune_objects: pruneObjects,
  sync_fields: syncFields,
}
