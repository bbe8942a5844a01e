/**
 * Runs jobs when they are due: one run of a job at a time, a time-out, a stop that waits for what is running. Jobs of
 * every node go by this process's own clock, with jitter so that nodes do not march in step; master jobs by the turns that
 * the database keeps. A job that fails says so once and comes again after a while, until it works.
 */
import type { TakeTurn, Turn } from '../domain/cluster/index.ts'
import type { Alerts } from '../domain/notify/index.ts'
import type { Clock } from '../lib/clock.ts'
import { messageOf } from '../lib/error-text.ts'
import type { Log } from '../lib/log.ts'
import type { Role } from '../role.ts'
import type { Job } from './job.ts'

/** How the last run in this process went, for people. Of a master job the database knows more. */
export interface JobReport {
  readonly name: string
  readonly on: Job['on']
  /** 0 while it is paused. */
  readonly periodMs: number
  readonly isRunning: boolean
  readonly lastStartedAtMs?: number
  readonly lastDurationMs?: number
  /** Absent after a good run. */
  readonly lastError?: string
}

export interface JobRunner {
  start(): void
  /** Runs a job now, or after the run that is under way; a master job only if no other process has its turn. Rejects as the job does. */
  runNow(name: string): Promise<void>
  /** Every job there is, also those that this node does not run. */
  reports(): readonly JobReport[]
  /** Aborts running jobs and waits for them. */
  stop(): Promise<void>
}

export interface JobRunnerOptions {
  readonly jobs: readonly Job[]
  readonly role: Role
  readonly takeTurn: TakeTurn
  readonly log: Log
  readonly clock: Clock
  readonly alert?: Alerts['raise']
  readonly random?: () => number
}

/** Part of a period by which a turn may come sooner. */
const JITTER = 0.1
/** A paused job is looked at again after this long: an option may have started it. */
const PAUSED_LOOK_MS = 30_000
/** A start has better things to do than what is due. */
const START_LOOK_MS = 3_000
/** Masters that look at one moment would only wait for each other. */
const LOOK_JITTER_MS = 200
/** Longest wait after a failure, for jobs that come more often. */
const MOST_RETRY_MS = 15_000
const LOOK_RETRY_MS = 2_000

const NOTHING_TO_FENCE: Turn = { fence: async () => {} }

interface JobState {
  readonly job: Job
  timer?: ReturnType<typeof setTimeout> | undefined
  running?: Promise<number> | undefined
  report: Omit<JobReport, 'name' | 'on' | 'periodMs'>
  failures: number
}

