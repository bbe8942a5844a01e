/**
 * Work that a person asked for, in rows of the database: at most one live task of a type, worked on by one process under a
 * lock row that is judged by the database's time. Owns the states `pending` → `running` → `succeeded` or `failed`. A task
 * whose worker died has failed; whoever wants it asks again. Every write of a worker is refused once its lock is gone.
 */
import { and, asc, desc, eq, exists, gt, inArray, isNull, lt, lte, not, or } from 'drizzle-orm'
import { type Db, DbError } from '../../db/index.ts'
import type { State } from '../../state/index.ts'

/** As people see it; times are Unix seconds. */
export interface SystemTask {
  readonly id: number
  readonly taskId: string
  readonly type: string
  readonly status: string
  /** The type while it is pending or running. */
  readonly activeKey: string | undefined
  /** JSON values; null where there is none. */
  readonly payload: unknown
  readonly state: unknown
  readonly result: unknown
  readonly error: string
  readonly lockedBy: string
  readonly createdAtSec: number
  readonly updatedAtSec: number
}

/** A task that this process works on. */
export type Claim = Pick<SystemTask, 'taskId' | 'type' | 'payload' | 'state'>

export type TaskEnd =
  | { readonly status: 'succeeded'; readonly result: unknown }
  | { readonly status: 'failed'; readonly error: string }
  /** Given back, to go on elsewhere from its state. */
  | { readonly status: 'pending' }

export type SystemTasks = ReturnType<typeof createSystemTasks>

const TOPIC = 'system-task'
const EXPIRED = 'task lease expired'
const ERROR_CHARS = 2_000
/** Ended tasks are kept for this long, and no more than so many. */
const KEEP_SEC = 30 * 86_400
const KEEP_ROWS = 1_000
const PRUNE_ROWS = 500

/**
 * @param deps.worker names this process, and no other; at most 128 characters
 * @param deps.ttlMs a worker that dies leaves its task alone for this long
 */
