import { describe, expect, test } from 'bun:test'
import { GatewayError } from '../../src/errors.ts'
import { codecs, errorInBody, maskText, readUpstreamError } from '../../src/protocol/index.ts'
import { framesOf } from './kit.ts'

describe('errors of our own', () => {
  test('in the shape of each dialect, with the id of the request', () => {
    const error = new GatewayError('insufficient_user_quota')
    expect(codecs['openai-chat'].encodeError(error, 'r1')).toEqual({
      status: 403,
      headers: {},
      json: {
        error: {
          message: 'Insufficient quota (request id: r1)',
          type: 'new_api_error',
          param: null,
          code: 'insufficient_user_quota',
        },
      },
    })
    expect(codecs.claude.encodeError(error, 'r1')).toEqual({
      status: 403,
      headers: {},
      json: {
        type: 'error',
        error: { type: 'permission_error', message: 'Insufficient quota (request id: r1)' },
        request_id: 'r1',
      },
    })
  })

  test('a wait is announced in whole seconds', () => {
    const error = new GatewayError('rate_limit_exceeded', { retryAfterSec: 1.2 })
    for (const codec of [codecs.claude, codecs['openai-chat']])
      expect(codec.encodeError(error, 'r').headers).toEqual({ 'retry-after': '2' })
  })

  test('within a stream they are one complete frame', () => {
    const error = new GatewayError('upstream_timeout')
    const [chat] = framesOf(codecs['openai-chat'].encodeStreamError(error, 'r'))
    expect(JSON.parse(chat?.data ?? '')).toMatchObject({ error: { code: 'upstream_timeout' } })
    const [claude, ...more] = framesOf(codecs.claude.encodeStreamError(error, 'r'))
    expect([claude?.event, more]).toEqual(['error', []])
    expect(JSON.parse(claude?.data ?? '')).toMatchObject({ type: 'error', error: { type: 'timeout_error' } })
  })

  for (const [status, type] of [
    [400, 'invalid_request_error'],
    [401, 'authentication_error'],
    [402, 'billing_error'],
    [403, 'permission_error'],
    [404, 'not_found_error'],
    [413, 'request_too_large'],
    [422, 'invalid_request_error'],
    [429, 'rate_limit_error'],
    [499, 'api_error'],
    [500, 'api_error'],
    [502, 'api_error'],
    [503, 'overloaded_error'],
    [504, 'timeout_error'],
    [529, 'overloaded_error'],
  ] as const) {
    test(`status ${status} is Claude's ${type}`, () => {
      const { json } = codecs.claude.encodeError(new GatewayError('internal_error', { status }), 'r')
      expect(json).toMatchObject({ error: { type } })
    })
  }
})

