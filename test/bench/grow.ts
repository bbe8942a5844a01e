/**
 * An installation that has grown: thousands of channels, a million keys, millions of call records over 90 days. A real node
 * makes the database and one row of each kind, over HTTP and by calls; the server multiplies them. Made once per size and
 * kept in `.cache/bench`. Runnable with a number of records, to make it beforehand.
 */
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import mysql from 'mysql2/promise'
import { createAdminClient } from '../support/admin-client.ts'
import { eventually } from '../support/eventually.ts'
import { createNode } from '../support/node.ts'
import { cached, cacheFolder, type SqlServer, startMariadb, stopServices } from '../support/services.ts'
import { openRig, type Rig } from './rig.ts'
import { CALL_BODY, MODEL } from './wire.ts'

export const GROWN = { users: 1_000, keys: 1_000_000, channels: 10_000, models: 50, days: 90 } as const
/** A user in twenty is of group `vip`, which only so many channels serve. */
export const FEW_CHANNELS = 5
const DATABASE = 'grown'
/** What nodes on the kept database must agree on. */
export const GROWN_ENV = { CRYPTO_SECRET: 'a crypto secret of measurements', NODE_NAME: 'node-1' } as const
const VIP_EVERY = 20
/** Raised when what is made here changes, so that kept data are made anew. */
const VERSION = 2
const KEYS_PER_USER = GROWN.keys / GROWN.users
const ROWS_PER_STATEMENT = 200_000
const WALLET = 2_000_000_000
/** Of `logs.type`: calls, errors, log-ins, administration. Running sums of their shares. */
const TYPE_SHARES = [
  [2, 0.97],
  [5, 0.99],
  [7, 0.996],
  [3, 1],
] as const

export interface Grown {
  readonly server: SqlServer
  /** Its name on the server. */
  readonly database: string
  /** Unix seconds of the newest record that was made. */
  readonly endSec: number
  /** Reads beside the gateway. */
  number(query: string): Promise<number>
}

/** User `u` has the id `2 + u`; key `k` of user `u` the number `k * users + u` and that plus 1 as id. */
const grownKey = (user: number, key: number): string => keyText(key * GROWN.users + user)
export const grownUser = (user: number): string => `user${user + 1}`
export const grownKeyName = (key: number): string => `key${key + 1}`
export const grownModel = (model: number): string => (model === 0 ? MODEL : `model-${String(model).padStart(2, '0')}`)
const isVip = (user: number): boolean => user % VIP_EVERY === VIP_EVERY - 1
const keyText = (number: number): string => createHash('sha256').update(`key ${number}`).digest('hex').slice(0, 48)

/** Keys of 50 users, two each, as a small installation has them: of users whose group many channels serve, or few. */
export function grownKeys(channels: 'many' | 'few'): readonly string[] {
  const users = [...Array(GROWN.users).keys()].filter((user) => isVip(user) === (channels === 'few'))
  const some = users.filter((_, index) => index % Math.floor(users.length / 50) === 0).slice(0, 50)
  return some.flatMap((user) => [`sk-${grownKey(user, 1)}`, `sk-${grownKey(user, KEYS_PER_USER / 2)}`])
}

/**
 * Starts the server on the kept data, which are made first if they are not there: for a million records that takes some
 * two minutes. Its memory is that of a server for such a size.
 */
