/**
 * Reads a request's body once, within limits that hold after decompression, and finds in it what routing needs. The
 * bytes are kept as they were received; the parsed body stands beside them.
 */
import { GatewayError } from '../errors.ts'
import { concat } from '../lib/bytes.ts'
import { type LongStrings, readLongStrings } from '../lib/long-strings.ts'
import type { Turns } from '../lib/turns.ts'
import type { Readers } from './upload.ts'

export interface Body {
  /** As received, decompressed. */
  readonly bytes: Uint8Array<ArrayBuffer>
  /** Of a large body without its long strings: what needs them, too, takes `wholeJson`. */
  readonly json: Readonly<Record<string, unknown>>
  readonly long?: LongStrings
  /** Only a large body has them. */
  readonly readers?: Readers
  /** The body names its model more than once, or in a way that readers may understand differently. */
  readonly isModelAmbiguous: boolean
}

/** What `Content-Encoding` may say. */
export const CONTENT_CODINGS: Readonly<Record<string, Bun.CompressionFormat | undefined>> = {
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
export async function readBody(request: Request, limitBytes: number, turns: Turns): Promise<Body> {
  const bytes = await receive(request, limitBytes)
  if (bytes.length > LARGE_BYTES) return readLarge(bytes, turns)
  const text = decodeUtf8(bytes)
  return { bytes, json: parseObject(text), isModelAmbiguous: mayRepeatModel(text) }
}

/** @returns the body with its long strings */
export async function wholeJson(
  { bytes, json, long }: Pick<Body, 'bytes' | 'json' | 'long'>,
  turns: Turns,
): Promise<Body['json']> {
  return long ? parseWhole(bytes, turns) : json
}

/** Calls of some kilobytes are read in one go; beyond this they would make others wait, and leave much garbage. */
export const LARGE_BYTES = 256 * 1024

/**
 * Gives the memory of a large body back if nobody reads it. The collector would do so, too, but it sees a small object and
 * takes its time: with 8 bodies of 10 MB at once, 300 MB and more stood about.
 */
export function freeBody({ bytes, readers }: Pick<Body, 'bytes' | 'readers'>): void {
  if (readers?.count === 0) bytes.buffer.transfer(0)
}

async function readLarge(bytes: Uint8Array<ArrayBuffer>, turns: Turns): Promise<Body> {
  const readers = { count: 0 }
  try {
    const isModelAmbiguous = mayRepeatModel(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength))
    const long = await readLongStrings(bytes, turns)
    const json = long && asObject(long.json)
    // A model's name is read as it is, however long.
    const model = json?.['model']
    if (json && !(typeof model === 'string' && long.find(model)))
      return { bytes, json, long, isModelAmbiguous, readers }
    return { bytes, json: await parseWhole(bytes, turns), isModelAmbiguous, readers }
  } catch (error) {
    freeBody({ bytes, readers })
    throw error
  }
}

async function parseWhole(bytes: Uint8Array, turns: Turns): Promise<Body['json']> {
  await turns.next()
  const text = decodeUtf8(bytes)
  await turns.next()
  return parseObject(text)
}

/** @throws GatewayError `invalid_request` */
function parseObject(text: string): Body['json'] {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (cause) {
    throw invalid(text === '' ? 'The request body is empty' : 'The request body is not valid JSON', cause)
  }
  return asObject(json)
}

function asObject(json: unknown): Body['json'] {
  if (typeof json === 'object' && json !== null && !Array.isArray(json)) return json as Body['json']
  throw invalid('The request body must be a JSON object')
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
    const format = CONTENT_CODINGS[encoding]
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
  return concat(parts)
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
function mayRepeatModel(text: string | Buffer): boolean {
  const first = text.indexOf('"model"')
  return first !== text.lastIndexOf('"model"') || text.includes('\\u00')
}
