/**
 * Headers that an operator wants on a channel's upstream calls: fixed ones, the client's own by name or by pattern. Gives
 * edits, not headers, so that the operations of a parameter override can go on editing them.
 */
import { GatewayError } from '../../errors.ts'
import { trimField } from '../../lib/headers.ts'
import { isRecord } from './channel.ts'

/** Lower-case name → value to set, or null to remove. */
export type HeaderEdits = ReadonlyMap<string, string | null>

export interface HeaderOverrideContext {
  readonly apiKey: string
  readonly clientHeaders: Headers
  /** Patterns pass nothing in a test: the headers there are the console's. */
  readonly isChannelTest: boolean
}

const NO_EDITS: HeaderEdits = new Map()

/** What no pattern passes: it belongs to one connection, to the body as it was sent to us, or is the caller's secret. */
const NEVER_BY_PATTERN = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'expect',
  'cookie',
  'host',
  'content-length',
  'content-encoding',
  'accept-encoding',
  'authorization',
  'x-api-key',
  'x-goog-api-key',
  'mj-api-secret',
  'sec-websocket-key',
  'sec-websocket-version',
  'sec-websocket-extensions',
  'sec-websocket-protocol',
])

const invalidHeaderOverride = (reason: string, cause?: unknown): GatewayError =>
  new GatewayError('channel:header_override_invalid', { detail: { reason }, cause })

/**
 * @param override JSON of the column: name → value; undefined for none. `*` and `re:<regex>` name the client's headers
 * @throws GatewayError `channel:header_override_invalid`
 */
export const resolveHeaderOverride = (override: unknown, context: HeaderOverrideContext): HeaderEdits => {
  if (override === undefined || override === null) return NO_EDITS
  const edits = new Map<string, string | null>()
  if (!isRecord(override)) throw invalidHeaderOverride('not a JSON object')
  const entries = Object.entries(override)
  const patterns = entries.map(([key]) => patternOf(key)).filter((pattern) => pattern !== undefined)
  if (!context.isChannelTest) {
    for (const [name, value] of context.clientHeaders) {
      if (!NEVER_BY_PATTERN.has(name) && patterns.some((pattern) => pattern.test(name))) edits.set(name, value)
    }
  }
  for (const [key, value] of entries) {
    if (patternOf(key)) continue
    if (typeof value === 'object') throw invalidHeaderOverride(`the value of ${key} is not a text`)
    const text = expandHeaderValue(String(value), context)
    if (text !== undefined) edits.set(checkedName(key), checkedValue(text, key))
  }
  return edits
}

/** `{api_key}` inside; or a whole value `{client_header:Name}`, undefined when the client did not send it. */
export const expandHeaderValue = (value: string, context: HeaderOverrideContext): string | undefined => {
  const name = /^\{client_header:([^}]+)\}$/.exec(value.trim())?.[1]
  if (name !== undefined) return context.clientHeaders.get(checkedName(name.trim())) ?? undefined
  return value.replaceAll('{api_key}', () => context.apiKey)
}

/** Writes edits over headers, in place. */
export const applyHeaderEdits = (
  headers: { set(name: string, value: string): unknown; delete(name: string): unknown },
  edits: HeaderEdits,
): void => {
  for (const [name, value] of edits) {
    if (value === null) headers.delete(name)
    else headers.set(name, value)
  }
}

/** @returns the name in lower case */
export const checkedName = (name: string): string => {
  if (!/^[\w!#$%&'*+.^`|~-]+$/.test(name)) throw invalidHeaderOverride(`${name} is no header name`)
  return name.toLowerCase()
}

/** Line ends and NUL would let a value break out of its header. */
export const checkedValue = (value: string, name: string): string => {
  if (/[\r\n\0]/.test(value)) throw invalidHeaderOverride(`the value of ${name} has a line end`)
  return trimField(value)
}

const patternOf = (key: string): RegExp | undefined => {
  if (key === '*') return /^/
  const source = /^re(?:gex)?:(.+)$/is.exec(key)?.[1]
  if (source === undefined) return undefined
  try {
    return new RegExp(source, 'i')
  } catch (cause) {
    throw invalidHeaderOverride(`${key} is no regular expression`, cause)
  }
}
