import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { Db } from '../../../src/db/index.ts'
import { readTopicVersions } from '../../../src/db/index.ts'
import { createOptions, type Options } from '../../../src/domain/options/index.ts'
import { GatewayError } from '../../../src/errors.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { type Log, type LogFields, silentLog } from '../../../src/lib/log.ts'
import { createMemoryState, createTopics } from '../../../src/state/index.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'

/** Options as one node has them: its own connections, its own bus. */
async function node(db: Db, log: Log = silentLog) {
  const state = createMemoryState({ clock: systemClock, log })
  const topics = createTopics({
    state,
    readVersions: () => readTopicVersions(db),
    everyMs: 10,
    fullReloadMs: 3_600_000,
    log,
    clock: systemClock,
  })
  const options = createOptions({ db, topics, log, clock: systemClock })
  await options.ready()
  topics.start()
  const close = async (): Promise<void> => {
    options.close()
    await topics.stop()
    await state.close()
  }
  return { options, close }
}

function recordingLog(): { readonly log: Log; readonly warnings: LogFields[] } {
  const warnings: LogFields[] = []
  const log: Log = { ...silentLog, warn: (_, fields = {}) => void warnings.push(fields), child: () => log }
  return { log, warnings }
}

const textOf = (options: Options, key: string): string | undefined =>
  options.list().find((option) => option.key === key)?.value

/** @returns the code of the refusal and its text */
async function refusalOf(work: Promise<unknown>): Promise<string> {
  const thrown = await work.then(
    () => undefined,
    (error: unknown) => error,
  )
  if (!(thrown instanceof GatewayError)) throw new Error(`no refusal but ${Bun.inspect(thrown)}`)
  return `${thrown.code}: ${thrown.public}`
}

