/**
 * Databases as New API leaves them, on MySQL and as an SQLite file: all 34 tables of today, with rows of every kind that
 * is found in practice.
 */
import { NEW_API } from './new-api-tables.ts'

/** How old the database is: what was added after 2024-05 is missing in `old`. */
export type Age = 'today' | 'old'

/** Tables and columns that came after 2024-05. */
const NEWER_TABLES = new Set(
  `setups user_sessions auth_flows models vendors prefill_groups two_fas two_fa_backup_codes passkey_credentials
   custom_oauth_providers user_oauth_bindings external_identity_claims subscription_plans subscription_orders user_subscriptions
   subscription_pre_consume_records checkins perf_metrics system_tasks system_task_locks system_instances authz_roles casbin_rule`.split(
    /\s+/,
  ),
)
const NEWER_COLUMNS = new Set(
  `users.linux_do_id users.setting users.oidc_id users.remark users.stripe_customer users.discord_id users.created_at
   users.last_login_at users.auth_version tokens.allow_ips tokens.group tokens.cross_group_retry tokens.auto_groups channels.tag
   channels.setting channels.param_override channels.channel_info channels.settings channels.header_override channels.remark
   abilities.tag logs.group logs.ip logs.request_id logs.upstream_request_id redemptions.expired_time top_ups.payment_method
   top_ups.payment_provider tasks.group tasks.private_data midjourneys.video_url midjourneys.video_urls midjourneys.token_id
   midjourneys.billing_channel_id quota_data.use_group quota_data.token_id quota_data.channel_id quota_data.node_name`.split(
    /\s+/,
  ),
)

interface ColumnText {
  readonly name: string
  readonly type: string
  readonly rest: string
}

function columnsOf(name: string, age: Age): readonly ColumnText[] {
  return NEW_API[name]!.columns.map((line) => {
    const [, column = '', type = '', rest = ''] = /^(\w+) (\w+(?:\([\d,]+\))?(?: unsigned)?)(.*)$/.exec(line) ?? []
    const isNarrow = age === 'old' && name === 'tokens' && column === 'model_limits'
    return { name: column, type: isNarrow ? 'varchar(1024)' : type, rest: isNarrow ? " default ''" : rest }
  }).filter((column) => age === 'today' || !NEWER_COLUMNS.has(`${name}.${column.name}`))
}

const tablesOf = (age: Age): readonly string[] =>
  Object.keys(NEW_API).filter((name) => age === 'today' || !NEWER_TABLES.has(name))

function keysOf(
  name: string,
  columns: readonly ColumnText[],
): readonly { name: string; columns: readonly string[]; isUnique: boolean }[] {
  const known = new Set(columns.map((column) => column.name))
  return NEW_API[name]!.keys.map((text) => {
    const [, unique, key = '', list = ''] = /^(unique )?(\w+)\((.*)\)$/.exec(text) ?? []
    return { name: key, columns: list.split(','), isUnique: unique !== undefined }
  }).filter((key) => key.columns.every((column) => known.has(column)))
}

/** @returns the DDL of all tables, without engine and charset, as the reference writes it */
export function mysqlDdl(age: Age): readonly string[] {
  return tablesOf(age).map((name) => {
    const columns = columnsOf(name, age)
    const lines = columns.map(
      (column) => `\`${column.name}\` ${column.type}${column.rest}${column.name === 'id' ? ' auto_increment' : ''}`,
    )
    lines.push(`primary key (${quoted(NEW_API[name]!.primaryKey)})`)
    for (const key of keysOf(name, columns))
      lines.push(`${key.isUnique ? 'unique ' : ''}key \`${key.name}\` (${quoted(key.columns.join(','))})`)
    return `create table \`${name}\` (${lines.join(', ')})`
  })
}

const quoted = (list: string): string =>
  list
    .split(',')
    .map((column) => `\`${column}\``)
    .join(', ')

/** SQLite's types as the reference declares them; `varchar(191)` is what it writes for a string without a size. */
function sqliteType(type: string): string {
  if (/^(bigint|int)/.test(type)) return 'integer'
  if (type === 'tinyint(1)') return 'numeric'
  if (type === 'double') return 'real'
  if (type === 'datetime(3)') return 'datetime'
  return type === 'longtext' || type === 'varchar(191)' ? 'text' : type
}

