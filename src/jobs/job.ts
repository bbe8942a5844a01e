/** What a piece of periodic background work is. When and where it runs is the runner's business. */

export interface Job {
  readonly name: string
  /** Milliseconds from the end of one run to the start of the next, before jitter. Read anew after each run, so an option may move it; 0 or less pauses the job. */
  readonly everyMs: number | (() => number)
  /** `master`: on one of the masters at a time, under the cluster's lease. `every-node`: in every worker. */
  readonly on: 'master' | 'every-node'
  /** After this long the signal aborts and the run counts as failed. */
  readonly timeoutMs: number
  /** Does the work once. Must end soon after `signal` aborts. */
  run(signal: AbortSignal): Promise<void>
}
