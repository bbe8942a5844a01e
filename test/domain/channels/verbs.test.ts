/** What administrators do to channels, on every engine: what is stored, and what calls are routed by right after. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { bumpTopic } from '../../../src/db/index.ts'
import type { CreateInput } from '../../../src/domain/channels/index.ts'
import type { UpdateInput } from '../../../src/domain/channels/update.ts'
import { GatewayError } from '../../../src/errors.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { type Node, servedBy, startNode } from './harness.ts'

const codeOf = async (work: Promise<unknown>): Promise<string> => {
  try {
    await work
    return 'no error'
  } catch (error) {
    return error instanceof GatewayError ? error.code : String(error)
  }
}

let unique = 0
/** A model that no other test serves. */
const newModel = (): string => `model-${++unique}`

for (const engine of ENGINES) {
  describe(engine.name, () => {
    let database: TestDb
    let node: Node
    beforeAll(async () => {
      database = await engine.freshDb()
      node = await startNode(database.db)
    }, 120_000)
    afterAll(async () => {
      await node.stop()
      await database.close()
    }, 60_000)

    const create = async (
      channel: CreateInput['channel'],
      more: Partial<CreateInput> = {},
    ): Promise<readonly number[]> =>
      node.channels.create({ mode: 'single', ...more, channel: { type: 1, key: 'sk-1', name: 'c', ...channel } })
    const createOne = async (channel: CreateInput['channel'], more: Partial<CreateInput> = {}): Promise<number> =>
      (await create(channel, more))[0] ?? 0
    const update = (input: UpdateInput, isSensitiveAllowed = true) =>
      node.channels.update(input, Object.keys(input), { isSensitiveAllowed })
    const abilitiesOf = async (id: number) => {
      const { abilities } = node.db.tables
      const rows = await node.db.select().from(abilities).where(eq(abilities.channelId, id))
      return rows
        .map(({ group, model, enabled, priority, weight, tag }) => ({ group, model, enabled, priority, weight, tag }))
        .sort((a, b) => (`${a.group} ${a.model}` < `${b.group} ${b.model}` ? -1 : 1))
    }

    describe('create', () => {
      test('the channel is routed to when the call returns, and its abilities are written', async () => {
        const model = newModel()
        const id = await createOne({ models: `${model},other`, group: 'default,vip', priority: 3, weight: 2, tag: 't' })
        expect(servedBy(node, model, 'vip')).toEqual([id])
        const rest = { enabled: true, priority: 3, weight: 2, tag: 't' }
        expect(await abilitiesOf(id)).toEqual([
          { group: 'default', model, ...rest },
          { group: 'default', model: 'other', ...rest },
          { group: 'vip', model, ...rest },
          { group: 'vip', model: 'other', ...rest },
        ])
        expect(await node.channels.get(id)).toMatchObject({ status: 1, usedQuota: 0, testTime: 0, key: 'sk-1' })
      })
      test('another node follows within moments, without any message', async () => {
        const other = await startNode(await database.open())
        const model = newModel()
        const id = await createOne({ models: model })
        await eventually('the other node routes to it', () => servedBy(other, model)[0] === id)
        await node.channels.remove([id])
        await eventually('the other node forgets it', () => servedBy(other, model).length === 0)
        await other.stop()
        await other.db.close()
      }, 20_000)
      test('a batch makes a channel per line, and names do not add up', async () => {
        const model = newModel()
        const ids = await create(
          { models: model, key: ' key-aaaa-1 \n\nkey-bbbb-2\n', name: 'n' },
          { mode: 'batch', isNamedByKey: true },
        )
        const rows = await Promise.all(ids.map((id) => node.channels.get(id)))
        expect(rows.map(({ name, key }) => [name, key])).toEqual([
          ['n key-aaaa', 'key-aaaa-1'],
          ['n key-bbbb', 'key-bbbb-2'],
        ])
        expect(servedBy(node, model)).toEqual([...ids])
      })
      test('several keys in one channel', async () => {
        const model = newModel()
        const id = await createOne(
          { models: model, key: 'a\nb\n\n c ' },
          { mode: 'multi_to_single', multiKeyMode: 'polling' },
        )
        const row = await node.channels.get(id)
        expect(row.key).toBe('a\nb\nc')
        expect(JSON.parse(row.channelInfo ?? '')).toEqual({
          is_multi_key: true,
          multi_key_size: 3,
          multi_key_status_list: null,
          multi_key_polling_index: 0,
          multi_key_mode: 'polling',
        })
        const found = node.channels.find(id)
        if (!found) throw new Error('not in the snapshot')
        expect([1, 2, 3, 4].map(() => node.channels.takeKey(found)?.key)).toEqual(['a', 'b', 'c', 'a'])
      })
      test('a channel may begin disabled', async () => {
        const model = newModel()
        const id = await createOne({ models: model, status: 2 })
        expect(servedBy(node, model)).toEqual([])
        expect((await abilitiesOf(id))[0]?.enabled).toBe(false)
      })
      test.each<[string, CreateInput['channel'], Partial<CreateInput>]>([
        ['channel_key_required', { key: ' \n' }, {}],
        ['channel_key_required', { key: '\n' }, { mode: 'batch' }],
        ['channel_mode_unknown', {}, { mode: 'many' }],
        ['channel_mode_unknown', {}, { mode: 'multi_to_single', multiKeyMode: 'x' }],
        ['channel_type_unknown', { type: 999 }, {}],
        ['channel_field_required', { name: ' ' }, {}],
        ['channel_field_required', { type: 3 }, {}],
        ['channel_field_too_long', { models: 'm'.repeat(256) }, {}],
        ['channel_field_too_long', { name: 'n'.repeat(192) }, {}],
        ['channel_field_too_long', { group: 'g'.repeat(65) }, {}],
        ['channel_field_invalid', { weight: -1 }, {}],
        ['channel_field_invalid', { setting: '{' }, {}],
        ['channel_field_invalid', { settings: '[]' }, {}],
        ['channel_field_invalid', { setting: '{"proxy":"ftp://x"}' }, {}],
        ['channel_field_invalid', { setting: '{"http2_connection_shards":9}' }, {}],
        ['channel_field_invalid', { model_mapping: 'x' }, {}],
        ['channel_field_invalid', { param_override: `{"a":"${'x'.repeat(66_000)}"}` }, {}],
      ])('%s: %j %j stores nothing', async (code, channel, more) => {
        const before = await node.db.$count(node.db.tables.channels)
        expect(await codeOf(create(channel, more))).toBe(code)
        expect(await node.db.$count(node.db.tables.channels)).toBe(before)
      })
      test('the limits of names hold exactly', async () => {
        const model = 'm'.repeat(255)
        const id = await createOne({ models: model, name: '名'.repeat(191), remark: '🙂'.repeat(100) })
        expect(servedBy(node, model)).toEqual([id])
        await node.channels.remove([id])
      })
    })

    describe('update', () => {
      test('routing and abilities follow at once', async () => {
        const [before, after] = [newModel(), newModel()]
        const id = await createOne({ models: before })
        const { changed } = await update({ id, models: after, group: 'vip', priority: 9, tag: 'x' })
        expect([...changed].sort()).toEqual(['group', 'models', 'priority', 'tag'])
        expect([servedBy(node, before), servedBy(node, after, 'vip')]).toEqual([[], [id]])
        expect(await abilitiesOf(id)).toEqual([
          { group: 'vip', model: after, enabled: true, priority: 9, weight: 0, tag: 'x' },
        ])
      })
      test('zero values of plain fields say nothing, nullable fields may be emptied', async () => {
        const id = await createOne({
          models: newModel(),
          other: 'o',
          settings: '{"a":1}',
          weight: 5,
          priority: 5,
          tag: 't',
          remark: 'r',
          model_mapping: '{"a":"b"}',
        })
        await update({ id, name: '', models: '', group: '', other: '', settings: '', type: 0, key: '' })
        const kept = await node.channels.get(id)
        expect(kept).toMatchObject({
          name: 'c',
          other: 'o',
          settings: '{"a":1}',
          type: 1,
          group: 'default',
          key: 'sk-1',
        })
        await update({ id, weight: 0, priority: null, tag: '', remark: null, model_mapping: '' })
        expect(await node.channels.get(id)).toMatchObject({
          weight: 0,
          priority: null,
          tag: '',
          remark: null,
          modelMapping: '',
        })
      })
      test('what is measured is not changed by whoever sends it back', async () => {
        const id = await createOne({ models: newModel() })
        const sent = {
          id,
          used_quota: 5,
          balance: 5,
          created_time: 1,
          test_time: 1,
          channel_info: { is_multi_key: true },
        }
        expect((await update(sent as UpdateInput, false)).changed).toEqual([])
        expect(await node.channels.get(id)).toMatchObject({ usedQuota: 0, balance: 0 })
      })
      test.each([
        { type: 43 },
        { key: 'sk-2' },
        { base_url: 'https://evil' },
        { openai_organization: 'o' },
        { header_override: '{"a":"b"}' },
        { param_override: '{"a":1}' },
        { setting: '{"proxy":"http://evil"}' },
        { other: 'x' },
        { settings: '{"x":1}' },
        { is_admin: true },
      ])('without the right to it, %j is refused and nothing of the call is stored', async (fields) => {
        const id = await createOne({ models: newModel() })
        const before = await node.channels.get(id)
        expect(await codeOf(update({ id, name: 'new', ...fields } as UpdateInput, false))).toBe(
          'channel_fields_forbidden',
        )
        expect(await node.channels.get(id)).toEqual(before)
      })
      test('sensitive fields that are sent back as they are need no right', async () => {
        const id = await createOne({ models: newModel(), base_url: 'https://h', settings: '{"a":1}' })
        const sent = { id, type: 1, base_url: 'https://h', settings: '{"a":1}', other: '', setting: null, name: 'new' }
        expect((await update(sent, false)).changed).toEqual(['name'])
      })
      test('a field that is not known is never stored, and a wrong one undoes the whole call', async () => {
        const id = await createOne({ models: newModel() })
        await update({ id, surprise: 1, name: 'new' } as unknown as UpdateInput)
        expect((await node.channels.get(id)).name).toBe('new')
        expect(await codeOf(update({ id, name: 'newer', setting: '{' }))).toBe('channel_field_invalid')
        expect(await codeOf(update({ id, name: 'newer', type: 999 }))).toBe('channel_type_unknown')
        expect((await node.channels.get(id)).name).toBe('new')
        expect(await codeOf(update({ id: 999_999, name: 'x' }))).toBe('channel_not_found')
      })
      test('keys are appended once each, or replaced, and what is known of a key moves with it', async () => {
        const id = await createOne({ models: newModel(), key: 'a\nb\nc' }, { mode: 'multi_to_single' })
        await node.channels.manageKeys(id, { kind: 'disable', index: 2 })
        await update({ id, key: 'b\nd', key_mode: 'append' })
        expect((await node.channels.get(id)).key).toBe('a\nb\nc\nd')
        await update({ id, key: 'c\ne', key_mode: 'replace', multi_key_mode: 'polling' })
        const row = await node.channels.get(id)
        expect(row.key).toBe('c\ne')
        expect(JSON.parse(row.channelInfo ?? '')).toMatchObject({
          multi_key_size: 2,
          multi_key_status_list: { 0: 2 },
          multi_key_mode: 'polling',
        })
      })
    })

    describe('status', () => {
      test('a disabled channel serves no more, an enabled one at once; the reason is kept', async () => {
        const model = newModel()
        const id = await createOne({ models: model })
        expect(await node.channels.setStatus([id], 2, 'manual operation')).toBe(1)
        expect([servedBy(node, model), (await abilitiesOf(id))[0]?.enabled]).toEqual([[], false])
        expect(JSON.parse((await node.channels.get(id)).otherInfo ?? '')).toMatchObject({
          status_reason: 'manual operation',
          status_time: expect.any(Number),
        })
        expect(await node.channels.setStatus([id], 2, 'manual operation')).toBe(0)
        expect(await node.channels.setStatus([id, 999_999], 1, 'manual batch operation')).toBe(1)
        expect([servedBy(node, model), (await abilitiesOf(id))[0]?.enabled]).toEqual([[id], true])
      })
      test('by tag, compared exactly', async () => {
        const model = newModel()
        const [a, b] = [
          await createOne({ models: model, tag: 'Blue' }),
          await createOne({ models: model, tag: 'blue' }),
        ]
        expect(await node.channels.setTagStatus('Blue', 2)).toBe(1)
        expect(servedBy(node, model)).toEqual([b])
        expect(await node.channels.setTagStatus('Blue', 1)).toBe(1)
        expect(servedBy(node, model)).toEqual([a, b])
      })
    })

    test('tags: put on, changed together, taken away', async () => {
      const [short, long] = [newModel(), `${newModel()},${newModel()}`]
      const ids = [await createOne({ models: short }), await createOne({ models: long })]
      expect(await node.channels.setTag([...ids, 999_999], 'team')).toBe(2)
      expect(await node.channels.tagModels('team')).toBe(long)
      const model = newModel()
      const fields = { models: model, priority: 7, weight: undefined, group: undefined, param_override: '{"a":1}' }
      expect(await node.channels.updateTag({ tag: 'team', newTag: 'crew', fields })).toBe(2)
      expect(servedBy(node, model)).toEqual(ids)
      expect(await node.channels.get(ids[0] ?? 0)).toMatchObject({
        tag: 'crew',
        priority: 7,
        weight: 0,
        paramOverride: '{"a":1}',
      })
      await node.channels.updateTag({ tag: 'crew', newTag: '', fields: {} })
      expect((await node.channels.get(ids[1] ?? 0)).tag).toBeNull()
    })

    test('a copy has the key and what it serves, and begins its measures anew', async () => {
      const model = newModel()
      const id = await createOne({ models: model, key: 'sk-x', name: 'one', weight: 3 })
      await node.db
        .update(node.db.tables.channels)
        .set({ usedQuota: 9, testTime: 5 })
        .where(eq(node.db.tables.channels.id, id))
      const copy = await node.channels.copy(id, { suffix: ' (2)', isBalanceReset: true })
      expect(await node.channels.get(copy)).toMatchObject({
        name: 'one (2)',
        key: 'sk-x',
        usedQuota: 0,
        testTime: 0,
        weight: 3,
      })
      expect(
        await node.channels.get(await node.channels.copy(id, { suffix: '', isBalanceReset: false })),
      ).toMatchObject({
        usedQuota: 9,
      })
      expect(servedBy(node, model)).toHaveLength(3)
    })

    test('removing takes the abilities along; disabled ones go together', async () => {
      const model = newModel()
      const ids = [
        await createOne({ models: model }),
        await createOne({ models: model }),
        await createOne({ models: model }),
      ]
      const [a = 0, b = 0, c = 0] = ids
      expect(await node.channels.remove([a, a, 999_999])).toBe(1)
      expect([await abilitiesOf(a), servedBy(node, model)]).toEqual([[], [b, c]])
      await node.channels.removeDisabled()
      await node.channels.setStatus([b], 2, 'x')
      expect(await node.channels.removeDisabled()).toBe(1)
      expect(await codeOf(node.channels.get(b))).toBe('channel_not_found')
      expect(await abilitiesOf(b)).toEqual([])
    })

    test('fix derives all abilities anew and drops those of nobody', async () => {
      const { abilities } = node.db.tables
      const model = newModel()
      const id = await createOne({ models: model })
      await node.db.delete(abilities).where(eq(abilities.channelId, id))
      await node.db.insert(abilities).values({ group: 'default', model: 'ghost', channelId: 888_888, enabled: true })
      const { success, fails } = await node.channels.fix()
      expect([success, fails]).toEqual([await node.db.$count(node.db.tables.channels), 0])
      expect(await abilitiesOf(id)).toHaveLength(1)
      expect(await abilitiesOf(888_888)).toEqual([])
    })

    describe('keys of a channel with several', () => {
      const keysOf = async (id: number) =>
        (await node.channels.keys(id)).keys.map(({ key, status }) => `${key}${status}`)
      test('are disabled, enabled and deleted one by one, and indexes follow', async () => {
        const id = await createOne({ models: newModel(), key: 'a\nb\nc' }, { mode: 'multi_to_single' })
        expect(await node.channels.manageKeys(id, { kind: 'disable', index: 1 })).toBe(1)
        expect(await keysOf(id)).toEqual(['a1', 'b2', 'c1'])
        expect((await node.channels.keys(id, 2)).keys).toMatchObject([
          { index: 1, key: 'b', reason: 'manual operation' },
        ])
        await node.channels.manageKeys(id, { kind: 'delete', index: 0 })
        expect(await keysOf(id)).toEqual(['b2', 'c1'])
        await node.channels.manageKeys(id, { kind: 'enable', index: 0 })
        expect(await keysOf(id)).toEqual(['b1', 'c1'])
        expect(await codeOf(node.channels.manageKeys(id, { kind: 'disable', index: 5 }))).toBe('channel_key_index')
        await node.channels.manageKeys(id, { kind: 'delete', index: 0 })
        expect(await codeOf(node.channels.manageKeys(id, { kind: 'delete', index: 0 }))).toBe('channel_last_key')
      })
      test('without an enabled key the channel is disabled, and comes back with the first one', async () => {
        const model = newModel()
        const id = await createOne({ models: model, key: 'a\nb' }, { mode: 'multi_to_single' })
        await node.channels.manageKeys(id, { kind: 'disable-all' })
        expect((await node.channels.get(id)).status).toBe(3)
        expect(servedBy(node, model)).toEqual([])
        await node.channels.manageKeys(id, { kind: 'enable', index: 1 })
        expect((await node.channels.get(id)).status).toBe(1)
        expect(servedBy(node, model)).toEqual([id])
        expect(await node.channels.manageKeys(id, { kind: 'enable-all' })).toBe(1)
      })
      test('a channel that people disabled stays so when its keys are enabled', async () => {
        const id = await createOne({ models: newModel(), key: 'a\nb' }, { mode: 'multi_to_single' })
        await node.channels.manageKeys(id, { kind: 'disable', index: 0 })
        await node.channels.setStatus([id], 2, 'manual operation')
        await node.channels.manageKeys(id, { kind: 'enable', index: 0 })
        expect((await node.channels.get(id)).status).toBe(2)
      })
      test('a channel with one key has none to manage', async () => {
        const id = await createOne({ models: newModel() })
        expect(await codeOf(node.channels.keys(id))).toBe('channel_single_key')
      })
    })

    test('two verbs on one channel at once both take effect', async () => {
      const id = await createOne({ models: newModel(), key: 'a\nb\nc\nd' }, { mode: 'multi_to_single' })
      await Promise.all([0, 1, 2].map((index) => node.channels.manageKeys(id, { kind: 'disable', index })))
      expect((await node.channels.keys(id)).manualDisabledCount).toBe(3)
    })

    test('a database that is gone leaves the last good state in force', async () => {
      const model = newModel()
      const id = await createOne({ models: model })
      const own = await database.open()
      const other = await startNode(own)
      await own.close()
      await other.topics.changed('channels')
      expect(servedBy(other, model)).toEqual([id])
      await other.stop()
    }, 20_000)

    test('a damaged row is left out or loses a column; the other channels go on', async () => {
      const model = newModel()
      const good = await createOne({ models: model })
      const { channels } = node.db.tables
      const damaged = await createOne({ models: model })
      await node.db
        .update(channels)
        .set({ setting: '{', settings: 'x', statusCodeMapping: '[', otherInfo: 'y' })
        .where(eq(channels.id, damaged))
      const alien = await createOne({ models: model })
      await node.db.update(channels).set({ type: 24 }).where(eq(channels.id, alien))
      await node.db.transaction((tx) => bumpTopic(tx, 'channels'))
      await node.topics.changed('channels')
      expect(servedBy(node, model)).toEqual([good, damaged])
      expect(node.channels.candidates({ model, group: 'default' }).leftOut).toEqual([
        { channelId: alien, reason: 'channels of type 24 are not supported' },
      ])
    })
  })
}
