/**
 * Database addresses as people write them: Go's `user:pass@tcp(host:port)/db?params`, a `mysql://` URL, or nothing for
 * SQLite. Pure: nothing is opened, nothing is read from the environment.
 */

export interface MysqlDsn {
  readonly kind: 'mysql'
  readonly host: string
  readonly port: number
  /** absent: TCP */
  readonly socketPath?: string
  readonly user: string
  readonly password: string
  readonly database: string
  /** `preferred`: encrypted without a look at the certificate if the server can, else in clear */
  readonly tls: 'off' | 'verify' | 'skip-verify' | 'preferred'
  readonly connectTimeoutMs?: number
  /** how long one answer may take, ms */
  readonly readTimeoutMs?: number
  /** IANA zone that `datetime` columns are kept in; absent: UTC */
  readonly zone?: string
  /** a collation of utf8mb4 for the connection */
  readonly collation?: string
  readonly isCompressed: boolean
  /** what was written but has no effect here, for people */
  readonly warnings: readonly string[]
}

export type Dsn = MysqlDsn | { readonly kind: 'sqlite' } | { readonly kind: 'problem'; readonly problem: string }

const problem = (text: string): Dsn => ({ kind: 'problem', problem: text })

/**
 * @param text value of `SQL_DSN` or `LOG_SQL_DSN`
 * @returns `sqlite` for an empty text or one that begins with `local`; a problem is a sentence without secrets
 */
export function parseDsn(text: string): Dsn {
  const dsn = text.trim()
  if (dsn === '' || dsn.startsWith('local')) return { kind: 'sqlite' }
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(dsn)?.[1]?.toLowerCase()
  if (scheme === 'postgres' || scheme === 'postgresql')
    return problem('PostgreSQL is not supported: give the address of a MySQL or MariaDB server, or none for SQLite')
  if (scheme === 'clickhouse' || scheme === 'tcp' || scheme === 'http' || scheme === 'https')
    return problem('ClickHouse is not supported: give the address of a MySQL or MariaDB server')
  if (scheme === 'mysql' || scheme === 'mariadb') return parseUrl(dsn)
  if (scheme) return problem(`databases of the kind ${scheme}:// are not supported`)
  return parseGo(dsn)
}

/** Both forms, taken apart. */
interface Parts {
  readonly user: string
  readonly password: string
  readonly network: string
  readonly address: string
  readonly database: string
  readonly params: readonly (readonly [string, string])[]
}

/**
 * The last `/` begins the database, the last `@` before it ends the credentials, the first `:` in these ends the user:
 * so a password may hold any of them.
 * @source https://github.com/go-sql-driver/mysql (DSN)
 */
