/**
 * Connections of one MySQL address. Owns how many there are, how long they live and who waits for one; a wait ends at the
 * caller's deadline. After `renew` none of the old ones is used again, so that an address that now leads elsewhere does.
 *
 * A server that takes no more connections is shared like a full network: the pool halves what it holds and then grows by
 * one every now and then, so that the pools of all nodes come to equal parts and nobody is kept out.
 */
import { DbError } from './error.ts'
import { asDbError, isNotReady, isTooMany } from './mysql-error.ts'
import type { OpenWire, Wire } from './mysql-wire.ts'

export interface PoolOptions {
  readonly maxOpen: number
  readonly maxIdle: number
  /** ms; 0 = for ever */
  readonly maxLifetimeMs: number
  /** Told now and then while the server takes no more connections. */
  readonly onFull?: (error: DbError) => void
}

/** Connections of this process now. */
export interface PoolUse {
  /** busy or idle */
  readonly open: number
  readonly busy: number
  /** callers that wait for one */
  readonly waiting: number
  /** most that may be open */
  readonly max: number
}

export interface Pool {
  /** @param deadlineAt on the monotonic clock, ms. @throws DbError `unavailable` */
  acquire(deadlineAt: number): Promise<Lease>
  /** Takes what was acquired back; a broken or old connection is dropped. */
  release(wire: Wire): void
  /** Drops every connection: idle ones now, others when they come back. */
  renew(): void
  use(): PoolUse
  close(): Promise<void>
}

export interface Lease {
  readonly wire: Wire
  /** The connection was idle before: it may have died unnoticed. */
  readonly isReused: boolean
}

interface Waiter {
  /** Number of the last attempt to connect before this wait: the failure of an earlier one does not count here. */
  readonly since: number
  readonly give: (lease: Lease) => void
  readonly fail: (error: DbError) => void
}

/** A connection that was silent for longer is asked before it is used: it may have died without a word. */
const TRUSTED_MS = 2_000
const PING_MS = 1_500
/** Connections beyond a few that lay idle for that long are given back to the server. */
const IDLE_MS = 10_000
const WARM = 2
/** After a refusal for want of room, or by a server that is not ready: up to this long until the next try. */
const RETRY_MS = 200
const GROW_EVERY_MS = 200
const TELL_FULL_EVERY_MS = 10_000
/** How long a close waits for statements under way. */
const CLOSE_MS = 5_000

