/**
 * What is counted, and how it is shown: Prometheus' text format, joined over the workers of a node. Labels take few
 * values: no model, user, key or request is one.
 */
import type { Clock } from './lib/clock.ts'
import {
  createCounter,
  createHistogram,
  FIGURES_CONTENT_TYPE,
  type Figure,
  type Join,
  labelled,
  samplesBy,
  writeFigures,
} from './lib/figures.ts'

/** What became of one call. */
export interface CallReport {
  readonly protocol: string
  readonly operation: string
  readonly isStream: boolean
  /** `complete`, `refused` and the like. */
  readonly ending: string
  /** Of the error that the client got; empty when it got none. */
  readonly code: string
  readonly durationMs: number
  /** Until the first byte went to the client; absent when none did. */
  readonly firstByteMs?: number | undefined
  readonly attempts: readonly {
    readonly channel: { readonly id: number }
    /** Empty when it served the call. */
    readonly reason: string
    readonly status: number
    readonly startedAtMs: number
    readonly endedAtMs: number
  }[]
  readonly inputTokens: number
  readonly outputTokens: number
  /** quota units charged */
  readonly quota: number
}

/** One figure that is read when it is asked for. */
export interface Reading {
  readonly name: string
  readonly help: string
  /** How the workers' figures are joined; `sum` if not given. */
  readonly join?: Join
  /** It only rises while the worker lives. */
  readonly isCounter?: boolean
  /** Of a figure with a label: its name. */
  readonly label?: string
  /** A number, or one per value of the label. */
  readonly read: () => number | Readonly<Record<string, number>>
}

export interface Metrics {
  call(report: CallReport): void
  /** Adds figures that are read at each scrape. */
  watch(readings: readonly Reading[]): void
  /** In Prometheus' text format, of all workers of the node. */
  text(): Promise<string>
  readonly contentType: string
  close(): void
}

/** The bus of the node; messages reach every worker, this one too. */
interface Bus {
  publish(topic: string, message: string): Promise<void>
  subscribe(topic: string, listener: (message: string) => void): () => void
}

const ASK = 'metrics.ask'
const TELL = 'metrics.tell'
/** A worker that does not answer in this time is left out. */
const WAIT_MS = 1_000
/** Channels beyond are counted together: a label must not grow without end. */
const MAX_CHANNELS = 1_000
const SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]

