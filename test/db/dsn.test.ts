/** Database addresses: what people write is understood, what has no effect is told, what cannot work is a clear problem. */
import { describe, expect, test } from 'bun:test'
import { type MysqlDsn, maskDsn, parseDsn, parseSqlitePath } from '../../src/db/dsn.ts'

function mysqlOf(text: string): MysqlDsn {
  const dsn = parseDsn(text)
  if (dsn.kind !== 'mysql') throw new Error(`${text} is ${JSON.stringify(dsn)}`)
  return dsn
}

describe('the Go form', () => {
  test.each([
    ['u:p@tcp(db.example:3307)/x', { user: 'u', password: 'p', host: 'db.example', port: 3307, database: 'x' }],
    ['u:p@tcp(db.example)/x', { host: 'db.example', port: 3306 }],
    ['u:p@tcp/x', { host: '127.0.0.1', port: 3306 }],
    ['u@tcp(h:1)/x', { user: 'u', password: '' }],
    ['/x', { user: '', password: '', host: '127.0.0.1', database: 'x' }],
    ['u:p@tcp([2001:db8::1]:3307)/x', { host: '2001:db8::1', port: 3307 }],
    ['u:p@tcp([::1])/x', { host: '::1', port: 3306 }],
    ['u:p@tcp(::1)/x', { host: '::1', port: 3306 }],
    ['u:p@unix(/run/mysqld/mysqld.sock)/x', { socketPath: '/run/mysqld/mysqld.sock', database: 'x' }],
    [
      'u:a@b:c/d?e#f%40(g)@tcp(h:1)/x?charset=utf8mb4',
      { password: 'a@b:c/d?e#f%40(g)', host: 'h', port: 1, database: 'x' },
    ],
    ['u:a)/b@tcp(h:1)/x', { password: 'a)/b', host: 'h', database: 'x' }],
    ['u:p@tcp(h:1)/x%2Dy', { database: 'x-y' }],
    ['u:p@tcp(h:1)/x?loc=Asia/Shanghai', { database: 'x', zone: 'Asia/Shanghai' }],
    ['  u:p@tcp(h:1)/x\n', { user: 'u', database: 'x' }],
  ])('%s', (text, expected) => {
    expect(mysqlOf(text)).toMatchObject(expected)
  })

  test('the usual parameters of an existing installation are understood without a warning', () => {
    const dsn = mysqlOf(
      'root:123456@tcp(mysql:3306)/new-api?charset=utf8mb4&parseTime=True&loc=UTC&multiStatements=true',
    )
    expect(dsn).toMatchObject({ database: 'new-api', warnings: [] })
    expect(dsn.zone).toBeUndefined()
  })
})

describe('the URL form', () => {
  test.each([
    ['mysql://u:p@h:3307/x', { user: 'u', password: 'p', host: 'h', port: 3307, database: 'x' }],
    ['mysql://u:p%40ss%2F@h/x?tls=true', { password: 'p@ss/', host: 'h', port: 3306, tls: 'verify' }],
    ['mysql://u:a@b:c/d?e@h:1/x?timeout=3s', { password: 'a@b:c/d?e', host: 'h', port: 1, connectTimeoutMs: 3_000 }],
    ['mysql://u:100%@h/x', { password: '100%' }],
    ['mysql://u@[::1]:3307/x', { user: 'u', password: '', host: '::1', port: 3307 }],
    ['mariadb://u:p@h/x?loc=Asia/Shanghai', { database: 'x', zone: 'Asia/Shanghai' }],
  ])('%s', (text, expected) => {
    expect(mysqlOf(text)).toMatchObject(expected)
  })
})

