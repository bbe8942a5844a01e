/**
 * The composition root: opens everything in order, wires it by explicit arguments, and closes it in reverse. One long
 * file on purpose; no other file knows more than its own dependencies.
 */
import { type AnyElysia, Elysia } from 'elysia'
import { apiKeyRoutes } from './admin/api-key-routes.ts'
import { authRoutes } from './admin/auth-routes.ts'
import { billingCompatRoutes } from './admin/billing-compat-routes.ts'
import { channelRoutes } from './admin/channel-routes.ts'
import { configRoutes } from './admin/config-routes.ts'
import { dataRoutes } from './admin/data-routes.ts'
import { homeRoutes } from './admin/home-routes.ts'
import { createAdminHttp, type PeerSource } from './admin/http.ts'
import { adminRoutes } from './admin/index.ts'
import { logRoutes } from './admin/log-routes.ts'
import { openApiRoutes } from './admin/openapi-routes.ts'
import { optionRoutes } from './admin/option-routes.ts'
import { createPageRedirect } from './admin/page-redirect.ts'
import { pricingRoutes } from './admin/pricing-routes.ts'
import { redemptionRoutes } from './admin/redemption-routes.ts'
import { selfRoutes } from './admin/self-routes.ts'
import { setupRoutes } from './admin/setup-routes.ts'
import { statusRoutes } from './admin/status-routes.ts'
import { userRoutes } from './admin/user-routes.ts'
import { VERSION } from './build-info.ts'
import { type Config, ConfigError, describeConfig } from './config.ts'
import {
  buildIndexes,
  type Db,
  DbError,
  openDb,
  parseDsn,
  readClusterId,
  readTopicVersions,
  syncSchema,
  waitForSchema,
} from './db/index.ts'
import { createAccounts } from './domain/accounts/index.ts'
import { createAudit } from './domain/audit.ts'
import { createLedger, createPrices, deliverCreditLogs } from './domain/billing/index.ts'
import { beginKeysAtRest, createChannels, lockedKeys } from './domain/channels/index.ts'
import {
  createAgreement,
  createTakeTurn,
  deriveSecrets,
  type NodeSettings,
  openSalt,
  secretInfo,
  settingsInfo,
} from './domain/cluster/index.ts'
import { createBaseUrl, createOptions } from './domain/options/index.ts'
import { createHourlyReads, createLogReads, createModelCatalog } from './domain/usage/index.ts'
import {
  buildIndexesJob,
  cleanSessionsJob,
  createJobRunner,
  deliverCreditLogsJob,
  syncLogSchemaJob,
} from './jobs/index.ts'
import { systemClock } from './lib/clock.ts'
import { clientIp, normaliseIp, PRIVATE_NETWORKS, parseCidrs } from './lib/ip.ts'
import { createLifecycle } from './lib/lifecycle.ts'
import type { Log } from './lib/log.ts'
import { redactAddress } from './lib/redact.ts'
import type { NodeLink, Readiness } from './node.ts'
import { createProviders } from './provider/registry.ts'
import { createRelay } from './relay/index.ts'
import { roleOf } from './role.ts'
import { createTopics, openRedisState } from './state/index.ts'

export interface App {
  /** @returns when the node serves. @throws what kept it from it; `stop` closes what was opened until then */
  start(): Promise<void>
  /** Drains: live calls get the deadline, then everything closes in reverse order. */
  stop(deadlineMs: number): Promise<void>
  readiness(): Readiness
  /** Where it listens; absent before. */
  address(): { readonly port: number } | undefined
}

/** How long a start waits for a database that is away or full before it gives up. */
const DB_WAIT_MS = 120_000
const DB_RETRY_MS = 1_000
/** Balancers and keep-alive clients look away in this time, before the listener closes. */
const LOOK_AWAY_MS = 500
const READINESS_EVERY_MS = 250
const KIB = 1024
const MIB = 1024 * KIB
/** Beyond Bun's own default: the relay and the admin API bound bodies themselves, with a clear error. */
const NO_LIMIT_BYTES = Number.MAX_SAFE_INTEGER
const ADMIN_BODY_BYTES = 16 * MIB

