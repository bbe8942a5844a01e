/**
 * Runs jobs when they are due: one run of a job at a time, jitter so that nodes do not march in step, a time-out, a stop
 * that waits for what is running. A job that fails is logged and comes again at its next turn.
 */
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import type { Role } from '../role.ts'
import type { Job } from './job.ts'

/** How one run ended, for people. */
export interface JobReport {
  readonly name: string
  readonly isRunning: boolean
  readonly lastStartedAtMs?: number
  readonly lastDurationMs?: number
  /** Absent after a good run. */
  readonly lastError?: string
}

export interface JobRunner {
  start(): void
  /** Runs a job now, or after the run that is under way. Rejects as the job does. */
  runNow(name: string): Promise<void>
  reports(): readonly JobReport[]
  /** Aborts running jobs and waits for them. */
  stop(): Promise<void>
}

export interface JobRunnerOptions {
  readonly jobs: readonly Job[]
  readonly role: Role
  /**
   * Runs `work` if this process holds (or gets) the lease of that name, and aborts its signal when the lease is lost.
   * @returns false if another holds it: the turn is left out
   */
  readonly underLease: (
    name: string,
    signal: AbortSignal,
    work: (signal: AbortSignal) => Promise<void>,
  ) => Promise<boolean>
  readonly log: Log
  readonly clock: Clock
  readonly random?: () => number
}

/** Part of a period by which a turn may come sooner. */
const JITTER = 0.1
/** A paused job is looked at again after this long: an option may have started it. */
const PAUSED_LOOK_MS = 30_000

export function createJobRunner(options: JobRunnerOptions): JobRunner {
  const { role, underLease, log, clock, random = Math.random } = options
  const stopping = new AbortController()
  const states = options.jobs
    .filter((job) => job.on === 'every-node' || role.runsMasterJobs)
    .map((job) => ({
      job,
      timer: undefined as ReturnType<typeof setTimeout> | undefined,
      running: undefined as Promise<void> | undefined,
      report: { name: job.name, isRunning: false } as JobReport,
    }))
  type JobState = (typeof states)[number]

  const periodOf = (job: Job): number => (typeof job.everyMs === 'function' ? job.everyMs() : job.everyMs)
  const schedule = (state: JobState): void => {
    if (stopping.signal.aborted) return
    const periodMs = periodOf(state.job)
    const waitMs = periodMs > 0 ? periodMs * (1 - JITTER * random()) : PAUSED_LOOK_MS
    state.timer = setTimeout(() => {
      const turn = periodOf(state.job) > 0 ? begin(state) : Promise.resolve()
      void turn.catch(() => undefined).then(() => schedule(state))
    }, waitMs)
  }
  const begin = (state: JobState): Promise<void> => {
    state.running ??= runOnce(state).finally(() => {
      state.running = undefined
    })
    return state.running
  }
  const runOnce = async (state: JobState): Promise<void> => {
    const { job } = state
    const startedAtMs = clock.now()
    const begunAtMs = clock.monotonic()
    state.report = { ...state.report, isRunning: true, lastStartedAtMs: startedAtMs }
    try {
      await runLimited(job)
      state.report = {
        name: job.name,
        isRunning: false,
        lastStartedAtMs: startedAtMs,
        lastDurationMs: clock.monotonic() - begunAtMs,
      }
    } catch (error) {
      state.report = {
        ...state.report,
        isRunning: false,
        lastDurationMs: clock.monotonic() - begunAtMs,
        lastError: String(error),
      }
      if (!stopping.signal.aborted) log.error('a job failed', { job: job.name, error })
      throw error
    }
  }
  const runLimited = async (job: Job): Promise<void> => {
    const limit = new AbortController()
    const timer = setTimeout(
      () => limit.abort(new Error(`the job ${job.name} took longer than ${job.timeoutMs} ms`)),
      job.timeoutMs,
    )
    const signal = AbortSignal.any([stopping.signal, limit.signal])
    try {
      if (job.on === 'every-node') await job.run(signal)
      else await underLease(job.name, signal, (inner) => job.run(inner))
      // A job that ended quietly because it was told to has not done its work.
      limit.signal.throwIfAborted()
    } finally {
      clearTimeout(timer)
    }
  }

  return {
    start() {
      for (const state of states) schedule(state)
    },
    async runNow(name) {
      const state = states.find(({ job }) => job.name === name)
      if (!state) throw new Error(`there is no job ${name} on this node`)
      await state.running?.catch(() => undefined)
      await begin(state)
    },
    reports: () => states.map(({ report }) => report),
    async stop() {
      stopping.abort(new Error('the node is stopping'))
      for (const { timer } of states) clearTimeout(timer)
      await Promise.allSettled(states.map(({ running }) => running))
    },
  }
}
