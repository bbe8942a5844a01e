/**
 * What a call waits longer than without a gateway: an open loop at half of what the slowest target can do, and streams until
 * their first byte. The same schedule goes straight to the mock in the same round, and its percentiles are subtracted.
 */
import { callGateway, callProgram, NAMES, warmUp } from './calls.ts'
import type { Gateway } from './gateway.ts'
import type { Rig } from './rig.ts'
import type { Row } from './table.ts'
import type { TimedJob } from './timed.ts'

const CAPACITY_CALLS = 8_000
/** Of a schedule of calls, not counted. */
const BEGINNING_SECONDS = 0.2
/** In steady state 100 are open at once. */
const STREAMS = { perSecond: 200, stream: { chunks: 25, paceMs: 20 } } as const
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
  readonly url: string
  readonly keys: readonly string[]
  readonly gateway?: Gateway
  readonly times: (readonly number[])[]
}

export async function measureLatency(
  rig: Rig,
  gateways: readonly Gateway[],
  sizes: LatencySizes,
): Promise<readonly Row[]> {
  const reference = await rig.startReference()
  try {
    const capacities = [await callProgram(rig, reference, CAPACITY_CALLS)]
    for (const gateway of gateways) {
      await warmUp(rig, gateway)
      capacities.push(await callGateway(rig, gateway, CAPACITY_CALLS))
    }
    const perSecond = Math.round(Math.min(...capacities) / 2)
    const targets = () => ({
      direct: target('mock', rig.mock.url),
      bare: target('bare proxy', reference.url),
      own: gateways.map((gateway) => ({ ...target(NAMES[gateway.engine], gateway.url), keys: gateway.keys, gateway })),
    })
    return [
      ...(await measured(rig, 'small call', targets(), { perSecond }, BEGINNING_SECONDS, sizes)),
      { figure: 'small call: calls per second of the open loop', unit: '1/s', values: [perSecond] },
      ...(await measured(rig, 'first byte of a stream', targets(), STREAMS, secondsOf(STREAMS.stream), sizes)),
    ]
  } finally {
    await reference.stop()
  }
}

const target = (name: string, url: string): Target => ({ name, url, keys: ['any'], times: [] })
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
  const late: (readonly number[])[] = []
  for (let round = 0; round < rounds; round++)
    for (const { url, keys, gateway, times } of [direct, bare, ...own]) {
      const { timesMs, lateMs } = await rig.time({ kind: 'timed', url, keys, count, unmeasured, ...load })
      await gateway?.settled(count)
      times.push(timesMs)
      if (url === direct.url) late.push(lateMs)
    }

  const added = ({ times }: Target, share: number): readonly number[] =>
    times.map((list, round) => at(list, share) - at(direct.times[round]!, share))
  return PERCENTILES.flatMap(({ name, share, aimMs }): Row[] => [
    ...own.map(
      (each): Row => ({
        figure: `${label}, L2, ${each.name}: added ${name}`,
        unit: 'ms',
        values: added(each, share),
        reference: added(bare, share),
        aim: { kind: 'at most', value: aimMs },
      }),
    ),
    {
      figure: `${label}: straight to the mock, ${name}; reference: what of it the generator began too late`,
      unit: 'ms',
      values: direct.times.map((list) => at(list, share)),
      reference: late.map((list) => at(list, share)),
    },
  ])
}

const at = (sorted: readonly number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!
