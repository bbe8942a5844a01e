/**
 * The cluster as any node sees it, for root: read from what the nodes tell in their rows, and from what the database keeps of
 * leases, jobs and parked quota. Who is silent is judged by the database's time.
 */
import { and, asc, eq, gt, inArray, ne, or, sql } from 'drizzle-orm'
import { type Db, readTopicVersions } from '../../db/index.ts'
import { type Difference, readDifferences } from './differences.ts'
import { type InstanceState, WORKING_STATES } from './instances.ts'
import { type NodeStatus, readNodeStatus, SILENT_BEATS } from './node-status.ts'

export interface WorkerView {
  readonly instanceId: string
  readonly worker: number
  /** `silent`: it works as far as anybody knows, and has not told anything for three heartbeats; `lost`: it was ended by others. */
  readonly state: 'live' | 'draining' | 'silent' | 'lost'
  /** Ms, database time; 0 if it never told anything. */
  readonly toldAtMs: number
  /** Quota units of accounts that are parked at it. */
  readonly parked: number
  /** Absent for a worker that has not told anything yet. */
  readonly status: NodeStatus | undefined
}

export interface NodeView {
  readonly id: string
  /** Distinct among the nodes that are there. */
  readonly name: string
  readonly role: string
  readonly version: string
  /** The best state of its workers. */
  readonly state: WorkerView['state']
  /** Ms; by the clock of the node. */
  readonly startedAtMs: number
  readonly workers: readonly WorkerView[]
}

/** Of a job of which the cluster needs one; times are ms of the database, 0 = never. */
export interface JobView {
  readonly name: string
  /** Who runs it now; '' if nobody does. */
  readonly holder: string
  readonly ranOn: string
  readonly lastStartedAtMs: number
  readonly lastEndedAtMs: number
  readonly lastGoodAtMs: number
  readonly dueAtMs: number
  readonly durationMs: number
  readonly runs: number
  readonly failures: number
  readonly lastError: string
}

export interface LeaseView {
  readonly name: string
  readonly holder: string
  readonly fencing: number
  readonly expiresAtMs: number
}

export interface ClusterView {
  /** Ms; what all times here are compared with. */
  readonly nowMs: number
  readonly nodes: readonly NodeView[]
  /** Quota units at instances that are not among them: it returns when they are settled, by a sweep or by their own disk. */
  readonly parkedElsewhere: number
  readonly leases: readonly LeaseView[]
  readonly jobs: readonly JobView[]
  readonly topics: Readonly<Record<string, number>>
  readonly differences: readonly Difference[]
}

/** How long people are shown a node that was lost. */
const SHOW_LOST_MS = 24 * 3_600_000
/** A worker that has told nothing yet may just have started. */
const FIRST_WORD_MS = 30_000

/** @param jobNames of the jobs that are shown, in this order */
export async function readClusterView(db: Db, jobNames: readonly string[]): Promise<ClusterView> {
  const { leases, quotaAllotments } = db.tables
  const parked = await db
    .select({ instanceId: quotaAllotments.instanceId, amount: sql<number>`sum(${quotaAllotments.amount})` })
    .from(quotaAllotments)
    .where(gt(quotaAllotments.amount, 0))
    .groupBy(quotaAllotments.instanceId)
  const parkedAt = new Map(parked.map(({ instanceId, amount }) => [instanceId, Number(amount)]))
  const topics = Object.fromEntries(await readTopicVersions(db))
  const leaseRows = await db
    .select()
    .from(leases)
    .where(or(ne(leases.holder, ''), inArray(leases.name, [...jobNames])))
  const { nowMs, nodes } = await readNodes(db, parkedAt)
  const isShown = new Set(nodes.flatMap(({ workers }) => workers.map(({ instanceId }) => instanceId)))
  const elsewhere = [...parkedAt].filter(([instanceId]) => !isShown.has(instanceId))
  return {
    nowMs,
    nodes,
    parkedElsewhere: elsewhere.reduce((sum, [, amount]) => sum + amount, 0),
    leases: leaseRows
      // Who told an alert is no lease of work.
      .filter(({ name, holder }) => holder !== '' && !name.startsWith('alert:'))
      .map(({ name, holder, fencing, expiresAtMs }) => ({ name, holder, fencing, expiresAtMs })),
    jobs: jobNames.map((name) =>
      jobOf(
        name,
        leaseRows.find((row) => row.name === name),
        nowMs,
      ),
    ),
    topics,
    differences: await readDifferences(db),
  }
}

