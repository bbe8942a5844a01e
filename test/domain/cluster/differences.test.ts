/** What nodes do not have alike is shown with its values and who has them; what they have alike, or only said once, is not. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createInstances, type NodeSettings, readDifferences, settingsInfo } from '../../../src/domain/cluster/index.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'

const SETTINGS: NodeSettings = {
  database: 'db:3306/gate',
  logDatabase: '',
  redis: 'redis://cache:6379',
  timeZone: 'UTC',
  frontendBaseUrl: 'https://gate.example',
  syncFrequencySec: 60,
  clockAheadMs: 12,
}

for (const engine of ENGINES)
  describe(`differences on ${engine.name}`, () => {
    let testDb: TestDb
    beforeAll(async () => {
      testDb = await engine.freshDb()
    })
    afterAll(() => testDb.close())

    test('each is named, with its values; clocks from two seconds on; ended instances do not count', async () => {
      const { db } = testDb
      const instances = createInstances({ db, clock: systemClock })
      const add = (id: string, node: string, version: string, info?: Readonly<Record<string, unknown>>) =>
        instances.register(id, { node, worker: 0, role: 'slave', version, ...(info && { info }) }, 0)
      await add('1', 'a', '1.0', settingsInfo(SETTINGS))
      await add('2', 'a', '1.0', settingsInfo(SETTINGS))
      expect(await readDifferences(db)).toEqual([])

      // A release that tells no settings differs in its version alone.
      await add('3', 'old', '0.9')
      await add('4', 'gone', '0.8', settingsInfo({ ...SETTINGS, timeZone: 'Asia/Tokyo' }))
      await instances.setState(['4'], 'gone')
      expect(await readDifferences(db)).toEqual([
        {
          name: 'version',
          values: [
            { value: '0.9', nodes: ['old'] },
            { value: '1.0', nodes: ['a'] },
          ],
        },
      ])
      await instances.setState(['3'], 'gone')

      const redis = 'redis://another:6379'
      await add('5', 'b', '1.0', settingsInfo({ ...SETTINGS, redis, clockAheadMs: 1_900, syncFrequencySec: 61 }))
      await add('6', 'c', '1.0', settingsInfo({ ...SETTINGS, redis, clockAheadMs: -3_200 }))
      expect(await readDifferences(db)).toEqual([
        {
          name: 'REDIS_CONN_STRING',
          values: [
            { value: redis, nodes: ['b', 'c'] },
            { value: SETTINGS.redis, nodes: ['a'] },
          ],
        },
        {
          name: 'SYNC_FREQUENCY',
          values: [
            { value: '60', nodes: ['a', 'c'] },
            { value: '61', nodes: ['b'] },
          ],
        },
        { name: 'clock', values: [{ value: '3.2 s behind the database at its start', nodes: ['c'] }] },
      ])
    })
  })
