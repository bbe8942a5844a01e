/** What every dialect implements. Stream halves hold the state of one stream and are created for each call. */
import type { GatewayError } from '../errors.ts'
import type { SseFrame } from '../lib/sse.ts'
import type { ChatRequest, ChatResponse, StreamEvent, Usage } from './ir.ts'

/** A field or block that did not survive a conversion: `path` in the source's words, `reason` for people. */
export interface Loss {
  readonly path: string
  readonly reason: string
}
export interface Decoded<T> {
  readonly value: T
  readonly losses: readonly Loss[]
}
export interface Encoded {
  readonly json: unknown
  readonly losses: readonly Loss[]
}

/** What routing and the estimate need, read from the parsed body without building the IR. */
export interface Peek {
  readonly model: string
  readonly isStream: boolean
  readonly maxOutputTokens?: number | undefined
  /** OpenAI's `n`, when it is more than one. */
  readonly choices?: number | undefined
  /** OpenAI: what the client said of `stream_options.include_usage`. */
  readonly includeUsage?: boolean | undefined
}

export interface StreamDecoder {
  /** @throws never: what cannot be read becomes an `error` event or is skipped and counted */
  feed(frame: SseFrame): readonly StreamEvent[]
  /** Closes what the upstream left open. */
  end(): readonly StreamEvent[]
  /**
   * `open`: more must come, an end here is a cut stream. `finished`: the finish reason was seen, so the answer is whole even
   * if the terminator is missing. `done`: the terminator or an error was seen, nothing more will come.
   */
  progress(): 'open' | 'finished' | 'done'
  /** How many frames could not be read. */
  skipped(): number
}
export interface StreamEncoder {
  /** @returns complete SSE frames as text, or the empty string */
  event(event: StreamEvent): string
  /** For a stream that ended well; one that was cut gets `encodeStreamError` instead. */
  end(): string
  losses(): readonly Loss[]
}

export interface StreamEncoderOptions {
  /** The model name to show, the client's request id and time where the source dialect has none. */
  readonly model: string
  readonly id: string
  readonly createdAtSec: number
  /** OpenAI: send the usage chunk. */
  readonly includeUsage: boolean
  /** Tokens that Claude's `message_start` shows before the upstream reported any. */
  readonly inputTokensEstimate: number
}

export interface EncodeRequestOptions {
  /** For dialects that demand a limit when the client gave none. */
  readonly defaultMaxOutputTokens?: number
  /**
   * Does the upstream accept what a chat dialect carries for Claude models: `cache_control`, `thinking`, `reasoning_details`?
   * Default: when the model's name says Claude.
   */
  readonly carriesClaudeFields?: boolean
}

/** What an answer shows where its source has nothing. */
export interface ResponseDefaults {
  readonly id?: string
  readonly model?: string
  readonly createdAtSec?: number
}

export interface EncodedError {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly json: unknown
}

export interface ChatCodec {
  /** @throws GatewayError `invalid_request` when the body is not of this dialect (wrong types, missing model or messages) */
  peek(json: unknown): Peek
  /** @throws GatewayError `invalid_request` when the body cannot be understood */
  decodeRequest(json: unknown): Decoded<ChatRequest>
  encodeRequest(request: ChatRequest, options?: EncodeRequestOptions): Encoded
  /** @throws GatewayError `bad_response_body` when it is not an answer of this dialect */
  decodeResponse(json: unknown): ChatResponse
  /** The `usage` of what `decodeResponse` makes of the same answer, by itself: all that is asked of one that is forwarded. */
  usageOf(json: unknown): Usage | undefined
  encodeResponse(response: ChatResponse, defaults?: ResponseDefaults): Encoded
  streamDecoder(): StreamDecoder
  streamEncoder(options: StreamEncoderOptions): StreamEncoder
  /** For an answer before the first byte. @param requestId is shown in the message */
  encodeError(error: GatewayError, requestId: string): EncodedError
  /** For an error after the first byte: one complete SSE frame. */
  encodeStreamError(error: GatewayError, requestId: string): string
  /** All text of a request that counts for the input estimate, with counts of media by kind. */
  countable(json: unknown): Countable
}

/** What the input estimate adds up: text by piece, and how many media items. */
export interface Countable {
  readonly texts: readonly string[]
  readonly messages: number
  readonly names: number
  readonly tools: number
  readonly images: number
  readonly audios: number
  readonly videos: number
  readonly files: number
}
