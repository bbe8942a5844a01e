/** The environment is read as New API's cluster guide writes it; what contradicts itself is refused, all of it at once. */
import { describe, expect, test } from 'bun:test'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  describeConfig,
  type Environment,
  type LoadedConfig,
  loadConfig,
  readEnvironment,
} from '../../../src/config.ts'
import { IGNORED_VARIABLES, VARIABLES } from '../../../src/config-variables.ts'
import { parseDsn } from '../../../src/db/dsn.ts'

const load = (env: Environment, flags: { port?: string; logDir?: string } = {}, canSharePort = true): LoadedConfig =>
  loadConfig(env, { parseDsn, cpus: 12, canSharePort, flags, cwd: '/srv/gateway' })

const DSN = 'root:password@tcp(your-db-host:3306)/new-api'

describe('defaults', () => {
  test('an empty environment is a good single node on SQLite with one worker, its data beside the SQLite file', () => {
    const { config, problems, warnings } = load({})
    expect({ problems, warnings }).toEqual({ problems: [], warnings: [] })
    expect(config).toMatchObject({
      port: 3000,
      workers: 1,
      isSingleNode: true,
      nodeType: 'master',
      sqlitePath: '/srv/gateway/one-api.db',
      dataDir: '/srv/gateway',
      shutdownTimeoutSec: 120,
      syncFrequencySec: 60,
      logLevel: 'info',
      errorLogEnabled: true,
    })
    expect(config.nodeName).not.toBe('')
    expect(Object.isFrozen(config)).toBe(true)
  })

  test('a database server gives a worker per CPU, at most eight, where the port can be shared', () => {
    expect(load({ SQL_DSN: DSN }).config.workers).toBe(8)
    expect(load({ SQL_DSN: DSN }, {}, false).config.workers).toBe(1)
    expect(load({ SQL_DSN: DSN, WORKERS: '3' }).config.workers).toBe(3)
  })

  test("the data folder follows SQLITE_PATH, and its suffix of Go's driver stays for the database", () => {
    const { config } = load({ SQLITE_PATH: '/data/one-api.db?_busy_timeout=30000' })
    expect(config).toMatchObject({ dataDir: '/data', sqlitePath: '/data/one-api.db?_busy_timeout=30000' })
    expect(load({ SQLITE_PATH: '/data/x.db', DATA_DIR: 'own' }).config.dataDir).toBe('/srv/gateway/own')
  })

  test('an empty variable is one that is not set, as compose files pass it on', () => {
    expect(load({ SQL_DSN: '', PORT: ' ', NODE_TYPE: '' }).config).toMatchObject({
      isSingleNode: true,
      port: 3000,
      nodeType: 'master',
    })
  })
})

test("environment blocks of New API's cluster guide are taken without a problem", () => {
  const master = load({
    SQL_DSN: DSN,
    REDIS_CONN_STRING: 'redis://default:password@your-redis-host:6379',
    SESSION_SECRET: 'your_unique_session_secret',
    CRYPTO_SECRET: 'your_unique_crypto_secret',
    TZ: 'Asia/Shanghai',
    SYNC_FREQUENCY: '60',
    FRONTEND_BASE_URL: 'https://your-domain.com',
    LOG_SQL_DSN: 'root:password@tcp(log-db-host:3306)/new_api_logs',
    BATCH_UPDATE_ENABLED: 'true',
    BATCH_UPDATE_INTERVAL: '5',
  })
  expect(master.problems).toEqual([])
  expect(master.config).toMatchObject({
    isBatchUpdate: true,
    batchUpdateIntervalSec: 5,
  })
  expect(master.warnings.filter((text) => text.includes('example')).length).toBe(2)
  const redis = load({
    SQL_DSN: DSN,
    SESSION_SECRET: 'x'.repeat(32),
    REDIS_CONN_STRING: 'redis://h:6379',
    REDIS_PASSWORD: 'p',
    REDIS_MASTER_NAME: 'mymaster',
    REDIS_CONN_POOL_SIZE: '10',
    NODE_TYPE: 'slave',
  })
  expect(load({ REDIS_POOL_SIZE: '4' }).config.redisPoolSize).toBe(4)
  expect(redis.problems).toEqual([])
  expect(redis.config).toMatchObject({
    redisPassword: 'p',
    redisMasterName: 'mymaster',
    redisPoolSize: 10,
    nodeType: 'slave',
  })
})

