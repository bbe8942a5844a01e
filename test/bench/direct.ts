/** What the rig itself can do and costs: the generator on the mock, with nothing between them. */
import { cpuOf } from './processes.ts'
import type { Program, Rig } from './rig.ts'
import type { Row } from './table.ts'

const CONNECTIONS = 32
const WARM_UP = 20_000

export interface DirectSizes {
  readonly rounds: number
  readonly calls: number
}

export async function measureDirect(rig: Rig, { rounds, calls }: DirectSizes): Promise<readonly Row[]> {
  const reference = await rig.startReference()
  const load = ({ url }: Program, count: number) =>
    rig.load({ kind: 'calls', url, keys: ['any'], connections: CONNECTIONS, calls: count })
  const direct = { rate: [] as number[], generator: [] as number[], mock: [] as number[] }
  const bare = { rate: [] as number[], cpu: [] as number[] }
  try {
    for (const program of [rig.mock, reference]) await load(program, WARM_UP)
    for (let round = 0; round < rounds; round++) {
      const mockStart = await cpuOf(rig.mock.pid)
      const result = await load(rig.mock, calls)
      direct.rate.push(result.perSecond)
      direct.generator.push(result.cpuUs / calls)
      direct.mock.push(((await cpuOf(rig.mock.pid)) - mockStart) / calls)
      const bareStart = await cpuOf(reference.pid)
      bare.rate.push((await load(reference, calls)).perSecond)
      bare.cpu.push(((await cpuOf(reference.pid)) - bareStart) / calls)
    }
  } finally {
    await reference.stop()
  }
  return [
    {
      figure: 'generator on the mock: calls per second',
      unit: '1/s',
      values: direct.rate,
      reference: bare.rate,
      aim: { kind: 'at least × reference', times: 1.5 },
    },
    { figure: 'generator, per call', unit: 'µs CPU', values: direct.generator, reference: bare.cpu },
    { figure: 'mock, per call', unit: 'µs CPU', values: direct.mock, reference: bare.cpu },
  ]
}
