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
import { asDbError, isLost, isReadOnly, isRepeatable } from './mysql-error.ts'
import { inline } from './mysql-literal.ts'
import { createPool, type PoolOptions } from './mysql-pool.ts'
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

/** The first repeat comes after up to this, each further one after up to twice as much, ms. */
const REPEAT_MS = 10
const REPEAT_MAX_MS = 400

export function openMysql({ open, pool: poolOptions, statementDeadlineMs, slowMs, log }: MysqlOptions): Engine {
  const pool = createPool(open, poolOptions)

  /** Runs one statement on a connection, notes slow ones, and leaves an address that takes no writes. */
  const runOn = async (wire: Wire, sql: string, params: readonly unknown[], kind: StatementKind): Promise<Result> => {
    const startedAt = performance.now()
    try {
      return await wire.say(inline(sql, params))
    } catch (error) {
      if (isReadOnly(error)) pool.renew()
      throw asDbError(error)
    } finally {
      const ms = performance.now() - startedAt
      if (slowMs > 0 && ms >= slowMs && kind !== 'schema')
        log.warn('slow query', { ms: Math.round(ms), sql: sql.slice(0, 500) })
    }
  }

  const single = async (sql: string, params: readonly unknown[], kind: StatementKind): Promise<Result> => {
    const deadlineAt = performance.now() + statementDeadlineMs
    for (;;) {
      const { wire, isReused } = await pool.acquire(deadlineAt)
      const timer = kind === 'schema' ? undefined : destroyAt(wire, deadlineAt, 'the database did not answer in time')
      try {
        return await runOn(wire, sql, params, kind)
      } catch (error) {
        // A connection that lay idle may have died unnoticed; a read may simply be asked again on another one.
        if (kind === 'read' && isReused && isLost(error) && performance.now() < deadlineAt) continue
        throw error
      } finally {
        clearTimeout(timer)
        pool.release(wire)
      }
    }
  }

  /** A connection on which a transaction has begun, and the timer that ends both at the deadline. */
  const begin = async (deadlineAt: number): Promise<{ wire: Wire; timer: Timer }> => {
    for (;;) {
      const { wire, isReused } = await pool.acquire(deadlineAt)
      const timer = destroyAt(wire, deadlineAt, 'the transaction took too long')
      try {
        await wire.say('start transaction')
        return { wire, timer }
      } catch (error) {
        clearTimeout(timer)
        pool.release(wire)
        // Nothing has happened yet: another connection will do.
        if (isReused && isLost(error) && performance.now() < deadlineAt) continue
        throw asDbError(error)
      }
    }
  }

  const attempt = async <T>(work: (executor: Executor) => Promise<T>, deadlineAt: number): Promise<T> => {
    const { wire, timer } = await begin(deadlineAt)
    let phase: 'open' | 'committing' | 'ended' = 'open'
    /** The first error that ended the transaction on the server: a statement after it would run outside any. */
    let broken: unknown
    const executor: Executor = {
      async run(sql, params, kind) {
        if (phase !== 'open') throw new DbError('other', 'the transaction has ended')
        if (broken) throw broken
        try {
          return await runOn(wire, sql, params, kind)
        } catch (error) {
          if (isRepeatable(error)) broken ??= error
          throw error
        }
      },
    }
    try {
      const result = await Promise.race([work(executor), wire.gone])
      if (broken) throw broken
      phase = 'committing'
      await wire.say('commit')
      phase = 'ended'
      return result
    } catch (error) {
      const isUnknown = phase === 'committing' && !isRepeatable(error)
      phase = 'ended'
      await wire.say('rollback').catch((failure: unknown) => wire.destroy(asDbError(failure)))
      if (isUnknown) throw new DbError('unknown-outcome', 'nobody knows whether the transaction was committed', error)
      if (isReadOnly(error)) pool.renew()
      throw broken ?? (isLost(error) || isRepeatable(error) ? asDbError(error) : error)
    } finally {
      clearTimeout(timer)
      pool.release(wire)
    }
  }

  return {
    dialect: mysqlDialect,
    executor: { run: single },
    async transaction(work, deadlineMs) {
      const deadlineAt = performance.now() + deadlineMs
      for (let repeat = 0; ; repeat++) {
        try {
          return await attempt(work, deadlineAt)
        } catch (error) {
          const pauseMs = Math.random() * Math.min(REPEAT_MAX_MS, REPEAT_MS * 2 ** repeat)
          if (!isRepeatable(error) || performance.now() + pauseMs >= deadlineAt) throw error
          await Bun.sleep(pauseMs)
        }
      }
    },
    close: pool.close,
  }
}

/** @param deadlineAt on the monotonic clock, ms */
const destroyAt = (wire: Wire, deadlineAt: number, reason: string): Timer =>
  setTimeout(() => wire.destroy(new DbError('unavailable', reason)), Math.max(0, deadlineAt - performance.now()))

const mysqlDialect: Dialect = {
  engine: 'mysql',
  quote: '`',
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
