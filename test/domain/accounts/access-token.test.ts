import { describe, expect, test } from 'bun:test'
import { createHmac } from 'node:crypto'
import { ACCESS_TOKEN_SEC, createAccessTokens } from '../../../src/domain/accounts/access-token.ts'

const claims = { userId: 7, sid: 'abc', userVersion: 3, sessionVersion: 2 }
const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')
const payloadOf = (token: string): Record<string, unknown> =>
  JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())
const keyOf = (secret: string): Buffer => createHmac('sha256', secret).update('new-api/auth/access/v1').digest()
const signed = (secret: string, header: unknown, payload: unknown): string => {
  const text = `${part(header)}.${part(payload)}`
  return `${text}.${createHmac('sha256', keyOf(secret)).update(text).digest('base64url')}`
}

describe('access tokens', () => {
  let nowMs = 1_800_000_000_000
  const tokens = createAccessTokens(['one'], () => nowMs)

  test('a token is read back by every node with the secret', () => {
    const { token } = tokens.issue(claims)
    expect(createAccessTokens(['one'], () => nowMs).read(token)).toEqual({ kind: 'valid', claims })
  })

  test('it ends after fifteen minutes, and says so', () => {
    const { token, expiresAtSec } = tokens.issue(claims)
    expect(expiresAtSec).toBe(nowMs / 1000 + ACCESS_TOKEN_SEC)
    const later = createAccessTokens(['one'], () => nowMs + ACCESS_TOKEN_SEC * 1000)
    expect(later.read(token)).toEqual({ kind: 'expired' })
    nowMs += 1
  })

  test('it carries the claims that New API reads', () => {
    const payload = payloadOf(tokens.issue(claims).token)
    expect(payload).toMatchObject({
      iss: 'new-api',
      aud: 'new-api-dashboard',
      sub: '7',
      token_use: 'access',
      sid: 'abc',
      uv: 3,
      sv: 2,
    })
  })

  test('a replaced secret still reads what it signed, and a foreign one never does', () => {
    const { token } = tokens.issue(claims)
    expect(createAccessTokens(['two', 'one'], () => nowMs).read(token).kind).toBe('valid')
    expect(createAccessTokens(['two'], () => nowMs).read(token).kind).toBe('invalid')
  })

  test('nothing but a token of ours is valid', () => {
    const { token } = tokens.issue(claims)
    const [header = '', payload = '', signature = ''] = token.split('.')
    const good = payloadOf(token)
    const forged = [
      `${header}.${part({ ...good, sub: '1' })}.${signature}`,
      `${part({ alg: 'none' })}.${payload}.`,
      `${part({ alg: 'none' })}.${payload}.${signature}`,
      `${header}.${payload}`,
      `${header}.${payload}.`,
      '..',
      'a.b.c',
      '',
      signed('one', { alg: 'HS512' }, good),
      signed('one', { alg: 'HS256' }, { ...good, aud: 'other' }),
      signed('one', { alg: 'HS256' }, { ...good, iss: 'other' }),
      signed('one', { alg: 'HS256' }, { ...good, token_use: 'security_proof' }),
      signed('one', { alg: 'HS256' }, { ...good, sub: 'x' }),
      signed('one', { alg: 'HS256' }, { ...good, exp: undefined }),
      signed('one', { alg: 'HS256' }, { ...good, nbf: nowMs / 1000 + 60 }),
      signed('one', { alg: 'HS256' }, null),
    ]
    expect(forged.map((text) => tokens.read(text).kind)).toEqual(forged.map(() => 'invalid'))
    expect(tokens.read(signed('one', { alg: 'HS256' }, good)).kind).toBe('valid')
  })
})
