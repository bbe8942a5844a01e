/**
 * MySQL and MariaDB: statements and transactions over the pool. Owns deadlines, repeats and the judgement of how a
 * transaction ended. Leaves no session state behind, so that a proxy may share connections.
 */
import { MySqlDialect } from 'drizzle-orm/mysql-core'
import { MySqlRemoteDatabase, MySqlRemoteSession } from 'drizzle-orm/mysql-proxy'
import type { Log } from '../lib/log.ts'
import {
  type Dialect,
  type Engine,
  type Executor,
  passErrors,
  proxyAnswer,
  type Result,
  type StatementKind,
} from './engine.ts'
import { DbError } from './error.ts'
import { type InsertRows, insertHead } from './insert.ts'
import { asDbError, isBehind, isLost, isNotReady, isReadOnly, isRepeatable } from './mysql-error.ts'
import { inline, insertText } from './mysql-literal.ts'
import { createPool, type Lease, type PoolOptions } from './mysql-pool.ts'
import type { OpenWire, Wire } from './mysql-wire.ts'

export interface MysqlOptions {
  readonly open: OpenWire
  readonly pool: PoolOptions
  /** A single statement outside a transaction may take this long, ms. */
  readonly statementDeadlineMs: number
  /** Statements that take longer are logged, ms; 0 = none */
  readonly slowMs: number
  readonly log: Log
}

interface Statement {
  /** Without its values, for people. */
  readonly sql: string
  /** As it goes to the server. @throws TypeError if a value cannot be stored */
  text(): string
}
const statementOf = (sql: string, params: readonly unknown[] = []): Statement => ({
  sql,
  text: () => inline(sql, params),
})
const insertOf = (insert: InsertRows): Statement => ({
  sql: `${insertHead(insert, '`')}… ${insert.rows.length} rows`,
  text: () => insertText(insert),
})

/** A connection was dead before anything was done on it: the whole transaction may be begun on another one. */
class Untouched extends Error {}

const BEGIN = statementOf('start transaction')
/** A connection on which the server said something so shortly ago is taken to be alive, ms. */
const HEARD_MS = 1_000
/** The first repeat comes after up to this, each further one after up to twice as much, ms. */
const REPEAT_MS = 10
const REPEAT_MAX_MS = 400
/** A statement outside a transaction is repeated for that long. */
const REPEAT_FOR_MS = 5_000
/** What another member of a cluster has just created is waited for that long. */
const BEHIND_FOR_MS = 2_000

