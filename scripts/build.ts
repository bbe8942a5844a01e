/**
 * Builds one executable per target into dist/, with version and commit stamped in.
 *   bun scripts/build.ts                       for this machine: dist/headgate
 *   bun scripts/build.ts --target all          for every target: dist/headgate-<target>
 *   bun scripts/build.ts --target linux-arm64 [--runtime <file>]   for one; with its Bun executable where it cannot be fetched
 */
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import packageJson from '../package.json'

/** Our names for targets and Bun's. The baseline builds run on every x64 CPU. */
const TARGETS = {
  'linux-x64': 'bun-linux-x64-baseline',
  'linux-arm64': 'bun-linux-arm64',
  'linux-x64-musl': 'bun-linux-x64-baseline-musl',
  'linux-arm64-musl': 'bun-linux-arm64-musl',
  'darwin-x64': 'bun-darwin-x64',
  'darwin-arm64': 'bun-darwin-arm64',
  'windows-x64': 'bun-windows-x64-baseline',
} as const satisfies Record<string, Bun.Build.CompileTarget>
type Target = keyof typeof TARGETS

const root = join(import.meta.dir, '..')

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      target: { type: 'string' },
      runtime: { type: 'string' },
      outdir: { type: 'string', default: join(root, 'dist') },
    },
  })
  const names =
    values.target === undefined
      ? [undefined]
      : values.target === 'all'
        ? (Object.keys(TARGETS) as Target[])
        : [values.target]
  const unknown = names.filter((name) => name !== undefined && !(name in TARGETS))
  if (unknown.length > 0) {
    console.error(`There is no target ${unknown.join(', ')}; there are ${Object.keys(TARGETS).join(', ')} and all.`)
    return 1
  }
  await mkdir(values.outdir, { recursive: true })
  const commit = await findCommit()
  let failed = 0
  for (const name of names as (Target | undefined)[]) {
    const outfile = join(
      values.outdir,
      name ? `headgate-${name}${name.startsWith('windows') ? '.exe' : ''}` : 'headgate',
    )
    try {
      await build({ target: name, outfile, runtime: values.runtime, commit })
      console.log(`${outfile} (${Math.round(Bun.file(outfile).size / 1e6)} MB, ${packageJson.version}, ${commit})`)
    } catch (error) {
      failed++
      console.error(
        `${name ?? 'this machine'}: not built. ${error instanceof AggregateError ? error.errors.join('\n') : error}`,
      )
      if (name)
        console.error(
          'If the Bun runtime of that target could not be fetched, give its executable with --runtime <file>.',
        )
    }
  }
  return failed === 0 ? 0 : 1
}

async function build(options: {
  target: Target | undefined
  outfile: string
  runtime?: string
  commit: string
}): Promise<void> {
  // An older file of that name would otherwise stay if the build fails.
  await rm(options.outfile, { force: true })
  const result = await Bun.build({
    entrypoints: [join(root, 'src/main.ts')],
    target: 'bun',
    minify: { whitespace: true, syntax: true, identifiers: false },
    format: 'esm',
    // A process loads what it needs, which of a supervisor is little.
    splitting: true,
    bytecode: runsHere(options.target),
    sourcemap: 'linked',
    define: {
      HEADGATE_VERSION: JSON.stringify(packageJson.version),
      HEADGATE_COMMIT: JSON.stringify(options.commit),
      'process.env.NODE_ENV': '"production"',
    },
    compile: {
      outfile: options.outfile,
      // The program reads its `.env` itself, and no file beside it may change how it runs.
      autoloadDotenv: false,
      autoloadBunfig: false,
      ...(options.target ? { target: TARGETS[options.target] } : {}),
      ...(options.runtime ? { executablePath: options.runtime } : {}),
    },
  })
  if (!result.success) throw new AggregateError(result.logs, 'the bundle failed')
  // The executable has them within it; these are copies.
  for (const { kind, path } of result.outputs) if (kind === 'sourcemap') await rm(path, { force: true })
}

/**
 * Parsing is half of a start, so the parsed form is built in where it can be: it is that of the engine which builds, and
 * an executable for another system would crash on it at once. So build for a system on that system.
 * @source https://github.com/oven-sh/bun/issues/18416
 */
function runsHere(target: Target | undefined): boolean {
  if (target === undefined) return true
  const { platform, arch } = process
  // It is '' on musl; where nobody knows, the program is merely parsed at its start.
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined
  const libc = platform === 'linux' && !report?.header?.glibcVersionRuntime ? '-musl' : ''
  return target === `${platform === 'win32' ? 'windows' : platform}-${arch}${libc}`
}

/** Of the work tree, with `+` if it has changes; `unknown` outside a repository. */
async function findCommit(): Promise<string> {
  const git = (...args: string[]) => Bun.spawn(['git', ...args], { cwd: root, stdout: 'pipe', stderr: 'ignore' })
  try {
    const head = git('rev-parse', '--short=12', 'HEAD')
    const commit = (await new Response(head.stdout).text()).trim()
    if ((await head.exited) !== 0) return process.env['HEADGATE_COMMIT'] ?? 'unknown'
    const changes = (await new Response(git('status', '--porcelain').stdout).text()).trim()
    return changes === '' ? commit : `${commit}+`
  } catch {
    // No git here, as in an image build.
    return process.env['HEADGATE_COMMIT'] ?? 'unknown'
  }
}

process.exitCode = await main()
