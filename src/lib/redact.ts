/**
 * Masks secrets in what is logged or shown: values of fields whose names say so, and credentials inside texts
 * (passwords of addresses, bearer tokens, API keys). A last line of defence; callers still do not log secrets.
 */

const MASK = '***'

const SECRET_NAME =
  /(^|[_.-])(password|passwd|secret|token|api[_-]?key|authorization|cookie|credential|dsn)s?$|(password|secret|apikey|accesstoken|refreshtoken|authorization)$/i

/** Field names as above that hold counts or ids, not secrets. */
const NOT_SECRET = /^(prompt|completion|input|output|max|total|cache\w*|reasoning)[_-]?tokens?$|tokens$/i

const patterns: readonly (readonly [RegExp, string])[] = [
  // scheme://user:password@host, also the Go form user:password@tcp(host)
  [/(\b[a-z][a-z0-9+.-]*:\/\/[^\s:/@]*:)[^\s@]+(@)/gi, `$1${MASK}$2`],
  [/([^\s:/@"']+:)[^\s]+(@(?:tcp|unix)\()/gi, `$1${MASK}$2`],
  [/\b(bearer|basic)\s+[\w.~+/=-]{8,}/gi, `$1 ${MASK}`],
  [/\b(sk|xai)-[\w-]{6,}/g, `$1-${MASK}`],
  [/\b(gsk|hf)_\w{6,}/g, `$1_${MASK}`],
  [/\bAIza[\w-]{20,}/g, MASK],
  [/([?&](?:key|api[_-]?key|token|access[_-]?token|secret|password|sig(?:nature)?)=)[^&\s"'#]+/gi, `$1${MASK}`],
]

/** Cheap test before the patterns: a text without any of these holds nothing they could find. */
const MAY_HOLD = /:\/\/|@|bearer|basic|sk-|xai-|gsk_|hf_|AIza|[?&]/i

/** Masks credentials inside a text. */
export function redactText(text: string): string {
  if (!MAY_HOLD.test(text)) return text
  let result = text
  for (const [pattern, replacement] of patterns) result = result.replace(pattern, replacement)
  return result
}

/**
 * An address or DSN without its password, in URL form or in the Go form `user:password@tcp(host)/name`: what stands
 * between the user and the last `@` is cut, whatever characters it has.
 */
export function redactAddress(address: string): string {
  const at = address.lastIndexOf('@')
  if (at < 0) return address
  const scheme = /^[a-z][a-z0-9+.-]*:\/\//i.exec(address)?.[0] ?? ''
  const colon = address.indexOf(':', scheme.length)
  return colon < 0 || colon > at ? address : `${address.slice(0, colon + 1)}${MASK}${address.slice(at)}`
}

/** How deep fields are followed; what lies deeper is shown as its kind. */
const MAX_DEPTH = 6

/**
 * A copy of a value fit for `JSON.stringify`: secrets masked, errors as name, message, code, stack and cause, bigints
 * as text, circles cut by depth.
 */
export function redactValue(value: unknown, name = '', depth = 0): unknown {
  if (isSecretName(name) && value !== undefined && value !== null && value !== '' && typeof value !== 'boolean')
    return MASK
  if (typeof value === 'string') return redactText(value)
  if (typeof value === 'bigint') return value.toString()
  if (typeof value === 'function' || typeof value === 'symbol') return undefined
  return typeof value === 'object' && value !== null ? redactObject(value, name, depth) : value
}

function redactObject(value: object, name: string, depth: number): unknown {
  if (depth >= MAX_DEPTH) return Array.isArray(value) ? '[array]' : '[object]'
  if (value instanceof Error) return redactError(value, depth)
  if (value instanceof Date) return value.toISOString()
  if (ArrayBuffer.isView(value)) return `[${value.byteLength} bytes]`
  if (value instanceof Set) return [...value].map((item) => redactValue(item, name, depth + 1))
  if (value instanceof Map) return redactEntries(value.entries(), depth)
  if (Array.isArray(value)) return value.map((item) => redactValue(item, name, depth + 1))
  return redactEntries(Object.entries(value), depth)
}

/** Names of log fields are few and come again with every line. */
const known = new Map<string, boolean>()
const MAX_KNOWN = 1_000

/** Does a field or variable of this name hold a secret? */
function isSecretName(name: string): boolean {
  let isSecret = known.get(name)
  if (isSecret === undefined) {
    isSecret = name !== '' && SECRET_NAME.test(name) && !NOT_SECRET.test(name)
    if (known.size < MAX_KNOWN) known.set(name, isSecret)
  }
  return isSecret
}

function redactEntries(entries: Iterable<readonly [unknown, unknown]>, depth: number): Record<string, unknown> {
  const result: Record<string, unknown> = {}
  for (const [key, item] of entries) result[String(key)] = redactValue(item, String(key), depth + 1)
  return result
}

function redactError(error: Error, depth: number): Record<string, unknown> {
  const { code, detail } = error as { code?: unknown; detail?: unknown }
  return {
    name: error.name,
    message: redactText(error.message),
    ...(code === undefined ? {} : { code: redactValue(code, '', depth + 1) }),
    ...(detail === undefined ? {} : { detail: redactValue(detail, '', depth + 1) }),
    ...(error.stack ? { stack: redactText(error.stack) } : {}),
    ...(error.cause === undefined ? {} : { cause: redactValue(error.cause, '', depth + 1) }),
  }
}
