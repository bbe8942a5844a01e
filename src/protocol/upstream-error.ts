/**
 * What an upstream said of its own error, in whatever shape it said it, and the masking of its addresses and keys: the
 * text goes to clients and into logs.
 */
import type { UpstreamError } from '../errors.ts'
import { redactText } from '../lib/redact.ts'
import { isObject, type JsonObject, listOf, parseJson, textOf } from './shape.ts'

/** Longer texts are pages, not messages. */
const MAX_MESSAGE_CHARS = 4096

/**
 * @param status the upstream's HTTP status, before any mapping
 * @param body the body as text, JSON or not
 * @param secrets texts that must never appear, such as the channel's key and host
 * @returns `message`, `type`, `code` and `param` of a JSON error object; else the first text found under the names that
 * upstreams use; else `bad response status code N`
 */
export function readUpstreamError(status: number, body: string, secrets: readonly string[] = []): UpstreamError {
  const json = parseJson(body)
  // Google's compatible endpoint wraps its error object in an array.
  const root = Array.isArray(json) ? json[0] : json
  return mask(errorOf(status, isObject(root) ? root : undefined), secrets)
}

const STATUS_OF_TYPE: ReadonlyMap<string, number> = new Map([
  ['invalid_request_error', 400],
  ['authentication_error', 401],
  ['billing_error', 402],
  ['insufficient_quota', 429],
  ['permission_error', 403],
  ['not_found_error', 404],
  ['request_too_large', 413],
  ['rate_limit_error', 429],
  ['timeout_error', 504],
  ['overloaded_error', 529],
])

/**
 * Some upstreams answer 200 with an error object in place of an answer.
 * @returns the error with the status it names itself, or the one that its type stands for, or 502; undefined for an answer
 */
export function errorInBody(json: unknown, secrets: readonly string[] = []): UpstreamError | undefined {
  if (!isObject(json) || !isObject(json['error']) || listOf(json['choices']).length > 0) return undefined
  const { error } = json
  if (!error['type'] && !error['message'] && !error['code']) return undefined
  const named = Number(error['code'] ?? error['status'])
  const type = textOf(error['type']) || textOf(error['code'])
  const status = named >= 400 && named <= 599 ? named : (STATUS_OF_TYPE.get(type) ?? 502)
  return mask(errorOf(status, json), secrets)
}

function errorOf(status: number, root: JsonObject | undefined): UpstreamError {
  const error = root?.['error']
  if (isObject(error) && textOf(error['message']) !== '') {
    const type = textOf(error['type']) || textOf(error['status'])
    const { code } = error
    const param = textOf(error['param'])
    return {
      status,
      message: textOf(error['message']),
      ...(type === '' ? {} : { type }),
      ...((typeof code === 'string' && code !== '') || typeof code === 'number' ? { code: String(code) } : {}),
      ...(param === '' ? {} : { param }),
    }
  }
  const message = root && firstText(root)
  return {
    status,
    message: message || `bad response status code ${status}`,
    type: 'bad_response_status_code',
    code: 'bad_response_status_code',
  }
}

function firstText(root: JsonObject): string | undefined {
  const inHeader = isObject(root['header']) ? root['header']['message'] : undefined
  const response = isObject(root['response']) ? root['response']['error'] : undefined
  const candidates = [
    root['error'],
    root['message'],
    root['msg'],
    root['err'],
    root['error_msg'],
    root['detail'],
    inHeader,
    isObject(response) ? response['message'] : undefined,
  ]
  for (const candidate of candidates) {
    const text = typeof candidate === 'string' ? candidate : isFilled(candidate) ? JSON.stringify(candidate) : ''
    if (text.trim() !== '') return text
  }
  return undefined
}

const isFilled = (value: unknown): boolean =>
  typeof value === 'object' && value !== null && Object.keys(value).length > 0

