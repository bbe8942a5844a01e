/** Addresses have one spelling, networks match exactly, and a client cannot choose its own address. */
import { describe, expect, test } from 'bun:test'
import { clientIp, isIp, normaliseIp, PRIVATE_NETWORKS, parseCidrs } from '../../src/lib/ip.ts'

describe('an address has one spelling', () => {
  const spellings: readonly (readonly [written: string, normal: string])[] = [
    ['1.2.3.4', '1.2.3.4'],
    [' 1.2.3.4 ', '1.2.3.4'],
    ['1.2.3.4:5678', '1.2.3.4'],
    ['::ffff:1.2.3.4', '1.2.3.4'],
    ['::FFFF:0102:0304', '1.2.3.4'],
    ['[::ffff:1.2.3.4]:80', '1.2.3.4'],
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::1'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['[::1]', '::1'],
    ['fe80::1%eth0', 'fe80::1'],
    ['::', '::'],
    ['1::', '1::'],
  ]
  test.each(spellings)('%s is %s', (written, normal) => {
    expect(normaliseIp(written)).toBe(normal)
    expect(normaliseIp(normal)).toBe(normal)
  })

  test.each([
    '',
    'x',
    '1.2.3',
    '1.2.3.256',
    '1.2.3.4.5',
    ':::',
    '1::2::3',
    '12345::',
    '1:2:3:4:5:6:7',
    '[::1',
    '1.2.3.4:x',
  ])('%p is no address and is handed back', (text) => {
    expect(isIp(text)).toBe(false)
    expect(normaliseIp(text)).toBe(text)
  })
})

describe('a set of networks', () => {
  const set = parseCidrs(['10.0.0.0/8', '192.168.1.7', ' ', '2001:db8::/33', '0.0.0.0/33', 'nonsense', '1.2.3.4/'])

  test('holds what is inside, in every spelling, and nothing beside', () => {
    for (const ip of ['10.0.0.0', '10.255.255.255', '::ffff:10.1.2.3', '192.168.1.7', '2001:db8::1', '2001:db8:7fff::'])
      expect(set.has(ip)).toBe(true)
    for (const ip of ['9.255.255.255', '11.0.0.0', '192.168.1.8', '2001:db8:8000::', '::a00:1', '', 'x'])
      expect(set.has(ip)).toBe(false)
  })

  test('names the entries that it cannot read', () => {
    expect(set.invalid).toEqual(['0.0.0.0/33', 'nonsense', '1.2.3.4/'])
  })

  test('/0 holds all addresses of its kind, and an IPv4 /0 no IPv6 address', () => {
    expect(parseCidrs(['0.0.0.0/0']).has('255.1.2.3')).toBe(true)
    expect(parseCidrs(['0.0.0.0/0']).has('2001:db8::1')).toBe(false)
    expect(parseCidrs(['::/0']).has('2001:db8::1')).toBe(true)
  })
})

describe('the address of a client', () => {
  const trusted = parseCidrs(PRIVATE_NETWORKS)
  const from = (peer: string, headers: Record<string, string>): string =>
    clientIp(new Request('http://localhost/', { headers }), peer, trusted)

  test('is the peer, whatever it claims, if the peer is no trusted proxy', () => {
    expect(from('203.0.113.9', { 'x-forwarded-for': '10.0.0.1', 'x-real-ip': '10.0.0.2' })).toBe('203.0.113.9')
    expect(
      clientIp(
        new Request('http://localhost/', { headers: { 'x-forwarded-for': '1.1.1.1' } }),
        '127.0.0.1',
        parseCidrs([]),
      ),
    ).toBe('127.0.0.1')
  })

  test("is the right-most address that no trusted proxy has: what stands left of it is the client's own claim", () => {
    expect(from('::ffff:10.0.0.5', { 'x-forwarded-for': '6.6.6.6, 203.0.113.9, 10.0.0.4' })).toBe('203.0.113.9')
    expect(from('127.0.0.1', { 'x-forwarded-for': '203.0.113.9:4711' })).toBe('203.0.113.9')
  })

  test('is the outermost proxy if all are trusted, and stops at what is no address', () => {
    expect(from('10.0.0.5', { 'x-forwarded-for': '192.168.0.9, 10.0.0.4' })).toBe('192.168.0.9')
    expect(from('10.0.0.5', { 'x-forwarded-for': '203.0.113.9, <script>, 10.0.0.4' })).toBe('10.0.0.4')
  })

  test('falls back to X-Real-IP, then to the peer', () => {
    expect(from('10.0.0.5', { 'x-real-ip': '203.0.113.9' })).toBe('203.0.113.9')
    expect(from('10.0.0.5', { 'x-forwarded-for': 'unknown', 'x-real-ip': 'nobody' })).toBe('10.0.0.5')
  })
})
