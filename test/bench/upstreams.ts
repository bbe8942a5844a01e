/**
 * Upstreams as they are: most take their time, so that thousands of calls are under way at once, and some answers are
 * errors, so that a call is tried again on another channel.
 */
import { type Gateway, openGateway, type Spread } from './gateway.ts'
import { cpuOf, residentOf } from './processes.ts'
import type { Program, Rig } from './rig.ts'
import type { Row } from './table.ts'

export interface UpstreamSizes {
  readonly rounds: number
  readonly calls: number
  readonly warmUp: number
  readonly spread: Spread
}

const SLOW = { connections: 2_000, ms: 400 } as const
const CONNECTIONS = 32
const ONE_IN = 20
const RETRIES = 5

export async function measureUpstreams(rig: Rig, sizes: UpstreamSizes): Promise<readonly Row[]> {
  const slowUrl = `${rig.mock.url}/after/${SLOW.ms}/failing/0`
  const common = { folder: rig.folder, engine: 'sqlite', ...sizes.spread } as const
  const opened: { close(): Promise<void> }[] = []
  const open = async (upstreamUrl: string): Promise<Gateway> => {
    const gateway = await openGateway({ ...common, upstreamUrl })
    opened.push(gateway)
    return gateway
  }
  try {
    const bare = await rig.startReference(slowUrl)
    opened.push({ close: bare.stop })
    const slow = await open(slowUrl)
    const sound = await open(rig.mock.url)
    const failing = await open(`${rig.mock.url}/after/0/failing/${ONE_IN}`)
    await failing.admin.options({ RetryTimes: RETRIES })
    const targets = {
      bare: target(bare, SLOW.connections),
      slow: target({ ...slow, pid: slow.supervisorPid }, SLOW.connections, slow),
      sound: target({ ...sound, pid: sound.supervisorPid }, CONNECTIONS, sound),
      failing: target({ ...failing, pid: failing.supervisorPid }, CONNECTIONS, failing),
    }
    const run = async ({ program, keys, connections, gateway }: Target, calls: number): Promise<void> => {
      await rig.load({ kind: 'calls', url: program.url, keys, connections, calls })
      await gateway?.settled(calls)
    }
    for (const each of Object.values(targets)) await run(each, sizes.warmUp)
    for (let round = 0; round < sizes.rounds; round++)
      for (const each of Object.values(targets)) {
        const start = await cpuOf(each.program.pid)
        await run(each, sizes.calls)
        each.cpu.push(((await cpuOf(each.program.pid)) - start) / sizes.calls)
      }
    const underWay = `small call, ${SLOW.connections.toLocaleString('en')} under way, each for ${SLOW.ms} ms`
    return [
      { figure: `${underWay}, L2, SQLite`, unit: 'µs CPU', values: targets.slow.cpu, reference: targets.bare.cpu },
      { figure: 'the same: worker', unit: 'MB', values: [await residentOf(slow.workerPid)] },
      {
        figure: `small call, one answer of the upstream in ${ONE_IN} an error; reference: none`,
        unit: 'µs CPU',
        values: targets.failing.cpu,
        reference: targets.sound.cpu,
      },
    ]
  } finally {
    for (const each of opened) await each.close()
  }
}

interface Target {
  readonly program: Pick<Program, 'url' | 'pid'>
  readonly keys: readonly string[]
  readonly connections: number
  readonly gateway: Gateway | undefined
  /** µs per call, one value for each round. */
  readonly cpu: number[]
}

const target = (program: Target['program'], connections: number, gateway?: Gateway): Target => ({
  program,
  keys: gateway?.keys ?? ['any'],
  connections,
  gateway,
  cpu: [],
})
