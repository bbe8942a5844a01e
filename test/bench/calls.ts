/**
 * CPU per small call: a closed loop on 32 connections, spread over users, keys and channels, and on one hot key; what the
 * proxies of others take for it; and what the same build takes more in a cluster than alone.
 */
import type { Gateway } from './gateway.ts'
import { type Optional, startNginxProxy, startPortkey } from './other-proxies.ts'
import { cpuOf, cpuOfAll } from './processes.ts'
import type { Work } from './profile.ts'
import type { Program, Rig } from './rig.ts'
import type { Row } from './table.ts'

/** Of each worker. One that waits between calls takes more CPU for each: a bare proxy at a tenth of its capacity, three times. */
const CONNECTIONS = 32
/**
 * Calls of a worker until the engine has compiled what is hot: in the first 20,000 that costs more than the calls, and after
 * 30,000 a call still takes about a tenth more than after 60,000.
 */
export const WARM_UP = { short: 30_000, long: 60_000 } as const
export const NAMES = { sqlite: 'SQLite', cluster: 'MariaDB and Redis' } as const
const SPREAD_CALL = 'small call'
const HOT_KEY_CALL = 'small call on one hot key'

/** Of what Headgate gets: others are compiled as they go, too. */
const LEAST_WARM_UP = 1 / 8
/** Each gets calls for about the same time: `share` of what Headgate gets. */
const OTHERS = [
  { name: 'Portkey', start: startPortkey, share: 1 / 20, aim: { kind: 'at most × reference', times: 1 / 20 } },
  { name: 'nginx', start: startNginxProxy, share: 3 },
] as const

export interface CallSizes {
  readonly rounds: number
  readonly calls: number
  readonly warmUp: number
}

/** What is called, and what was measured of it: one value for each round. */
interface Target {
  readonly label: string
  readonly program: { readonly url: string; readonly pid: number; readonly headers?: Readonly<Record<string, string>> }
  readonly keys: readonly string[]
  readonly share: number
  readonly gateway?: Gateway
  /** µs of CPU per call: of its own processes, and of its database servers. */
  readonly own: number[]
  readonly servers: number[]
  /** Calls per second. */
  readonly rate: number[]
}

export async function measureCalls(rig: Rig, gateways: readonly Gateway[], sizes: CallSizes): Promise<readonly Row[]> {
  const reference = await rig.startReference()
  const bare = target('bare proxy', reference, 3)
  const others: { readonly name: string; readonly program: Optional; readonly aim?: Row['aim']; target?: Target }[] = []
  const targets = gateways.flatMap((gateway) => [
    ofGateway(SPREAD_CALL, gateway, gateway.keys),
    ofGateway(HOT_KEY_CALL, gateway, gateway.keys.slice(0, 1)),
  ])
  try {
    for (const { start, share, ...other } of OTHERS) {
      const program = await start(rig)
      others.push({ ...other, program, ...(!('missing' in program) && { target: target(other.name, program, share) }) })
    }
    const without = [bare, ...others.flatMap((other) => other.target ?? [])]
    // All at once: nothing is measured yet.
    await Promise.all([
      ...without.map((each) => call(rig, each, sizes.warmUp * Math.max(LEAST_WARM_UP, Math.min(1, each.share)))),
      ...gateways.map((gateway) => warmUp(rig, gateway, sizes.warmUp)),
    ])
    const all = [...without, ...targets]
    for (let round = 0; round < sizes.rounds; round++)
      for (const each of all) await measured(rig, each, sizes.calls * each.share)
  } finally {
    await reference.stop()
    for (const { program } of others) if (!('missing' in program)) await program.stop()
  }
  return [
    ...targets.flatMap((each) => rowsOf(each, bare)),
    ...besideAlone(targets),
    ...others.flatMap((other) => besideOther(other, bare, targets)),
  ]
}

/** For a profile: spread calls, as above. */
export const callWork = (rig: Rig, calls: number): Work => ({
  unit: 'call',
  units: calls,
  warmUp: (gateway) => warmUp(rig, gateway, WARM_UP.long),
  run: async (gateway) => void (await callGateway(rig, gateway, calls)),
})

