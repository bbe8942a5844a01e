/**
 * One error class and one catalogue for the whole gateway. A code fixes the status, whose fault it is and whether
 * another channel may help. The public text is for clients; `detail` and `cause` are for logs and never leave the node.
 */

/** Whose fault it was: the client's request, the operator's configuration, the upstream, or the gateway itself. */
export type Blame = 'client' | 'operator' | 'upstream' | 'gateway'

interface Entry {
  /** HTTP status on the relay. On the admin API, 200 means `success: false` in the envelope. */
  readonly status: number
  readonly blame: Blame
  /** May another channel serve this call? */
  readonly retry: boolean
  /** Public texts; `{name}` is replaced from `params`. */
  readonly en: string
  readonly zh: string
}

const entry = (status: number, blame: Blame, retry: boolean, en: string, zh: string): Entry => ({
  status,
  blame,
  retry,
  en,
  zh,
})

/** Codes are the wire codes that clients of the HTTP API know (relay codes in snake case, account codes in capitals). */
export const CATALOGUE = {
  // Relay: the request
  invalid_request: entry(400, 'client', false, '{reason}', '{reason}'),
  read_request_body_failed: entry(413, 'client', false, '{reason}', '{reason}'),
  convert_request_failed: entry(400, 'client', false, '{reason}', '{reason}'),
  invalid_api_key: entry(401, 'client', false, 'Invalid API key', '无效的令牌'),
  access_denied: entry(403, 'client', false, '{reason}', '{reason}'),
  insufficient_user_quota: entry(403, 'client', false, 'Insufficient quota', '用户额度不足'),
  pre_consume_token_quota_failed: entry(403, 'client', false, 'The quota of this API key is used up', '令牌额度不足'),
  rate_limit_exceeded: entry(429, 'client', false, 'Too many requests', '请求过于频繁'),
  client_closed_request: entry(499, 'client', false, 'The client closed the request', '客户端已断开'),
  not_found: entry(404, 'client', false, 'Invalid URL ({method} {path})', '无效的地址 ({method} {path})'),
  // Relay: configuration
  model_not_found: entry(503, 'operator', false, 'No channel for model {model} in group {group}', '分组 {group} 下模型 {model} 无可用渠道'),
  model_price_error: entry(400, 'operator', false, 'Model {model} has no price', '模型 {model} 未配置价格'),
  get_channel_failed: entry(503, 'operator', false, 'No further channel can serve this model', '没有其他渠道可用'),
  'channel:no_available_key': entry(503, 'operator', true, 'The channel has no usable key', '渠道没有可用的密钥'),
  'channel:param_override_invalid': entry(500, 'operator', false, 'The parameter override of the channel is invalid', '渠道参数覆盖无效'),
  'channel:header_override_invalid': entry(500, 'operator', false, 'The header override of the channel is invalid', '渠道请求头覆盖无效'),
  'channel:model_mapped_error': entry(500, 'operator', true, 'The model mapping of the channel is invalid', '渠道模型映射无效'),
  'channel:response_time_exceeded': entry(504, 'upstream', true, 'The channel answered too slowly', '渠道响应时间过长'),
  // Relay: the upstream
  do_request_failed: entry(502, 'upstream', true, 'Upstream could not be reached', '无法连接上游'),
  upstream_timeout: entry(504, 'upstream', true, 'Upstream did not answer in time', '上游响应超时'),
  bad_response_status_code: entry(502, 'upstream', true, 'Upstream answered with an error', '上游返回错误'),
  bad_response_body: entry(502, 'upstream', false, 'Upstream sent a body that cannot be read', '上游返回内容无法解析'),
  empty_response: entry(502, 'upstream', true, 'Upstream sent an empty answer', '上游返回空内容'),
  // The gateway
  not_ready: entry(503, 'gateway', false, 'The gateway is not ready; try again', '服务暂不可用，请重试'),
  dependency_unavailable: entry(503, 'gateway', false, 'A part of the gateway is unavailable; try again', '服务依赖不可用，请重试'),
  shutting_down: entry(503, 'gateway', false, 'The gateway is shutting down', '服务正在停止'),
  internal_error: entry(500, 'gateway', false, 'Internal error', '内部错误'),
  // Accounts
  AUTH_UNAUTHORIZED: entry(401, 'client', false, 'Not logged in, or the credential is invalid', '未登录或凭证无效'),
  AUTH_TOKEN_EXPIRED: entry(401, 'client', false, 'The access token has expired', '访问令牌已过期'),
  AUTH_SESSION_REVOKED: entry(401, 'client', false, 'The session has ended', '会话已失效'),
  AUTH_USER_DISABLED: entry(401, 'client', false, 'The user is disabled', '用户已被禁用'),
  AUTH_USER_INVALID: entry(401, 'client', false, 'The user is not valid', '用户无效'),
  AUTH_INSUFFICIENT_PRIVILEGE: entry(403, 'client', false, 'Not allowed for this role', '权限不足'),
  AUTH_SESSION_REQUIRED: entry(403, 'client', false, 'This needs a login session', '此操作需要登录会话'),
  AUTH_ORIGIN_FORBIDDEN: entry(403, 'client', false, 'This origin is not allowed', '来源不被允许'),
  AUTH_SESSION_ID_REQUIRED: entry(400, 'client', false, 'The session id is missing', '缺少会话 ID'),
  AUTH_SESSION_NOT_FOUND: entry(404, 'client', false, 'No such session', '会话不存在'),
  AUTH_SESSION_MISMATCH: entry(409, 'client', false, 'The session differs from the cookie', '会话与 Cookie 不一致'),
  AUTH_REFRESH_RACE: entry(409, 'client', false, 'The session is being refreshed; try again', '会话正在刷新，请重试'),
  AUTH_SESSION_LIMIT: entry(409, 'client', false, 'Too many active sessions', '活动会话过多'),
  AUTH_SESSION_ISSUANCE_LIMIT: entry(429, 'client', false, 'Too many logins', '登录次数过多'),
  AUTH_INTERNAL_ERROR: entry(500, 'gateway', false, 'Authentication failed', '认证失败'),
  /** A business refusal with its own text: 200 and `success: false`. */
  refused: entry(200, 'client', false, '{reason}', '{reason}'),
} as const satisfies Record<string, Entry>

