/**
 * The heartbeat of one instance, and the lease that each confirmed beat gives it: for so long it may spend what it has in
 * memory, since nobody may have ended it yet. Owns both clocks' judgement; what an ended instance does next is its owner's.
 */
import type { Db } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import type { InstanceInfo, InstanceState, Instances } from './instances.ts'

type Seen = InstanceState | 'missing'

export type Heartbeat = ReturnType<typeof createHeartbeat>

/**
 * @param deps.db a connection of its own, whose statements have a deadline: what keeps the pool busy must not keep a beat
 * waiting, and a beat that is not answered must come again before the lease is over
 * @param deps.isAlone the database is this node's own, so nobody else ends its instances: the lease never ends
 */
export function createHeartbeat(deps: {
  readonly db: Db
  readonly instances: Instances
  readonly instance: InstanceInfo
  readonly clock: Clock
  readonly leaseMs: number
  readonly isAlone: boolean
}) {
  const { db, instances, instance, clock, leaseMs, isAlone } = deps
  let current = ''
  let beats = 0
  let untilMs = -Infinity
  let untilWallMs = -Infinity

  /**
   * Gives the lease if `confirm` says that the instance lives: from before it was asked, by both clocks. In single
   * statements: who freezes in a transaction keeps its row locked, and nobody could end it.
   */
  const lease = async (id: string, confirm: () => Promise<Seen>): Promise<Seen> => {
    const sentMs = clock.monotonic()
    const sentWallMs = clock.now()
    const state = await confirm()
    if (id === current && state === 'live') {
      untilMs = sentMs + leaseMs
      untilWallMs = sentWallMs + leaseMs
    }
    return state
  }
  /** There may be a row already: of a commit that nobody saw, or one that says that the instance has ended. */
  const register = async (id: string, beat: number): Promise<Seen> =>
    (await instances.register(id, instance, beat, db)) ? 'live' : instances.beat(id, beat, db)

  return {
    /** May the instance spend? A machine that was suspended stops the first clock, a person who sets the time moves the second. */
    isLeased: isAlone ? () => true : (): boolean => clock.monotonic() < untilMs && clock.now() < untilWallMs,
    /** Milliseconds; below 0 when it is over. */
    leaseLeftMs: (): number => (isAlone ? leaseMs : Math.min(untilMs - clock.monotonic(), untilWallMs - clock.now())),
    /** Writes the row of a new instance, which is the current one from now on. @throws DbError; it has no lease then */
    async begin(id: string): Promise<void> {
      current = id
      untilMs = -Infinity
      untilWallMs = -Infinity
      await lease(id, () => register(id, beats))
    },
    /** Shows that the current instance lives; writes its row again if it is missing. @returns what became of it. @throws DbError */
    send(): Promise<Seen> {
      const id = current
      const beat = ++beats
      return lease(id, async () => {
        const state = await instances.beat(id, beat, db)
        return state === 'missing' ? register(id, beat) : state
      })
    },
  }
}