export async function openGrown(rig: Rig, logs: number, say: (text: string) => void): Promise<Grown> {
  const folder = join(cacheFolder(), 'bench', `mariadb-${logs}-v${VERSION}`)
  await cached(folder, async (unfinished) => {
    say(`making ${logs} call records, once`)
    const server = await start(join(unfinished, 'data'))
    const endSec = await grow(rig, server, logs, say)
    await server.execute('shutdown').catch(() => undefined)
    await server.process.exited
    await writeFile(join(unfinished, 'end'), String(endSec))
  })
  const endSec = Number(await readFile(join(folder, 'end'), 'utf8'))
  const server = await start(join(folder, 'data'))
  await server.execute(`update ${DATABASE}.channels set base_url = '${rig.mock.url}'`)
  return {
    server,
    database: DATABASE,
    endSec,
    async number(query) {
      const connection = await mysql.createConnection({
        socketPath: server.socketPath,
        user: 'root',
        database: DATABASE,
      })
      try {
        const [rows] = await connection.query<mysql.RowDataPacket[]>(query)
        return Number(Object.values(rows[0] ?? {})[0])
      } finally {
        await connection.end()
      }
    },
  }
}

const start = (data: string): Promise<SqlServer> =>
  startMariadb(data, [
    '--innodb-buffer-pool-size=2G',
    '--innodb-log-file-size=512M',
    '--innodb-sort-buffer-size=64M',
    '--character-set-server=utf8mb4',
  ])

/** @returns Unix seconds of the newest record */
async function grow(rig: Rig, server: SqlServer, logs: number, say: (text: string) => void): Promise<number> {
  await server.execute(`create database ${DATABASE}`)
  await seed(rig, server)
  const connection = await mysql.createConnection({ socketPath: server.socketPath, user: 'root', database: DATABASE })
  const run = async (sql: string): Promise<void> => void (await connection.query(sql))
  try {
    const endSec = Math.floor(Date.now() / 1000)
    // What is random is worked out once per row; nothing here needs to survive a crash.
    await run("set optimizer_switch = 'derived_merge=off'")
    await run('set global innodb_flush_log_at_trx_commit = 0')
    say('users, keys and channels')
    await growAccounts(connection, run)
    await growChannels(connection, run)
    await withoutIndexes(connection, 'logs', () => growLogs(run, logs, endSec, say))
    say('hourly sums')
    await withoutIndexes(connection, 'quota_data', () => growUsage(run, endSec))
    for (const table of ['users', 'tokens', 'channels', 'abilities', 'logs', 'quota_data'])
      await run(`analyze table ${table}`)
    return endSec
  } finally {
    await connection.end()
  }
}