export function createApp({ config, log, node }: { config: Config; log: Log; node: NodeLink }): App {
  const clock = systemClock
  const role = roleOf(config.nodeType)
  const version = config.reportedVersion || VERSION
  const lifecycle = createLifecycle(log)
  const startTimeSec = Math.floor(clock.now() / 1000)
  const sessionSecrets = [
    config.sessionSecret,
    ...(config.sessionSecretPrevious === '' ? [] : [config.sessionSecretPrevious]),
  ]
  let port: number | undefined
  let isListening = false
  let missing: () => readonly string[] = () => ['the node is starting']

  const report = (): void => {
    const lacking = missing()
    node.report({ isListening, ready: lacking.length === 0, missing: lacking })
  }

  const openDatabase = async (name: string, dsn: string, only?: 'logs'): Promise<Db> => {
    const workers = node.workerCount
    const db = await untilAvailable(name, log, () =>
      openDb({
        dsn,
        sqlitePath: config.sqlitePath,
        // The limits are the node's; each worker gets its part.
        pool: {
          maxIdle: Math.ceil(config.sqlMaxIdleConns / workers),
          maxOpen: Math.max(2, Math.floor(config.sqlMaxOpenConns / workers)),
          maxLifetimeMs: config.sqlMaxLifetimeSec * 1000,
          slowMs: config.sqlSlowThresholdMs,
        },
        log,
        ...(only && { only }),
      }),
    )
    lifecycle.defer(name, () => db.close())
    return db
  }

  /** The secrets of this node, once they are known to be those of its cluster. @throws ConfigError that names the variable */
  const joinCluster = (db: Db) =>
    untilAvailable('cluster', log, async () => {
      const own = await deriveSecrets(
        {
          session: sessionSecrets,
          crypto: [config.cryptoSecret, config.cryptoSecretPrevious].filter((secret) => secret !== ''),
          ledgerLeaseSec: config.ledgerLeaseSec,
        },
        await openSalt(db),
      )
      const agreement = createAgreement({
        db,
        own: own.fingerprints,
        nodeId: node.nodeId,
        isAlone: config.isSingleNode,
        isCryptoDerived: !config.hasCryptoSecret,
        unreadable: () => lockedKeys(db, own.keyring),
        leaseMs: config.ledgerLeaseSec * 1000,
        log,
        clock,
      })
      refuse(await agreement.join())
      await beginKeysAtRest(db, own.keyring, config.hasCryptoSecret && config.isKeyEncryptionWanted)
      return { ...own, agreement }
    })

  const start = async (): Promise<void> => {
    const db = await openDatabase('database', config.sqlDsn)
    const isLogSeparate = config.logSqlDsn !== ''
    const logDb = isLogSeparate ? await openDatabase('log database', config.logSqlDsn, 'logs') : db
    if (role.migrates) await untilAvailable('schema', log, () => syncSchema(db, { log, version }))
    else await waitForSchema(db, { log })
    const clusterId = await readClusterId(db)
    const secrets = await joinCluster(db)

    const state =
      config.redisConnString === ''
        ? node.state
        : await openRedisState({
            address: config.redisConnString,
            ...(config.redisPassword && { password: config.redisPassword }),
            prefix: `headgate:${clusterId}:`,
            fallback: node.state,
            log,
          })
    if (state !== node.state) lifecycle.defer('redis', () => state.close())

    const topics = createTopics({
      state,
      readVersions: () => readTopicVersions(db),
      fullReloadMs: config.syncFrequencySec * 1000,
      log,
      clock,
    })
    lifecycle.defer('topics', () => topics.stop())

    const options = createOptions({ db, topics, log, clock })
    lifecycle.defer('options', options.close)
    await options.ready()
    const baseUrl = createBaseUrl(config.frontendBaseUrl, options)
    const prices = createPrices(options)
    const providers = createProviders({
      azureApiVersion: config.azureDefaultApiVersion,
      claude: () => ({
        isThinkingSwitch: options.get('claude.thinking_adapter_enabled'),
        thinkingShare: options.get('claude.thinking_adapter_budget_tokens_percentage'),
        plainThinkingNames: options.get('global.thinking_model_blacklist'),
        headers: options.get('claude.model_headers_settings'),
      }),
    })
    const { keyring } = secrets
    const channels = createChannels({ db, topics, options, providers, keyring, log, clock, random: Math.random, fetch })
    lifecycle.defer('channels', async () => {
      await channels.idle()
      channels.close()
    })
    await channels.ready()

    const audit = createAudit({ logDb, clock, log })
    const accounts = createAccounts({
      db,
      topics,
      bus: state,
      options,
      audit,
      log,
      clock,
      version,
      secrets: sessionSecrets,
      signing: secrets.agreement.signing,
      sessionLimits: {
        active: config.sessionActiveLimit,
        issuance: config.sessionIssuanceLimit,
        issuanceWindowSec: config.sessionIssuanceWindowSec,
        revokedRetentionSec: config.sessionRevokedRetentionDays * 86_400,
      },
      freshMs: config.syncFrequencySec * 1000,
      leaseMs: config.ledgerLeaseSec * 1000,
      isLogSeparate,
    })
    lifecycle.defer('accounts', accounts.close)
    await accounts.ready()
    secrets.agreement.follow(topics)
    lifecycle.defer('secrets', secrets.agreement.close)
    topics.start()

    const ledger = createLedger({
      db,
      logDb,
      bus: state,
      log,
      clock,
      dataDir: config.dataDir,
      instance: {
        node: config.nodeName,
        worker: node.workerIndex,
        role: role.name,
        version,
        info: {
          ...secretInfo(node.nodeId, secrets.fingerprints),
          ...settingsInfo(settingsOf(config, await clockAheadOf(db))),
        },
      },
      leaseMs: config.ledgerLeaseSec * 1000,
      sync: config.outboxSync === 'full' ? 'full' : 'normal',
      flush: { isBatch: config.isBatchUpdate, intervalMs: config.batchUpdateIntervalSec * 1000 },
      isSingleNode: config.isSingleNode,
      isLogged: () => options.get('LogConsumeEnabled'),
      isExported: () => options.get('DataExportEnabled'),
    })
    lifecycle.defer('ledger', (remainingMs) => ledger.drain(remainingMs))
    await ledger.open()
    // The cluster may have gone over to another secret while nobody could see this instance.
    refuse(await secrets.agreement.confirm())

    /** Names this process alone; nodes may have one name. */
    const processName = `${config.nodeName.slice(0, 90)}-${crypto.randomUUID()}`
    const jobs = createJobRunner({
      jobs: [
        cleanSessionsJob(accounts.sessions),
        buildIndexesJob((signal) => buildIndexes(db, { log, signal })),
        ...(isLogSeparate
          ? [
              syncLogSchemaJob(() => syncSchema(logDb, { log, version })),
              deliverCreditLogsJob((signal) => deliverCreditLogs({ db, logDb, signal })),
            ]
          : []),
      ],
      role,
      takeTurn: createTakeTurn({ db, holder: processName, ttlMs: config.jobLeaseSec * 1000, log, clock }),
      log,
      clock,
    })
    lifecycle.defer('jobs', () => jobs.stop())
    jobs.start()

    const trusted = parseCidrs(
      config.trustedProxies.length === 0 ? PRIVATE_NETWORKS : config.trustedProxies.filter((item) => item !== 'none'),
    )
    const ipOf = (request: Request, server: PeerSource | null): string =>
      clientIp(request, server?.requestIP(request)?.address ?? '', trusted)

    const relay = createRelay({
      accounts,
      channels,
      ledger,
      prices,
      options,
      log,
      clock,
      fetch,
      clientIp: ipOf,
      // A node that is stopping still serves what meets it, until its listener closes.
      isReady: () => ledger.isWritable(),
      version,
      nodeName: config.nodeName,
      isErrorLogged: config.errorLogEnabled,
      isUsageForced: config.forceStreamOption,
      isTextCounted: config.countToken,
      isTlsChecked: !config.tlsInsecureSkipVerify,
      limits: {
        bodyBytes: config.maxRequestBodyMb * MIB,
        lineChars: config.streamMaxLineMb * MIB,
        firstByteMs: config.relayFirstByteTimeoutSec * 1000,
        totalMs: config.relayTimeoutSec * 1000,
        idleMs: config.streamingTimeoutSec * 1000,
      },
    })
    channels.setTester(relay.test)

    const http = createAdminHttp({
      identify: accounts.sessions.identify,
      recordAudit: audit.record,
      clientIp: ipOf,
      ...(config.criticalRateLimitEnable && {
        criticalLimit: { count: config.criticalRateLimit, windowSec: config.criticalRateLimitDurationSec },
      }),
      countCritical: (ip, windowMs) => state.add(`critical:${ip}`, 1, windowMs),
      now: clock.now,
    })
    const readableApiKey = async (request: Request) => ({
      apiKeyId: (await accounts.identifyKey(accounts.credentialOf(request, new URL(request.url)))).apiKeyId,
    })
    const documented = [
      setupRoutes({ accounts, http, databaseType: db.engine }),
      statusRoutes({
        accounts,
        options,
        http,
        version,
        startTimeSec,
        isBatchUpdate: config.isBatchUpdate,
        baseUrl,
        pingDb: () => db.now(),
        activeConnections: relay.active,
        clock,
      }),
      authRoutes({
        accounts,
        http,
        isCookieSecure: config.sessionCookieSecure,
        trustedOrigins: config.sessionCookieTrustedUrls,
      }),
      selfRoutes({ accounts, http }),
      userRoutes({ accounts, http }),
      apiKeyRoutes({ accounts, http }),
      redemptionRoutes({ accounts, http }),
      channelRoutes({ channels, options, http, isPassword: accounts.self.isPassword }),
      optionRoutes({ options, prices, http }),
      logRoutes({ logs: createLogReads({ db, logDb, clock }), http, readableApiKey }),
      dataRoutes({ hourly: createHourlyReads({ db }), http }),
      pricingRoutes({
        options,
        prices,
        channels,
        catalog: createModelCatalog({ db, clock }),
        channelTypes: providers.list.map((provider) => provider.id),
        http,
      }),
      configRoutes({ variables: () => describeConfig(config), http }),
    ] as const
    const admin = adminRoutes({
      http,
      recordAudit: audit.record,
      log,
      version,
      limits: { anonymousBodyBytes: config.anonymousBodyLimitKb * KIB, bodyBytes: ADMIN_BODY_BYTES },
      resources: documented,
      plain: [
        billingCompatRoutes({ accounts, options, http }),
        homeRoutes({ accounts, options, baseUrl }),
        openApiRoutes({ documented: () => admin, version }),
      ],
    }) as AnyElysia

    const redirectPage =
      role.redirectsPages && config.frontendBaseUrl !== '' ? createPageRedirect(config.frontendBaseUrl) : undefined
    const entrance = redirectPage
      ? new Elysia().onRequest(({ request, server }) =>
          redirectPage(request, trusted.has(normaliseIp(server?.requestIP(request)?.address ?? ''))),
        )
      : new Elysia()
    const web = entrance
      .get('/healthz', () => new Response('ok\n'), { detail: { hide: true } })
      .get(
        '/readyz',
        () => {
          const joined = node.readiness()
          return Response.json(joined, { status: joined.ready ? 200 : 503 })
        },
        { detail: { hide: true } },
      )
      .use(relay.routes)
      .use(admin)
      .all('*', ({ request }) => relay.unknownPath(request), { parse: 'none', detail: { hide: true } })
      .listen({
        hostname: config.listenHost || '::',
        port: config.port,
        reusePort: config.workers > 1,
        // Quiet streams are normal here; silence is judged by the relay.
        idleTimeout: 0,
        maxRequestBodySize: NO_LIMIT_BYTES,
      })
    const server = web.server
    if (!server) throw new Error('the server did not start to listen')
    port = server.port
    isListening = true
    lifecycle.defer('server', async (remainingMs) => {
      // Balancers see a node that is not ready; clients that hold a connection are told to open another.
      missing = () => ['the node is stopping']
      report()
      server.reload({ fetch: async (request: Request) => lastAnswer(await web.handle(request)) } as never)
      await Bun.sleep(Math.min(LOOK_AWAY_MS, remainingMs / 10))
      const closed = server.stop()
      isListening = false
      await relay.drain(remainingMs - LOOK_AWAY_MS)
      await Promise.race([closed, Bun.sleep(LOOK_AWAY_MS)])
      await server.stop(true)
    })

    missing = () => {
      const misfit = secrets.agreement.problem()
      return [
        ...(ledger.isWritable() ? [] : [`the journal in ${config.dataDir} takes no charges: is the disk full?`]),
        ...(misfit === undefined ? [] : [misfit]),
      ]
    }
    report()
    const reporting = setInterval(report, READINESS_EVERY_MS)
    lifecycle.defer('readiness', () => clearInterval(reporting))
    log.info('serving', { port, role: role.name, database: db.engine, state: state.kind, version })
  }

  return {
    start,
    stop: (deadlineMs) => lifecycle.stop(deadlineMs),
    readiness: node.readiness,
    address: () => (port === undefined ? undefined : { port }),
  }
}

