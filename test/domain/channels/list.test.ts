/** Lists and searches, on every engine: both must agree on cases, wildcards and blanks. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { ChannelFilter } from '../../../src/domain/channels/index.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'
import { type Node, startNode } from './harness.ts'

for (const engine of ENGINES) {
  describe(engine.name, () => {
    let database: TestDb
    let node: Node
    const ids: Record<string, number> = {}
    beforeAll(async () => {
      database = await engine.freshDb()
      node = await startNode(database.db)
      const add = async (name: string, channel: object, mode = 'single') => {
        const input = { mode, channel: { type: 1, key: `key-${name}`, name, models: 'gpt-4o', ...channel } }
        ids[name] = (await node.channels.create(input))[0] ?? 0
      }
      await add('Alpha', { priority: 5, group: 'default,vip', tag: 'x' })
      await add('beta', { priority: 9, type: 14, models: 'claude-opus', tag: 'y', base_url: 'https://my_host.example' })
      await add('100%', { priority: 5, group: 'vip2', key: 'k1\nk2', tag: 'x' }, 'multi_to_single')
      await add('delta', { priority: 1, status: 2 })
    }, 120_000)
    afterAll(async () => {
      await node.stop()
      await database.close()
    }, 60_000)

    const list = async (more: Partial<ChannelFilter> = {}) => {
      const sort = { by: 'priority', isDescending: true } as const
      const found = await node.channels.list({ sort, isByTag: false, offset: 0, limit: 10, ...more })
      return { names: found.rows.map(({ name }) => name ?? ''), total: found.total, typeCounts: found.typeCounts }
    }

    test('by priority, equal ones newest first; by page', async () => {
      expect(await list()).toEqual({ names: ['beta', '100%', 'Alpha', 'delta'], total: 4, typeCounts: { 1: 3, 14: 1 } })
      expect((await list({ offset: 1, limit: 2 })).names).toEqual(['100%', 'Alpha'])
      expect((await list({ offset: 9 })).names).toEqual([])
    })
    test('by other fields, either way', async () => {
      expect((await list({ sort: { by: 'id', isDescending: true } })).names[0]).toBe('delta')
      expect((await list({ sort: { by: 'name', isDescending: false } })).names[0]).toBe('100%')
    })
    test('filters; the counts by type do not follow the type', async () => {
      expect(await list({ type: 14 })).toEqual({ names: ['beta'], total: 1, typeCounts: { 1: 3, 14: 1 } })
      expect((await list({ group: 'vip' })).names).toEqual(['Alpha'])
      expect(await list({ status: 'disabled' })).toEqual({ names: ['delta'], total: 1, typeCounts: { 1: 1 } })
      expect((await list({ status: 'enabled' })).total).toBe(3)
    })
    test.each<[Partial<ChannelFilter>, string[]]>([
      [{ keyword: 'ALPH' }, ['Alpha']],
      [{ keyword: '%' }, ['100%']],
      [{ keyword: '_' }, ['beta']],
      [{ keyword: 'my_host' }, ['beta']],
      [{ keyword: 'key-Alpha' }, ['Alpha']],
      [{ keyword: 'key-alpha' }, []],
      [{ keyword: 'key-Alph' }, []],
      [{ keyword: 'k2' }, ['100%']],
      [{ keyword: 'k1\nk2' }, []],
      [{ model: 'OPUS' }, ['beta']],
      [{ model: 'gpt', keyword: 'a', status: 'enabled' }, ['Alpha']],
    ])('search for %j', async (filter, names) => {
      expect((await list(filter)).names).toEqual(names)
    })
    test('by id', async () => {
      expect((await list({ keyword: String(ids['beta']) })).names).toContain('beta')
    })
    test('a page of tags shows all channels of each and counts tags', async () => {
      expect(await list({ isByTag: true, limit: 1 })).toMatchObject({ names: ['beta'], total: 2 })
      expect(await list({ isByTag: true, limit: 1, offset: 1 })).toMatchObject({ names: ['100%', 'Alpha'], total: 2 })
    })
  })
}