export function openMysql({ open, pool: poolOptions, statementDeadlineMs, slowMs, log }: MysqlOptions): Engine {
  const pool = createPool(open, {
    ...poolOptions,
    onFull: (error) => log.warn('the database takes no more connections; what needs one waits', { error }),
  })

  /** A server that takes no writes any more, or is no full member of its cluster, is left like one that is gone. */
  const leave = (wire: Wire, error: unknown): void => {
    if (isReadOnly(error)) pool.renew()
    else if (isNotReady(error)) wire.destroy(asDbError(error))
  }

  /** Runs statements on a connection, in one round trip, and notes slow ones. */
  const runOn = async (
    wire: Wire,
    statements: readonly Statement[],
    kind: StatementKind,
  ): Promise<readonly Result[]> => {
    const startedAt = performance.now()
    try {
      return await wire.sayAll(statements.map((statement) => statement.text()))
    } catch (error) {
      leave(wire, error)
      throw asDbError(error)
    } finally {
      const ms = performance.now() - startedAt
      if (slowMs > 0 && ms >= slowMs && kind !== 'schema')
        log.warn('slow query', {
          ms: Math.round(ms),
          sql: statements
            .map(({ sql }) => sql)
            .join('; ')
            .slice(0, 500),
        })
    }
  }

  /**
   * Repeats what the server asks to have repeated, with pauses that grow, and what met a server that takes no writes on an
   * old connection: a new one may lead to another server. In each case nothing was done.
   */
  const repeated = async <T>(
    work: (use: (lease: Lease) => void) => Promise<T>,
    forMs: number,
    deadlineAt: number,
  ): Promise<T> => {
    const startedAt = performance.now()
    let isOldLease = false
    for (let repeat = 0; ; repeat++) {
      try {
        return await work((lease) => {
          isOldLease = lease.isReused
        })
      } catch (error) {
        if (isReadOnly(error) && isOldLease && performance.now() < deadlineAt) continue
        if (error instanceof Untouched) {
          if (performance.now() < deadlineAt) continue
          throw asDbError(error.cause)
        }
        const endAt = Math.min(deadlineAt, startedAt + (isBehind(error) ? BEHIND_FOR_MS : forMs))
        const pauseMs = Math.random() * Math.min(REPEAT_MAX_MS, REPEAT_MS * 2 ** repeat)
        const isHopeless = !isRepeatable(error) && !isBehind(error)
        if (isHopeless || performance.now() + pauseMs >= endAt) throw error
        await Bun.sleep(pauseMs)
      }
    }
  }

  const single = (statement: Statement, kind: StatementKind): Promise<Result> => {
    const deadlineAt = performance.now() + statementDeadlineMs
    return repeated(
      async (use) => {
        for (;;) {
          const lease = await pool.acquire(deadlineAt)
          const { wire } = lease
          use(lease)
          const timer =
            kind === 'schema' ? undefined : destroyAt(wire, deadlineAt, 'the database did not answer in time')
          try {
            return (await runOn(wire, [statement], kind))[0]!
          } catch (error) {
            // A connection that lay idle may have died unnoticed; a read may simply be asked again on another one.
            if (kind === 'read' && lease.isReused && isLost(error) && performance.now() < deadlineAt) continue
            throw error
          } finally {
            clearTimeout(timer)
            pool.release(wire)
          }
        }
      },
      REPEAT_FOR_MS,
      kind === 'schema' ? Number.POSITIVE_INFINITY : deadlineAt,
    )
  }

  /**
   * A connection, and the timer that ends it at the deadline. The transaction has begun on it, but for a connection that
   * has just been heard: there the beginning goes with the first statement.
   */
  const begin = async (deadlineAt: number): Promise<Lease & { readonly timer: Timer; readonly hasBegun: boolean }> => {
    for (;;) {
      const lease = await pool.acquire(deadlineAt)
      const { wire } = lease
      const timer = destroyAt(wire, deadlineAt, 'the transaction took too long')
      if (performance.now() - wire.heardAt() < HEARD_MS) return { ...lease, timer, hasBegun: false }
      try {
        await wire.say(BEGIN.sql)
        return { ...lease, timer, hasBegun: true }
      } catch (error) {
        clearTimeout(timer)
        leave(wire, error)
        pool.release(wire)
        // Nothing has happened yet: another connection will do.
        if (lease.isReused && isLost(error) && performance.now() < deadlineAt) continue
        throw asDbError(error)
      }
    }
  }

  const attempt = async <T>(
    work: (executor: Executor) => Promise<T>,
    deadlineAt: number,
    use: (lease: Lease) => void,
  ): Promise<T> => {
    const { timer, hasBegun, ...lease } = await begin(deadlineAt)
    const { wire } = lease
    use(lease)
    let phase: 'open' | 'committing' | 'ended' = 'open'
    /** The first error that ended the transaction on the server: a statement after it would run outside any. */
    let broken: unknown
    let preamble: readonly Statement[] = hasBegun ? [] : [BEGIN]
    let isTouched = hasBegun
    let asked: {
      readonly statement: Statement
      readonly kind: StatementKind
      readonly answer: PromiseWithResolvers<Result>
    }[] = []
    const send = async (): Promise<void> => {
      const sent = asked
      const first = preamble
      asked = []
      preamble = []
      if (phase !== 'open') {
        // The connection may be another's by now.
        for (const { answer } of sent) answer.reject(new DbError('other', 'the transaction has ended'))
        return
      }
      try {
        const kind = sent.every((each) => each.kind === 'schema') ? 'schema' : 'write'
        const results = await runOn(wire, [...first, ...sent.map(({ statement }) => statement)], kind)
        isTouched = true
        for (const [index, { answer }] of sent.entries()) answer.resolve(results[first.length + index]!)
      } catch (error) {
        isTouched ||= !isLost(error)
        // Which of several were done is not known, nor whether it has begun at all: so the transaction cannot go on. But what
        // is refused for its content was understood.
        const isAlone = sent.length === 1 && (first.length === 0 || isRefused(error))
        if (!isAlone || isRepeatable(error) || isReadOnly(error)) broken ??= error
        for (const { answer } of sent) answer.reject(error)
      }
    }
    const ask = async (statement: Statement, kind: StatementKind): Promise<Result> => {
      if (phase !== 'open') throw new DbError('other', 'the transaction has ended')
      if (broken) throw broken
      const answer = Promise.withResolvers<Result>()
      // What is asked for in one turn goes together: a database that is far away costs one round trip for all of it.
      if (asked.push({ statement, kind, answer }) === 1) setImmediate(send)
      return answer.promise
    }
    const executor: Executor = {
      run: (sql, params, kind) => ask(statementOf(sql, params), kind),
      insert: (insert) => ask(insertOf(insert), 'write'),
    }
    try {
      const result = await wire.whileOpen(work(executor))
      if (broken) throw broken
      phase = 'committing'
      await wire.say('commit')
      phase = 'ended'
      return result
    } catch (error) {
      const isUnknown = phase === 'committing' && !isRepeatable(error) && !isReadOnly(error)
      phase = 'ended'
      await wire.say('rollback').catch((failure: unknown) => wire.destroy(asDbError(failure)))
      if (isUnknown) throw new DbError('unknown-outcome', 'nobody knows whether the transaction was committed', error)
      leave(wire, error)
      if (!isTouched && lease.isReused && isLost(error)) throw new Untouched('', { cause: error })
      // What ends any transaction goes before what the work made of it; of a statement that was refused the work knows more.
      if (isLost(broken) || isRepeatable(broken) || isReadOnly(broken)) throw broken
      throw isLost(error) || isRepeatable(error) ? asDbError(error) : error
    } finally {
      clearTimeout(timer)
      pool.release(wire)
    }
  }

  return {
    dialect: mysqlDialect,
    executor: {
      run: (sql, params, kind) => single(statementOf(sql, params), kind),
      insert: (insert) => single(insertOf(insert), 'write'),
    },
    transaction(work, deadlineMs) {
      const deadlineAt = performance.now() + deadlineMs
      return repeated((use) => attempt(work, deadlineAt, use), deadlineMs, deadlineAt)
    },
    poolUse: pool.use,
    close: pool.close,
  }
}

