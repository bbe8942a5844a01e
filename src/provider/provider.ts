/** What an upstream kind is: data, plus the few functions that differ. One file each; no provider name anywhere else. */
import type { UpstreamError } from '../errors.ts'
import type { Protocol, Usage } from '../protocol/ir.ts'

export type Operation = 'chat' | 'completions' | 'embeddings'

/** The view of a channel that a provider may see. */
export interface UpstreamChannel {
  readonly id: number
  /** No trailing slash; the provider's default when the operator gave none. */
  readonly baseUrl: string
  readonly key: string
  readonly other: string
  readonly organization: string
  readonly createdAtSec: number
  /** JSON column `settings`. */
  readonly settings: Readonly<Record<string, unknown>>
}

export interface UpstreamCall {
  readonly operation: Operation
  /** Dialect that is sent upstream. */
  readonly protocol: Protocol
  /** Name sent upstream, after mapping. */
  readonly model: string
  readonly isStream: boolean
  /** Query of the client's URL. */
  readonly query: URLSearchParams
  /** Headers of the client's request. */
  readonly clientHeaders: Headers
}

/** What to do after an attempt: hand the answer on, try another channel, or stop with this error. */
export type Verdict = 'use' | 'next' | 'stop'

/** An input that the console shows for channels of this kind. */
export interface ProviderField {
  readonly name: string
  readonly label: string
  readonly help?: string
  readonly isRequired?: boolean
}

export interface Provider {
  /** Stored in `channels.type`; never changes. */
  readonly id: number
  readonly name: string
  /** Empty when the operator must give one. */
  readonly baseUrl: string
  readonly fields: readonly ProviderField[]
  /** Operation → protocol → path, in order of preference. What is not here is not offered. */
  readonly speaks: Readonly<Partial<Record<Operation, Readonly<Partial<Record<Protocol, string>>>>>>
  /** Does it accept `stream_options.include_usage`? (relay.md 21.3) */
  readonly hasStreamOptions: boolean
  auth(headers: Headers, channel: UpstreamChannel, call: UpstreamCall): void | Promise<void>
  /** Default: base URL + path. */
  url?(path: string, call: UpstreamCall, channel: UpstreamChannel): string
  /** Edits the parsed body in place of the bytes; a provider that has it is never forwarded byte by byte. */
  patch?(json: Record<string, unknown>, call: UpstreamCall, channel: UpstreamChannel): Record<string, unknown>
  /** Corrects counts where the upstream's differ from its dialect's. */
  mapUsage?(usage: Usage): Usage
  /** Overrides the general reading of an error. */
  judge?(status: number, error: UpstreamError): Verdict | undefined
  /** Unwraps or reshapes a complete answer before it is decoded or forwarded. */
  unwrap?(json: unknown): unknown
  /** Turns the upstream's own stream (such as newline-delimited JSON) into SSE of the named protocol. */
  transformStream?(body: ReadableStream<Uint8Array>, call: UpstreamCall): ReadableStream<Uint8Array>
  listModels?(channel: UpstreamChannel, fetch: typeof globalThis.fetch): Promise<readonly string[]>
}
