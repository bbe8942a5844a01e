/**
 * Memory that does not grow with time: of the worker under one stream that never seems to end, and under a steady load of
 * small calls at 60 % of what it can do. The slope is the straight line that fits the samples best.
 */
import { callGateway, warmUp } from './calls.ts'
import { type Gateway, openGateway } from './gateway.ts'
import { residentOf } from './processes.ts'
import type { Rig } from './rig.ts'
import type { Row } from './table.ts'
import { type Dialect, streamWrites } from './wire.ts'

export interface FlatSizes {
  /** Of the one stream, each a chunk of its own, as fast as they come. */
  readonly tokens: number
  /** Of steady load; 0: none. `BENCH_MINUTES` says otherwise. */
  readonly minutes: number
}

const SAMPLE_MS = 100
/** Whatever a heap wants to have before it is collected. */
const WARM_UP_TOKENS = 100_000
const STREAM_AIM_MB = 10
/** Until all that a stream or a load needs is there, samples do not count: this part of the whole time. */
const BEGINNING = 0.25
const SLICE_SECONDS = 10
const CAPACITY_CALLS = 20_000
const LOAD_SHARE = 0.6
const DIALECTS = [
  { dialect: 'chat', name: 'forwarded' },
  { dialect: 'claude', name: 'converted' },
] as const

interface Sample {
  /** Milliseconds. */
  readonly at: number
  readonly mb: number
}

export async function measureFlat(rig: Rig, sizes: FlatSizes): Promise<readonly Row[]> {
  const minutes = Number(process.env['BENCH_MINUTES'] ?? sizes.minutes)
  const gateway = await openGateway({
    folder: rig.folder,
    engine: 'sqlite',
    upstreamUrl: rig.mock.url,
    keysPerUser: 20,
  })
  try {
    const rows: Row[] = []
    for (const { dialect, name } of DIALECTS) {
      await oneStream(rig, gateway, dialect, WARM_UP_TOKENS)
      const samples = await oneStream(rig, gateway, dialect, sizes.tokens)
      const figure = `one stream of ${sizes.tokens} tokens (${bytesOf(sizes.tokens)} MB), ${name}: worker`
      const value = slopeOf(samples) * lengthOf(samples)
      rows.push(
        { figure: `${figure}, most`, unit: 'MB', values: [Math.max(...samples.map(({ mb }) => mb))] },
        { figure: `${figure} grows by`, unit: 'MB', values: [value], aim: { kind: 'at most', value: STREAM_AIM_MB } },
      )
    }
    if (minutes > 0) {
      const { samples, perSecond } = await steadyLoad(rig, gateway, minutes)
      const figure = `${minutes} min at ${LOAD_SHARE * 100} % load`
      rows.push(
        { figure: `${figure}: small calls`, unit: '1/s', values: [perSecond] },
        { figure: `${figure}: worker, most`, unit: 'MB', values: [Math.max(...samples.map(({ mb }) => mb))] },
        {
          figure: `${figure}: worker grows in an hour`,
          unit: 'MB',
          values: [slopeOf(samples) * 3_600_000],
          aim: { kind: 'at most', value: 20 },
        },
      )
    }
    return rows
  } finally {
    await gateway.close()
  }
}

async function oneStream(rig: Rig, gateway: Gateway, dialect: Dialect, tokens: number): Promise<readonly Sample[]> {
  const { url, keys } = gateway
  const shape = { kind: 'streams', url, keys, dialect, streams: 1, open: 1, paceMs: 0 } as const
  const samples = await sampled(gateway.workerPid, async () => void (await rig.load({ ...shape, chunks: tokens })))
  await gateway.settled(1)
  return samples
}

async function steadyLoad(rig: Rig, gateway: Gateway, minutes: number) {
  const { url, keys } = gateway
  await warmUp(rig, gateway)
  const perSecond = Math.round((await callGateway(rig, gateway, CAPACITY_CALLS)) * LOAD_SHARE)
  const count = perSecond * SLICE_SECONDS
  const endsAtMs = performance.now() + minutes * 60_000
  const samples = await sampled(gateway.workerPid, async () => {
    while (performance.now() < endsAtMs) {
      await rig.time({ kind: 'timed', url, keys, perSecond, count, unmeasured: count })
      await gateway.settled(count)
    }
  })
  return { samples, perSecond }
}

async function sampled(pid: number, work: () => Promise<void>): Promise<readonly Sample[]> {
  const samples: Sample[] = []
  let isOver = false
  const sampling = (async () => {
    while (!isOver) {
      samples.push({ at: performance.now(), mb: await residentOf(pid) })
      await Bun.sleep(SAMPLE_MS)
    }
  })()
  await work().finally(() => {
    isOver = true
  })
  await sampling
  return samples.slice(Math.floor(samples.length * BEGINNING))
}

/** What goes through, in MB: had it been kept, the worker would grow by more. */
const bytesOf = (tokens: number): number =>
  Math.round((tokens * [...streamWrites({ id: 1, chunks: 2, paceMs: 0 })][1]!.length) / 1e6)

const lengthOf = (samples: readonly Sample[]): number => (samples.at(-1)?.at ?? 0) - (samples[0]?.at ?? 0)

/** Least squares, in MB per millisecond; 0 where there are too few samples for a line. */
function slopeOf(samples: readonly Sample[]): number {
  if (samples.length < 3) return 0
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
  const at = mean(samples.map((sample) => sample.at))
  const mb = mean(samples.map((sample) => sample.mb))
  const covariance = samples.reduce((sum, sample) => sum + (sample.at - at) * (sample.mb - mb), 0)
  return covariance / samples.reduce((sum, sample) => sum + (sample.at - at) ** 2, 0)
}
