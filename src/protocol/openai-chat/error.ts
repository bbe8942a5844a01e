/**
 * Errors in OpenAI's shape.
 * @source https://platform.openai.com/docs/guides/error-codes/api-errors, read 2026-11
 */
import type { ErrorCode, GatewayError } from '../../errors.ts'
import { sseFrame } from '../../lib/sse.ts'
import type { EncodedError } from '../codec.ts'
import type { JsonObject } from '../shape.ts'

/** What OpenAI itself answers to a path or a model that does not exist. */
const AS_OPENAI_SAYS: Partial<Record<ErrorCode, JsonObject>> = {
  not_found: { type: 'invalid_request_error', param: null, code: null },
  unknown_model: { type: 'invalid_request_error', param: 'model', code: 'model_not_found' },
}

/** An upstream's own error keeps its type, code and parameter; ours say `new_api_error`, as clients of the API know. */
function bodyOf(error: GatewayError, requestId: string): JsonObject {
  const { upstream } = error
  const message = `${upstream?.message ?? error.public} (request id: ${requestId})`
  const known = AS_OPENAI_SAYS[error.code]
  if (known) return { error: { message, ...known } }
  if (!upstream) return { error: { message, type: 'new_api_error', param: null, code: error.code } }
  const type = upstream.type ?? 'upstream_error'
  return { error: { message, type, param: upstream.param ?? null, code: upstream.code ?? null } }
}

export const encodeError = (error: GatewayError, requestId: string): EncodedError => ({
  status: error.status,
  headers: error.retryAfterSec === undefined ? {} : { 'retry-after': String(Math.ceil(error.retryAfterSec)) },
  json: bodyOf(error, requestId),
})

export const encodeStreamError = (error: GatewayError, requestId: string): string =>
  sseFrame(JSON.stringify(bodyOf(error, requestId)))
