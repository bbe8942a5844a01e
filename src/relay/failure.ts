/** Reads how an upstream failed: its own words, the status that the operator gives them, and whether another channel may help. */
import { type Channel, mappedStatus } from '../domain/channels/index.ts'
import { GatewayError, type UpstreamError } from '../errors.ts'
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
  const { response } = exchange
  // A body that breaks off still comes with its status, which says enough.
  const text = await readText(response).catch(() => '')
  const reason = exchange.abortedBy()
  if (reason !== undefined) return asSendError(reason, undefined)
  return failureOf(readUpstreamError(response.status, text, secrets), channel)
}

export function failureOf(upstream: UpstreamError, channel: Channel): GatewayError {
  const verdict = channel.provider.judge?.(upstream.status, upstream)
  return new GatewayError('bad_response_status_code', {
    status: mappedStatus(channel, upstream.status),
    public: upstream.message,
    upstream,
    ...(verdict === 'stop' && { retry: false }),
    ...(verdict === 'next' && { retry: true }),
  })
}

/** Stays in the log row: what failed, and the system's own word for it. */
export function reasonOf(error: GatewayError): string {
  const detail = typeof error.detail === 'string' ? ` (${error.detail})` : ''
  return `${error.code}: ${error.upstream?.message ?? error.public}${detail}`
}

async function readText(response: Response): Promise<string> {
  const decoder = new TextDecoder()
  let text = ''
  let size = 0
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength
    text += decoder.decode(chunk, { stream: true })
    if (size > MAX_ERROR_BYTES) break
  }
  return text
}