describe('problems', () => {
  test('all of them come at once, each with the name of its variable', () => {
    const { problems } = load({
      NODE_TYPE: 'slave',
      WORKERS: '4',
      TZ: 'Asia/Nowhere',
      SESSION_SECRET: 'random_string',
      LOG_SQL_DSN: 'clickhouse://h:9000/logs',
      SESSION_COOKIE_SECURE: 'true',
      REDIS_CONN_STRING: 'localhost:6379',
    })
    expect(problems.map((text) => text.split(':')[0]).sort()).toEqual(
      [
        'LOG_SQL_DSN',
        'NODE_TYPE',
        'REDIS_CONN_STRING',
        'SESSION_COOKIE_SECURE',
        'SESSION_SECRET',
        'TZ',
        'WORKERS',
      ].sort(),
    )
  })

  const single: readonly (readonly [variable: string, env: Environment])[] = [
    ['SQL_DSN', { SQL_DSN: 'postgres://u:p@h/db' }],
    ['SQL_DSN', { SQL_DSN: 'postgresql://u:p@h/db' }],
    ['LOG_SQL_DSN', { LOG_SQL_DSN: 'clickhouse://u:p@h/db' }],
    ['NODE_TYPE', { NODE_TYPE: 'slave' }],
    ['WORKERS', { WORKERS: '2' }],
    ['TZ', { TZ: 'Mars/Olympus' }],
    ['SESSION_SECRET', { SESSION_SECRET: 'random_string' }],
    ['SESSION_COOKIE_TRUSTED_URL', { SESSION_COOKIE_TRUSTED_URL: 'https://a.example' }],
    ['SESSION_COOKIE_TRUSTED_URL', { SESSION_COOKIE_SECURE: '1', SESSION_COOKIE_TRUSTED_URL: 'http://a.example' }],
  ]
  test.each(single)('%s is refused: %p', (variable, env) => {
    const { problems } = load(env)
    expect(problems.length).toBe(1)
    expect(problems[0]).toStartWith(`${variable}: `)
  })

  test('no message holds a password', () => {
    const { problems, warnings } = load({
      SQL_DSN: 'postgres://u:hunter2@h/db',
      LOG_SQL_DSN: 'u:hunter2@tcp(h:x)/db',
      REDIS_CONN_STRING: 'u:hunter2@h',
    })
    expect([...problems, ...warnings].join()).not.toContain('hunter2')
    expect(problems.length).toBe(3)
  })
})

describe('warnings', () => {
  test('what cannot be read falls back to its default, and says so', () => {
    const { config, warnings, problems } = load({
      RELAY_TIMEOUT: '1m',
      DEBUG: 'yes',
      NODE_TYPE: 'salve',
      SQL_DSN: 'u:p@tcp(h:1)/d',
      SESSION_SECRET: 'a secret that is long enough to say nothing of',
      SYNC_FREQUENCY: '0',
      TLS_INSECURE_SKIP_VERIFY: 'maybe',
      LOG_LEVEL: 'loud',
    })
    expect(problems).toEqual([])
    expect(config).toMatchObject({
      relayTimeoutSec: 0,
      isDebug: false,
      syncFrequencySec: 60,
      tlsInsecureSkipVerify: false,
      logLevel: 'info',
    })
    expect(warnings.map((text) => text.split(':')[0]).sort()).toEqual([
      'DEBUG',
      'LOG_LEVEL',
      'NODE_TYPE',
      'RELAY_TIMEOUT',
      'SYNC_FREQUENCY',
      'TLS_INSECURE_SKIP_VERIFY',
    ])
  })

  test.each([
    ['SYNC_FREQUENCE', 'SYNC_FREQUENCY'],
    ['SESSION_SECERT', 'SESSION_SECRET'],
    ['SQL_DNS', 'SQL_DSN'],
    ['sql_dsn', 'SQL_DSN'],
    ['NODETYPE', 'NODE_TYPE'],
    ['FRONTED_BASE_URL', 'FRONTEND_BASE_URL'],
    ['REDIS_CONN_STRINGS', 'REDIS_CONN_STRING'],
    ['BATCH_UPDATE_ENABLE', 'BATCH_UPDATE_ENABLED'],
  ])('%s is a near miss of %s', (name, meant) => {
    expect(load({ [name]: 'x' }).warnings).toEqual([`${name}: is not known; did you mean ${meant}?`])
  })

  test('ordinary variables of a system, and all that New API has, are no near misses', () => {
    const ordinary = [
      'PATH',
      'HOME',
      'USER',
      'LANG',
      'TERM',
      'SHELL',
      'PWD',
      'HOST',
      'HOSTNAME',
      'http_proxy',
      'https_proxy',
      'no_proxy',
      'ftp_proxy',
      'LOGNAME',
      'EDITOR',
      'TMPDIR',
      'SHLVL',
      'container',
      'NODE_ENV',
      'NODE_PATH',
      'XDG_DATA_DIRS',
      'DATABASE_URL',
      'REDIS_URL',
    ]
    const env = Object.fromEntries([...ordinary, ...IGNORED_VARIABLES].map((name) => [name, 'x']))
    expect(load(env).warnings).toEqual([])
  })

  test('Redis without a database server works and is doubted', () => {
    const { problems, warnings } = load({ REDIS_CONN_STRING: 'redis://localhost' })
    expect(problems).toEqual([])
    expect(warnings.length).toBe(1)
    expect(warnings[0]).toStartWith('REDIS_CONN_STRING: ')
  })

  test('an unknown parameter of a DSN is named', () => {
    const { warnings } = load({ SQL_DSN: `${DSN}?chraset=utf8mb4`, SESSION_SECRET: 'x'.repeat(32) })
    expect(warnings.length).toBe(1)
    expect(warnings[0]).toContain('chraset')
  })
})