/** Calls it until each worker has served so many calls, those before included. */
export async function warmUp(rig: Rig, gateway: Gateway, perWorker: number = WARM_UP.short): Promise<void> {
  const calls = perWorker * gateway.workers - gateway.served()
  if (calls > 0) await callGateway(rig, gateway, calls)
}

/** Spread over all its keys. @returns calls per second */
export const callGateway = (rig: Rig, gateway: Gateway, calls: number): Promise<number> =>
  call(rig, ofGateway(SPREAD_CALL, gateway, gateway.keys), calls)

/** The bare proxy, or the mock itself. @returns calls per second */
export const callProgram = (rig: Rig, program: Program, calls: number): Promise<number> =>
  call(rig, target('', program), calls)

const target = (label: string, program: Target['program'], share = 1): Target => ({
  label,
  program,
  keys: ['any'],
  share,
  own: [],
  servers: [],
  rate: [],
})

const ofGateway = (label: string, gateway: Gateway, keys: readonly string[]): Target => ({
  ...target(label, { url: gateway.url, pid: gateway.supervisorPid }),
  gateway,
  keys,
})

/** Calls it, and waits until all has come to the database. @returns calls per second, without that wait */
async function call(rig: Rig, { program, keys, gateway }: Target, calls: number): Promise<number> {
  const { url, headers = {} } = program
  const connections = CONNECTIONS * (gateway?.workers ?? 1)
  const { perSecond } = await rig.load({ kind: 'calls', url, headers, keys, connections, calls })
  await gateway?.settled(calls)
  return perSecond
}

async function measured(rig: Rig, target: Target, calls: number): Promise<void> {
  const used = async () => ({ own: await cpuOf(target.program.pid), servers: await serversCpu(target.gateway) })
  const start = await used()
  target.rate.push(await call(rig, target, calls))
  const end = await used()
  target.own.push((end.own - start.own) / calls)
  target.servers.push((end.servers - start.servers) / calls)
}

/** Of MariaDB and Redis, µs so far; 0 on SQLite. */
export const serversCpu = (gateway?: Gateway): Promise<number> => cpuOfAll(gateway?.serverPids ?? [])

function rowsOf({ gateway, label, own, servers, rate }: Target, bare: Target): readonly Row[] {
  const cpu = { unit: 'µs CPU', reference: bare.own }
  const on = NAMES[gateway!.engine]
  const aim = (times: number) => ({ kind: 'at most × reference', times }) as const
  return [
    { ...cpu, figure: `${label}, L2, ${on}`, values: own, aim: aim(1.8) },
    ...(gateway!.serverPids.length === 0
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
}

/** The whole node in a cluster, its reference the same build on SQLite in the same round. */
const besideAlone = (targets: readonly Target[]): readonly Row[] =>
  targets
    .filter(({ gateway }) => gateway?.engine === 'cluster')
    .flatMap(({ label, own }) => {
      const alone = targets.find((other) => other.gateway?.engine === 'sqlite' && other.label === label)
      const figure = `${label}, L2, ${NAMES.cluster}; reference: the same on SQLite without Redis`
      return alone ? [{ figure, unit: 'µs CPU', values: own, reference: alone.own }] : []
    })

/** Another proxy beside the bare one, and Headgate beside that other proxy. */
function besideOther(
  other: { readonly name: string; readonly program: Optional; readonly aim?: Row['aim']; readonly target?: Target },
  bare: Target,
  targets: readonly Target[],
): readonly Row[] {
  const { name, program, aim } = other
  const missing = 'missing' in program ? { missing: program.missing } : {}
  const values = other.target?.own ?? []
  return [
    { figure: `small call through ${name}`, unit: 'µs CPU', values, reference: bare.own, ...missing },
    ...targets
      .filter(({ label }) => label === SPREAD_CALL)
      .map(({ gateway, label, own }) => ({
        figure: `${label}, L2, ${NAMES[gateway!.engine]}; reference: ${name}`,
        unit: 'µs CPU',
        values: own,
        reference: values,
        ...missing,
        ...(aim && { aim }),
      })),
  ]
}