for (const engine of ENGINES) {
  describe(`options on ${engine.name}`, () => {
    let testDb: TestDb
    beforeAll(async () => {
      testDb = await engine.freshDb()
    }, 120_000)
    afterAll(() => testDb.close())

    const store = async (rows: Readonly<Record<string, string>>): Promise<void> => {
      const { options } = testDb.db.tables
      await testDb.db.delete(options)
      for (const [key, value] of Object.entries(rows)) await testDb.db.insert(options).values({ key, value })
    }

    test('an empty table is the defaults, each listed as text', async () => {
      await store({})
      const { options, close } = await node(testDb.db)
      expect(options.get('QuotaPerUnit')).toBe(500000)
      expect(options.get('HoldMaxOutputTokens')).toBe(4096)
      expect(options.get('GroupRatio')).toEqual({ default: 1, svip: 1, vip: 1 })
      expect(textOf(options, 'RetryTimes')).toBe('0')
      expect(textOf(options, 'PasswordLoginEnabled')).toBe('true')
      expect(JSON.parse(textOf(options, 'ModelRatio') ?? '')).toMatchObject({
        'gpt-4o': 1.25,
        'claude-sonnet-4-5': 1.5,
      })
      expect(textOf(options, 'console_setting.faq')).toBe('')
      expect(textOf(options, 'HeaderNavModules')).toBeUndefined()
      await close()
    })

    test('what is set is read at once here, and within moments on another node', async () => {
      await store({})
      const [here, otherDb] = [await node(testDb.db), await testDb.open()]
      const there = await node(otherDb)
      let changes = 0
      there.options.onChange(() => {
        changes += 1
      })
      await here.options.set({ RetryTimes: '3', 'oidc.client_id': '中文 😀', Unknown: 'kept' })
      expect(here.options.get('RetryTimes')).toBe(3)
      await eventually('the other node reads the change', () => there.options.get('RetryTimes') === 3)
      expect(there.options.get('oidc.client_id')).toBe('中文 😀')
      expect(textOf(there.options, 'Unknown')).toBe('kept')
      expect(changes).toBeGreaterThan(0)
      await Promise.all([here.close(), there.close()])
      await otherDb.close()
    })

    test('limits of groups name known bounds, in whole numbers from 0 up', async () => {
      await store({})
      const { options, close } = await node(testDb.db)
      await options.set({ GroupLimits: '{"vip":{"rpm":10,"concurrency":0}}' })
      expect(options.get('GroupLimits')['vip']).toEqual({ rpm: 10, concurrency: 0 })
      for (const wrong of ['{"vip":{"rpm":-1}}', '{"vip":{"rps":1}}', '{"vip":{"tpm":1.5}}', '{"vip":10}', '[]'])
        expect(await refusalOf(options.set({ GroupLimits: wrong }))).toStartWith('option_invalid')
      expect(options.get('GroupLimits')['vip']).toMatchObject({ rpm: 10 })
      await close()
    })

    test('a write of several keys is all or nothing', async () => {
      await store({})
      const { options, close } = await node(testDb.db)
      expect(await refusalOf(options.set({ RetryTimes: '2', ModelRatio: '{"a":1' }))).toStartWith('option_invalid')
      expect(options.get('RetryTimes')).toBe(0)
      expect(await testDb.db.$count(testDb.db.tables.options)).toBe(0)
      await close()
    })

    test('a stored text that cannot be read is the default, said once, and stays as it is', async () => {
      await store({ ModelRatio: '{"gpt-4o": oops', RetryTimes: 'three', 'monitor_setting.channel_test_mode': 'never' })
      const { log, warnings } = recordingLog()
      const { options, close } = await node(testDb.db, log)
      expect(options.get('ModelRatio')['gpt-4o']).toBe(1.25)
      expect(options.get('RetryTimes')).toBe(0)
      expect(options.get('monitor_setting.channel_test_mode')).toBe('scheduled_all')
      expect(textOf(options, 'ModelRatio')).toBe('{"gpt-4o": oops')
      await options.set({ Notice: 'hello' })
      expect(warnings.map(({ key }) => key).sort()).toEqual([
        'ModelRatio',
        'RetryTimes',
        'monitor_setting.channel_test_mode',
      ])
      await close()
    })

    test('one bad price does not put the others back to built-in ones', async () => {
      await store({ ModelRatio: '{"a":2,"b":"x","c":-1,"d":null,"e":0}' })
      const { options, close } = await node(testDb.db)
      expect(options.get('ModelRatio')).toEqual({ a: 2, e: 0 })
      await close()
    })

    test('undotted switches know only the word true, dotted ones the usual spellings', async () => {
      await store({ SelfUseModeEnabled: '1', RegisterEnabled: 'TRUE', 'oidc.enabled': 't', 'discord.enabled': '1' })
      const { options, close } = await node(testDb.db)
      expect(options.get('SelfUseModeEnabled')).toBe(false)
      expect(options.get('RegisterEnabled')).toBe(false)
      expect(options.get('oidc.enabled')).toBe(true)
      expect(options.get('discord.enabled')).toBe(true)
      await close()
    })

    test('an option stored under its other name is found, shown under both, and written under one', async () => {
      await store({ GroupRatio: '{"a":1}', 'group_ratio_setting.group_ratio': '{"b":2}' })
      const { options, close } = await node(testDb.db)
      expect(options.get('GroupRatio')).toEqual({ b: 2 })
      await options.set({ GroupRatio: '{"c":3}' })
      expect(options.get('GroupRatio')).toEqual({ c: 3 })
      expect(textOf(options, 'group_ratio_setting.group_ratio')).toBe('{"c":3}')
      await options.set({ 'group_ratio_setting.group_ratio': '{"d":4}' })
      expect(options.get('GroupRatio')).toEqual({ d: 4 })
      await close()
    })

    test('the older switch of the currency display moves the newer option', async () => {
      await store({})
      const { options, close } = await node(testDb.db)
      await options.set({ DisplayInCurrencyEnabled: 'false' })
      expect(options.get('general_setting.quota_display_type')).toBe('TOKENS')
      await options.set({ DisplayInCurrencyEnabled: 'true' })
      expect(options.get('general_setting.quota_display_type')).toBe('USD')
      await close()
    })

    test('a key that differs only in case is refused: a database that ignores case would overwrite the other', async () => {
      await store({ Custom: '1' })
      const { options, close } = await node(testDb.db)
      expect(await refusalOf(options.set({ retrytimes: '1' }))).toContain('RetryTimes')
      expect(await refusalOf(options.set({ CUSTOM: '1' }))).toContain('Custom')
      await close()
    })

    test('names out of the language’s own objects find nothing in a map', async () => {
      await store({ GroupRatio: '{"__proto__":5,"a":1}' })
      const { options, close } = await node(testDb.db)
      expect(options.get('GroupRatio')['constructor']).toBeUndefined()
      expect(Object.keys(options.get('ModelRatio')).includes('toString')).toBe(false)
      expect(options.get('ModelRatio')['toString']).toBeUndefined()
      await close()
    })

    test('a reload without a change keeps the state, so what was computed from it stays', async () => {
      await store({ RetryTimes: '1' })
      const { options, close } = await node(testDb.db)
      const before = options.state()
      const ratios = options.get('ModelRatio')
      await options.set({ RetryTimes: '1' })
      expect(options.state()).toBe(before)
      await options.set({ RetryTimes: '2' })
      expect(options.state()).not.toBe(before)
      expect(options.get('ModelRatio')).toBe(ratios)
      await close()
    })

    test('parallel writes of the same keys all succeed', async () => {
      await store({})
      const { options, close } = await node(testDb.db)
      await Promise.all(
        [...Array(8).keys()].map((n) => options.set({ Notice: `n${n}`, About: `n${n}`, Footer: `n${n}` })),
      )
      const texts = ['Notice', 'About', 'Footer'].map((key) => textOf(options, key))
      expect(new Set(texts).size).toBe(1)
      await close()
    })
  })
}

