/**
 * Works on what people asked for, on the masters: hears of requests over the bus and looks now and then, works on one task
 * of each type at a time under its lock, and fails the tasks of workers that died.
 */
import { type Claim, keepRenewed, type SystemTasks, type TaskEnd } from '../domain/cluster/index.ts'
import type { Clock } from '../lib/clock.ts'
import { messageOf } from '../lib/error-text.ts'
import type { Log } from '../lib/log.ts'
import { createLoop, type Loop } from '../lib/loop.ts'
import type { Role } from '../role.ts'
import type { Task } from './task.ts'

export interface TaskRunner {
  start(): void
  /** Gives back what can go on elsewhere, fails the rest. */
  stop(): Promise<void>
}

/** A lost message costs at most this. */
const LOOK_MS = 5_000
/** Progress is written at most this often. */
const PROGRESS_MS = 2_000
const END_TRIES = 5
const END_RETRY_MS = 500

/** @param options.ttlMs of the locks; renewed at a sixth of it */
export function createTaskRunner(options: {
  readonly tasks: SystemTasks
  readonly kinds: readonly Task[]
  readonly role: Role
  readonly ttlMs: number
  readonly log: Log
  readonly clock: Clock
  readonly lookMs?: number
}): TaskRunner {
  const { tasks, kinds, role, ttlMs, log, clock } = options
  const stopping = new AbortController()
  const running = new Map<string, Promise<void>>()
  let looking: Loop | undefined
  let unsubscribe = (): void => {}
  let isFailing = false

  const look = async (): Promise<void> => {
    const failed = await tasks.failExpired()
    if (failed > 0) log.warn('system tasks were interrupted and have failed', { count: failed })
    while (!stopping.signal.aborted) {
      const sinceMs = performance.now()
      const claim = await tasks.claim(kinds.map(({ type }) => type).filter((type) => !running.has(type)))
      if (!claim) break
      const work = run(claim, sinceMs).finally(() => {
        running.delete(claim.type)
        // The next one of this type may have been asked for while this one was ending.
        looking?.wake()
      })
      running.set(claim.type, work)
    }
    isFailing = false
  }

  const run = async (claim: Claim, sinceMs: number): Promise<void> => {
    const { type, taskId } = claim
    const kind = kinds.find((each) => each.type === type)!
    const begunAtMs = clock.monotonic()
    const renewal = keepRenewed({ what: `the task ${taskId}`, ttlMs, sinceMs, renew: () => tasks.renew(claim) })
    const taken = new AbortController()
    const signal = AbortSignal.any([stopping.signal, renewal.signal, taken.signal])
    let state: unknown
    let writtenAtMs = begunAtMs
    const progress = async (next: unknown): Promise<void> => {
      state = next
      if (clock.monotonic() - writtenAtMs < PROGRESS_MS) return
      writtenAtMs = clock.monotonic()
      try {
        if (!(await tasks.note(claim, next))) taken.abort(new Error('the task was taken over'))
      } catch (error) {
        // The next one tells more; whether the task is still ours is the lock's affair.
        log.debug('the progress of a task could not be noted', { taskId, error })
      }
    }
    let end: TaskEnd
    try {
      const result = await kind.run({ payload: claim.payload, state: claim.state, progress, signal })
      signal.throwIfAborted()
      end = { status: 'succeeded', result }
    } catch (error) {
      const isGivenBack = stopping.signal.aborted && kind.isResumable
      end = isGivenBack ? { status: 'pending' } : { status: 'failed', error: messageOf(error) }
      if (!isGivenBack && !renewal.signal.aborted && !taken.signal.aborted)
        log.warn('a system task failed', { taskId, type, error })
    }
    await renewal.stop()
    await finish(claim, state, end)
    log.info('a system task ended here', {
      taskId,
      type,
      status: end.status,
      ms: Math.round(clock.monotonic() - begunAtMs),
    })
  }

  const finish = async (claim: Claim, state: unknown, end: TaskEnd): Promise<void> => {
    const { taskId } = claim
    for (let tries = 1; ; tries++) {
      try {
        if (!(await tasks.end(claim, state, end)))
          log.warn('a system task was taken over while it ran here', { taskId })
        return
      } catch (error) {
        if (tries < END_TRIES) {
          await Bun.sleep(END_RETRY_MS)
          continue
        }
        log.warn('the end of a system task could not be noted', { taskId, error })
        return
      }
    }
  }

  return {
    start() {
      if (!role.runsMasterJobs) return
      looking = createLoop({
        everyMs: options.lookMs ?? LOOK_MS,
        run: look,
        onError: (error) => {
          if (!isFailing) log.warn('system tasks cannot be looked at', { error: messageOf(error) })
          isFailing = true
        },
      })
      unsubscribe = tasks.onRequest(() => looking?.wake())
    },
    async stop() {
      stopping.abort(new Error('the node is stopping'))
      unsubscribe()
      await looking?.stop()
      await Promise.all(running.values())
    },
  }
}
