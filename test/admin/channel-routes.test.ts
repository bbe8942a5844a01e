/** Channels over HTTP: who may do what, the shapes that clients rely on, what is audited, and that no key gets out. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { channelRoutes } from '../../src/admin/channel-routes.ts'
import { createSystemTasks } from '../../src/domain/cluster/index.ts'
import { type Node, servedBy, startNode } from '../domain/channels/harness.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { asPeople, type Person } from './as-people.ts'

const SECRET = 'sk-canary-0123456789'

for (const engine of ENGINES) {
  describe(engine.name, () => {
    let database: TestDb
    let node: Node
    let people: ReturnType<typeof asPeople>
    let upstream: ReturnType<typeof Bun.serve>
    const asked: { path: string; headers: Headers }[] = []
    beforeAll(async () => {
      database = await engine.freshDb()
      node = await startNode(database.db)
      people = asPeople((http) => [
        channelRoutes({
          channels: node.channels,
          options: node.options,
          http,
          isPassword: async (userId, password) => userId === 1 && password === 'right',
          tasks: createSystemTasks({ db: database.db, bus: node.state, worker: 'w', ttlMs: 60_000 }),
          testTask: 'channel_test',
        }),
      ])
      upstream = Bun.serve({
        port: 0,
        fetch: (request) => {
          asked.push({ path: new URL(request.url).pathname, headers: request.headers })
          return Response.json({ data: [{ id: 'm1' }, { id: 'm2' }] })
        },
      })
    }, 120_000)
    afterAll(async () => {
      upstream.stop(true)
      await node.stop()
      await database.close()
    }, 60_000)
    beforeEach(() => {
      people.audited.length = 0
    })

    const ask = (person: Person | '', method: string, path: string, body?: unknown) =>
      people.ask(person, method, `/api/channel${path}`, body)
    let unique = 0
    const add = async (channel: Record<string, unknown> = {}, more: Record<string, unknown> = {}): Promise<number> => {
      const name = String(channel['name'] ?? `c${++unique}-${crypto.randomUUID()}`)
      const base_url = `http://localhost:${upstream.port}`
      const whole = { type: 1, key: SECRET, name, base_url, models: 'gpt-4o', ...channel }
      const body = { mode: 'single', channel: whole, ...more }
      const answer = await ask('root', 'POST', '/', body)
      expect(answer.json).toEqual({ success: true, message: '' })
      people.audited.length = 0
      const found = await ask('root', 'GET', `/search?keyword=${name}`)
      return (found.json.data as { items: { id: number }[] }).items[0]?.id ?? 0
    }

    describe('who may', () => {
      // A role below may not; a write that lacks its right changes nothing.
      const ROUTES: readonly (readonly [method: string, path: string, least: 'admin' | 'root', body?: object])[] = [
        ['GET', '/', 'admin'],
        ['GET', '/search', 'admin'],
        ['GET', '/models', 'admin'],
        ['GET', '/models_enabled', 'admin'],
        ['GET', '/ops', 'admin'],
        ['GET', '/tag/models?tag=x', 'admin'],
        ['GET', '/:id', 'admin'],
        ['GET', '/fetch_models/:id', 'admin'],
        ['GET', '/test/:id', 'admin'],
        ['POST', '/:id/status', 'admin', { status: 1 }],
        ['POST', '/status/batch', 'admin', { ids: [], status: 1 }],
        ['POST', '/tag/enabled', 'admin', { tag: 'nobody' }],
        ['POST', '/tag/disabled', 'admin', { tag: 'nobody' }],
        ['POST', '/batch/tag', 'admin', { ids: [], tag: 'x' }],
        ['PUT', '/tag', 'admin', { tag: 'nobody' }],
        ['PUT', '/', 'admin', { id: 1, priority: 1 }],
        ['POST', '/fix', 'admin'],
        ['POST', '/multi_key/manage', 'admin', { channel_id: 1, action: 'get_key_status' }],
        ['PUT', '/tag', 'root', { tag: 'nobody', param_override: '{}' }],
        ['POST', '/', 'root', { channel: { type: 1, key: 'k', name: 'n' } }],
        ['POST', '/fetch_models', 'root', { type: 47, key: 'k' }],
        ['POST', '/batch', 'root', { ids: [] }],
        ['POST', '/copy/:id', 'root'],
        ['POST', '/:id/key', 'root', { password: 'right' }],
        ['POST', '/multi_key/manage', 'root', { channel_id: 1, action: 'delete_key', key_index: 0 }],
        ['POST', '/multi_key/manage', 'root', { channel_id: 1, action: 'delete_disabled_keys' }],
        ['DELETE', '/disabled', 'root'],
        ['DELETE', '/:id', 'root'],
      ]
      test.each(ROUTES.map((route) => [`${route[0]} ${route[1]} ${JSON.stringify(route[3] ?? {})}`, route] as const))(
        '%s',
        async (_name, [method, path, least, body]) => {
          const id = await add()
          const at = path.replace(':id', String(id))
          expect((await ask('', method, at, body)).status).toBe(401)
          expect((await ask('alice', method, at, body)).status).toBe(403)
          expect((await ask('admin', method, at, body)).status).toBe(least === 'root' ? 403 : 200)
          expect((await ask('root', method, at, body)).status).toBe(200)
        },
      )
    })

    test('a new channel is used at once, is audited without its key, and reads back in the known shape', async () => {
      const model = `m-${crypto.randomUUID()}`
      const channel = { type: 1, key: SECRET, name: 'shape', models: model, group: 'default' }
      await ask('root', 'POST', '/', { mode: 'single', channel })
      expect(servedBy(node, model)).toHaveLength(1)
      expect(people.audited).toMatchObject([{ action: 'channel.create', params: { name: 'shape', type: 1 } }])
      expect(JSON.stringify(people.audited)).not.toContain(SECRET)
      const id = servedBy(node, model)[0] ?? 0
      expect((await ask('admin', 'GET', `/${id}`)).json.data).toEqual({
        id,
        type: 1,
        key: '',
        openai_organization: null,
        test_model: null,
        status: 1,
        name: 'shape',
        weight: 0,
        created_time: expect.any(Number),
        test_time: 0,
        response_time: 0,
        base_url: '',
        other: '',
        balance: 0,
        balance_updated_time: 0,
        models: model,
        group: 'default',
        used_quota: 0,
        model_mapping: null,
        status_code_mapping: '',
        priority: 0,
        auto_ban: 1,
        other_info: '',
        tag: null,
        setting: null,
        param_override: null,
        header_override: null,
        remark: null,
        channel_info: {
          is_multi_key: false,
          multi_key_size: 0,
          multi_key_status_list: null,
          multi_key_polling_index: 0,
          multi_key_mode: '',
        },
        settings: '',
      })
    })

    test('lists and searches, with and without a trailing slash', async () => {
      const name = `list-${crypto.randomUUID()}`
      const [first, second] = [await add({ name }), await add({ name, type: 14 })]
      const found = await ask('admin', 'GET', `/search?keyword=${name}&id_sort=true`)
      expect(found.json.data).toMatchObject({
        items: [{ id: second, key: '' }, { id: first }],
        total: 2,
        type_counts: { 1: 1, 14: 1 },
      })
      expect(Object.keys(found.json.data as object).sort()).toEqual(['items', 'total', 'type_counts'])
      for (const path of ['', '/']) {
        const page = await ask('admin', 'GET', `${path}?p=1&page_size=1&sort_by=id&sort_order=desc`)
        expect(page.json.data).toMatchObject({ items: [{ id: second }], page: 1, page_size: 1 })
      }
      expect((await ask('admin', 'GET', `/search?keyword=${SECRET}`)).json.data).toMatchObject({
        total: expect.any(Number),
      })
    })

    test('no reply to an administrator holds a key, whatever is asked', async () => {
      const multi = await add({ key: `${SECRET}-a\n${SECRET}-b` }, { mode: 'multi_to_single' })
      const replies = [
        await ask('admin', 'GET', '/'),
        await ask('admin', 'GET', `/search?keyword=${SECRET}`),
        await ask('admin', 'GET', `/${multi}`),
        await ask('admin', 'PUT', '/', { id: multi, priority: 4 }),
        await ask('admin', 'POST', '/multi_key/manage', { channel_id: multi, action: 'get_key_status' }),
        await ask('admin', 'PUT', '/', { id: multi, key: `${SECRET}-c` }),
      ]
      for (const { json } of replies) expect(JSON.stringify(json)).not.toContain(SECRET)
    })

    describe('update', () => {
      test('fields change, and the names of those that did are audited', async () => {
        const id = await add()
        const answer = await ask('admin', 'PUT', '/', { id, priority: 3, name: '' })
        expect(answer.json).toMatchObject({ success: true, data: { id, priority: 3, key: '' } })
        expect(people.audited).toMatchObject([{ action: 'channel.update', params: { id, fields: ['priority'] } }])
      })
      test('status is refused, and so are sensitive or unknown fields of whoever is not root', async () => {
        const id = await add()
        for (const [person, fields] of [
          ['root', { status: 2 }],
          ['admin', { base_url: 'https://evil.example' }],
          ['admin', { surprise: true }],
        ] as const) {
          const { status, json } = await ask(person, 'PUT', '/', { id, name: 'changed', ...fields })
          expect([status, json.success]).toEqual([200, false])
        }
        expect((await node.channels.get(id)).name).not.toBe('changed')
      })
      test('wrong types and unknown ids are refusals, not failures', async () => {
        for (const body of [{ id: 'x' }, { id: 1, weight: 'heavy' }, {}, { id: 99_999_999, name: 'x' }]) {
          const { status, json } = await ask('root', 'PUT', '/', body)
          expect([status, json.success]).toEqual([200, false])
        }
        expect((await ask('root', 'GET', '/99999999')).json).toMatchObject({ success: false })
        expect((await ask('root', 'GET', '/nonsense')).json.success).not.toBe(true)
      })
    })

    test('status: one, several, by tag', async () => {
      const tag = crypto.randomUUID()
      const [a, b] = [await add({ tag }), await add({ tag })]
      expect((await ask('admin', 'POST', `/${a}/status`, { status: 2 })).json.data).toBe(true)
      expect((await ask('admin', 'POST', `/${a}/status`, { status: 2 })).json.data).toBe(false)
      expect((await ask('admin', 'POST', `/${a}/status`, { status: 3 })).json.success).toBe(false)
      expect((await ask('admin', 'POST', '/99999999/status', { status: 2 })).json.success).toBe(false)
      expect((await ask('admin', 'POST', '/status/batch', { ids: [a, b], status: 1 })).json.data).toBe(1)
      expect((await ask('admin', 'POST', '/tag/disabled', { tag })).json).toEqual({ success: true, message: '' })
      expect([(await node.channels.get(a)).status, (await node.channels.get(b)).status]).toEqual([2, 2])
      expect((await ask('admin', 'POST', '/tag/enabled', {})).status).toBe(400)
      expect(people.audited.map(({ action }) => action)).toContain('channel.tag_disabled')
    })

    test('tags: set, changed, read', async () => {
      const tag = crypto.randomUUID()
      const [a, b] = [await add({ models: 'one' }), await add({ models: 'one,two' })]
      expect((await ask('admin', 'POST', '/batch/tag', { ids: [a, b], tag })).json.data).toBe(2)
      expect((await ask('admin', 'GET', `/tag/models?tag=${tag}`)).json.data).toBe('one,two')
      await ask('admin', 'PUT', '/tag', { tag, priority: 8, models: null, groups: 'vip' })
      expect(await node.channels.get(a)).toMatchObject({ priority: 8, models: 'one', group: 'vip' })
      expect((await ask('admin', 'GET', '/tag/models')).status).toBe(400)
    })

    test('deleting: one, several, the disabled ones', async () => {
      await ask('root', 'DELETE', '/disabled')
      const [a, b, c] = [await add(), await add(), await add()]
      expect((await ask('root', 'DELETE', `/${a}`)).json).toEqual({ success: true, message: '' })
      expect((await ask('root', 'POST', '/batch', { ids: [a, b] })).json.data).toBe(1)
      await ask('root', 'POST', `/${c}/status`, { status: 2 })
      expect((await ask('root', 'DELETE', '/disabled')).json.data).toBe(1)
      expect((await ask('root', 'GET', `/${c}`)).json.success).toBe(false)
    })

    test('a copy has its own id and name', async () => {
      const id = await add()
      const { name } = await node.channels.get(id)
      const copy = ((await ask('root', 'POST', `/copy/${id}`)).json.data as { id: number }).id
      expect(await node.channels.get(copy)).toMatchObject({ name: `${name}_复制`, key: SECRET })
    })

    describe('the key', () => {
      test('is shown to root after the password, and that is audited', async () => {
        const id = await add()
        expect(await ask('root', 'POST', `/${id}/key`, {})).toMatchObject({
          status: 403,
          json: { code: 'SECURITY_PROOF_REQUIRED' },
        })
        expect(await ask('root', 'POST', `/${id}/key`, { password: 'wrong' })).toMatchObject({
          status: 403,
          json: { code: 'SECURITY_PROOF_INVALID' },
        })
        people.audited.length = 0
        expect((await ask('root', 'POST', `/${id}/key`, { password: 'right' })).json.data).toEqual({ key: SECRET })
        expect(people.audited).toMatchObject([{ action: 'channel.key_view', params: { id } }])
      })
    })

    describe('several keys', () => {
      const manage = (body: object) => ask('root', 'POST', '/multi_key/manage', body)
      test('their state by page, with a preview only', async () => {
        const id = await add({ key: 'key-number-one\nshort\nkey-number-three' }, { mode: 'multi_to_single' })
        await manage({ channel_id: id, action: 'disable_key', key_index: 1 })
        const { json } = await manage({ channel_id: id, action: 'get_key_status', page: 1, page_size: 2 })
        expect(json.data).toEqual({
          keys: [
            { index: 0, status: 1, key_preview: 'key-number...' },
            {
              index: 1,
              status: 2,
              reason: 'manual operation',
              disabled_time: expect.any(Number),
              key_preview: 'short',
            },
          ],
          total: 3,
          page: 1,
          page_size: 2,
          total_pages: 2,
          enabled_count: 2,
          manual_disabled_count: 1,
          auto_disabled_count: 0,
        })
        const row = (await ask('admin', 'GET', `/${id}`)).json.data as { channel_info: Record<string, unknown> }
        expect(row.channel_info.multi_key_status_list).toEqual({ 1: 2 })
        expect(row.channel_info).toHaveProperty('multi_key_disabled_reason')
        const { name } = await node.channels.get(id)
        const list = (await ask('admin', 'GET', `/search?keyword=${name}`)).json.data as { items: (typeof row)[] }
        expect(list.items[0]?.channel_info).not.toHaveProperty('multi_key_disabled_reason')
      })
      test('actions', async () => {
        const id = await add({ key: 'a\nb\nc' }, { mode: 'multi_to_single' })
        const run = async (action: string, key_index?: number) =>
          (await manage({ channel_id: id, action, key_index })).json
        expect((await run('disable_key')).success).toBe(false)
        expect((await run('disable_all_keys')).success).toBe(true)
        expect((await run('enable_all_keys')).success).toBe(true)
        expect((await run('delete_key', 0)).success).toBe(true)
        expect(await run('delete_disabled_keys')).toMatchObject({ success: true, data: 0 })
        expect((await node.channels.get(id)).key).toBe('b\nc')
        expect((await run('explode')).success).toBe(false)
      })
    })

    describe('model lists of upstreams', () => {
      test('of a stored channel, with its headers', async () => {
        const id = await add({
          base_url: `http://localhost:${upstream.port}/x/`,
          header_override: '{"X-Team":"{api_key}"}',
        })
        expect((await ask('admin', 'GET', `/fetch_models/${id}`)).json.data).toEqual(['m1', 'm2'])
        expect(asked.at(-1)?.path).toBe('/x/v1/models')
        expect(asked.at(-1)?.headers.get('x-team')).toBe(SECRET)
      })
      test('of one that is being written', async () => {
        const base_url = `http://localhost:${upstream.port}`
        const body = { type: 47, key: 'k1\nk2', base_url, header_override: { 'X-A': 'b' } }
        expect((await ask('root', 'POST', '/fetch_models', body)).json.data).toEqual(['m1', 'm2'])
        expect(asked.at(-1)?.headers.get('authorization')).toBe('Bearer k1')
        expect(asked.at(-1)?.headers.get('x-a')).toBe('b')
        expect((await ask('root', 'POST', '/fetch_models', { type: 47, key: 'k' })).json.success).toBe(false)
        expect((await ask('root', 'POST', '/fetch_models', { ...body, type: 999 })).json.success).toBe(false)
      })
      test('one that cannot be reached is told without its address', async () => {
        const body = { type: 1, key: 'k', base_url: 'http://localhost:1/secret-path' }
        const { status, json } = await ask('root', 'POST', '/fetch_models', body)
        expect([status, json.success]).toEqual([200, false])
        expect(JSON.stringify(json)).not.toContain('secret-path')
      })
    })

    test('what is known and what is served', async () => {
      const model = `m-${crypto.randomUUID()}`
      await add({ models: model, group: 'a-group' })
      expect((await ask('admin', 'GET', '/models_enabled')).json.data).toContain(model)
      const known = (await ask('admin', 'GET', '/models')).json.data as Record<string, unknown>[]
      expect(known).toContainEqual({ id: model, object: 'model', created: 1626777600, owned_by: 'custom' })
      expect(known.map((model) => model['id'])).toContain('gpt-4o')
      await node.options.set({ RetryTimes: '3' })
      expect((await ask('admin', 'GET', '/ops')).json.data).toEqual({ retry_times: 3 })
    })

    test('a test says how it went at the top of the answer', async () => {
      const id = await add()
      const seen: unknown[] = []
      node.channels.setTester(async ({ model, isStream, endpointType, user }) => {
        seen.push({ model, isStream, endpointType, user })
        return { isOk: false, message: 'no', ms: 1500, errorCode: 'model_not_found' }
      })
      const { json } = await ask('admin', 'GET', `/test/${id}?model=x&stream=true&endpoint_type=openai`)
      expect(json).toEqual({ success: false, message: 'no', time: 1.5, error_code: 'model_not_found' })
      expect(seen).toEqual([{ model: 'x', isStream: true, endpointType: 'openai', user: { id: 2, name: 'admin' } }])
    })

    test('fix counts the channels', async () => {
      expect((await ask('admin', 'POST', '/fix')).json.data).toEqual({
        success: await node.db.$count(node.db.tables.channels),
        fails: 0,
      })
    })
  })
}
