/**
 * Instance rows: one for each tenure of one worker. Owns their states, from `live` over `draining` to `gone`; an instance
 * that is `gone` or `reclaimed` has *ended* and is never live again.
 */
import { and, eq, inArray, sql } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'

export type InstanceState = 'live' | 'draining' | 'gone' | 'reclaimed'

/** States in which an instance may move money to itself. */
export const WORKING_STATES: readonly InstanceState[] = ['live', 'draining']

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

export type Instances = ReturnType<typeof createInstances>

export function createInstances({ db, clock }: { readonly db: Db; readonly clock: Clock }) {
  const { clusterInstances } = db.tables

  return {
    /** Writes the row of a new instance; also again, when somebody removed it. */
    async register(id: string, instance: InstanceInfo): Promise<void> {
      const now = clock.now()
      await db.insertIgnore(clusterInstances, {
        id,
        node: instance.node.slice(0, 128),
        worker: instance.worker,
        role: instance.role.slice(0, 16),
        version: instance.version.slice(0, 64),
        address: (instance.address ?? '').slice(0, 255),
        info: instance.info ? JSON.stringify(instance.info) : null,
        startedAtMs: now,
        seenAtMs: now,
        beat: 0,
        state: 'live' satisfies InstanceState,
      })
    },
    /** Counts the instance's own beat up, unless it has ended. @returns what its row says now */
    async beat(id: string): Promise<InstanceState | 'missing'> {
      const raised = await db.changes(
        db
          .update(clusterInstances)
          .set({ beat: sql`${clusterInstances.beat} + 1`, seenAtMs: clock.now() })
          .where(and(eq(clusterInstances.id, id), inArray(clusterInstances.state, [...WORKING_STATES]))),
      )
      return raised > 0 ? 'live' : this.stateOf(id)
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
    /** Ids of the instances that have not ended, as far as anybody knows. */
    async working(): Promise<readonly string[]> {
      const rows = await db
        .select({ id: clusterInstances.id })
        .from(clusterInstances)
        .where(inArray(clusterInstances.state, [...WORKING_STATES]))
      return rows.map((row) => row.id)
    },
  }
}
