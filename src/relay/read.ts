/**
 * Reads a request's body once, within limits that hold after decompression, and finds in it what routing needs. The
 * bytes are kept as they were received; the parsed body stands beside them.
 */
import { GatewayError } from '../errors.ts'
import type { Peek } from '../protocol/codec.ts'

export interface Body {
  /** As received, decompressed. */
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly json: Readonly<Record<string, unknown>>
  /** The body names its model more than once, or in a way that readers may understand differently. */
  readonly isModelAmbiguous: boolean
}

/** What every call is, whatever its operation. */
export interface Call extends Body, Peek {
  readonly id: string
  readonly clientHeaders: Headers
  readonly query: URLSearchParams
}

const ENCODINGS: Readonly<Record<string, Bun.CompressionFormat>> = {
  gzip: 'gzip',
  'x-gzip': 'gzip',
  deflate: 'deflate',
  br: 'brotli',
  zstd: 'zstd',
}

const invalid = (reason: string, cause?: unknown) =>
  new GatewayError('invalid_request', { params: { reason }, ...(cause !== undefined && { cause }) })
const tooLarge = (limitBytes: number) =>
  new GatewayError('read_request_body_failed', {
    params: { reason: `The request body is larger than ${limitBytes} bytes` },
  })

/**
 * @param limitBytes after decompression
 * @throws GatewayError `read_request_body_failed` (413) past the limit; `invalid_request` (400) for a body that is no
 * UTF-8, no JSON object, or wrongly compressed; `client_closed_request` (499) when the upload was cut
 */
export async function readBody(request: Request, limitBytes: number): Promise<Body> {
  const bytes = await receive(request, limitBytes)
  const text = decodeUtf8(bytes)
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (cause) {
    throw invalid(bytes.length === 0 ? 'The request body is empty' : 'The request body is not valid JSON', cause)
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw invalid('The request body must be a JSON object')
  }
  return { bytes, json: json as Record<string, unknown>, isModelAmbiguous: mayRepeatModel(text) }
}

async function receive(request: Request, limitBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const encoding = request.headers.get('content-encoding')?.trim().toLowerCase() || 'identity'
  const declared = request.headers.get('content-length')
  const isPlain = encoding === 'identity'
  if (declared !== null && Number(declared) > limitBytes) throw tooLarge(limitBytes)
  try {
    // The server enforces a declared length, so that this cannot outgrow the limit.
    if (isPlain && declared !== null) return await request.bytes()
    if (!request.body) return new Uint8Array()
    if (isPlain) return await collect(request.body, limitBytes)
    const format = ENCODINGS[encoding]
    if (!format) throw invalid(`The content encoding ${encoding} is not supported`)
    return await collect(request.body.pipeThrough(new DecompressionStream(format as CompressionFormat)), limitBytes)
  } catch (error) {
    if (error instanceof GatewayError) throw error
    if (request.signal.aborted) throw new GatewayError('client_closed_request', { cause: error })
    throw invalid('The request body cannot be read', error)
  }
}

/** Stops reading at the limit, so that a small body that unpacks to a huge one costs no more than the limit. */
async function collect(stream: ReadableStream<Uint8Array>, limitBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array[] = []
  let total = 0
  const reader = stream.getReader()
  for (;;) {
    const { done, value } = await reader.read()
    if (done) break
    total += value.length
    if (total > limitBytes) {
      // The rest is of no interest, and neither is how its source ends.
      reader.cancel().catch(() => {})
      throw tooLarge(limitBytes)
    }
    parts.push(value)
  }
  const bytes = new Uint8Array(total)
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

function decodeUtf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw invalid('The request body is not valid UTF-8', cause)
  }
}

/**
 * Readers of JSON differ in which of two equal keys they take, so a body could be priced by one model and served by
 * another. One plain `"model"` and no escaped letter anywhere rule that out; anything else is looked at closely later.
 */
function mayRepeatModel(text: string): boolean {
  const first = text.indexOf('"model"')
  return first !== text.lastIndexOf('"model"') || text.includes('\\u00')
}
