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
    other: billed(settled, attempt),
  }
}

/** Built by assignment: this is made for every call, and each conditional spread would be a copy of its own. */
function billed(settled: Settled, attempt: Attempt | undefined): Record<string, unknown> {
  const { call, trace, purse, charge } = settled
  const other: Record<string, unknown> = { ...charge.other }
  other['frt'] =
    call.isStream && trace.firstByteAtMs !== undefined ? Math.round(trace.firstByteAtMs - call.startedAtMs) : -1000
  other['request_path'] = call.endpoint.path
  other['request_conversion'] = conversion(call, settled.protocol)
  other['hold'] = purse.hold.amount
  other['hold_extensions'] = purse.hold.extensions
  other['billing_source'] = 'wallet'
  if (attempt !== undefined && attempt.upstreamModel !== call.model) {
    other['is_model_mapped'] = true
    other['upstream_model_name'] = attempt.upstreamModel
  }
  if (settled.isPromptChanged) other['is_system_prompt_overwritten'] = true
  if (settled.touched.length > 0) other['po'] = settled.touched
  if (call.isStream) other['stream_status'] = streamStatus(settled)
  if (call.isTest) other['is_channel_test'] = true
  const admin = adminInfo(trace)
  if (settled.isCounted) admin['local_count_tokens'] = true
  if (settled.losses.length > 0) admin['losses'] = settled.losses
  const priced = charge.other['admin_info'] as Record<string, unknown> | undefined
  other['admin_info'] = priced ? { ...priced, ...admin } : admin
  return other
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
    ip: caller.ip,
    useTimeSec: Math.round((now.monotonicMs - facts.startedAtMs) / 1000),
    isStream: facts.isStream,
  }
}

function adminInfo({ attempts, leftOut }: Trace): Record<string, unknown> {
  const last = attempts.at(-1)
  const info: Record<string, unknown> = {
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
  }
  if (leftOut.length > 0) info['left_out'] = leftOut.slice(0, MAX_LEFT_OUT)
  if (last?.channel.multiKey) {
    info['is_multi_key'] = true
    info['multi_key_index'] = last.keyIndex
  }
  return info
}

const MAX_LEFT_OUT = 20

const DIALECT_NAMES: Readonly<Record<string, string>> = {
  'openai-chat': 'OpenAI Compatible',
  claude: 'Claude Messages',
}

function conversion(call: Call, protocol: string): readonly string[] {
  const own = call.endpoint.protocol
  const name = DIALECT_NAMES[own] ?? own
  return protocol === own ? [name] : [name, DIALECT_NAMES[protocol] ?? protocol]
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