describe('errors of an upstream', () => {
  const shown = (status: number, body: string) => {
    const upstream = readUpstreamError(status, body)
    const error = new GatewayError('bad_response_status_code', { upstream, status: upstream.status })
    return {
      chat: codecs['openai-chat'].encodeError(error, 'r').json,
      claude: codecs.claude.encodeError(error, 'r').json,
    }
  }

  test('keep their words for a client of the same dialect and of the other', () => {
    const openai = {
      error: { message: 'Unknown parameter', type: 'invalid_request_error', param: 'foo', code: 'unknown_parameter' },
    }
    expect(shown(400, JSON.stringify(openai))).toEqual({
      chat: { error: { ...openai.error, message: 'Unknown parameter (request id: r)' } },
      claude: {
        type: 'error',
        error: { type: 'invalid_request_error', message: 'Unknown parameter (request id: r)' },
        request_id: 'r',
      },
    })
    const claude = { type: 'error', error: { type: 'overloaded_error', message: 'Overloaded' } }
    expect(shown(529, JSON.stringify(claude))).toEqual({
      chat: { error: { message: 'Overloaded (request id: r)', type: 'overloaded_error', param: null, code: null } },
      claude: {
        type: 'error',
        error: { type: 'overloaded_error', message: 'Overloaded (request id: r)' },
        request_id: 'r',
      },
    })
  })

  for (const [body, message] of [
    ['{"error":"boom"}', 'boom'],
    ['{"error":{},"message":"m"}', 'm'],
    ['{"msg":"m"}', 'm'],
    ['{"err":"m"}', 'm'],
    ['{"error_msg":"m"}', 'm'],
    ['{"detail":"m"}', 'm'],
    ['{"detail":[{"loc":["body"]}]}', '[{"loc":["body"]}]'],
    ['{"header":{"message":"m"}}', 'm'],
    ['{"response":{"error":{"message":"m"}}}', 'm'],
    ['[{"error":{"message":"m","code":429}}]', 'm'],
    ['<html>bad gateway</html>', 'bad response status code 502'],
    ['', 'bad response status code 502'],
    ['{"error":{"message":""}}', '{"message":""}'],
  ] as const) {
    test(`the text of ${body || 'nothing'} is found`, () => expect(readUpstreamError(502, body).message).toBe(message))
  }

  test('codes may be numbers, types may be called status', () => {
    const body = JSON.stringify({ error: { code: 429, message: 'slow down', status: 'RESOURCE_EXHAUSTED' } })
    expect(readUpstreamError(429, body)).toEqual({
      status: 429,
      message: 'slow down',
      type: 'RESOURCE_EXHAUSTED',
      code: '429',
    })
  })

  test('a page instead of a message is cut', () => {
    expect(readUpstreamError(500, JSON.stringify({ message: 'x'.repeat(100_000) })).message.length).toBeLessThan(5000)
  })

  test('an answer of status 200 with an error object is an error', () => {
    expect(errorInBody({ error: { type: 'rate_limit_error', message: 'slow' } })).toMatchObject({
      status: 429,
      message: 'slow',
    })
    expect(errorInBody({ error: { code: 503, message: 'away' } })).toMatchObject({ status: 503 })
    expect(errorInBody({ error: { type: 'server_error', message: '' } })).toMatchObject({ status: 502 })
    expect(errorInBody({ choices: [{}], error: { message: 'ignored' } })).toBeUndefined()
    for (const json of [null, {}, { error: null }, { error: {} }, { choices: [] }])
      expect(errorInBody(json)).toBeUndefined()
  })
})

describe('what clients see of an upstream', () => {
  for (const [text, masked] of [
    ['see https://platform.openai.com/account/api-keys.', 'see https://***.com/***'],
    ['https://api.example.co.uk:8443/v1?key=abc&b=2', 'https://***.co.uk/***?key=***&b=***'],
    ['http://localhost:3000/v1', 'http://***/***'],
    ['https://user:secret@h.example.com', 'https://***.com'],
    ['dial tcp 10.1.2.3:443: refused', 'dial tcp ***.***.***.***: refused'],
    ['[2001:db8::1] and ::1 at 12:30:45', '[***] and *** at 12:30:45'],
    ['host upstream.example.com is down', 'host ***.com is down'],
    ['Incorrect API key provided: sk-abcd****wxyz', 'Incorrect API key provided: sk-***'],
    ['bad key sk-proj-0123456789abcdef', 'bad key sk-***'],
    ['api_key: abcdef, x', 'api_key: ***, x'],
    ['Authorization: Bearer abcdefghij', 'Authorization: *** ***'],
    [
      'messages.0.content.1.text: too long for gpt-4.1 (v1.2.3)',
      'messages.0.content.1.text: too long for gpt-4.1 (v1.2.3)',
    ],
    ['tools.0.custom.input_schema.type: required', 'tools.0.custom.input_schema.type: required'],
  ] as const) {
    test(text, () => expect(maskText(text)).toBe(masked))
  }

  test("the channel's own key and host never appear, wherever they stand", () => {
    const body = JSON.stringify({
      error: { message: 'key k3y-of-ours at inner-host', type: 'k3y-of-ours', code: 'k3y-of-ours' },
    })
    const error = readUpstreamError(401, body, ['k3y-of-ours', 'inner-host'])
    expect(JSON.stringify(error)).not.toContain('ours')
    expect(error.message).toBe('key *** at ***')
  })
})
