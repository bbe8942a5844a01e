/**
 * The intermediate representation of chat: ordered blocks, nothing flattened. It is a superset of the dialects, so that a
 * codec per dialect suffices. What a dialect cannot express is reported as a loss, never dropped silently.
 */

/** Vendor fields that have no place in the IR, by protocol; re-emitted when the target speaks that protocol. */
export type Extras = Partial<Record<Protocol, Record<string, unknown>>>

export const PROTOCOLS = ['openai-chat', 'claude'] as const
export type Protocol = (typeof PROTOCOLS)[number]

/** Claude's cache breakpoint: everything up to and including this block may be cached. */
export interface CacheBreakpoint {
  readonly ttl: '5m' | '1h'
}

interface BlockBase {
  readonly cache?: CacheBreakpoint
  readonly extras?: Extras
}

export type MediaSource =
  | { readonly kind: 'base64'; readonly mediaType: string; readonly data: string }
  /** `mediaType` is what the dialect says of the kind, possibly a wildcard (`video/*`). */
  | { readonly kind: 'url'; readonly url: string; readonly mediaType?: string }
  | { readonly kind: 'text'; readonly mediaType: string; readonly text: string }
  | { readonly kind: 'file'; readonly fileId: string }

export interface TextBlock extends BlockBase {
  readonly type: 'text'
  readonly text: string
}
export interface ImageBlock extends BlockBase {
  readonly type: 'image'
  readonly source: MediaSource
  readonly detail?: string
}
/** Documents, audio and video. */
export interface FileBlock extends BlockBase {
  readonly type: 'file'
  readonly source: MediaSource
  readonly name?: string
}
export interface ThinkingBlock extends BlockBase {
  readonly type: 'thinking'
  readonly text: string
  readonly signature?: string
  /** Encrypted thinking that only its maker can read; `text` is then empty. */
  readonly redacted?: string
}
export interface ToolCallBlock extends BlockBase {
  readonly type: 'tool-call'
  readonly id: string
  readonly name: string
  /** JSON text as the model wrote it; may be invalid or empty. */
  readonly arguments: string
}
export interface ToolResultBlock extends BlockBase {
  readonly type: 'tool-result'
  readonly callId: string
  readonly content: readonly (TextBlock | ImageBlock | FileBlock | UnknownBlock)[]
  readonly isError?: boolean
}
/** A refusal text of OpenAI's dialect. */
export interface RefusalBlock extends BlockBase {
  readonly type: 'refusal'
  readonly text: string
}
/** A block that one dialect has and the IR has no word for, kept whole for a target of the same dialect. */
export interface UnknownBlock extends BlockBase {
  readonly type: 'unknown'
  readonly protocol: Protocol
  readonly value: unknown
}

export type Block =
  | TextBlock
  | ImageBlock
  | FileBlock
  | ThinkingBlock
  | ToolCallBlock
  | ToolResultBlock
  | RefusalBlock
  | UnknownBlock

export interface Message {
  /** `system` also stands inside a conversation (OpenAI); `developer` differs only in name. */
  readonly role: 'system' | 'developer' | 'user' | 'assistant'
  readonly name?: string
  readonly blocks: readonly Block[]
  readonly extras?: Extras
}

export interface FunctionTool {
  readonly type: 'function'
  readonly name: string
  readonly description?: string
  /** JSON Schema of the arguments. */
  readonly parameters?: unknown
  readonly strict?: boolean
  readonly cache?: CacheBreakpoint
  readonly extras?: Extras
}
/** A tool that the provider runs itself, such as web search: kept whole, for a target of the same dialect. */
export interface ProviderTool {
  readonly type: 'provider'
  readonly protocol: Protocol
  readonly value: unknown
}
export type Tool = FunctionTool | ProviderTool

export type ToolChoice =
  | { readonly type: 'auto' }
  | { readonly type: 'none' }
  | { readonly type: 'required' }
  | { readonly type: 'tool'; readonly name: string }

export interface Reasoning {
  /** `none` switches thinking off. */
  readonly effort?: 'none' | 'minimal' | 'low' | 'medium' | 'high' | 'xhigh' | 'max'
  readonly budgetTokens?: number
  /** Claude: the model decides itself how long it thinks. */
  readonly adaptive?: boolean
}

export type ResponseFormat =
  | { readonly type: 'text' }
  | { readonly type: 'json' }
  | {
      readonly type: 'json-schema'
      readonly name?: string
      readonly description?: string
      readonly schema: unknown
      readonly strict?: boolean
    }

