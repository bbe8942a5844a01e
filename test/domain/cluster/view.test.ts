/** Any node can tell how all of them are: who is silent, who is lost, what is behind, what is parked where. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { bumpTopic } from '../../../src/db/index.ts'
import {
  createInstances,
  createNodeStatus,
  pruneInstances,
  readClusterView,
} from '../../../src/domain/cluster/index.ts'
import { type Clock, systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'

const DAY_MS = 86_400_000
const EVERY_MS = 1_000
const never = new AbortController().signal

for (const engine of ENGINES) {
  describe(`the cluster view on ${engine.name}`, () => {
    let database: TestDb
    beforeAll(async () => {
      database = await engine.freshDb()
    }, 60_000)
    afterAll(() => database.close())

    const row = () => database.db.tables.clusterInstances
    const add = (id: string, node: string, worker = 0, nodeId?: string, clock: Clock = systemClock) =>
      createInstances({ db: database.db, clock }).register(
        id,
        { node, worker, role: 'slave', version: 'v1', ...(nodeId !== undefined && { info: { nodeId } }) },
        0,
      )
    /** Tells once how a worker is. */
    const tell = async (
      instanceId: string,
      nodeId: string,
      options: {
        readonly shownAs?: string
        readonly clock?: Clock
        readonly inMemory?: ReadonlyMap<string, number>
      } = {},
    ): Promise<void> => {
      await database.db.update(row()).set({ statusAtMs: 0 }).where(eq(row().id, instanceId))
      const status = createNodeStatus({
        db: database.db,
        instanceId: () => instanceId,
        own: () => ({
          nodeId,
          hostname: 'host',
          pid: 7,
          address: '10.0.0.1:3000',
          isReady: true,
          missing: [],
          calls: 2,
          snapshotAgeMs: 5,
          ledger: {
            unflushedMain: 3,
            unflushedLog: 4,
            openHolds: 1,
            waiting: 0,
            quarantined: 0,
            setAside: 0,
            isWritable: true,
          },
          dependencies: [{ name: 'database', form: engine.name, isUp: true, latencyMs: 1, error: '' }],
        }),
        inMemory: () => options.inMemory ?? new Map(),
        resources: async () => ({
          cpuPercent: 10,
          memoryBytes: 100,
          memoryLimitBytes: 1_000,
          container: undefined,
          disk: { totalBytes: 10, freeBytes: 5 },
        }),
        everyMs: EVERY_MS,
        ...(options.shownAs !== undefined && { speak: async () => options.shownAs! }),
        log: silentLog,
        clock: options.clock ?? systemClock,
      })
      await eventually('it has told', async () => {
        const [told] = await database.db.select().from(row()).where(eq(row().id, instanceId))
        return told!.statusAtMs > 0
      })
      await status.stop()
    }
    const age = async (instanceId: string, ms: number): Promise<void> => {
      const statusAtMs = (await database.db.now()) - ms
      await database.db.update(row()).set({ statusAtMs }).where(eq(row().id, instanceId))
    }
    const nodes = async () => (await readClusterView(database.db, [])).nodes

    test('workers of one node are one node; nodes of one name are two; a wrong clock makes nobody older', async () => {
      const ahead: Clock = { ...systemClock, now: () => Date.now() + DAY_MS }
      await add('i1', 'n', 0, 'node-a')
      await add('i2', 'n', 1, 'node-a')
      await add('i3', 'n', 0, 'node-b', ahead)
      await tell('i1', 'node-a', { shownAs: 'n' })
      await tell('i2', 'node-a')
      await tell('i3', 'node-b', { shownAs: 'n#2', clock: ahead })
      const seen = await nodes()
      expect(seen.map(({ id, name, state, workers }) => [id, name, state, workers.length])).toEqual([
        ['node-a', 'n', 'live', 2],
        ['node-b', 'n#2', 'live', 1],
      ])
      const skew = seen[1]!.workers[0]!.status!.clockAheadMs
      expect(Math.abs(skew - DAY_MS)).toBeLessThan(60_000)
      expect(Math.abs(seen[0]!.workers[0]!.status!.clockAheadMs)).toBeLessThan(60_000)
    })

    test('a node is silent after three heartbeats without a word, and not before; one that the others ended is lost', async () => {
      await age('i3', 2 * EVERY_MS)
      expect((await nodes())[1]!.state).toBe('live')
      await age('i3', 3 * EVERY_MS)
      expect((await nodes())[1]!.state).toBe('silent')
      await createInstances({ db: database.db, clock: systemClock }).setState(['i3'], 'reclaimed')
      expect((await nodes())[1]!.state).toBe('lost')
      // It comes back as another instance: then it is not lost.
      await add('i4', 'n', 0, 'node-b')
      expect((await nodes()).map(({ id, state }) => [id, state])).toEqual([
        ['node-a', 'live'],
        ['node-b', 'live'],
      ])
      // And what was lost long ago is no news.
      await createInstances({ db: database.db, clock: systemClock }).setState(['i4'], 'gone')
      await age('i3', 2 * DAY_MS)
      expect((await nodes()).map(({ id }) => id)).toEqual(['node-a'])
    })

    test('what memory lacks and what is parked shows at the worker it concerns', async () => {
      const { quotaAllotments } = database.db.tables
      await database.db.insert(quotaAllotments).values([
        { instanceId: 'i1', account: 'u:1', amount: 70 },
        { instanceId: 'i1', account: 'u:2', amount: 30 },
        { instanceId: 'i2', account: 'u:1', amount: 0 },
        { instanceId: 'i4', account: 'u:1', amount: 9 },
      ])
      for (let times = 0; times < 3; times++) await database.db.transaction((tx) => bumpTopic(tx, 'channels'))
      await tell('i1', 'node-a', { inMemory: new Map([['channels', 1]]) })
      await tell('i2', 'node-a', { inMemory: new Map([['channels', 3]]) })
      const [node] = await nodes()
      expect(node!.workers.map(({ parked, status }) => [parked, status!.behind])).toEqual([
        [100, { channels: 2 }],
        [0, {}],
      ])
      const view = await readClusterView(database.db, [])
      expect(view.topics['channels']).toBe(3)
      expect(view.parkedElsewhere).toBe(9)
    })

    test('ended instances of long ago are removed; those that work, hold money or ended lately stay', async () => {
      const instances = createInstances({ db: database.db, clock: systemClock })
      const old: Clock = { ...systemClock, now: () => Date.now() - 40 * DAY_MS }
      const { quotaAllotments, ledgerApplied } = database.db.tables
      for (const id of ['old-gone', 'old-live', 'old-money']) await add(id, 'old', 0, id, old)
      const past = createInstances({ db: database.db, clock: old })
      await past.setState(['old-gone', 'old-money'], 'gone')
      await database.db.insert(quotaAllotments).values({ instanceId: 'old-money', account: 'u:9', amount: 5 })
      await database.db.insert(ledgerApplied).values({ instanceId: 'old-gone', part: 'main', seq: 4 })
      expect(await pruneInstances(database.db, never)).toBe(1)
      expect(await instances.stateOf('old-gone')).toBe('missing')
      expect(await instances.stateOf('old-live')).toBe('live')
      expect(await instances.stateOf('old-money')).toBe('gone')
      expect(await instances.stateOf('i4')).toBe('gone')
      // What was applied is known for ever: a disk may come back after years.
      expect(await database.db.$count(ledgerApplied)).toBe(1)
    })
  })
}
