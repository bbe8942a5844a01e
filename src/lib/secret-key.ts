/**
 * Keys and fingerprints made from an operator's secret. The first step is slow and salted, so that neither a fingerprint
 * nor an encrypted text in a database helps to guess a weak secret faster than some twenty tries per second and core.
 */
import { createHmac, hkdfSync, scrypt } from 'node:crypto'

/** What a secret becomes; all keys and fingerprints derive from it. Never leaves memory. */
export type Root = Buffer

/** 32 MiB and about 50 ms per try. */
const COST = { N: 2 ** 15, r: 8, p: 1, maxmem: 64 * 1024 * 1024 } as const
const ROOT_BYTES = 32
const KEY_BYTES = 32
const FINGERPRINT_BYTES = 16

/**
 * @param salt random, made once per installation: nobody can prepare guesses, and equal secrets of two installations do
 * not show
 * @source RFC 7914 (scrypt)
 */
export const rootOf = (secret: string, salt: string): Promise<Root> =>
  new Promise((resolve, reject) => {
    scrypt(secret, salt, ROOT_BYTES, COST, (error, root) => (error ? reject(error) : resolve(root)))
  })

/** Names a secret without telling it; another name gives another fingerprint of the same secret. @returns 32 hex digits */
export const fingerprintOf = (root: Root, name: string): string =>
  createHmac('sha256', root)
    .update(`headgate/fingerprint/v1/${name}`)
    .digest('hex')
    .slice(0, 2 * FINGERPRINT_BYTES)

/** A key of 256 bits for one purpose. @source RFC 5869 (HKDF); the root is uniform, so it needs no further salt */
export const keyOf = (root: Root, purpose: string): Buffer =>
  Buffer.from(hkdfSync('sha256', root, '', `headgate/key/v1/${purpose}`, KEY_BYTES))
