/** The list of nodes is right with equal names, restarts and wrong clocks. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { createNodeRegistry, nodeInfo } from '../../../src/domain/cluster/index.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'

const LOAD = { cpuPercent: 12.34, memoryPercent: 50, disk: { totalBytes: 1_000, freeBytes: 250 } }
const STALE_SEC = 90

for (const engine of ENGINES) {
  describe(`the registry of nodes on ${engine.name}`, () => {
    let database: TestDb
    beforeAll(async () => {
      database = await engine.freshDb()
    }, 60_000)
    afterAll(() => database.close())
    beforeEach(async () => {
      await database.db.delete(database.db.tables.systemInstances)
    })

    const node = (name: string, nodeId: string) => {
      const registry = createNodeRegistry({
        db: database.db,
        name,
        nodeId,
        startedAtSec: 1_700_000_000,
        staleAfterSec: STALE_SEC,
      })
      const info = nodeInfo(
        {
          name,
          isNamed: true,
          isMaster: false,
          version: 'v9',
          hostname: 'host',
          platform: 'linux',
          arch: 'x64',
          startedAtSec: 1_700_000_000,
        },
        LOAD,
      )
      return { ...registry, beat: () => registry.beat(info) }
    }
    /** As if nobody had seen it for so long. */
    const age = async (name: string, sec: number): Promise<void> => {
      const { systemInstances } = database.db.tables
      const lastSeenAt = Math.floor((await database.db.now()) / 1000) - sec
      await database.db.update(systemInstances).set({ lastSeenAt }).where(eq(systemInstances.nodeName, name))
    }
    const names = async (): Promise<readonly string[]> =>
      (await node('reader', 'r').list()).map(({ name, isOnline }) => `${name} ${isOnline ? 'online' : 'stale'}`)

    test('a row says what clients of the list expect', async () => {
      const one = node('node-1', 'id-1')
      expect(await one.beat()).toBe('node-1')
      const [row] = await one.list()
      expect(row).toMatchObject({ name: 'node-1', isOnline: true, startedAtSec: 1_700_000_000 })
      expect(Math.abs(row!.lastSeenAtSec - Date.now() / 1000)).toBeLessThan(60)
      expect(row!.info).toEqual({
        schema_version: 1,
        node: {
          name: 'node-1',
          source: 'manual',
          manually_configured: true,
          should_configure_manually: false,
          id: 'id-1',
        },
        role: { is_master: false },
        runtime: { version: 'v9', goos: 'linux', goarch: 'amd64', started_at: 1_700_000_000 },
        host: { hostname: 'host' },
        resources: {
          cpu: { usage_percent: 12.3 },
          memory: { usage_percent: 50 },
          storage: { total_bytes: 1_000, used_bytes: 750, free_bytes: 250, used_percent: 75 },
        },
      })
    })

    test('nodes of one name, that start at one moment, are all seen, each under its own name, also after restarts', async () => {
      const three = ['a', 'b', 'c'].map((id) => node('same', id))
      const given = await Promise.all(three.map((each) => each.beat()))
      expect([...given].sort()).toEqual(['same', 'same#2', 'same#3'])
      expect(await Promise.all(three.map((each) => each.beat()))).toEqual(given)
      expect(await node('same', 'b').beat()).toBe(given[1]!)
      expect(await names()).toEqual(['same online', 'same#2 online', 'same#3 online'])
    })

    test('a node that dies is stale; one that stops is so at once, and its name is free', async () => {
      const [dead, stopped] = [node('dead', 'd'), node('stopped', 's')]
      await Promise.all([dead.beat(), stopped.beat()])
      await age('dead', STALE_SEC - 5)
      expect(await names()).toEqual(['dead online', 'stopped online'])
      await age('dead', STALE_SEC)
      await stopped.leave()
      expect(await names()).toEqual(['dead stale', 'stopped stale'])
      expect(await node('stopped', 'another').beat()).toBe('stopped')
      // The dead one was only frozen: it is there again.
      await dead.beat()
      expect(await names()).toEqual(['dead online', 'stopped online'])
      // A node whose name was given away while it was frozen gets another.
      expect(await stopped.beat()).toBe('stopped#2')
    })

    test('only stale nodes are forgotten, all or one by name, and only those unseen for so long', async () => {
      const nodes = ['a', 'b', 'c', 'd'].map((name) => node(name, name))
      for (const each of nodes) await each.beat()
      await age('b', STALE_SEC + 10)
      await age('c', STALE_SEC + 1_000)
      await age('d', STALE_SEC + 1_000)
      const [reader] = nodes
      expect(await reader!.removeStale({ name: 'a' })).toBe(0)
      expect(await reader!.removeStale({ name: 'd' })).toBe(1)
      expect(await reader!.removeStale({ olderThanSec: 500 })).toBe(1)
      expect(await names()).toEqual(['a online', 'b stale'])
      expect(await reader!.removeStale()).toBe(1)
      expect(await names()).toEqual(['a online'])
    })
  })
}
