/** Reading of untrusted JSON and collecting of losses: small helpers that all codecs share. */
import { GatewayError } from '../errors.ts'
import type { Loss } from './codec.ts'
import type { CacheBreakpoint, Extras, MediaSource, Protocol } from './ir.ts'

export type JsonObject = Readonly<Record<string, unknown>>

export const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

export const textOf = (value: unknown): string => (typeof value === 'string' ? value : '')

export const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : [])

/** A count of an upstream: what is not a positive number is 0. */
export const countOf = (value: unknown): number =>
  typeof value === 'number' && value > 0 && Number.isFinite(value) ? Math.trunc(value) : 0

/** @returns undefined when the text is not JSON */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export const invalid = (reason: string): GatewayError => new GatewayError('invalid_request', { params: { reason } })

/** What is left of an object without the named keys; undefined when nothing is. Safe for a key named `__proto__`. */
export function rest(object: JsonObject, known: ReadonlySet<string>): Record<string, unknown> | undefined {
  let entries: [string, unknown][] | undefined
  for (const key of Object.keys(object)) {
    if (known.has(key) || object[key] === undefined || object[key] === null) continue
    entries ??= []
    entries.push([key, object[key]])
  }
  return entries && Object.fromEntries(entries)
}

/** The unknown fields of an object as `{ extras }`, to be spread; empty when there are none. */
export function extrasOf(protocol: Protocol, object: JsonObject, known: ReadonlySet<string>): { extras?: Extras } {
  const left = rest(object, known)
  return left ? { extras: { [protocol]: left } } : {}
}

// Extras of nested objects stand beside the others under their paths, so that losses name them exactly.

/** `{ a: 1 }` at `output_config.` → `{ 'output_config.a': 1 }` */
export const withPath = (path: string, fields: JsonObject | undefined): Record<string, unknown> =>
  Object.fromEntries(Object.entries(fields ?? {}).map(([key, value]) => [path + key, value]))

/** @returns the extras that stand at a path, without it */
export const extrasAt = (extras: JsonObject, path: string): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(extras)
      .filter(([key]) => key.startsWith(path))
      .map(([key, value]) => [key.slice(path.length), value]),
  )

/** @returns the extras that stand at none of the paths */
export const extrasBeside = (extras: JsonObject, ...paths: readonly string[]): Record<string, unknown> =>
  Object.fromEntries(Object.entries(extras).filter(([key]) => !paths.some((path) => key.startsWith(path))))

// Optional request fields. Null means absent, as every dialect's own clients send it.

export function optionalNumber(object: JsonObject, key: string): number | undefined {
  const value = object[key]
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'number') throw invalid(`${key} must be a number`)
  return value
}

export function optionalBoolean(object: JsonObject, key: string): boolean | undefined {
  const value = object[key]
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'boolean') throw invalid(`${key} must be a boolean`)
  return value
}

export function optionalObject(object: JsonObject, key: string): JsonObject | undefined {
  const value = object[key]
  if (value === undefined || value === null) return undefined
  if (!isObject(value)) throw invalid(`${key} must be an object`)
  return value
}

export function optionalList(object: JsonObject, key: string): readonly unknown[] | undefined {
  const value = object[key]
  if (value === undefined || value === null) return undefined
  if (!Array.isArray(value)) throw invalid(`${key} must be an array`)
  return value
}

export function requiredText(object: JsonObject, key: string): string {
  const value = object[key]
  if (value === undefined || value === null || value === '') throw invalid(`${key} is required`)
  if (typeof value !== 'string') throw invalid(`${key} must be a string`)
  return value
}

export function requestObject(json: unknown): JsonObject {
  if (!isObject(json)) throw invalid('the request body must be a JSON object')
  return json
}

/** Limits beyond this cannot be meant, and would overflow what is computed from them. */
const MAX_TOKEN_LIMIT = 1_073_741_823

/** The largest of the named token limits, as money is held for the worst case. */
export function tokenLimit(object: JsonObject, keys: readonly string[]): number | undefined {
  let largest: number | undefined
  for (const key of keys) {
    const value = optionalNumber(object, key)
    if (value === undefined) continue
    if (!Number.isInteger(value) || value < 0) throw invalid(`${key} must be a whole number that is not negative`)
    if (value > MAX_TOKEN_LIMIT) throw invalid(`${key} must not be more than ${MAX_TOKEN_LIMIT}`)
    largest = Math.max(largest ?? 0, value)
  }
  return largest
}

export function cacheOf(value: unknown): { cache?: CacheBreakpoint } {
  if (!isObject(value)) return {}
  return { cache: { ttl: value['ttl'] === '1h' ? '1h' : '5m' } }
}

/** @returns the wire form that both dialects use for a cache breakpoint */
export const cacheControl = (cache: CacheBreakpoint): JsonObject =>
  cache.ttl === '1h' ? { type: 'ephemeral', ttl: '1h' } : { type: 'ephemeral' }

const DATA_URL = /^data:([^;,]*)((?:;[^;,]*)*),/i

/** A `data:` URL becomes its bytes in base64, any other stays a URL. */
export function sourceOfUrl(url: string): MediaSource {
  const head = DATA_URL.exec(url.slice(0, 256))
  if (!head) return { kind: 'url', url }
  const mediaType = (head[1] || 'text/plain').toLowerCase()
  const body = url.slice(head[0].length)
  if (/;base64$/i.test(head[2] ?? '')) return { kind: 'base64', mediaType, data: body }
  try {
    return { kind: 'base64', mediaType, data: Buffer.from(decodeURIComponent(body)).toString('base64') }
  } catch {
    return { kind: 'url', url }
  }
}

export const dataUrl = (mediaType: string, data: string): string => `data:${mediaType};base64,${data}`

const MESSAGES = 'messages[].'

/** Fields that are kept beside their meaning in the IR, for their own dialect's sake: another one loses nothing. */
const UNDERSTOOD: ReadonlySet<string> = new Set(['reasoning', 'thinking', 'output_config.effort'])

/** Each path once, however many messages have it. */
export interface Losses {
  add(path: string, reason: string): void
  /** Reports the fields of all other dialects, under `prefix`. */
  extras(extras: Extras | undefined, target: Protocol, prefix: string): void
  list(): readonly Loss[]
}

/** @param scope stands for `messages[].` in paths of an answer: content has the same codec on both ways */
export function createLosses(scope = MESSAGES): Losses {
  const found = new Map<string, Loss>()
  const add = (named: string, reason: string) => {
    const path = named.startsWith(MESSAGES) ? scope + named.slice(MESSAGES.length) : named
    if (!found.has(path)) found.set(path, { path, reason })
  }
  return {
    add,
    extras(extras, target, prefix) {
      if (!extras) return
      for (const [protocol, fields] of Object.entries(extras)) {
        if (protocol === target) continue
        for (const key of Object.keys(fields)) {
          if (!UNDERSTOOD.has(prefix + key)) add(prefix + key, `not a field of ${target}`)
        }
      }
    },
    list: () => [...found.values()],
  }
}
