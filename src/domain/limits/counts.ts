/** The counts of limits in the shared state: each node's part where the nodes share none, and never an error. */
import type { Log } from '../../lib/log.ts'
import type { State } from '../../state/index.ts'

export interface CountsDeps {
  readonly state: State
  /** Live nodes, at least 1: each grants its part of a limit where the state is its own. */
  readonly share: () => number
  readonly log: Log
}

export type Counts = Pick<State, 'take' | 'correct' | 'hold' | 'release'>

/** Limits protect; a store that fails must not end calls. So what cannot be counted is granted, and said in the log. */
export function createCounts({ state, share, log }: CountsDeps): Counts {
  /** A shared state that is away cuts the limits itself. */
  const own = (limit: number): number =>
    state.kind === 'redis' ? limit : Math.min(limit, Math.max(1, Math.floor(limit / Math.max(1, share()))))
  const or = async <T>(work: Promise<T>, otherwise: T): Promise<T> => {
    try {
      return await work
    } catch (error) {
      log.error('a limit could not be counted', { error })
      return otherwise
    }
  }
  return {
    take: (key, q) => or(state.take(key, { ...q, limit: own(q.limit) }), { taken: true, used: q.n, retryAfterMs: 0 }),
    correct: (key, q) => or(state.correct(key, q), undefined),
    hold: (key, q) => or(state.hold(key, { ...q, limit: own(q.limit) }), true),
    release: (key, holder) => or(state.release(key, holder), undefined),
  }
}
