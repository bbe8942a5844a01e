/** What a row becomes: damaged columns cost what they hold and no more; keys, mappings, filters, system prompts. */
import { describe, expect, test } from 'bun:test'
import { filteredFields } from '../../../src/domain/channels/field-filters.ts'
import { createKeyChoice } from '../../../src/domain/channels/key-choice.ts'
import { readKeys, writeKeys } from '../../../src/domain/channels/key-text.ts'
import { mappedStatus, upstreamModel } from '../../../src/domain/channels/mapping.ts'
import { normaliseModel } from '../../../src/domain/channels/model-name.ts'
import { applySystemPrompt } from '../../../src/domain/channels/system-prompt.ts'
import { channel, multiKeyInfo, seeded } from './support.ts'

describe('a row', () => {
  test('empty columns have their defaults', () => {
    expect(channel({ autoBan: null, weight: null, priority: null })).toMatchObject({
      baseUrl: 'https://api.openai.com',
      weight: 0,
      priority: 0,
      isAutoBan: true,
      setting: {},
      settings: {},
    })
    expect(channel({ baseUrl: 'https://h/v1//' }).baseUrl).toBe('https://h/v1')
    expect(channel({ group: ' a,b , a,' }).groups).toEqual(['a', 'b'])
    expect(channel({ paramOverride: '{}', headerOverride: ' ' })).toMatchObject({
      paramOverride: undefined,
      headerOverride: undefined,
    })
  })
  test('a damaged column is warned about and costs only what it holds', () => {
    const warnings: string[] = []
    const parsed = channel(
      {
        setting: '{',
        settings: '[]',
        statusCodeMapping: '{"a":1,"404":"503"',
        paramOverride: '{oops',
        channelInfo: '7',
      },
      warnings,
    )
    expect(warnings.sort()).toEqual(['channel_info', 'param_override', 'setting', 'settings', 'status_code_mapping'])
    expect(parsed).toMatchObject({ setting: {}, settings: {}, models: ['m'], paramOverride: '{oops' })
  })
  test('a status mapping takes texts and integers, and leaves out what is no status', () => {
    const { statusMapping } = channel({ statusCodeMapping: '{"404":"503","429":500,"x":"1","500":"9999"}' })
    expect([...statusMapping]).toEqual([
      [404, 503],
      [429, 500],
    ])
    expect(mappedStatus(channel({ statusCodeMapping: '{"404":"503"}' }), 404)).toBe(503)
    expect(mappedStatus(channel(), 404)).toBe(404)
  })
})

describe('model mapping', () => {
  const mapped = (mapping: string, model: string) => upstreamModel(channel({ modelMapping: mapping }), model)
  test('is followed from name to name, and ends at a name that maps to itself', () => {
    expect(mapped('{"a":"b","b":"c"}', 'a')).toBe('c')
    expect(mapped('{"a":"b","b":"b"}', 'a')).toBe('b')
    expect(mapped('{"a":"a"}', 'a')).toBe('a')
    expect(mapped('{"a":"b"}', 'x')).toBe('x')
    expect(mapped('{"a":""}', 'a')).toBe('a')
  })
  test.each(['{"a":"b","b":"a"}', '{"a":"b","b":"c","c":"b"}', '{"a":', '["a"]'])('%s fails the call', (mapping) => {
    expect(() => mapped(mapping, 'a')).toThrow(expect.objectContaining({ code: 'channel:model_mapped_error' }))
  })
})

describe('keys', () => {
  test('lines or a JSON array; objects keep their text', () => {
    expect(readKeys(' a \n\nb\n', true)).toEqual(['a', 'b'])
    expect(readKeys('a\nb', false)).toEqual(['a\nb'])
    expect(readKeys('', false)).toEqual([])
    expect(readKeys('[{"p":1},"x"]', true)).toEqual(['{"p":1}', 'x'])
    expect(readKeys('[broken', true)).toEqual(['[broken'])
  })
  test.each([[['a', 'b']], [['{"p":1}', '{"p":2}']], [['one\ntwo', 'x', '[']], [['{"p":1}', 'x']], [[]]])(
    '%j is read as it was written, all or the first alone',
    (keys) => {
      expect(readKeys(writeKeys(keys, true), true)).toEqual(keys)
      expect(readKeys(writeKeys(keys, false), false)).toEqual(keys.slice(0, 1))
    },
  )

  const three = (mode: string, statuses: Record<string, number> | null = null, at = 0) =>
    channel({ id: 1, key: 'a\nb\nc', channelInfo: multiKeyInfo(mode, statuses, at) })
  const taken = (count: number, ...args: Parameters<typeof three>) => {
    const choice = createKeyChoice(seeded())
    return Array.from({ length: count }, () => choice.take(three(...args))?.key)
  }
  test('polling is exactly fair, and begins where the row stood', () => {
    expect(taken(7, 'polling', null, 1)).toEqual(['b', 'c', 'a', 'b', 'c', 'a', 'b'])
  })
  test('polling passes over disabled keys', () => {
    expect(taken(4, 'polling', { 1: 3 })).toEqual(['a', 'c', 'a', 'c'])
  })
  test('polling goes on after a reload, and where keys became fewer', () => {
    const choice = createKeyChoice(seeded())
    choice.take(three('polling'))
    choice.take(three('polling'))
    const fewer = channel({ id: 1, key: 'a\nb', channelInfo: multiKeyInfo('polling') })
    expect(choice.take(fewer)?.key).toBe('a')
  })
  test('random is even over the enabled keys', () => {
    const draws = taken(9000, 'random', { 0: 2 })
    expect(draws).not.toContain('a')
    expect(draws.filter((key) => key === 'b').length / 9000).toBeCloseTo(0.5, 1)
  })
  test('no enabled key is undefined; a single key has index 0, and may be empty', () => {
    expect(taken(1, 'polling', { 0: 2, 1: 3, 2: 3 })).toEqual([undefined])
    expect(taken(1, 'random', { 0: 2, 1: 3, 2: 3 })).toEqual([undefined])
    expect(createKeyChoice(seeded()).take(channel({ key: '' }))).toEqual({ key: '', index: 0 })
  })
})