const isRefused = (error: unknown): boolean => ['duplicate', 'content'].includes(asDbError(error).kind)

/** @param deadlineAt on the monotonic clock, ms */
const destroyAt = (wire: Wire, deadlineAt: number, reason: string): Timer =>
  setTimeout(() => wire.destroy(new DbError('unavailable', reason)), Math.max(0, deadlineAt - performance.now()))

const mysqlDialect: Dialect = {
  engine: 'mysql',
  builders(executor) {
    const session = new MySqlRemoteSession<Record<string, never>, Record<string, never>>(
      async (sql, params, method) => {
        const kind = method === 'all' ? 'read' : 'write'
        return proxyAnswer(await executor.run(sql, params, kind), kind)
      },
      new MySqlDialect(),
      undefined,
      {},
    )
    return new MySqlRemoteDatabase(new MySqlDialect(), passErrors(session), undefined, 'default')
  },
  /** In UTC on purpose: the session's zone has hours that happen twice. */
  async now(executor) {
    const { rows } = await executor.run(
      "select timestampdiff(microsecond, '1970-01-01 00:00:00', utc_timestamp(3)) div 1000",
      [],
      'read',
    )
    return Number(rows[0]?.[0])
  },
  lock: (query) => {
    const { for: lockFor } = query as { for?: (strength: 'update') => unknown }
    if (lockFor) lockFor.call(query, 'update')
    return query
  },
  rows: (_table, rows) => rows,
  upsert: (builders, table, row, _key, set) => builders.insert(table).values(row).onDuplicateKeyUpdate({ set }),
  addUp: (columns) =>
    ` on duplicate key update ${columns.map((name) => `\`${name}\` = coalesce(\`${name}\`, 0) + values(\`${name}\`)`).join(', ')}`,
  /** Not `insert ignore`: that also cuts texts that are too long. Refused rows are rare, so all go in one statement first. */
  async insertIgnore(_builders, _table, rows, insert) {
    const insertSome = async (some: readonly Record<string, unknown>[]): Promise<number> => {
      try {
        return await insert(some)
      } catch (error) {
        if (!(error instanceof DbError) || error.kind !== 'duplicate') throw error
        if (some.length === 1) return 0
        const half = some.length >> 1
        return (await insertSome(some.slice(0, half))) + (await insertSome(some.slice(half)))
      }
    }
    return insertSome(rows)
  },
}
