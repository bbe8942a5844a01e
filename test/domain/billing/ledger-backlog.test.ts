/** A backlog, as after an outage or between the flushes of batch mode: bringing it in must not keep calls waiting. */
import { expect, test } from 'bun:test'
import { ENGINES } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { createWorld } from './world.ts'

const CHARGES = 12_000
/** Charges that are applied between two looks, at most: a batch is 4,000, and a busy machine may look late. */
const PER_TURN = 8_000

for (const engine of ENGINES)
  test(`a flush of ${CHARGES} charges on ${engine.name} lets others have their turn between its batches`, async () => {
    const world = await createWorld(engine)
    try {
      const payer = await world.payer({ wallet: 1_000_000, key: 1_000_000 })
      const channel = await world.channel()
      const ledger = await world.ledger({ flush: { isBatch: true, intervalMs: 1_000 } })
      let journalled = 0
      while (journalled < CHARGES) {
        await Promise.all(
          Array.from({ length: 1_000 }, async () => {
            const hold = await ledger.hold(payer, 1)
            await hold.settle({ quota: 1, record: world.record(payer, channel) })
          }),
        )
        journalled += 1_000
      }
      let left = ledger.stats().unflushedMain
      let most = 0
      await eventually(
        'everything is flushed',
        () => {
          const { unflushedMain } = ledger.stats()
          most = Math.max(most, left - unflushedMain)
          left = unflushedMain
          return unflushedMain === 0 && ledger.stats().unflushedLog === 0
        },
        { everyMs: 0, withinMs: 60_000 },
      )
      console.log(`${engine.name}: at most ${most} charges between two turns`)
      expect(most).toBeLessThanOrEqual(PER_TURN)
    } finally {
      await world.close()
    }
  }, 120_000)
