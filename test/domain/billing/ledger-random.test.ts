/** Everything at once, at random, on several instances; the auditor has the last word. `SEED=n` repeats a run's choices. */
import { describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import {
  dropAllotments,
  type Ledger,
  quotaChanged,
  readBalances,
  setBalance,
} from '../../../src/domain/billing/index.ts'
import { GatewayError } from '../../../src/errors.ts'
import { createMutex } from '../../../src/lib/mutex.ts'
import { expectAudit } from '../../support/auditor.ts'
import { ENGINES } from '../../support/engines.ts'
import { createWorld, type WorldKey } from './world.ts'

const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000)

const CALLERS = 12

/** @source https://en.wikipedia.org/wiki/Xorshift */
function randomFrom(seed: number): (below: number) => number {
  let x = seed | 1
  return (below) => {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    return (x >>> 0) % below
  }
}

for (const engine of ENGINES)
  describe(`random work on ${engine.name}`, () => {
    test('calls alone never overdraw an account, at any moment', async () => {
      console.log(`seed ${SEED}`)
      const random = randomFrom(SEED)
      const world = await createWorld(engine)
      const channel = await world.channel()
      const payers = [
        await world.payer({ wallet: 60_000, key: 45_000 }),
        await world.payer({ wallet: 9_000, key: 100_000 }),
        await world.payer({ wallet: 30_000 }),
      ]
      const nodes = await Promise.all([0, 1, 2].map(() => world.ledger({ isOwnDb: engine.isServer, leaseMs: 900 })))
      const outcomes = new Map<string, number>()
      const note = (outcome: string): void => void outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      const call = async (): Promise<void> => {
        const payer = payers[random(payers.length)]!
        const ledger = nodes[random(nodes.length)]!
        const leaving = random(12) === 0 ? AbortSignal.timeout(random(30)) : undefined
        try {
          const hold = await ledger.hold(payer, random(8) === 0 ? 0 : 1 + random(900), leaving)
          for (let i = random(3); i > 0; i--) note((await hold.extend(1 + random(400))) ? 'extended' : 'not extended')
          await Bun.sleep(random(8))
          if (random(4) === 0) await hold.release()
          else await hold.settle({ quota: random(hold.amount + 1), record: world.record(payer, channel) })
          note('done')
        } catch (error) {
          if (!(error instanceof GatewayError)) throw error
          note(error.code)
        }
      }
      let isOver = false
      const watching = (async () => {
        let looks = 0
        for (; !isOver; looks++) {
          // One snapshot of the whole database, in the middle of everything.
          await world.db.transaction((tx) => expectAudit(tx, tx, { granted: world.granted, isAtRest: false }))
          await Bun.sleep(20)
        }
        return looks
      })()
      await Promise.all(
        Array.from({ length: 16 }, async () => {
          for (let i = 0; i < 50; i++) await call()
        }),
      )
      isOver = true
      expect(await watching).toBeGreaterThan(3)
      expect(outcomes.get('done')).toBeGreaterThan(200)
      await world.close()
    }, 90_000)

    test('edits, credits, deletions, restarts and overshoots under load leave every book even', async () => {
      const random = randomFrom(SEED + 1)
      const world = await createWorld(engine)
      const channel = await world.channel()
      const { users, tokens } = world.db.tables
      const payers: WorldKey[] = []
      for (let i = 0; i < 6; i++)
        payers.push(await world.payer({ wallet: 40_000, ...(i % 3 === 0 ? {} : { key: 30_000 }) }))
      const start = (): Promise<Ledger> => world.ledger({ isOwnDb: engine.isServer, leaseMs: 900 })
      const nodes = await Promise.all([0, 1, 2].map(start))
      const edits = createMutex()
      /** What calls overshot, what debits took, and what was held when a balance was set. */
      const overdraft = new Map([...world.granted.keys()].map((key) => [key, 0]))
      const overdraw = (key: string, amount: number): void =>
        void overdraft.set(key, (overdraft.get(key) ?? 0) + amount)

      const edit = (): Promise<void> =>
        edits.run(async () => {
          const payer = payers[random(payers.length)]!
          const isUser = payer.isUnlimitedKey || random(2) === 0
          const account = isUser
            ? ({ kind: 'user', id: payer.userId } as const)
            : ({ kind: 'api-key', id: payer.apiKeyId } as const)
          const key = `${isUser ? 'u' : 't'}:${account.id}`
          const choice = random(8)
          if (choice < 4) {
            const amount = random(20_000) - 6_000
            overdraw(key, Math.max(0, -amount))
            await world.credit(account, amount)
          } else if (choice < 7) {
            const x = random(40_000)
            overdraw(key, CALLERS * 2_000)
            await world.db.transaction(async (tx) => {
              if (!(await setBalance(tx, account, x))) return
              const table = isUser ? users : tokens
              const [row] = await tx.select({ used: table.usedQuota }).from(table).where(eq(table.id, account.id))
              world.granted.set(key, x + (row?.used ?? 0))
              expect((await readBalances(tx, account.kind, [account.id])).get(account.id)).toBe(x)
            })
          } else if (payers.length > 3) {
            payers.splice(payers.indexOf(payer), 1)
            await world.db.transaction(async (tx) => {
              await dropAllotments(tx, { kind: 'user', id: payer.userId })
              await dropAllotments(tx, { kind: 'api-key', id: payer.apiKeyId })
              await tx.update(users).set({ deletedAt: new Date() }).where(eq(users.id, payer.userId))
              await tx.delete(tokens).where(eq(tokens.id, payer.apiKeyId))
            })
            // A call of a cached log-in may still come.
            if (random(2) === 0) payers.push(payer)
          }
          await quotaChanged(world.bus, account)
        })
      const restart = async (): Promise<void> => {
        const at = random(nodes.length)
        const old = nodes[at]!
        nodes[at] = await start()
        world.ledgers.delete(old)
        await old.drain(10_000)
      }
      const call = async (): Promise<void> => {
        const payer = payers[random(payers.length)]!
        const ledger = nodes[random(nodes.length)]!
        try {
          const hold = await ledger.hold(payer, 1 + random(1_500))
          await Bun.sleep(random(10))
          if (random(5) === 0) await hold.release()
          else {
            const isOvershot = random(10) === 0
            const quota = isOvershot ? hold.amount + random(500) : random(hold.amount + 1)
            for (const key of [`u:${payer.userId}`, `t:${payer.apiKeyId}`])
              overdraw(key, Math.max(0, quota - hold.amount))
            await hold.settle({ quota, record: world.record(payer, channel) })
          }
        } catch (error) {
          if (!(error instanceof GatewayError)) throw error
        }
      }
      const work = async (rounds: number, step: () => Promise<void>, pauseMs: number): Promise<void> => {
        for (let i = 0; i < rounds; i++) {
          await step()
          await Bun.sleep(random(pauseMs))
        }
      }
      await Promise.all([
        ...Array.from({ length: CALLERS }, () => work(60, call, 3)),
        work(40, edit, 40),
        work(4, restart, 300),
      ])
      await world.drainAll()
      await world.close({ overdraft })
    }, 90_000)
  })
