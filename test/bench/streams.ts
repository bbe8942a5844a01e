/** CPU per chunk of a stream, the cost of its call included: 100 streams open, 100 chunks each, 20 ms apart. */
import type { Gateway } from './gateway.ts'
import { cpuOf } from './processes.ts'
import type { Work } from './profile.ts'
import type { Rig } from './rig.ts'
import type { Row } from './table.ts'
import type { Dialect } from './wire.ts'

/** Until the engine has compiled what is hot. */
const WARM_UP = 400
const DIALECTS: readonly Dialect[] = ['chat', 'unasked', 'claude']
const SHAPE = { open: 100, chunks: 100, paceMs: 20 } as const

export interface StreamSizes {
  readonly rounds: number
  readonly streams: number
}

export async function measureStreams(rig: Rig, gateway: Gateway, sizes: StreamSizes): Promise<readonly Row[]> {
  const reference = await rig.startReference()
  const streams = async (url: string, keys: readonly string[], dialect: Dialect, count: number): Promise<void> => {
    await rig.load({ kind: 'streams', url, keys, dialect, streams: count, ...SHAPE })
  }
  const values = { bare: [] as number[], chat: [] as number[], unasked: [] as number[], claude: [] as number[] }
  const measured = async (pid: number, work: () => Promise<void>): Promise<number> => {
    const start = await cpuOf(pid)
    await work()
    return ((await cpuOf(pid)) - start) / (sizes.streams * SHAPE.chunks)
  }
  const through = async (dialect: Dialect, count: number): Promise<void> => {
    await streams(gateway.url, gateway.keys, dialect, count)
    await gateway.settled(count)
  }
  try {
    // All at once: nothing is measured yet.
    await Promise.all([
      streams(reference.url, ['any'], 'chat', WARM_UP),
      ...DIALECTS.map((dialect) => streams(gateway.url, gateway.keys, dialect, WARM_UP)),
    ])
    await gateway.settled(DIALECTS.length * WARM_UP)
    for (let round = 0; round < sizes.rounds; round++) {
      values.bare.push(await measured(reference.pid, () => streams(reference.url, ['any'], 'chat', sizes.streams)))
      for (const dialect of DIALECTS)
        values[dialect].push(await measured(gateway.supervisorPid, () => through(dialect, sizes.streams)))
    }
  } finally {
    await reference.stop()
  }
  const common = { unit: 'µs CPU', reference: values.bare }
  const aim = (times: number) => ({ kind: 'at most × reference', times }) as const
  return [
    { ...common, figure: 'stream chunk, same protocol', values: values.chat, aim: aim(1.5) },
    {
      ...common,
      figure: 'stream chunk, same protocol, to who asks for no usage',
      values: values.unasked,
      aim: aim(1.5),
    },
    { ...common, figure: 'stream chunk, converted', values: values.claude, aim: aim(3) },
  ]
}

/** For a profile: streams as above. */
export const streamWork = (rig: Rig, dialect: Dialect, streams: number): Work => {
  const run = async ({ url, keys, settled }: Gateway, count: number): Promise<void> => {
    await rig.load({ kind: 'streams', url, keys, dialect, streams: count, ...SHAPE })
    await settled(count)
  }
  return {
    unit: dialect === 'chat' ? 'chunk' : 'converted chunk',
    units: streams * SHAPE.chunks,
    warmUp: (gateway) => run(gateway, WARM_UP),
    run: (gateway) => run(gateway, streams),
  }
}