function mask(error: UpstreamError, secrets: readonly string[]): UpstreamError {
  const cut = error.message.length > MAX_MESSAGE_CHARS ? `${error.message.slice(0, MAX_MESSAGE_CHARS)}…` : error.message
  return {
    ...error,
    message: maskText(cut, secrets),
    ...(error.type === undefined ? {} : { type: hide(error.type, secrets) }),
    ...(error.code === undefined ? {} : { code: hide(error.code, secrets) }),
    ...(error.param === undefined ? {} : { param: maskText(error.param, secrets) }),
  }
}

const hide = (text: string, secrets: readonly string[]): string => {
  let result = text
  for (const secret of secrets) if (secret.length >= 4) result = result.replaceAll(secret, '***')
  return result
}

const URL_PATTERN = /\b([a-z][a-z0-9+.-]*):\/\/([^\s"'<>()[\]{}|\\^`,;]+)/gi
const IPV4 = /(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?::\d{1,5})?(?![\d.]*\d)/g
const IPV6 =
  /(?<![\w:.])(?:(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|(?:[0-9a-f]{1,4}:){1,6}(?::[0-9a-f]{1,4}){1,6}|::[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,6})(?![\w:])/gi
/** Only well-known endings: `messages.0.content` and `input_schema.type` are paths of a request and must stay readable. */
const DOMAIN =
  /(?<![\w.@*-])(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+(com|net|org|io|ai|cn|dev|app|co|cloud|info|xyz|top|tech|site|online|me|us|uk|de|fr|jp|ru|in|eu|hk|tw|sg|local|internal|lan|localdomain)(?::\d{1,5})?(?![\w.-]*\w)/gi
const LOCALHOST = /(?<![\w.-])localhost:\d{1,5}\b/gi
/** Also keys that the upstream has starred already: what is left of them still tells one key from another. */
const STARRED_KEY = /\b(sk|xai|gsk|pplx|hf)([-_])[\w*-]*\*[\w*-]*/g
const NAMED_KEY =
  /\b(api[_ -]?key|access[_ -]?token|secret|password|authorization)(["']?\s*[:=]\s*["']?)(?!\s)[^\s"',;}&]+/gi

/**
 * Hides addresses and credentials: URLs keep their scheme and the end of their host (`https://***.com/***`), query values,
 * plain domains and IP addresses become stars, and so do keys.
 */
export function maskText(text: string, secrets: readonly string[] = []): string {
  return redactText(hide(text, secrets))
    .replace(URL_PATTERN, (_, scheme: string, tail: string) => `${scheme}://${maskTail(tail)}`)
    .replace(STARRED_KEY, '$1$2***')
    .replace(NAMED_KEY, '$1$2***')
    .replace(IPV4, '***.***.***.***')
    .replace(IPV6, '***')
    .replace(LOCALHOST, '***')
    .replace(DOMAIN, '***.$1')
}

/** @param tail of a URL, after its scheme */
function maskTail(tail: string): string {
  const [, authority = '', path = '', query = '', end = ''] =
    /^([^/?#]*)([^?#]*)(\?[^#]*)?.*?([.!:]*)$/.exec(tail) ?? []
  const host = authority
    .replace(/^.*@/, '')
    .replace(/:\d*$/, '')
    .replace(/[.:]+$/, '')
  const hidden = /^[\d.]+$/.test(host) || !host.includes('.') ? '***' : `***.${endOfHost(host)}`
  const values = query.replace(/=[^&]*/g, '=***')
  return hidden + (path.length > 1 ? '/***' : path) + values + (path === '' && query === '' ? '' : end)
}

/** `api.example.com` → `com`, `api.example.co.uk` → `co.uk` */
function endOfHost(host: string): string {
  const labels = host.split('.')
  const isShort = (labels.at(-1) ?? '').length === 2 && (labels.at(-2) ?? '').length <= 3 && labels.length > 2
  return labels.slice(isShort ? -2 : -1).join('.')
}