export function createMetrics(deps: {
  readonly bus: Bus
  readonly workers: number
  readonly build: { readonly version: string; readonly node: string; readonly role: string }
  readonly clock: Clock
}): Metrics {
  const { bus, workers, build, clock } = deps
  const self = crypto.randomUUID()
  const channels = new Set<number>()

  const calls = createCounter({
    name: 'headgate_calls_total',
    help: 'Calls that have ended',
    labels: ['protocol', 'operation', 'ending', 'code'],
  })
  const seconds = createHistogram({
    name: 'headgate_call_seconds',
    help: 'From a call to its end',
    labels: ['operation', 'stream'],
    bounds: SECONDS,
  })
  const firstByte = createHistogram({
    name: 'headgate_first_byte_seconds',
    help: 'From a call to the first byte of its answer',
    labels: ['operation', 'stream'],
    bounds: SECONDS,
  })
  const attempts = createCounter({
    name: 'headgate_attempts_total',
    help: 'Tries at upstreams',
    labels: ['channel', 'outcome'],
  })
  const tokens = createCounter({
    name: 'headgate_tokens_total',
    help: 'Tokens of the calls that were served',
    labels: ['kind'],
  })
  const quota = createCounter({ name: 'headgate_quota_total', help: 'Quota units charged', labels: [] })
  const buildInfo: Figure = {
    name: 'headgate_build_info',
    help: 'Always 1; what runs here',
    type: 'gauge',
    join: 'max',
    samples: [[labelled(build), 1]],
  }

  const readings: Reading[] = []
  const watch = (more: readonly Reading[]): void => void readings.push(...more)
  const tell = (): readonly Figure[] => [
    ...[calls, seconds, firstByte, attempts, tokens, quota].map((figure) => figure.tell()),
    buildInfo,
    ...readings.map(readNow),
  ]
  const startCpu = process.cpuUsage()
  watch([
    { name: 'headgate_memory_bytes', help: 'Resident memory of the workers', read: () => process.memoryUsage.rss() },
    {
      name: 'headgate_cpu_seconds_total',
      isCounter: true,
      help: 'CPU time of the workers since their start',
      read: () => {
        const { user, system } = process.cpuUsage(startCpu)
        return (user + system) / 1e6
      },
    },
    { name: 'headgate_workers', help: 'Workers that answered', read: () => 1 },
  ])

  const channelLabel = (id: number): string => {
    if (!channels.has(id) && channels.size >= MAX_CHANNELS) return 'other'
    channels.add(id)
    return String(id)
  }

  /** id of a question → what has come so far */
  const asked = new Map<string, { readonly answers: (readonly Figure[])[]; readonly done: () => void }>()
  const leave = [
    bus.subscribe(ASK, (id) => {
      if (asked.has(id)) return
      // Who asks leaves out a worker that cannot tell, as it does with one that is silent.
      void Promise.try(() => bus.publish(TELL, JSON.stringify({ id, figures: tell() }))).catch(() => undefined)
    }),
    bus.subscribe(TELL, (message) => {
      const { id, figures } = JSON.parse(message) as { id: string; figures: readonly Figure[] }
      const question = asked.get(id)
      question?.answers.push(figures)
      if (question && question.answers.length >= workers - 1) question.done()
    }),
  ]
  const others = async (): Promise<readonly (readonly Figure[])[]> => {
    if (workers === 1) return []
    const id = `${self}-${clock.now()}-${Math.random()}`
    const { promise, resolve } = Promise.withResolvers<void>()
    const answers: (readonly Figure[])[] = []
    asked.set(id, { answers, done: resolve })
    const timer = setTimeout(resolve, WAIT_MS)
    try {
      await bus.publish(ASK, id)
      await promise
      return answers
    } finally {
      clearTimeout(timer)
      asked.delete(id)
    }
  }

  return {
    call(report) {
      const { protocol, operation, ending, code } = report
      const stream = report.isStream ? 'yes' : 'no'
      calls.add([protocol, operation, ending, code], 1)
      seconds.observe([operation, stream], report.durationMs / 1000)
      if (report.firstByteMs !== undefined) firstByte.observe([operation, stream], report.firstByteMs / 1000)
      for (const { channel, reason, status } of report.attempts)
        attempts.add([channelLabel(channel.id), outcomeOf(reason, status)], 1)
      if (report.inputTokens > 0) tokens.add(['input'], report.inputTokens)
      if (report.outputTokens > 0) tokens.add(['output'], report.outputTokens)
      if (report.quota > 0) quota.add([], report.quota)
    },
    watch,
    async text() {
      const rest = await others()
      return writeFigures([tell(), ...rest])
    },
    contentType: FIGURES_CONTENT_TYPE,
    close() {
      for (const end of leave) end()
    },
  }
}

function readNow({ name, help, join = 'sum', isCounter, label = '', read }: Reading): Figure {
  const figures = read()
  const samples = typeof figures === 'number' ? ([['', figures]] as const) : samplesBy(label, figures)
  return { name, help, type: isCounter ? 'counter' : 'gauge', join, samples }
}

/** The status of an upstream that answered, else that it did not. */
const outcomeOf = (reason: string, status: number): string => {
  if (reason === '') return 'ok'
  return status === 0 ? 'unreachable' : String(status)
}