function parseGo(dsn: string): Dsn {
  const slash = lastSlash(dsn)
  if (slash < 0) return problem('a database address looks like user:password@tcp(host:3306)/database; the / is missing')
  const head = dsn.slice(0, slash)
  const [database = '', ...query] = dsn.slice(slash + 1).split('?')
  const at = head.lastIndexOf('@')
  const credentials = at < 0 ? '' : head.slice(0, at)
  const target = head.slice(at + 1)
  const colon = credentials.indexOf(':')
  const network = /^([^(]*)(?:\((.*)\))?$/s.exec(target)
  if (!network || (target.includes('(') && network[2] === undefined))
    return problem('the address in tcp(…) is not closed; special characters of the password may stand as they are')
  return assemble({
    user: colon < 0 ? credentials : credentials.slice(0, colon),
    password: colon < 0 ? '' : credentials.slice(colon + 1),
    network: network[1] === '' ? 'tcp' : (network[1] ?? 'tcp'),
    address: network[2] ?? '',
    database: decoded(database),
    params: parseParams(query.join('?')),
  })
}

/** The slash before the database: the last one that is not inside the parameters, as a `loc` may hold one. */
function lastSlash(dsn: string): number {
  const closing = dsn.lastIndexOf(')')
  // After `tcp(…)` the first slash counts; without an address in brackets the last one before the parameters does.
  if (closing >= 0 && dsn[closing + 1] === '/') return closing + 1
  const query = /\/[^/?@]*\?/.exec(dsn)
  return query ? query.index : dsn.lastIndexOf('/')
}

function parseUrl(dsn: string): Dsn {
  // A password with characters that a URL should escape is common; credentials are cut out before the rest is parsed.
  const rest = dsn.slice(dsn.indexOf('://') + 3)
  const path = rest.lastIndexOf('/', queryStart(rest))
  const head = path < 0 ? rest : rest.slice(0, path)
  const [database = '', ...query] = path < 0 ? [] : rest.slice(path + 1).split('?')
  const at = head.lastIndexOf('@')
  const credentials = at < 0 ? '' : head.slice(0, at)
  const colon = credentials.indexOf(':')
  return assemble({
    user: decoded(colon < 0 ? credentials : credentials.slice(0, colon)),
    password: decoded(colon < 0 ? '' : credentials.slice(colon + 1)),
    network: 'tcp',
    address: head.slice(at + 1),
    database: decoded(database),
    params: parseParams(query.join('?')),
  })
}

/** Where the parameters of a URL begin: at the first `?` behind the last `@`, or its end. */
function queryStart(rest: string): number {
  const at = rest.indexOf('?', rest.lastIndexOf('@') + 1)
  return at < 0 ? rest.length : at
}

const parseParams = (query: string): readonly (readonly [string, string])[] =>
  query
    .split('&')
    .filter((pair) => pair !== '')
    .map((pair) => {
      const equals = pair.indexOf('=')
      return equals < 0 ? [pair, ''] : [pair.slice(0, equals), decoded(pair.slice(equals + 1))]
    })

/** Percent escapes, if they are well formed; else the text as it is. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function assemble(parts: Parts): Dsn {
  const { user, password, database } = parts
  if (database === '') return problem('the database address names no database after the /')
  if (parts.network !== 'tcp' && parts.network !== 'tcp6' && parts.network !== 'tcp4' && parts.network !== 'unix')
    return problem(`the network ${parts.network} is not supported: write tcp(host:port) or unix(/path)`)
  const place =
    parts.network === 'unix' ? { host: 'localhost', port: 0, socketPath: parts.address } : parseAddress(parts.address)
  if (typeof place === 'string') return problem(place)
  if (place.socketPath === '') return problem('unix(…) needs the path of a socket')
  const settings = parseSettings(parts.params)
  if (typeof settings === 'string') return problem(settings)
  return { kind: 'mysql', ...place, user, password, database, ...settings }
}

const DEFAULT_PORT = 3306

/** `host`, `host:port`, `[v6]:port` or a bare IPv6 address. @returns a problem as text */
function parseAddress(address: string): { host: string; port: number; socketPath?: string } | string {
  if (address === '') return { host: '127.0.0.1', port: DEFAULT_PORT }
  const bracketed = /^\[([^\]]+)\](?::(\d*))?$/.exec(address)
  const plain = /^([^:]*)(?::(\d*))?$/.exec(address)
  const isBareV6 = !bracketed && !plain && /^[0-9a-f:.%]+$/i.test(address)
  if (isBareV6) return { host: address, port: DEFAULT_PORT }
  const found = bracketed ?? plain
  if (!found) return `the database address ${address} is not host:port`
  const port = found[2] ? Number(found[2]) : DEFAULT_PORT
  if (port < 1 || port > 65_535) return `the database port ${found[2]} is not between 1 and 65535`
  return { host: found[1] || '127.0.0.1', port }
}

type Settings = Pick<
  MysqlDsn,
  'tls' | 'connectTimeoutMs' | 'readTimeoutMs' | 'zone' | 'collation' | 'isCompressed' | 'warnings'
>

/** Parameters of Go's driver that change nothing here: what they ask for is always so, or belongs to that driver alone. */
const HARMLESS = new Set([
  'allowAllFiles',
  'allowCleartextPasswords',
  'allowFallbackToPlaintext',
  'allowNativePasswords',
  'allowOldPasswords',
  'checkConnLiveness',
  'clientFoundRows',
  'columnsWithAlias',
  'connectionAttributes',
  'interpolateParams',
  'maxAllowedPacket',
  'multiStatements',
  'parseTime',
  'rejectReadOnly',
  'timeTruncate',
  'writeTimeout',
])

