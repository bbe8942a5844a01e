/**
 * Checks that money is where it should be: the invariants of the ledger, over a database at any moment or at rest.
 * Every test that touches money ends with it; the difference it reports must be nothing.
 */
import { Database } from 'bun:sqlite'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { and, inArray, isNull, ne, sql } from 'drizzle-orm'
import type { Db } from '../../src/db/index.ts'

export interface AuditOptions {
  /**
   * What was given to each account ever: balance and used quota at its creation, plus credits, less debits. After a *set to
   * X*: X plus the used quota at that moment. By account, e.g. `u:7`, `t:3`; only these are checked for invariant 1.
   */
  readonly granted?: ReadonlyMap<string, number>
  /** false: calls are under way, or charges unflushed; only what holds at any moment is checked. Default true. */
  readonly isAtRest?: boolean
  /**
   * How far below zero each account may be, quota units: what calls overshot their holds, what an edit took of parked
   * money. Absent: not at all.
   */
  readonly overdraft?: ReadonlyMap<string, number>
  /** Request ids of the calls that clients saw complete, and of those that the upstream has in its own ledger. */
  readonly complete?: Iterable<string>
  readonly upstream?: Iterable<string>
  /** false: LogConsumeEnabled, DataExportEnabled were off. Default true. */
  readonly isLogged?: boolean
  readonly isExported?: boolean
  /** Charges that the test made the database refuse. Default 0. */
  readonly quarantined?: number
  /** Data directories whose outboxes are closed: charges that were set aside in them are counted. */
  readonly dataDirs?: readonly string[]
  /** Charges that the test made an outbox set aside. Default 0. */
  readonly setAside?: number
}

export interface AuditReport {
  /** Readable lines; none: all is well. */
  readonly differences: readonly string[]
  /** Request ids that the upstream has and the logs have not: calls in flight at a kill, only to be counted and printed. */
  readonly unlogged: readonly string[]
  readonly logRows: number
}

interface LoggedCharge {
  readonly userId: number
  readonly apiKeyId: number
  readonly channelId: number
  readonly quota: number
  /** Counters and hourly usage count it: not a test of a channel, not a count of tokens. */
  readonly isCounted: boolean
}

