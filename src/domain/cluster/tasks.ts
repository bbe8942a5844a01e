/**
 * Work that a person asked for, in rows of the database: at most one live task of a type, worked on by one process under a
 * lock row that is judged by the database's time. Owns the states `pending` → `running` → `succeeded` or `failed`. A task
 * whose worker died has failed; whoever wants it asks again. Every write of a worker is refused once its lock is gone.
 */
import { and, asc, desc, eq, inArray, isNull, lt } from 'drizzle-orm'
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
  const lockOf = async (tx: Db, type: string) => {
    const [lock] = await tx.lock(tx.select().from(locks).where(eq(locks.type, type)))
    return lock
  }
  /** Whole seconds are the table's: a lock may last up to one longer. */
  const untilSec = (nowMs: number): number => Math.ceil((nowMs + ttlMs) / 1000)

  /** Writes as the worker of a task. @returns false, and nothing is written, once the task is not ours any more */
  const write = (claim: Claim, change: (tx: Db, nowMs: number) => Promise<unknown>): Promise<boolean> =>
    db.transaction(async (tx) => {
      const lock = await lockOf(tx, claim.type)
      if (lock?.taskId !== claim.taskId || lock.lockedBy !== worker) return false
      await change(tx, await tx.now())
      return true
    })

  const tryClaim = (taskId: string, type: string): Promise<boolean> =>
    db.transaction(async (tx) => {
      const nowMs = await tx.now()
      const nowSec = Math.floor(nowMs / 1000)
      const lock = await lockOf(tx, type)
      if (!lock || (lock.lockedUntil ?? 0) > nowSec) return false
      const taken = await tx.changes(
        tx
          .update(tasks)
          .set({ status: 'running', lockedBy: worker, updatedAt: nowSec })
          .where(and(eq(tasks.taskId, taskId), eq(tasks.status, 'pending'))),
      )
      if (taken === 0) return false
      const held = { taskId, lockedBy: worker, lockedUntil: untilSec(nowMs), updatedAt: nowSec }
      await tx.update(locks).set(held).where(eq(locks.type, type))
      return true
    })

  const failIfExpired = (taskId: string, type: string): Promise<boolean> =>
    db.transaction(async (tx) => {
      const nowSec = Math.floor((await tx.now()) / 1000)
      const lock = await lockOf(tx, type)
      const isHeld = lock?.taskId === taskId && (lock.lockedUntil ?? 0) > nowSec
      if (isHeld) return false
      const failed = await tx.changes(
        tx
          .update(tasks)
          .set({ status: 'failed', error: EXPIRED, activeKey: null, updatedAt: nowSec })
          .where(and(eq(tasks.taskId, taskId), eq(tasks.status, 'running'))),
      )
      if (lock?.taskId === taskId) await tx.delete(locks).where(eq(locks.type, type))
      return failed > 0
    })

  return {
    find,
    /** @returns undefined if a task of the type is live */
    async request(type: string, payload: unknown): Promise<SystemTask | undefined> {
      const nowSec = Math.floor((await db.now()) / 1000)
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
        const { taskId, type } = task
        await db.insertIgnore(locks, { type, taskId: '', lockedBy: '', lockedUntil: 0, updatedAt: 0 })
        if (await tryClaim(taskId, type)) return task
      }
      return undefined
    },
    /** @returns false if the task is not ours any more */
    renew: (claim: Claim): Promise<boolean> =>
      write(claim, (tx, nowMs) =>
        tx
          .update(locks)
          .set({ lockedUntil: untilSec(nowMs), updatedAt: Math.floor(nowMs / 1000) })
          .where(eq(locks.type, claim.type)),
      ),
    /** Notes how far it is. @returns as `renew` */
    note: (claim: Claim, state: unknown): Promise<boolean> =>
      write(claim, (tx, nowMs) =>
        tx
          .update(tasks)
          .set({ state: JSON.stringify(state), updatedAt: Math.floor(nowMs / 1000) })
          .where(eq(tasks.taskId, claim.taskId)),
      ),
    /** @param state as `note` has it; undefined leaves what is there. @returns as `renew` */
    end: (claim: Claim, state: unknown, end: TaskEnd): Promise<boolean> =>
      write(claim, async (tx, nowMs) => {
        await tx
          .update(tasks)
          .set({
            status: end.status,
            ...(end.status !== 'pending' && { activeKey: null }),
            ...(end.status === 'succeeded' && { result: JSON.stringify(end.result ?? null) }),
            ...(end.status === 'failed' && { error: end.error.slice(0, ERROR_CHARS) }),
            ...(state !== undefined && { state: JSON.stringify(state) }),
            updatedAt: Math.floor(nowMs / 1000),
          })
          .where(eq(tasks.taskId, claim.taskId))
        await tx.delete(locks).where(eq(locks.type, claim.type))
      }).then(async (isDone) => {
        if (isDone && end.status === 'pending') await bus.publish(TOPIC, claim.type)
        return isDone
      }),

    /** Fails the tasks whose workers have not renewed their locks, whoever they were. @returns how many */
    async failExpired(): Promise<number> {
      const nowSec = Math.floor((await db.now()) / 1000)
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
      const nowSec = Math.floor((await db.now()) / 1000)
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
