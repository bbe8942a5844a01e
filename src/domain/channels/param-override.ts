/**
 * The parameter override of a channel: what an operator changes in the body (and headers) of every upstream call. Two
 * forms: plain keys that are set, or a list of operations with conditions. Pure: the body that is given stays as it is.
 */
import { GatewayError } from '../../errors.ts'
import { isRecord } from './channel.ts'
import type { HeaderEdits, HeaderOverrideContext } from './header-override.ts'
import { PathError, parsePath, readPath } from './json-path.ts'
import { holds, logicOf } from './override-conditions.ts'
import { HEADER_MODES } from './override-headers.ts'
import { BODY_MODES } from './override-operations.ts'

/** What conditions may ask about the call beside its body. */
export interface OverrideContext extends HeaderOverrideContext {
  /** What the header override of the channel resolved to; header operations go on from there. */
  readonly headerEdits: HeaderEdits
  readonly userId: number
  readonly userGroup: string
  readonly tokenGroup: string
  readonly usingGroup: string
  /** Name the client asked for. */
  readonly originalModel: string
  /** Name after mapping. */
  readonly upstreamModel: string
  readonly requestPath: string
  /** 0 for the first attempt. */
  readonly retryIndex: number
  readonly lastError?: GatewayError | undefined
}

export interface Overridden {
  readonly json: Record<string, unknown>
  readonly headerEdits: HeaderEdits
  /** Paths of sensitive fields that were changed (model, messages, …), for the call's log row. */
  readonly touched: readonly string[]
}

export interface Operation {
  readonly path: string
  readonly mode: string
  readonly value: unknown
  readonly keepOrigin: boolean
  readonly from: string
  readonly to: string
}

/** What an operation works on: a body and headers that are its own to change. */
export interface Draft {
  readonly json: Record<string, unknown>
  readonly headers: Map<string, string | null>
  readonly context: OverrideContext
}
export type Apply = (operation: Operation, draft: Draft) => void

/**
 * @param override JSON of the column; undefined for none
 * @throws GatewayError `channel:param_override_invalid`; `invalid_request` from an operation `return_error`
 */
export const applyParamOverride = (
  json: Record<string, unknown>,
  override: unknown,
  context: OverrideContext,
): Overridden => {
  if (override === undefined || override === null) return { json, headerEdits: context.headerEdits, touched: [] }
  if (!isRecord(override)) throw invalidOverride('not a JSON object')
  const { operations, ...plain } = override
  if (operations === undefined) {
    return {
      json: { ...json, ...plain },
      headerEdits: context.headerEdits,
      touched: Object.keys(plain).filter(isSensitive),
    }
  }
  if (!Array.isArray(operations)) throw invalidOverride('operations is not a list')
  const draft: Draft = { json: structuredClone({ ...json, ...plain }), headers: new Map(context.headerEdits), context }
  const touched = new Set(Object.keys(plain).filter(isSensitive))
  operations.forEach((raw: unknown, index) => {
    for (const path of runOperation(raw, index, draft)) if (isSensitive(path)) touched.add(path)
  })
  return { json: draft.json, headerEdits: draft.headers, touched: [...touched] }
}

const invalidOverride = (reason: string, cause?: unknown): GatewayError =>
  new GatewayError('channel:param_override_invalid', { detail: { reason }, cause })

/** @returns the paths of the body it may have changed */
const runOperation = (raw: unknown, index: number, draft: Draft): readonly string[] => {
  if (!isRecord(raw)) throw invalidOverride(`operation ${index} is not an object`)
  const operation: Operation = {
    path: text(raw.path),
    mode: text(raw.mode),
    value: raw.value,
    keepOrigin: raw.keep_origin === true,
    from: text(raw.from),
    to: text(raw.to),
  }
  const apply = BODY_MODES[operation.mode] ?? HEADER_MODES[operation.mode]
  if (!apply) throw invalidOverride(`operation ${index}: unknown mode ${operation.mode}`)
  try {
    const isMet = holds(raw.conditions, logicOf(raw.logic, 'OR'), (path) => lookUp(path, draft))
    if (!isMet) return []
    apply(operation, draft)
  } catch (cause) {
    if (!(cause instanceof PathError)) throw cause
    throw invalidOverride(`operation ${index} (${operation.mode} ${operation.path}): ${cause.message}`, cause)
  }
  return operation.mode in BODY_MODES
    ? [operation.path, operation.from, operation.to].filter((path) => path !== '')
    : []
}

const text = (value: unknown): string => (value === undefined || value === null ? '' : String(value))

/** In the body, as it is by now, and then in what is known of the call. */
const lookUp = (path: string, draft: Draft): { readonly value: unknown } | undefined => {
  const parsed = parsePath(path)
  return readPath(draft.json, parsed) ?? readPath(describe(draft), parsed)
}

/** Names are those that stored overrides use. */
const describe = ({ context, headers, json }: Draft): Record<string, unknown> => {
  const retry = { index: context.retryIndex, is_retry: context.retryIndex > 0 }
  const { lastError } = context
  const error = lastError && {
    status_code: lastError.status,
    message: lastError.upstream?.message ?? lastError.public,
    code: lastError.upstream?.code ?? lastError.code,
    error_code: lastError.upstream?.code ?? lastError.code,
    type: lastError.upstream?.type ?? '',
    error_type: lastError.upstream?.type ?? '',
    skip_retry: !lastError.retry,
  }
  return {
    user_id: context.userId,
    user_group: context.userGroup,
    token_group: context.tokenGroup,
    using_group: context.usingGroup,
    model: json.model ?? context.upstreamModel,
    upstream_model: context.upstreamModel,
    original_model: context.originalModel,
    request_path: context.requestPath,
    request_headers: Object.fromEntries(context.clientHeaders),
    header_override: Object.fromEntries([...headers].filter(([, value]) => value !== null)),
    retry_index: context.retryIndex,
    is_retry: retry.is_retry,
    retry,
    ...(error && { last_error: error }),
    ...(error && Object.fromEntries(Object.entries(error).map(([name, value]) => [`last_error_${name}`, value]))),
    is_channel_test: context.isChannelTest,
  }
}

const SENSITIVE = new Set([
  'model',
  'messages',
  'system',
  'contents',
  'systemInstruction',
  'system_instruction',
  'input',
  'instructions',
  'prompt',
  'tools',
  'thinking',
  'reasoning',
  'reasoning_effort',
  'output_config',
  'service_tier',
  'inference_geo',
  'speed',
])

const isSensitive = (path: string): boolean => SENSITIVE.has(path.split('.', 1)[0] ?? '')
