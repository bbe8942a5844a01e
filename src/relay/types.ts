/** What the parts of the relay hand to each other. */
import type { Caller } from '../domain/accounts/index.ts'
import type { Hold, Price } from '../domain/billing/index.ts'
import type { Channel } from '../domain/channels/index.ts'
import type { ChatResponse, Countable, Peek, Protocol, StreamDecoder, Usage } from '../protocol/index.ts'
import type { Operation } from '../provider/provider.ts'
import type { Body } from './read.ts'

/** How an operation's bodies are read, in the client's dialect or the upstream's. */
export interface Reading {
  peek(json: unknown): Peek
  countable(json: unknown): Countable
  /** Text and usage of a complete answer. */
  decodeResponse(json: unknown): ChatResponse
  /** The usage by itself: all that is asked of an answer that is forwarded. */
  usageOf(json: unknown): Usage | undefined
  streamDecoder(): StreamDecoder
}

/** A route of the relay. */
export interface Endpoint {
  readonly operation: Operation
  /** The client's dialect, also that of its errors. */
  readonly protocol: Protocol
  readonly path: string
  readonly reading: Reading
}

/** One authenticated call, read and understood; never changed. */
export interface Call extends Peek, Body {
  readonly id: string
  readonly endpoint: Endpoint
  readonly caller: Caller
  readonly clientHeaders: Headers
  readonly query: URLSearchParams
  readonly startedAtMs: number
  /** Counted from the body: for the hold, and for the bill when the upstream reports nothing. */
  readonly inputTokens: number
  /** A test of a channel: patterns pass no client headers, nobody pays. */
  readonly isTest: boolean
}

/** What happened to one try on one channel; goes to the log. */
export interface Attempt {
  readonly channel: Channel
  keyIndex: number
  readonly group: string
  upstreamModel: string
  way: 'forward' | 'patch' | 'convert'
  readonly startedAtMs: number
  endedAtMs: number
  /** The upstream's status; 0 when none was received. */
  status: number
  /** Why it failed; empty when it served the call. */
  reason: string
}

/** How the money of a call stands while it runs. */
export interface Purse {
  price: Price
  hold: Hold
  group: string
}

/** Why a call ended. Only `complete` is a whole answer. */
export type Ending =
  | 'complete'
  | 'client-gone'
  | 'upstream-cut'
  | 'upstream-error'
  | 'timeout'
  | 'out-of-quota'
  | 'shutting-down'

/** What became of a call, for those who count. */
export interface CallReport {
  readonly protocol: Protocol
  readonly operation: Operation
  readonly isStream: boolean
  readonly ending: Ending | 'refused'
  /** Of the error that ended it; empty without one. */
  readonly code: string
  readonly durationMs: number
  /** Until the first byte went to the client; absent when none did. */
  readonly firstByteMs: number | undefined
  readonly attempts: readonly Attempt[]
  readonly inputTokens: number
  readonly outputTokens: number
  /** quota units charged */
  readonly quota: number
}