describe('the command line', () => {
  test('PORT wins over --port, --log-dir over LOG_DIR', () => {
    expect(load({}, { port: '8080', logDir: 'logs' }).config).toMatchObject({ port: 8080, logDir: '/srv/gateway/logs' })
    expect(load({ PORT: '9090', LOG_DIR: '/var/a' }, { port: '8080', logDir: '/var/b' }).config).toMatchObject({
      port: 9090,
      logDir: '/var/b',
    })
  })
})

describe('secrets', () => {
  const [a, b, c] = ['a'.repeat(32), 'b, '.repeat(12), 'c'.repeat(32)] as const

  test('the crypto secret is the session secret unless it is set, and so is the one before it', () => {
    expect(load({ SESSION_SECRET: a, SESSION_SECRET_PREVIOUS: b }).config).toMatchObject({
      sessionSecretPrevious: b.trim(),
      cryptoSecret: a,
      cryptoSecretPrevious: b.trim(),
      hasCryptoSecret: false,
    })
    expect(load({ SESSION_SECRET: a, SESSION_SECRET_PREVIOUS: b, CRYPTO_SECRET: c }).config).toMatchObject({
      cryptoSecret: c,
      cryptoSecretPrevious: '',
      hasCryptoSecret: true,
    })
  })

  test('a previous secret that is the current one is doubted', () => {
    const { problems, warnings } = load({ CRYPTO_SECRET: c, CRYPTO_SECRET_PREVIOUS: c })
    expect(problems).toEqual([])
    expect(warnings.map((text) => text.split(':')[0])).toEqual(['CRYPTO_SECRET_PREVIOUS'])
  })
})

test('FRONTEND_BASE_URL is an address, without slashes at its end', () => {
  expect(load({ FRONTEND_BASE_URL: 'https://gate.example/' }).config.frontendBaseUrl).toBe('https://gate.example')
  for (const address of ['gate.example', 'ftp://gate.example', 'https://gate.example/?x=1'])
    expect(load({ FRONTEND_BASE_URL: address }).problems.map((text) => text.split(':')[0])).toEqual([
      'FRONTEND_BASE_URL',
    ])
})

test('effective values are shown for every variable, with secrets masked', () => {
  const { config } = load({
    SQL_DSN: DSN,
    SESSION_SECRET: 's'.repeat(40),
    REDIS_PASSWORD: 'hunter2',
    REDIS_CONN_STRING: 'redis://default:hunter2@h',
  })
  const shown = describeConfig(config)
  expect(shown.map(({ name }) => name).sort()).toEqual(
    Object.values(VARIABLES)
      .map(({ name }) => name)
      .sort(),
  )
  const text = JSON.stringify(shown.map(({ value }) => value))
  for (const secret of ['hunter2', 'ssssssss', ':password@']) expect(text).not.toContain(secret)
  expect(text).toContain('root:***@tcp(your-db-host:3306)/new-api')
  expect(shown.find(({ name }) => name === 'PORT')).toMatchObject({ value: '3000', isDefault: true })
})

test('every variable of the table has an effect: its value is read somewhere', async () => {
  const src = join(import.meta.dir, '../../../src')
  const files = await Array.fromAsync(new Bun.Glob('**/*.ts').scan({ cwd: src }))
  const texts = await Promise.all(
    files.filter((file) => file !== 'config-variables.ts').map((file) => Bun.file(join(src, file)).text()),
  )
  const all = texts.join('\n')
  const unread = Object.keys(VARIABLES).filter((key) => !new RegExp(`\\b(config|values)\\.${key}\\b`).test(all))
  expect(unread).toEqual([])
})

test('.env is read, and never overrides a variable that is set, even to nothing', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-env-'))
  try {
    await writeFile(join(folder, '.env'), 'PORT=4000\nNODE_NAME=from-file\nSQL_DSN=root:x@tcp(h)/db\n')
    const env = await readEnvironment(folder, { PORT: '5000', SQL_DSN: '' })
    expect(load(env).config).toMatchObject({ port: 5000, nodeName: 'from-file', isSingleNode: true })
    expect(await readEnvironment(join(folder, 'nowhere'), { PORT: '5000' })).toEqual({ PORT: '5000' })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})
