/**
 * What this node needs of others: asked now and then for a sign of life, so that probes, the cluster view and alerts can say
 * which one is away without asking themselves. It decides nothing.
 */
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { createLoop } from '../../lib/loop.ts'
import type { Alerts } from '../notify/index.ts'

export interface Dependency {
  readonly name: string
  /** What it is: an engine, a kind of Redis. */
  form(): string
  /** Rejects when it is away. */
  ping(): Promise<unknown>
}

export interface DependencyState {
  readonly name: string
  readonly form: string
  readonly isUp: boolean
  /** Of the last good answer; undefined before the first. */
  readonly latencyMs: number | undefined
  /** Why it is away, for an operator; '' while it is up. */
  readonly error: string
}

export type Dependencies = ReturnType<typeof createDependencies>

const EVERY_MS = 2_000
/** Who does not answer in this time is away: a black hole never says so. */
const PATIENCE_MS = 3_000

export function createDependencies(deps: {
  readonly list: readonly Dependency[]
  readonly log: Log
  readonly clock: Clock
  readonly alert?: Alerts['raise']
  readonly everyMs?: number
  readonly patienceMs?: number
}) {
  const { list, log, clock, alert, everyMs = EVERY_MS, patienceMs = PATIENCE_MS } = deps
  const states = new Map<Dependency, { isUp: boolean; latencyMs: number | undefined; error: string }>(
    list.map((dependency) => [dependency, { isUp: true, latencyMs: undefined, error: '' }]),
  )

  /** Questions without an answer so far: a black hole gets one at a time, not one more every time. */
  const pending = new Map<Dependency, Promise<unknown>>()
  const pingOf = (dependency: Dependency): Promise<unknown> => {
    const open = pending.get(dependency)
    if (open) return open
    const ping = dependency.ping().finally(() => pending.delete(dependency))
    pending.set(dependency, ping)
    return ping
  }

  const ask = async (dependency: Dependency): Promise<void> => {
    const { name } = dependency
    const before = states.get(dependency)
    const askedAtMs = clock.monotonic()
    try {
      await inTime(pingOf(dependency), patienceMs)
      states.set(dependency, { isUp: true, latencyMs: clock.monotonic() - askedAtMs, error: '' })
      if (before?.isUp === false) {
        log.info('a dependency answers again', { dependency: name })
        alert?.({ kind: 'dependency-down', key: name, text: `the ${name} answers again`, isOver: true })
      }
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error)
      states.set(dependency, { isUp: false, latencyMs: before?.latencyMs, error: text })
      // Also while it stays away: what is told again, and when, is the alerts' business.
      if (before?.isUp !== false) log.warn('a dependency is away', { dependency: name, error: text })
      alert?.({ kind: 'dependency-down', key: name, text: `the ${name} is away: ${text}` })
    }
  }
  const loops = list.map((dependency) =>
    createLoop({
      everyMs,
      run: () => ask(dependency),
      onError: (error) => log.error('a dependency could not be asked', { dependency: dependency.name, error }),
    }),
  )
  for (const loop of loops) loop.wake()

  return {
    states: (): readonly DependencyState[] =>
      list.map((dependency) => ({
        name: dependency.name,
        form: dependency.form(),
        ...states.get(dependency)!,
      })),
    async stop(): Promise<void> {
      await Promise.all(loops.map((loop) => loop.stop()))
    },
  }
}

async function inTime(work: Promise<unknown>, patienceMs: number): Promise<void> {
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(() => late.reject(new Error(`no answer within ${patienceMs} ms`)), patienceMs)
  try {
    await Promise.race([work, late.promise])
  } finally {
    clearTimeout(timer)
    // What comes too late has nobody left to tell.
    work.catch(() => undefined)
  }
}
