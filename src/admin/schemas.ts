/** Reply shapes that several account resources share. */
import { t } from 'elysia'

const channelPermissions = t.Object({
  read: t.Boolean(),
  operate: t.Boolean(),
  write: t.Boolean(),
  sensitive_write: t.Boolean(),
  secret_view: t.Boolean(),
})

/** Limits of an API key or a user, as shown and as sent. */
export const limitFields = {
  rpm_limit: t.Integer({ minimum: 0, maximum: 2_147_483_647, description: 'Requests per minute; 0 no limit' }),
  tpm_limit: t.Integer({ minimum: 0, maximum: 2_147_483_647, description: 'Tokens per minute; 0 no limit' }),
  concurrency_limit: t.Integer({ minimum: 0, maximum: 2_147_483_647, description: 'Calls at once; 0 no limit' }),
}
export const optionalLimitFields = {
  rpm_limit: t.Optional(limitFields.rpm_limit),
  tpm_limit: t.Optional(limitFields.tpm_limit),
  concurrency_limit: t.Optional(limitFields.concurrency_limit),
}
/** Wire names → ours; what is absent stays absent. */
export const limitInput = (body: {
  readonly rpm_limit?: number
  readonly tpm_limit?: number
  readonly concurrency_limit?: number
}) => ({
  ...(body.rpm_limit !== undefined && { rpmLimit: body.rpm_limit }),
  ...(body.tpm_limit !== undefined && { tpmLimit: body.tpm_limit }),
  ...(body.concurrency_limit !== undefined && { concurrencyLimit: body.concurrency_limit }),
})

const commonUser = {
  id: t.Integer(),
  username: t.String(),
  display_name: t.String(),
  role: t.Integer({ description: '1 user, 10 administrator, 100 root' }),
  status: t.Integer({ description: '1 enabled, 2 disabled' }),
  email: t.String(),
  github_id: t.String(),
  discord_id: t.String(),
  oidc_id: t.String(),
  wechat_id: t.String(),
  telegram_id: t.String(),
  linux_do_id: t.String(),
  group: t.String(),
  quota: t.Integer({ description: 'Quota units left' }),
  used_quota: t.Integer(),
  request_count: t.Integer(),
  aff_code: t.String(),
  aff_count: t.Integer(),
  aff_quota: t.Integer(),
  aff_history_quota: t.Integer(),
  inviter_id: t.Integer(),
  setting: t.String({ description: 'JSON text' }),
  stripe_customer: t.String(),
  ...limitFields,
}

/** A user as administrators see it. */
export const userJson = t.Object({
  ...commonUser,
  password: t.Literal(''),
  original_password: t.Literal(''),
  verification_code: t.Literal(''),
  DeletedAt: t.Union([t.String(), t.Null()]),
  remark: t.Optional(t.String()),
  created_at: t.Integer(),
  last_login_at: t.Integer(),
})

/** A user as the user sees it. */
export const selfJson = t.Object({
  ...commonUser,
  sidebar_modules: t.String({ description: 'JSON text or empty' }),
  permissions: t.Object({
    sidebar_settings: t.Boolean(),
    sidebar_modules: t.Record(t.String(), t.Any()),
    admin_permissions: t.Object({ channel: channelPermissions }),
  }),
})

export const sessionJson = t.Object({
  sid: t.String(),
  current: t.Boolean(),
  login_method: t.String(),
  ip: t.String(),
  user_agent: t.String(),
  created_at: t.Integer(),
  last_active_at: t.Integer(),
  expires_at: t.Integer(),
})

const issued = {
  access_token: t.String(),
  token_type: t.Literal('Bearer'),
  access_expires_at: t.Integer({ description: 'Unix seconds' }),
  session: sessionJson,
}

/** What a client takes over after its security state changed. */
export const rotationJson = t.Object(issued)

/** What a client gets by logging in or refreshing. */
export const bundleJson = t.Object({ ...issued, user: selfJson })
