/**
 * `headgate doctor`: looks at everything a node needs, shows the effective configuration, and says what to do about each
 * finding. It opens nothing that a running node holds (its lock and journal files least of all) and changes nothing.
 */
import { type Config, describeConfig, SECTIONS } from '../config.ts'
import { becomeUser } from './become-user.ts'
import { checkCluster } from './doctor-cluster.ts'
import { checkClock, checkDatabase } from './doctor-database.ts'
import { checkFolders, checkSecrets } from './doctor-folders.ts'
import { checkRedis } from './doctor-redis.ts'
import { type Flags, preflight } from './preflight.ts'

/** One thing looked at. `advice` says what to do, and is there unless all is well. */
export interface Finding {
  readonly level: 'ok' | 'warning' | 'problem'
  readonly text: string
  readonly advice?: string
}

const MARKS = { ok: 'ok     ', warning: 'WARNING', problem: 'PROBLEM' } as const

/** @returns 0 if there is no problem, else 1; warnings do not count */
export async function doctor(flags: Flags): Promise<number> {
  const { config, problems, warnings } = await preflight(flags)
  // What the node may do is what its user may do; no folder changes hands here.
  if (flags.user) await becomeUser(flags.user, [])
  const print = (text: string): void => void process.stdout.write(`${text}\n`)
  printConfig(config, print)

  let problemCount = 0
  let warningCount = 0
  const report = (title: string, findings: readonly Finding[]): void => {
    print(`\n${title}`)
    for (const { level, text, advice } of findings) {
      if (level === 'problem') problemCount++
      if (level === 'warning') warningCount++
      print(`  ${MARKS[level]} ${text}`)
      if (advice) print(`          → ${advice}`)
    }
  }
  report('Configuration', [
    ...problems.map((text): Finding => ({ level: 'problem', text })),
    ...warnings.map((text): Finding => ({ level: 'warning', text })),
    ...(problems.length + warnings.length === 0 ? [{ level: 'ok', text: 'nothing to say' } as const] : []),
  ])
  report('Secrets', await checkSecrets(config))
  report('Disk', await checkFolders(config))
  if (problems.length === 0) {
    const { findings, offsetMs } = await checkDatabase(config)
    report('Database', findings)
    report('Cluster', await checkCluster(config))
    report('Clock', checkClock(config, offsetMs))
    report('Redis', await checkRedis(config))
  } else {
    print('\nDatabase, clock and Redis are looked at once the configuration is sound.')
  }
  const count = (n: number, word: string): string => `${n} ${word}${n === 1 ? '' : 's'}`
  const warned = warningCount === 0 ? '' : ` ${count(warningCount, 'warning')}.`
  print(`\n${problemCount === 0 ? 'No problem' : count(problemCount, 'problem')} found.${warned}`)
  return problemCount === 0 ? 0 : 1
}

function printConfig(config: Config, print: (text: string) => void): void {
  const shown = describeConfig(config)
  const width = Math.max(...shown.map(({ name }) => name.length))
  for (const [section, title] of Object.entries(SECTIONS)) {
    print(`${title}`)
    for (const { name, value, isDefault } of shown.filter((variable) => variable.section === section)) {
      print(`  ${isDefault ? ' ' : '*'} ${name.padEnd(width)}  ${value === '' ? '-' : value}`)
    }
  }
  print('  (* differs from the default)')
}