export function sqliteDdl(age: Age): readonly string[] {
  return tablesOf(age).flatMap((name) => {
    const columns = columnsOf(name, age)
    const keys = keysOf(name, columns)
    const inline = new Set(keys.filter((key) => key.isUnique && key.name === key.columns[0]).map((key) => key.name))
    const lines = columns.map((column) => {
      const rest = column.rest.replaceAll("'", '"')
      const isKey = NEW_API[name]!.primaryKey.split(',').includes(column.name)
      return `\`${column.name}\` ${sqliteType(column.type)}${isKey ? rest.replace(' not null', '') : rest}${inline.has(column.name) ? ' UNIQUE' : ''}`
    })
    lines.push(`PRIMARY KEY (${quoted(NEW_API[name]!.primaryKey)})`)
    return [
      `CREATE TABLE \`${name}\` (${lines.join(',')})`,
      ...keys
        .filter((key) => !inline.has(key.name))
        .map(
          (key) =>
            `CREATE ${key.isUnique ? 'UNIQUE ' : ''}INDEX \`${key.name}\` ON \`${name}\`(${quoted(key.columns.join(','))})`,
        ),
    ]
  })
}

export interface RowText {
  readonly table: string
  readonly columns: readonly string[]
  readonly values: readonly (string | number | bigint | Uint8Array | null)[]
}

/** Rows that say something about a take-over; the rest is filled in by type. */
const TELLING: Readonly<Record<string, readonly Readonly<Record<string, string | number | bigint | null>>[]>> = {
  users: [
    { id: 1, username: 'root', role: 100, access_token: null, aff_code: 'aaaa', quota: 100_000_000, deleted_at: null },
    { id: 2, username: '用户', quota: 3_000_000_000, used_quota: null, aff_code: null, deleted_at: null },
    { id: 3, username: 'Gone', quota: -5, aff_code: 'bbbb', group: null },
  ],
  tokens: [
    { id: 1, user_id: 1, key: 'K'.repeat(48), unlimited_quota: 1, remain_quota: -17, deleted_at: null },
    { id: 2, user_id: 2, key: 'short', unlimited_quota: null, model_limits_enabled: null, group: 'nolongerthere' },
    {
      id: 3,
      user_id: 2,
      key: 'k'.repeat(47),
      unlimited_quota: 0,
      expired_time: 0,
      remain_quota: 9_007_199_254_740_993n,
    },
  ],
  channels: [
    {
      id: 1,
      key: 'sk-one\nsk-two',
      name: '渠道',
      channel_info: '{"is_multi_key":true,"big":12345678901234567890}',
      models: '',
    },
    { id: 9, key: 'sk', channel_info: null, weight: null, models: 'gpt-4o, gpt-4o-mini ', tag: null, balance: 0.1 },
  ],
  options: [
    { key: 'theme.frontend', value: 'default' },
    { key: 'SystemName', value: '我的网关' },
    { key: 'FAQ', value: '[{"title":"问","content":"答"}]' },
    { key: 'ApiInfo', value: '[{"url":"https://a.example"}]' },
    { key: 'unknown.key', value: null },
  ],
  user_sessions: [{ sid: 'session-one', user_id: 1, status: 'active' }],
}

/**
 * Rows of every table.
 * @param emoji a text with what the character set can hold at most
 */
export function rowsOf(age: Age, engine: 'mysql' | 'sqlite', emoji: string): readonly RowText[] {
  return tablesOf(age).flatMap((name) => {
    const telling = TELLING[name] ?? []
    const columns = columnsOf(name, age)
    return Array.from({ length: Math.max(telling.length, 4) }, (_, n) => {
      const known = telling[n] ?? {}
      return {
        table: name,
        columns: columns.map((column) => column.name),
        values: columns.map((column) => {
          const value = known[column.name] === undefined ? filler(name, column, n, emoji) : known[column.name]!
          if (engine === 'mysql' || value === null) return value
          if (column.type === 'json') return new TextEncoder().encode(String(value))
          return column.type === 'datetime(3)' ? `${String(value).slice(0, 19)}.12345678${n}+00:00` : value
        }),
      }
    })
  })
}

/** A value of the column's type that differs from row to row; every fifth that may be is NULL. */
function filler(name: string, column: ColumnText, n: number, emoji: string): string | number | bigint | null {
  if (column.name === 'id') return n + 10
  const isFree = !column.rest.includes('not null') && column.name !== 'username'
  if (isFree && (n + column.name.length) % 5 === 0) return null
  if (/^(bigint|int)/.test(column.type)) return column.name.endsWith('quota') ? 2 ** 31 + n : n + 1
  if (column.type === 'tinyint(1)') return n % 2
  if (column.type === 'double') return n + 0.1
  if (column.type.startsWith('decimal')) return '1.250000'
  if (column.type === 'datetime(3)') return `2026-08-0${n + 1} 12:00:00.12${n}`
  if (column.type === 'json') return `{"n":${n},"text":"${emoji}"}`
  const size = Number(/\d+/.exec(column.type)?.[0] ?? 999)
  const plain = `${n}${name}${column.name}`
  return column.type.startsWith('char') || size < 40 ? plain.slice(0, size) : `${plain} ${emoji}`
}
