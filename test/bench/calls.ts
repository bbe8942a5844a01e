/**
 * CPU per small call: a closed loop on 32 connections, spread over users, keys and channels, and on one hot key; and what
 * the same build takes more in a cluster than alone.
 */
import type { Gateway } from './gateway.ts'
import { cpuOf } from './processes.ts'
import type { Work } from './profile.ts'
import type { Rig } from './rig.ts'
import type { Row } from './table.ts'

const CONNECTIONS = 32
/** Until the engine has compiled what is hot: in the first 20,000 calls that alone costs more than the calls. */
const WARM_UP = 30_000
const NAMES = { sqlite: 'SQLite', cluster: 'MariaDB and Redis' } as const

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
      for (const { gateway, keys, own, servers, rate } of targets) {
        const serversCpu = async () => (await Promise.all(gateway.serverPids.map(cpuOf))).reduce((a, b) => a + b, 0)
        const [ownStart, serversStart] = [await cpuOf(gateway.supervisorPid), await serversCpu()]
        rate.push(await calls(gateway.url, keys, sizes.calls))
        await gateway.settled(sizes.calls)
        own.push(((await cpuOf(gateway.supervisorPid)) - ownStart) / sizes.calls)
        servers.push(((await serversCpu()) - serversStart) / sizes.calls)
      }
    }
  } finally {
    await reference.stop()
  }
  const rows = targets.flatMap(({ gateway, label, own, servers, rate }): Row[] => {
    const cpu = { unit: 'µs CPU', reference: bare.cpu }
    const on = NAMES[gateway.engine]
    const aim = (times: number) => ({ kind: 'at most × reference', times }) as const
    return [
      { ...cpu, figure: `${label}, L2, ${on}`, values: own, aim: aim(1.8) },
      ...(gateway.serverPids.length === 0
        ? []
        : [{ ...cpu, figure: `${label}, ${on} themselves`, values: servers, aim: aim(1.2) }]),
      {
        figure: `${label}, ${on}: calls per second`,
        unit: '1/s',
        values: rate,
        reference: bare.rate,
        aim: { kind: 'at least × reference', times: 0.5 },
      },
    ]
  })
  return [...rows, ...besideAlone(targets)]
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
  servers: [] as number[],
  rate: [] as number[],
})

/** The whole node in a cluster, its reference the same build on SQLite in the same round. */
const besideAlone = (targets: readonly ReturnType<typeof target>[]): readonly Row[] =>
  targets
    .filter(({ gateway }) => gateway.engine === 'cluster')
    .flatMap(({ label, own }) => {
      const alone = targets.find((other) => other.gateway.engine === 'sqlite' && other.label === label)
      const figure = `${label}, L2, ${NAMES.cluster}; reference: the same on SQLite without Redis`
      return alone ? [{ figure, unit: 'µs CPU', values: own, reference: alone.own }] : []
    })
