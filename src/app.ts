/**
 * The composition root: opens everything in order, wires it by explicit arguments, and closes it in reverse. One long
 * file on purpose; no other file knows more than its own dependencies.
 */
import { hostname, networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { type AnyElysia, Elysia } from 'elysia'
import { alertRoutes } from './admin/alert-routes.ts'
import { apiKeyRoutes } from './admin/api-key-routes.ts'
import { authRoutes } from './admin/auth-routes.ts'
import { billingCompatRoutes } from './admin/billing-compat-routes.ts'
import { channelRoutes } from './admin/channel-routes.ts'
import { clusterRoutes } from './admin/cluster-routes.ts'
import { configRoutes } from './admin/config-routes.ts'
import { dataRoutes } from './admin/data-routes.ts'
import { homeRoutes } from './admin/home-routes.ts'
import { createAdminHttp, type PeerSource } from './admin/http.ts'
import { adminRoutes } from './admin/index.ts'
import { logRoutes } from './admin/log-routes.ts'
import { metricsRoutes } from './admin/metrics-routes.ts'
import { openApiRoutes } from './admin/openapi-routes.ts'
import { optionRoutes } from './admin/option-routes.ts'
import { createPageRedirect } from './admin/page-redirect.ts'
import { performanceRoutes } from './admin/performance-routes.ts'
import { pricingRoutes } from './admin/pricing-routes.ts'
import { redemptionRoutes } from './admin/redemption-routes.ts'
import { selfRoutes } from './admin/self-routes.ts'
import { setupRoutes } from './admin/setup-routes.ts'
import { statusRoutes } from './admin/status-routes.ts'
import { systemInfoRoutes } from './admin/system-info-routes.ts'
import { systemTaskRoutes } from './admin/system-task-routes.ts'
import { userRoutes } from './admin/user-routes.ts'
import { VERSION } from './build-info.ts'
import { type Config, describeConfig } from './config.ts'
import {
  buildIndexes,
  type Db,
  openDb,
  readClusterId,
  readTopicVersions,
  syncSchema,
  waitForSchema,
} from './db/index.ts'
import { createAccounts } from './domain/accounts/index.ts'
import { createAudit } from './domain/audit.ts'
import { createLedger, createPrices, deliverCreditLogs } from './domain/billing/index.ts'
import { createChannels, createTestChannels } from './domain/channels/index.ts'
import {
  createDependencies,
  createLoadGuard,
  createNodeRegistry,
  createNodeStatus,
  createPresence,
  createSystemTasks,
  createTakeTurn,
  type NodeLoad,
  nodeInfo,
  nodeSettings,
  pruneInstances,
  readClusterView,
  readNodes,
  secretInfo,
  settingsInfo,
} from './domain/cluster/index.ts'
import { createCallLimits, createCounts, createWebLimits } from './domain/limits/index.ts'
import { type Alerts, pruneAlerts } from './domain/notify/index.ts'
import { createBaseUrl, createOptions } from './domain/options/index.ts'
import { cleanLogs, createHourlyReads, createLogReads, createModelCatalog } from './domain/usage/index.ts'
import {
  buildIndexesJob,
  CHANNEL_TEST,
  cleanClusterJob,
  cleanSessionsJob,
  createJobRunner,
  createTaskRunner,
  deliverCreditLogsJob,
  LOG_CLEAN_UP_BATCH,
  logCleanUpTask,
  sweepLedgerJob,
  syncLogSchemaJob,
  testChannelsJob,
  testChannelsTask,
  testPeriodMs,
  updateBalancesJob,
  watchClusterJob,
} from './jobs/index.ts'
import { joinCluster, openAlerts, refuse, sessionSecretsOf, untilAvailable } from './join.ts'
import { systemClock } from './lib/clock.ts'
import { countCpus } from './lib/cpus.ts'
import { clientIp, normaliseIp, PRIVATE_NETWORKS, parseCidrs } from './lib/ip.ts'
import { createLifecycle } from './lib/lifecycle.ts'
import type { Log } from './lib/log.ts'
import { createLogFiles } from './lib/log-files.ts'
import { createResourceMeter, isContainer } from './lib/resources.ts'
import { openCounters } from './lib/shared-counters.ts'
import { listen } from './listen.ts'
import { createMetrics, readingsOf } from './metrics.ts'
import type { NodeLink, ProbedDependency, Readiness } from './node.ts'
import { createProviders } from './provider/registry.ts'
import { createRelay } from './relay/index.ts'
import { roleOf } from './role.ts'
import { createTopics, openRedisState, type State } from './state/index.ts'

export interface App {
  /** @returns when the node serves. @throws what kept it from it; `stop` closes what was opened until then */
  start(): Promise<void>
  /** Drains: live calls get the deadline, then everything closes in reverse order. */
  stop(deadlineMs: number): Promise<void>
  readiness(): Readiness
  /** Where it listens; absent before. */
  address(): { readonly port: number } | undefined
}

/** A heartbeat waits this long for its answer. */
const BEAT_MS = 5_000
const READINESS_EVERY_MS = 250
const BRIEF_MS = 5_000
/** Nodes that were not seen for so long are taken off the list. */
const FORGET_NODE_SEC = 30 * 86_400
const KIB = 1024
const MIB = 1024 * KIB
const ADMIN_BODY_BYTES = 16 * MIB

export function createApp({ config, log, node }: { config: Config; log: Log; node: NodeLink }): App {
  const clock = systemClock
  const role = roleOf(config.nodeType)
  const version = config.reportedVersion || VERSION
  const lifecycle = createLifecycle(log)
  const startTimeSec = Math.floor(clock.now() / 1000)
  /** The log alone hears of it until the rest is there. */
  let alert: Alerts['raise'] = (told) => log.warn('alert', { ...told })
  let port: number | undefined
  let isListening = false
  let missing: () => readonly string[] = () => ['the node is starting']

  let probed: () => readonly ProbedDependency[] = () => []

  let reported = ''
  const report = (): void => {
    const lacking = missing()
    const own = { isListening, ready: lacking.length === 0, missing: lacking, dependencies: probed() }
    const text = JSON.stringify(own)
    // The supervisor passes it on to every worker: without news, all of them may sleep.
    if (text === reported) return
    reported = text
    node.report(own)
  }

  /** How many nodes work, as this one sees it: 1 until the ledger is open. */
  let liveNodes = (): number => 1

  /** @param isForBeats one connection, which nothing else keeps busy */
  const openDatabase = async (name: string, dsn: string, only?: 'logs', isForBeats = false): Promise<Db> => {
    const workers = node.workerCount
    const share = Math.max(2, Math.floor(config.sqlMaxOpenConns / workers))
    const db = await untilAvailable(name, log, () =>
      openDb({
        dsn,
        sqlitePath: config.sqlitePath,
        // The limits are the node's; each worker gets its part.
        pool: {
          maxIdle: Math.ceil(config.sqlMaxIdleConns / workers),
          maxOpen: isForBeats ? 1 : only || config.isSingleNode ? share : share - 1,
          maxLifetimeMs: config.sqlMaxLifetimeSec * 1000,
          slowMs: config.sqlSlowThresholdMs,
        },
        log,
        checkpoint: node.checkpoint,
        ...(only && { only }),
        // A beat that is not answered comes again before the lease is over.
        ...(isForBeats && { statementDeadlineMs: Math.min(BEAT_MS, Math.max(1_000, config.ledgerLeaseSec * 333)) }),
      }),
    )
    lifecycle.defer(name, () => db.close())
    return db
  }

  const start = async (): Promise<void> => {
    const db = await openDatabase('database', config.sqlDsn)
    const isLogSeparate = config.logSqlDsn !== ''
    const logDb = isLogSeparate ? await openDatabase('log database', config.logSqlDsn, 'logs') : db
    if (role.migrates) await untilAvailable('schema', log, () => syncSchema(db, { log, version }))
    else await waitForSchema(db, { log })
    const clusterId = await readClusterId(db)
    const secrets = await joinCluster(db, { config, node, log, alert: (told) => alert(told) })

    const state =
      config.redisConnString === ''
        ? node.state
        : await openRedisState({
            address: config.redisConnString,
            password: config.redisPassword,
            masterName: config.redisMasterName,
            sentinelPassword: config.redisSentinelPassword,
            connections: Math.max(1, Math.floor(config.redisPoolSize / node.workerCount)),
            prefix: `headgate:${clusterId}:`,
            fallback: node.state,
            share: () => liveNodes(),
            log,
          })
    if (state !== node.state) lifecycle.defer('redis', () => state.close())

    const topics = createTopics({
      state,
      readVersions: () => readTopicVersions(db),
      together: db.readTogether,
      fullReloadMs: config.syncFrequencySec * 1000,
      log,
      clock,
    })
    lifecycle.defer('topics', () => topics.stop())

    const options = createOptions({ db, topics, log, clock })
    lifecycle.defer('options', options.close)
    await options.ready()
    const alerts = openAlerts(db, state, options, { config, node, log })
    alert = alerts.raise
    lifecycle.defer('alerts', (remainingMs) => Promise.race([alerts.idle(), Bun.sleep(remainingMs / 2)]))
    const dependencies = createDependencies({
      list: [
        { name: 'database', form: () => db.engine, ping: () => db.now() },
        ...(isLogSeparate ? [{ name: 'log database', form: () => logDb.engine, ping: () => logDb.now() }] : []),
        ...(state === node.state ? [] : [{ name: 'Redis', form: state.form, ping: () => pingState(state) }]),
      ],
      log,
      clock,
      alert,
    })
    lifecycle.defer('dependencies', dependencies.stop)
    const metrics = createMetrics({
      bus: node.state,
      workers: node.workerCount,
      build: { version, node: config.nodeName, role: role.name },
      clock,
    })
    lifecycle.defer('metrics', metrics.close)
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
    const channels = createChannels({
      db,
      topics,
      bus: state,
      options,
      providers,
      keyring,
      turns: openCounters(join(config.dataDir, 'turns'), log),
      alert,
      log,
      clock,
      random: Math.random,
      fetch,
    })
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
      secrets: sessionSecretsOf(config),
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

    const heartbeatDb = config.isSingleNode
      ? db
      : await openDatabase('heartbeat database', config.sqlDsn, undefined, true)
    const ledger = createLedger({
      db,
      logDb,
      heartbeatDb,
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
          ...settingsInfo(nodeSettings(config, await clockAheadOf(db))),
        },
      },
      leaseMs: config.ledgerLeaseSec * 1000,
      keepBytes: (config.outboxKeepMb * MIB) / node.workerCount,
      sync: config.outboxSync === 'full' ? 'full' : 'normal',
      flush: { isBatch: config.isBatchUpdate, intervalMs: config.batchUpdateIntervalSec * 1000 },
      isSingleNode: config.isSingleNode,
      isLogged: () => options.get('LogConsumeEnabled'),
      isExported: () => options.get('DataExportEnabled'),
      checkpoint: node.checkpoint,
    })
    lifecycle.defer('ledger', (remainingMs) => ledger.drain(remainingMs))
    const presence = createPresence({ state, nodeId: node.nodeId, node: config.nodeName, log })
    lifecycle.defer('presence', presence.stop)
    await presence.show()
    await ledger.open()
    liveNodes = ledger.liveNodes
    // The cluster may have gone over to another secret while nobody could see this instance.
    refuse(await secrets.agreement.confirm())

    /** Names this process alone, and its node for people: nodes may have one name. */
    const processName = [config.nodeName.slice(0, 90), node.nodeId.slice(0, 8), crypto.randomUUID().slice(0, 8)].join(
      '-',
    )
    const jobLeaseMs = config.jobLeaseSec * 1000
    const tasks = createSystemTasks({ db, bus: state, worker: processName, ttlMs: jobLeaseMs })
    const registry = createNodeRegistry({
      db,
      name: config.nodeName,
      nodeId: node.nodeId,
      startedAtSec: startTimeSec,
      staleAfterSec: config.ledgerLeaseSec,
    })
    const jobs = createJobRunner({
      jobs: [
        cleanSessionsJob(accounts.sessions),
        watchClusterJob({
          nodes: node.workerIndex === 0 ? () => readNodes(db) : undefined,
          nodeName: config.nodeName,
          oldestChargeMs: () => ledger.stats().oldestChargeMs,
          patienceMs: (config.ledgerLeaseSec + (config.isBatchUpdate ? config.batchUpdateIntervalSec : 0)) * 1000,
          raise: alert,
          everyMs: (config.ledgerLeaseSec * 1000) / 9,
        }),
        ...(config.isSingleNode ? [] : [sweepLedgerJob(ledger.sweep, config.ledgerLeaseSec * 1000)]),
        cleanClusterJob([
          (signal) => pruneInstances(db, signal),
          (signal) => tasks.prune(signal),
          () => registry.removeStale({ olderThanSec: FORGET_NODE_SEC }),
          () => pruneAlerts(db),
        ]),
        buildIndexesJob((signal) => buildIndexes(db, { log, signal })),
        testChannelsJob(
          () => tasks.request(CHANNEL_TEST, {}),
          () => testPeriodMs(config, options),
        ),
        updateBalancesJob(channels, config.channelUpdateMinutes),
        ...(isLogSeparate
          ? [
              syncLogSchemaJob(() => syncSchema(logDb, { log, version })),
              deliverCreditLogsJob((signal) => deliverCreditLogs({ db, logDb, signal })),
            ]
          : []),
      ],
      role,
      alert,
      takeTurn: createTakeTurn({ db, holder: processName, ttlMs: jobLeaseMs, log, clock }),
      log,
      clock,
    })
    lifecycle.defer('jobs', (remainingMs) => briefly(jobs.stop(), remainingMs))
    jobs.start()
    const taskRunner = createTaskRunner({
      tasks,
      kinds: [
        logCleanUpTask((wanted, run) => cleanLogs(logDb, wanted, run)),
        testChannelsTask(createTestChannels({ db, channels, options, pauseMs: config.pollingIntervalSec * 1000, log })),
      ],
      role,
      ttlMs: jobLeaseMs,
      log,
      clock,
    })
    lifecycle.defer('system tasks', (remainingMs) => briefly(taskRunner.stop(), remainingMs))
    taskRunner.start()

    const trusted = parseCidrs(
      config.trustedProxies.length === 0 ? PRIVATE_NETWORKS : config.trustedProxies.filter((item) => item !== 'none'),
    )
    const ipOf = (request: Request, server: PeerSource | null): string =>
      clientIp(request, server?.requestIP(request)?.address ?? '', trusted)

    const counts = createCounts({ state, share: () => liveNodes(), log })
    const callLimits = createCallLimits({ counts, clock })
    lifecycle.defer('limits', callLimits.close)
    const cpus = await countCpus()
    const guard = createLoadGuard({
      bus: node.state,
      worker: node.workerIndex,
      read: createResourceMeter({ folder: config.dataDir, cpus, clock }).read,
      thresholds: () => ({
        isOn: options.get('performance_setting.monitor_enabled'),
        cpu: options.get('performance_setting.monitor_cpu_threshold'),
        memory: options.get('performance_setting.monitor_memory_threshold'),
        disk: options.get('performance_setting.monitor_disk_threshold'),
      }),
      onThresholds: options.onChange,
      clock,
      log,
    })
    lifecycle.defer('load', guard.stop)
    const relay = createRelay({
      accounts,
      channels,
      ledger,
      prices,
      callLimits,
      options,
      log,
      clock,
      clientIp: ipOf,
      // A node that is stopping still serves what meets it, until its listener closes.
      isReady: () => ledger.isWritable(),
      overload: guard.overload,
      version,
      nodeName: config.nodeName,
      isErrorLogged: config.errorLogEnabled,
      isUsageForced: config.forceStreamOption,
      isTextCounted: config.countToken,
      isTlsChecked: !config.tlsInsecureSkipVerify,
      proxies: { http: config.httpProxy, https: config.httpsProxy, no: config.noProxy },
      onCall: metrics.call,
      limits: {
        bodyBytes: config.maxRequestBodyMb * MIB,
        lineChars: config.streamMaxLineMb * MIB,
        firstByteMs: config.relayFirstByteTimeoutSec * 1000,
        totalMs: config.relayTimeoutSec * 1000,
        idleMs: config.streamingTimeoutSec * 1000,
      },
    })
    channels.setTester(relay.test)
    metrics.watch(
      readingsOf({
        isReady: () => missing().length === 0,
        calls: relay.active,
        ledger: ledger.stats,
        pool: db.poolUse,
        dependencies: dependencies.states,
        snapshotAgeMs: channels.ageMs,
        kept: () => ({
          accounts: ledger.stats().accounts,
          api_keys: accounts.cachedKeys(),
          channel_health: channels.watched(),
        }),
        overload: guard.overload,
      }),
    )

    const http = createAdminHttp({
      identify: accounts.sessions.identify,
      recordAudit: audit.record,
      clientIp: ipOf,
      limits: createWebLimits({ counts, limits: webLimitsOf(config) }),
      now: clock.now,
    })
    const readableApiKey = async (request: Request) => {
      const { pathname, searchParams } = new URL(request.url)
      const { apiKeyId } = await accounts.identifyKey(accounts.credentialOf(request, pathname, searchParams))
      return { apiKeyId }
    }
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
      channelRoutes({
        channels,
        options,
        http,
        isPassword: accounts.self.isPassword,
        tasks,
        testTask: CHANNEL_TEST,
      }),
      optionRoutes({ options, prices, http }),
      logRoutes({
        logs: createLogReads({ db, logDb, clock, isExported: () => options.get('DataExportEnabled') }),
        http,
        readableApiKey,
      }),
      dataRoutes({ hourly: createHourlyReads({ db }), http }),
      pricingRoutes({
        options,
        prices,
        channels,
        catalog: createModelCatalog({ db, clock }),
        channelTypes: providers.list.map((provider) => provider.id),
        http,
      }),
      alertRoutes({ http, trial: alerts.trial }),
      configRoutes({ variables: () => describeConfig(config), http }),
      clusterRoutes({
        read: async (names) => presence.compare(await readClusterView(db, names)),
        jobs: jobs.reports,
        nodeName: config.nodeName,
        http,
      }),
      performanceRoutes({
        options,
        guard,
        calls: relay.active,
        logFiles: createLogFiles(config.logDir),
        nodeName: config.nodeName,
        isContainer: await isContainer(),
        collectGarbage: () => Bun.gc(true),
        http,
        clock,
      }),
      systemInfoRoutes({ registry, http }),
      systemTaskRoutes({ tasks, http, batchSize: LOG_CLEAN_UP_BATCH, clock }),
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
          redirectPage(request, () => trusted.has(normaliseIp(server?.requestIP(request)?.address ?? ''))),
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
      .use(
        metricsRoutes({
          text: metrics.text,
          contentType: metrics.contentType,
          clientIp: ipOf,
          loopback: parseCidrs(['127.0.0.0/8', '::1']),
          allowed: parseCidrs(config.metricsAllow),
          token: config.metricsToken,
        }),
      )
      .use(relay.routes)
      .use(admin)
      .all('*', ({ request }) => relay.unknownPath(request), { parse: 'none', detail: { hide: true } })
    const door = listen(
      web,
      { hostname: config.listenHost || '::', port: config.port, isShared: config.workers > 1 },
      clock,
    )
    port = door.number
    isListening = true
    lifecycle.defer('server', (remainingMs) => {
      missing = () => ['the node is stopping']
      report()
      return door.close(remainingMs, {
        drain: relay.drain,
        onClosed: () => {
          isListening = false
        },
      })
    })

    missing = () => {
      const misfit = secrets.agreement.problem()
      return [
        ...(ledger.isWritable() ? [] : [`the journal in ${config.dataDir} takes no charges: is the disk full?`]),
        ...(ledger.hasLease() ? [] : ['the database has been away for longer than LEDGER_LEASE']),
        ...(misfit === undefined ? [] : [misfit]),
      ]
    }
    // A node whose database or Redis is away still serves whom it knows, so that alone makes no node unready. What ends
    // it is the lease: a node without one refuses every call, and others may have theirs.
    probed = () => [
      ...dependencies.states().map(({ name, isUp }) => ({ name, up: isUp })),
      { name: 'journal', up: ledger.isWritable() },
      { name: 'schema', up: true },
    ]
    report()
    const reporting = setInterval(report, READINESS_EVERY_MS)
    lifecycle.defer('readiness', () => clearInterval(reporting))

    const meter = createResourceMeter({ folder: config.dataDir, cpus, clock })
    const self = {
      name: config.nodeName,
      isNamed: config.isNodeNamed,
      isMaster: role.runsMasterJobs,
      version,
      hostname: hostname(),
      platform: process.platform,
      arch: process.arch,
      startedAtSec: startTimeSec,
    }
    const status = createNodeStatus({
      db,
      instanceId: () => ledger.stats().instanceId,
      own: () => {
        const pool = db.poolUse()
        return {
          nodeId: node.nodeId,
          hostname: self.hostname,
          pid: process.pid,
          address: `${ownAddress(config.listenHost)}:${port}`,
          isReady: missing().length === 0,
          missing: missing(),
          calls: relay.active(),
          snapshotAgeMs: Math.round(channels.ageMs()),
          ledger: ledger.stats(),
          ...(pool && { pool }),
          dependencies: dependencies.states(),
        }
      },
      inMemory: topics.versions,
      resources: meter.read,
      everyMs: (config.ledgerLeaseSec * 1000) / 3,
      ...(node.workerIndex === 0 && { speak: (load: NodeLoad) => registry.beat(nodeInfo(self, load)) }),
      log,
      clock,
    })
    lifecycle.defer('status', (remainingMs) =>
      briefly(
        status.stop().then(() => registry.leave()),
        remainingMs,
      ),
    )
    log.info('serving', { port, role: role.name, database: db.engine, state: state.kind, version })
  }

  return {
    start,
    stop: (deadlineMs) => lifecycle.stop(deadlineMs),
    readiness: node.readiness,
    address: () => (port === undefined ? undefined : { port }),
  }
}