const TLS = { true: 'verify', false: 'off', 'skip-verify': 'skip-verify', preferred: 'preferred' } as const

/** @returns a problem as text */
function parseSettings(params: Parts['params']): Settings | string {
  const settings: { -readonly [K in keyof Settings]: Settings[K] } = { tls: 'off', isCompressed: false, warnings: [] }
  const warnings: string[] = []
  for (const [name, value] of params) {
    if (name === 'tls') {
      const tls = TLS[(value === '1' ? 'true' : value === '0' ? 'false' : value.toLowerCase()) as keyof typeof TLS]
      if (!tls) return `tls=${value} in the database address: write true, false, skip-verify or preferred`
      settings.tls = tls
    } else if (name === 'timeout' || name === 'readTimeout') {
      const ms = parseDuration(value)
      if (ms === undefined) return `${name}=${value} in the database address is not a duration such as 10s or 500ms`
      if (ms > 0) settings[name === 'timeout' ? 'connectTimeoutMs' : 'readTimeoutMs'] = ms
    } else if (name === 'loc') {
      const zone = value === 'Local' ? localZone() : value
      if (!isZone(zone)) return `loc=${value} in the database address is not a known time zone`
      if (zone !== 'UTC') settings.zone = zone
    } else if (name === 'charset') {
      if (!value.split(',').some((charset) => /^utf8(mb[34])?$/i.test(charset)))
        warnings.push(`charset=${value} in the database address has no effect: the connection always speaks utf8mb4`)
    } else if (name === 'collation') {
      if (/^utf8mb4_\w+$/i.test(value)) settings.collation = value
      else warnings.push(`collation=${value} in the database address has no effect: only those of utf8mb4 can be used`)
    } else if (name === 'compress') settings.isCompressed = value === 'true' || value === '1'
    else if (!HARMLESS.has(name))
      warnings.push(`the parameter ${name} of the database address is not known and has no effect`)
  }
  return { ...settings, warnings }
}

const localZone = (): string => new Intl.DateTimeFormat().resolvedOptions().timeZone

function isZone(zone: string): boolean {
  try {
    return new Intl.DateTimeFormat('en', { timeZone: zone }) !== undefined
  } catch {
    return false
  }
}

const UNITS_MS = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1, us: 0.001, µs: 0.001, ns: 0.000001 } as const

/** Go's durations, e.g. `1m30s`, `500ms`, `0`. @returns ms */
function parseDuration(text: string): number | undefined {
  if (text === '0') return 0
  let ms = 0
  const rest = text.replace(/(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s)/g, (_, amount: string, unit: keyof typeof UNITS_MS) => {
    ms += Number(amount) * UNITS_MS[unit]
    return ''
  })
  return rest === '' && text !== '' ? Math.round(ms) : undefined
}

/** For display: the whole address but the password. What cannot be read shows nothing of itself. */
export function maskDsn(text: string): string {
  const dsn = parseDsn(text)
  if (dsn.kind === 'sqlite') return text.trim()
  if (dsn.kind === 'problem') return '***'
  const place = dsn.socketPath
    ? `unix(${dsn.socketPath})`
    : `tcp(${dsn.host.includes(':') ? `[${dsn.host}]` : dsn.host}:${dsn.port})`
  return `${dsn.user}${dsn.password === '' ? '' : ':***'}@${place}/${dsn.database}`
}

/**
 * `SQLITE_PATH`, which may carry the suffix of Go's driver.
 * @param text e.g. `one-api.db?_busy_timeout=30000`
 */
export function parseSqlitePath(text: string): { readonly path: string; readonly busyTimeoutMs?: number } {
  const at = text.indexOf('?')
  if (at < 0) return { path: text }
  const params = new URLSearchParams(text.slice(at + 1))
  const pragma = params.getAll('_pragma').find((value) => value.startsWith('busy_timeout'))
  const busy = Number(
    params.get('_busy_timeout') ?? params.get('_timeout') ?? /\d+/.exec(pragma ?? '')?.[0] ?? Number.NaN,
  )
  return { path: text.slice(0, at).replace(/^file:/, ''), ...(Number.isFinite(busy) ? { busyTimeoutMs: busy } : {}) }
}
