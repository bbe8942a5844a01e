/**
 * Which nodes share a Redis. Each shows itself there, so that nodes which only call theirs alike are found: every machine
 * its own `localhost`.
 */
import type { Log } from '../../lib/log.ts'
import { createLoop } from '../../lib/loop.ts'
import type { State } from '../../state/index.ts'
import type { Difference } from './differences.ts'
import type { ClusterView } from './view.ts'

const SHOW_MS = 10_000
/** Three times, so that a moment without Redis is no absence. */
const SHOWN_FOR_MS = 3 * SHOW_MS + 5_000

export type Presence = ReturnType<typeof createPresence>

/** @param deps.node its name, for people */
export function createPresence(deps: {
  readonly state: State
  readonly nodeId: string
  readonly node: string
  readonly log: Log
}) {
  const { state, nodeId, node, log } = deps
  const keyOf = (id: string): string => `node:${id}`
  const show = (): Promise<void> => state.set(keyOf(nodeId), '1', SHOWN_FOR_MS)
  const onError = (error: unknown): void => log.debug('this node did not show itself in Redis', { error })
  const loop = state.kind === 'redis' ? createLoop({ everyMs: SHOW_MS, run: show, onError }) : undefined

  return {
    /** Before others can see this node in the database. */
    show,
    /** Adds the living nodes that are not on the Redis of this one; says nothing while that is away. */
    async compare(view: ClusterView): Promise<ClusterView> {
      if (state.kind !== 'redis' || !state.isUp()) return view
      const living = view.nodes.filter((other) => other.id !== nodeId && other.state === 'live')
      const shown = await Promise.all(living.map((other) => state.get(keyOf(other.id))))
      const absent = living.filter((_, index) => shown[index] === undefined).map(({ name }) => name)
      if (absent.length === 0 || !state.isUp()) return view
      const difference: Difference = { name: 'Redis', values: [{ value: `not the Redis of ${node}`, nodes: absent }] }
      return { ...view, differences: [...view.differences, difference] }
    },
    stop: async (): Promise<void> => loop?.stop(),
  }
}
