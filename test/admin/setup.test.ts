import { afterAll, beforeEach, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { createTestNode, logIn, ROOT, type TestNode } from './harness.ts'

const good = { ...ROOT, confirmPassword: ROOT.password }

for (const engine of ENGINES) {
  describe(`set-up on ${engine.name}`, () => {
    let testDb: TestDb
    const closers: (() => Promise<void>)[] = []
    const closeAll = async (): Promise<void> => {
      for (const close of closers.splice(0).reverse()) await close()
    }
    beforeEach(async () => {
      await closeAll()
      testDb = await engine.freshDb()
      closers.push(() => testDb.close())
    }, 120_000)
    afterAll(closeAll)

    const newNode = async (): Promise<TestNode> => {
      const node = await createTestNode(testDb.db)
      closers.push(() => node.close())
      return node
    }

    test('a new installation says so, is set up once, and its root can log in', async () => {
      const node = await newNode()
      const before = await node.call('GET', '/api/setup')
      expect(before.json).toEqual({
        success: true,
        data: { status: false, root_init: false, database_type: testDb.db.engine },
      })
      const body = { ...good, SelfUseModeEnabled: true, DemoSiteEnabled: false }
      expect((await node.call('POST', '/api/setup', { body })).json).toEqual({ success: true, message: '' })
      expect((await node.call('GET', '/api/setup')).json.data).toEqual({
        status: true,
        root_init: false,
        database_type: '',
      })
      expect((await node.call('GET', '/api/status')).json.data).toMatchObject({
        setup: true,
        self_use_mode_enabled: true,
        demo_site_enabled: false,
      })
      const self = await node.ok('GET', '/api/user/self', { token: await logIn(node, ROOT) })
      expect(self).toMatchObject({
        role: 100,
        status: 1,
        quota: 100_000_000,
        display_name: 'Root User',
        group: 'default',
      })
    })

    test('no second set-up, whatever it sends', async () => {
      const node = await newNode()
      await node.ok('POST', '/api/setup', { body: good })
      const other = { username: 'intruder', password: 'another one', confirmPassword: 'another one' }
      expect(await node.refused('POST', '/api/setup', { body: other })).toBe('setup_done')
      expect(await testDb.db.$count(testDb.db.tables.users)).toBe(1)
    })

    test('there is no default password: bad input leaves the installation open', async () => {
      const node = await newNode()
      const cases = [
        [{ ...good, password: 'short', confirmPassword: 'short' }, 'password_invalid'],
        [{ ...good, password: '', confirmPassword: '' }, 'password_invalid'],
        [{ ...good, password: 'x'.repeat(73), confirmPassword: 'x'.repeat(73) }, 'password_invalid'],
        [{ ...good, confirmPassword: 'something else' }, 'password_mismatch'],
        [{ ...good, username: '' }, 'username_invalid'],
        [{ ...good, username: 'two words' }, 'username_invalid'],
        [{ ...good, username: 'x'.repeat(21) }, 'username_invalid'],
        [{}, 'invalid_parameters'],
        [{ username: { $ne: '' }, password: 'correct horse' }, 'invalid_parameters'],
      ] as const
      for (const [body, code] of cases) expect(await node.refused('POST', '/api/setup', { body })).toBe(code)
      expect(await testDb.db.$count(testDb.db.tables.users)).toBe(0)
      expect((await node.call('GET', '/api/setup')).json.data.status).toBe(false)
    })

    test('of many set-ups at once on two nodes, exactly one succeeds', async () => {
      const nodes = [await newNode(), await newNode()]
      const attempts = Array.from({ length: 10 }, (_, i) =>
        nodes[i % 2]?.call('POST', '/api/setup', { body: { ...good, username: `root${i}` } }),
      )
      const replies = await Promise.all(attempts)
      expect(replies.filter((reply) => reply?.json.success)).toHaveLength(1)
      expect(replies.filter((reply) => reply?.json.code === 'setup_done')).toHaveLength(9)
      const { users, setups } = testDb.db.tables
      expect(await testDb.db.$count(users, eq(users.role, 100))).toBe(1)
      expect(await testDb.db.$count(setups)).toBe(1)
    }, 20_000)

    test('the other node learns of it by itself', async () => {
      const [one, two] = [await newNode(), await newNode()]
      await one.ok('POST', '/api/setup', { body: good })
      await eventually('the other node is set up', async () => (await two.call('GET', '/api/setup')).json.data.status)
    })

    test('a database with a root user counts as set up, and nobody can set it up again', async () => {
      const { users, setups } = testDb.db.tables
      await testDb.db.insert(users).values({ username: 'old root', password: 'x', role: 100, affCode: '' })
      const node = await newNode()
      expect((await node.call('GET', '/api/setup')).json.data.status).toBe(true)
      expect(await node.refused('POST', '/api/setup', { body: good })).toBe('setup_done')
      expect(await testDb.db.$count(setups)).toBe(1)
    })
  })
}