test('families of model names', () => {
  expect(normaliseModel('gemini-2.5-flash-lite-thinking-100')).toBe('gemini-2.5-flash-lite-thinking-*')
  expect(normaliseModel('gemini-2.5-flash-thinking-100')).toBe('gemini-2.5-flash-thinking-*')
  expect(normaliseModel('gemini-2.5-pro-preview-thinking-1')).toBe('gemini-2.5-pro-thinking-*')
  expect(normaliseModel('gpt-4-gizmo-x')).toBe('gpt-4-gizmo-*')
  expect(normaliseModel('gemini-2.5-pro')).toBe('gemini-2.5-pro')
})

describe('fields that are taken out', () => {
  test('those that change the price or tell who calls, unless the channel lets them through', () => {
    expect(filteredFields({})).toEqual([
      ['service_tier'],
      ['inference_geo'],
      ['speed'],
      ['safety_identifier'],
      ['stream_options', 'include_obfuscation'],
    ])
    expect(
      filteredFields({
        allow_service_tier: true,
        allow_inference_geo: true,
        allow_speed: true,
        allow_safety_identifier: true,
        allow_include_obfuscation: true,
        disable_store: true,
      }),
    ).toEqual([['store']])
  })
})

describe('system prompt', () => {
  const apply = (
    json: Record<string, unknown>,
    protocol: 'claude' | 'openai-chat',
    isOverriding = false,
    model = 'm',
  ) => applySystemPrompt(json, protocol, model, { system_prompt: 'P', system_prompt_override: isOverriding })
  const user = { role: 'user', content: 'Hi' }

  test('without a prompt nothing changes', () => {
    expect(applySystemPrompt({ messages: [] }, 'claude', 'm', {})).toBeUndefined()
  })
  test('chat: a message in front, whose role reasoning models call developer', () => {
    expect(apply({ messages: [user] }, 'openai-chat')?.messages).toEqual([{ role: 'system', content: 'P' }, user])
    expect(apply({ messages: [user] }, 'openai-chat', false, 'gpt-5-mini')?.messages).toEqual([
      { role: 'developer', content: 'P' },
      user,
    ])
    expect(apply({ messages: [] }, 'openai-chat', false, 'o1-mini')?.messages).toEqual([
      { role: 'system', content: 'P' },
    ])
  })
  test('an existing one is left alone, or gets the prompt in front when the channel overrides', () => {
    const messages = [user, { role: 'system', content: 'own' }]
    expect(apply({ messages }, 'openai-chat')).toBeUndefined()
    expect(apply({ messages }, 'openai-chat', true)?.messages).toEqual([user, { role: 'system', content: 'P\nown' }])
    const parts = [{ role: 'system', content: [{ type: 'text', text: 'own' }] }]
    expect(apply({ messages: parts }, 'openai-chat', true)?.messages).toEqual([
      {
        role: 'system',
        content: [
          { type: 'text', text: 'P' },
          { type: 'text', text: 'own' },
        ],
      },
    ])
  })
  test('Claude: set, left, or put in front', () => {
    expect(apply({}, 'claude')).toEqual({ system: 'P' })
    expect(apply({ system: [] }, 'claude')).toEqual({ system: 'P' })
    expect(apply({ system: 'own' }, 'claude')).toBeUndefined()
    expect(apply({ system: 'own' }, 'claude', true)).toEqual({ system: 'P\nown' })
    expect(apply({ system: [{ type: 'text', text: 'own' }] }, 'claude', true)?.system).toEqual([
      { type: 'text', text: 'P' },
      { type: 'text', text: 'own' },
    ])
  })
})
