/**
 * The environment, read once and frozen: the sole reader of it. A number or switch that cannot be read falls back to its
 * default with a warning; what contradicts itself is a problem, and all problems are reported together.
 */
import { hostname } from 'node:os'
import { dirname, resolve } from 'node:path'
import {
  IGNORED_VARIABLES,
  RUNTIME_VARIABLES,
  SECTIONS,
  VARIABLES,
  type Variable,
  type VariableKey,
} from './config-variables.ts'
import { parseDotenv, unreadLines } from './lib/dotenv.ts'
import { readTextIfPresent } from './lib/files.ts'
import { parseCidrs } from './lib/ip.ts'
import { redactAddress } from './lib/redact.ts'
import { roleOf } from './role.ts'

export { SECTIONS }

/** Exit code of a process that refuses its configuration (EX_CONFIG). */
export const EXIT_CONFIG = 78

export type Environment = Readonly<Record<string, string | undefined>>

type Widen<T> = T extends Variable<infer V> ? V : never
type FromVariables = { readonly [K in VariableKey]: Widen<(typeof VARIABLES)[K]> }

/** Values by key, with the computed defaults filled in: `workers`, `dataDir` (absolute), `nodeName`, `sqlitePath` (absolute, with its parameters), `cryptoSecret` and its previous one, `frontendBaseUrl` (no slash at its end), `logLevel`. */
export type Config = FromVariables & {
  /** No `SQL_DSN`: one node on a SQLite file. */
  readonly isSingleNode: boolean
  /** `CRYPTO_SECRET` itself is set, so that `cryptoSecret` is not the session secret by default. */
  readonly hasCryptoSecret: boolean
  /** `nodeName` was chosen and is not the host name. */
  readonly isNodeNamed: boolean
}

/** What a parsed DSN tells the configuration; the rest of it is the database's business. */
export type DsnKind =
  | { readonly kind: 'mysql'; readonly warnings: readonly string[] }
  | { readonly kind: 'sqlite' }
  | { readonly kind: 'problem'; readonly problem: string }

export interface LoadedConfig {
  readonly config: Config
  /** A start is refused while there is one. Each names its variable. */
  readonly problems: readonly string[]
  readonly warnings: readonly string[]
}

/** A configuration that cannot work, found only while starting, such as a secret that differs from the cluster's. Ends the process with `EXIT_CONFIG`. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
}

/** What the machine offers and the command line says, beside the environment. */
export interface LoadOptions {
  /** Parses `SQL_DSN` and `LOG_SQL_DSN`; never throws. */
  readonly parseDsn: (dsn: string) => DsnKind
  /** CPUs this process may use, at least 1. */
  readonly cpus: number
  /** Several workers on one port need the kernel to share it. */
  readonly canSharePort: boolean
  readonly flags?: { readonly port?: string; readonly logDir?: string }
  readonly cwd?: string
}

/** The process's environment over the `.env` of a folder: a variable that is set, even to nothing, is never overridden. */
export async function readEnvironment(cwd = process.cwd(), own: Environment = process.env): Promise<Environment> {
  const file = await readTextIfPresent(resolve(cwd, '.env'))
  return file === undefined ? own : { ...parseDotenv(file, own), ...own }
}

/** @returns a warning for each line of the `.env` of a folder that says nothing */
export async function checkDotenv(cwd = process.cwd()): Promise<readonly string[]> {
  const file = await readTextIfPresent(resolve(cwd, '.env'))
  return unreadLines(file ?? '').map((line) => `.env: line ${line} is not \`NAME=value\` and is left out`)
}

