/** What a run leaves: what it was made with, and every value, as JSON for programs and as Markdown for people. */
import { Database } from 'bun:sqlite'
import { existsSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { cpus, loadavg, release } from 'node:os'
import { join } from 'node:path'
import packageJson from '../../package.json'
import type { Engine } from './gateway.ts'
import { PORTKEY } from './other-proxies.ts'
import { formatSections, judge, type Section } from './table.ts'

/** Of the machine and of every program that took part; empty for what is not installed. */
export interface Setting {
  readonly startedAt: string
  readonly mode: 'full' | 'quick'
  readonly engines: readonly Engine[]
  readonly headgate: string
  readonly commit: string
  readonly isCompiled: boolean
  readonly versions: Readonly<Record<string, string>>
  readonly machine: { readonly linux: string; readonly cpus: number; readonly cpu: string; readonly loadBefore: number }
}

const NOTES = [
  'Level L2: key check, routing, hold, settle, durable journal, flush to the database, log line per call.',
  'On MariaDB and Redis: as a node of a cluster, with upstream keys encrypted. SQLite: as a node alone, without either.',
  'Streams, their memory, large bodies, readers that stall, an idle node and memory over time are measured on SQLite: a database has no part in them but at the end of a call.',
  'Unless a row names another, the reference is a bare Bun proxy in the same round: for calls one that parses request and answer, for streams one that reads chunk by chunk.',
  'One value per round; × is the median of the rounds; CPU is user and system time of all processes; MB are 10⁶ bytes resident.',
]

/** Measured: see the warm-up of small calls. */
const QUICK =
  'Quick: fewer rounds, users and streams, and a shorter warm-up: Headgate takes about a tenth more CPU per call than when it has run for a while.'

export function describeSetting(mode: Setting['mode'], engines: readonly Engine[]): Setting {
  const isCluster = engines.includes('cluster')
  return {
    startedAt: new Date().toISOString(),
    mode,
    engines,
    headgate: packageJson.version,
    commit: outputOf('git', 'describe', '--always', '--dirty', '--abbrev=10') || 'unknown',
    isCompiled: process.env['HEADGATE_BINARY'] !== undefined,
    versions: {
      Bun: Bun.version,
      SQLite: sqliteVersion(),
      MariaDB: isCluster ? versionOf('mariadbd', /([\d.]+)-MariaDB/) : '',
      Redis: isCluster ? versionOf('redis-server', /v=([\d.]+)/) : '',
      nginx: versionOf('nginx', /nginx\/([\d.]+)/, '-v'),
      [PORTKEY.package]: PORTKEY.version,
      'Node.js': versionOf('node', /v([\d.]+)/),
    },
    machine: {
      linux: release(),
      cpus: cpus().length,
      cpu: cpus()[0]?.model ?? 'unknown',
      loadBefore: loadavg()[0]!,
    },
  }
}

export function formatReport(setting: Setting, sections: readonly Section[]): string {
  const { mode, headgate, commit, isCompiled, versions, machine, startedAt } = setting
  const others = Object.entries(versions).flatMap(([name, version]) => (version === '' ? [] : `${name} ${version}`))
  return [
    `Headgate ${headgate} (${isCompiled ? 'compiled binary' : 'from source'}, commit ${commit}), ${others.join(', ')}`,
    `Linux ${machine.linux}, ${machine.cpus} × ${machine.cpu}, load ${machine.loadBefore.toFixed(1)} before; ${startedAt}, ${mode} run`,
    ...NOTES,
    ...(mode === 'quick' ? [QUICK] : []),
    '',
    formatSections(sections),
  ].join('\n')
}

/** @returns the paths of both files */
export async function writeReport(
  folder: string,
  setting: Setting,
  sections: readonly Section[],
): Promise<readonly string[]> {
  await mkdir(folder, { recursive: true })
  const files = { markdown: join(folder, 'bench.md'), json: join(folder, 'bench.json') }
  const judged = sections.map((section) => ({
    ...section,
    rows: section.rows.map((row) => ({ ...row, verdict: judge(row) })),
  }))
  await writeFile(files.markdown, `# Benchmark\n\n${formatReport(setting, sections)}\n`)
  await writeFile(files.json, `${JSON.stringify({ ...setting, sections: judged }, null, 2)}\n`)
  return Object.values(files)
}

const versionOf = (program: string, pattern: RegExp, flag = '--version'): string =>
  pattern.exec(outputOf(program, flag))?.[1] ?? ''

/** @returns what it prints, to wherever; empty when it is not installed. Servers often are not on the path of users. */
function outputOf(program: string, ...rest: readonly string[]): string {
  const path = Bun.which(program) ?? `/usr/sbin/${program}`
  if (!existsSync(path)) return ''
  const { stdout, stderr } = Bun.spawnSync([path, ...rest], { cwd: import.meta.dir })
  return `${stdout}${stderr}`.trim()
}

function sqliteVersion(): string {
  const db = new Database(':memory:')
  const found = db.query<{ version: string }, []>('select sqlite_version() as version').get()
  db.close()
  return found?.version ?? ''
}
