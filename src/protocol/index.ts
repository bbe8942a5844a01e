/** What is on the wire: a codec for each dialect, and the reading of upstream errors. */
import { claude } from './claude/index.ts'
import type { ChatCodec } from './codec.ts'
import type { Protocol } from './ir.ts'
import { openaiChat } from './openai-chat/index.ts'

export type {
  ChatCodec,
  Countable,
  Decoded,
  Encoded,
  EncodedError,
  EncodeRequestOptions,
  Loss,
  Peek,
  ResponseDefaults,
  StreamDecoder,
  StreamEncoder,
  StreamEncoderOptions,
} from './codec.ts'
export type * from './ir.ts'
export { PROTOCOLS } from './ir.ts'
export { type ProducedText, producedBy, producedIn } from './produced.ts'
export { errorInBody, maskText, readUpstreamError } from './upstream-error.ts'

export const codecs: Readonly<Record<Protocol, ChatCodec>> = { 'openai-chat': openaiChat, claude }
