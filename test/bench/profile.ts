/** Where CPU time goes: Bun's own profiler on the worker, summed by step and by function. */
import { mkdtemp, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Gateway, type GatewayOptions, openGateway } from './gateway.ts'
import { cpuOf, mainThreadCpuOf } from './processes.ts'

/** What is profiled. Times are quoted per unit. */
export interface Work {
  readonly unit: string
  readonly units: number
  warmUp(gateway: Gateway): Promise<void>
  run(gateway: Gateway): Promise<void>
}

export interface Profile {
  readonly unit: string
  readonly units: number
  /** Of the whole node, per unit, µs; the profiler's own cost is in it. */
  readonly nodeUs: number
  /** Of the worker's main thread: this is what the shares add up to. */
  readonly threadUs: number
  /** By our outermost function on the stack: with asynchronous code, the step that ran. */
  readonly steps: readonly Share[]
  readonly functions: readonly Share[]
}

interface Share {
  readonly name: string
  readonly selfUs: number
  /** With all that it called; a function that calls itself counts once. */
  readonly totalUs: number
}

interface Frame {
  readonly functionName: string
  /** Empty for native code. */
  readonly url: string
  readonly lineNumber: number
}

/** @source https://chromedevtools.github.io/devtools-protocol/tot/Profiler/#type-Profile */
interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number
    readonly callFrame: Frame
    readonly children?: readonly number[]
  }[]
  readonly samples: readonly number[]
  readonly timeDeltas: readonly number[]
  /** Microseconds since 1970. */
  readonly startTime: number
}

const INTERVAL_US = 250
const SHOWN = 60

export async function takeProfile(options: GatewayOptions, work: Work): Promise<Profile> {
  const directory = await mkdtemp(join(options.folder, 'profile-'))
  const profiler = `--cpu-prof --cpu-prof-dir=${directory} --cpu-prof-interval=${INTERVAL_US}`
  const gateway = await openGateway({ ...options, env: { BUN_OPTIONS: profiler } })
  const { workerPid, supervisorPid } = gateway
  const used = async () => ({ node: await cpuOf(supervisorPid), thread: await mainThreadCpuOf(workerPid) })
  const window = { from: 0, to: 0 }
  let start = await used()
  let end = start
  try {
    await work.warmUp(gateway)
    start = await used()
    window.from = Date.now() * 1000
    await work.run(gateway)
    window.to = Date.now() * 1000
    end = await used()
  } finally {
    await gateway.close()
  }
  const name = (await readdir(directory)).find((file) => file.includes(`.${workerPid}.`))
  if (!name) throw new Error('the worker left no profile')
  const profile = JSON.parse(await readFile(join(directory, name), 'utf8')) as CpuProfile
  const threadUs = (end.thread - start.thread) / work.units
  const samples = samplesIn(profile, window)
  return {
    unit: work.unit,
    units: work.units,
    nodeUs: (end.node - start.node) / work.units,
    threadUs,
    steps: sharesOf(profile, samples, threadUs, (frames) => [nameOf(frames.findLast(isOurs) ?? frames.at(-1)!)]),
    functions: sharesOf(profile, samples, threadUs, (frames) => frames.map(nameOf)),
  }
}

function samplesIn(
  { samples, timeDeltas, startTime }: CpuProfile,
  window: { readonly from: number; readonly to: number },
): readonly number[] {
  let at = startTime
  return samples.filter((_, index) => {
    at += timeDeltas[index] ?? 0
    return at >= window.from && at <= window.to
  })
}

/**
 * Each sample weighs the same: the time between two of them also holds what the thread slept.
 * @param namesOf what a stack counts for, given its frames, innermost first; the first name is the sample's own
 */
function sharesOf(
  { nodes }: CpuProfile,
  samples: readonly number[],
  wholeUs: number,
  namesOf: (frames: readonly Frame[]) => readonly string[],
): readonly Share[] {
  const byId = new Map(nodes.map((node) => [node.id, node.callFrame]))
  const parents = new Map(nodes.flatMap((node) => (node.children ?? []).map((child) => [child, node.id] as const)))
  const weightUs = wholeUs / samples.length
  const self = new Map<string, number>()
  const total = new Map<string, number>()
  const add = (sums: Map<string, number>, name: string): void => void sums.set(name, (sums.get(name) ?? 0) + weightUs)
  for (const sample of samples) {
    const frames: Frame[] = []
    for (let id: number | undefined = sample; id !== undefined; id = parents.get(id)) frames.push(byId.get(id)!)
    const names = namesOf(frames)
    add(self, names[0]!)
    for (const name of new Set(names)) add(total, name)
  }
  return [...total]
    .map(([name, totalUs]) => ({ name, selfUs: self.get(name) ?? 0, totalUs }))
    .sort((a, b) => b.selfUs - a.selfUs)
}

const isOurs = ({ url }: Frame): boolean => url.includes('/src/') && !url.includes('/node_modules/')
const nameOf = ({ functionName, url, lineNumber }: Frame): string =>
  `${functionName || '(anonymous)'}  ${shortUrl(url)}${url === '' ? '' : `:${lineNumber + 1}`}`
const shortUrl = (url: string): string => url.replace(/^file:\/\//, '').replace(/^.*\/(?=(src|node_modules)\/)/, '')

export function printProfile({ unit, units, nodeUs, threadUs, steps, functions }: Profile): void {
  console.log(
    `${units} × ${unit}, under the profiler: ${nodeUs.toFixed(1)} µs CPU of the node for each, ${threadUs.toFixed(1)} in its main thread`,
  )
  const list = (title: string, shares: readonly Share[]): void => {
    console.log(`\n${title}: µs per ${unit}, self and total`)
    for (const { name, selfUs, totalUs } of shares.slice(0, SHOWN))
      console.log(`${selfUs.toFixed(2).padStart(8)} ${totalUs.toFixed(2).padStart(8)}  ${name}`)
  }
  list('steps', steps)
  list('functions by self', functions)
  list(
    'functions by total',
    functions.toSorted((a, b) => b.totalUs - a.totalUs),
  )
}
