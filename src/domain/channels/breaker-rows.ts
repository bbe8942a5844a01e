/**
 * What all nodes know of channels that cool down: rows of the database, written when a state changes and never by a call.
 * A change is made by whoever knows the state that it leaves, so that it happens once over the cluster.
 */
import { and, eq, inArray, lt, lte } from 'drizzle-orm'
import { bumpTopic, type Db } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'

/** Topic of the rows. */
export const BREAKER_TOPIC = 'channel-health'

export interface Known {
  readonly isOpen: boolean
  readonly version: number
  readonly level: number
  /** On this process's monotonic clock. */
  readonly untilMs: number
}

export interface Opening {
  readonly subject: string
  readonly channelId: number
  /** Of the state that it leaves; 0 where there is no row. */
  readonly version: number
  readonly isReopening: boolean
  /** How long, by level; a fixed time leaves the level as it is. */
  readonly coolDownMs: (level: number) => number
  /** Closed for so long after an opening of this level, it begins anew at the lowest. */
  readonly calmMs: (level: number) => number
  readonly keepsLevel: boolean
}

/** Longer than any level is remembered. */
const KEEP_MS = 3_600_000
/** What nobody has tried for so long is as good as anything: it is open no more. */
const ABANDONED_MS = 600_000

const isOpenRow = ({ state, untilMs }: { readonly state: string; readonly untilMs: number }, nowMs: number): boolean =>
  state === 'open' && untilMs > nowMs - ABANDONED_MS

export type BreakerRows = ReturnType<typeof createBreakerRows>

/** @param deps.holder names this process */
export function createBreakerRows(deps: { readonly db: Db; readonly clock: Clock; readonly holder: string }) {
  const { db, clock, holder } = deps
  const { channelBreakers: breakers } = db.tables
  const own = (subject: string, version: number) =>
    and(eq(breakers.subject, subject), eq(breakers.version, version), eq(breakers.probeBy, holder))

  return {
    async read(): Promise<ReadonlyMap<string, Known>> {
      const dbNowMs = await db.now()
      const offsetMs = clock.monotonic() - dbNowMs
      const rows = await db.select().from(breakers)
      const past = rows.filter((row) => row.changedAtMs < dbNowMs - KEEP_MS).map(({ subject }) => subject)
      // Best effort: every process tries, and the next load does again. Not waited for: a load holds a connection, which may
      // be the only one there is.
      if (past.length > 0)
        void db
          .delete(breakers)
          .where(and(inArray(breakers.subject, past), lt(breakers.changedAtMs, dbNowMs - KEEP_MS)))
          .catch(() => {})
      return new Map(
        rows
          .filter((row) => !past.includes(row.subject))
          .map((row) => [
            row.subject,
            {
              isOpen: isOpenRow(row, dbNowMs),
              version: row.version,
              level: row.level,
              untilMs: row.untilMs + offsetMs,
            },
          ]),
      )
    },
    /** @returns its level, or undefined when another process was faster */
    open: (opening: Opening): Promise<number | undefined> =>
      db.transaction(async (tx) => {
        const { subject, channelId, version } = opening
        const find = async () =>
          (await tx.lock(tx.select().from(breakers).where(eq(breakers.subject, subject)).$dynamic()))[0]
        if (!(await find())) {
          await tx.insertIgnore(breakers, { subject, channelId, state: 'closed', changedAtMs: 0 })
        }
        const row = await find()
        const nowMs = await tx.now()
        if (!row || row.version !== version || isOpenRow(row, nowMs) !== opening.isReopening) return undefined
        const isCalm = !opening.isReopening && nowMs - row.changedAtMs > opening.calmMs(row.level)
        const level = isCalm ? 0 : row.level + (opening.keepsLevel ? 0 : 1)
        const state = {
          state: 'open',
          version: Math.max(row.version + 1, nowMs),
          level,
          untilMs: nowMs + Math.round(opening.coolDownMs(level)),
          changedAtMs: nowMs,
          probeBy: '',
          probeUntilMs: 0,
        }
        await tx.update(breakers).set(state).where(eq(breakers.subject, subject))
        await bumpTopic(tx, BREAKER_TOPIC)
        return level
      }),
    /** @returns false when another process was faster */
    close: (subject: string, version: number): Promise<boolean> =>
      db.transaction(async (tx) => {
        const nowMs = await tx.now()
        const closed = await tx.changes(
          tx
            .update(breakers)
            .set({
              state: 'closed',
              version: Math.max(version + 1, nowMs),
              changedAtMs: nowMs,
              probeBy: '',
              probeUntilMs: 0,
            })
            .where(and(eq(breakers.subject, subject), eq(breakers.version, version), eq(breakers.state, 'open'))),
        )
        if (closed > 0) await bumpTopic(tx, BREAKER_TOPIC)
        return closed > 0
      }),
    /** @returns whether this process, and no other, may try a call for `ttlMs` from before this was asked */
    takeProbe: (subject: string, version: number, ttlMs: number): Promise<boolean> =>
      db.transaction(async (tx) => {
        const nowMs = await tx.now()
        const taken = await tx.changes(
          tx
            .update(breakers)
            .set({ probeBy: holder, probeUntilMs: nowMs + ttlMs })
            .where(
              and(
                eq(breakers.subject, subject),
                eq(breakers.version, version),
                eq(breakers.state, 'open'),
                lte(breakers.untilMs, nowMs),
                lte(breakers.probeUntilMs, nowMs),
              ),
            ),
        )
        return taken > 0
      }),
    /** A call that is tried takes its time. */
    keepProbe: (subject: string, version: number, ttlMs: number): Promise<boolean> =>
      db.transaction(async (tx) => {
        const probeUntilMs = (await tx.now()) + ttlMs
        return (await tx.changes(tx.update(breakers).set({ probeUntilMs }).where(own(subject, version)))) > 0
      }),
    dropProbe: async (subject: string, version: number): Promise<void> => {
      await db.update(breakers).set({ probeBy: '', probeUntilMs: 0 }).where(own(subject, version))
    },
  }
}

/**
 * Within a verb: what a person enables or changes begins anew, also where nothing is open yet: the new versions have all
 * nodes forget what they counted.
 */
export async function renewBreakers(tx: Db, channelIds: readonly number[]): Promise<void> {
  const { channelBreakers: breakers } = tx.tables
  const nowMs = await tx.now()
  const anew = {
    state: 'closed',
    version: nowMs,
    level: BEFORE_FIRST,
    changedAtMs: nowMs,
    probeBy: '',
    probeUntilMs: 0,
  }
  for (let start = 0; start < channelIds.length; start += CHUNK) {
    const ids = channelIds.slice(start, start + CHUNK)
    await tx.update(breakers).set(anew).where(inArray(breakers.channelId, ids))
    await tx.insertIgnore(
      breakers,
      ids.map((id) => ({ subject: `${id}`, channelId: id, ...anew })),
    )
  }
  await bumpTopic(tx, BREAKER_TOPIC)
}

/** Within a verb that removes channels. */
export async function dropBreakers(tx: Db, channelIds: readonly number[]): Promise<void> {
  const { channelBreakers: breakers } = tx.tables
  for (let start = 0; start < channelIds.length; start += CHUNK)
    await tx.delete(breakers).where(inArray(breakers.channelId, channelIds.slice(start, start + CHUNK)))
  await bumpTopic(tx, BREAKER_TOPIC)
}

const CHUNK = 500
/** The level of one that has not opened since. */
const BEFORE_FIRST = -1
