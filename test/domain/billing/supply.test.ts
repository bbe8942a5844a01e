/** Waiting for money: how long, and whom nothing keeps from answering. */
import { expect, test } from 'bun:test'
import { createAccount } from '../../../src/domain/billing/account.ts'
import { createAllotments } from '../../../src/domain/billing/allotments.ts'
import { createHolds } from '../../../src/domain/billing/holds.ts'
import { createSupply, type Supply } from '../../../src/domain/billing/supply.ts'
import { GatewayError } from '../../../src/errors.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { ENGINES } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { createWorld } from './world.ts'

test('an extension waits ten seconds in all, however many accounts pay and however often it asks', async () => {
  const untils: (number | undefined)[] = []
  const supply: Pick<Supply, 'reserve'> = {
    async reserve(account, _amount, { untilMs }) {
      untils.push(untilMs)
      if (untils.length > 2 && account.key === 'u:1') throw new GatewayError('insufficient_user_quota')
      if (account.key === 'u:1') throw new GatewayError('dependency_unavailable')
    },
  }
  const accounts = new Map(['u:1', 't:1'].map((key) => [key, createAccount(key, 0)]))
  const holds = createHolds({
    accountOf: (key) => accounts.get(key),
    supply: supply as Supply,
    journal: async () => {},
    isWritable: () => true,
    isLeased: () => true,
    clock: systemClock,
  })
  const hold = await holds.open({ userId: 1, apiKeyId: 1, isUnlimitedKey: false }, 0)
  const startMs = systemClock.monotonic()
  expect(await hold.extend(5)).toBe(false)
  expect(hold.refusal?.code).toBe('insufficient_user_quota')
  expect(untils).toHaveLength(4)
  expect(new Set(untils).size).toBe(1)
  expect(untils[0]! - startMs).toBeWithin(9_000, 10_500)
})

test('a recall that is read from the row is answered, whatever else the account is busy with', async () => {
  const world = await createWorld(ENGINES[0]!)
  const payer = await world.payer({ wallet: 100 })
  const key = `u:${payer.userId}`
  const { quotaAllotments, clusterInstances } = world.db.tables
  await world.db.insert(clusterInstances).values({ id: 'a', state: 'live' })
  await world.db.insert(quotaAllotments).values({ instanceId: 'a', account: key, amount: 0, version: 1, recalled: 1 })
  const supply = createSupply({
    allotments: createAllotments({ db: world.db, clock: systemClock }),
    tenancy: {
      id: () => 'a',
      instances: () => 1,
      isLeased: () => true,
      regain: async () => {},
      ended: async () => {},
      appliedSeq: () => 0,
      betweenFlushes: (work) => work(),
      flushSoon() {},
    },
    bus: world.bus,
    clock: systemClock,
    log: silentLog,
  })
  const account = { ...createAccount(key, 0)!, version: 1 }
  const other = Promise.withResolvers<void>()
  account.operation = other.promise
  const answered = supply.answer(account, 1, true)
  account.operation = undefined
  other.resolve()
  await answered
  await eventually('the answer is there', async () =>
    (await world.db.select().from(quotaAllotments)).every((row) => row.answered === 1),
  )
  await world.close()
})

test('an acquire parks what is wished of a rich account, little of a poor one, and what is needed after a recall', async () => {
  const world = await createWorld(ENGINES[0]!)
  const { clusterInstances } = world.db.tables
  await world.db.insert(clusterInstances).values({ id: 'a', state: 'live' })
  const allotments = createAllotments({ db: world.db, clock: systemClock })
  const taken = async (wallet: number, asked: { wish: number; isExact?: boolean; instances?: number }) => {
    const { userId } = await world.payer({ wallet })
    const answer = await allotments.take({
      instanceId: 'a',
      account: `u:${userId}`,
      version: 0,
      need: 10,
      isExact: false,
      instances: 1,
      recalls: new Map(),
      ...asked,
    })
    return answer.kind === 'taken' ? answer.amount : answer.kind
  }
  expect(await taken(1_000_000, { wish: 5_000 })).toBe(5_000)
  // Half of the balance at most, shared with the other instances.
  expect(await taken(1_000, { wish: 5_000 })).toBe(500)
  expect(await taken(1_000, { wish: 5_000, instances: 5 })).toBe(100)
  // A newcomer: enough for 64 calls like this one, or a 64th of the balance.
  expect(await taken(1_000_000, { wish: 10 })).toBe(640)
  expect(await taken(6_400, { wish: 10 })).toBe(100)
  expect(await taken(100, { wish: 10 })).toBe(10)
  expect(await taken(1_000_000, { wish: 5_000, isExact: true })).toBe(10)
  expect(await taken(9, { wish: 10 })).toBe('insufficient')
  await allotments.returnAll('a')
  await world.close()
})
