/**
 * The table of environment variables: name, kind, default, section and what each does. The type of the configuration,
 * the README's table and the near-miss check all derive from it. Names and defaults that New API has are kept.
 */

export const SECTIONS = {
  process: 'Process and network',
  cluster: 'Cluster, Redis, secrets',
  database: 'Database and ledger',
  relay: 'Relay',
  accounts: 'Accounts and jobs',
} as const

/** How a text becomes a value. `flag`: only the text `true` counts. `list`: split at commas. */
export interface Variable<T> {
  readonly name: string
  /** Other names for the same thing; the first set one counts. */
  readonly aliases: readonly string[]
  readonly kind: 'integer' | 'boolean' | 'flag' | 'text' | 'list'
  readonly fallback: T
  readonly section: keyof typeof SECTIONS
  readonly description: string
  /** `whole`: never shown. `address`: shown without its password. */
  readonly secret: 'no' | 'whole' | 'address'
  readonly min: number
  readonly max: number
  /** Allowed texts; empty: any. */
  readonly choices: readonly string[]
}

type Extra = Partial<Pick<Variable<unknown>, 'aliases' | 'secret' | 'min' | 'max' | 'choices'>>
type Section = keyof typeof SECTIONS

const variable = <T>(
  kind: Variable<T>['kind'],
  section: Section,
  name: string,
  fallback: T,
  description: string,
  extra: Extra = {},
): Variable<T> => ({
  name,
  kind,
  fallback,
  section,
  description,
  aliases: extra.aliases ?? [],
  secret: extra.secret ?? 'no',
  min: extra.min ?? 0,
  max: extra.max ?? Number.MAX_SAFE_INTEGER,
  choices: extra.choices ?? [],
})
const integer = (section: Section, name: string, fallback: number, description: string, extra?: Extra) =>
  variable<number>('integer', section, name, fallback, description, extra)
const boolean = (section: Section, name: string, fallback: boolean, description: string) =>
  variable<boolean>('boolean', section, name, fallback, description)
const flag = (section: Section, name: string, description: string) =>
  variable<boolean>('flag', section, name, false, description)
const text = (section: Section, name: string, fallback: string, description: string, extra?: Extra) =>
  variable<string>('text', section, name, fallback, description, extra)
const list = (section: Section, name: string, description: string, extra?: Extra) =>
  variable<readonly string[]>('list', section, name, [], description, extra)