export interface ChatRequest {
  readonly model: string
  readonly messages: readonly Message[]
  readonly tools?: readonly Tool[]
  readonly toolChoice?: ToolChoice
  readonly parallelToolCalls?: boolean
  readonly maxOutputTokens?: number
  readonly temperature?: number
  readonly topP?: number
  readonly topK?: number
  readonly stop?: readonly string[]
  readonly seed?: number
  readonly frequencyPenalty?: number
  readonly presencePenalty?: number
  readonly choices?: number
  readonly reasoning?: Reasoning
  readonly responseFormat?: ResponseFormat
  readonly userId?: string
  readonly isStream: boolean
  /** OpenAI's `stream_options.include_usage`; undefined when the client did not say. */
  readonly includeUsage?: boolean
  readonly extras?: Extras
}

export type FinishReason = 'stop' | 'length' | 'tool-calls' | 'content-filter' | 'stop-sequence' | 'pause' | 'unknown'

/**
 * Counts in tokens; an absent counter is 0.
 * `inputTokens` includes both cache counters whatever the dialect: Claude counts cached tokens beside `input_tokens`,
 * OpenAI inside `prompt_tokens`.
 */
export interface Usage {
  readonly inputTokens: number
  readonly outputTokens: number
  readonly cacheReadTokens: number
  /** All cache writes; the part that is neither 5 minutes nor 1 hour has no stated life. */
  readonly cacheWriteTokens: number
  readonly cacheWrite5mTokens: number
  readonly cacheWrite1hTokens: number
  /** Part of `outputTokens`. */
  readonly reasoningTokens: number
  /** Parts of `inputTokens`. */
  readonly imageInputTokens: number
  readonly audioInputTokens: number
  /** Part of `outputTokens`. */
  readonly audioOutputTokens: number
  /** Calls of tools that the provider ran itself, by name (`web_search`). */
  readonly serverToolCalls?: Readonly<Record<string, number>>
  /** Dialect that counted it: decides how the log shows the prompt. */
  readonly semantic: 'openai' | 'anthropic'
  /** The upstream's own object (for a stream: merged), or undefined when nothing was reported. */
  readonly raw?: unknown
}

export interface ChatResponse {
  readonly id: string
  readonly model: string
  /** Unix seconds; undefined when the dialect does not say. */
  readonly createdAtSec?: number
  readonly blocks: readonly Block[]
  readonly finish: FinishReason
  readonly rawFinish?: string
  readonly stopSequence?: string
  readonly usage?: Usage
  /** Choices after the first, for dialects that have them. */
  readonly otherChoices?: readonly { readonly blocks: readonly Block[]; readonly finish: FinishReason }[]
  readonly extras?: Extras
}

/**
 * `index` counts blocks from 0 in the order in which they start, for each choice. Several may be open at once: the deltas of
 * parallel tool calls may interleave. A `usage` event holds all counts known so far, so the last one counts.
 */
export type StreamEvent =
  | {
      readonly type: 'start'
      readonly id: string
      readonly model: string
      readonly createdAtSec?: number
      readonly usage?: Usage
    }
  | { readonly type: 'block-start'; readonly index: number; readonly block: BlockStart; readonly choice?: number }
  | { readonly type: 'block-delta'; readonly index: number; readonly delta: BlockDelta; readonly choice?: number }
  | { readonly type: 'block-end'; readonly index: number; readonly choice?: number }
  | { readonly type: 'usage'; readonly usage: Usage }
  | {
      readonly type: 'finish'
      readonly finish: FinishReason
      readonly rawFinish?: string
      readonly stopSequence?: string
      readonly choice?: number
    }
  | { readonly type: 'error'; readonly message: string; readonly errorType?: string; readonly code?: string }

export type BlockStart =
  | { readonly type: 'text' }
  | { readonly type: 'refusal' }
  | { readonly type: 'thinking' }
  | { readonly type: 'redacted-thinking'; readonly data: string }
  | { readonly type: 'tool-call'; readonly id: string; readonly name: string }
  | { readonly type: 'unknown'; readonly protocol: Protocol; readonly value: unknown }

export type BlockDelta =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'thinking'; readonly text: string }
  | { readonly type: 'signature'; readonly signature: string }
  | { readonly type: 'arguments'; readonly json: string }
  | { readonly type: 'unknown'; readonly protocol: Protocol; readonly value: unknown }