/** One row of each kind, as the product writes it. */
async function seed(rig: Rig, server: SqlServer): Promise<void> {
  const node = await createNode({
    env: { ...GROWN_ENV, SQL_DSN: server.dsn(DATABASE), WORKERS: '1', ERROR_LOG_ENABLED: 'true' },
  })
  try {
    node.start()
    await node.ready(60_000)
    const admin = createAdminClient(() => node.url)
    await admin.setUp()
    await admin.channel({ name: 'upstream 1', baseUrl: rig.mock.url, models: [MODEL] })
    const user = await admin.user(WALLET)
    const { key } = await admin.apiKey(user, { quota: WALLET })
    for (const body of [CALL_BODY, CALL_BODY.replace(MODEL, 'a model that nobody has')])
      await fetch(`${node.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body,
      })
    await eventually('each kind of record is there', async () => {
      const types = new Set((await admin.logs()).map(({ type }) => type))
      return TYPE_SHARES.every(([type]) => types.has(type as number))
    })
    await node.stop()
  } finally {
    await node.remove()
  }
}

type Run = (sql: string) => Promise<void>

/** Inserts copies of the row `id = template`, one per row of `from`, with some columns of their own. */
async function copies(
  connection: mysql.Connection,
  run: Run,
  table: string,
  template: number,
  from: string,
  own: Readonly<Record<string, string>>,
): Promise<void> {
  const [columns] = await connection.query<mysql.RowDataPacket[]>(`show columns from ${table}`)
  const names = columns.map(({ Field }) => String(Field))
  await run(
    `insert into ${table} (${names.map((name) => `\`${name}\``).join(', ')})
     select ${names.map((name) => own[name] ?? `t.\`${name}\``).join(', ')} from ${table} t join ${from} where t.id = ${template}`,
  )
}

async function growAccounts(connection: mysql.Connection, run: Run): Promise<void> {
  const { users, keys } = GROWN
  await copies(connection, run, 'users', 2, `seq_1_to_${users - 1}`, {
    id: '2 + seq',
    username: "concat('user', seq + 1)",
    display_name: "concat('user', seq + 1)",
    aff_code: "concat('a', lpad(seq, 5, '0'))",
    access_token: 'null',
    group: groupText('seq'),
    quota: String(WALLET),
  })
  for (let from = 1; from < keys; from += ROWS_PER_STATEMENT)
    await copies(connection, run, 'tokens', 1, `seq_${from}_to_${Math.min(keys - 1, from + ROWS_PER_STATEMENT - 1)}`, {
      id: '1 + seq',
      user_id: `2 + seq % ${users}`,
      key: "left(sha2(concat('key ', seq), 256), 48)",
      name: `concat('key', 1 + seq div ${users})`,
      remain_quota: String(WALLET),
      used_quota: '0',
    })
  await run(`update tokens set name = 'key1', \`key\` = left(sha2('key 0', 256), 48) where id = 1`)
}

/** Ten lists of models, the model of the benchmark in each; three priorities, some weights; a few channels are disabled. */
async function growChannels(connection: mysql.Connection, run: Run): Promise<void> {
  const { channels, models } = GROWN
  await copies(connection, run, 'channels', 1, `seq_1_to_${channels - 1}`, {
    id: '1 + seq',
    name: "concat('upstream ', seq + 1)",
    status: `case when seq < ${FEW_CHANNELS} then 1 when seq % 20 = 0 then 2 when seq % 50 = 1 then 3 else 1 end`,
    priority: '(seq % 3) * 10',
    weight: '1 + seq % 10',
    used_quota: '0',
  })
  await run('create temporary table lists (list int, model varchar(255), position int)')
  await run(
    `insert into lists select l.seq, ${modelText('m.seq')}, m.seq
     from seq_0_to_9 l join seq_0_to_${models - 1} m where m.seq = 0 or (m.seq + l.seq) % 10 < 6`,
  )
  await run(
    `update channels c join (select list, group_concat(model order by position) as models from lists group by list) l on l.list = c.id % 10
     set c.models = l.models, c.\`group\` = if(c.id <= ${FEW_CHANNELS}, 'default,vip', 'default')`,
  )
  await run('delete from abilities')
  for (const group of ['default', 'vip'])
    await run(
      `insert into abilities (\`group\`, model, channel_id, enabled, priority, weight, tag)
       select '${group}', l.model, c.id, c.status = 1, c.priority, c.weight, c.tag from channels c join lists l on l.list = c.id % 10
       where find_in_set('${group}', c.\`group\`)`,
    )
}

/** Evenly over 90 days; a tenth of the calls by one user, of each user by one key, many by one model; channels alike. */
async function growLogs(run: Run, logs: number, endSec: number, say: (text: string) => void): Promise<void> {
  const { users, channels, models, days } = GROWN
  const spanSec = days * 86_400
  await run(
    'create table templates as select l.* from logs l join (select max(id) as id from logs group by type) m on m.id = l.id',
  )
  await run('delete from logs')
  const typeOf = TYPE_SHARES.map(([type, share]) => `when kind < ${share} then ${type}`).join(' ')
  const isCall = 't.token_id > 0'
  const random = '10000 + floor(rand() * 89999)'
  for (let from = 1; from <= logs; from += ROWS_PER_STATEMENT) {
    const to = Math.min(logs, from + ROWS_PER_STATEMENT - 1)
    say(`records from ${from}`)
    await run(
      `insert into logs (user_id, created_at, type, content, username, token_name, model_name, quota, prompt_tokens,
         completion_tokens, use_time, is_stream, channel_id, token_id, \`group\`, ip, request_id, upstream_request_id, other)
       select 2 + x.user, x.at, x.type, t.content, concat('user', x.user + 1),
         if(${isCall}, concat('key', x.key_of + 1), ''), if(${isCall}, ${modelText('x.model')}, ''),
         if(x.type = 2, x.prompt + 4 * x.completion, 0), if(x.type = 2, x.prompt, 0), if(x.type = 2, x.completion, 0),
         if(${isCall}, floor(rand() * 20), 0), ${isCall} and x.kind < 0.5, if(${isCall}, x.channel + 1, 0),
         if(${isCall}, x.key_of * ${users} + x.user + 1, 0), if(${isCall}, ${groupText('x.user')}, t.\`group\`), t.ip,
         if(${isCall}, concat(date_format(from_unixtime(x.at), '%Y%m%d%H%i%s'), ${random}, ${random}, ${random}, ${random}, ${random}), ''),
         if(x.type = 2, concat('chatcmpl-', md5(x.number)), ''), t.other
       from (select y.*, case ${typeOf} end as type from (
         select seq as number, ${endSec - spanSec} + seq * ${spanSec} div ${logs} as at, floor(${users} * pow(rand(), 3)) as user,
           floor(${KEYS_PER_USER} * pow(rand(), 3)) as key_of, floor(${models} * pow(rand(), 2)) as model,
           floor(${channels} * rand()) as channel, rand() as kind, 20 + floor(rand() * 2000) as prompt,
           10 + floor(rand() * 500) as completion
         from seq_${from}_to_${to}) y) x
       join templates t on t.type = x.type order by x.number`,
    )
  }
  await run('drop table templates')
}

/** What nodes keep of the calls of each hour. */
async function growUsage(run: Run, endSec: number): Promise<void> {
  for (let day = GROWN.days; day >= 0; day--) {
    const fromSec = endSec - (endSec % 3_600) - day * 86_400
    await run(
      `insert into quota_data (user_id, username, model_name, created_at, use_group, token_id, channel_id, node_name, token_used, count, quota)
       select user_id, username, model_name, created_at - created_at % 3600 as hour, \`group\`, token_id, channel_id,
         '${GROWN_ENV.NODE_NAME}', sum(prompt_tokens + completion_tokens), count(*), sum(quota)
       from logs where type = 2 and created_at >= ${fromSec} and created_at < ${fromSec + 86_400}
       group by user_id, username, model_name, hour, \`group\`, token_id, channel_id`,
    )
  }
  await run(
    `update users u join (select user_id, sum(quota) as used, sum(count) as calls from quota_data group by user_id) q on q.user_id = u.id
     set u.used_quota = q.used, u.request_count = q.calls`,
  )
}

const groupText = (user: string): string => `if(${user} % ${VIP_EVERY} = ${VIP_EVERY - 1}, 'vip', 'default')`
const modelText = (model: string): string => `if(${model} = 0, '${MODEL}', concat('model-', lpad(${model}, 2, '0')))`

/** Rows come faster without the indexes, which are built behind them in one go. */
async function withoutIndexes(connection: mysql.Connection, table: string, work: () => Promise<void>): Promise<void> {
  const [rows] = await connection.query<mysql.RowDataPacket[]>(
    `select index_name as name, group_concat(concat('\`', column_name, '\`') order by seq_in_index) as columns
     from information_schema.statistics where table_schema = database() and table_name = '${table}' and index_name <> 'PRIMARY'
     group by index_name`,
  )
  const names = rows.map((row) => `drop index \`${row['name']}\``)
  await connection.query(`alter table ${table} ${names.join(', ')}`)
  await work()
  await connection.query(
    `alter table ${table} ${rows.map((row) => `add index \`${row['name']}\` (${row['columns']})`).join(', ')}`,
  )
}

if (import.meta.main) {
  const rig = await openRig()
  try {
    await openGrown(rig, Number(process.argv[2] ?? 500_000), (text) => console.log(new Date().toISOString(), text))
  } finally {
    await rig.close()
    await stopServices()
  }
}
