import { describe, expect, test } from 'bun:test'
import { resolveHeaderOverride } from '../../../src/domain/channels/header-override.ts'
import {
  applyParamOverride,
  type Overridden,
  type OverrideContext,
} from '../../../src/domain/channels/param-override.ts'
import { GatewayError } from '../../../src/errors.ts'

type Json = Record<string, unknown>

const context = (more: Partial<OverrideContext> = {}): OverrideContext => ({
  apiKey: 'upstream-key',
  clientHeaders: new Headers({ 'x-team': 'red', 'anthropic-beta': 'one, two,three' }),
  isChannelTest: false,
  headerEdits: new Map(),
  userId: 7,
  userGroup: 'default',
  tokenGroup: '',
  usingGroup: 'vip',
  originalModel: 'asked',
  upstreamModel: 'mapped',
  requestPath: '/v1/chat/completions',
  retryIndex: 0,
  ...more,
})

const apply = (json: Json, override: unknown, more: Partial<OverrideContext> = {}): Overridden =>
  applyParamOverride(json, override, context(more))
const run = (json: Json, ...operations: Json[]): Json => apply(json, { operations }).json
const headers = (operation: Json, more: Partial<OverrideContext> = {}): Json =>
  Object.fromEntries(apply({}, { operations: [operation] }, more).headerEdits)

