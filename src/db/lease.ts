/**
 * A lease row: one holder at a time, judged by the database's time, with a number that rises at each change of hands. It
 * works behind any proxy and with several primaries, which a lock of one server does not.
 */
import { and, eq, lte, or, type SQL, sql } from 'drizzle-orm'
import type { Db } from './db.ts'
import { DbError } from './error.ts'
import type { Tables } from './tables/index.ts'

type LeaseFields = Partial<Tables['leases']['$inferInsert']>
/** More columns of the row that are written in the same statement; values may be SQL. */
export type AlsoSet = { readonly [K in keyof LeaseFields]: LeaseFields[K] | SQL }

export interface LeaseRow {
  /**
   * @param also what else is asked of the row, and written with it
   * @returns the fencing number if the lease is ours now, else nothing
   */
  take(
    also?: (nowMs: number) => { readonly where?: SQL | undefined; readonly set: AlsoSet },
  ): Promise<number | undefined>
  /** @returns false if it is not ours any more */
  renew(): Promise<boolean>
  /**
   * In a transaction: nobody takes the lease over before it ends, so what it writes is written by the holder. Keep it
   * short: a process that is frozen in it keeps the lease until the server ends its connection.
   * @throws DbError if somebody has taken it over
   */
  fence(tx: Db): Promise<void>
  /** Free for the next one at once. @returns false if it was not ours any more; then nothing is written */
  release(also?: (nowMs: number) => AlsoSet): Promise<boolean>
}

/**
 * @param lease.holder names this holder alone: two that give the same name hold it together
 * @param lease.ttlMs how long it stays ours without a renewal
 */
export function createLeaseRow(
  db: Db,
  lease: { readonly name: string; readonly holder: string; readonly ttlMs: number },
): LeaseRow {
  const { leases } = db.tables
  const { name, holder, ttlMs } = lease
  let held: number | undefined
  /** A holder of the same name that took it after us is another holder. */
  const isOurs = () => and(eq(leases.name, name), eq(leases.holder, holder), eq(leases.fencing, held ?? -1))

  /** Without a transaction: a process that is frozen in one would keep everybody from the row. */
  const takeOnce = async (also: Parameters<LeaseRow['take']>[0]): Promise<number | 'absent' | undefined> => {
    const [row] = await db.select({ fencing: leases.fencing }).from(leases).where(eq(leases.name, name))
    if (!row) return 'absent'
    const nowMs = await db.now()
    const { where, set } = also?.(nowMs) ?? { where: undefined, set: {} }
    const isFree = or(eq(leases.holder, ''), eq(leases.holder, holder), lte(leases.expiresAtMs, nowMs))
    const fencing = row.fencing + 1
    const taken = await db.changes(
      db
        .update(leases)
        .set({ ...set, holder, fencing, expiresAtMs: nowMs + ttlMs })
        .where(and(eq(leases.name, name), eq(leases.fencing, row.fencing), isFree, where)),
    )
    return taken > 0 ? fencing : undefined
  }

  return {
    async take(also) {
      let taken = await takeOnce(also)
      if (taken === 'absent') {
        await db.insertIgnore(leases, { name })
        taken = await takeOnce(also)
      }
      held = taken === 'absent' ? undefined : taken
      return held
    },
    async renew() {
      const nowMs = await db.now()
      return (
        (await db.changes(
          db
            .update(leases)
            .set({ expiresAtMs: nowMs + ttlMs })
            .where(isOurs()),
        )) > 0
      )
    },
    async fence(tx) {
      // Written, not only locked: members of a database cluster compare what two transactions wrote, not what they locked.
      const kept = await tx.changes(
        tx
          .update(leases)
          .set({ expiresAtMs: sql`${leases.expiresAtMs} + 1` })
          .where(isOurs()),
      )
      if (kept === 0) throw new DbError('other', `the lease ${name} was taken over: nothing is written under it`)
    },
    async release(also) {
      const set = also ? also(await db.now()) : {}
      return (
        (await db.changes(
          db
            .update(leases)
            .set({ ...set, holder: '', expiresAtMs: 0 })
            .where(isOurs()),
        )) > 0
      )
    },
  }
}
