/** Answers to the client: fresh responses with filtered headers, and errors in the client's dialect. */
import type { GatewayError } from '../errors.ts'
import { codecs, type Protocol } from '../protocol/index.ts'

/** What every answer of this node carries. */
export interface Stamp {
  readonly version: string
  readonly nodeName: string
}

/** Of one connection, of the bytes as the upstream sent them, or the upstream's own business. */
const NOT_FORWARDED = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'content-length',
  'content-encoding',
  'set-cookie',
  'alt-svc',
  'server',
  'date',
  'via',
  'strict-transport-security',
  // They name the operator's account.
  'openai-organization',
  'openai-project',
  'anthropic-organization-id',
  // The client's number of this call is ours; the upstream's own is in the log.
  'x-request-id',
  'request-id',
  'access-control-allow-origin',
  'access-control-allow-headers',
  'access-control-allow-methods',
  'access-control-allow-credentials',
  'access-control-expose-headers',
  'x-oneapi-request-id',
  'x-new-api-version',
])

/** Lower-case name → value. A plain object: each call into a `Headers` costs more than all of this. */
type Fields = Record<string, string>

const stamped = (fields: Fields, requestId: string, stamp: Stamp): Fields => {
  fields['x-oneapi-request-id'] = requestId
  // Where the SDKs of OpenAI and Anthropic look for it.
  fields['x-request-id'] = requestId
  fields['request-id'] = requestId
  fields['x-new-api-version'] = stamp.version
  fields['x-headgate-node'] = stamp.nodeName
  fields['access-control-allow-origin'] = '*'
  return fields
}

/** @param upstream headers to hand on; absent when the body is our own */
export function wholeResponse(
  body: Uint8Array<ArrayBuffer> | string,
  upstream: Readonly<Fields> | undefined,
  requestId: string,
  stamp: Stamp,
): Response {
  const fields: Fields = { 'content-type': 'application/json' }
  for (const name in upstream) if (!NOT_FORWARDED.has(name)) fields[name] = upstream[name]!
  return new Response(body, { headers: stamped(fields, requestId, stamp) })
}

export function streamResponse(body: ReadableStream<Uint8Array>, requestId: string, stamp: Stamp): Response {
  const fields = {
    'content-type': 'text/event-stream',
    'cache-control': 'no-cache',
    // Without it a plain nginx holds the stream back to its end.
    'x-accel-buffering': 'no',
  }
  return new Response(body, { headers: stamped(fields, requestId, stamp) })
}

export function errorResponse(error: GatewayError, protocol: Protocol, requestId: string, stamp: Stamp): Response {
  const encoded = codecs[protocol].encodeError(error, requestId)
  const fields = { ...encoded.headers, 'content-type': 'application/json' }
  return new Response(JSON.stringify(encoded.json), {
    status: encoded.status,
    headers: stamped(fields, requestId, stamp),
  })
}

export const jsonResponse = (json: unknown, requestId: string, stamp: Stamp): Response =>
  wholeResponse(JSON.stringify(json), undefined, requestId, stamp)
