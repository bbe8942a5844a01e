/** Tests of all channels: which ones, what becomes of them, one run at a time, and a run that is cut short. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { inArray } from 'drizzle-orm'
import { createTestChannels, type TestQuery } from '../../src/domain/channels/index.ts'
import { testChannelsTask, testPeriodMs } from '../../src/jobs/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import { type Node, startNode } from '../domain/channels/harness.ts'
import { ask, CHAT, openRelayWorld, type RelayWorld } from '../relay/world.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'

const NO_PROGRESS = async (): Promise<void> => {}

for (const engine of ENGINES)
  describe(engine.name, () => {
    let database: TestDb
    let node: Node
    let tested: TestQuery[]
    let answers: Map<number, { readonly isOk: boolean; readonly ms: number }>
    beforeAll(async () => {
      database = await engine.freshDb()
      node = await startNode(database.db)
    }, 120_000)
    afterAll(async () => {
      await node.stop()
      await database.close()
    }, 60_000)
    beforeEach(async () => {
      tested = []
      answers = new Map()
      await node.options.set({
        AutomaticDisableChannelEnabled: 'true',
        AutomaticEnableChannelEnabled: 'true',
        ChannelDisableThreshold: '5',
        'monitor_setting.channel_test_mode': 'scheduled_all',
      })
      node.channels.setTester(async (query) => {
        tested.push(query)
        const { isOk, ms } = answers.get(query.channel.id) ?? { isOk: true, ms: 10 }
        return { isOk, ms, message: isOk ? '' : 'no' }
      })
    })
    afterEach(async () => {
      const { channels } = database.db.tables
      const rows = await database.db.select({ id: channels.id }).from(channels)
      await node.channels.remove(rows.map(({ id }) => id))
    })

    const create = async (status = 1, fields: Record<string, unknown> = {}): Promise<number> => {
      const input = { mode: 'single', channel: { type: 1, key: 'sk', name: 'c', models: 'm', ...fields } }
      const id = (await node.channels.create(input))[0] ?? 0
      const { channels } = database.db.tables
      await database.db
        .update(channels)
        .set({ status })
        .where(inArray(channels.id, [id]))
      await node.topics.changed('channels')
      return id
    }
    const all = createTestChannelsOf(() => node)
    const statuses = async (...ids: readonly number[]) =>
      Promise.all(ids.map(async (id) => (await node.channels.get(id)).status))
    const testedIds = () => tested.map(({ channel }) => channel.id)

    test('what was disabled automatically comes back if it serves in time; what a person disabled is not even tested', async () => {
      const [fine, broken, slow, back, byHand] = [
        await create(),
        await create(3),
        await create(3),
        await create(3),
        await create(2),
      ]
      answers.set(broken, { isOk: false, ms: 10 }).set(slow, { isOk: true, ms: 6_000 })
      const result = await all({ signal: new AbortController().signal, progress: NO_PROGRESS })
      expect(testedIds()).toEqual([fine, broken, slow, back])
      expect(await statuses(fine, broken, slow, back, byHand)).toEqual([1, 3, 3, 1, 2])
      expect(result).toEqual({ last_channel_id: back, total: 4, tested: 4, failed: 2, enabled: 1 })
    })
    test('one that answers too slowly is disabled, unless it may not be, or tests only bring back', async () => {
      const [slow, exempt] = [await create(), await create(1, { auto_ban: 0 })]
      for (const id of [slow, exempt]) answers.set(id, { isOk: true, ms: 6_000 })
      await node.options.set({ 'monitor_setting.channel_test_mode': 'passive_recovery' })
      await all({ signal: new AbortController().signal, progress: NO_PROGRESS })
      expect([testedIds(), await statuses(slow, exempt)]).toEqual([[], [1, 1]])
      await node.options.set({ 'monitor_setting.channel_test_mode': 'scheduled_all' })
      await all({ signal: new AbortController().signal, progress: NO_PROGRESS })
      expect(await statuses(slow, exempt)).toEqual([3, 1])
    })
    test('a mode leaves out those that may not be banned; kinds that cannot be tested are left out', async () => {
      const [banned, exempt] = [await create(), await create(1, { auto_ban: 0 })]
      await create(1, { type: 1, name: 'odd' })
      const { channels } = database.db.tables
      const odd = Math.max(...(await database.db.select({ id: channels.id }).from(channels)).map(({ id }) => id))
      await database.db
        .update(channels)
        .set({ type: 999 })
        .where(inArray(channels.id, [odd]))
      await node.topics.changed('channels')
      await node.options.set({ 'monitor_setting.channel_test_mode': 'auto_ban_only' })
      await all({ signal: new AbortController().signal, progress: NO_PROGRESS })
      expect(testedIds()).toEqual([banned])
      expect(exempt).toBeGreaterThan(banned)
    })
    test('a run that is cut short goes on where it stopped', async () => {
      const ids = [await create(), await create(), await create()]
      const stop = new AbortController()
      let state: unknown = null
      const task = testChannelsTask(all)
      const run = task.run({
        payload: {},
        state,
        signal: stop.signal,
        progress: async (next) => {
          state = next
          stop.abort(new Error('the node is stopping'))
        },
      })
      expect(await run.catch((error: Error) => error.message)).toBe('the node is stopping')
      expect(testedIds()).toEqual(ids.slice(0, 1))
      await task.run({ payload: {}, state, signal: new AbortController().signal, progress: NO_PROGRESS })
      expect(testedIds()).toEqual(ids)
    })
    test('when it is due: the variables go before the options, and the switch before both', async () => {
      const period = (channelTestMinutes: number, channelTestWanted: string) =>
        testPeriodMs({ channelTestMinutes, channelTestWanted }, node.options) / 60_000
      expect([period(0, ''), period(7, ''), period(7, 'false'), period(0, 'true')]).toEqual([0, 7, 0, 10])
      await node.options.set({ 'monitor_setting.auto_test_channel_enabled': 'true' })
      expect([period(0, ''), period(7, ''), period(0, 'false')]).toEqual([10, 7, 0])
      await node.options.set({ 'monitor_setting.auto_test_channel_enabled': 'false' })
    })
  })

/** As the composition root makes it. */
function createTestChannelsOf(node: () => Node): ReturnType<typeof createTestChannels> {
  return (run) =>
    createTestChannels({
      db: node().db,
      channels: node().channels,
      options: node().options,
      pauseMs: 0,
      log: silentLog,
    })(run)
}

