/**
 * What each worker tells of itself in its instance's row, with each heartbeat: so any node can answer for all of them. It
 * holds figures and names, no secrets. The moment is the database's, so a node with a wrong clock looks no older.
 */
import { eq, inArray } from 'drizzle-orm'
import { type Db, readTopicVersions } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { createLoop } from '../../lib/loop.ts'
import type { Resources } from '../../lib/resources.ts'
import type { DependencyState } from './dependencies.ts'
import { WORKING_STATES } from './instances.ts'

/** What is known of a worker here and now. */
export interface OwnStatus {
  readonly nodeId: string
  readonly hostname: string
  readonly pid: number
  /** Where calls reach the node, as far as it knows. */
  readonly address: string
  readonly isReady: boolean
  readonly missing: readonly string[]
  /** Calls being answered. */
  readonly calls: number
  /** How old what routing reads is: it is read anew at least each `SYNC_FREQUENCY`. */
  readonly snapshotAgeMs: number
  readonly ledger: {
    /** Charges in the outboxes that a database does not have yet. */
    readonly unflushedMain: number
    readonly unflushedLog: number
    readonly openHolds: number
    readonly waiting: number
    readonly quarantined: number
    readonly setAside: number
    readonly isWritable: boolean
  }
  /** Connections to the main database; absent where there is no pool. */
  readonly pool?: { readonly max: number; readonly open: number; readonly busy: number; readonly waiting: number }
  readonly dependencies: readonly DependencyState[]
}

export interface NodeStatus extends OwnStatus {
  /** Name under which people see the node, where this worker speaks for it. */
  readonly shownAs?: string
  /** Versions that memory lacks of what the database has, by topic. */
  readonly behind: Readonly<Record<string, number>>
  /** What the node's clock is ahead of the database's, ms. */
  readonly clockAheadMs: number
  readonly resources: Resources
  /** How often it is told. */
  readonly everyMs: number
}

/** Of a node as a whole, in percent of what it may have. */
export interface NodeLoad {
  readonly cpuPercent: number
  readonly memoryPercent: number
  readonly disk: Resources['disk']
}

/** A node that has been silent for so many heartbeats is dead to people. */
export const SILENT_BEATS = 3

/**
 * @param deps.instanceId of the instance that this worker is now
 * @param deps.everyMs as the heartbeat
 * @param deps.speak for the worker that speaks for its node: gives the name under which the node is seen
 */
export function createNodeStatus(deps: {
  readonly db: Db
  readonly instanceId: () => string
  readonly own: () => OwnStatus
  /** Versions of what is in memory, by topic. */
  readonly inMemory: () => ReadonlyMap<string, number>
  readonly resources: () => Promise<Resources>
  readonly everyMs: number
  readonly speak?: (load: NodeLoad) => Promise<string>
  readonly log: Log
  readonly clock: Clock
}) {
  const { db, clock, log, everyMs } = deps
  const { clusterInstances } = db.tables
  let isFailing = false

  const tell = async (): Promise<void> => {
    const resources = await deps.resources()
    const askedAtMs = clock.now()
    const statusAtMs = await db.now()
    const clockAheadMs = Math.round((askedAtMs + clock.now()) / 2 - statusAtMs)
    const inMemory = deps.inMemory()
    const behind = behindOf(await readTopicVersions(db), inMemory)
    const own = deps.own()
    const shownAs = deps.speak && (await deps.speak(loadOf(resources, await othersOf(own.nodeId))))
    const status: NodeStatus = {
      ...own,
      ...(shownAs !== undefined && { shownAs }),
      behind,
      clockAheadMs,
      resources,
      everyMs,
    }
    await db
      .update(clusterInstances)
      .set({ status: JSON.stringify(status), statusAtMs })
      .where(eq(clusterInstances.id, deps.instanceId()))
    isFailing = false
  }
  /** What the other workers of this node told last. */
  const othersOf = async (nodeId: string): Promise<readonly Resources[]> => {
    const rows = await db
      .select({ id: clusterInstances.id, status: clusterInstances.status })
      .from(clusterInstances)
      .where(inArray(clusterInstances.state, [...WORKING_STATES]))
    return rows.flatMap(({ id, status }) => {
      const told = readNodeStatus(status)
      return id !== deps.instanceId() && told?.nodeId === nodeId ? [told.resources] : []
    })
  }
  const loop = createLoop({
    everyMs,
    run: tell,
    onError: (error) => {
      if (!isFailing) log.warn('the status of this worker could not be told', { error: String(error) })
      isFailing = true
    },
  })
  loop.wake()
  return { wake: loop.wake, stop: loop.stop }
}

/** The container's load is the node's; without one it is that of its workers. */
function loadOf(own: Resources, others: readonly Resources[]): NodeLoad {
  const sum = (value: (resources: Resources) => number): number =>
    others.reduce((n, each) => n + value(each), value(own))
  const { container, memoryLimitBytes, disk } = own
  const memoryBytes = container?.memoryBytes ?? sum((each) => each.memoryBytes)
  return {
    cpuPercent: Math.min(100, container?.cpuPercent ?? sum((each) => each.cpuPercent)),
    memoryPercent: memoryLimitBytes > 0 ? Math.min(100, (memoryBytes / memoryLimitBytes) * 100) : 0,
    disk,
  }
}

function behindOf(now: ReadonlyMap<string, number>, inMemory: ReadonlyMap<string, number>): Record<string, number> {
  const lags = [...inMemory].map(([topic, version]) => [topic, (now.get(topic) ?? 0) - version] as const)
  return Object.fromEntries(lags.filter(([, lag]) => lag > 0))
}

/** @returns undefined for a row of a release that tells nothing, or of nobody's */
export function readNodeStatus(text: string | null): NodeStatus | undefined {
  try {
    const value: unknown = JSON.parse(text ?? 'null')
    // What a release of ours wrote there has these fields; later ones only add to them.
    return typeof value === 'object' && value !== null && 'nodeId' in value ? (value as NodeStatus) : undefined
  } catch {
    return undefined
  }
}
