/** Channels that are taken out of service by failures, and brought back by tests, on every engine. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import type { CreateInput, TestQuery } from '../../../src/domain/channels/index.ts'
import { GatewayError } from '../../../src/errors.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'
import { type Node, servedBy, startNode } from './harness.ts'

const refused = (message = 'bad key', status = 401) =>
  new GatewayError('bad_response_status_code', { status, upstream: { status, message } })

let unique = 0

for (const engine of ENGINES) {
  describe(engine.name, () => {
    let database: TestDb
    let node: Node
    let model: string
    beforeAll(async () => {
      database = await engine.freshDb()
      node = await startNode(database.db)
    }, 120_000)
    afterAll(async () => {
      await node.stop()
      await database.close()
    }, 60_000)
    beforeEach(async () => {
      model = `model-${++unique}`
      await node.options.set({ AutomaticDisableChannelEnabled: 'true', AutomaticEnableChannelEnabled: 'true' })
    })

    const create = async (channel: CreateInput['channel'] = {}, mode = 'single'): Promise<number> => {
      const input = { mode, channel: { type: 1, key: 'sk-1', name: 'c', models: model, ...channel } }
      return (await node.channels.create(input))[0] ?? 0
    }
    const report = async (channelId: number, error = refused(), keyIndex = 0): Promise<void> => {
      node.channels.report({ channelId, keyIndex, error })
      await node.channels.idle()
    }
    const statusOf = async (id: number) => (await node.channels.get(id)).status
    const keyStatuses = async (id: number) => (await node.channels.keys(id)).keys.map(({ status }) => status)

    test('a refusal of the account disables the channel at once, with the reason and without its secrets', async () => {
      const id = await create()
      await report(id, refused('no, key sk-abcdef123456 is wrong'))
      expect([await statusOf(id), servedBy(node, model)]).toEqual([3, []])
      const info = JSON.parse((await node.channels.get(id)).otherInfo ?? '')
      expect(info).toEqual({ status_reason: 'no, key sk-*** is wrong', status_time: expect.any(Number) })
      const { abilities } = node.db.tables
      const rows = await node.db.select().from(abilities).where(eq(abilities.channelId, id))
      expect(rows.map(({ enabled }) => enabled)).toEqual([false])
    })
    test('the texts that the option names do as well, whatever the status', async () => {
      const id = await create()
      await report(id, refused('YOUR CREDIT BALANCE IS TOO LOW to go on', 400))
      expect(await statusOf(id)).toBe(3)
    })
    test('other failures, a channel that may not be banned, and a switch that is off leave it alone', async () => {
      const [other, exempt] = [await create(), await create({ auto_ban: 0 })]
      await report(other, refused('busy', 500))
      await report(exempt)
      await node.options.set({ AutomaticDisableChannelEnabled: 'false' })
      await report(other)
      expect([await statusOf(other), await statusOf(exempt)]).toEqual([1, 1])
    })
    test('what a person disabled stays theirs, even when this process has not heard of it yet', async () => {
      const id = await create()
      const { channels } = node.db.tables
      await node.db.update(channels).set({ status: 2, otherInfo: 'theirs' }).where(eq(channels.id, id))
      await report(id)
      expect(await node.channels.get(id)).toMatchObject({ status: 2, otherInfo: 'theirs' })
      await node.channels.setStatus([id], 1, 'manual operation')
    })
    test('a burst of failures is one event', async () => {
      const id = await create()
      for (let n = 0; n < 50; n++) node.channels.report({ channelId: id, keyIndex: 0, error: refused(`no ${n}`) })
      await node.channels.idle()
      expect(JSON.parse((await node.channels.get(id)).otherInfo ?? '').status_reason).toBe('no 0')
    })
    test('of several keys only the one in use is disabled, and the channel with the last', async () => {
      const id = await create({ key: 'a\nb' }, 'multi_to_single')
      await report(id, refused(), 1)
      expect([await keyStatuses(id), await statusOf(id), servedBy(node, model)]).toEqual([[1, 3], 1, [id]])
      expect((await node.channels.keys(id)).keys[1]).toMatchObject({
        reason: 'bad key',
        disabledTime: expect.any(Number),
      })
      await report(id, refused(), 0)
      expect([await keyStatuses(id), await statusOf(id), servedBy(node, model)]).toEqual([[3, 3], 3, []])
      expect(JSON.parse((await node.channels.get(id)).otherInfo ?? '').status_reason).toBe('All keys are disabled')
    })
    test('an index that means another key by now disables none', async () => {
      const id = await create({ key: 'a\nb\nc' }, 'multi_to_single')
      const { channels } = node.db.tables
      await node.db.update(channels).set({ key: 'b\nc' }).where(eq(channels.id, id))
      await report(id, refused(), 0)
      expect(await keyStatuses(id)).toEqual([1, 1])
    })
    test('a failure of a channel that is gone is nothing', async () => {
      await report(999_999)
      const id = await create()
      node.channels.report({ channelId: id, keyIndex: 0, error: refused() })
      await Promise.all([node.channels.remove([id]), node.channels.idle()])
      expect(servedBy(node, model)).toEqual([])
    })

    describe('channel tests', () => {
      const user = { id: 1, name: 'root' }
      const run = (id: number, more: Partial<TestQuery> = {}) =>
        node.channels.test(id, { model: '', endpointType: '', isStream: false, user, ...more })
      const answer = (isOk: boolean) => {
        const seen: TestQuery[] = []
        node.channels.setTester(async (query) => {
          seen.push(query)
          return { isOk, message: isOk ? '' : 'no', ms: 12.4 }
        })
        return seen
      }
      test('use the model asked for, the test model, or the first one; the time is kept', async () => {
        const seen = answer(true)
        const id = await create({ models: `${model},b`, test_model: 't' })
        await run(id, { model: 'asked', isStream: true })
        await run(id)
        await node.channels.update({ id, test_model: '' }, ['id', 'test_model'], { isSensitiveAllowed: true })
        await run(id)
        expect(seen.map((query) => query.model)).toEqual(['asked', 't', model])
        expect(seen[0]).toMatchObject({ isStream: true, user, channel: { id, keys: ['sk-1'] } })
        expect(await node.channels.get(id)).toMatchObject({ responseTime: 12, testTime: expect.any(Number) })
      })
      test('a success brings back what was disabled automatically, and nothing else', async () => {
        answer(true)
        const [automatic, manual] = [await create(), await create()]
        await report(automatic)
        await node.channels.setStatus([manual], 2, 'manual operation')
        await run(automatic)
        await run(manual)
        expect([await statusOf(automatic), await statusOf(manual), servedBy(node, model)]).toEqual([1, 2, [automatic]])
      })
      test('a failure, or the option switched off, brings nothing back', async () => {
        answer(false)
        const id = await create()
        await report(id)
        expect(await run(id)).toMatchObject({ isOk: false, message: 'no' })
        answer(true)
        await node.options.set({ AutomaticEnableChannelEnabled: 'false' })
        await run(id)
        expect(await statusOf(id)).toBe(3)
      })
    })
  })
}
