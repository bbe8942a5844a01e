/**
 * Instance rows: one for each tenure of one worker. Owns their states, from `live` over `draining` to `gone`; an instance
 * that is `gone` or `reclaimed` has *ended* and is never live again.
 */
import { and, eq, inArray } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'

export type InstanceState = 'live' | 'draining' | 'gone' | 'reclaimed'

/** States in which an instance may move money to itself. */
export const WORKING_STATES: readonly InstanceState[] = ['live', 'draining']

/** Others wait to be ended, too, ms. */
const RECLAIM_DEADLINE_MS = 2_000

/** What people see of a worker in the list of nodes. */
export interface InstanceInfo {
  readonly node: string
  /** number of the worker on its node, from 0 */
  readonly worker: number
  readonly role: string
  readonly version: string
  readonly address?: string
  readonly info?: Readonly<Record<string, unknown>>
}

/** An instance that works, as its row says. */
export interface SeenInstance {
  readonly id: string
  /** Name of its node, for people: others may have the same. */
  readonly node: string
  readonly beat: number
}

export type Instances = ReturnType<typeof createInstances>

export function createInstances({ db, clock }: { readonly db: Db; readonly clock: Clock }) {
  const { clusterInstances } = db.tables

  return {
    /**
     * Writes the row of a new instance; also again, when somebody removed it.
     * @param beat the instance's own count
     * @param on the connection to do it on
     * @returns false when there is a row already
     */
    register: async (id: string, instance: InstanceInfo, beat: number, on: Db = db): Promise<boolean> =>
      (await on.insertIgnore(clusterInstances, rowOf(id, instance, beat, 'live'))) > 0,
    /**
     * Shows that the instance lives, unless it has ended.
     * @param beat the instance's own count, which only rises: a database that went back must not look as if nothing moved
     * @param on the connection to do it on
     * @returns what its row says now
     */
    async beat(id: string, beat: number, on: Db = db): Promise<InstanceState | 'missing'> {
      const raised = await on.changes(
        on
          .update(clusterInstances)
          .set({ beat, seenAtMs: clock.now() })
          .where(and(eq(clusterInstances.id, id), inArray(clusterInstances.state, [...WORKING_STATES]))),
      )
      if (raised > 0) return 'live'
      const [row] = await on
        .select({ state: clusterInstances.state })
        .from(clusterInstances)
        .where(eq(clusterInstances.id, id))
      return (row?.state as InstanceState | undefined) ?? 'missing'
    },
    async stateOf(id: string): Promise<InstanceState | 'missing'> {
      const [row] = await db
        .select({ state: clusterInstances.state })
        .from(clusterInstances)
        .where(eq(clusterInstances.id, id))
      return (row?.state as InstanceState | undefined) ?? 'missing'
    },
    /** Moves instances on, unless they have ended. */
    async setState(ids: readonly string[], state: InstanceState): Promise<void> {
      if (ids.length === 0) return
      await db
        .update(clusterInstances)
        .set({ state, seenAtMs: clock.now() })
        .where(and(inArray(clusterInstances.id, [...ids]), inArray(clusterInstances.state, [...WORKING_STATES])))
    },
    /** The instances that have not ended, as far as anybody knows. */
    async working(): Promise<readonly SeenInstance[]> {
      return db
        .select({ id: clusterInstances.id, node: clusterInstances.node, beat: clusterInstances.beat })
        .from(clusterInstances)
        .where(inArray(clusterInstances.state, [...WORKING_STATES]))
    },
    /** @returns for those of `ids` that have a row what names their node, and no other node */
    async nodesOf(ids: readonly string[]): Promise<ReadonlyMap<string, string>> {
      if (ids.length === 0) return new Map()
      const rows = await db
        .select({ id: clusterInstances.id, node: clusterInstances.node, info: clusterInstances.info })
        .from(clusterInstances)
        .where(inArray(clusterInstances.id, [...ids]))
      return new Map(rows.map(({ id, node, info }) => [id, nodeIdOf(info) ?? node]))
    },
    /** @returns the states of those of `ids` that have a row */
    async states(ids: readonly string[]): Promise<ReadonlyMap<string, InstanceState>> {
      if (ids.length === 0) return new Map()
      const rows = await db
        .select({ id: clusterInstances.id, state: clusterInstances.state })
        .from(clusterInstances)
        .where(inArray(clusterInstances.id, [...ids]))
      return new Map(rows.map(({ id, state }) => [id, state as InstanceState]))
    },
    /** Ends an instance that has not been heard of since this beat. @returns false when it has, or has ended before */
    async reclaim({ id, beat }: { readonly id: string; readonly beat: number }): Promise<boolean> {
      const isSilent = and(
        eq(clusterInstances.id, id),
        eq(clusterInstances.beat, beat),
        inArray(clusterInstances.state, [...WORKING_STATES]),
      )
      // A transaction for its deadline: an instance that froze inside one of its own keeps its row locked.
      const ended = await db.transaction(
        (tx) =>
          tx.changes(
            tx
              .update(clusterInstances)
              .set({ state: 'reclaimed' satisfies InstanceState })
              .where(isSilent),
          ),
        { deadlineMs: RECLAIM_DEADLINE_MS },
      )
      return ended > 0
    },
    /** Ends an instance that has no row: writes one that says so. @returns false when it has written its own meanwhile */
    async bury(id: string): Promise<boolean> {
      const lost = { node: '', worker: 0, role: '', version: '' }
      return (await db.insertIgnore(clusterInstances, rowOf(id, lost, 0, 'reclaimed'))) > 0
    },
  }

  function rowOf(id: string, instance: InstanceInfo, beat: number, state: InstanceState) {
    const now = clock.now()
    return {
      id,
      node: instance.node.slice(0, 128),
      worker: instance.worker,
      role: instance.role.slice(0, 16),
      version: instance.version.slice(0, 64),
      address: (instance.address ?? '').slice(0, 255),
      info: instance.info ? JSON.stringify(instance.info) : null,
      startedAtMs: now,
      seenAtMs: now,
      beat,
      state,
    }
  }
}

function nodeIdOf(info: string | null): string | undefined {
  try {
    const told = JSON.parse(info ?? 'null') as { readonly nodeId?: unknown } | null
    return typeof told?.nodeId === 'string' ? told.nodeId : undefined
  } catch {
    return undefined
  }
}