/** Every variable that has an effect, by the key it has in `Config`. */
export const VARIABLES = {
  // Process and network
  port: integer('process', 'PORT', 3000, 'Port to listen on; wins over `--port`', { max: 65_535 }),
  listenHost: text('process', 'LISTEN_HOST', '', 'Address to listen on; empty means all, IPv6 and IPv4'),
  workers: integer(
    'process',
    'WORKERS',
    0,
    'Server processes that share the port. 0: one on SQLite, else one per CPU, at most 8',
    { max: 256 },
  ),
  dataDir: text(
    'process',
    'DATA_DIR',
    '',
    'Local folder for the journal, the generated secret and the lock; default: the folder of the SQLite file',
  ),
  shutdownTimeoutSec: integer(
    'process',
    'SHUTDOWN_TIMEOUT_SECONDS',
    120,
    'How long a stop waits for running calls, in seconds',
    { max: 86_400 },
  ),
  timeZone: text('process', 'TZ', '', "Time zone of the process, such as `Asia/Shanghai`; default: the system's"),
  trustedProxies: list(
    'process',
    'TRUSTED_PROXIES',
    'Addresses and networks whose `X-Forwarded-For` counts; `none` for nobody; default: loopback and private networks',
  ),
  tlsInsecureSkipVerify: boolean(
    'process',
    'TLS_INSECURE_SKIP_VERIFY',
    false,
    'Do not check certificates of upstreams',
  ),
  httpProxy: text(
    'process',
    'HTTP_PROXY',
    '',
    'Proxy for calls to `http://` upstreams: an http, https or socks5 URL; SOCKS5 proxies find the names of hosts themselves',
    {
      aliases: ['http_proxy'],
      secret: 'address',
    },
  ),
  httpsProxy: text('process', 'HTTPS_PROXY', '', 'Proxy for calls to `https://` upstreams', {
    aliases: ['https_proxy'],
    secret: 'address',
  }),
  noProxy: text(
    'process',
    'NO_PROXY',
    '',
    'Hosts, with those below them, and networks such as `10.0.0.0/8`, that are called without a proxy; `*` for all',
    {
      aliases: ['no_proxy'],
    },
  ),
  reportedVersion: text('process', 'VERSION', '', 'Version to report instead of the built-in one'),
  isDebug: flag('process', 'DEBUG', '`true`: log at level debug'),
  logLevel: text('process', 'LOG_LEVEL', 'info', 'Least level that is logged', {
    choices: ['debug', 'info', 'warn', 'error'],
  }),
  logDir: text(
    'process',
    'LOG_DIR',
    '',
    'Folder for log files beside standard output; `--log-dir` wins; empty: no files',
  ),
  logMaxMb: integer(
    'process',
    'LOG_MAX_MB',
    100,
    "A log file that grows past this many MiB is followed by a new one; so is each day's",
    { min: 1 },
  ),
  logKeepDays: integer('process', 'LOG_KEEP_DAYS', 30, 'Log files older than this many days are deleted; 0 keeps them'),
  logKeepMb: integer(
    'process',
    'LOG_KEEP_MB',
    2048,
    'Log files past this sum in MiB are deleted, oldest first; 0 keeps them',
  ),

  // Cluster, Redis, secrets
  nodeType: text(
    'cluster',
    'NODE_TYPE',
    'master',
    '`slave`: a full node that leaves the schema and the shared jobs to a master',
  ),
  frontendBaseUrl: text(
    'cluster',
    'FRONTEND_BASE_URL',
    '',
    'Public address of the web pages, before the option `ServerAddress`; a slave redirects pages there that were asked of another host',
  ),
  metricsAllow: list(
    'cluster',
    'METRICS_ALLOW',
    'Addresses and networks that may read `/metrics`, beside this machine itself',
  ),
  metricsToken: text('cluster', 'METRICS_TOKEN', '', 'Bearer token that opens `/metrics` from anywhere', {
    secret: 'whole',
  }),
  nodeName: text('cluster', 'NODE_NAME', '', 'Name of this node in lists and logs; default: the host name'),
  syncFrequencySec: integer(
    'cluster',
    'SYNC_FREQUENCY',
    60,
    'Period of the full reload from the database, in seconds; changes made through Headgate travel in milliseconds',
    { min: 1, max: 86_400 },
  ),
  isBatchUpdate: flag(
    'cluster',
    'BATCH_UPDATE_ENABLED',
    '`true`: charges go to the database every `BATCH_UPDATE_INTERVAL` instead of at once; nothing is lost in either',
  ),
  batchUpdateIntervalSec: integer('cluster', 'BATCH_UPDATE_INTERVAL', 5, 'That interval, in seconds', {
    min: 1,
    max: 3600,
  }),
  redisConnString: text(
    'cluster',
    'REDIS_CONN_STRING',
    '',
    'Redis address, `redis://` or `rediss://user:password@host:port/db`, also with several `host:port` parted by commas (a Redis Cluster, Sentinels) or `unix://`; without it the workers of a node share memory',
    { secret: 'address' },
  ),
  redisPassword: text('cluster', 'REDIS_PASSWORD', '', 'Password of Redis, if the address has none', {
    secret: 'whole',
  }),
  redisMasterName: text(
    'cluster',
    'REDIS_MASTER_NAME',
    '',
    'What the Sentinels at `REDIS_CONN_STRING` call their primary; a plain Redis there is used directly',
  ),
  redisSentinelPassword: text(
    'cluster',
    'REDIS_SENTINEL_PASSWORD',
    '',
    'Password of the Sentinels themselves; that of the data is in `REDIS_CONN_STRING` or `REDIS_PASSWORD`',
    { secret: 'whole' },
  ),
  redisPoolSize: integer(
    'cluster',
    'REDIS_CONN_POOL_SIZE',
    10,
    'Command connections of this node, shared out among its workers (at least one each, and one more for messages); on a Redis Cluster to each primary',
    { min: 1, max: 1_000, aliases: ['REDIS_POOL_SIZE'] },
  ),
  sessionSecret: text(
    'cluster',
    'SESSION_SECRET',
    '',
    'Key of log-in sessions, equal on all nodes; default: made once and kept in `DATA_DIR`',
    { secret: 'whole' },
  ),
  sessionSecretPrevious: text(
    'cluster',
    'SESSION_SECRET_PREVIOUS',
    '',
    'The session secret before this one, accepted beside it; see "Secrets"',
    { secret: 'whole' },
  ),
  cryptoSecret: text(
    'cluster',
    'CRYPTO_SECRET',
    '',
    'Encrypts upstream keys in the database, equal on all nodes; see "Secrets"; default: `SESSION_SECRET`',
    { secret: 'whole' },
  ),
  cryptoSecretPrevious: text(
    'cluster',
    'CRYPTO_SECRET_PREVIOUS',
    '',
    'The crypto secret before this one, which still opens what it encrypted',
    { secret: 'whole' },
  ),
  isKeyEncryptionWanted: boolean(
    'cluster',
    'ENCRYPT_KEYS_AT_REST',
    true,
    'With a `CRYPTO_SECRET`, upstream keys of a database that nobody has used yet are encrypted from the start; of any other only after `headgate keys encrypt`',
  ),
  sessionCookieSecure: boolean(
    'cluster',
    'SESSION_COOKIE_SECURE',
    false,
    'Refresh cookie only over https, with a check of the Origin; needs the next one',
  ),
  sessionCookieTrustedUrls: list(
    'cluster',
    'SESSION_COOKIE_TRUSTED_URL',
    'Exact https origins that may refresh a session',
  ),
  sessionActiveLimit: integer('cluster', 'USER_SESSION_ACTIVE_LIMIT', 50, 'Live sessions per user', { min: 1 }),
  sessionIssuanceLimit: integer('cluster', 'USER_SESSION_ISSUANCE_LIMIT', 100, 'Log-ins per user and window', {
    min: 1,
  }),
  sessionIssuanceWindowSec: integer(
    'cluster',
    'USER_SESSION_ISSUANCE_WINDOW_SECONDS',
    86_400,
    'That window, in seconds',
    { min: 1 },
  ),
  sessionRevokedRetentionDays: integer(
    'cluster',
    'USER_SESSION_REVOKED_RETENTION_DAYS',
    7,
    'Days an ended session is kept',
    { min: 1 },
  ),

  // Database and ledger
  sqlDsn: text(
    'database',
    'SQL_DSN',
    '',
    'MySQL or MariaDB: `user:password@tcp(host:3306)/name` or `mysql://…`; empty: SQLite',
    { secret: 'address' },
  ),
  logSqlDsn: text('database', 'LOG_SQL_DSN', '', 'Database of the `logs` table; empty: the main one', {
    secret: 'address',
  }),
  sqlitePath: text('database', 'SQLITE_PATH', 'one-api.db', 'SQLite file, used without `SQL_DSN`'),
  sqlMaxIdleConns: integer('database', 'SQL_MAX_IDLE_CONNS', 100, 'Idle connections kept, per node'),
  sqlMaxOpenConns: integer('database', 'SQL_MAX_OPEN_CONNS', 1000, 'Connections at most, per node', { min: 2 }),
  sqlMaxLifetimeSec: integer('database', 'SQL_MAX_LIFETIME', 60, 'Seconds after which an idle connection is replaced', {
    min: 1,
  }),
  sqlSlowThresholdMs: integer(
    'database',
    'SQL_SLOW_THRESHOLD_MS',
    200,
    'Queries slower than this are logged, in milliseconds; 0: none',
    { max: 3_600_000 },
  ),
  outboxSync: text(
    'database',
    'OUTBOX_SYNC',
    'normal',
    '`full`: each charge is synced to the disk before its reply ends; `normal` is safe against kills, not against a power cut',
    { choices: ['normal', 'full'] },
  ),
  ledgerLeaseSec: integer('database', 'LEDGER_LEASE', 90, 'Lease of a node, in seconds; equal on all nodes', {
    min: 1,
    max: 3600,
  }),
  outboxKeepMb: integer(
    'database',
    'OUTBOX_KEEP_MB',
    1024,
    'Room on the disk of a node for charges that the databases have already, in MiB: they are kept for ten leases, in case a replica is promoted that lacks some',
    { min: 1 },
  ),
  jobLeaseSec: integer(
    'cluster',
    'JOB_LEASE',
    60,
    'Lease of a background job, in seconds: a master that dies keeps what it was doing waiting for so long',
    { min: 1, max: 3600 },
  ),

  // Relay
  relayTimeoutSec: integer('relay', 'RELAY_TIMEOUT', 0, 'Longest upstream call, in seconds; 0: none'),
  relayFirstByteTimeoutSec: integer(
    'relay',
    'RELAY_FIRST_BYTE_TIMEOUT',
    600,
    'Longest wait for an upstream to begin its answer, in seconds; 0: none',
  ),
  streamingTimeoutSec: integer('relay', 'STREAMING_TIMEOUT', 300, 'Longest silence of a stream, in seconds', {
    min: 1,
  }),
  streamMaxLineMb: integer('relay', 'STREAM_SCANNER_MAX_BUFFER_MB', 128, 'Longest line of a stream, in MiB', {
    min: 1,
  }),
  maxRequestBodyMb: integer('relay', 'MAX_REQUEST_BODY_MB', 128, 'Largest request body after decompression, in MiB', {
    min: 1,
  }),
  anonymousBodyLimitKb: integer(
    'relay',
    'ANONYMOUS_REQUEST_BODY_LIMIT_KB',
    512,
    'Largest body on public routes, in KiB',
    { min: 1 },
  ),
  forceStreamOption: boolean(
    'relay',
    'FORCE_STREAM_OPTION',
    true,
    'Ask upstreams for the usage of a stream, and hide it from clients that did not ask',
  ),
  countToken: boolean('relay', 'CountToken', true, 'Count tokens of texts here when an upstream does not report them'),
  errorLogEnabled: boolean(
    'relay',
    'ERROR_LOG_ENABLED',
    true,
    'Keep a log row also for calls that failed or were refused',
  ),
  azureDefaultApiVersion: text(
    'relay',
    'AZURE_DEFAULT_API_VERSION',
    '2025-04-01-preview',
    'API version of Azure channels that name none',
  ),

  // Accounts and jobs
  channelTestMinutes: integer(
    'accounts',
    'CHANNEL_TEST_FREQUENCY',
    0,
    'Minutes between tests of all channels; 0: as `monitor_setting.auto_test_channel_enabled` and `…_minutes` say',
  ),
  channelTestWanted: text(
    'accounts',
    'CHANNEL_TEST_ENABLED',
    '',
    '`true` or `false` turns these tests on or off, whatever else says so',
    { choices: ['', 'true', 'false', '1', '0'] },
  ),
  pollingIntervalSec: integer(
    'accounts',
    'POLLING_INTERVAL',
    0,
    'Pause between two channels of such a test, in seconds',
  ),
  channelUpdateMinutes: integer(
    'accounts',
    'CHANNEL_UPDATE_FREQUENCY',
    0,
    'Minutes between readings of the balances of channels at their upstreams; 0: never',
  ),
  apiRateLimitEnable: boolean(
    'accounts',
    'GLOBAL_API_RATE_LIMIT_ENABLE',
    true,
    'Limit requests to the administration API per client address',
  ),
  apiRateLimit: integer('accounts', 'GLOBAL_API_RATE_LIMIT', 360, 'How many of them per window', { min: 1 }),
  apiRateLimitDurationSec: integer('accounts', 'GLOBAL_API_RATE_LIMIT_DURATION', 180, 'That window, in seconds', {
    min: 1,
  }),
  webRateLimitEnable: boolean(
    'accounts',
    'GLOBAL_WEB_RATE_LIMIT_ENABLE',
    true,
    'Limit requests for pages per client address',
  ),
  webRateLimit: integer('accounts', 'GLOBAL_WEB_RATE_LIMIT', 120, 'How many of them per window', { min: 1 }),
  webRateLimitDurationSec: integer('accounts', 'GLOBAL_WEB_RATE_LIMIT_DURATION', 180, 'That window, in seconds', {
    min: 1,
  }),
  searchRateLimitEnable: boolean('accounts', 'SEARCH_RATE_LIMIT_ENABLE', true, 'Limit searches per user'),
  searchRateLimit: integer('accounts', 'SEARCH_RATE_LIMIT', 10, 'How many of them per window', { min: 1 }),
  searchRateLimitDurationSec: integer('accounts', 'SEARCH_RATE_LIMIT_DURATION', 60, 'That window, in seconds', {
    min: 1,
  }),
  criticalRateLimitEnable: boolean(
    'accounts',
    'CRITICAL_RATE_LIMIT_ENABLE',
    true,
    'Limit log-ins and the like per client address',
  ),
  criticalRateLimit: integer('accounts', 'CRITICAL_RATE_LIMIT', 20, 'How many of them per window', { min: 1 }),
  criticalRateLimitDurationSec: integer('accounts', 'CRITICAL_RATE_LIMIT_DURATION', 1200, 'That window, in seconds', {
    min: 1,
  }),
} as const satisfies Record<string, Variable<unknown>>

