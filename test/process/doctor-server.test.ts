/** What `doctor` says about settings and states of a server that nobody wants to build for a test. */
import { expect, test } from 'bun:test'
import { judgeServer } from '../../src/commands/doctor-server.ts'
import { type Config, loadConfig } from '../../src/config.ts'
import { parseDsn } from '../../src/db/index.ts'

const config: Config = loadConfig(
  { SQL_DSN: 'u:p@tcp(h)/d', SQL_MAX_OPEN_CONNS: '100', WORKERS: '2', SESSION_SECRET: 'long enough for any check' },
  { parseDsn, cpus: 2, canSharePort: true, cwd: import.meta.dir },
).config

const GOOD = {
  binlog_format: 'ROW',
  innodb_autoinc_lock_mode: '2',
  innodb_lock_wait_timeout: '50',
  max_allowed_packet: '16777216',
  max_connections: '500',
  read_only: 'OFF',
  tx_isolation: 'REPEATABLE-READ',
  wait_timeout: '600',
}
const MEMBER = {
  wsrep_cluster_size: '3',
  wsrep_cluster_status: 'Primary',
  wsrep_local_state_comment: 'Synced',
  wsrep_ready: 'ON',
}
const judged = (variables: Record<string, string>, status: Record<string, string> = {}): readonly string[] =>
  judgeServer(
    { variables: new Map(Object.entries({ ...GOOD, ...variables })), status: new Map(Object.entries(status)) },
    config,
    'SQL_DSN',
  ).map(({ level, text }) => `${level} ${text}`)

test('a server that is as it should be is not complained about, nor is a good member of a cluster', () => {
  expect(judged({})).toEqual([])
  expect(judged({ wsrep_on: 'ON' }, MEMBER)).toEqual([])
})

test.each([
  ['wait_timeout', '28800', /^warning .*wait_timeout is 28800/],
  ['wait_timeout', '30', /^warning .*no longer than SQL_MAX_LIFETIME/],
  ['innodb_lock_wait_timeout', '300', /^warning .*innodb_lock_wait_timeout/],
  ['innodb_lock_wait_timeout', '1', /^warning .*innodb_lock_wait_timeout/],
  ['tx_isolation', 'READ-COMMITTED', /^warning .*READ-COMMITTED/],
  ['max_allowed_packet', '1048576', /^warning .*max_allowed_packet/],
  ['max_connections', '60', /^warning .*max_connections is 60/],
  ['read_only', 'ON', /^problem .*takes no writes/],
  ['super_read_only', '1', /^problem .*takes no writes/],
])('%s = %s is told', (variable, value, expected) => {
  const found = judged({ [variable]: value })
  expect(found).toHaveLength(1)
  expect(found[0]).toMatch(expected)
})

test('a replica, and a member of a cluster that is not whole, are told', () => {
  expect(judged({}, { slave_running: 'ON' })).toEqual([expect.stringMatching(/^warning .*replica/)])
  const member = (state: Record<string, string>) => judged({ wsrep_on: 'ON' }, { ...MEMBER, ...state })
  expect(member({ wsrep_cluster_status: 'non-Primary' })).toEqual([expect.stringMatching(/^problem .*not ready/)])
  expect(member({ wsrep_local_state_comment: 'Donor/Desynced' })).toEqual([expect.stringMatching(/^warning .*Donor/)])
  expect(member({ wsrep_cluster_size: '2' })).toEqual([expect.stringMatching(/^warning .*2 members/)])
  expect(judged({ wsrep_on: 'ON', binlog_format: 'MIXED' }, MEMBER)).toEqual([expect.stringMatching(/binlog_format/)])
})
