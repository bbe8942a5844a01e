/** How the pool gets on with a server that is full, silent or not ready: told by servers of a few lines. */
import { expect, test } from 'bun:test'
import { DbError } from '../../src/db/index.ts'
import { createPool, type PoolOptions } from '../../src/db/mysql-pool.ts'
import type { OpenWire, Wire } from '../../src/db/mysql-wire.ts'
import { eventually } from '../support/eventually.ts'

interface FakeWire extends Wire {
  /** From now on it says nothing, and looks as if it had been silent for long. */
  fallSilent(): void
}

/** A server with room for some connections. */
function fakeServer(room: number) {
  const connected = new Set<Wire>()
  let most = 0
  let opened = 0
  let refusal: number | undefined
  const open: OpenWire = async (onEnd) => {
    await Bun.sleep(1)
    opened++
    if (refusal !== undefined) throw Object.assign(new Error('refused'), { errno: refusal })
    if (connected.size >= room) throw Object.assign(new Error('Too many connections'), { errno: 1040 })
    let isOpen = true
    let heardAt = performance.now()
    let isSilent = false
    const silence = Promise.withResolvers<never>()
    silence.promise.catch(() => {})
    const end = (): void => {
      if (!isOpen) return
      isOpen = false
      connected.delete(wire)
      silence.reject(new Error('closed'))
      onEnd(wire)
    }
    const wire: FakeWire = {
      bornAt: performance.now(),
      heardAt: () => heardAt,
      isOpen: () => isOpen,
      whileOpen: (work) => work,
      say: async () => ({ rows: [], affectedRows: 0, insertId: 0 }),
      sayAll: async () => [],
      stream: async function* () {},
      ping: () => (isSilent ? silence.promise : Promise.resolve()),
      destroy: end,
      close: end,
      fallSilent() {
        isSilent = true
        heardAt = Number.NEGATIVE_INFINITY
      },
    }
    connected.add(wire)
    most = Math.max(most, connected.size)
    return wire
  }
  return {
    open,
    connected,
    most: () => most,
    opened: () => opened,
    refuse: (errno: number | undefined) => {
      refusal = errno
    },
  }
}
const OPTIONS: PoolOptions = { maxOpen: 50, maxIdle: 50, maxLifetimeMs: 0 }
const later = (ms: number): number => performance.now() + ms

test('pools that meet a full server share it: each gets its turn, and what waits is served', async () => {
  const server = fakeServer(10)
  let told = 0
  const pools = [1, 2, 3].map(() => createPool(server.open, { ...OPTIONS, onFull: () => told++ }))
  const shares = pools.map(() => 0)
  const endAt = performance.now() + 1_500
  const clients = pools.flatMap((pool, at) =>
    Array.from({ length: 30 }, async () => {
      while (performance.now() < endAt) {
        const { wire } = await pool.acquire(later(10_000))
        await Bun.sleep(5)
        pool.release(wire)
        shares[at] = (shares[at] ?? 0) + 1
      }
    }),
  )
  await Promise.all(clients)
  expect(server.most()).toBeLessThanOrEqual(10)
  // Said now and then, not for each refusal.
  expect(told).toBeGreaterThan(0)
  expect(told).toBeLessThanOrEqual(pools.length * 2)
  for (const share of shares) expect(share).toBeGreaterThan(20)
  for (const pool of pools) await pool.close()
  expect(server.connected.size).toBe(0)
}, 30_000)

test('who finds no room until the deadline is told why', async () => {
  const server = fakeServer(0)
  const pool = createPool(server.open, OPTIONS)
  await expect(pool.acquire(later(150))).rejects.toThrow('Too many connections')
  await pool.close()
})

test('a connection that was silent for long and does not answer is not handed out', async () => {
  const server = fakeServer(10)
  const pool = createPool(server.open, OPTIONS)
  const first = await pool.acquire(later(1_000))
  pool.release(first.wire)
  ;(first.wire as FakeWire).fallSilent()
  const second = await pool.acquire(later(10_000))
  expect(second.wire).not.toBe(first.wire)
  expect(second.isReused).toBe(false)
  expect(first.wire.isOpen()).toBe(false)
  pool.release(second.wire)
  await pool.close()
}, 20_000)

test('a server that is not ready is not waited on: the next try may meet another', async () => {
  const server = fakeServer(10)
  const pool = createPool(server.open, OPTIONS)
  server.refuse(1047)
  const waiting = pool.acquire(later(10_000))
  await eventually('it has been refused', () => server.opened() >= 2)
  server.refuse(undefined)
  const { wire } = await waiting
  expect(wire.isOpen()).toBe(true)
  pool.release(wire)
  await pool.close()
}, 20_000)

test('a refusal for another reason is told at once', async () => {
  const server = fakeServer(10)
  const pool = createPool(server.open, OPTIONS)
  server.refuse(1045)
  const error = await pool.acquire(later(10_000)).then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(DbError)
  expect((error as DbError).kind).toBe('unavailable')
  expect((error as DbError).message).toContain('refused')
  await pool.close()
})
