/** What a piece of periodic background work is. When and where it runs is the runner's business. */
import type { Turn } from '../domain/cluster/index.ts'

export interface Job {
  readonly name: string
  /** Milliseconds from the end of one run to the start of the next, before jitter. Read anew after each run, so an option may move it; 0 or less pauses the job. */
  readonly everyMs: number | (() => number)
  /** `master`: on one of the masters at a time, once per period over the whole cluster. `every-node`: in every worker. */
  readonly on: 'master' | 'every-node'
  /** After this long the signal aborts and the run counts as failed. */
  readonly timeoutMs: number
  /**
   * Does the work once. Must end soon after `signal` aborts. A run may be repeated: the node may die before its end is on
   * record, and a node that was frozen may go on while another has taken over. So the work of a master job is such that
   * twice is as good as once, or it calls `turn.fence(tx)` in each transaction that must not be written twice.
   * @param turn fences nothing in a job of every node
   */
  run(signal: AbortSignal, turn: Turn): Promise<void>
}
