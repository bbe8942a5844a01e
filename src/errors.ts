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
  api_not_implemented: entry(
    501,
    'client',
    false,
    'This API is not implemented ({method} {path})',
    '未实现的接口 ({method} {path})',
  ),
  // Relay: configuration
  model_not_found: entry(
    503,
    'operator',
    false,
    'No channel for model {model} in group {group}',
    '分组 {group} 下模型 {model} 无可用渠道',
  ),
  unknown_model: entry(
    404,
    'client',
    false,
    'The model {model} does not exist or may not be used',
    '模型 {model} 不存在或不可用',
  ),
  model_price_error: entry(
    400,
    'operator',
    false,
    'Model {model} has no price: an administrator can set it in ModelRatio or ModelPrice, or switch on SelfUseModeEnabled',
    '模型 {model} 未配置价格：请管理员设置 ModelRatio 或 ModelPrice，或开启 SelfUseModeEnabled',
  ),
  get_channel_failed: entry(503, 'operator', false, 'No further channel can serve this model', '没有其他渠道可用'),
  'channel:no_available_key': entry(503, 'operator', true, 'The channel has no usable key', '渠道没有可用的密钥'),
  'channel:param_override_invalid': entry(
    500,
    'operator',
    false,
    'The parameter override of the channel is invalid',
    '渠道参数覆盖无效',
  ),
  'channel:header_override_invalid': entry(
    500,
    'operator',
    false,
    'The header override of the channel is invalid',
    '渠道请求头覆盖无效',
  ),
  'channel:model_mapped_error': entry(
    500,
    'operator',
    true,
    'The model mapping of the channel is invalid',
    '渠道模型映射无效',
  ),
  'channel:balance_used_up': entry(402, 'upstream', true, 'The balance of the account is used up', '上游账户余额不足'),
  'channel:response_time_exceeded': entry(504, 'upstream', true, 'The channel answered too slowly', '渠道响应时间过长'),
  // Relay: the upstream
  do_request_failed: entry(502, 'upstream', true, 'Upstream could not be reached', '无法连接上游'),
  upstream_timeout: entry(504, 'upstream', true, 'Upstream did not answer in time', '上游响应超时'),
  bad_response_status_code: entry(502, 'upstream', true, 'Upstream answered with an error', '上游返回错误'),
  bad_response_body: entry(502, 'upstream', false, 'Upstream sent a body that cannot be read', '上游返回内容无法解析'),
  empty_response: entry(502, 'upstream', true, 'Upstream sent an empty answer', '上游返回空内容'),
  // The gateway
  not_ready: entry(503, 'gateway', false, 'The gateway is not ready; try again', '服务暂不可用，请重试'),
  dependency_unavailable: entry(
    503,
    'gateway',
    false,
    'A part of the gateway is unavailable; try again',
    '服务依赖不可用，请重试',
  ),
  system_cpu_overloaded: entry(
    503,
    'gateway',
    false,
    'The gateway has more calls than it can serve; try again later',
    '服务繁忙（CPU 过载），请稍后重试',
  ),
  system_memory_overloaded: entry(
    503,
    'gateway',
    false,
    'The gateway is short of memory; try again later',
    '服务繁忙（内存不足），请稍后重试',
  ),
  system_disk_overloaded: entry(
    503,
    'gateway',
    false,
    'The gateway is short of disk space; try again later',
    '服务繁忙（磁盘空间不足），请稍后重试',
  ),
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
  // Administration: input (200 is a refusal in the envelope)
  invalid_parameters: entry(200, 'client', false, 'Invalid parameters: {reason}', '无效的参数：{reason}'),
  malformed_body: entry(
    400,
    'client',
    false,
    'The body is not valid JSON: {reason}',
    '请求体不是有效的 JSON：{reason}',
  ),
  body_too_large: entry(413, 'client', false, 'The body is larger than {bytes} bytes', '请求体超过 {bytes} 字节'),
  search_pattern_invalid: entry(
    200,
    'client',
    false,
    'A pattern has at most two single % and two other characters',
    '搜索模式最多包含两个不相邻的 %，且至少两个其他字符',
  ),
  // Administration: set-up, users, log-in
  setup_done: entry(200, 'client', false, 'The system is already set up', '系统已完成初始化'),
  setup_needed: entry(200, 'client', false, 'The system is not set up yet', '系统尚未初始化'),
  username_invalid: entry(
    200,
    'client',
    false,
    'A user name has 1 to {max} characters and no blanks',
    '用户名长度为 1 到 {max}，且不含空白字符',
  ),
  display_name_invalid: entry(
    200,
    'client',
    false,
    'A display name has at most {max} characters',
    '显示名称最多 {max} 个字符',
  ),
  password_invalid: entry(
    200,
    'client',
    false,
    'A password has {min} characters to {max} bytes',
    '密码至少 {min} 个字符，最多 {max} 字节',
  ),
  password_mismatch: entry(200, 'client', false, 'The passwords differ', '两次输入的密码不一致'),
  original_password_wrong: entry(200, 'client', false, 'The original password is wrong', '原密码错误'),
  password_login_disabled: entry(
    200,
    'client',
    false,
    'Logging in with a password is switched off',
    '管理员关闭了密码登录',
  ),
  login_failed: entry(
    200,
    'client',
    false,
    'Wrong name or password, or the user is disabled',
    '用户名或密码错误，或用户已被封禁',
  ),
  user_not_found: entry(200, 'client', false, 'No such user', '用户不存在'),
  username_taken: entry(200, 'client', false, 'This user name is in use', '用户名已被使用'),
  user_not_manageable: entry(
    200,
    'client',
    false,
    'This user has the same role as you or a higher one',
    '无权操作同级或更高权限的用户',
  ),
  user_role_not_allowed: entry(200, 'client', false, 'You may not give this role', '无权设置该角色'),
  user_role_fixed: entry(200, 'client', false, 'A role is changed by promote and demote', '角色只能通过提升或降级修改'),
  root_protected: entry(
    200,
    'client',
    false,
    'The root user cannot be disabled, deleted or demoted',
    '不能禁用、删除或降级超级管理员',
  ),
  user_action_unknown: entry(200, 'client', false, 'Unknown action {action}', '未知的操作 {action}'),
  amount_invalid: entry(
    200,
    'client',
    false,
    'The amount must be a whole number from {min} to {max}',
    '数额必须是 {min} 到 {max} 之间的整数',
  ),
  setting_invalid: entry(200, 'client', false, 'Invalid setting: {field}', '无效的设置：{field}'),
  // Administration: API keys and redemption codes
  api_key_not_found: entry(200, 'client', false, 'No such API key', '令牌不存在'),
  api_key_name_too_long: entry(200, 'client', false, 'The name has more than {max} bytes', '名称超过 {max} 字节'),
  api_key_quota_invalid: entry(
    200,
    'client',
    false,
    'The quota must be a whole number from 0 to {max}',
    '额度必须是 0 到 {max} 之间的整数',
  ),
  api_key_limit_reached: entry(200, 'client', false, 'You already have {max} API keys', '令牌数量已达上限 {max}'),
  api_key_expired: entry(
    200,
    'client',
    false,
    'The API key has expired; change its expiry first',
    '令牌已过期，请先修改过期时间',
  ),
  api_key_exhausted: entry(
    200,
    'client',
    false,
    'The API key is used up; raise its quota first',
    '令牌额度已用尽，请先增加额度',
  ),
  api_key_ips_invalid: entry(
    200,
    'client',
    false,
    'Neither an address nor a network: {entry}',
    '不是有效的 IP 或网段：{entry}',
  ),
  api_key_groups_invalid: entry(
    200,
    'client',
    false,
    'At most {max} different groups that you may use',
    '最多 {max} 个不重复且可用的分组',
  ),
  redemption_not_found: entry(200, 'client', false, 'No such redemption code', '兑换码不存在'),
  redemption_failed: entry(
    200,
    'client',
    false,
    'The redemption code is invalid, used or expired',
    '兑换码无效、已使用或已过期',
  ),
  redemption_name_invalid: entry(200, 'client', false, 'A name has 1 to {max} characters', '名称长度为 1 到 {max}'),
  redemption_expiry_invalid: entry(
    200,
    'client',
    false,
    'The expiry must be 0 or in the future',
    '过期时间必须为 0 或未来时间',
  ),
  // Options
  option_invalid: entry(200, 'client', false, 'Option {key}: {reason}', '选项 {key} 无效：{reason}'),
  option_needs: entry(
    200,
    'client',
    false,
    'Set {needed} before switching on {key}',
    '请先设置 {needed}，再启用 {key}',
  ),
  // Administration: operation of the cluster
  task_not_found: entry(404, 'client', false, 'No such task', '任务不存在'),
  task_is_live: entry(
    409,
    'client',
    false,
    'A task of this kind is already waiting or running: {id}',
    '同类任务正在等待或运行：{id}',
  ),
  log_clean_up_time: entry(
    200,
    'client',
    false,
    'target_timestamp must be a moment of the past, in Unix seconds',
    'target_timestamp 必须是过去的时间（Unix 秒）',
  ),
  node_not_found: entry(200, 'client', false, 'There is no node {name}', '节点 {name} 不存在'),
  node_is_online: entry(200, 'client', false, 'The node {name} is online', '节点 {name} 在线，不能删除'),
  // Administration: channels
  channel_not_found: entry(200, 'client', false, 'There is no channel {id}', '渠道 {id} 不存在'),
  channel_type_unknown: entry(
    200,
    'client',
    false,
    'Channels of type {type} are not supported',
    '不支持的渠道类型：{type}',
  ),
  channel_key_locked: entry(
    200,
    'operator',
    false,
    'The key is encrypted with a CRYPTO_SECRET that this node does not have',
    '密钥已加密，本节点没有对应的 CRYPTO_SECRET',
  ),
  channel_key_required: entry(200, 'client', false, 'A channel needs a key', '渠道密钥不能为空'),
  channel_mode_unknown: entry(200, 'client', false, 'There is no mode {mode}', '不支持的添加模式：{mode}'),
  channel_field_required: entry(200, 'client', false, '{field} is required', '{field} 不能为空'),
  channel_field_too_long: entry(
    200,
    'client',
    false,
    '{field} is longer than {max} characters',
    '{field} 长度超过 {max} 个字符',
  ),
  channel_field_invalid: entry(200, 'client', false, '{field} is invalid: {reason}', '{field} 无效：{reason}'),
  channel_status_apart: entry(
    200,
    'client',
    false,
    'The status is changed by POST /api/channel/{id}/status',
    '请通过 POST /api/channel/{id}/status 修改渠道状态',
  ),
  channel_action_forbidden: entry(
    403,
    'client',
    false,
    'Not allowed: {action} on channels',
    '无权执行渠道操作：{action}',
  ),
  channel_fields_forbidden: entry(
    200,
    'client',
    false,
    'Not allowed to change {fields} of a channel',
    '无权修改渠道的敏感字段：{fields}',
  ),
  channel_single_key: entry(200, 'client', false, 'The channel does not have several keys', '该渠道不是多密钥模式'),
  channel_key_index: entry(200, 'client', false, 'The channel has no key {index}', '渠道没有索引为 {index} 的密钥'),
  channel_last_key: entry(200, 'client', false, 'The last key cannot be deleted', '不能删除最后一个密钥'),
  channel_tag_required: entry(400, 'client', false, 'The tag is missing', '标签不能为空'),
  channel_no_model_list: entry(
    200,
    'client',
    false,
    'Channels of this type have no model list',
    '该类型渠道不支持获取模型列表',
  ),
  channel_list_failed: entry(
    200,
    'upstream',
    false,
    'The model list could not be fetched: {reason}',
    '获取模型列表失败：{reason}',
  ),
  channel_no_balance: entry(
    200,
    'client',
    false,
    'The balance of channels of this type is not known',
    '该类型渠道不支持查询余额',
  ),
  channel_balance_keys: entry(
    200,
    'client',
    false,
    'A channel with several keys has no one balance',
    '多密钥渠道不支持查询余额',
  ),
  channel_balance_failed: entry(
    200,
    'upstream',
    false,
    'The balance could not be read: {reason}',
    '查询余额失败：{reason}',
  ),
  channel_not_tested: entry(200, 'client', false, 'Channels cannot be tested yet', '暂时无法测试渠道'),
  SECURITY_PROOF_REQUIRED: entry(403, 'client', false, 'Confirm with your password', '请输入密码确认'),
  SECURITY_PROOF_INVALID: entry(403, 'client', false, 'The confirmation is not valid', '验证未通过'),
  // Logs and sums
  time_range_invalid: entry(
    200,
    'client',
    false,
    'Give a start and an end that are at most {days} days apart',
    '请给出起止时间，跨度不超过 {days} 天',
  ),
  withdrawn: entry(200, 'client', false, 'This address is withdrawn; use {path}', '该接口已废弃，请使用 {path}'),
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
