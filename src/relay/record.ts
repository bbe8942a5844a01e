/** Writes what is known of a call into its log row: what was billed so that a person can add it up, and what was tried. */
import type { Caller } from '../domain/accounts/index.ts'
import type { CallRecord, PricedCharge } from '../domain/billing/index.ts'
import type { LeftOut } from '../domain/channels/index.ts'
import type { GatewayError } from '../errors.ts'
import type { Loss } from '../protocol/index.ts'
import type { Attempt, Call, Ending, Endpoint, Purse } from './types.ts'

/** What a row needs when the call was refused before it was understood. */
export interface Facts {
  readonly id: string
  readonly endpoint: Endpoint
  readonly caller: Caller
  readonly startedAtMs: number
  readonly model: string
  readonly isStream: boolean
}

/** Grows while a call runs. */
export interface Trace {
  readonly attempts: Attempt[]
  readonly leftOut: LeftOut[]
  firstByteAtMs: number | undefined
}

export interface Settled {
  readonly call: Call
  /** Nobody pays: the row is written, but no counter moves. */
  readonly isFree: boolean
  readonly trace: Trace
  readonly purse: Purse
  readonly charge: PricedCharge
  readonly ending: Ending
  readonly error: GatewayError | undefined
  readonly isCounted: boolean
  readonly upstreamRequestId: string
  readonly protocol: string
  readonly losses: readonly Loss[]
  readonly touched: readonly string[]
  readonly isPromptChanged: boolean
  readonly skippedFrames: number
}

type Now = { readonly wallMs: number; readonly monotonicMs: number }

/** Of a call that produced something: type 2, also when it broke off. */
export function consumedRecord(settled: Settled, now: Now): CallRecord {
  const { call, trace, purse, charge, ending, error } = settled
  const attempt = trace.attempts.at(-1)
  const isMapped = attempt !== undefined && attempt.upstreamModel !== call.model
  const { admin_info: priced, ...bill } = charge.other as { admin_info?: Record<string, unknown> }
  return {
    ...base(call, now),
    type: 2,
    group: purse.group,
    channelId: attempt?.channel.id ?? 0,
    upstreamRequestId: settled.upstreamRequestId,
    content: ending === 'complete' ? '' : describeEnding(ending, error),
    promptTokens: charge.promptTokens,
    completionTokens: charge.completionTokens,
    isCounted: !settled.isFree,
    other: {
      ...bill,
      frt:
        call.isStream && trace.firstByteAtMs !== undefined ? Math.round(trace.firstByteAtMs - call.startedAtMs) : -1000,
      request_path: call.endpoint.path,
      request_conversion: conversion(call, settled.protocol),
      hold: purse.hold.amount,
      hold_extensions: purse.hold.extensions,
      billing_source: 'wallet',
      ...(isMapped && { is_model_mapped: true, upstream_model_name: attempt.upstreamModel }),
      ...(settled.isPromptChanged && { is_system_prompt_overwritten: true }),
      ...(settled.touched.length > 0 && { po: settled.touched }),
      ...(call.isStream && { stream_status: streamStatus(settled) }),
      ...(call.isTest && { is_channel_test: true }),
      admin_info: {
        ...priced,
        ...adminInfo(trace),
        ...(settled.isCounted && { local_count_tokens: true }),
        ...(settled.losses.length > 0 && { losses: settled.losses }),
      },
    },
  }
}

/** Of a count of tokens that was answered here: type 2, without money, tokens or channel. */
export function countRecord(call: Call, trace: Trace, group: string, now: Now): CallRecord {
  return {
    ...base(call, now),
    type: 2,
    group,
    channelId: 0,
    content: '',
    promptTokens: 0,
    completionTokens: 0,
    isCounted: false,
    other: {
      request_path: call.endpoint.path,
      counted_tokens: call.inputTokens,
      admin_info: { ...adminInfo(trace), local_count_tokens: true },
    },
  }
}

/** Of a call that was refused or never got an answer: type 5, with the reason and whose fault it was. */
export function errorRecord(facts: Facts, trace: Trace, group: string, error: GatewayError, now: Now): CallRecord {
  const attempt = trace.attempts.at(-1)
  return {
    ...base(facts, now),
    type: 5,
    group,
    channelId: attempt?.channel.id ?? 0,
    content: error.upstream?.message ?? error.public,
    promptTokens: 0,
    completionTokens: 0,
    isCounted: false,
    other: {
      error_type: error.upstream?.type ?? 'new_api_error',
      error_code: error.upstream?.code ?? error.code,
      status_code: error.status,
      blame: error.blame,
      request_path: facts.endpoint.path,
      ...(attempt && {
        channel_id: attempt.channel.id,
        channel_name: attempt.channel.name,
        channel_type: attempt.channel.type,
      }),
      admin_info: { ...adminInfo(trace), reason: error.code },
    },
  }
}

function base(facts: Facts | Call, now: Now) {
  const { caller } = facts
  return {
    requestId: facts.id,
    createdAtSec: Math.floor(now.wallMs / 1000),
    userId: caller.userId,
    username: caller.username,
    apiKeyId: caller.apiKeyId,
    apiKeyName: caller.apiKeyName,
    modelName: facts.model,
    ip: caller.recordsIp ? caller.ip : '',
    useTimeSec: Math.round((now.monotonicMs - facts.startedAtMs) / 1000),
    isStream: facts.isStream,
  }
}

function adminInfo({ attempts, leftOut }: Trace): Record<string, unknown> {
  const last = attempts.at(-1)
  return {
    use_channel: attempts.map((attempt) => String(attempt.channel.id)),
    attempts: attempts.map((attempt) => ({
      channel: attempt.channel.id,
      key: attempt.keyIndex,
      group: attempt.group,
      way: attempt.way,
      status: attempt.status,
      ms: Math.round(attempt.endedAtMs - attempt.startedAtMs),
      reason: attempt.reason,
    })),
    ...(leftOut.length > 0 && { left_out: leftOut.slice(0, MAX_LEFT_OUT) }),
    ...(last?.channel.multiKey && { is_multi_key: true, multi_key_index: last.keyIndex }),
  }
}

const MAX_LEFT_OUT = 20

const DIALECT_NAMES: Readonly<Record<string, string>> = {
  'openai-chat': 'OpenAI Compatible',
  claude: 'Claude Messages',
}

function conversion(call: Call, protocol: string): readonly string[] {
  const names = [call.endpoint.protocol, protocol].map((name) => DIALECT_NAMES[name] ?? name)
  return [...new Set(names)]
}

/** The words are those that readers of stored rows know. */
const END_REASONS: Readonly<Record<Ending, string>> = {
  complete: 'done',
  'client-gone': 'client_gone',
  'upstream-cut': 'scanner_error',
  'upstream-error': 'handler_stop',
  timeout: 'timeout',
  'out-of-quota': 'out_of_quota',
  'shutting-down': 'shutting_down',
}

const streamStatus = ({ ending, error, skippedFrames }: Settled) => ({
  status: ending === 'complete' ? 'ok' : 'error',
  end_reason: END_REASONS[ending],
  ...(error && { end_error: error.public }),
  ...(skippedFrames > 0 && { error_count: skippedFrames }),
})

const describeEnding = (ending: Ending, error: GatewayError | undefined): string =>
  `Ended early (${END_REASONS[ending]}): ${error?.public ?? ''}`
