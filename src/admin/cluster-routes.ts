/** The cluster as a whole, for root: any node answers for all of them. */
import { Elysia, type Static, t } from 'elysia'
import { ROLE } from '../domain/accounts/index.ts'
import type { ClusterView } from '../domain/cluster/index.ts'
import { type AdminHttp, envelope, ok } from './http.ts'

const dependencyJson = t.Object({
  name: t.String({ description: 'database, log database or Redis' }),
  form: t.String(),
  up: t.Boolean(),
  latency_ms: t.Optional(t.Number()),
  error: t.String(),
})
const poolJson = t.Object({ max: t.Integer(), open: t.Integer(), busy: t.Integer(), waiting: t.Integer() })
const countsJson = t.Record(t.String(), t.Integer())

const workerJson = t.Object({
  instance_id: t.String(),
  worker: t.Integer({ description: 'Number on its node, from 0' }),
  state: t.String({
    description: 'live, draining, silent (has not told anything for three heartbeats) or lost (ended by the others)',
  }),
  told_at_ms: t.Integer({ description: 'Database time of what follows; 0: never' }),
  pid: t.Optional(t.Integer()),
  ready: t.Optional(t.Boolean()),
  missing: t.Array(t.String(), { description: 'Why it is not ready' }),
  clock_ahead_ms: t.Optional(t.Integer({ description: 'What its clock is ahead of the database’s' })),
  calls: t.Integer({ description: 'Calls being answered' }),
  parked: t.Integer({ description: 'Quota units of accounts that are moved to it' }),
  outbox: t.Optional(
    t.Object({
      unflushed: t.Integer({ description: 'Charges that the main database does not have yet' }),
      unflushed_log: t.Integer({ description: 'Call records that the log database does not have yet' }),
      open_holds: t.Integer(),
      waiting: t.Integer({ description: 'Calls that wait for quota' }),
      quarantined: t.Integer(),
      set_aside: t.Integer(),
      writable: t.Boolean(),
    }),
  ),
  pool: t.Optional(poolJson),
  snapshot_age_ms: t.Optional(t.Integer({ description: 'How old what routing reads is' })),
  topics_behind: t.Record(t.String(), t.Integer(), {
    description: 'Changes that were in the database and not in its memory, by topic',
  }),
  dependencies: t.Array(dependencyJson),
  cpu_percent: t.Optional(t.Number({ description: 'Of the CPUs it may use' })),
  memory_bytes: t.Optional(t.Integer()),
})
const nodeJson = t.Object({
  id: t.String({ description: 'Kept in its data folder' }),
  name: t.String({ description: 'Distinct: the second of two nodes of one name is name#2' }),
  address: t.String(),
  hostname: t.String(),
  role: t.String(),
  version: t.String(),
  state: t.String({ description: 'The best state of its workers' }),
  started_at_ms: t.Integer(),
  seen_at_ms: t.Integer({ description: 'Database time' }),
  calls: t.Integer(),
  parked: t.Integer(),
  unflushed: t.Integer(),
  cpu_percent: t.Number(),
  memory_bytes: t.Integer(),
  memory_limit_bytes: t.Integer(),
  disk: t.Object({ total_bytes: t.Integer(), free_bytes: t.Integer() }),
  workers: t.Array(workerJson),
})
const jobJson = t.Object({
  name: t.String(),
  on: t.String({ description: 'master: one over the cluster; every-node: each worker' }),
  period_ms: t.Integer({ description: '0: paused' }),
  outcome: t.String({ description: 'never, running, good or failed' }),
  holder: t.String({ description: 'Who runs it now' }),
  ran_on: t.String({ description: 'Who ran it last' }),
  last_started_at_ms: t.Integer(),
  last_ended_at_ms: t.Integer(),
  last_good_at_ms: t.Integer(),
  next_at_ms: t.Integer({ description: '0: paused, or not known' }),
  duration_ms: t.Integer(),
  runs: t.Integer({ description: 'Good runs, over all nodes' }),
  failures: t.Integer({ description: 'Since the last good run' }),
  last_error: t.String(),
})
const clusterJson = t.Object({
  now_ms: t.Integer({ description: 'Time of the database, which all times here but the starts go by' }),
  answered_by: t.String(),
  nodes: t.Array(nodeJson),
  parked_elsewhere: t.Integer({ description: 'Quota units at instances that have ended; they return soon' }),
  jobs: t.Array(jobJson),
  leases: t.Array(
    t.Object({
      name: t.String(),
      holder: t.String(),
      fencing: t.Integer(),
      expires_at_ms: t.Integer(),
    }),
  ),
  topics: countsJson,
  differences: t.Array(
    t.Object({
      name: t.String({ description: 'Name of the variable, or version, time zone, clock' }),
      values: t.Array(t.Object({ value: t.String(), nodes: t.Array(t.String()) })),
    }),
  ),
})

/** A job as this process knows it. */
export interface KnownJob {
  readonly name: string
  readonly on: 'master' | 'every-node'
  readonly periodMs: number
}

