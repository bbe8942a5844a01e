/** Claude's Messages dialect, spoken by Anthropic and by the compatible endpoints of others. */
import type { ChatCodec } from '../codec.ts'
import { encodeRequest } from './encode-request.ts'
import { streamEncoder } from './encode-stream.ts'
import { encodeError, encodeStreamError } from './error.ts'
import { countable, peek } from './peek.ts'
import { decodeRequest } from './request.ts'
import { decodeResponse, encodeResponse, usageOf } from './response.ts'
import { streamDecoder } from './stream.ts'

export const claude: ChatCodec = {
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
