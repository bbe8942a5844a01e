/** CPU per small call: a closed loop on 32 connections, spread over users, keys and channels, and on one hot key. */
import type { Gateway } from './gateway.ts'
import { cpuOf } from './processes.ts'
import type { Work } from './profile.ts'
import type { Rig } from './rig.ts'
import type { Row } from './table.ts'

const CONNECTIONS = 32
/** Until the engine has compiled what is hot: in the first 20,000 calls that alone costs more than the calls. */
const WARM_UP = 30_000
const NAMES = { sqlite: 'SQLite', mariadb: 'MariaDB' } as const

export interface CallSizes {
  readonly rounds: number
  readonly calls: number
}

export async function measureCalls(rig: Rig, gateways: readonly Gateway[], sizes: CallSizes): Promise<readonly Row[]> {
  const reference = await rig.startReference()
  /** @returns calls per second */
  const calls = async (url: string, keys: readonly string[], count: number): Promise<number> =>
    count / (await rig.load({ kind: 'calls', url, keys, connections: CONNECTIONS, calls: count })).seconds
  const targets = gateways.flatMap((gateway) => [
    target(gateway, 'small call', gateway.keys),
    target(gateway, 'small call on one hot key', gateway.keys.slice(0, 1)),
  ])
  const bare = { cpu: [] as number[], rate: [] as number[] }
  try {
    await calls(reference.url, ['any'], WARM_UP)
    for (const gateway of gateways) {
      await calls(gateway.url, gateway.keys, WARM_UP)
      await gateway.settled(WARM_UP)
    }
    for (let round = 0; round < sizes.rounds; round++) {
      const start = await cpuOf(reference.pid)
      bare.rate.push(await calls(reference.url, ['any'], sizes.calls))
      bare.cpu.push(((await cpuOf(reference.pid)) - start) / sizes.calls)
      for (const { gateway, keys, own, database, rate } of targets) {
        const databaseCpu = async () => (gateway.databasePid === undefined ? 0 : await cpuOf(gateway.databasePid))
        const [ownStart, databaseStart] = [await cpuOf(gateway.supervisorPid), await databaseCpu()]
        rate.push(await calls(gateway.url, keys, sizes.calls))
        await gateway.settled(sizes.calls)
        own.push(((await cpuOf(gateway.supervisorPid)) - ownStart) / sizes.calls)
        database.push(((await databaseCpu()) - databaseStart) / sizes.calls)
      }
    }
  } finally {
    await reference.stop()
  }
  return targets.flatMap(({ gateway, label, own, database, rate }): Row[] => {
    const cpu = { unit: 'µs CPU', reference: bare.cpu }
    const on = NAMES[gateway.engine]
    const aim = (times: number) => ({ kind: 'at most × reference', times }) as const
    return [
      { ...cpu, figure: `${label}, L2, ${on}`, values: own, aim: aim(1.8) },
      ...(gateway.databasePid === undefined
        ? []
        : [{ ...cpu, figure: `${label}, ${on} itself`, values: database, aim: aim(1.2) }]),
      {
        figure: `${label}, ${on}: calls per second`,
        unit: '1/s',
        values: rate,
        reference: bare.rate,
        aim: { kind: 'at least × reference', times: 0.5 },
      },
    ]
  })
}

/** For a profile: spread calls, as above. */
export const callWork = (rig: Rig, calls: number): Work => {
  const run = async ({ url, keys, settled }: Gateway, count: number): Promise<void> => {
    await rig.load({ kind: 'calls', url, keys, connections: CONNECTIONS, calls: count })
    await settled(count)
  }
  return {
    unit: 'call',
    units: calls,
    warmUp: (gateway) => run(gateway, WARM_UP),
    run: (gateway) => run(gateway, calls),
  }
}

const target = (gateway: Gateway, label: string, keys: readonly string[]) => ({
  gateway,
  label,
  keys,
  own: [] as number[],
  database: [] as number[],
  rate: [] as number[],
})