/** @throws ConfigError */
function refuse(problem: string | undefined): void {
  if (problem !== undefined) throw new ConfigError(problem)
}

/** What this node tells the others, so that differences show. */
function settingsOf(config: Config, clockAheadMs: number): NodeSettings {
  const address = (dsn: string): string => {
    const parsed = parseDsn(dsn)
    return 'host' in parsed ? `${parsed.socketPath ?? `${parsed.host}:${parsed.port}`}/${parsed.database}` : ''
  }
  return {
    database: address(config.sqlDsn),
    logDatabase: address(config.logSqlDsn),
    redis: redactAddress(config.redisConnString),
    timeZone: config.timeZone || Intl.DateTimeFormat().resolvedOptions().timeZone,
    frontendBaseUrl: config.frontendBaseUrl,
    syncFrequencySec: config.syncFrequencySec,
    clockAheadMs,
  }
}

async function clockAheadOf(db: Db): Promise<number> {
  const askedAtMs = systemClock.now()
  const databaseMs = await db.now()
  return Math.round((askedAtMs + systemClock.now()) / 2 - databaseMs)
}

/** A connection that is kept alive would meet a closed port next. */
function lastAnswer(response: Response): Response {
  response.headers.set('connection', 'close')
  return response
}

/** Tries again while a database is away, full or busy with another node's sync; says why, and gives up after a bound. */
async function untilAvailable<T>(name: string, log: Log, work: () => Promise<T>): Promise<T> {
  const giveUpAt = systemClock.monotonic() + DB_WAIT_MS
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof DbError)) throw error
      // A wrong password or name does not get better by waiting.
      if (error.kind === 'other') throw new ConfigError(`the ${name} refuses: ${error.message}`)
      if (error.kind !== 'unavailable' || systemClock.monotonic() > giveUpAt) throw error
      log.warn('a database is awaited', { part: name, error: error.message })
      await Bun.sleep(DB_RETRY_MS)
    }
  }
}
