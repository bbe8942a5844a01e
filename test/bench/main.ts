/**
 * `bun run bench`: measures Headgate beside the least that a proxy on Bun can do, in the same run, and prints one table. It
 * is no test: nothing fails because a machine is slow, only because an answer, a row or a sum is wrong.
 */
import { cpus, loadavg, release } from 'node:os'
import { parseArgs } from 'node:util'
import packageJson from '../../package.json'
import { stopServices } from '../support/services.ts'
import { callWork, measureCalls } from './calls.ts'
import { type Engine, type Gateway, openGateway } from './gateway.ts'
import { measureMemory } from './memory.ts'
import { printProfile, takeProfile } from './profile.ts'
import { openRig, type Rig } from './rig.ts'
import { measureStart } from './start.ts'
import { measureStreams, streamWork } from './streams.ts'
import { formatTable, type Row } from './table.ts'

const USAGE = `bun run bench [--quick] [--only calls|streams|memory|start] [--engine sqlite|cluster] [--profile]

  --quick     fewer rounds: about 5 minutes instead of 10
  --only      one figure
  --engine    SQLite alone, or MariaDB and Redis as in a cluster, instead of both
  --profile   where the CPU time of calls and streams goes, instead of the table
  HEADGATE_BINARY=dist/headgate measures the compiled binary`

const FIGURES = ['calls', 'streams', 'memory', 'start'] as const
const DIALECTS = ['chat', 'claude'] as const
const ENGINES: readonly Engine[] = ['sqlite', 'cluster']

const FULL = {
  calls: { rounds: 5, calls: 20_000 },
  streams: { rounds: 5, streams: 400 },
  memory: { rounds: 2, streams: [3_000, 5_000] },
  start: { rounds: 9 },
}
const QUICK: typeof FULL = {
  calls: { rounds: 3, calls: 8_000 },
  streams: { rounds: 3, streams: 200 },
  memory: { rounds: 1, streams: [3_000, 5_000] },
  start: { rounds: 3 },
}

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
const isOneOf = (value: string | undefined, list: readonly string[]) => value === undefined || list.includes(value)
if (flags.help || !isOneOf(flags.only, FIGURES) || !isOneOf(flags.engine, ENGINES)) {
  console.log(USAGE)
  process.exit(flags.help ? 0 : 2)
}

const sizes = flags.quick ? QUICK : FULL
const engines = ENGINES.filter((engine) => flags.engine === undefined || flags.engine === engine)
const isWanted = (figure: (typeof FIGURES)[number]): boolean => flags.only === undefined || flags.only === figure
const say = (text: string): void => void process.stderr.write(`… ${text}\n`)

async function measure(rig: Rig): Promise<readonly Row[]> {
  const rows: Row[] = []
  const gateways: Gateway[] = []
  try {
    if (isWanted('calls') || isWanted('streams')) {
      for (const engine of isWanted('calls') ? engines : engines.slice(0, 1)) {
        say(`setting up on ${engine}`)
        gateways.push(await openGateway({ folder: rig.folder, engine, upstreamUrl: rig.mock.url, ...SPREAD }))
      }
    }
    if (isWanted('calls')) {
      say('small calls')
      rows.push(...(await measureCalls(rig, gateways, sizes.calls)))
    }
    if (isWanted('streams')) {
      say('streams')
      rows.push(...(await measureStreams(rig, gateways[0]!, sizes.streams)))
    }
  } finally {
    for (const gateway of gateways) await gateway.close()
  }
  if (isWanted('memory')) {
    say('memory')
    rows.push(...(await measureMemory(rig, sizes.memory)))
  }
  if (isWanted('start')) {
    say('start')
    rows.push(...(await measureStart(rig, sizes.start)))
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
      ...(isWanted('calls') ? [callWork(rig, sizes.calls.calls)] : []),
      ...(isWanted('streams') ? DIALECTS.map((dialect) => streamWork(rig, dialect, sizes.streams.streams)) : []),
    ]
    for (const work of works) {
      say(`profile of a ${work.unit}`)
      const engine = engines[0]!
      printProfile(await takeProfile({ folder: rig.folder, engine, upstreamUrl: rig.mock.url, ...SPREAD }, work))
    }
  } else console.log(`${head.join('\n')}\n\n${formatTable(await measure(rig))}`)
} finally {
  await rig.close()
  await stopServices()
}
