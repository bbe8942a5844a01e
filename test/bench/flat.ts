/**
 * Memory that does not grow with time: of the worker under one stream that never seems to end, and under a steady load of
 * small calls that keeps its main thread busy for 60 % of the time. The slope is the straight line that fits best.
 */
import { callGateway, warmUp } from './calls.ts'
import { type Gateway, openGateway } from './gateway.ts'
import { mainThreadCpuOf, residentOf } from './processes.ts'
import type { Rig } from './rig.ts'
import { median, type Row } from './table.ts'
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
const SLICE_SECONDS = 60
const CAPACITY_CALLS = 20_000
const LOAD_SHARE = 0.6
/** A call takes more CPU the fewer there are, so the pace is found in steps. */
const PACE_TRIALS = 3
const PACE_TRIAL_SECONDS = 5
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
        { figure: `${figure}: worker`, unit: 'MB', values: byTheMinute(samples).map(({ mb }) => mb) },
        {
          figure: `${figure}: worker grows in an hour`,
          unit: 'MB',
          values: [slopeOf(byTheMinute(samples)) * 3_600_000],
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
  const { url, keys, workerPid } = gateway
  const calls = async (perSecond: number, seconds: number): Promise<void> => {
    const count = perSecond * seconds
    await rig.time({ kind: 'timed', url, keys, perSecond, count, unmeasured: count })
    await gateway.settled(count)
  }
  await warmUp(rig, gateway)
  let perSecond = Math.round(((await callGateway(rig, gateway, CAPACITY_CALLS)) * LOAD_SHARE) / 2)
  for (let trial = 0; trial < PACE_TRIALS; trial++) {
    const start = await mainThreadCpuOf(workerPid)
    await calls(perSecond, PACE_TRIAL_SECONDS)
    const busy = ((await mainThreadCpuOf(workerPid)) - start) / 1e6 / PACE_TRIAL_SECONDS
    perSecond = Math.round((perSecond * LOAD_SHARE) / busy)
  }
  const endsAtMs = performance.now() + minutes * 60_000
  const samples = await sampled(workerPid, async () => {
    while (performance.now() < endsAtMs) await calls(perSecond, SLICE_SECONDS)
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

/** The median of each minute: a moment in which calls piled up is none in which memory grew. */
const byTheMinute = (samples: readonly Sample[]): readonly Sample[] =>
  [...Map.groupBy(samples, ({ at }) => Math.floor(at / 60_000))].map(([minute, some]) => ({
    at: minute * 60_000,
    mb: median(some.map(({ mb }) => mb)),
  }))

/** Least squares, in MB per millisecond; 0 where there are too few samples for a line. */
function slopeOf(samples: readonly Sample[]): number {
  if (samples.length < 3) return 0
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
  const at = mean(samples.map((sample) => sample.at))
  const mb = mean(samples.map((sample) => sample.mb))
  const covariance = samples.reduce((sum, sample) => sum + (sample.at - at) * (sample.mb - mb), 0)
  return covariance / samples.reduce((sum, sample) => sum + (sample.at - at) ** 2, 0)
}
