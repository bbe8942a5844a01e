import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { optionRoutes } from '../../src/admin/option-routes.ts'
import { readTopicVersions } from '../../src/db/index.ts'
import { createPrices } from '../../src/domain/billing/prices.ts'
import { createOptions, type Options } from '../../src/domain/options/index.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { createMemoryState, createTopics } from '../../src/state/index.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { asPeople } from './as-people.ts'

for (const engine of ENGINES) {
  describe(`option routes on ${engine.name}`, () => {
    let testDb: TestDb
    let options: Options
    let people: ReturnType<typeof asPeople>
    const closers: (() => unknown)[] = []

    beforeAll(async () => {
      testDb = await engine.freshDb()
      const { db } = testDb
      const log = silentLog
      const clock = systemClock
      const state = createMemoryState({ clock, log })
      const topics = createTopics({
        state,
        readVersions: () => readTopicVersions(db),
        fullReloadMs: 3_600_000,
        log,
        clock,
      })
      options = createOptions({ db, topics, log, clock })
      await options.ready()
      people = asPeople((http) => [optionRoutes({ options, prices: createPrices(options), http })])
      closers.push(
        () => options.close(),
        () => topics.stop(),
        () => state.close(),
        () => testDb.close(),
      )
    }, 120_000)
    afterAll(async () => {
      for (const close of closers) await close()
    })

    const list = async (): Promise<Record<string, string>> => {
      const { json } = await people.ask('root', 'GET', '/api/option/')
      return Object.fromEntries((json.data as { key: string; value: string }[]).map(({ key, value }) => [key, value]))
    }

    test('only root may read or write options', async () => {
      for (const [method, path] of [
        ['GET', '/api/option/'],
        ['PUT', '/api/option/'],
        ['POST', '/api/option/batch'],
        ['POST', '/api/option/rest_model_ratio'],
      ] as const) {
        const body = method === 'GET' ? undefined : { key: 'Notice', value: 'x', options: { Notice: 'x' } }
        expect((await people.ask('admin', method, path, body)).json.code).toBe('AUTH_INSUFFICIENT_PRIVILEGE')
        expect((await people.ask('', method, path, body)).status).toBe(401)
      }
      expect(options.get('Notice')).toBe('')
    })

    test('values are stored as texts, whatever they are sent as, with and without trailing slash', async () => {
      for (const [path, key, value] of [
        ['/api/option/', 'Notice', 'hello'],
        ['/api/option', 'SelfUseModeEnabled', true],
        ['/api/option/', 'RetryTimes', 3],
        ['/api/option/', 'monitor_setting.auto_test_channel_minutes', 0.5],
      ] as const) {
        expect(await people.ask('root', 'PUT', path, { key, value })).toMatchObject({
          status: 200,
          json: { success: true, message: '' },
        })
      }
      expect(await list()).toMatchObject({
        Notice: 'hello',
        SelfUseModeEnabled: 'true',
        RetryTimes: '3',
        'monitor_setting.auto_test_channel_minutes': '0.5',
      })
      expect(people.audited.at(-1)).toMatchObject({
        action: 'option.update',
        params: { key: 'monitor_setting.auto_test_channel_minutes' },
      })
    })

    test('secrets can be written and are never shown, nor audited', async () => {
      for (const key of ['SMTPToken', 'oidc.client_secret', 'My.api_key', 'TurnstileSiteKey', 'theme.frontend'])
        await options.set({ [key]: key === 'theme.frontend' ? 'default' : 's3cret' })
      await people.ask('root', 'PUT', '/api/option/', { key: 'SMTPToken', value: 's3cret-2' })
      const shown = await list()
      for (const key of ['SMTPToken', 'oidc.client_secret', 'My.api_key', 'TurnstileSiteKey', 'theme.frontend'])
        expect(shown).not.toHaveProperty(key)
      expect(JSON.stringify([shown, people.audited])).not.toContain('s3cret')
      expect(options.get('SMTPToken')).toBe('s3cret-2')
    })

    test('a refusal is 200 with the reason and changes nothing; a malformed body is 400', async () => {
      const refused = await people.ask('root', 'PUT', '/api/option/', { key: 'ModelRatio', value: '{"a":' })
      expect(refused).toMatchObject({ status: 200, json: { success: false, code: 'option_invalid' } })
      expect(refused.json.message).toContain('ModelRatio')
      expect(options.get('ModelRatio')['gpt-4o']).toBe(1.25)
      expect((await people.ask('root', 'PUT', '/api/option/', '{"key":')).status).toBe(400)
      expect((await people.ask('root', 'PUT', '/api/option/', { key: 'Notice', value: null })).json.success).toBe(false)
      expect((await people.ask('root', 'PUT', '/api/option/', { key: 'Notice', value: { a: 1 } })).json.success).toBe(
        false,
      )
    })

    test('a batch is stored together or not at all', async () => {
      await people.ask('root', 'POST', '/api/option/batch', {
        options: { About: 'a', RetryTimes: 4, DrawingEnabled: false },
      })
      expect(await list()).toMatchObject({ About: 'a', RetryTimes: '4', DrawingEnabled: 'false' })
      const refused = await people.ask('root', 'POST', '/api/option/batch', {
        options: { About: 'b', RetryTimes: 'x' },
      })
      expect(refused.json.success).toBe(false)
      expect(await list()).toMatchObject({ About: 'a', RetryTimes: '4' })
    })

    test('the model ratios go back to the built-in table', async () => {
      await options.set({ ModelRatio: '{"mine":1}' })
      expect((await people.ask('root', 'POST', '/api/option/rest_model_ratio')).json.success).toBe(true)
      expect(options.get('ModelRatio')).toMatchObject({ 'gpt-4o': 1.25 })
      expect(options.get('ModelRatio')).not.toHaveProperty('mine')
    })

    test('the list tells which output ratios are fixed', async () => {
      const meta = JSON.parse((await list())['CompletionRatioMeta'] ?? '{}')
      expect(meta).toMatchObject({ 'gpt-4o': { ratio: 4, locked: false }, 'gpt-5': { ratio: 8, locked: true } })
    })
  })
}