export type ErrorCode = keyof typeof CATALOGUE

/** What an upstream said of its own error; shown to clients in their dialect. */
export interface UpstreamError {
  readonly status: number
  readonly message: string
  readonly type?: string
  readonly code?: string
  readonly param?: string
}

export interface ErrorOptions {
  /** Replaces the catalogue's public text, in both languages. */
  readonly public?: string
  /** Fills the placeholders of the public text. */
  readonly params?: Readonly<Record<string, string | number>>
  readonly status?: number
  readonly retry?: boolean
  readonly retryAfterSec?: number
  readonly upstream?: UpstreamError
  readonly detail?: unknown
  readonly cause?: unknown
}

const fill = (text: string, params: ErrorOptions['params']): string =>
  params ? text.replace(/\{(\w+)\}/g, (whole, name: string) => String(params[name] ?? whole)) : text

export class GatewayError extends Error {
  readonly code: ErrorCode
  readonly status: number
  readonly blame: Blame
  readonly retry: boolean
  readonly public: string
  readonly publicZh: string
  readonly retryAfterSec: number | undefined
  readonly upstream: UpstreamError | undefined
  readonly detail: unknown

  constructor(code: ErrorCode, options: ErrorOptions = {}) {
    const known: Entry = CATALOGUE[code]
    const text = options.public ?? fill(known.en, options.params)
    super(`${code}: ${text}`, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'GatewayError'
    this.code = code
    this.status = options.status ?? known.status
    this.blame = known.blame
    this.retry = options.retry ?? known.retry
    this.public = text
    this.publicZh = options.public ?? fill(known.zh, options.params)
    this.retryAfterSec = options.retryAfterSec
    this.upstream = options.upstream
    this.detail = options.detail
  }
}

/** Anything thrown → a GatewayError; what is not one becomes `internal_error` with its cause kept for the log. */
export const asGatewayError = (thrown: unknown): GatewayError =>
  thrown instanceof GatewayError ? thrown : new GatewayError('internal_error', { cause: thrown })
