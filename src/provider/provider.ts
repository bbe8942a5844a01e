/** What an upstream kind is: data, plus the few functions that differ. One file each; no provider name anywhere else. */
import type { UpstreamError } from '../errors.ts'
import type { Protocol, Usage } from '../protocol/ir.ts'

export type Operation = 'chat' | 'completions' | 'embeddings' | 'count-tokens'

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
  /** The body in the dialect that is sent upstream, `model` mapped, before `patch`. */
  readonly json: Readonly<Record<string, unknown>>
}

/** The part of `fetch` that is used, so that tests can pass a plain function. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>

/** Headers of a request that is being made: a `Map`, or a `Headers`. */
export interface HeaderFields {
  get(name: string): string | null | undefined
  set(name: string, value: string): unknown
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
  /** Can it be asked for the usage of a stream by `stream_options.include_usage`? A client's own is passed on anyway. */
  readonly hasStreamOptions: boolean
  /** @param headers gets what the upstream knows us by; names in lower case */
  auth(headers: HeaderFields, channel: UpstreamChannel, call: UpstreamCall): void | Promise<void>
  /** Default: base URL + path. */
  url?(path: string, call: UpstreamCall, channel: UpstreamChannel): string
  /**
   * Edits the body (`call.json`, or what else the relay made of it); returns a new object and leaves its argument alone.
   * It may change `model` (a suffix that is a setting, not a name). Parameter overrides of the channel come after it.
   * @throws GatewayError `convert_request_failed` when the upstream has no word for what the client asked
   */
  patch?(json: Record<string, unknown>, call: UpstreamCall, channel: UpstreamChannel): Record<string, unknown>
  /** False: this call is forwarded byte for byte although the provider has `patch`. Without it every call is patched. */
  needsPatch?(call: UpstreamCall): boolean
  /** Corrects counts where the upstream's differ from its dialect's. */
  mapUsage?(usage: Usage): Usage
  /** Overrides the general reading of an error. */
  judge?(status: number, error: UpstreamError): Verdict | undefined
  /** Unwraps or reshapes a complete answer before it is decoded or forwarded; the same object when nothing is to do. */
  unwrap?(json: unknown, call: UpstreamCall, channel: UpstreamChannel): unknown
  /** Turns the upstream's own stream (such as newline-delimited JSON) into SSE of the named protocol. */
  transformStream?(body: ReadableStream<Uint8Array>, call: UpstreamCall): ReadableStream<Uint8Array>
  /** @throws GatewayError of the upstream's refusal */
  listModels?(channel: UpstreamChannel, fetch: Fetch): Promise<readonly string[]>
  /** What the account still holds, in the upstream's currency. @throws GatewayError, also when the answer does not say */
  readBalance?(channel: UpstreamChannel, fetch: Fetch): Promise<number>
}
