/** What the benchmark measures, in the order of its table: a section for each figure, with its full and its quick sizes. */
import { measureBodies } from './bodies.ts'
import { measureCalls, WARM_UP } from './calls.ts'
import { measureDirect } from './direct.ts'
import { measureFlat } from './flat.ts'
import type { Gateway, Spread } from './gateway.ts'
import { measureGrowth } from './growth.ts'
import { measureIdle } from './idle.ts'
import { measureLatency } from './latency.ts'
import { measureMemory } from './memory.ts'
import type { Rig } from './rig.ts'
import { measureShared } from './shared.ts'
import { measureStalled } from './stalled.ts'
import { measureStart } from './start.ts'
import { measureStreams } from './streams.ts'
import type { Row } from './table.ts'
import { measureUpstreams } from './upstreams.ts'
import { measureWorkers } from './workers.ts'

export interface Figure {
  /** What `--only` calls it. */
  readonly name: string
  /** Of its section in the table. */
  readonly title: string
  /** Measures the gateways that are shared, on each engine; without it, the figure opens what it needs. */
  readonly isOnShared: boolean
  /** Takes so long that a quick run has it only when it is asked for by name. */
  readonly isLong?: boolean
  measure(rig: Rig, mode: keyof Sizes<unknown>, shared: Shared): Promise<readonly Row[]>
}

/**
 * Gateways with many users, keys and channels, set up when first asked for.
 * @param most how many, in the order of the engines of the run; without it, one on each
 */
export type Shared = (most?: number) => Promise<readonly Gateway[]>

/** Quick sizes should take at most 15 s. */
export interface Sizes<T> {
  readonly full: T
  readonly quick: T
}

/** Of the gateways that figures share. Most of their set-up is hashing passwords, two for each user. */
export const SPREAD: Sizes<Spread> = {
  full: { users: 50, keysPerUser: 2, channels: 5 },
  quick: { users: 20, keysPerUser: 5, channels: 5 },
}

export const FIGURES: readonly Figure[] = [
  figure(
    'rig',
    'The rig itself',
    { full: { rounds: 5, calls: 40_000 }, quick: { rounds: 2, calls: 20_000 } },
    measureDirect,
  ),
  onShared(
    'calls',
    'Small calls',
    {
      full: { rounds: 5, calls: 20_000, warmUp: WARM_UP.long },
      quick: { rounds: 2, calls: 8_000, warmUp: WARM_UP.short },
    },
    async (rig, shared, sizes) => measureCalls(rig, await shared(), sizes),
  ),
  {
    ...onShared(
      'workers',
      'Small calls on several workers',
      {
        full: { rounds: 5, calls: 20_000, warmUp: WARM_UP.long, workers: [2, 4], spread: SPREAD.full },
        quick: { rounds: 2, calls: 8_000, warmUp: WARM_UP.short, workers: [2], spread: SPREAD.quick },
      },
      async (rig, shared, sizes) => measureWorkers(rig, await shared(), sizes),
    ),
    isLong: true,
  },
  {
    ...figure(
      'upstreams',
      'Slow and failing upstreams',
      {
        full: { rounds: 3, calls: 20_000, warmUp: WARM_UP.short, spread: SPREAD.full },
        quick: { rounds: 2, calls: 8_000, warmUp: WARM_UP.short, spread: SPREAD.quick },
      },
      measureUpstreams,
    ),
    isLong: true,
  },
  onShared(
    'latency',
    'Added latency',
    { full: { rounds: 5, seconds: 5 }, quick: { rounds: 2, seconds: 0.7 } },
    async (rig, shared, sizes) => measureLatency(rig, await shared(), sizes),
  ),
  onShared(
    'streams',
    'Streams',
    { full: { rounds: 5, streams: 400 }, quick: { rounds: 2, streams: 100 } },
    async (rig, shared, sizes) => measureStreams(rig, (await shared(1))[0]!, sizes),
  ),
  figure(
    'memory',
    'Memory of open streams',
    {
      full: { rounds: 2, streams: [3_000, 5_000], chunks: 20 },
      quick: { rounds: 1, streams: [3_000], chunks: 8 },
    },
    measureMemory,
  ),
  {
    ...figure(
      'shared',
      'What a node asks of the servers that all share',
      { full: { rounds: 3, seconds: 20 }, quick: { rounds: 1, seconds: 5 } },
      measureShared,
    ),
    isLong: true,
  },
  figure('idle', 'Idle node', { full: { rounds: 5, seconds: 10 }, quick: { rounds: 1, seconds: 8 } }, measureIdle),
  figure(
    'growth',
    'Growth',
    {
      full: { logs: 10_000_000, rounds: 5, calls: 20_000, warmUp: 30_000, pages: 4, edits: 20, deleted: 100_000 },
      quick: { logs: 500_000, rounds: 3, calls: 3_000, warmUp: 6_000, pages: 1, edits: 5, deleted: 5_000 },
    },
    measureGrowth,
  ),
  figure(
    'bodies',
    'Large bodies',
    {
      full: { rounds: 3, seconds: 8, kinds: ['image', 'text', 'converted'] },
      quick: { rounds: 1, seconds: 3, kinds: ['text'] },
    },
    measureBodies,
  ),
  {
    ...figure(
      'stalled',
      'Readers that stall',
      { full: { rounds: 2, readers: 1_000 }, quick: { rounds: 1, readers: 100 } },
      measureStalled,
    ),
    isLong: true,
  },
  figure(
    'flat',
    'Memory over time',
    { full: { tokens: 600_000, minutes: 5 }, quick: { tokens: 200_000, minutes: 0 } },
    measureFlat,
  ),
  figure('start', 'Start', { full: { rounds: 9 }, quick: { rounds: 3 } }, measureStart),
]

function figure<T>(
  name: string,
  title: string,
  sizes: Sizes<T>,
  measure: (rig: Rig, sizes: T) => Promise<readonly Row[]>,
): Figure {
  return { name, title, isOnShared: false, measure: (rig, mode) => measure(rig, sizes[mode]) }
}

function onShared<T>(
  name: string,
  title: string,
  sizes: Sizes<T>,
  measure: (rig: Rig, shared: Shared, sizes: T) => Promise<readonly Row[]>,
): Figure {
  return { name, title, isOnShared: true, measure: (rig, mode, shared) => measure(rig, shared, sizes[mode]) }
}