export function loadConfig(env: Environment, options: LoadOptions): LoadedConfig {
  const { parseDsn, cpus, canSharePort, flags = {}, cwd = process.cwd() } = options
  const problems: string[] = []
  const warnings: string[] = []
  const withFlags: Environment = {
    ...env,
    PORT: read(env, 'PORT') ?? flags.port,
    LOG_DIR: flags.logDir ?? env['LOG_DIR'],
  }

  // Serving on another port than the one that was meant would look like a node that is down.
  const port = read(withFlags, 'PORT')
  if (port !== undefined && !(/^\d+$/.test(port) && Number(port) <= 65_535))
    problems.push(`PORT: \`${port}\` is no port; use a number up to 65535`)

  const raw: Record<string, unknown> = {}
  for (const [key, variable] of Object.entries(VARIABLES)) raw[key] = parseVariable(withFlags, variable, warnings)
  // The table gives each key the type of its variable; the loop above cannot show that to the compiler.
  const values = raw as unknown as FromVariables

  const isSingleNode = parseDsn(values.sqlDsn).kind === 'sqlite'
  const [sqliteFile = '', ...parameters] = values.sqlitePath.replace(/^file:/, '').split('?')
  const sqlitePath = resolve(cwd, sqliteFile)
  const config: Config = Object.freeze({
    ...values,
    isSingleNode,
    sqlitePath: [sqlitePath, ...parameters].join('?'),
    dataDir: resolve(cwd, values.dataDir || (isSingleNode ? dirname(sqlitePath) : '.')),
    logDir: values.logDir && resolve(cwd, values.logDir),
    nodeName: values.nodeName || hostname(),
    isNodeNamed: values.nodeName !== '',
    workers: values.workers || (isSingleNode || !canSharePort ? 1 : Math.min(cpus, 8)),
    logLevel: values.isDebug ? 'debug' : values.logLevel,
    cryptoSecret: values.cryptoSecret || values.sessionSecret,
    cryptoSecretPrevious: values.cryptoSecretPrevious || (values.cryptoSecret ? '' : values.sessionSecretPrevious),
    hasCryptoSecret: values.cryptoSecret !== '',
    frontendBaseUrl: values.frontendBaseUrl.replace(/\/+$/, ''),
  })
  if (config.workers > 1 && !canSharePort)
    problems.push('WORKERS: this system cannot share one port among processes; set it to 1')
  checkContradictions(config, problems)
  for (const [name, text] of [
    ['SQL_DSN', config.sqlDsn],
    ['LOG_SQL_DSN', config.logSqlDsn],
  ] as const) {
    const dsn = parseDsn(text)
    if (dsn.kind === 'problem') problems.push(`${name}: ${dsn.problem}`)
    if (dsn.kind === 'mysql') warnings.push(...dsn.warnings.map((warning) => `${name}: ${warning}`))
  }
  warnings.push(...findDoubts(config, values), ...findNearMisses(env))
  return { config, problems, warnings }
}

/** One line per variable, for people: secrets masked, passwords cut out of addresses. */
export interface ShownVariable {
  readonly name: string
  readonly section: string
  readonly value: string
  readonly isDefault: boolean
  readonly description: string
}

/** @returns the effective values, in the order of the table */
export function describeConfig(config: Config): readonly ShownVariable[] {
  return Object.entries(VARIABLES).map(([key, variable]) => {
    const value = config[key as VariableKey]
    return {
      name: variable.name,
      section: variable.section,
      value: show(variable, value),
      isDefault: isEqual(value, variable.fallback),
      description: variable.description,
    }
  })
}

function show(variable: Variable<unknown>, value: unknown): string {
  const text = Array.isArray(value) ? value.join(',') : String(value)
  if (text === '' || variable.secret === 'no') return text
  return variable.secret === 'whole' ? '***' : redactAddress(text)
}

const isEqual = (a: unknown, b: unknown): boolean =>
  Array.isArray(a) && Array.isArray(b) ? a.join() === b.join() : a === b

/** An empty variable is one that is not set: compose files pass on what is unset as empty. */
function read(env: Environment, name: string): string | undefined {
  const text = env[name]?.trim()
  return text === '' ? undefined : text
}

