/**
 * Holds the directions of imports between the folders of src/, and a few words that belong to one folder alone. Prints
 * each violation and fails on any.
 */

import { dirname, join, relative } from 'node:path'
import { Glob } from 'bun'

const src = join(import.meta.dir, '..', 'src')

/** What a part may import: `name` anything of it, `name:types` only with `import type`. A part may import itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  lib: [],
  errors: [],
  role: [],
  config: ['lib', 'role'],
  metrics: ['lib'],
  db: ['lib'],
  state: ['lib'],
  protocol: ['lib', 'errors'],
  provider: ['protocol', 'lib', 'errors'],
  domain: ['db', 'state', 'lib', 'errors', 'protocol:types', 'provider:types'],
  relay: ['domain', 'provider', 'protocol', 'lib', 'errors'],
  admin: ['domain', 'provider', 'lib', 'errors'],
  jobs: ['domain', 'state', 'lib', 'role'],
  console: ['admin:types'],
}
/** Composition: may import everything. */
const WIRING = new Set(['main', 'app', 'join', 'listen', 'supervisor', 'node', 'commands', 'build-info'])

/** Files that stand for a folder beside its `index.ts`: others may import these and nothing else of it. */
const FRONTS: Readonly<Record<string, readonly string[]>> = {
  protocol: ['ir.ts', 'codec.ts', 'shape.ts'],
  provider: ['provider.ts', 'registry.ts'],
  // Who acts is needed by the audit, which accounts use themselves.
  'domain/accounts': ['actor.ts'],
}

/** Texts that may stand only in some files: the promises about providers, engines and roles. */
const WORDS: readonly { readonly what: string; readonly pattern: RegExp; readonly allowed: RegExp }[] = [
  {
    what: 'compares the role of a node (only role.ts does)',
    pattern: /nodeType\s*[=!]==|[=!]==\s*'slave'|'slave'\s*[=!]==|case 'slave'/,
    allowed: /^role\.ts$/,
  },
  {
    what: 'decides by the database engine (only db/ does)',
    pattern: /\.engine\s*[=!]==|[=!]==\s*'(sqlite|mysql|mariadb)'|case '(sqlite|mysql|mariadb)'/,
    allowed: /^(db\/|state\/|config\.ts$|commands\/doctor)/,
  },
  {
    what: 'names a provider (only provider/ does)',
    pattern: /['"`](deepseek|openrouter|ollama|azure|moonshot|mistral|groq|xai|siliconflow)['"`]/i,
    allowed: /^provider\//,
  },
  {
    what: 'reads the environment (only config.ts does)',
    pattern: /process\.env\b|Bun\.env\b/,
    allowed: /^(config\.ts$|commands\/)/,
  },
]

interface Import {
  readonly file: string
  readonly target: string
  readonly isType: boolean
  readonly line: number
}

const IMPORT =
  /^[ \t]*(?:import|export)\s+(type\s)?(?:([^'"`;]*?)\s*from\s*)?'(\.{1,2}\/[^']+)'|import\(\s*'(\.{1,2}\/[^']+)'\s*\)/gm

function findImports(file: string, text: string): Import[] {
  return [...text.matchAll(IMPORT)].map((match) => {
    const names = match[2]?.trim()
    // `import { type A, type B }` loads nothing either.
    const isAllTypes =
      names?.startsWith('{') &&
      names
        .slice(1, -1)
        .split(',')
        .every((name) => name.trim() === '' || name.trim().startsWith('type '))
    return {
      file,
      target: relative(src, join(src, dirname(file), match[3] ?? match[4]!)),
      isType: match[1] !== undefined || isAllTypes === true,
      line: text.slice(0, match.index).split('\n').length,
    }
  })
}

/** `db/index.ts` → `db`; `config-variables.ts` → `config`; `main.ts` → `main`. */
function partOf(path: string): string {
  const first = path.split('/')[0]!.replace(/\.tsx?$/, '')
  return first.startsWith('config') ? 'config' : first
}

/** The folder whose front an import must use: `db`, `domain/billing`; undefined for files at the top and in lib/. */
function moduleOf(path: string): string | undefined {
  const parts = path.split('/')
  if (parts.length < 2 || parts[0] === 'lib' || parts[0] === 'commands') return undefined
  return parts[0] === 'domain' ? (parts.length > 2 ? `domain/${parts[1]}` : undefined) : parts[0]
}

function judge(found: Import, files: ReadonlySet<string>): string | undefined {
  const { file, target, isType } = found
  if (target.startsWith('..')) return target === '../package.json' ? undefined : `imports ${target} from outside src`
  const [from, to] = [partOf(file), partOf(target)]
  if (WIRING.has(from)) return undefined
  if (WIRING.has(to)) return `imports ${target}, which only the process entry may`
  const allowed = MAY_IMPORT[from]
  if (!allowed) return `is in ${from}, which is not in the table`
  const isAllowed =
    from === to ||
    allowed.includes(to) ||
    (isType && (allowed.includes(`${to}:types`) || to === 'config' || to === 'role'))
  if (!isAllowed)
    return `imports ${target}: ${from} may not import ${to}${allowed.includes(`${to}:types`) ? ' but for types' : ''}`
  const [home, other] = [moduleOf(file), moduleOf(target)]
  if (!other || home === other || !files.has(`${other}/index.ts`)) return undefined
  const name = target.slice(other.length + 1)
  const isFront = name === 'index.ts' || FRONTS[other]?.includes(name)
  return isFront ? undefined : `imports ${target}, past the index.ts of ${other}`
}

/** Sub-modules of domain/ that need each other in a circle, by what they load. */
function findCircle(imports: readonly Import[]): readonly string[] | undefined {
  const needs = new Map<string, Set<string>>()
  for (const { file, target, isType } of imports) {
    const [from, to] = [moduleOf(file), moduleOf(target)]
    if (isType || !from?.startsWith('domain/') || !to?.startsWith('domain/') || from === to) continue
    needs.set(from, (needs.get(from) ?? new Set()).add(to))
  }
  const walk = (at: string, path: readonly string[]): readonly string[] | undefined => {
    if (path.includes(at)) return [...path.slice(path.indexOf(at)), at]
    for (const next of needs.get(at) ?? []) {
      const circle = walk(next, [...path, at])
      if (circle) return circle
    }
    return undefined
  }
  for (const start of needs.keys()) {
    const circle = walk(start, [])
    if (circle) return circle
  }
  return undefined
}

const violations: string[] = []
const imports: Import[] = []
const files = new Set(await Array.fromAsync(new Glob('**/*.{ts,tsx}').scan({ cwd: src })))
for (const file of [...files].sort()) {
  const text = await Bun.file(join(src, file)).text()
  const code = text
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ' '))
    .replace(/(^|\s)\/\/.*$/gm, '$1')
  const found = findImports(file, code)
  imports.push(...found)
  for (const one of found) {
    const verdict = judge(one, files)
    if (verdict) violations.push(`src/${file}:${one.line} ${verdict}`)
  }
  code.split('\n').forEach((line, index) => {
    for (const { what, pattern, allowed } of WORDS) {
      if (!allowed.test(file) && pattern.test(line))
        violations.push(`src/${file}:${index + 1} ${what}: ${line.trim().slice(0, 100)}`)
    }
  })
}
const circle = findCircle(imports)
if (circle) violations.push(`a circle: ${circle.join(' → ')}`)
for (const violation of violations) console.error(violation)
console.log(`${imports.length} imports in ${files.size} files, ${violations.length} violations`)
process.exitCode = violations.length === 0 ? 0 : 1
