/** What a person can ask for: work with a payload and a progress that is kept. When and where it runs is the task runner's business. */

export interface TaskRun {
  readonly payload: unknown
  /** Of a run before this one that was given back; null for a first one. */
  readonly state: unknown
  /** Keeps how far it is, as JSON; written now and then, so it may be called often. */
  progress(state: unknown): Promise<void>
  /** Aborts when the node stops, or when the task is not this process's any more. */
  readonly signal: AbortSignal
}

export interface Task {
  readonly type: string
  /** Cut short by a stop it goes on elsewhere, from its last state; another task has failed then. */
  readonly isResumable: boolean
  /**
   * A run may be repeated or go on beside another for a moment, if its node was frozen: its writes are such that this does
   * no harm. Its own row is safe from that.
   * @returns the result, as JSON
   */
  run(run: TaskRun): Promise<unknown>
}