describe('over HTTP', () => {
  let world: RelayWorld
  beforeAll(async () => {
    world = await openRelayWorld({
      settings: { AutomaticDisableChannelEnabled: 'true', AutomaticEnableChannelEnabled: 'true' },
    })
  }, 60_000)
  afterAll(() => world.close(), 60_000)

  test('asked for by an administrator, all channels are tested through their upstreams; a second request meanwhile is 409', async () => {
    const { admin } = world.app
    const status = async (id: number) => (await admin.call<{ status: number }>('GET', `/api/channel/${id}`)).status
    const { model, channel } = await world.model({ behaviour: { status: 401 } })
    const byHand = await world.channel({ model, sentAs: 'by-hand' })
    await admin.call('POST', `/api/channel/${byHand}/status`, { status: 2 })
    expect((await world.post(CHAT, ask(model))).status).toBe(401)
    await eventually('the channel is disabled', async () => (await status(channel)) === 3)
    world.upstream.on(model, { delayMs: 300 })
    const { task_id } = await admin.call<{ task_id: string }>('GET', '/api/channel/test')
    expect(await admin.call('GET', '/api/channel/test').catch((error: Error) => error.message)).toContain(
      `409 {"success":false,"message":"A task of this kind is already waiting or running: ${task_id}"`,
    )
    await eventually('the channel is back', async () => (await status(channel)) === 1)
    const ended = await eventually(
      'the task has ended',
      async () => {
        const task = await admin.call<{ status: string; result: unknown }>('GET', `/api/system-task/${task_id}`)
        return task.status === 'succeeded' ? task : undefined
      },
      { withinMs: 20_000 },
    )
    expect(ended.result).toMatchObject({ tested: 1, failed: 0, enabled: 1 })
    expect(await status(byHand)).toBe(2)
    expect(world.upstream.requests.some((request) => request.model === 'by-hand')).toBe(false)
  }, 60_000)
})