export function createPool(open: OpenWire, options: PoolOptions): Pool {
  const maxOpen = Math.max(1, options.maxOpen)
  /** last used last */
  const idle: Wire[] = []
  const all = new Set<Wire>()
  const waiters: Waiter[] = []
  let opening = 0
  let attempts = 0
  let isClosed = false
  let cleaner: Timer | undefined
  let retry: Timer | undefined
  let drained: (() => void) | undefined
  /** While the server is full: how many connections were kept, and since when. */
  let full: { readonly kept: number; readonly sinceMs: number } | undefined
  /** Why the last attempt to connect is to be repeated. */
  let refusal: DbError | undefined
  let toldFullAtMs = Number.NEGATIVE_INFINITY

  const isOld = (wire: Wire): boolean =>
    options.maxLifetimeMs > 0 && performance.now() - wire.bornAt >= options.maxLifetimeMs
  const drop = (wire: Wire): void => {
    all.delete(wire)
    wire.close()
  }
  const limit = (): number => {
    if (!full) return maxOpen
    const grown = full.kept + Math.floor((performance.now() - full.sinceMs) / GROW_EVERY_MS)
    if (grown >= maxOpen) full = undefined
    return Math.min(maxOpen, grown)
  }
  /** A connection is gone: whoever waits may open another. */
  const onEnd = (wire: Wire): void => {
    all.delete(wire)
    const at = idle.indexOf(wire)
    if (at >= 0) idle.splice(at, 1)
    openMore()
    if (all.size + opening === 0) drained?.()
  }
  const isSpare = (wire: Wire): boolean => idle.length > WARM && performance.now() - wire.heardAt() >= IDLE_MS
  /** Looks after connections that lie idle past their time; runs only while there are idle ones. */
  const scheduleCleaning = (): void => {
    if (cleaner || isClosed || idle.length === 0) return
    const ends = idle.map((wire) => (options.maxLifetimeMs > 0 ? wire.bornAt + options.maxLifetimeMs : Infinity))
    if (idle.length > WARM) ends.push((idle[0]?.heardAt() ?? 0) + IDLE_MS)
    const endMs = Math.min(...ends)
    if (endMs === Infinity) return
    cleaner = setTimeout(
      () => {
        cleaner = undefined
        // The one that was used last is the last to go.
        for (const wire of [...idle]) if (isOld(wire) || isSpare(wire)) drop(wire)
        scheduleCleaning()
      },
      Math.max(1_000, endMs - performance.now()),
    )
    cleaner.unref()
  }

  /** Opens connections for those who wait, as many as may be. */
  const openMore = (): void => {
    while (!isClosed && !retry && waiters.length > opening && all.size + opening < limit()) void connect()
  }
  const openLater = (): void => {
    retry ??= setTimeout(
      () => {
        retry = undefined
        openMore()
      },
      RETRY_MS * (0.5 + 0.5 * Math.random()),
    )
  }
  const connect = async (): Promise<void> => {
    opening++
    const attempt = ++attempts
    try {
      const wire = await open(onEnd)
      if (!wire.isOpen()) throw new DbError('unavailable', 'the connection to the database was lost')
      if (isClosed) wire.close()
      else {
        all.add(wire)
        refusal = undefined
        hand(wire, attempt)
      }
    } catch (error) {
      // Nothing was asked of a server that is not ready: the address may lead to another one next time.
      if (isTooMany(error) || isNotReady(error)) {
        refusal = asDbError(error)
        if (isTooMany(error)) becomeFull(refusal)
        openLater()
      } else if (waiters[0] && waiters[0].since < attempt) waiters[0].fail(asDbError(error))
    } finally {
      opening--
      openMore()
      if (all.size + opening === 0) drained?.()
    }
  }
  const becomeFull = (error: DbError): void => {
    const nowMs = performance.now()
    if (!full || nowMs - full.sinceMs >= GROW_EVERY_MS) full = { kept: Math.max(1, all.size >> 1), sinceMs: nowMs }
    while (all.size > full.kept && idle.length > 0) drop(idle[0] as Wire)
    if (nowMs - toldFullAtMs < TELL_FULL_EVERY_MS) return
    toldFullAtMs = nowMs
    options.onFull?.(error)
  }
  /**
   * Gives a connection to who waits longest, or keeps it.
   * @param attempt by which it was just opened. One that was opened for somebody else before may have died since
   */
  const hand = (wire: Wire, attempt?: number): void => {
    const waiter = waiters.shift()
    if (waiter) waiter.give({ wire, isReused: attempt === undefined || attempt <= waiter.since })
    else if (idle.length >= options.maxIdle) drop(wire)
    else {
      idle.push(wire)
      scheduleCleaning()
    }
  }
  const wait = (deadlineAt: number): Promise<Lease> =>
    new Promise((resolve, reject) => {
      const end = (): void => {
        clearTimeout(timer)
        const at = waiters.indexOf(waiter)
        if (at >= 0) waiters.splice(at, 1)
      }
      const waiter: Waiter = {
        since: attempts,
        give: (lease) => {
          end()
          resolve(lease)
        },
        fail: (error) => {
          end()
          reject(error)
        },
      }
      const late = (): DbError =>
        new DbError(
          'unavailable',
          `no connection to the database became free in time${refusal ? `: ${refusal.message}` : ''}`,
        )
      const timer = setTimeout(() => waiter.fail(late()), Math.max(0, deadlineAt - performance.now()))
      waiters.push(waiter)
      openMore()
    })

  /** @returns whether an idle connection still leads to somebody */
  const answers = async (wire: Wire): Promise<boolean> => {
    const silent = new DbError('unavailable', 'the database does not answer on a connection that lay idle')
    const timer = setTimeout(() => wire.destroy(silent), PING_MS)
    try {
      await wire.ping()
      return true
    } catch {
      wire.destroy(silent)
      return false
    } finally {
      clearTimeout(timer)
    }
  }

  return {
    async acquire(deadlineAt) {
      if (isClosed) throw new DbError('unavailable', 'the database is closed')
      for (let wire = idle.pop(); wire; wire = idle.pop()) {
        if (!wire.isOpen() || isOld(wire)) drop(wire)
        else if (performance.now() - wire.heardAt() < TRUSTED_MS || (await answers(wire)))
          return { wire, isReused: true }
      }
      if (isClosed) throw new DbError('unavailable', 'the database is closed')
      return wait(deadlineAt)
    },
    release(wire) {
      if (isClosed || !wire.isOpen() || !all.has(wire) || isOld(wire) || all.size > limit()) return drop(wire)
      hand(wire)
    },
    renew() {
      for (const wire of [...idle]) drop(wire)
      // Those at work are no longer ours: `release` closes them.
      all.clear()
    },
    use: () => ({ open: all.size, busy: all.size - idle.length, waiting: waiters.length, max: maxOpen }),
    async close() {
      isClosed = true
      clearTimeout(cleaner)
      clearTimeout(retry)
      for (const waiter of [...waiters]) waiter.fail(new DbError('unavailable', 'the database is closed'))
      for (const wire of [...idle]) drop(wire)
      if (all.size + opening === 0) return
      const done = Promise.withResolvers<void>()
      drained = done.resolve
      const timer = setTimeout(() => {
        for (const wire of [...all]) wire.destroy(new DbError('unavailable', 'the database is closed'))
        done.resolve()
      }, CLOSE_MS)
      await done.promise
      clearTimeout(timer)
    },
  }
}