describe('parameters', () => {
  const withParams = (params: string): MysqlDsn => mysqlOf(`u:p@tcp(h)/x?${params}`)

  test.each([
    ['tls=true', { tls: 'verify' }],
    ['tls=skip-verify', { tls: 'skip-verify' }],
    ['tls=preferred', { tls: 'preferred' }],
    ['tls=false', { tls: 'off' }],
    ['timeout=1m30s', { connectTimeoutMs: 90_000 }],
    ['readTimeout=500ms', { readTimeoutMs: 500 }],
    ['timeout=0', { tls: 'off' }],
    ['collation=utf8mb4_unicode_ci', { collation: 'utf8mb4_unicode_ci' }],
    ['compress=true', { isCompressed: true }],
    ['loc=Local', { zone: new Intl.DateTimeFormat().resolvedOptions().timeZone }],
  ])('%s has its effect', (params, expected) => {
    const dsn = withParams(params)
    if ('zone' in expected && expected.zone === 'UTC') expect(dsn.zone).toBeUndefined()
    else expect(dsn).toMatchObject(expected)
    expect(dsn.warnings).toEqual([])
  })

  test.each(['charset=utf8', 'charset=utf8mb4,utf8', 'parseTime=true', 'writeTimeout=5s', 'interpolateParams=true'])(
    '%s is harmless',
    (params) => {
      expect(withParams(params).warnings).toEqual([])
    },
  )

  test.each(['charset=gbk', 'collation=latin1_swedish_ci', 'sql_mode=ANSI', 'maxLifetime=3'])(
    '%s is warned about',
    (params) => {
      const [warning] = withParams(params).warnings
      expect(warning).toContain(params.split('=')[0]!)
    },
  )
})

describe('problems', () => {
  test.each([
    ['postgres://u:secretword@h/x', 'PostgreSQL'],
    ['postgresql://u:secretword@h/x', 'PostgreSQL'],
    ['clickhouse://u:secretword@h/x', 'ClickHouse'],
    ['tcp://h:9000/x', 'ClickHouse'],
    ['mongodb://h/x', 'mongodb'],
    ['u:secretword@tcp(h:1)', 'the / is missing'],
    ['u:secretword@tcp(h:1)/', 'no database'],
    ['u:secretword@tcp(h:1/x', 'not closed'],
    ['u:secretword@tcp(h:99999)/x', '99999'],
    ['u:secretword@udp(h:1)/x', 'udp'],
    ['u:secretword@unix()/x', 'socket'],
    ['u:secretword@tcp(h)/x?tls=custom', 'tls=custom'],
    ['u:secretword@tcp(h)/x?timeout=soon', 'timeout=soon'],
    ['u:secretword@tcp(h)/x?loc=Mars/Base', 'Mars/Base'],
    ['mysql://u:secretword@h', 'no database'],
  ])('%s is told without its password', (text, part) => {
    const dsn = parseDsn(text)
    expect(dsn.kind).toBe('problem')
    const { problem } = dsn as { problem: string }
    expect(problem).toContain(part)
    expect(problem).not.toContain('secretword')
  })
})

test.each(['', '  ', 'local', 'localhost-sqlite'])('%p means SQLite', (text) => {
  expect(parseDsn(text)).toEqual({ kind: 'sqlite' })
})

test.each([
  ['u:p@ss@tcp(h:1)/x?timeout=1s', 'u:***@tcp(h:1)/x'],
  ['mysql://u:p%40ss@[::1]/x', 'u:***@tcp([::1]:3306)/x'],
  ['u:p@unix(/run/s)/x', 'u:***@unix(/run/s)/x'],
  ['u@tcp(h)/x', 'u@tcp(h:3306)/x'],
  ['postgres://u:p@h/x', '***'],
  ['', ''],
])('display of %p shows no password', (text, shown) => {
  expect(maskDsn(text)).toBe(shown)
})

test.each([
  ['one-api.db?_busy_timeout=30000', { path: 'one-api.db', busyTimeoutMs: 30_000 }],
  ['/data/one-api.db', { path: '/data/one-api.db' }],
  ['file:/data/x.db?_pragma=busy_timeout(7000)', { path: '/data/x.db', busyTimeoutMs: 7_000 }],
  ['x.db?cache=shared', { path: 'x.db' }],
])('SQLITE_PATH %s', (text, expected) => {
  expect(parseSqlitePath(text)).toEqual(expected)
})