export const clusterRoutes = (deps: {
  readonly read: (jobNames: readonly string[]) => Promise<ClusterView>
  readonly jobs: () => readonly KnownJob[]
  readonly nodeName: string
  readonly http: AdminHttp
}) =>
  new Elysia({ prefix: '/api/cluster', detail: { tags: ['operation'] } }).get(
    '/',
    async ({ request }) => {
      await deps.http.actor(request, ROLE.root)
      const jobs = deps.jobs().filter(({ on }) => on === 'master')
      const view = await deps.read(jobs.map(({ name }) => name))
      return ok({
        now_ms: view.nowMs,
        answered_by: deps.nodeName,
        nodes: view.nodes.map(nodeOf),
        parked_elsewhere: view.parkedElsewhere,
        jobs: jobs.map((job) => jobOf(job, view)),
        leases: view.leases.map(({ name, holder, fencing, expiresAtMs }) => ({
          name,
          holder,
          fencing,
          expires_at_ms: expiresAtMs,
        })),
        topics: view.topics,
        differences: view.differences.map(({ name, values }) => ({
          name,
          values: values.map(({ value, nodes }) => ({ value, nodes: [...nodes] })),
        })),
      })
    },
    {
      response: envelope(clusterJson),
      detail: { summary: 'Nodes, jobs, leases, lag, money on its way, load, dependencies, differences' },
    },
  )

type Node = ClusterView['nodes'][number]
type Worker = Node['workers'][number]

function nodeOf(node: Node): Static<typeof nodeJson> {
  const there = node.workers.filter(({ state }) => state !== 'lost')
  const told = there.flatMap(({ status }) => status ?? [])
  const [first] = told
  const sum = (value: (status: (typeof told)[number]) => number): number => told.reduce((n, each) => n + value(each), 0)
  const container = first?.resources.container
  return {
    id: node.id,
    name: node.name,
    address: first?.address ?? '',
    hostname: first?.hostname ?? '',
    role: node.role,
    version: node.version,
    state: node.state,
    started_at_ms: node.startedAtMs,
    seen_at_ms: Math.max(0, ...node.workers.map(({ toldAtMs }) => toldAtMs)),
    calls: sum(({ calls }) => calls),
    parked: node.workers.reduce((n, { parked }) => n + parked, 0),
    unflushed: sum(({ ledger }) => ledger.unflushedMain),
    // The container's load is the node's; without one it is that of its workers.
    cpu_percent: container?.cpuPercent ?? sum(({ resources }) => resources.cpuPercent),
    memory_bytes: container?.memoryBytes ?? sum(({ resources }) => resources.memoryBytes),
    memory_limit_bytes: first?.resources.memoryLimitBytes ?? 0,
    disk: {
      total_bytes: first?.resources.disk.totalBytes ?? 0,
      free_bytes: first?.resources.disk.freeBytes ?? 0,
    },
    workers: node.workers.map(workerOf),
  }
}

function workerOf({ status, ...worker }: Worker): Static<typeof workerJson> {
  return {
    instance_id: worker.instanceId,
    worker: worker.worker,
    state: worker.state,
    told_at_ms: worker.toldAtMs,
    missing: [...(status?.missing ?? [])],
    calls: status?.calls ?? 0,
    parked: worker.parked,
    topics_behind: { ...status?.behind },
    dependencies: (status?.dependencies ?? []).map(({ name, form, isUp, latencyMs, error }) => ({
      name,
      form,
      up: isUp,
      ...(typeof latencyMs === 'number' && { latency_ms: latencyMs }),
      error,
    })),
    ...(status && {
      pid: status.pid,
      ready: status.isReady,
      clock_ahead_ms: status.clockAheadMs,
      snapshot_age_ms: status.snapshotAgeMs,
      outbox: {
        unflushed: status.ledger.unflushedMain,
        unflushed_log: status.ledger.unflushedLog,
        open_holds: status.ledger.openHolds,
        waiting: status.ledger.waiting,
        quarantined: status.ledger.quarantined,
        set_aside: status.ledger.setAside,
        writable: status.ledger.isWritable,
      },
      ...(status.pool && { pool: status.pool }),
      cpu_percent: status.resources.cpuPercent,
      memory_bytes: status.resources.memoryBytes,
    }),
  }
}

function jobOf({ name, on, periodMs }: KnownJob, view: ClusterView): Static<typeof jobJson> {
  const job = view.jobs.find((each) => each.name === name)
  const outcome =
    (job?.holder ?? '') !== '' ? 'running' : !job?.lastEndedAtMs ? 'never' : job.failures > 0 ? 'failed' : 'good'
  return {
    name,
    on,
    period_ms: periodMs,
    outcome,
    holder: job?.holder ?? '',
    ran_on: job?.ranOn ?? '',
    last_started_at_ms: job?.lastStartedAtMs ?? 0,
    last_ended_at_ms: job?.lastEndedAtMs ?? 0,
    last_good_at_ms: job?.lastGoodAtMs ?? 0,
    next_at_ms: periodMs > 0 ? (job?.dueAtMs ?? 0) : 0,
    duration_ms: job?.durationMs ?? 0,
    runs: job?.runs ?? 0,
    failures: job?.failures ?? 0,
    last_error: job?.lastError ?? '',
  }
}
