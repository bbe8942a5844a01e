/** Reads how an upstream failed: its own words, the status that the operator gives them, and whether another channel may help. */
import { type Channel, mappedStatus } from '../domain/channels/index.ts'
import { GatewayError, type UpstreamError } from '../errors.ts'
import type { HttpAnswer } from '../lib/http/client.ts'
import { readUpstreamError } from '../protocol/index.ts'
import { asSendError, type Exchange } from './upstream.ts'

/** Error bodies past this say nothing more. */
const MAX_ERROR_BYTES = 1024 * 1024

/** @param secrets texts that must not appear in the message */
export async function readFailure(
  exchange: Exchange,
  channel: Channel,
  secrets: readonly string[],
): Promise<GatewayError> {
  const { answer } = exchange
  // A body that breaks off still comes with its status, which says enough.
  const text = await readText(answer).catch(() => '')
  const reason = exchange.abortedBy()
  if (reason !== undefined) return asSendError(reason, undefined)
  const waitSec = Number(answer.fields['retry-after'] ?? Number.NaN)
  return failureOf(readUpstreamError(answer.status, text, secrets), channel, waitSec > 0 ? waitSec : undefined)
}

/** @param retryAfterSec what the upstream asked for; the client gets it when no other channel helps */
export function failureOf(upstream: UpstreamError, channel: Channel, retryAfterSec?: number): GatewayError {
  const verdict = channel.provider.judge?.(upstream.status, upstream)
  const status = mappedStatus(channel, upstream.status)
  return new GatewayError('bad_response_status_code', {
    // A redirect that we do not follow is none for the client either.
    status: status >= 400 && status <= 599 ? status : 502,
    public: upstream.message,
    upstream,
    ...(retryAfterSec !== undefined && { retryAfterSec }),
    ...(verdict === 'stop' && { retry: false }),
    ...(verdict === 'next' && { retry: true }),
  })
}

/** Stays in the log row: what failed, and the system's own word for it. */
export function reasonOf(error: GatewayError): string {
  const detail = typeof error.detail === 'string' ? ` (${error.detail})` : ''
  return `${error.code}: ${error.upstream?.message ?? error.public}${detail}`
}

async function readText(answer: HttpAnswer): Promise<string> {
  const decoder = new TextDecoder()
  let text = ''
  let size = 0
  while (size <= MAX_ERROR_BYTES) {
    const { done, value } = await answer.read()
    if (done) break
    size += value.length
    text += decoder.decode(value, { stream: true })
  }
  return text
}
