/** Encrypted texts: only the right secret opens them, a changed one is refused, and old and new keys live side by side. */
import { describe, expect, test } from 'bun:test'
import { createKeyring, EMPTY_RING, isSealed, sealedWith } from '../../src/lib/sealed-text.ts'
import { fingerprintOf, keyOf, rootOf } from '../../src/lib/secret-key.ts'

const oldKey = { id: 'old1', key: Buffer.alloc(32, 1) }
const newKey = { id: 'new1', key: Buffer.alloc(32, 2) }
const ring = createKeyring([newKey, oldKey], 'channels.key')
const TEXTS = [
  'sk-one',
  'a\nb\nc',
  '{"type":"service_account","key":"-----BEGIN\\n"}',
  '密钥🔑',
  'x'.repeat(100_000),
  '',
]

describe('a sealed text', () => {
  test('comes back whole, says its key, shows nothing of itself, and differs each time', () => {
    for (const text of TEXTS) {
      const sealed = ring.seal(text, 'new1')
      expect(ring.open(sealed)).toBe(text)
      expect(isSealed(sealed)).toBe(true)
      expect(sealedWith(sealed)).toBe('new1')
      if (text !== '') expect(sealed).not.toContain(text)
      expect(ring.seal(text, 'new1')).not.toBe(sealed)
    }
  })

  test('is opened by every ring that has its key, wherever that stands, and by no other', () => {
    const sealed = createKeyring([oldKey], 'channels.key').seal('sk-one', 'old1')
    expect(ring.open(sealed)).toBe('sk-one')
    expect(createKeyring([newKey], 'channels.key').open(sealed)).toBeUndefined()
    expect(createKeyring([{ ...newKey, id: 'old1' }], 'channels.key').open(sealed)).toBeUndefined()
    expect(createKeyring([oldKey], 'options.value').open(sealed)).toBeUndefined()
    expect(EMPTY_RING.open(sealed)).toBeUndefined()
  })

  test('is refused when one character of it was changed, or when it was cut', () => {
    const sealed = ring.seal('sk-one', 'new1')
    const begin = sealed.lastIndexOf(':') + 1
    for (let at = begin; at < sealed.length; at++) {
      // The last character may hold bits that mean nothing.
      const changed = `${sealed.slice(0, at)}${sealed[at] === 'A' ? 'Q' : 'A'}${sealed.slice(at + 1)}`
      if (at < sealed.length - 1) expect(ring.open(changed)).toBeUndefined()
      expect(ring.open(sealed.slice(0, at))).toBeUndefined()
    }
  })

  test('is not sealed twice, and a text that never was sealed is itself', () => {
    expect(() => ring.seal(ring.seal('sk-one', 'new1'), 'new1')).toThrow()
    expect(() => ring.seal('sk-one', 'nobody')).toThrow()
    for (const text of ['sk-one', '', 'hgs', 'hgs2:x:y']) expect(ring.open(text)).toBe(text)
  })
})

describe('what a secret becomes', () => {
  test('the same on every node of an installation, and nothing alike between two', async () => {
    const root = await rootOf('a secret', 'salt')
    expect(fingerprintOf(root, 'SESSION_SECRET')).toBe(
      fingerprintOf(await rootOf('a secret', 'salt'), 'SESSION_SECRET'),
    )
    const values = [
      fingerprintOf(root, 'SESSION_SECRET'),
      fingerprintOf(root, 'CRYPTO_SECRET'),
      keyOf(root, 'channels.key').toString('hex').slice(0, 32),
      keyOf(root, 'another').toString('hex').slice(0, 32),
      fingerprintOf(await rootOf('a secret', 'salt of another installation'), 'SESSION_SECRET'),
      fingerprintOf(await rootOf('another secret', 'salt'), 'SESSION_SECRET'),
    ]
    expect(new Set(values).size).toBe(values.length)
    expect(values[0]).toMatch(/^[0-9a-f]{32}$/)
  })
})