/** A part that waits for a database that is away must not use up the time of those that close after it. */
const briefly = (work: Promise<unknown>, remainingMs: number): Promise<unknown> =>
  Promise.race([work, Bun.sleep(Math.min(BRIEF_MS, remainingMs / 4))])

async function pingState(state: State): Promise<void> {
  if (!state.isUp()) throw new Error('it cannot be reached')
  await state.get('ping')
}

const ALL_ADDRESSES = new Set(['', '::', '0.0.0.0'])

/** The address that it listens on; if these are all, the first that is not this machine's alone, as others may know it. */
function ownAddress(listenHost: string): string {
  if (!ALL_ADDRESSES.has(listenHost)) return listenHost.includes(':') ? `[${listenHost}]` : listenHost
  const all = Object.values(networkInterfaces()).flatMap((each) => each ?? [])
  return all.find(({ internal, family }) => !internal && family === 'IPv4')?.address ?? hostname()
}

const webLimitsOf = (config: Config) => ({
  ...(config.apiRateLimitEnable && { api: { count: config.apiRateLimit, windowSec: config.apiRateLimitDurationSec } }),
  ...(config.webRateLimitEnable && { web: { count: config.webRateLimit, windowSec: config.webRateLimitDurationSec } }),
  ...(config.criticalRateLimitEnable && {
    critical: { count: config.criticalRateLimit, windowSec: config.criticalRateLimitDurationSec },
  }),
  ...(config.searchRateLimitEnable && {
    search: { count: config.searchRateLimit, windowSec: config.searchRateLimitDurationSec },
  }),
  'mail-code': { count: 2, windowSec: 30 },
})

async function clockAheadOf(db: Db): Promise<number> {
  const askedAtMs = systemClock.now()
  const databaseMs = await db.now()
  return Math.round((askedAtMs + systemClock.now()) / 2 - databaseMs)
}
