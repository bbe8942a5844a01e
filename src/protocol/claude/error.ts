/**
 * Errors in Claude's shape.
 * @source https://docs.anthropic.com/en/api/errors, read 2026-11
 */
import type { GatewayError } from '../../errors.ts'
import { sseFrame } from '../../lib/sse.ts'
import type { EncodedError } from '../codec.ts'
import type { JsonObject } from '../shape.ts'

const TYPE_OF_STATUS: ReadonlyMap<number, string> = new Map([
  [401, 'authentication_error'],
  [402, 'billing_error'],
  [403, 'permission_error'],
  [404, 'not_found_error'],
  [413, 'request_too_large'],
  [429, 'rate_limit_error'],
  [503, 'overloaded_error'],
  [504, 'timeout_error'],
  [529, 'overloaded_error'],
])

const TYPES: ReadonlySet<string> = new Set([...TYPE_OF_STATUS.values(), 'invalid_request_error', 'api_error'])

/** The upstream's own type if it is one of this dialect, else what the status stands for. */
export function typeOf(type: string | undefined, status: number): string {
  if (type !== undefined && TYPES.has(type)) return type
  const known = TYPE_OF_STATUS.get(status)
  if (known !== undefined) return known
  return status >= 400 && status < 499 ? 'invalid_request_error' : 'api_error'
}

function bodyOf(error: GatewayError, requestId: string): JsonObject {
  const message = `${error.upstream?.message ?? error.public} (request id: ${requestId})`
  return { type: 'error', error: { type: typeOf(error.upstream?.type, error.status), message }, request_id: requestId }
}

export const encodeError = (error: GatewayError, requestId: string): EncodedError => ({
  status: error.status,
  headers: error.retryAfterSec === undefined ? {} : { 'retry-after': String(Math.ceil(error.retryAfterSec)) },
  json: bodyOf(error, requestId),
})

export const encodeStreamError = (error: GatewayError, requestId: string): string =>
  sseFrame(JSON.stringify(bodyOf(error, requestId)), 'error')
