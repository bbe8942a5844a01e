/**
 * Judges whether this node has more to do than it can: by the CPU time of its own processes, the memory of its container
 * and the room on its disk. What the machine's other tenants use is not its load. Calls ask for the verdict alone, which
 * is looked at anew every few seconds.
 */
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { createLoop } from '../../lib/loop.ts'
import type { Resources } from '../../lib/resources.ts'
import type { State } from '../../state/index.ts'

const OVERLOADS = ['cpu', 'memory', 'disk'] as const
export type Overload = (typeof OVERLOADS)[number]

/** In percent; a threshold of 0 judges nothing. */
export interface LoadThresholds {
  readonly isOn: boolean
  readonly cpu: number
  readonly memory: number
  readonly disk: number
}

/** Of all processes of the node. */
export interface Load {
  /** Of the CPUs that the node may use, over the last samples. */
  readonly cpuPercent: number
  readonly memoryPercent: number
  /** Resident, of the node's workers together. */
  readonly memoryBytes: number
  readonly memoryLimitBytes: number
  readonly diskPercent: number
  readonly disk: Resources['disk']
}

export interface LoadGuard {
  /** What there is too much of; undefined: calls are welcome. Costs nothing. */
  overload(): Overload | undefined
  /** Undefined before the first sample. */
  load(): Load | undefined
  /** Looks now. */
  look(): Promise<void>
  stop(): Promise<void>
}

/** How soon a refused caller may come again: the verdict may be another by then. */
export const LOOK_AGAIN_SEC = 5
/** A burst is served, and only what stays is judged: CPU counts over so many samples. */
const CPU_SAMPLES = 3
/** What was too much is so until it has fallen this far below its threshold, so that the verdict does not flap. */
const MARGIN_PERCENT = 5
/** A large disk that is nearly full still holds years of journals. */
const ROOM_BYTES = 2 ** 30
/** What a worker told counts until it has missed so many samples. */
const SILENT_SAMPLES = 3
const TOPIC = 'load.told'

interface Told {
  readonly worker: number
  readonly cpuPercent: number
  readonly memoryBytes: number
}

/**
 * @param deps.bus of the node, which joins its workers
 * @param deps.worker number of this one
 * @param deps.thresholds as they are now; `onThresholds` says when they have changed
 */
export function createLoadGuard(deps: {
  readonly bus: Pick<State, 'publish' | 'subscribe'>
  readonly worker: number
  readonly read: () => Promise<Resources>
  readonly thresholds: () => LoadThresholds
  readonly onThresholds: (listener: () => void) => () => void
  readonly clock: Clock
  readonly log: Log
  readonly everyMs?: number
}): LoadGuard {
  const { bus, worker, clock, log, everyMs = LOOK_AGAIN_SEC * 1000 } = deps
  /** Number of a worker → what it told last. */
  const told = new Map<number, Told & { readonly atMs: number }>()
  const cpuSamples: number[] = []
  let load: Load | undefined
  let verdict: Overload | undefined

  const judge = (): void => {
    const next = load && judgeLoad(load, deps.thresholds(), verdict)
    if (next === verdict) return
    verdict = next
    if (next) log.warn('this node is overloaded; calls are refused', { what: next, ...load })
    else log.info('this node takes calls again', { ...load })
  }
  const look = async (): Promise<void> => {
    const own = await deps.read()
    const mine: Told = { worker, cpuPercent: own.cpuPercent, memoryBytes: own.memoryBytes }
    await bus.publish(TOPIC, JSON.stringify(mine))
    const now = clock.monotonic()
    told.set(worker, { ...mine, atMs: now })
    for (const [number, { atMs }] of told) if (now - atMs > SILENT_SAMPLES * everyMs) told.delete(number)
    const sum = (value: (each: Told) => number): number => [...told.values()].reduce((n, each) => n + value(each), 0)
    cpuSamples.push(
      Math.min(
        100,
        sum(({ cpuPercent }) => cpuPercent),
      ),
    )
    if (cpuSamples.length > CPU_SAMPLES) cpuSamples.shift()
    load = loadOfNode(
      own,
      sum(({ memoryBytes }) => memoryBytes),
      cpuSamples,
    )
    judge()
  }

  const leave = [
    bus.subscribe(TOPIC, (message) => {
      const other = JSON.parse(message) as Told
      told.set(other.worker, { ...other, atMs: clock.monotonic() })
    }),
    deps.onThresholds(judge),
  ]
  const loop = createLoop({
    everyMs,
    run: look,
    onError: (error) => log.warn('the load of this node could not be read', { error: String(error) }),
  })
  return {
    overload: () => verdict,
    load: () => load,
    look,
    async stop() {
      for (const end of leave) end()
      await loop.stop()
    },
  }
}

function loadOfNode(own: Resources, memoryBytes: number, cpuSamples: readonly number[]): Load {
  const { container, memoryLimitBytes, disk } = own
  // The kernel ends processes by the container's sum, which also has the buffers of connections. Where the sum is mostly
  // others', refusing calls would not lower it.
  const isOurs = container !== undefined && memoryBytes >= container.memoryBytes / 2
  const usedBytes = isOurs ? container.memoryBytes : memoryBytes
  const share = (used: number, of: number): number => (of > 0 ? Math.min(100, (used / of) * 100) : 0)
  return {
    // Until there are enough samples the missing ones count as calm.
    cpuPercent: cpuSamples.reduce((sum, each) => sum + each, 0) / CPU_SAMPLES,
    memoryPercent: share(usedBytes, memoryLimitBytes),
    memoryBytes,
    memoryLimitBytes,
    diskPercent: share(disk.totalBytes - disk.freeBytes, disk.totalBytes),
    disk,
  }
}

/** @param before the verdict so far, which stands until its cause has eased @returns the worst, or undefined */
function judgeLoad(load: Load, thresholds: LoadThresholds, before: Overload | undefined): Overload | undefined {
  if (!thresholds.isOn) return undefined
  const used = { cpu: load.cpuPercent, memory: load.memoryPercent, disk: load.diskPercent }
  const isOver = (what: Overload): boolean => {
    if (thresholds[what] <= 0) return false
    if (what === 'disk' && load.disk.freeBytes >= ROOM_BYTES) return false
    return used[what] > thresholds[what] - (what === before ? MARGIN_PERCENT : 0)
  }
  // One that stands is not replaced by another, so that the log tells of it once.
  if (before && isOver(before)) return before
  return OVERLOADS.find(isOver)
}
