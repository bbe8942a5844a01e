/** Process entry: command line → command → exit code. Commands are loaded when they run, so the supervisor stays small. */
import { parseArgs } from 'node:util'
import { IS_BUILT } from './build-info.ts'
import type { Flags } from './commands/preflight.ts'

const HELP = `Usage: headgate [command] [options]

Commands:
  serve     run a node (default)
  doctor    check configuration, database, Redis, secrets, disk and clock
  keys      status | encrypt | decrypt | rotate | discard: upstream keys in the database
  backup    <file>: copy the database while nodes use it; a name that ends in .gz is compressed
  restore   <file>: put a backup into an empty database; --force replaces what is there
  version   print the version

Options:
  --port <number>     port to listen on (3000); PORT wins over it
  --log-dir <folder>  also write log files there
  --user <uid:gid>    when started as root: own the data and log folders, then become this user
  --force             let \`restore\` replace what the database holds
  --version           print the version
  --help              print this text

Everything else is set by environment variables or a .env file; \`headgate doctor\` shows them.
`

/** Wrong use of the command line, by the convention of sysexits. */
const EXIT_USAGE = 64
/** Commands that take one more word. */
const WITH_A_WORD: ReadonlySet<string> = new Set(['keys', 'backup', 'restore'])

async function main(args: readonly string[]): Promise<number> {
  const parsed = parse(args)
  if (typeof parsed === 'string') return misused(parsed)
  const { values, positionals } = parsed
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  if (values.version) return (await import('./commands/version.ts')).version()
  const [command = 'serve', ...rest] = positionals
  const words = WITH_A_WORD.has(command) ? rest.slice(1) : rest
  if (words.length > 0) return misused(`\`${words.join(' ')}\` is one word too many`)
  const flags: Flags = { port: values.port, logDir: values['log-dir'], user: values.user }
  switch (command) {
    case 'serve':
      return (await import('./commands/serve.ts')).serve(flags, ownProgram())
    case 'doctor':
      return (await import('./commands/doctor.ts')).doctor(flags)
    case 'keys': {
      const { isKeysAction, keys } = await import('./commands/keys.ts')
      const action = rest[0] ?? 'status'
      return isKeysAction(action) ? keys(flags, action) : misused(`there is no \`keys ${action}\``)
    }
    case 'backup':
      if (!rest[0]) return misused('`backup` needs the name of a file')
      return (await import('./commands/backup.ts')).backup(flags, rest[0])
    case 'restore':
      if (!rest[0]) return misused('`restore` needs the name of a file')
      return (await import('./commands/restore.ts')).restore(flags, rest[0], values.force === true)
    case 'version':
      return (await import('./commands/version.ts')).version()
    case 'worker': {
      const { worker } = await import('./commands/worker.ts')
      return worker({ index: Number(values.index), count: Number(values.count), nodeId: values['node-id'] ?? '' })
    }
    default:
      return misused(`there is no command ${command}`)
  }
}

function misused(why: string): number {
  process.stderr.write(`headgate: ${why}\n\n${HELP}`)
  return EXIT_USAGE
}

/** @returns what is wrong with the command line, as text */
function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        port: { type: 'string' },
        'log-dir': { type: 'string' },
        user: { type: 'string' },
        force: { type: 'boolean' },
        version: { type: 'boolean', short: 'v' },
        help: { type: 'boolean', short: 'h' },
        // For workers, which only the supervisor starts.
        index: { type: 'string' },
        count: { type: 'string' },
        'node-id': { type: 'string' },
      },
    })
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/** How this very build is started again: the binary itself, or Bun with this file. */
function ownProgram(): readonly string[] {
  return IS_BUILT ? [process.execPath] : [process.execPath, '--no-env-file', import.meta.path]
}

main(process.argv.slice(2)).then(
  (exitCode) => process.exit(exitCode),
  (error) => {
    process.stderr.write(`headgate failed: ${error instanceof Error ? error.stack : String(error)}\n`)
    process.exit(1)
  },
)