describe('validation', () => {
  let testDb: TestDb
  let options: Options
  let close: () => Promise<void>
  beforeAll(async () => {
    testDb = await ENGINES[0]!.freshDb()
    ;({ options, close } = await node(testDb.db))
  })
  afterAll(async () => {
    await close()
    await testDb.close()
  })

  test.each<[string, string]>([
    ['PasswordLoginEnabled', 'yes'],
    ['oidc.enabled', 'maybe'],
    ['RetryTimes', ''],
    ['RetryTimes', '-1'],
    ['RetryTimes', '1.5'],
    ['RetryTimes', '0x10'],
    ['QuotaPerUnit', '0'],
    ['QuotaPerUnit', 'NaN'],
    ['HoldMaxOutputTokens', '0'],
    ['ModelRatio', '[1]'],
    ['ModelRatio', '{"a":"1"}'],
    ['GroupRatio', '{"a":-1}'],
    ['GroupRatio', '{"a":1e999}'],
    ['ImageRatio', 'x'],
    ['UserUsableGroups', '{"a":1}'],
    ['AutoGroups', '{"a":"b"}'],
    ['MaxTokenAutoGroups', '0'],
    ['ModelRequestRateLimitGroup', '{"a":[0,0]}'],
    ['ModelRequestRateLimitGroup', '{"a":[1]}'],
    ['ModelRequestRateLimitGroup', '{"a":[2147483648,1]}'],
    ['AutomaticRetryStatusCodes', '99'],
    ['AutomaticRetryStatusCodes', '500-400'],
    ['AutomaticDisableStatusCodes', '401;403'],
    ['gemini.safety_settings', '{"default":"LOW"}'],
    ['claude.default_max_tokens', '{"default":-1}'],
    ['tool_price_setting.prices', '{"web_search":-1}'],
    ['theme.frontend', 'classic'],
    ['payment_setting.compliance_confirmed', 'true'],
    ['QuotaForInviter', '5'],
    ['console_setting.faq', '[{"question":"","answer":"a"}]'],
    ['console_setting.api_info', '[{"url":"javascript:x","route":"r","description":"d","color":"blue"}]'],
    ['console_setting.api_info', '[{"url":"https://a.example","route":"r","description":"d","color":"octarine"}]'],
    ['console_setting.announcements', '[{"content":"c","publishDate":"yesterday"}]'],
    [
      'console_setting.uptime_kuma_groups',
      '[{"categoryName":"a","url":"http://x.example","slug":"s"},{"categoryName":"a","url":"http://y.example","slug":"s"}]',
    ],
    ['general_setting.quota_display_type', 'EUR'],
    ['performance_setting.monitor_cpu_threshold', '101'],
    ['', 'x'],
    ['k'.repeat(192), 'x'],
  ])('refuses %s = %s', async (key, value) => {
    expect(await refusalOf(options.set({ [key]: value }))).toStartWith('option_invalid: Option ')
  })

  test.each<[string, string]>([
    ['GitHubOAuthEnabled', 'GitHubClientId'],
    ['oidc.enabled', 'oidc.client_id'],
    ['discord.enabled', 'discord.client_id'],
    ['LinuxDOOAuthEnabled', 'LinuxDOClientId'],
    ['WeChatAuthEnabled', 'WeChatServerAddress'],
    ['TurnstileCheckEnabled', 'TurnstileSiteKey'],
    ['TelegramOAuthEnabled', 'TelegramBotToken'],
  ])('%s needs %s, before it or with it', async (key, needed) => {
    expect(await refusalOf(options.set({ [key]: 'true' }))).toBe(
      `option_needs: Set ${needed} before switching on ${key}`,
    )
    await options.set({ [key]: 'true', [needed]: 'x' })
    await options.set({ [key]: 'false', [needed]: '' })
  })

  test.each<[string, string]>([
    ['AutomaticRetryStatusCodes', '401，500-503, 599'],
    ['AutomaticRetryStatusCodes', ''],
    ['ModelRatio', ''],
    ['ModelRatio', '{"a":0.000001,"b":0}'],
    ['RetryTimes', ' 7 '],
    ['QuotaForInviter', '0'],
    ['oidc.enabled', 'false'],
    ['console_setting.announcements', '[{"content":"c","publishDate":"2026-08-01T12:00:00Z","type":"warning"}]'],
    ['Anything.else', 'free text'],
  ])('takes %s = %s', async (key, value) => {
    await options.set({ [key]: value })
    expect(textOf(options, key)).toBe(value)
  })
})