/** What the parts of a worker tell of themselves; every figure is read at a scrape. */
export interface Figures {
  readonly isReady: () => boolean
  /** Calls being answered. */
  readonly calls: () => number
  /** quota units, counts of charges and of callers */
  readonly ledger: () => {
    readonly allotted: number
    readonly held: number
    readonly openHolds: number
    readonly waiting: number
    readonly unflushedMain: number
    readonly unflushedLog: number
    readonly quarantined: number
    readonly setAside: number
    readonly acquires: number
    readonly recallsSent: number
    /** ms */
    readonly oldestChargeMs: number
    readonly leaseLeftMs: number
    readonly outboxBytes: number
  }
  /** Connections to the main database; undefined where there is no pool. */
  readonly pool: () =>
    | { readonly max: number; readonly open: number; readonly busy: number; readonly waiting: number }
    | undefined
  readonly dependencies: () => readonly { readonly name: string; readonly isUp: boolean }[]
  /** Since what routing reads was last loaded, ms. */
  readonly snapshotAgeMs: () => number
  /** Entries in memory, by what they are of: none may grow without end. */
  readonly kept: () => Readonly<Record<string, number>>
  /** What there is too much of to take calls, if there is. */
  readonly overload: () => string | undefined
}

export function readingsOf({
  isReady,
  calls,
  ledger,
  pool,
  dependencies,
  snapshotAgeMs,
  kept,
  overload,
}: Figures): readonly Reading[] {
  const charges = (figures: ReturnType<Figures['ledger']>) => ({
    main: figures.unflushedMain,
    log: figures.unflushedLog,
  })
  return [
    { name: 'headgate_ready', help: '1 if this node takes calls', join: 'min', read: () => Number(isReady()) },
    {
      name: 'headgate_overloaded',
      help: '1 while this node refuses calls, since it has more than it can serve',
      join: 'max',
      read: () => Number(overload() !== undefined),
    },
    { name: 'headgate_calls_running', help: 'Calls being answered', read: calls },
    {
      name: 'headgate_outbox_charges',
      help: 'Charges on this disk that a database does not have yet',
      label: 'part',
      read: () => charges(ledger()),
    },
    {
      name: 'headgate_outbox_oldest_seconds',
      help: 'Age of the oldest charge on this disk that a database does not have yet',
      join: 'max',
      read: () => ledger().oldestChargeMs / 1000,
    },
    {
      name: 'headgate_outbox_bytes',
      help: 'Disk in use by charges, those included that are kept in case a database goes back',
      read: () => ledger().outboxBytes,
    },
    {
      name: 'headgate_lease_left_seconds',
      help: 'What is left of the lease under which this node spends quota; below 0 it takes no calls that cost',
      join: 'min',
      read: () => ledger().leaseLeftMs / 1000,
    },
    {
      name: 'headgate_charges_put_aside',
      help: 'Charges that need a person: `quarantine` was refused by the database, `outbox` fits no database',
      label: 'place',
      read: () => ({ quarantine: ledger().quarantined, outbox: ledger().setAside }),
    },
    { name: 'headgate_kept_entries', help: 'Entries in memory, by what they are of', label: 'of', read: kept },
    { name: 'headgate_allotted_quota', help: 'Quota units parked at this node', read: () => ledger().allotted },
    { name: 'headgate_held_quota', help: 'Quota units of calls under way', read: () => ledger().held },
    { name: 'headgate_open_holds', help: 'Holds of calls under way', read: () => ledger().openHolds },
    { name: 'headgate_waiting_callers', help: 'Callers that wait for quota', read: () => ledger().waiting },
    {
      name: 'headgate_quota_acquires_total',
      isCounter: true,
      help: 'Times that quota was fetched',
      read: () => ledger().acquires,
    },
    {
      name: 'headgate_quota_recalls_total',
      isCounter: true,
      help: 'Times that others were asked for quota',
      read: () => ledger().recallsSent,
    },
    {
      name: 'headgate_database_connections',
      help: 'Connections of the pool to the main database; `waiting` are callers without one',
      label: 'state',
      read: () => ({ ...pool() }),
    },
    {
      name: 'headgate_snapshot_age_seconds',
      help: 'Since channels were last loaded; more than SYNC_FREQUENCY while they cannot be',
      join: 'max',
      read: () => snapshotAgeMs() / 1000,
    },
    {
      name: 'headgate_dependency_up',
      help: '1 if it answers',
      join: 'min',
      label: 'dependency',
      read: () => Object.fromEntries(dependencies().map(({ name, isUp }) => [name, Number(isUp)])),
    },
  ]
}
