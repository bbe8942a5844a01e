/** Users, API keys, sessions, one-time login state, set-up and redemption codes: names and types are New API's. */
import type { Kit } from '../kit.ts'

/** Requests and tokens per minute, calls at once; 0 or NULL = no limit. Ours: New API's rows get the default. */
const limitColumns = (k: Kit) => ({
  rpmLimit: k.bigint('rpm_limit').default(0),
  tpmLimit: k.bigint('tpm_limit').default(0),
  concurrencyLimit: k.bigint('concurrency_limit').default(0),
})

export const defineAccountTables = (k: Kit) => ({
  users: k.table(
    'users',
    {
      id: k.id(),
      username: k.varchar('username', 191).unique('username'),
      /** bcrypt hash; '' for accounts made by OAuth */
      password: k.longtext('password').notNull(),
      displayName: k.varchar('display_name', 191),
      /** 0 guest, 1 common, 10 administrator, 100 root */
      role: k.bigint('role').default(1),
      /** 1 enabled, 2 disabled */
      status: k.bigint('status').default(1),
      email: k.varchar('email', 191),
      githubId: k.varchar('github_id', 191),
      discordId: k.varchar('discord_id', 191),
      oidcId: k.varchar('oidc_id', 191),
      wechatId: k.varchar('wechat_id', 191),
      telegramId: k.varchar('telegram_id', 191),
      linuxDoId: k.varchar('linux_do_id', 191),
      /** personal access token in clear; NULL = none */
      accessToken: k.char('access_token', 32),
      /** quota units left in the wallet; parked allotments are not in it */
      quota: k.bigint('quota').default(0),
      usedQuota: k.bigint('used_quota').default(0),
      requestCount: k.bigint('request_count').default(0),
      group: k.varchar('group', 64).default('default'),
      affCode: k.varchar('aff_code', 32),
      affCount: k.bigint('aff_count').default(0),
      affQuota: k.bigint('aff_quota').default(0),
      affHistory: k.bigint('aff_history').default(0),
      inviterId: k.bigint('inviter_id'),
      deletedAt: k.datetime3('deleted_at'),
      /** JSON object */
      setting: k.text('setting'),
      remark: k.varchar('remark', 255),
      stripeCustomer: k.varchar('stripe_customer', 64),
      /** Unix seconds */
      createdAt: k.bigint('created_at'),
      /** Unix seconds */
      lastLoginAt: k.bigint('last_login_at').default(0),
      authVersion: k.bigint('auth_version').notNull().default(1),
      ...limitColumns(k),
    },
    (t) => [
      k.index('idx_users_username').on(t.username),
      k.index('idx_users_display_name').on(t.displayName),
      k.index('idx_users_email').on(t.email),
      k.index('idx_users_git_hub_id').on(t.githubId),
      k.index('idx_users_discord_id').on(t.discordId),
      k.index('idx_users_oidc_id').on(t.oidcId),
      k.index('idx_users_we_chat_id').on(t.wechatId),
      k.index('idx_users_telegram_id').on(t.telegramId),
      k.index('idx_users_linux_do_id').on(t.linuxDoId),
      k.uniqueIndex('idx_users_access_token').on(t.accessToken),
      k.uniqueIndex('idx_users_aff_code').on(t.affCode),
      k.index('idx_users_inviter_id').on(t.inviterId),
      k.index('idx_users_deleted_at').on(t.deletedAt),
      k.index('idx_users_stripe_customer').on(t.stripeCustomer),
    ],
  ),

  /** API keys. */
  tokens: k.table(
    'tokens',
    {
      id: k.id(),
      userId: k.bigint('user_id'),
      /** in clear, without the `sk-` that clients send */
      key: k.varchar('key', 128),
      /** 1 enabled, 2 disabled, 3 expired, 4 exhausted */
      status: k.bigint('status').default(1),
      name: k.varchar('name', 191),
      createdTime: k.bigint('created_time'),
      accessedTime: k.bigint('accessed_time'),
      /** Unix seconds; −1 never */
      expiredTime: k.bigint('expired_time').default(-1),
      /** quota units; parked allotments are not in it */
      remainQuota: k.bigint('remain_quota').default(0),
      unlimitedQuota: k.bool('unlimited_quota'),
      modelLimitsEnabled: k.bool('model_limits_enabled'),
      /** comma-separated model names */
      modelLimits: k.text('model_limits'),
      /** newline-separated addresses and CIDRs; '' or NULL = any */
      allowIps: k.varchar('allow_ips', 191).default(''),
      usedQuota: k.bigint('used_quota').default(0),
      /** '' = the owner's group; or `auto` */
      group: k.varchar('group', 191).default(''),
      crossGroupRetry: k.bool('cross_group_retry'),
      /** JSON array of group names */
      autoGroups: k.text('auto_groups'),
      deletedAt: k.datetime3('deleted_at'),
      ...limitColumns(k),
    },
    (t) => [
      k.index('idx_tokens_user_id').on(t.userId),
      k.uniqueIndex('idx_tokens_key').on(t.key),
      k.index('idx_tokens_name').on(t.name),
      k.index('idx_tokens_deleted_at').on(t.deletedAt),
    ],
  ),

  userSessions: k.table(
    'user_sessions',
    {
      sid: k.varchar('sid', 64).primaryKey(),
      userId: k.bigint('user_id').notNull(),
      version: k.bigint('version').notNull().default(1),
      userAuthVersion: k.bigint('user_auth_version').notNull(),
      /** `active`, `revoked` */
      status: k.varchar('status', 16).notNull(),
      refreshHash: k.char('refresh_hash', 64).notNull(),
      previousRefreshHash: k.varchar('previous_refresh_hash', 64),
      previousValidUntil: k.bigint('previous_valid_until').notNull().default(0),
      loginMethod: k.varchar('login_method', 32).notNull(),
      ip: k.varchar('ip', 64),
      userAgent: k.text('user_agent'),
      createdAt: k.bigint('created_at'),
      lastActiveAt: k.bigint('last_active_at').notNull(),
      expiresAt: k.bigint('expires_at').notNull(),
      revokedAt: k.bigint('revoked_at').notNull().default(0),
      revokedReason: k.varchar('revoked_reason', 64),
    },
    (t) => [
      k.index('idx_user_sessions_user_status_expiry').on(t.userId, t.status, t.expiresAt),
      k.index('idx_user_sessions_user_created').on(t.userId, t.createdAt),
      k.index('idx_user_sessions_status_revoked').on(t.status, t.revokedAt),
      k.index('idx_user_sessions_expires_at').on(t.expiresAt),
    ],
  ),

  authFlows: k.table(
    'auth_flows',
    {
      id: k.id(),
      tokenHash: k.char('token_hash', 64).notNull(),
      purpose: k.varchar('purpose', 32).notNull(),
      provider: k.varchar('provider', 64),
      intent: k.varchar('intent', 16),
      userId: k.bigint('user_id'),
      sessionId: k.varchar('session_id', 64),
      payload: k.text('payload'),
      createdAt: k.datetime3('created_at'),
      expiresAt: k.datetime3('expires_at').notNull(),
      consumedAt: k.datetime3('consumed_at'),
    },
    (t) => [
      k.uniqueIndex('idx_auth_flows_token_hash').on(t.tokenHash),
      k.index('idx_auth_flow_purpose_expiry').on(t.purpose, t.expiresAt),
      k.index('idx_auth_flows_user_id').on(t.userId),
      k.index('idx_auth_flows_session_id').on(t.sessionId),
      k.index('idx_auth_flows_consumed_at').on(t.consumedAt),
    ],
  ),

  /** Any row: the system is set up. */
  setups: k.table('setups', {
    id: k.unsignedId(),
    version: k.varchar('version', 50).notNull(),
    /** Unix seconds */
    initializedAt: k.bigint('initialized_at').notNull(),
  }),

  redemptions: k.table(
    'redemptions',
    {
      id: k.id(),
      /** who made it */
      userId: k.bigint('user_id'),
      key: k.char('key', 32),
      /** 1 unused, 2 disabled, 3 used */
      status: k.bigint('status').default(1),
      name: k.varchar('name', 191),
      quota: k.bigint('quota').default(100),
      createdTime: k.bigint('created_time'),
      redeemedTime: k.bigint('redeemed_time'),
      usedUserId: k.bigint('used_user_id'),
      deletedAt: k.datetime3('deleted_at'),
      /** Unix seconds; 0 never */
      expiredTime: k.bigint('expired_time'),
    },
    (t) => [
      k.uniqueIndex('idx_redemptions_key').on(t.key),
      k.index('idx_redemptions_name').on(t.name),
      k.index('idx_redemptions_deleted_at').on(t.deletedAt),
    ],
  ),
})
