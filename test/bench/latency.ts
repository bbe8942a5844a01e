/**
 * What a call waits longer than without a gateway: an open loop at half of what the slowest target can do, and streams until
 * their first byte. The same schedule goes straight to the mock in the same round, and its percentiles are subtracted.
 */
import { callGateway, callProgram, NAMES, warmUp } from './calls.ts'
import type { Gateway } from './gateway.ts'
import { cpuOf } from './processes.ts'
import type { Rig } from './rig.ts'
import { median, type Row } from './table.ts'
import type { TimedJob } from './timed.ts'

/** Enough that flushes and log rows are part of what is carried: they begin after up to two seconds. */
const CAPACITY_CALLS = 60_000
/** Of a schedule of calls, not counted. */
const BEGINNING_SECONDS = 0.2
/** In steady state 100 are open at once. */
const STREAMS = { perSecond: 200, stream: { chunks: 25, paceMs: 20 } } as const
/**
 * A schedule that the generator itself kept worse than this, at p99, says nothing of what it called: the machine stood still
 * or was busy with something else. It is repeated, and the one that was kept best counts.
 */
const LATE_MS = 3
const TRIES = 2
const PERCENTILES = [
  { name: 'p50', share: 0.5, aimMs: 1 },
  { name: 'p99', share: 0.99, aimMs: 5 },
] as const

export interface LatencySizes {
  readonly rounds: number
  /** Of each schedule. */
  readonly seconds: number
}

/** What is measured; times are sorted, in milliseconds, one list for each round. */
interface Target {
  readonly name: string
  readonly program: { readonly url: string; readonly pid: number }
  readonly keys: readonly string[]
  readonly gateway?: Gateway
  readonly times: (readonly number[])[]
  /** µs of CPU per call. */
  readonly cpu: number[]
  /** p99 of how late the generator began. */
  readonly lateMs: number[]
}

export async function measureLatency(
  rig: Rig,
  gateways: readonly Gateway[],
  sizes: LatencySizes,
): Promise<readonly Row[]> {
  const reference = await rig.startReference()
  try {
    await Promise.all(gateways.map((gateway) => warmUp(rig, gateway)))
    const capacities = [await callProgram(rig, reference, CAPACITY_CALLS)]
    for (const gateway of gateways) capacities.push(await callGateway(rig, gateway, CAPACITY_CALLS))
    const perSecond = Math.round(Math.min(...capacities) / 2)
    const targets = (measuredGateways: readonly Gateway[]) => ({
      direct: target('mock', rig.mock),
      bare: target('bare proxy', reference),
      own: measuredGateways.map((gateway) => ({
        ...target(NAMES[gateway.engine], { url: gateway.url, pid: gateway.supervisorPid }),
        keys: gateway.keys,
        gateway,
      })),
    })
    const calls = await measured(rig, 'small call', targets(gateways), { perSecond }, BEGINNING_SECONDS, sizes)
    // The database has no part in a stream until it ends: one engine says it all, a cluster's if it is in the run.
    const streamed = targets(gateways.slice(-1))
    const streams = await measured(rig, 'first byte of a stream', streamed, STREAMS, secondsOf(STREAMS.stream), sizes)
    return [...calls, { figure: 'small call: its pace', unit: '1/s', values: [perSecond] }, ...streams]
  } finally {
    await reference.stop()
  }
}

const target = (name: string, program: Target['program']): Target => ({
  name,
  program,
  keys: ['any'],
  times: [],
  cpu: [],
  lateMs: [],
})
const secondsOf = ({ chunks, paceMs }: typeof STREAMS.stream): number => (chunks * paceMs) / 1_000

async function measured(
  rig: Rig,
  label: string,
  { direct, bare, own }: { readonly direct: Target; readonly bare: Target; readonly own: readonly Target[] },
  load: Pick<TimedJob, 'perSecond' | 'stream'>,
  beginningSeconds: number,
  { rounds, seconds }: LatencySizes,
): Promise<readonly Row[]> {
  const unmeasured = Math.round(load.perSecond * beginningSeconds)
  const count = unmeasured + Math.round(load.perSecond * seconds)
  const attempt = async ({ program, keys, gateway }: Target) => {
    const start = await cpuOf(program.pid)
    const { timesMs, lateMs } = await rig.time({ kind: 'timed', url: program.url, keys, count, unmeasured, ...load })
    await gateway?.settled(count)
    return { timesMs, lateMs: at(lateMs, 0.99), cpu: ((await cpuOf(program.pid)) - start) / count }
  }
  for (let round = 0; round < rounds; round++)
    for (const target of [direct, bare, ...own]) {
      let best = await attempt(target)
      for (let tried = 1; tried < TRIES && best.lateMs > LATE_MS; tried++) {
        const next = await attempt(target)
        if (next.lateMs < best.lateMs) best = next
      }
      target.cpu.push(best.cpu)
      target.times.push(best.timesMs)
      target.lateMs.push(best.lateMs)
    }

  const added = ({ times }: Target, share: number): readonly number[] =>
    times.map((list, round) => at(list, share) - at(direct.times[round]!, share))
  const isBusy = (target: Target): boolean => median(target.lateMs) > LATE_MS
  const doubt = 'the machine was too busy for the generator to keep its schedule'
  const percentiles = PERCENTILES.flatMap(({ name, share, aimMs }): Row[] => [
    ...own.map(
      (each): Row => ({
        figure: `${label}, L2, ${each.name}: added ${name}`,
        unit: 'ms',
        values: added(each, share),
        reference: added(bare, share),
        aim: { kind: 'at most', value: aimMs },
        ...((isBusy(each) || isBusy(direct)) && { doubt }),
      }),
    ),
    {
      figure: `${label}: straight to the mock, ${name}`,
      unit: 'ms',
      values: direct.times.map((list) => at(list, share)),
    },
  ])
  const cpu = own.map(
    (each): Row => ({
      figure: `${label}, L2, ${each.name}, at this pace`,
      unit: 'µs CPU',
      values: each.cpu,
      reference: bare.cpu,
    }),
  )
  const late = [direct, bare, ...own].flatMap(({ lateMs }) => lateMs)
  return [...percentiles, { figure: `${label}: the generator began late, p99`, unit: 'ms', values: late }, ...cpu]
}

const at = (sorted: readonly number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!