export function createSystemTasks(deps: {
  readonly db: Db
  readonly bus: Pick<State, 'publish' | 'subscribe'>
  readonly worker: string
  readonly ttlMs: number
}) {
  const { db, bus, worker, ttlMs } = deps
  const { systemTasks: tasks, systemTaskLocks: locks } = db.tables

  const find = async (taskId: string): Promise<SystemTask | undefined> => {
    const rows = await db.select().from(tasks).where(eq(tasks.taskId, taskId))
    return rows.map(viewOf).find((task) => task.taskId === taskId)
  }
  /** Whole seconds are the table's: a lock may last up to one longer. */
  const untilSec = (nowMs: number): number => Math.ceil((nowMs + ttlMs) / 1000)
  const nowInSec = async (): Promise<number> => Math.floor((await db.now()) / 1000)

  // Each change of hands is one statement with its condition, never a transaction of several: a worker that is frozen in
  // one would keep the rows locked against everybody who might take over.

  /**
   * Writes as the worker of a task. The task's own row is the fence: it is `running` under our name until we or others end it.
   * @returns false, and nothing is written, once the task is not ours any more
   */
  const write = async (claim: Claim, set: Partial<typeof tasks.$inferInsert>): Promise<boolean> => {
    const updatedAt = await nowInSec()
    const isOurs = and(eq(tasks.taskId, claim.taskId), eq(tasks.status, 'running'), eq(tasks.lockedBy, worker))
    return (
      (await db.changes(
        db
          .update(tasks)
          .set({ ...set, updatedAt })
          .where(isOurs),
      )) > 0
    )
  }
  const isOurLock = (claim: Pick<Claim, 'type' | 'taskId'>) =>
    and(eq(locks.type, claim.type), eq(locks.taskId, claim.taskId), eq(locks.lockedBy, worker))

  const tryClaim = async (claim: Pick<Claim, 'type' | 'taskId'>): Promise<boolean> => {
    const { type, taskId } = claim
    const nowMs = await db.now()
    const nowSec = Math.floor(nowMs / 1000)
    const held = { taskId, lockedBy: worker, lockedUntil: untilSec(nowMs), updatedAt: nowSec }
    const isFree = and(eq(locks.type, type), or(isNull(locks.lockedUntil), lte(locks.lockedUntil, nowSec)))
    if ((await db.changes(db.update(locks).set(held).where(isFree))) === 0) return false
    const isPending = and(eq(tasks.taskId, taskId), eq(tasks.status, 'pending'))
    const begun = { status: 'running', lockedBy: worker, updatedAt: nowSec }
    if ((await db.changes(db.update(tasks).set(begun).where(isPending))) > 0) return true
    await db.update(locks).set({ lockedUntil: 0 }).where(isOurLock(claim))
    return false
  }

  const failIfExpired = async (taskId: string, type: string): Promise<boolean> => {
    const nowSec = await nowInSec()
    const isHeld = exists(
      db
        .select({ type: locks.type })
        .from(locks)
        .where(and(eq(locks.type, type), eq(locks.taskId, taskId), gt(locks.lockedUntil, nowSec))),
    )
    const failed = await db.changes(
      db
        .update(tasks)
        .set({ status: 'failed', error: EXPIRED, activeKey: null, updatedAt: nowSec })
        .where(and(eq(tasks.taskId, taskId), eq(tasks.status, 'running'), not(isHeld))),
    )
    if (failed > 0)
      await db.delete(locks).where(and(eq(locks.type, type), eq(locks.taskId, taskId), lte(locks.lockedUntil, nowSec)))
    return failed > 0
  }

  return {
    find,
    /** @returns undefined if a task of the type is live */
    async request(type: string, payload: unknown): Promise<SystemTask | undefined> {
      const nowSec = await nowInSec()
      const taskId = `systask_${crypto.randomUUID().replaceAll('-', '')}`
      const row = {
        taskId,
        type,
        status: 'pending',
        activeKey: type,
        payload: JSON.stringify(payload),
        state: '',
        result: '',
        error: '',
        lockedBy: '',
        createdAt: nowSec,
        updatedAt: nowSec,
      }
      try {
        const id = await db.insertId(tasks, row)
        await bus.publish(TOPIC, type)
        return viewOf({ id, ...row })
      } catch (error) {
        if (error instanceof DbError && error.kind === 'duplicate') return undefined
        throw error
      }
    },
    /** Newest first. */
    async list(limit: number): Promise<readonly SystemTask[]> {
      return (await db.select().from(tasks).orderBy(desc(tasks.id)).limit(limit)).map(viewOf)
    },
    /** @returns the live task of the type, or of any type if it is empty */
    async current(type: string): Promise<SystemTask | undefined> {
      const isLive = inArray(tasks.status, ['pending', 'running'])
      const query = db
        .select()
        .from(tasks)
        .where(type === '' ? isLive : and(isLive, eq(tasks.type, type)))
      const [row] = await query.orderBy(desc(tasks.id)).limit(1)
      return row && viewOf(row)
    },
    /** Hears, on every node, that something was asked for; a message may be lost. @returns a function that ends this */
    onRequest: (listener: () => void): (() => void) => bus.subscribe(TOPIC, listener),

    /** Takes a pending task of one of the types. */
    async claim(types: readonly string[]): Promise<Claim | undefined> {
      if (types.length === 0) return undefined
      const pending = await db
        .select()
        .from(tasks)
        .where(and(eq(tasks.status, 'pending'), inArray(tasks.type, [...types])))
        .orderBy(asc(tasks.id))
        .limit(types.length)
      for (const task of pending.map(viewOf)) {
        const { type } = task
        await db.insertIgnore(locks, { type, taskId: '', lockedBy: '', lockedUntil: 0, updatedAt: 0 })
        if (await tryClaim(task)) return task
      }
      return undefined
    },
    /** @returns false if the task is not ours any more */
    async renew(claim: Claim): Promise<boolean> {
      const nowMs = await db.now()
      const until = { lockedUntil: untilSec(nowMs), updatedAt: Math.floor(nowMs / 1000) }
      return (await db.changes(db.update(locks).set(until).where(isOurLock(claim)))) > 0
    },
    /** Notes how far it is. @returns as `renew` */
    note: (claim: Claim, state: unknown): Promise<boolean> => write(claim, { state: JSON.stringify(state) }),
    /** @param state as `note` has it; undefined leaves what is there. @returns as `renew` */
    async end(claim: Claim, state: unknown, end: TaskEnd): Promise<boolean> {
      const isDone = await write(claim, {
        status: end.status,
        ...(end.status !== 'pending' && { activeKey: null }),
        ...(end.status === 'succeeded' && { result: JSON.stringify(end.result ?? null) }),
        ...(end.status === 'failed' && { error: end.error.slice(0, ERROR_CHARS) }),
        ...(state !== undefined && { state: JSON.stringify(state) }),
      })
      // A lock that stays for want of the database runs out by itself.
      await db.changes(db.delete(locks).where(isOurLock(claim))).catch(() => 0)
      if (isDone && end.status === 'pending') await bus.publish(TOPIC, claim.type)
      return isDone
    },

    /** Fails the tasks whose workers have not renewed their locks, whoever they were. @returns how many */
    async failExpired(): Promise<number> {
      const nowSec = await nowInSec()
      const running = await db
        .select({ taskId: tasks.taskId, type: tasks.type, lockedTask: locks.taskId, lockedUntil: locks.lockedUntil })
        .from(tasks)
        .leftJoin(locks, eq(locks.type, tasks.type))
        .where(eq(tasks.status, 'running'))
      let failed = 0
      for (const { taskId, type, lockedTask, lockedUntil } of running) {
        if (lockedTask === taskId && (lockedUntil ?? 0) > nowSec) continue
        if (await failIfExpired(taskId ?? '', type ?? '')) failed++
      }
      return failed
    },
    /** Removes ended tasks of long ago, and more than anybody reads. @returns how many */
    async prune(signal: AbortSignal): Promise<number> {
      const nowSec = await nowInSec()
      const [oldestKept] = await db
        .select({ id: tasks.id })
        .from(tasks)
        .orderBy(desc(tasks.id))
        .limit(1)
        .offset(KEEP_ROWS - 1)
      let removed = 0
      for (const condition of [
        lt(tasks.updatedAt, nowSec - KEEP_SEC),
        ...(oldestKept ? [lt(tasks.id, oldestKept.id)] : []),
      ]) {
        for (let isMore = true; isMore && !signal.aborted; ) {
          const rows = await db
            .select({ id: tasks.id })
            .from(tasks)
            .where(and(isNull(tasks.activeKey), inArray(tasks.status, ['succeeded', 'failed']), condition))
            .limit(PRUNE_ROWS)
          const ids = rows.map(({ id }) => id)
          if (ids.length > 0) removed += await db.changes(db.delete(tasks).where(inArray(tasks.id, ids)))
          isMore = ids.length === PRUNE_ROWS
        }
      }
      return removed
    },
  }
}

type Row = Db['tables']['systemTasks']['$inferSelect']

const viewOf = (row: Row): SystemTask => ({
  id: row.id,
  taskId: row.taskId ?? '',
  type: row.type ?? '',
  status: row.status ?? '',
  activeKey: row.activeKey ?? undefined,
  payload: jsonOf(row.payload),
  state: jsonOf(row.state),
  result: jsonOf(row.result),
  error: row.error ?? '',
  lockedBy: row.lockedBy ?? '',
  createdAtSec: row.createdAt ?? 0,
  updatedAtSec: row.updatedAt ?? 0,
})

function jsonOf(text: string | null): unknown {
  try {
    return text ? JSON.parse(text) : null
  } catch {
    return null // Not ours to explain: whoever wrote it may read it.
  }
}