function parseVariable(env: Environment, variable: Variable<unknown>, warnings: string[]): unknown {
  const { name, kind, fallback, min, max, choices } = variable
  const text = [name, ...variable.aliases].map((known) => read(env, known)).find((found) => found !== undefined)
  if (text === undefined) return fallback
  const refuse = (why: string): unknown => {
    warnings.push(`${name}: ${why}; the default ${show(variable, fallback)} is used`)
    return fallback
  }
  switch (kind) {
    case 'integer': {
      if (!/^[+-]?\d+$/.test(text)) return refuse(`\`${text}\` is not a whole number`)
      const number = Number(text)
      return number < min || number > max ? refuse(`${text} is not between ${min} and ${max}`) : number
    }
    case 'boolean': {
      const word = text.toLowerCase()
      if (['1', 't', 'true'].includes(word)) return true
      return ['0', 'f', 'false'].includes(word) ? false : refuse(`\`${text}\` is neither true nor false`)
    }
    case 'flag':
      if (text !== 'true' && text !== 'false')
        warnings.push(`${name}: \`${text}\` counts as false; only \`true\` switches it on`)
      return text === 'true'
    case 'list':
      return text
        .split(',')
        .map((item) => item.trim())
        .filter((item) => item !== '')
    case 'text':
      return choices.length > 0 && !choices.includes(text)
        ? refuse(`\`${text}\` is none of ${choices.join(', ')}`)
        : text
  }
}

function checkContradictions(config: Config, problems: string[]): void {
  if (config.isSingleNode && !roleOf(config.nodeType).migrates) {
    problems.push('NODE_TYPE: a slave needs the database of its master; set SQL_DSN, or leave NODE_TYPE out')
  }
  if (config.isSingleNode && config.workers > 1) {
    problems.push('WORKERS: several workers need a database server; set SQL_DSN, or leave WORKERS out')
  }
  if (config.timeZone !== '' && !isTimeZone(config.timeZone)) {
    problems.push(`TZ: \`${config.timeZone}\` is no time zone known here; use a name such as Asia/Shanghai or UTC`)
  }
  if (config.sessionSecret === 'random_string') {
    problems.push(
      'SESSION_SECRET: `random_string` is the placeholder of an example; set a random value, or leave it out on a single node',
    )
  }
  if (config.sessionCookieTrustedUrls.length > 0 && !config.sessionCookieSecure) {
    problems.push('SESSION_COOKIE_TRUSTED_URL: has no effect without SESSION_COOKIE_SECURE=true; set both or neither')
  }
  if (config.sessionCookieSecure && config.sessionCookieTrustedUrls.length === 0) {
    problems.push('SESSION_COOKIE_SECURE: needs the origins of the web pages in SESSION_COOKIE_TRUSTED_URL')
  }
  for (const url of config.sessionCookieTrustedUrls) {
    if (!isHttpsOrigin(url))
      problems.push(`SESSION_COOKIE_TRUSTED_URL: \`${url}\` is not an https origin such as https://example.com`)
  }
  if (config.frontendBaseUrl !== '' && !isHttpUrl(config.frontendBaseUrl)) {
    problems.push('FRONTEND_BASE_URL: is no http or https address such as https://example.com')
  }
  for (const entry of parseCidrs(config.trustedProxies.filter((item) => item !== 'none')).invalid) {
    problems.push(`TRUSTED_PROXIES: \`${entry}\` is no address and no network such as 10.0.0.0/8`)
  }
  for (const entry of parseCidrs(config.metricsAllow).invalid) {
    problems.push(`METRICS_ALLOW: \`${entry}\` is no address and no network such as 10.0.0.0/8`)
  }
  if (config.redisConnString !== '' && !/^(rediss?|unix):\/\//.test(config.redisConnString)) {
    problems.push('REDIS_CONN_STRING: must begin with redis:// or rediss://')
  }
}

