/**
 * Watches the beats of all instances, by what this process has itself seen, never by comparing times: after an outage all
 * would look dead. Every worker watches, since any worker of a master may be the one that sweeps.
 */
import type { Clock } from '../../lib/clock.ts'
import { type Instances, WORKING_STATES } from './instances.ts'

/** Seen without a beat for a time. */
export interface Silent {
  readonly id: string
  /** Its node, for people. */
  readonly node: string
  /** As last seen; undefined: there is no row of that instance, only money. */
  readonly beat: number | undefined
}

export type Watch = ReturnType<typeof createWatch>

/**
 * @param deps.holders ids of all instances that have money
 * @param deps.gapMs after a longer gap in its own reading the watch starts again
 */
export function createWatch(deps: {
  readonly instances: Instances
  readonly holders: () => Promise<readonly string[]>
  readonly clock: Clock
  readonly gapMs: number
}) {
  const { instances, holders, clock, gapMs } = deps
  const seen = new Map<string, Silent & { readonly sinceMs: number }>()
  /** Of each instance that works, what names its node: it stays, so it is asked once. */
  const nodeOf = new Map<string, string>()
  let ended: readonly string[] = []
  let readMs = -Infinity
  let readWallMs = -Infinity
  let reading: Promise<void> | undefined

  const read = async (): Promise<void> => {
    const sentMs = clock.monotonic()
    const sentWallMs = clock.now()
    const now = await instances.working()
    const isWorking = new Set(now.map(({ id }) => id))
    const others = (await holders()).filter((id) => !isWorking.has(id))
    const states = await instances.states(others)
    const fresh = await instances.nodesOf(now.map(({ id }) => id).filter((id) => !nodeOf.has(id)))
    // Both clocks: a machine that was suspended stops the first, and nobody else could beat on it meanwhile.
    const hasGap = clock.monotonic() - readMs > gapMs || Math.abs(clock.now() - readWallMs) > gapMs
    if (hasGap) seen.clear()
    const all: readonly Silent[] = [
      ...now.map(({ id, node, beat }) => ({ id, node, beat })),
      ...others.filter((id) => !states.has(id)).map((id) => ({ id, node: '', beat: undefined })),
    ]
    const sinceMs = clock.monotonic()
    const gone = new Set(seen.keys())
    for (const each of all) {
      gone.delete(each.id)
      const before = seen.get(each.id)
      if (!before || before.beat !== each.beat) seen.set(each.id, { ...each, sinceMs })
    }
    for (const id of gone) seen.delete(id)
    for (const [id, node] of fresh) nodeOf.set(id, node)
    for (const id of nodeOf.keys()) if (!isWorking.has(id)) nodeOf.delete(id)
    // One that came between the questions works.
    ended = others.filter((id) => {
      const state = states.get(id)
      return state !== undefined && !WORKING_STATES.includes(state)
    })
    readMs = sentMs
    readWallMs = sentWallMs
  }

  return {
    /** Looks once; a look under way is shared. @throws DbError */
    read(): Promise<void> {
      reading ??= read().finally(() => {
        reading = undefined
      })
      return reading
    },
    /** Instances that work, as last seen, at least 1. */
    instances: (): number => Math.max(1, nodeOf.size),
    /** Their distinct nodes, at least 1. */
    nodes: (): number => Math.max(1, new Set(nodeOf.values()).size),
    /** Those whose beat was seen unchanged for so long, up to the last look. */
    silent: (forMs: number): readonly Silent[] => [...seen.values()].filter(({ sinceMs }) => readMs - sinceMs >= forMs),
    /** Instances that have ended and still have money. */
    ended: (): readonly string[] => ended,
  }
}