/** Who is there, who is silent, and who was lost of late. @param parkedAt quota units by instance */
export async function readNodes(
  db: Db,
  parkedAt: ReadonlyMap<string, number> = new Map(),
): Promise<Pick<ClusterView, 'nowMs' | 'nodes'>> {
  const { clusterInstances: instances } = db.tables
  const nowMs = await db.now()
  const rows = await db
    .select()
    .from(instances)
    .where(
      or(
        inArray(instances.state, [...WORKING_STATES]),
        and(eq(instances.state, 'reclaimed' satisfies InstanceState), gt(instances.statusAtMs, nowMs - SHOW_LOST_MS)),
      ),
    )
    .orderBy(asc(instances.startedAtMs), asc(instances.id))
  const told = rows.map((row) => ({ row, status: readNodeStatus(row.status), nodeId: nodeIdOf(row) }))
  const living = new Set(told.filter(({ row }) => row.state !== 'reclaimed').map(({ nodeId }) => nodeId))
  // A node that came back is not lost, whatever became of an earlier instance of it.
  const shown = told.filter(({ row, nodeId }) => row.state !== 'reclaimed' || !living.has(nodeId))
  const nodes = [...Map.groupBy(shown, ({ nodeId }) => nodeId)].map(([id, all]): NodeView => {
    const workers = all.map(({ row, status }): WorkerView => {
      return {
        instanceId: row.id,
        worker: row.worker,
        state: stateOf(row, status, nowMs),
        toldAtMs: row.statusAtMs,
        parked: parkedAt.get(row.id) ?? 0,
        status,
      }
    })
    const [first] = all
    return {
      id,
      name: all.find(({ status }) => status?.shownAs !== undefined)?.status?.shownAs ?? first!.row.node,
      role: first!.row.role,
      version: first!.row.version,
      state: ORDER.find((state) => workers.some((worker) => worker.state === state)) ?? 'lost',
      startedAtMs: first!.row.startedAtMs,
      workers: workers.sort((a, b) => a.worker - b.worker),
    }
  })
  return { nowMs, nodes: distinct(nodes) }
}

const ORDER: readonly WorkerView['state'][] = ['live', 'draining', 'silent', 'lost']

type InstanceRow = Db['tables']['clusterInstances']['$inferSelect']
type LeaseRow = Db['tables']['leases']['$inferSelect']

function stateOf(row: InstanceRow, status: NodeStatus | undefined, nowMs: number): WorkerView['state'] {
  if (row.state === 'reclaimed') return 'lost'
  const isSilent = status
    ? nowMs - row.statusAtMs >= SILENT_BEATS * status.everyMs
    : Math.abs(nowMs - row.startedAtMs) >= FIRST_WORD_MS
  if (isSilent) return 'silent'
  return row.state === 'draining' ? 'draining' : 'live'
}

/** Rows of a release that does not tell the id of its node are shown each by itself. */
function nodeIdOf(row: InstanceRow): string {
  const status = readNodeStatus(row.status)
  if (status) return status.nodeId
  try {
    const { nodeId } = JSON.parse(row.info ?? '{}') as { nodeId?: unknown }
    return typeof nodeId === 'string' ? nodeId : row.id
  } catch {
    return row.id
  }
}

/** Nodes that have not found a name of their own yet are told apart all the same. */
function distinct(nodes: readonly NodeView[]): readonly NodeView[] {
  const taken = new Set<string>()
  return nodes.map((node) => {
    let name = node.name
    for (let number = 2; taken.has(name); number++) name = `${node.name}#${number}`
    taken.add(name)
    return { ...node, name }
  })
}

const jobOf = (name: string, row: LeaseRow | undefined, nowMs: number): JobView => ({
  name,
  holder: row && row.expiresAtMs > nowMs ? row.holder : '',
  ranOn: row?.ranOn ?? '',
  lastStartedAtMs: row?.startedAtMs ?? 0,
  lastEndedAtMs: row?.endedAtMs ?? 0,
  lastGoodAtMs: row?.goodAtMs ?? 0,
  dueAtMs: row?.dueAtMs ?? 0,
  durationMs: row?.durationMs ?? 0,
  runs: row?.runs ?? 0,
  failures: row?.failures ?? 0,
  lastError: row?.lastError ?? '',
})