/** What works but is likely not meant. */
function findDoubts(config: Config, set: FromVariables): string[] {
  const doubts: string[] = []
  if (config.redisConnString !== '' && config.isSingleNode) {
    doubts.push('REDIS_CONN_STRING: is set without SQL_DSN; this is a single node on SQLite, which needs no Redis')
  }
  for (const [name, value] of [
    ['SESSION_SECRET', set.sessionSecret],
    ['CRYPTO_SECRET', set.cryptoSecret],
  ] as const) {
    if (PLACEHOLDERS.has(value))
      doubts.push(`${name}: still has the value of an example, which everybody knows; set a random one`)
    else if (value !== '' && value.length < 16) doubts.push(`${name}: is short; use at least 32 random characters`)
  }
  for (const [name, current, previous] of [
    ['SESSION_SECRET', set.sessionSecret, set.sessionSecretPrevious],
    ['CRYPTO_SECRET', set.cryptoSecret, set.cryptoSecretPrevious],
  ] as const) {
    if (previous !== '' && previous === current)
      doubts.push(`${name}_PREVIOUS: is the same as ${name}; set the value before it, or leave it out`)
  }
  if (!config.isSingleNode && set.sessionSecret === '') {
    doubts.push(
      'SESSION_SECRET: is not set, so this node makes its own; further nodes of the cluster need the same value',
    )
  }
  if (!['master', 'slave'].includes(config.nodeType))
    doubts.push(`NODE_TYPE: \`${config.nodeType}\` is neither master nor slave, so this node is a master`)
  if (config.tlsInsecureSkipVerify) doubts.push('TLS_INSECURE_SKIP_VERIFY: certificates of upstreams are not checked')
  if (config.redisConnString === '') {
    for (const [name, value] of [
      ['REDIS_PASSWORD', config.redisPassword],
      ['REDIS_MASTER_NAME', config.redisMasterName],
    ] as const)
      if (value !== '') doubts.push(`${name}: has no effect without REDIS_CONN_STRING`)
  } else if (config.redisSentinelPassword !== '' && config.redisMasterName === '') {
    doubts.push('REDIS_SENTINEL_PASSWORD: has no effect without REDIS_MASTER_NAME')
  }
  return doubts
}

const PLACEHOLDERS = new Set(['your_unique_session_secret', 'your_unique_crypto_secret', 'random_string'])

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name.replace(/^:/, '') })
    return true
  } catch {
    // The constructor's RangeError is the answer.
    return false
  }
}

function isHttpUrl(text: string): boolean {
  const url = URL.parse(text)
  return url !== null && /^https?:$/.test(url.protocol) && url.search === '' && url.hash === ''
}

function isHttpsOrigin(text: string): boolean {
  return URL.canParse(text) && new URL(text).protocol === 'https:' && new URL(text).origin === text.toLowerCase()
}

/** Names in the environment that are almost one of ours, such as SYNC_FREQUENCE. */
function findNearMisses(env: Environment): string[] {
  const ours = [
    ...Object.values(VARIABLES).flatMap((variable: Variable<unknown>) => [variable.name, ...variable.aliases]),
    ...IGNORED_VARIABLES,
  ]
  const known = new Set([
    ...ours,
    ...RUNTIME_VARIABLES,
    ...IGNORED_VARIABLES,
    ...RUNTIME_VARIABLES.map((name) => name.toLowerCase()),
  ])
  const misses: string[] = []
  for (const name of Object.keys(env)) {
    if (known.has(name) || name.length < 5) continue
    const near = ours.find((our) => isNear(name, our))
    if (near) misses.push(`${name}: is not known; did you mean ${near}?`)
  }
  return misses
}

/** One slip in a short name, two in a long one; a difference in case alone is always a slip. */
function isNear(name: string, our: string): boolean {
  if (our.length < 5 || Math.abs(name.length - our.length) > 2) return false
  return name.toUpperCase() === our.toUpperCase() || editDistance(name, our) <= (our.length < 9 ? 1 : 2)
}

/** Insertions, deletions, replacements and swaps of neighbours needed to turn one text into the other. */
function editDistance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, j) => j)]
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1
      let best = Math.min(rows[i - 1]![j]! + 1, row[j - 1]! + 1, rows[i - 1]![j - 1]! + same)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, rows[i - 2]![j - 2]! + 1)
      row.push(best)
    }
    rows.push(row)
  }
  return rows[a.length]![b.length]!
}
