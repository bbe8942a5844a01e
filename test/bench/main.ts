/**
 * `bun run bench`: measures Headgate beside the least that a proxy on Bun can do, in the same run, and prints one table. It
 * is no test: nothing fails because a machine is slow, only because an answer, a row or a sum is wrong.
 */
import { cpus, loadavg, release } from 'node:os'
import { parseArgs } from 'node:util'
import packageJson from '../../package.json'
import { stopServices } from '../support/services.ts'
import { callWork } from './calls.ts'
import { FIGURES, type Figure } from './figures.ts'
import { type Engine, type Gateway, openGateway } from './gateway.ts'
import { printProfile, takeProfile } from './profile.ts'
import { openRig, type Rig } from './rig.ts'
import { streamWork } from './streams.ts'
import { formatTable, type Row } from './table.ts'

const NAMES = FIGURES.map(({ name }) => name)
const USAGE = `bun run bench [--quick] [--only <figure>[,<figure>…]] [--engine sqlite|cluster] [--profile]

  --quick     fewer rounds: about 5 minutes instead of 10
  --only      some of ${NAMES.join(', ')}
  --engine    SQLite alone, or MariaDB and Redis as in a cluster, instead of both
  --profile   where the CPU time of calls and streams goes, instead of the table
  HEADGATE_BINARY=dist/headgate measures the compiled binary`

const DIALECTS = ['chat', 'claude'] as const
const ENGINES: readonly Engine[] = ['sqlite', 'cluster']
/** What is profiled: in the sizes of a full run the profile has the same shape and takes longer. */
const PROFILED = { calls: 20_000, streams: 400 } as const
const SPREAD = { users: 50, keysPerUser: 2, channels: 5 } as const

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    profile: { type: 'boolean', default: false },
    only: { type: 'string' },
    engine: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
const only = flags.only?.split(',') ?? NAMES
const engines = ENGINES.filter((engine) => flags.engine === undefined || flags.engine === engine)
if (flags.help || engines.length === 0 || !only.every((name) => NAMES.includes(name))) {
  console.log(USAGE)
  process.exit(flags.help ? 0 : 2)
}

const say = (text: string): void => void process.stderr.write(`… ${text}\n`)

async function measure(rig: Rig, figures: readonly Figure[]): Promise<readonly Row[]> {
  const rows: Row[] = []
  const gateways: Gateway[] = []
  const shared = async (most = engines.length): Promise<readonly Gateway[]> => {
    for (const engine of engines.slice(gateways.length, most)) {
      say(`setting up on ${engine}`)
      gateways.push(await openGateway({ folder: rig.folder, engine, upstreamUrl: rig.mock.url, ...SPREAD }))
    }
    return gateways.slice(0, most)
  }
  const closeShared = async (): Promise<void> => {
    for (const gateway of gateways.splice(0)) await gateway.close()
  }
  try {
    for (const { name, isOnShared, measure: measureFigure } of figures) {
      say(name)
      if (!isOnShared) await closeShared()
      rows.push(...(await measureFigure(rig, flags.quick ? 'quick' : 'full', shared)))
    }
  } finally {
    await closeShared()
  }
  return rows
}

const outputOf = (...command: readonly string[]): string => {
  const program = Bun.which(command[0]!)
  return program
    ? Bun.spawnSync([program, ...command.slice(1)], { cwd: import.meta.dir })
        .stdout.toString()
        .trim()
    : ''
}

function headLines(): readonly string[] {
  const commit = outputOf('git', 'describe', '--always', '--dirty', '--abbrev=10') || 'unknown'
  const redis = engines.includes('cluster') ? (/v=([\d.]+)/.exec(outputOf('redis-server', '--version'))?.[1] ?? '') : ''
  const database = engines.includes('cluster')
    ? (/[\d.]+-MariaDB/.exec(outputOf('mariadbd', '--version'))?.[0] ?? '')
    : ''
  const built = process.env['HEADGATE_BINARY'] ? 'compiled binary' : 'from source'
  return [
    `Headgate ${packageJson.version} (${built}, commit ${commit}), Bun ${Bun.version}${database && `, ${database}`}${redis && `, Redis ${redis}`}, SQLite of Bun`,
    `Linux ${release()}, ${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}, load ${loadavg()[0]!.toFixed(1)} before; ${new Date().toISOString()}`,
    'Level L2: key check, routing, hold, settle, durable journal, flush to the database, log line per call.',
    'On MariaDB and Redis: as a node of a cluster, with upstream keys encrypted. SQLite: as a node alone, without either.',
    'Reference: a bare Bun proxy in the same round. × is the median of the rounds; MB are 10⁶ bytes resident.',
  ]
}

const head = headLines()
const rig = await openRig()
try {
  if (flags.profile) {
    const works = [
      ...(only.includes('calls') ? [callWork(rig, PROFILED.calls)] : []),
      ...(only.includes('streams') ? DIALECTS.map((dialect) => streamWork(rig, dialect, PROFILED.streams)) : []),
    ]
    for (const work of works) {
      say(`profile of a ${work.unit}`)
      const engine = engines[0]!
      printProfile(await takeProfile({ folder: rig.folder, engine, upstreamUrl: rig.mock.url, ...SPREAD }, work))
    }
  } else {
    const rows = await measure(
      rig,
      FIGURES.filter(({ name }) => only.includes(name)),
    )
    console.log(`${head.join('\n')}\n\n${formatTable(rows)}`)
  }
} finally {
  await rig.close()
  await stopServices()
}
