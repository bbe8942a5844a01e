/**
 * A lease row: one holder at a time, judged by the database's time, with a number that rises at each change of hands. It
 * works behind any proxy and with several primaries, which a lock of one server does not.
 */
import { and, eq, lte, or, sql } from 'drizzle-orm'
import type { Db } from './db.ts'

export interface LeaseRow {
  /** @returns the fencing number if the lease is ours now, else nothing */
  take(): Promise<number | undefined>
  /** @returns false if it is not ours any more */
  renew(): Promise<boolean>
  /** Free for the next one at once. */
  release(): Promise<void>
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
  const isOurs = and(eq(leases.name, name), eq(leases.holder, holder))
  return {
    async take() {
      await db.insertIgnore(leases, { name })
      return db.transaction(async (tx) => {
        const nowMs = await tx.now()
        const taken = await tx.changes(
          tx
            .update(leases)
            .set({ holder, fencing: sql`${leases.fencing} + 1`, expiresAtMs: nowMs + ttlMs })
            .where(
              and(
                eq(leases.name, name),
                or(eq(leases.holder, ''), eq(leases.holder, holder), lte(leases.expiresAtMs, nowMs)),
              ),
            ),
        )
        if (taken === 0) return undefined
        const [row] = await tx.select({ fencing: leases.fencing }).from(leases).where(eq(leases.name, name))
        return row?.fencing
      })
    },
    async renew() {
      const nowMs = await db.now()
      return (
        (await db.changes(
          db
            .update(leases)
            .set({ expiresAtMs: nowMs + ttlMs })
            .where(isOurs),
        )) > 0
      )
    },
    async release() {
      await db.changes(db.update(leases).set({ holder: '', expiresAtMs: 0 }).where(isOurs))
    },
  }
}
