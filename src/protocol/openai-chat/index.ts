/** OpenAI's chat completions dialect, spoken by most upstreams. */
import type { ChatCodec } from '../codec.ts'
import { encodeRequest } from './encode-request.ts'
import { streamEncoder } from './encode-stream.ts'
import { encodeError, encodeStreamError } from './error.ts'
import { countable, peek } from './peek.ts'
import { decodeRequest } from './request.ts'
import { decodeResponse, encodeResponse, usageOf } from './response.ts'
import { streamDecoder } from './stream.ts'

export const openaiChat: ChatCodec = {
  peek,
  countable,
  decodeRequest,
  encodeRequest,
  decodeResponse,
  usageOf,
  encodeResponse,
  streamDecoder,
  streamEncoder,
  encodeError,
  encodeStreamError,
}