/** @param logDb where the log rows are, if not in `db` */
export async function audit(db: Db, logDb: Db = db, options: AuditOptions = {}): Promise<AuditReport> {
  const {
    granted,
    isAtRest = true,
    overdraft = new Map<string, number>(),
    isLogged = true,
    isExported = true,
    quarantined = 0,
    dataDirs = [],
    setAside = 0,
  } = options
  const differences: string[] = []
  const expect = (what: string, actual: number, expected: number): void => {
    if (actual !== expected)
      differences.push(`${what}: ${actual}, expected ${expected} (difference ${actual - expected})`)
  }
  const { users, tokens, channels, quotaAllotments, quotaData, ledgerQuarantine } = db.tables
  const { logs } = logDb.tables

  // Invariant 1, at any moment.
  const parts = await db.select().from(quotaAllotments)
  const parked = new Map<string, number>()
  for (const part of parts) {
    if (part.amount < 0) differences.push(`allotment of ${part.account} at ${part.instanceId} is ${part.amount}`)
    parked.set(part.account, (parked.get(part.account) ?? 0) + part.amount)
  }
  const allUsers = await db
    .select({ id: users.id, balance: users.quota, used: users.usedQuota, requests: users.requestCount })
    .from(users)
    .where(isNull(users.deletedAt))
  const allKeys = await db
    .select({
      id: tokens.id,
      balance: tokens.remainQuota,
      used: tokens.usedQuota,
      isUnlimited: tokens.unlimitedQuota,
      status: tokens.status,
    })
    .from(tokens)
    .where(isNull(tokens.deletedAt))
  const accounts = new Map<string, { readonly balance: number; readonly used: number }>([
    ...allUsers.map((row) => [`u:${row.id}`, { balance: row.balance ?? 0, used: row.used ?? 0 }] as const),
    ...allKeys.map(
      (row) => [`t:${row.id}`, { balance: row.balance ?? 0, used: row.isUnlimited ? 0 : (row.used ?? 0) }] as const,
    ),
  ])
  for (const [account, { balance }] of accounts)
    if (balance < -(overdraft.get(account) ?? 0)) differences.push(`the balance of ${account} is ${balance}`)
  for (const [account, amount] of granted ?? []) {
    const now = accounts.get(account)
    if (now)
      expect(
        `balance + allotments + charges of ${account}`,
        now.balance + (parked.get(account) ?? 0) + now.used,
        amount,
      )
  }
  const doubled = await logDb
    .select({ requestId: logs.requestId, n: sql<number>`count(*)` })
    .from(logs)
    .where(and(inArray(logs.type, [2, 5]), ne(logs.requestId, '')))
    .groupBy(logs.requestId)
    .having(sql`count(*) > 1`)
  for (const row of doubled) differences.push(`${row.n} log rows have the request id ${row.requestId}`)

  const logged = await logDb
    .select()
    .from(logs)
    .where(inArray(logs.type, [2, 6]))
  const charges: LoggedCharge[] = logged.map((row) => ({
    userId: row.userId ?? 0,
    apiKeyId: row.tokenId ?? 0,
    channelId: row.channelId ?? 0,
    quota: (row.quota ?? 0) * (row.type === 6 ? -1 : 1),
    isCounted: row.type === 2 && isCountedRow(row.other),
  }))
  const ids = new Set(logged.filter((row) => row.type === 2).map((row) => row.requestId ?? ''))
  const refusedUsage: LoggedCharge[] = []
  const quarantine = await db.select().from(ledgerQuarantine)
  if (logDb !== db) quarantine.push(...(await logDb.select().from(logDb.tables.ledgerQuarantine)))
  for (const row of quarantine) {
    const charge = JSON.parse(row.charge) as LoggedCharge & { readonly requestId: string }
    if (row.part === 'main') refusedUsage.push(charge)
    else {
      charges.push(charge)
      ids.add(charge.requestId)
    }
  }
  expect('charges in quarantine', new Set(quarantine.map((row) => row.requestId)).size, quarantined)
  if (dataDirs.length > 0) expect('charges set aside', countSetAside(dataDirs), setAside)

  if (isAtRest) {
    for (const part of parts)
      if (part.amount !== 0) differences.push(`at rest ${part.instanceId} still has ${part.amount} of ${part.account}`)
    const by = (of: (charge: LoggedCharge) => number): Map<number, number> => sumBy(charges, of)
    for (const { id, isUnlimited, status } of allKeys) {
      const { balance = 0, used = 0 } = accounts.get(`t:${id}`) ?? {}
      const left = balance + (parked.get(`t:${id}`) ?? 0)
      if (!isUnlimited && status === 4 && left > 0) differences.push(`key ${id} is exhausted and has ${left}`)
      // An edit alone exhausts no key: only where none may have gone below is this certain.
      if (!isUnlimited && status === 1 && left <= 0 && used > 0 && !overdraft.has(`t:${id}`))
        differences.push(`key ${id} is enabled and has ${left}`)
    }
    if (isLogged) {
      const byUser = by((charge) => charge.userId)
      const byKey = by((charge) => charge.apiKeyId)
      const byChannel = by((charge) => charge.channelId)
      const counted = charges.filter((charge) => charge.isCounted).map((charge) => ({ ...charge, quota: 1 }))
      const requests = sumBy(counted, (charge) => charge.userId)
      for (const row of allUsers) {
        expect(`used quota of user ${row.id} against its log rows`, row.used ?? 0, byUser.get(row.id) ?? 0)
        expect(`requests of user ${row.id} against its log rows`, row.requests ?? 0, requests.get(row.id) ?? 0)
      }
      for (const row of allKeys)
        expect(`used quota of key ${row.id} against its log rows`, row.used ?? 0, byKey.get(row.id) ?? 0)
      for (const row of await db.select({ id: channels.id, used: channels.usedQuota }).from(channels))
        expect(`used quota of channel ${row.id} against its log rows`, row.used ?? 0, byChannel.get(row.id) ?? 0)
      if (isExported) {
        const usage = (await db.select().from(quotaData)).map((row) => ({
          userId: row.userId ?? 0,
          apiKeyId: row.tokenId ?? 0,
          channelId: row.channelId ?? 0,
          quota: row.quota ?? 0,
          count: row.count ?? 0,
        }))
        const compare = (what: string, actual: Map<number, number>, expected: Map<number, number>): void => {
          for (const id of new Set([...actual.keys(), ...expected.keys()]))
            expect(`hourly ${what} ${id} against its log rows`, actual.get(id) ?? 0, expected.get(id) ?? 0)
        }
        const sums = [...usage, ...refusedUsage]
        compare(
          'usage of user',
          sumBy(sums, (row) => row.userId),
          byUser,
        )
        compare(
          'usage of key',
          sumBy(sums, (row) => row.apiKeyId),
          byKey,
        )
        compare(
          'usage of channel',
          sumBy(sums, (row) => row.channelId),
          byChannel,
        )
        const counts = [
          ...usage.map((row) => ({ ...row, quota: row.count })),
          ...refusedUsage.filter((row) => row.isCounted).map((row) => ({ ...row, quota: 1 })),
        ]
        compare(
          'requests of user',
          sumBy(counts, (row) => row.userId),
          requests,
        )
      }
    }
  }

  // Invariant 3.
  const upstream = options.upstream && new Set(options.upstream)
  if (isAtRest && isLogged)
    for (const id of options.complete ?? [])
      if (!ids.has(id)) differences.push(`the call ${id} was complete and is not logged`)
  if (upstream)
    for (const id of ids)
      if (!upstream.has(id)) differences.push(`the call ${id} is logged and never reached the upstream`)
  return {
    differences,
    unlogged: upstream ? [...upstream].filter((id) => !ids.has(id)) : [],
    logRows: logged.length,
  }
}

/** The audit of a test's end. @throws Error that lists the differences */
export async function expectAudit(db: Db, logDb: Db = db, options: AuditOptions = {}): Promise<AuditReport> {
  const report = await audit(db, logDb, options)
  if (report.differences.length > 0)
    throw new Error(
      `the auditor found ${report.differences.length} differences:\n${report.differences.slice(0, 50).join('\n')}`,
    )
  return report
}

/** @param other details of a log row of type 2 */
function isCountedRow(other: string | null): boolean {
  const details = JSON.parse(other || '{}') as { readonly is_channel_test?: boolean; readonly request_path?: string }
  return !details.is_channel_test && !/count_?tokens/i.test(details.request_path ?? '')
}

function countSetAside(dataDirs: readonly string[]): number {
  let count = 0
  for (const directory of dataDirs.map((dir) => join(dir, 'ledger')).filter((dir) => existsSync(dir)))
    for (const name of readdirSync(directory).filter((file) => /^\d+\.db$/.test(file))) {
      const outbox = new Database(join(directory, name), { readwrite: true, create: false })
      count += outbox.query<{ n: number }, []>('select count(*) as n from set_aside').get()?.n ?? 0
      outbox.close()
    }
  return count
}

function sumBy<T extends { readonly quota: number }>(rows: readonly T[], of: (row: T) => number): Map<number, number> {
  const sums = new Map<number, number>()
  for (const row of rows) sums.set(of(row), (sums.get(of(row)) ?? 0) + row.quota)
  return sums
}
