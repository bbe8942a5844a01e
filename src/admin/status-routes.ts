/** What a visitor may know of this installation, all from memory, and the operator's test of the database. */
import { Elysia, t } from 'elysia'
import { type Accounts, ROLE } from '../domain/accounts/index.ts'
import type { Options } from '../domain/options/index.ts'
import { type AdminHttp, envelope, ok } from './http.ts'

/** A good answer of the database is taken for as long. */
const PING_FRESH_MS = 10_000

const anyList = t.Array(t.Record(t.String(), t.Any()))
const statusJson = t.Object({
  version: t.String(),
  start_time: t.Integer({ description: 'Unix seconds' }),
  setup: t.Boolean(),
  system_name: t.String(),
  logo: t.String(),
  footer_html: t.String(),
  server_address: t.String(),
  docs_link: t.String(),
  theme: t.String(),
  email_verification: t.Boolean(),
  register_enabled: t.Boolean(),
  password_login_enabled: t.Boolean(),
  password_register_enabled: t.Boolean(),
  github_oauth: t.Boolean(),
  github_client_id: t.String(),
  discord_oauth: t.Boolean(),
  discord_client_id: t.String(),
  linuxdo_oauth: t.Boolean(),
  linuxdo_client_id: t.String(),
  linuxdo_minimum_trust_level: t.Integer(),
  telegram_oauth: t.Boolean(),
  telegram_bot_name: t.String(),
  wechat_login: t.Boolean(),
  wechat_qrcode: t.String(),
  oidc_enabled: t.Boolean(),
  oidc_client_id: t.String(),
  oidc_authorization_endpoint: t.String(),
  oidc_display_name: t.String(),
  passkey_login: t.Boolean(),
  passkey_display_name: t.String(),
  passkey_rp_id: t.String(),
  passkey_origins: t.String(),
  passkey_allow_insecure: t.Boolean(),
  passkey_user_verification: t.String(),
  passkey_attachment: t.String(),
  turnstile_check: t.Boolean(),
  turnstile_site_key: t.String(),
  quota_per_unit: t.Number(),
  display_in_currency: t.Boolean(),
  quota_display_type: t.String(),
  custom_currency_symbol: t.String(),
  custom_currency_exchange_rate: t.Number(),
  usd_exchange_rate: t.Number(),
  price: t.Number(),
  stripe_unit_price: t.Number(),
  enable_batch_update: t.Boolean(),
  enable_drawing: t.Boolean(),
  enable_task: t.Boolean(),
  enable_data_export: t.Boolean(),
  data_export_default_time: t.String(),
  default_collapse_sidebar: t.Boolean(),
  mj_notify_enabled: t.Boolean(),
  demo_site_enabled: t.Boolean(),
  self_use_mode_enabled: t.Boolean(),
  default_use_auto_group: t.Boolean(),
  checkin_enabled: t.Boolean(),
  chats: anyList,
  api_info_enabled: t.Boolean(),
  uptime_kuma_enabled: t.Boolean(),
  announcements_enabled: t.Boolean(),
  faq_enabled: t.Boolean(),
  api_info: t.Optional(anyList),
  announcements: t.Optional(anyList),
  faq: t.Optional(anyList),
  HeaderNavModules: t.String({ description: 'JSON text or empty' }),
  SidebarModulesAdmin: t.String({ description: 'JSON text or empty' }),
  user_agreement_enabled: t.Boolean(),
  privacy_policy_enabled: t.Boolean(),
})

/** Texts that are shown to everyone, by path. */
const TEXTS = {
  notice: 'Notice',
  about: 'About',
  home_page_content: 'HomePageContent',
  'user-agreement': 'legal.user_agreement',
  'privacy-policy': 'legal.privacy_policy',
} as const

export const statusRoutes = (deps: {
  readonly accounts: Pick<Accounts, 'setup'>
  readonly options: Options
  readonly http: AdminHttp
  readonly version: string
  readonly startTimeSec: number
  /** `BATCH_UPDATE_ENABLED` */
  readonly isBatchUpdate: boolean
  /** Public address, '' while unknown. */
  readonly baseUrl: () => string
  /** Asks the main database for a sign of life. */
  readonly pingDb: () => Promise<unknown>
  /** Calls being answered by this process. */
  readonly activeConnections: () => number
  readonly clock: { monotonic(): number }
}) => {
  const { options, http, clock } = deps
  let isGoodUntilMs = 0
  const textOf = (key: keyof typeof TEXTS) => () => ok(options.get(TEXTS[key]))
  const textRoute = (summary: string) => ({ response: envelope(t.String()), detail: { summary } })

  return new Elysia({ prefix: '/api', detail: { tags: ['status'] } })
    .get(
      '/status',
      () =>
        ok({
          version: deps.version,
          start_time: deps.startTimeSec,
          setup: deps.accounts.setup.isDone(),
          enable_batch_update: deps.isBatchUpdate,
          ...publicOptions(options),
          server_address: deps.baseUrl(),
        }),
      { response: envelope(statusJson), detail: { summary: 'What visitors may know of this installation' } },
    )
    .get(
      '/status/test',
      async ({ request, set }) => {
        await http.actor(request, ROLE.admin)
        const stats = { http_stats: { active_connections: deps.activeConnections() } }
        try {
          if (clock.monotonic() >= isGoodUntilMs) await deps.pingDb()
          isGoodUntilMs = clock.monotonic() + PING_FRESH_MS
          return { success: true, message: '', ...stats }
        } catch {
          // The cause is in the database's own log lines; what matters to the caller is that it does not answer.
          isGoodUntilMs = 0
          set.status = 503
          return {
            success: false,
            message: http.language(request) === 'zh' ? '数据库连接失败' : 'The database does not answer',
            ...stats,
          }
        }
      },
      {
        response: {
          200: t.Object({
            success: t.Boolean(),
            message: t.String(),
            http_stats: t.Object({ active_connections: t.Integer() }),
          }),
          503: t.Object({
            success: t.Boolean(),
            message: t.String(),
            http_stats: t.Object({ active_connections: t.Integer() }),
          }),
        },
        detail: { summary: 'Does the database answer?' },
      },
    )
    .get('/notice', textOf('notice'), textRoute('Notice'))
    .get('/about', textOf('about'), textRoute('About page'))
    .get('/home_page_content', textOf('home_page_content'), textRoute('Home page'))
    .get('/user-agreement', textOf('user-agreement'), textRoute('User agreement'))
    .get('/privacy-policy', textOf('privacy-policy'), textRoute('Privacy policy'))
}