const thrownBy = (work: () => unknown): GatewayError => {
  try {
    work()
  } catch (error) {
    if (error instanceof GatewayError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

test('what an operation does to headers is of its call alone', () => {
  const headerEdits = resolveHeaderOverride(undefined, context())
  const operation = { mode: 'set_header', path: 'X-Mine', value: '1' }
  expect(headers(operation, { headerEdits })).toEqual({ 'x-mine': '1' })
  expect([...resolveHeaderOverride(undefined, context())]).toEqual([])
})

describe('forms', () => {
  test('no override gives the very same body', () => {
    const json = { a: 1 }
    expect(apply(json, undefined).json).toBe(json)
  })
  test('plain keys are set, dots in them are no paths, and the given body stays as it was', () => {
    const json = { a: { b: 1 }, t: 0 }
    expect(apply(json, { 'a.b': 2, t: 1, max_tokens: 5 }).json).toEqual({ a: { b: 1 }, 'a.b': 2, t: 1, max_tokens: 5 })
    expect(json).toEqual({ a: { b: 1 }, t: 0 })
  })
  test('keys beside operations are set first; operations follow each other', () => {
    const json = { nested: { list: [1] } }
    const override = {
      t: 1,
      operations: [
        { mode: 'copy', from: 't', to: 'u' },
        { mode: 'set', path: 'u', value: 2, conditions: [{ path: 'u', mode: 'full', value: 1 }] },
        { mode: 'append', path: 'nested.list', value: 2 },
      ],
    }
    expect(apply(json, override).json).toEqual({ nested: { list: [1, 2] }, t: 1, u: 2 })
    expect(json).toEqual({ nested: { list: [1] } })
  })
  test.each([
    'text',
    [1],
    { operations: {} },
    { operations: [1] },
    { operations: [{ mode: 'explode', path: 'a' }] },
    { operations: [{ path: 'a' }] },
    { operations: [{ mode: 'set', path: '', value: 1 }] },
    { operations: [{ mode: 'set', path: '__proto__.polluted', value: 1 }] },
    { operations: [{ mode: 'set', path: 'a', value: 1, conditions: 3 }] },
  ])('%j fails the call, without another try', (override) => {
    const error = thrownBy(() => apply({ a: 1 }, override))
    expect(error.code).toBe('channel:param_override_invalid')
    expect(error.retry).toBe(false)
  })
  test('changes of sensitive fields are told, others are not', () => {
    const override = {
      temperature: 1,
      service_tier: 'flex',
      operations: [
        { mode: 'set', path: 'messages.0.content', value: 'x' },
        { mode: 'set', path: 'user', value: 'x' },
        { mode: 'delete', path: 'tools', conditions: [{ path: 'nowhere', value: 1 }] },
      ],
    }
    expect(apply({ messages: [{}] }, override).touched).toEqual(['service_tier', 'messages.0.content'])
  })
})

describe('paths', () => {
  const json = { messages: [{ c: 'a' }, { c: 'b' }], o: { x: { n: 1 }, y: { n: 2 } }, 'a.b': 1 }
  test.each<[Json, Json]>([
    [{ mode: 'set', path: 'messages.0.c', value: 1 }, { messages: [{ c: 1 }, { c: 'b' }] }],
    [{ mode: 'set', path: 'messages.-1.c', value: 1 }, { messages: [{ c: 'a' }, { c: 1 }] }],
    [
      { mode: 'set', path: 'messages.*.d', value: 1 },
      {
        messages: [
          { c: 'a', d: 1 },
          { c: 'b', d: 1 },
        ],
      },
    ],
    [{ mode: 'set', path: 'o.*.n', value: 0 }, { o: { x: { n: 0 }, y: { n: 0 } } }],
    [{ mode: 'set', path: 'new.deep.name', value: 1 }, { new: { deep: { name: 1 } } }],
    [{ mode: 'set', path: 'messages.2', value: { c: 'c' } }, { messages: [{ c: 'a' }, { c: 'b' }, { c: 'c' }] }],
    [{ mode: 'set', path: 'a\\.b', value: 2 }, { 'a.b': 2 }],
    [{ mode: 'delete', path: 'messages.*' }, { messages: [] }],
    [{ mode: 'delete', path: 'messages.0' }, { messages: [{ c: 'b' }] }],
    [{ mode: 'delete', path: 'messages.*.c' }, { messages: [{}, {}] }],
    [{ mode: 'delete', path: 'no.such.thing' }, {}],
    [{ mode: 'set', path: 'none.*.x', value: 1 }, {}],
  ])('%j', (operation, changed) => {
    expect(run(json, operation)).toEqual({ ...json, ...changed })
  })
  test.each(['messages.5', 'messages.x', 'messages.-9', 'messages.0.c.deeper'])('%s cannot be written', (path) => {
    expect(thrownBy(() => run(json, { mode: 'set', path, value: 1 })).code).toBe('channel:param_override_invalid')
  })
})

describe('operations on the body', () => {
  test.each<[string, Json, Json, Json]>([
    ['set replaces', { a: 1 }, { mode: 'set', path: 'a', value: null }, { a: null }],
    ['set keeps what is there', { a: null }, { mode: 'set', path: 'a', value: 1, keep_origin: true }, { a: null }],
    ['set fills what is not', {}, { mode: 'set', path: 'a', value: 1, keep_origin: true }, { a: 1 }],
    ['move', { a: 1 }, { mode: 'move', from: 'a', to: 'b.c' }, { b: { c: 1 } }],
    ['move within a list', { l: [1, 2] }, { mode: 'move', from: 'l.0', to: 'first' }, { l: [2], first: 1 }],
    ['copy', { a: { x: 1 } }, { mode: 'copy', from: 'a', to: 'b' }, { a: { x: 1 }, b: { x: 1 } }],
    ['append to a text', { a: 'x' }, { mode: 'append', path: 'a', value: 'y' }, { a: 'xy' }],
    ['prepend to a text', { a: 'x' }, { mode: 'prepend', path: 'a', value: 'y' }, { a: 'yx' }],
    ['append an element', { a: [1] }, { mode: 'append', path: 'a', value: 2 }, { a: [1, 2] }],
    ['prepend several', { a: [1] }, { mode: 'prepend', path: 'a', value: [3, 4] }, { a: [3, 4, 1] }],
    ['merge an object', { a: { x: 1 } }, { mode: 'append', path: 'a', value: { x: 2, y: 3 } }, { a: { x: 2, y: 3 } }],
    [
      'merge, keeping what is there',
      { a: { x: 1 } },
      { mode: 'prepend', path: 'a', value: { x: 2, y: 3 }, keep_origin: true },
      { a: { x: 1, y: 3 } },
    ],
    ['append to nothing', {}, { mode: 'append', path: 'a', value: 'y' }, { a: 'y' }],
    ['trim_prefix', { a: 'xay' }, { mode: 'trim_prefix', path: 'a', value: 'x' }, { a: 'ay' }],
    ['trim_prefix without it', { a: 'ay' }, { mode: 'trim_prefix', path: 'a', value: 'x' }, { a: 'ay' }],
    ['trim_suffix', { a: 'xay' }, { mode: 'trim_suffix', path: 'a', value: 'y' }, { a: 'xa' }],
    ['trim_suffix of nothing', { a: 'xay' }, { mode: 'trim_suffix', path: 'a', value: '' }, { a: 'xay' }],
    ['ensure_prefix', { a: 'ay' }, { mode: 'ensure_prefix', path: 'a', value: 'x' }, { a: 'xay' }],
    ['ensure_prefix that is there', { a: 'xay' }, { mode: 'ensure_prefix', path: 'a', value: 'x' }, { a: 'xay' }],
    ['ensure_suffix', { a: 'xa' }, { mode: 'ensure_suffix', path: 'a', value: 'y' }, { a: 'xay' }],
    ['trim_space', { a: ' x ' }, { mode: 'trim_space', path: 'a' }, { a: 'x' }],
    ['to_lower', { a: 'Ab' }, { mode: 'to_lower', path: 'a' }, { a: 'ab' }],
    ['to_upper', { a: 'Ab' }, { mode: 'to_upper', path: 'a' }, { a: 'AB' }],
    ['replace all', { a: 'x.x' }, { mode: 'replace', path: 'a', from: 'x', to: '$&' }, { a: '$&.$&' }],
    [
      'regex_replace with groups',
      { a: 'openai/gpt-4o' },
      // biome-ignore lint/suspicious/noTemplateCurlyInString: the syntax of a replacement
      { mode: 'regex_replace', path: 'a', from: '^(?P<who>\\w+)/(.+)$', to: '${2}@${who}$$$0' },
      { a: 'gpt-4o@openai$openai/gpt-4o' },
    ],
    [
      'regex_replace with flags',
      { a: 'ABA' },
      { mode: 'regex_replace', path: 'a', from: '(?i)b', to: '' },
      { a: 'AA' },
    ],
    ['a text mode on nothing', {}, { mode: 'to_upper', path: 'a' }, {}],
    [
      'a text mode on many passes over what is no text',
      { m: [{ c: 'a' }, { c: [1] }] },
      { mode: 'to_upper', path: 'm.*.c' },
      { m: [{ c: 'A' }, { c: [1] }] },
    ],
  ])('%s', (_name, json, operation, result) => {
    expect(run(json, operation)).toEqual(result)
  })
  test.each<Json>([
    { mode: 'move', from: 'nowhere', to: 'b' },
    { mode: 'copy', from: 'nowhere', to: 'b' },
    { mode: 'copy', from: 'number', to: '' },
    { mode: 'append', path: 'number', value: 'x' },
    { mode: 'append', path: 'text', value: 1 },
    { mode: 'to_upper', path: 'number' },
    { mode: 'ensure_prefix', path: 'text', value: 1 },
    { mode: 'regex_replace', path: 'text', from: '(', to: '' },
    { mode: 'prune_objects', path: 'list' },
  ])('%j cannot be done and fails the call', (operation) => {
    expect(thrownBy(() => run({ number: 1, text: 'x', list: [] }, operation)).code).toBe(
      'channel:param_override_invalid',
    )
  })
})

describe('return_error', () => {
  const error = (value: unknown) => thrownBy(() => run({}, { mode: 'return_error', value }))
  test('a text is a 400 of the client', () => {
    expect(error('not here')).toMatchObject({
      code: 'invalid_request',
      status: 400,
      retry: false,
      public: 'not here',
      upstream: { message: 'not here', type: 'invalid_request_error', code: 'invalid_request' },
    })
  })
  test('an object says all of it', () => {
    const value = { msg: 'busy', status_code: 429, code: 'c', type: 't', skip_retry: false }
    expect(error(value)).toMatchObject({
      status: 429,
      retry: true,
      public: 'busy',
      upstream: { status: 429, type: 't', code: 'c' },
    })
  })
})

describe('prune_objects', () => {
  const content = () => [
    { type: 'text', text: 'a' },
    { type: 'thinking', inner: [{ type: 'thinking' }, { type: 'text' }] },
    { type: 'image', size: 3, content: [{ type: 'thinking', n: 1 }, 'plain'] },
  ]
  test('by type, at every depth', () => {
    expect(run({ m: content() }, { mode: 'prune_objects', path: 'm', value: 'thinking' })).toEqual({
      m: [
        { type: 'text', text: 'a' },
        { type: 'image', size: 3, content: ['plain'] },
      ],
    })
  })
  test('without a path, the whole body', () => {
    expect(run({ a: [{ type: 'x' }], b: { c: [{ type: 'x' }, 1] } }, { mode: 'prune_objects', value: 'x' })).toEqual({
      a: [],
      b: { c: [1] },
    })
  })
  test('on this level only, by fields and conditions', () => {
    const value = {
      where: { type: 'image' },
      conditions: [{ path: 'size', mode: 'gte', value: 3 }],
      recursive: false,
    }
    expect(run({ m: content() }, { mode: 'prune_objects', path: 'm', value })).toEqual({ m: content().slice(0, 2) })
  })
})

describe('conditions', () => {
  const json = { model: 'gpt-4o', n: 2, ok: true, list: [1], none: null }
  const isMet = (conditions: unknown, logic?: string, more: Partial<OverrideContext> = {}) =>
    apply(json, { operations: [{ mode: 'set', path: 'met', value: true, conditions, logic }] }, more).json.met === true

  test.each<[Json, boolean]>([
    [{ path: 'model', mode: 'full', value: 'gpt-4o' }, true],
    [{ path: 'model', value: 'gpt-4' }, false],
    [{ path: 'model', mode: 'prefix', value: 'gpt' }, true],
    [{ path: 'model', mode: 'suffix', value: '4o' }, true],
    [{ path: 'model', mode: 'contains', value: '-4' }, true],
    [{ path: 'model', mode: 'contains', value: 'x', invert: true }, true],
    [{ path: 'n', mode: 'gt', value: 1 }, true],
    [{ path: 'n', mode: 'gte', value: 2 }, true],
    [{ path: 'n', mode: 'lt', value: 2 }, false],
    [{ path: 'n', mode: 'lte', value: 2 }, true],
    [{ path: 'ok', mode: 'full', value: false }, false],
    [{ path: 'list', mode: 'full', value: [1] }, true],
    [{ path: 'none', mode: 'full', value: null }, true],
    [{ path: 'absent', mode: 'full', value: 1 }, false],
    [{ path: 'absent', mode: 'full', value: 1, invert: true }, false],
    [{ path: 'absent', mode: 'full', value: 1, pass_missing_key: true }, true],
    [{ path: 'absent', mode: 'full', value: 1, pass_missing_key: true, invert: true }, true],
  ])('%j: %p', (condition, met) => {
    expect(isMet([condition])).toBe(met)
  })
  test('several are joined by OR unless AND is said; an object means all', () => {
    const yes = { path: 'n', value: 2 }
    const no = { path: 'n', value: 3 }
    expect(isMet([no, yes])).toBe(true)
    expect(isMet([no, yes], 'and')).toBe(false)
    expect(isMet([yes, yes], 'AND')).toBe(true)
    expect(isMet({ n: 2, model: 'gpt-4o' })).toBe(true)
    expect(isMet({ n: 2, model: 'x' })).toBe(false)
    expect(isMet([])).toBe(true)
  })
  test.each<Json>([
    { path: 'n', mode: 'full', value: '2' },
    { path: 'model', mode: 'gt', value: 1 },
    { path: 'n', mode: 'like', value: 1 },
  ])('%j cannot be judged and fails the call', (condition) => {
    expect(thrownBy(() => isMet([condition])).code).toBe('channel:param_override_invalid')
  })
  test('what is known of the call', () => {
    const lastError = new GatewayError('bad_response_status_code', {
      status: 429,
      upstream: { status: 429, message: 'slow down', code: 'rate', type: 'limit' },
    })
    const more = { retryIndex: 1, lastError, headerEdits: new Map([['x-a', 'b']]) }
    for (const [path, value] of [
      ['user_id', 7],
      ['using_group', 'vip'],
      ['upstream_model', 'mapped'],
      ['original_model', 'asked'],
      ['request_path', '/v1/chat/completions'],
      ['request_headers.x-team', 'red'],
      ['header_override.x-a', 'b'],
      ['retry_index', 1],
      ['is_retry', true],
      ['retry.index', 1],
      ['retry.is_retry', true],
      ['last_error.status_code', 429],
      ['last_error.message', 'slow down'],
      ['last_error.code', 'rate'],
      ['last_error_type', 'limit'],
      ['last_error.skip_retry', false],
      ['is_channel_test', false],
    ]) {
      expect({ path, isMet: isMet([{ path, value }], 'AND', more) }).toEqual({ path, isMet: true })
    }
    expect(isMet([{ path: 'last_error.code', value: 'x' }])).toBe(false)
  })
  test('the body is asked before the call', () => {
    expect(isMet([{ path: 'model', value: 'gpt-4o' }])).toBe(true)
  })
})

describe('operations on headers', () => {
  test.each<[string, Json, Json]>([
    ['set', { mode: 'set_header', path: 'X-A', value: 'b' }, { 'x-a': 'b' }],
    ['set with the key', { mode: 'set_header', path: 'x-a', value: 'K {api_key}' }, { 'x-a': 'K upstream-key' }],
    ['delete', { mode: 'delete_header', path: 'X-Title' }, { 'x-title': null }],
    ['copy', { mode: 'copy_header', from: 'X-Team', to: 'X-Other' }, { 'x-other': 'red' }],
    ['copy by path', { mode: 'copy_header', path: 'x-team' }, { 'x-team': 'red' }],
    ['copy of nothing', { mode: 'copy_header', from: 'x-none', to: 'x-other' }, {}],
    ['move', { mode: 'move_header', from: 'x-team', to: 'x-other' }, { 'x-team': null, 'x-other': 'red' }],
    ['pass by list', { mode: 'pass_headers', value: 'x-team, x-none' }, { 'x-team': 'red' }],
    ['pass by object', { mode: 'pass_headers', value: { headers: ['X-Team'] } }, { 'x-team': 'red' }],
    [
      'map tokens',
      { mode: 'set_header', path: 'anthropic-beta', value: { one: 'uno', two: null, $append: ['four', 'uno'] } },
      { 'anthropic-beta': 'uno,three,four' },
    ],
    [
      'map tokens, declared ones only',
      { mode: 'set_header', path: 'anthropic-beta', value: { one: ['a', 'b'], $keep_only_declared: true } },
      { 'anthropic-beta': 'a,b' },
    ],
    [
      'map all others',
      { mode: 'set_header', path: 'anthropic-beta', value: { '*': null } },
      { 'anthropic-beta': null },
    ],
  ])('%s', (_name, operation, edits) => {
    expect(headers(operation)).toEqual(edits)
  })
  test('keep_origin keeps what the channel sets, not what the client sent', () => {
    const headerEdits = new Map([['x-team', 'blue']])
    expect(headers({ mode: 'set_header', path: 'x-team', value: 'x', keep_origin: true }, { headerEdits })).toEqual({
      'x-team': 'blue',
    })
    expect(headers({ mode: 'pass_headers', value: 'x-team', keep_origin: true }, { headerEdits })).toEqual({
      'x-team': 'blue',
    })
    expect(headers({ mode: 'set_header', path: 'x-team', value: 'x', keep_origin: true })).toEqual({ 'x-team': 'x' })
  })
  test('sync_fields fills the side that is missing', () => {
    const operation = { mode: 'sync_fields', from: 'json:user.name', to: 'header:X-Team' }
    const filled = apply({}, { operations: [operation] })
    expect(filled.json).toEqual({ user: { name: 'red' } })
    const sent = apply({ user: { name: 'blue' } }, { operations: [{ ...operation, to: 'header:X-New' }] })
    expect(Object.fromEntries(sent.headerEdits)).toEqual({ 'x-new': 'blue' })
    const both = apply({ user: { name: 'blue' } }, { operations: [operation] })
    expect([both.json, both.headerEdits.size]).toEqual([{ user: { name: 'blue' } }, 0])
  })
  test.each<Json>([
    { mode: 'set_header', path: 'x-a', value: 'b\r\nx-evil: 1' },
    { mode: 'set_header', path: 'x a', value: 'b' },
  ])('%j cannot break out of its header', (operation) => {
    expect(thrownBy(() => headers(operation)).code).toBe('channel:header_override_invalid')
  })
})
