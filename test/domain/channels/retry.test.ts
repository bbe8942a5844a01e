import { describe, expect, test } from 'bun:test'
import { isAccountFault } from '../../../src/domain/channels/health.ts'
import { shouldRetry } from '../../../src/domain/channels/retry.ts'
import { type ErrorCode, type ErrorOptions, GatewayError } from '../../../src/errors.ts'

const DEFAULT_CODES = '100-199,300-399,401-407,409-499,500-503,505-523,525-599'
const upstream = (status: number, message = 'no') =>
  new GatewayError('bad_response_status_code', { status, upstream: { status, message } })
const ask = (error: GatewayError, more: Partial<Parameters<typeof shouldRetry>[0]> = {}) =>
  shouldRetry({ error, attemptsLeft: 1, isForced: false, statusCodes: DEFAULT_CODES, ...more })

describe('whether another channel is tried', () => {
  test.each([
    [429, true],
    [401, true],
    [500, true],
    [307, true],
    [529, true],
    [400, false],
    [408, false],
    [504, false],
    [524, false],
    [200, false],
  ])('an upstream status of %d: %p', (status, isRetried) => {
    expect(ask(upstream(status))).toBe(isRetried)
  })
  test('504 is never retried, even where the option names it; a status outside HTTP always is', () => {
    expect(ask(upstream(504), { statusCodes: '100-599' })).toBe(false)
    expect(ask(upstream(900), { statusCodes: '' })).toBe(true)
  })
  test('the option decides, with either comma', () => {
    expect(ask(upstream(400), { statusCodes: '400，429' })).toBe(true)
    expect(ask(upstream(500), { statusCodes: '400' })).toBe(false)
  })
  test('not without attempts, and not on a channel that the key names', () => {
    expect(ask(upstream(500), { attemptsLeft: 0 })).toBe(false)
    expect(ask(upstream(500), { isForced: true })).toBe(false)
  })
  test.each<[ErrorCode, boolean, ErrorOptions]>([
    ['do_request_failed', true, {}],
    ['upstream_timeout', true, {}],
    ['channel:no_available_key', true, {}],
    ['channel:model_mapped_error', true, {}],
    ['channel:param_override_invalid', false, {}],
    ['bad_response_body', false, {}],
    ['insufficient_user_quota', false, {}],
    ['invalid_request', false, {}],
    ['invalid_request', true, { retry: true, status: 429, upstream: { status: 429, message: 'by an operation' } }],
  ])('%s: %p', (code, isRetried, options) => {
    expect(ask(new GatewayError(code, options))).toBe(isRetried)
  })
})

describe('whether the account is at fault', () => {
  const settings: Record<string, string> = {
    AutomaticDisableStatusCodes: '401',
    AutomaticDisableKeywords: 'Your credit balance is too low\n\nPermission denied ',
  }
  const options = { get: (key: string) => settings[key] } as unknown as Parameters<typeof isAccountFault>[1]
  test.each<[GatewayError, boolean]>([
    [upstream(401), true],
    [upstream(500), false],
    [upstream(500, 'PERMISSION DENIED for this key'), true],
    [new GatewayError('channel:no_available_key'), true],
    [new GatewayError('do_request_failed'), false],
    [new GatewayError('bad_response_status_code', { status: 401, retry: false }), false],
    [new GatewayError('invalid_request', { status: 401, retry: true, upstream: { status: 401, message: 'x' } }), false],
  ])('%s: %p', (error, isFault) => {
    expect(isAccountFault(error, options)).toBe(isFault)
  })
})