/** The options among the fields of the status. */
function publicOptions(options: Options) {
  const { get } = options
  const { texts } = options.state()
  const displayType = get('general_setting.quota_display_type')
  return {
    system_name: get('SystemName'),
    logo: get('Logo'),
    footer_html: get('Footer'),
    docs_link: get('general_setting.docs_link'),
    theme: 'default',
    email_verification: get('EmailVerificationEnabled'),
    register_enabled: get('RegisterEnabled'),
    password_login_enabled: get('PasswordLoginEnabled'),
    password_register_enabled: get('PasswordRegisterEnabled'),
    github_oauth: get('GitHubOAuthEnabled'),
    github_client_id: get('GitHubClientId'),
    discord_oauth: get('discord.enabled'),
    discord_client_id: get('discord.client_id'),
    linuxdo_oauth: get('LinuxDOOAuthEnabled'),
    linuxdo_client_id: get('LinuxDOClientId'),
    linuxdo_minimum_trust_level: get('LinuxDOMinimumTrustLevel'),
    telegram_oauth: get('TelegramOAuthEnabled'),
    telegram_bot_name: get('TelegramBotName'),
    wechat_login: get('WeChatAuthEnabled'),
    wechat_qrcode: get('WeChatAccountQRCodeImageURL'),
    oidc_enabled: get('oidc.enabled'),
    oidc_client_id: get('oidc.client_id'),
    oidc_authorization_endpoint: get('oidc.authorization_endpoint'),
    oidc_display_name: get('oidc.display_name') || 'OIDC',
    passkey_login: get('passkey.enabled'),
    passkey_display_name: get('passkey.rp_display_name'),
    passkey_rp_id: get('passkey.rp_id'),
    passkey_origins: get('passkey.origins'),
    passkey_allow_insecure: get('passkey.allow_insecure_origin'),
    passkey_user_verification: get('passkey.user_verification'),
    passkey_attachment: get('passkey.attachment_preference'),
    turnstile_check: get('TurnstileCheckEnabled'),
    turnstile_site_key: get('TurnstileSiteKey'),
    quota_per_unit: get('QuotaPerUnit'),
    display_in_currency: displayType !== 'TOKENS',
    quota_display_type: displayType,
    custom_currency_symbol: get('general_setting.custom_currency_symbol'),
    custom_currency_exchange_rate: get('general_setting.custom_currency_exchange_rate'),
    usd_exchange_rate: get('USDExchangeRate'),
    price: get('Price'),
    stripe_unit_price: get('StripeUnitPrice'),
    enable_drawing: get('DrawingEnabled'),
    enable_task: get('TaskEnabled'),
    enable_data_export: get('DataExportEnabled'),
    data_export_default_time: get('DataExportDefaultTime'),
    default_collapse_sidebar: get('DefaultCollapseSidebar'),
    mj_notify_enabled: get('MjNotifyEnabled'),
    demo_site_enabled: get('DemoSiteEnabled'),
    self_use_mode_enabled: get('SelfUseModeEnabled'),
    default_use_auto_group: get('DefaultUseAutoGroup'),
    checkin_enabled: get('checkin_setting.enabled'),
    chats: copies(get('Chats')),
    uptime_kuma_enabled: get('console_setting.uptime_kuma_enabled'),
    ...panel('api_info', get('console_setting.api_info_enabled'), get('console_setting.api_info')),
    ...panel(
      'announcements',
      get('console_setting.announcements_enabled'),
      newestFirst(get('console_setting.announcements')),
    ),
    ...panel('faq', get('console_setting.faq_enabled'), get('console_setting.faq')),
    HeaderNavModules: texts.get('HeaderNavModules') ?? '',
    SidebarModulesAdmin: texts.get('SidebarModulesAdmin') ?? '',
    user_agreement_enabled: get('legal.user_agreement') !== '',
    privacy_policy_enabled: get('legal.privacy_policy') !== '',
  }
}

type Items = readonly Readonly<Record<string, unknown>>[]

/** Options are frozen; replies are not. */
const copies = (items: Items): Record<string, unknown>[] => items.map((item) => ({ ...item }))

/** A panel's list is there only while the panel is switched on. */
const panel = <Name extends 'api_info' | 'announcements' | 'faq'>(name: Name, isEnabled: boolean, items: Items) =>
  ({ [`${name}_enabled`]: isEnabled, ...(isEnabled && { [name]: copies(items) }) }) as {
    // The computed names above, spelt out.
    readonly [Key in `${Name}_enabled`]: boolean
  } & { [Key in Name]?: Record<string, unknown>[] }

const newestFirst = (items: Items): Items =>
  [...items].sort((a, b) => Date.parse(String(b['publishDate'])) - Date.parse(String(a['publishDate'])))
