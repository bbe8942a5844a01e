/** When a slave sends a browser to the public home of the pages: only pages, only from another host, never twice. */
import { describe, expect, test } from 'bun:test'
import { createPageRedirect } from '../../src/admin/page-redirect.ts'

const redirect = createPageRedirect('https://gate.example')
const page = (url: string, headers: Record<string, string> = {}, method = 'GET'): Request =>
  new Request(url, { method, headers: { host: new URL(url).host, accept: 'text/html,*/*;q=0.8', ...headers } })
const target = (request: Request, isProxyTrusted = false): string | null | undefined =>
  redirect(request, () => isProxyTrusted)?.headers.get('location')

describe('a page of another host', () => {
  test('is sent home for now, with its path and query', () => {
    const answer = redirect(page('http://10.0.0.7:3000/console/log?p=2'), () => false)
    expect(answer?.status).toBe(307)
    expect(answer?.headers.get('location')).toBe('https://gate.example/console/log?p=2&redirected=1')
    expect(answer?.headers.get('cache-control')).toBe('no-store')
    expect(target(page('http://10.0.0.7:3000/', {}, 'HEAD'))).toBe('https://gate.example/?redirected=1')
  })

  test('cannot be made to lead anywhere else', () => {
    for (const path of ['//evil.example/', '/\\evil.example/', '/@evil.example', '/%0d%0aSet-Cookie:x=1'])
      expect(new URL(target(page(`http://10.0.0.7:3000${path}`)) ?? '').host).toBe('gate.example')
  })
})

describe('no redirect', () => {
  test('for the same host, whatever its port and case, also as a trusted proxy tells it', () => {
    for (const url of ['http://gate.example/', 'http://gate.example:8080/', 'http://GATE.example/x'])
      expect(target(page(url))).toBeUndefined()
    const forwarded = page('http://cluster/', { 'x-forwarded-host': 'other.example, gate.example:443' })
    expect(target(forwarded, true)).toBeUndefined()
    expect(target(forwarded, false)).toStartWith('https://gate.example/')
  })

  test('for where a redirect has led already', () => {
    const first = target(page('http://cluster/a?x=1')) ?? ''
    expect(target(page(first.replace('https://gate.example', 'http://cluster')))).toBeUndefined()
  })

  test('for what is no page', () => {
    const paths = ['/api', '/api/status', '/v1/models', '/v1beta/models', '/healthz', '/readyz', '/metrics', '/mj/x']
    for (const path of paths) expect(target(page(`http://10.0.0.7:3000${path}`))).toBeUndefined()
    expect(target(page('http://10.0.0.7:3000/', { accept: 'application/json' }))).toBeUndefined()
    expect(target(page('http://10.0.0.7:3000/logo.png', { accept: 'image/avif,*/*' }))).toBeUndefined()
    expect(target(page('http://10.0.0.7:3000/', {}, 'POST'))).toBeUndefined()
    expect(target(page('http://10.0.0.7:3000/apis'))).toBeDefined()
  })
})