export function createJobRunner(options: JobRunnerOptions): JobRunner {
  const { role, takeTurn, log, clock, random = Math.random } = options
  const stopping = new AbortController()
  const all: readonly JobState[] = options.jobs.map((job) => ({ job, report: { isRunning: false }, failures: 0 }))
  const states = all.filter(({ job }) => job.on === 'every-node' || role.runsMasterJobs)
  let isLookFailing = false

  const periodOf = ({ everyMs }: Job): number => {
    const periodMs = typeof everyMs === 'function' ? everyMs() : everyMs
    return periodMs > 0 ? Math.max(1, Math.round(periodMs)) : 0
  }

  const schedule = (state: JobState, waitMs: number): void => {
    if (stopping.signal.aborted) return
    state.timer = setTimeout(() => {
      if (periodOf(state.job) === 0) return schedule(state, PAUSED_LOOK_MS)
      void begin(state, false)
        .catch(() => retryMs(state))
        .then((againMs) => scheduleNext(state, againMs))
    }, waitMs)
  }
  const scheduleNext = (state: JobState, againMs: number): void => {
    const { job } = state
    if (periodOf(job) === 0) schedule(state, PAUSED_LOOK_MS)
    else if (job.on === 'master') schedule(state, againMs + random() * Math.min(LOOK_JITTER_MS, againMs * JITTER))
    else schedule(state, againMs * (1 - JITTER * random()))
  }
  const retryMs = ({ job, failures }: JobState): number => {
    const periodMs = periodOf(job)
    // When a master job comes again is on record.
    if (job.on === 'master') return Math.min(periodMs, LOOK_RETRY_MS)
    return Math.min(periodMs * 2 ** Math.min(failures - 1, 16), Math.max(periodMs, MOST_RETRY_MS))
  }

  /** @returns when to come again, milliseconds from now */
  const begin = (state: JobState, isNow: boolean): Promise<number> => {
    state.running ??= (state.job.on === 'master' ? runInTurn(state, isNow) : runOwn(state)).finally(() => {
      state.running = undefined
    })
    return state.running
  }
  const runOwn = async (state: JobState): Promise<number> => {
    await runNoted(state, stopping.signal, NOTHING_TO_FENCE)
    return periodOf(state.job)
  }
  const runInTurn = async (state: JobState, isNow: boolean): Promise<number> => {
    const { name } = state.job
    let isBegun = false
    try {
      const { againMs } = await takeTurn(
        { name, periodMs: periodOf(state.job), isNow },
        stopping.signal,
        (signal, turn) => {
          isBegun = true
          return runNoted(state, signal, turn)
        },
      )
      isLookFailing = false
      return againMs
    } catch (error) {
      // Once for all jobs of an outage.
      if (!isBegun && !isLookFailing && !stopping.signal.aborted) {
        isLookFailing = true
        log.warn('the turns of jobs cannot be looked at', { job: name, error: messageOf(error) })
      }
      throw error
    }
  }

  const runNoted = async (state: JobState, signal: AbortSignal, turn: Turn): Promise<void> => {
    const { job } = state
    const lastStartedAtMs = clock.now()
    const begunAtMs = clock.monotonic()
    state.report = { ...state.report, isRunning: true, lastStartedAtMs }
    const done = () => ({ isRunning: false, lastStartedAtMs, lastDurationMs: clock.monotonic() - begunAtMs })
    try {
      await runLimited(job, signal, turn)
      state.report = done()
      if (state.failures > 0) log.info('a job works again', { job: job.name, failures: state.failures })
      state.failures = 0
    } catch (error) {
      state.report = { ...done(), lastError: messageOf(error) }
      if (!stopping.signal.aborted) tellFailure(state, error)
      throw error
    }
  }
  /** Said once until it works again: what is down for hours would say it thousands of times. */
  const tellFailure = (state: JobState, error: unknown): void => {
    const { name } = state.job
    if (++state.failures > 1) return
    if (isOutage(error)) log.warn('a job waits for a database that is away', { job: name, error: messageOf(error) })
    else log.error('a job failed', { job: name, error })
    options.alert?.({ kind: 'job-failed', key: name, text: `the job ${name} failed: ${messageOf(error)}` })
  }
  const runLimited = async (job: Job, outer: AbortSignal, turn: Turn): Promise<void> => {
    const limit = new AbortController()
    const timer = setTimeout(
      () => limit.abort(new Error(`the job ${job.name} took longer than ${job.timeoutMs} ms`)),
      job.timeoutMs,
    )
    try {
      await job.run(AbortSignal.any([outer, limit.signal]), turn)
      // A job that ended quietly because it was told to has not done its work.
      limit.signal.throwIfAborted()
    } finally {
      clearTimeout(timer)
    }
  }

  return {
    start() {
      for (const state of states) {
        const periodMs = periodOf(state.job)
        if (state.job.on === 'master') schedule(state, Math.min(periodMs, START_LOOK_MS) * (0.5 + 0.5 * random()))
        else scheduleNext(state, periodMs)
      }
    },
    async runNow(name) {
      const state = states.find(({ job }) => job.name === name)
      if (!state) throw new Error(`there is no job ${name} on this node`)
      await state.running?.catch(() => undefined)
      await begin(state, true)
    },
    reports: () => all.map(({ job, report }) => ({ name: job.name, on: job.on, periodMs: periodOf(job), ...report })),
    async stop() {
      stopping.abort(new Error('the node is stopping'))
      for (const { timer } of states) clearTimeout(timer)
      await Promise.allSettled(states.map(({ running }) => running))
    },
  }
}

/** The database's own error, known by its shape: this folder does not look at the database. */
function isOutage(error: unknown): boolean {
  const { name, kind } = (error ?? {}) as { name?: unknown; kind?: unknown }
  return name === 'DbError' && kind === 'unavailable'
}