export type VariableKey = keyof typeof VARIABLES

/** Read by the runtime itself, or by what runs around it. */
export const RUNTIME_VARIABLES: readonly string[] = [
  'ALL_PROXY',
  'FTP_PROXY',
  'HOSTNAME',
  'KUBERNETES_SERVICE_HOST',
  'DOCKER_CONTAINER',
]

/**
 * Variables of New API, of its guides and of later releases that are accepted and change nothing: what they tune is absent here, not there
 * yet, or always on.
 */
export const IGNORED_VARIABLES: readonly string[] = [
  'GENERATE_DEFAULT_TOKEN',
  'GIN_MODE',
  'ENABLE_PPROF',
  'PYROSCOPE_URL',
  'PYROSCOPE_APP_NAME',
  'PYROSCOPE_BASIC_AUTH_USER',
  'PYROSCOPE_BASIC_AUTH_PASSWORD',
  'PYROSCOPE_MUTEX_RATE',
  'PYROSCOPE_BLOCK_RATE',
  'UMAMI_WEBSITE_ID',
  'UMAMI_SCRIPT_URL',
  'GOOGLE_ANALYTICS_ID',
  'TRUSTED_REDIRECT_DOMAINS',
  'MEMORY_CACHE_ENABLED',
  'USER_SESSION_HOURLY_ALERT_THRESHOLD',
  'SUBSCRIPTION_PLAN_CACHE_TTL',
  'SUBSCRIPTION_PLAN_INFO_CACHE_TTL',
  'SUBSCRIPTION_PLAN_CACHE_CAP',
  'SUBSCRIPTION_PLAN_INFO_CACHE_CAP',
  'LOG_SQL_CLICKHOUSE_TTL_DAYS',
  'RELAY_IDLE_CONN_TIMEOUT',
  'RELAY_MAX_IDLE_CONNS',
  'RELAY_MAX_IDLE_CONNS_PER_HOST',
  'MAX_FILE_DOWNLOAD_MB',
  'GET_MEDIA_TOKEN',
  'GET_MEDIA_TOKEN_NOT_STREAM',
  'COHERE_SAFETY_SETTING',
  'DIFY_DEBUG',
  'ALI_ANTHROPIC_MESSAGES_MODELS',
  'LINUX_DO_TOKEN_ENDPOINT',
  'LINUX_DO_USER_ENDPOINT',
  'CHANNEL_UPSTREAM_MODEL_UPDATE_TASK_ENABLED',
  'CHANNEL_UPSTREAM_MODEL_UPDATE_TASK_INTERVAL_MINUTES',
  'CHANNEL_UPSTREAM_MODEL_UPDATE_MIN_CHECK_INTERVAL_SECONDS',
  'UPDATE_TASK',
  'TASK_QUERY_LIMIT',
  'TASK_TIMEOUT_MINUTES',
  'TASK_PRICE_PATCH',
  'NOTIFY_LIMIT_COUNT',
  'NOTIFICATION_LIMIT_DURATION_MINUTE',
  'SMTP_STARTTLS_ENABLE',
  'SMTP_STARTTLS_ENABLED',
  'SMTP_INSECURE_SKIP_VERIFY',
  'SMTP_TLS_INSECURE_SKIP_VERIFY',
  'SYNC_UPSTREAM_BASE',
  'SYNC_HTTP_TIMEOUT_SECONDS',
  'SYNC_HTTP_RETRY',
  'SYNC_HTTP_MAX_MB',
  'GEMINI_VISION_MAX_IMAGE_NUM',
  'GEMINI_MODEL_MAP',
  'GEMINI_SAFETY_SETTING',
]
