/**
 * Connections of one MySQL address. Owns how many there are, how long they live and who waits for one; a wait ends at the
 * caller's deadline. After `renew` none of the old ones is used again, so that an address that now leads elsewhere does.
 */
import { DbError } from './error.ts'
import { asDbError, isTooMany } from './mysql-error.ts'
import type { OpenWire, Wire } from './mysql-wire.ts'

export interface PoolOptions {
  readonly maxOpen: number
  readonly maxIdle: number
  /** ms; 0 = for ever */
  readonly maxLifetimeMs: number
}

export interface Pool {
  /** @param deadlineAt on the monotonic clock, ms. @throws DbError `unavailable` */
  acquire(deadlineAt: number): Promise<Lease>
  /** Takes what was acquired back; a broken or old connection is dropped. */
  release(wire: Wire): void
  /** Drops every connection: idle ones now, others when they come back. */
  renew(): void
  close(): Promise<void>
}

export interface Lease {
  readonly wire: Wire
  /** The connection was idle before: it may have died unnoticed. */
  readonly isReused: boolean
}

interface Waiter {
  readonly give: (wire: Wire) => void
  /** A place became free: open a connection. */
  readonly retry: () => void
  readonly fail: (error: DbError) => void
}

export function createPool(open: OpenWire, options: PoolOptions): Pool {
  const maxOpen = Math.max(1, options.maxOpen)
  /** last used last */
  const idle: Wire[] = []
  const all = new Set<Wire>()
  const waiters: Waiter[] = []
  let opening = 0
  let isClosed = false
  let cleaner: Timer | undefined
  let drained: (() => void) | undefined

  const isOld = (wire: Wire): boolean =>
    options.maxLifetimeMs > 0 && performance.now() - wire.bornAt >= options.maxLifetimeMs
  const drop = (wire: Wire): void => {
    all.delete(wire)
    wire.close()
  }
  /** A connection is gone: whoever waits may open another. */
  const onEnd = (wire: Wire): void => {
    all.delete(wire)
    const at = idle.indexOf(wire)
    if (at >= 0) idle.splice(at, 1)
    waiters.shift()?.retry()
    if (all.size + opening === 0) drained?.()
  }
  /** Looks after connections that lie idle past their time; runs only while there are idle ones. */
  const scheduleCleaning = (): void => {
    if (cleaner || isClosed || options.maxLifetimeMs <= 0 || idle.length === 0) return
    const oldest = Math.min(...idle.map((wire) => wire.bornAt))
    cleaner = setTimeout(
      () => {
        cleaner = undefined
        for (const wire of idle.filter(isOld)) drop(wire)
        scheduleCleaning()
      },
      Math.max(1_000, oldest + options.maxLifetimeMs - performance.now()),
    )
    cleaner.unref()
  }

  const connect = async (): Promise<Wire> => {
    opening++
    try {
      const wire = await open(onEnd)
      if (!wire.isOpen()) throw new DbError('unavailable', 'the connection to the database was lost')
      all.add(wire)
      return wire
    } finally {
      opening--
    }
  }
  const wait = (deadlineAt: number): Promise<Wire | undefined> =>
    new Promise((resolve, reject) => {
      const end = (): void => {
        clearTimeout(timer)
        const at = waiters.indexOf(waiter)
        if (at >= 0) waiters.splice(at, 1)
      }
      const waiter: Waiter = {
        give: (wire) => {
          end()
          resolve(wire)
        },
        retry: () => {
          end()
          resolve(undefined)
        },
        fail: (error) => {
          end()
          reject(error)
        },
      }
      const timer = setTimeout(
        () => waiter.fail(new DbError('unavailable', 'no connection to the database became free in time')),
        Math.max(0, deadlineAt - performance.now()),
      )
      waiters.push(waiter)
    })

  const acquire = async (deadlineAt: number): Promise<Lease> => {
    for (;;) {
      if (isClosed) throw new DbError('unavailable', 'the database is closed')
      for (let wire = idle.pop(); wire; wire = idle.pop()) {
        if (wire.isOpen() && !isOld(wire)) return { wire, isReused: true }
        drop(wire)
      }
      if (all.size + opening < maxOpen) {
        try {
          return { wire: await connect(), isReused: false }
        } catch (error) {
          // The server is full: with connections of our own at work, waiting for one of them is better than failing.
          if (!isTooMany(error) || all.size === 0) {
            waiters.shift()?.retry()
            throw asDbError(error)
          }
          if (idle.length > 0) continue
        }
      }
      const wire = await wait(deadlineAt)
      if (wire) return { wire, isReused: true }
    }
  }

  return {
    acquire,
    release(wire) {
      if (isClosed || !wire.isOpen() || !all.has(wire) || isOld(wire)) return drop(wire)
      const waiter = waiters.shift()
      if (waiter) return waiter.give(wire)
      if (idle.length >= options.maxIdle) return drop(wire)
      idle.push(wire)
      scheduleCleaning()
    },
    renew() {
      for (const wire of [...idle]) drop(wire)
      // Those at work are no longer ours: `release` closes them.
      all.clear()
    },
    async close() {
      isClosed = true
      clearTimeout(cleaner)
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

/** How long a close waits for statements under way. */
const CLOSE_MS = 5_000
