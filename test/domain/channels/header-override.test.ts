import { describe, expect, test } from 'bun:test'
import { applyHeaderEdits, resolveHeaderOverride } from '../../../src/domain/channels/header-override.ts'

const clientHeaders = new Headers({
  authorization: 'Bearer sk-client',
  'x-api-key': 'sk-client',
  cookie: 'a=b',
  host: 'gateway',
  'content-encoding': 'gzip',
  'x-team': 'red',
  'x-trace-id': '1',
  'user-agent': 'sdk',
})
const resolve = (override: unknown, isChannelTest = false) =>
  Object.fromEntries(resolveHeaderOverride(override, { apiKey: 'upstream', clientHeaders, isChannelTest }))

describe('header override', () => {
  test('none, and fixed values with the key of the channel', () => {
    expect(resolve(undefined)).toEqual({})
    expect(resolve({ 'X-Key': 'Token {api_key}', Host: 'h', 'X-N': 1 })).toEqual({
      'x-key': 'Token upstream',
      host: 'h',
      'x-n': '1',
    })
  })
  test('a header of the client by name, left out when it was not sent', () => {
    expect(resolve({ 'X-A': '{client_header:X-Team}', 'X-B': '{client_header:X-None}' })).toEqual({ 'x-a': 'red' })
  })
  test('a pattern passes what matches, and never credentials, cookies, or what belongs to the connection', () => {
    expect(resolve({ '*': '' })).toEqual({ 'x-team': 'red', 'x-trace-id': '1', 'user-agent': 'sdk' })
    expect(resolve({ 're:^x-t': '' })).toEqual({ 'x-team': 'red', 'x-trace-id': '1' })
    expect(resolve({ 'regex:^X-Trace': '' })).toEqual({ 'x-trace-id': '1' })
  })
  test('explicit entries win over patterns, wherever they stand', () => {
    expect(resolve({ 'X-Team': 'blue', 're:team': '' })).toEqual({ 'x-team': 'blue' })
  })
  test('a channel test passes nothing by pattern', () => {
    expect(resolve({ '*': '', 'x-a': 'b' }, true)).toEqual({ 'x-a': 'b' })
  })
  test.each(['text', [1], { 'x a': 'b' }, { 'x-a': 'b\nc' }, { 'x-a': { y: 1 } }, { 're:(': '' }])(
    '%j fails the call',
    (override) => {
      expect(() => resolve(override)).toThrow(expect.objectContaining({ code: 'channel:header_override_invalid' }))
    },
  )
  test('edits set and remove', () => {
    const headers = new Headers({ a: '1', b: '2' })
    applyHeaderEdits(
      headers,
      new Map([
        ['a', null],
        ['b', '3'],
        ['c', '4'],
      ] as [string, string | null][]),
    )
    expect(Object.fromEntries(headers)).toEqual({ b: '3', c: '4' })
  })
})
