/**
 * `bun run bench`: measures Headgate beside the least that a proxy on Bun can do, in the same run, and shows one table. It
 * is no test: nothing fails because a machine is slow, only because an answer, a row or a sum is wrong.
 */
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { stopServices } from '../support/services.ts'
import { callWork } from './calls.ts'
import { FIGURES, type Figure, SPREAD } from './figures.ts'
import { type Engine, type Gateway, openGateway } from './gateway.ts'
import { printProfile, takeProfile } from './profile.ts'
import { describeSetting, formatReport, writeReport } from './report.ts'
import { openRig, type Rig } from './rig.ts'
import { streamWork } from './streams.ts'
import type { Section } from './table.ts'

const NAMES = FIGURES.map(({ name }) => name)
const LONG = FIGURES.filter(({ isLong }) => isLong).map(({ name }) => name)
const USAGE = `bun run bench [--quick] [--only <figure>[,<figure>…]] [--engine sqlite|cluster] [--output <folder>] [--source] [--profile]

  --quick     fewer rounds and smaller sizes: about 4 minutes, without ${LONG.join(', ')}
  --only      some of ${NAMES.join(', ')}
  --engine    SQLite alone, or MariaDB and Redis as in a cluster, instead of both
  --output    where bench.json, with every value, and bench.md go instead of .cache/bench/<time>
  --source    the program as \`bun run dev\` starts it, instead of the compiled binary, which is built first
  --profile   where the CPU time of calls and streams goes, from source, instead of the table
  HEADGATE_BINARY=dist/headgate measures that executable; BENCH_MINUTES=30 is how long flat goes on with small calls`

const DIALECTS = ['chat', 'claude'] as const
const ENGINES: readonly Engine[] = ['sqlite', 'cluster']
const PROFILED = { calls: 20_000, streams: 400 } as const

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    profile: { type: 'boolean', default: false },
    only: { type: 'string' },
    engine: { type: 'string' },
    output: { type: 'string' },
    source: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})
const mode = flags.quick ? 'quick' : 'full'
const only = flags.only?.split(',') ?? NAMES.filter((name) => mode === 'full' || !LONG.includes(name))
const engines = ENGINES.filter((engine) => flags.engine === undefined || flags.engine === engine)
if (flags.help || engines.length === 0 || !only.every((name) => NAMES.includes(name))) {
  console.log(USAGE)
  process.exit(flags.help ? 0 : 2)
}

const root = join(import.meta.dir, '..', '..')
const say = (text: string): void => void process.stderr.write(`… ${text}\n`)

async function measure(rig: Rig, figures: readonly Figure[]): Promise<readonly Section[]> {
  const sections: Section[] = []
  const gateways: Gateway[] = []
  const shared = async (most = engines.length): Promise<readonly Gateway[]> => {
    const missing = engines.slice(gateways.length, most)
    if (missing.length > 0) say(`setting up on ${missing.join(' and ')}`)
    const open = (engine: Engine) =>
      openGateway({ folder: rig.folder, engine, upstreamUrl: rig.mock.url, ...SPREAD[mode] })
    gateways.push(...(await Promise.all(missing.map(open))))
    return gateways.slice(0, most)
  }
  const closeShared = async (): Promise<void> => {
    for (const gateway of gateways.splice(0)) await gateway.close()
  }
  try {
    for (const figure of figures) {
      const startedAtMs = performance.now()
      const run = async () => {
        if (!figure.isOnShared) await closeShared()
        return figure.measure(rig, mode, shared)
      }
      const result = await run().then(
        (rows) => ({ rows }),
        (error: unknown) => {
          say(Bun.inspect(error))
          return { rows: [], failure: error instanceof Error ? error.message : String(error) }
        },
      )
      const seconds = (performance.now() - startedAtMs) / 1000
      sections.push({ title: figure.title, seconds, ...result })
      say(`${figure.name}: ${seconds.toFixed(0)} s`)
    }
  } finally {
    // What was measured is shown all the same.
    await closeShared().catch((error: unknown) => {
      say(Bun.inspect(error))
      process.exitCode = 1
    })
  }
  return sections
}

async function profile(rig: Rig): Promise<void> {
  const works = [
    ...(only.includes('calls') ? [callWork(rig, PROFILED.calls)] : []),
    ...(only.includes('streams') ? DIALECTS.map((dialect) => streamWork(rig, dialect, PROFILED.streams)) : []),
  ]
  for (const work of works) {
    say(`profile of a ${work.unit}`)
    const engine = engines[0]!
    printProfile(await takeProfile({ folder: rig.folder, engine, upstreamUrl: rig.mock.url, ...SPREAD[mode] }, work))
  }
}

/** Builds what operators run. @returns its path */
async function compiled(): Promise<string> {
  const folder = join(root, '.cache', 'bench', 'binary')
  const build = Bun.spawn([process.execPath, join(root, 'scripts', 'build.ts'), '--outdir', folder], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  if ((await build.exited) !== 0) throw new Error('the binary was not built')
  return join(folder, 'headgate')
}

// A profile shows names and places of the source.
if (flags.source || flags.profile) delete process.env['HEADGATE_BINARY']
else process.env['HEADGATE_BINARY'] ??= await compiled()
const setting = describeSetting(mode, engines)
const rig = await openRig()
try {
  if (flags.profile) await profile(rig)
  else {
    const figures = FIGURES.filter(({ name }) => only.includes(name))
    const sections = await measure(rig, figures)
    console.log(formatReport(setting, sections))
    const time = setting.startedAt.slice(0, 19).replaceAll(':', '')
    const folder = flags.output ?? join(root, '.cache', 'bench', time)
    say((await writeReport(folder, setting, sections)).join(', '))
    if (sections.some(({ failure }) => failure)) process.exitCode = 1
  }
} finally {
  await rig.close()
  await stopServices()
}
