/**
 * Several workers on the same machine, each as busy as the one: a call must cost no more CPU than there. Beside them as many
 * bare proxies, which share nothing but the machine: what a call costs more there, the machine takes.
 */
import { callGateway, callProgram, serversCpu, WARM_UP, warmUp } from './calls.ts'
import { type Gateway, openGateway, type Spread } from './gateway.ts'
import { cpuOf, cpuOfAll } from './processes.ts'
import type { Program, Rig } from './rig.ts'
import type { Row } from './table.ts'

export interface WorkersSizes {
  readonly rounds: number
  readonly calls: number
  /** Calls of each worker before. */
  readonly warmUp: number
  /** Nodes with so many workers each, beside the one with one. */
  readonly workers: readonly number[]
  readonly spread: Spread
}

/** @param gateways the one in a cluster has one worker; without it there is nothing to compare */
export async function measureWorkers(
  rig: Rig,
  gateways: readonly Gateway[],
  sizes: WorkersSizes,
): Promise<readonly Row[]> {
  const single = gateways.find(({ engine }) => engine === 'cluster')
  if (!single) return []
  const opened: Gateway[] = []
  const proxies: Program[] = []
  try {
    while (proxies.length < Math.max(...sizes.workers)) proxies.push(await rig.startReference())
    const bare = [1, ...sizes.workers].map((count) => ({ some: proxies.slice(0, count), own: [] as number[] }))
    for (const proxy of proxies) await callProgram(rig, proxy, WARM_UP.short)
    for (const count of sizes.workers)
      opened.push(
        await openGateway({
          folder: rig.folder,
          engine: 'cluster',
          upstreamUrl: rig.mock.url,
          workers: count,
          ...sizes.spread,
        }),
      )
    const nodes = [single, ...opened].map((gateway) => ({
      gateway,
      own: [] as number[],
      servers: [] as number[],
      rate: [] as number[],
    }))
    // In turn: seven workers at once are more than a small machine and its database carry, and calls would be refused.
    for (const { gateway } of nodes) await warmUp(rig, gateway, sizes.warmUp)
    for (let round = 0; round < sizes.rounds; round++) {
      for (const { some, own } of bare) {
        const start = await cpuOfAll(some.map(({ pid }) => pid))
        await Promise.all(some.map((proxy) => callProgram(rig, proxy, sizes.calls / some.length)))
        own.push(((await cpuOfAll(some.map(({ pid }) => pid))) - start) / sizes.calls)
      }
      for (const { gateway, own, servers, rate } of nodes) {
        const [ownStart, serversStart] = [await cpuOf(gateway.supervisorPid), await serversCpu(gateway)]
        rate.push(await callGateway(rig, gateway, sizes.calls))
        own.push(((await cpuOf(gateway.supervisorPid)) - ownStart) / sizes.calls)
        servers.push(((await serversCpu(gateway)) - serversStart) / sizes.calls)
      }
    }
    const [one, ...several] = nodes
    const [oneProxy, ...severalProxies] = bare
    return several.flatMap(({ gateway, own, servers, rate }, at): Row[] => {
      const label = `${gateway.workers} workers`
      const besides = severalProxies[at]!
      return [
        {
          figure: `${label}: small call, L2; reference: one worker`,
          unit: 'µs CPU',
          values: own,
          reference: one!.own,
          aim: { kind: 'at most × reference', times: 1.1 },
        },
        { figure: `${label}: MariaDB and Redis themselves`, unit: 'µs CPU', values: servers, reference: one!.servers },
        {
          figure: `${besides.some.length} bare proxies at once: small call; reference: one`,
          unit: 'µs CPU',
          values: besides.own,
          reference: oneProxy!.own,
        },
        { figure: `${label}: calls per second`, unit: '1/s', values: rate, reference: one!.rate },
      ]
    })
  } finally {
    for (const proxy of proxies) await proxy.stop()
    for (const gateway of opened) await gateway.close()
  }
}
