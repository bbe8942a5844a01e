/**
 * Texts encrypted for storage: AES-256-GCM under a key of a ring, as `hgs1:<key id>:<base64url of nonce, text, tag>`.
 * The key id says which secret opens it, so that old and new may lie side by side. A sealed text is bound to its purpose,
 * not to its row: a copy of a row works like the row.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'

export interface RingKey {
  /** Letters and digits. */
  readonly id: string
  /** 32 bytes. */
  readonly key: Buffer
}

export interface Keyring {
  /** Ids of its keys, the current one first. */
  readonly ids: readonly string[]
  /** @throws Error when the ring has no key of that id, or the text is sealed already */
  seal(text: string, id: string): string
  /** @returns the text; undefined when no key of this ring opens it, or it was changed. A text that is not sealed is itself */
  open(stored: string): string | undefined
}

const PREFIX = 'hgs1:'
const ALGORITHM = 'aes-256-gcm'
/** A random nonce of 96 bits is safe for 2³² texts of one key (NIST SP 800-38D, 8.3); keys are written by hand. */
const NONCE_BYTES = 12
const TAG_BYTES = 16

/** @param purpose what the texts are, such as the name of their column */
export function createKeyring(keys: readonly RingKey[], purpose: string): Keyring {
  const byId = new Map(keys.map(({ id, key }) => [id, key]))
  const bound = Buffer.from(purpose)
  return {
    ids: keys.map(({ id }) => id),
    seal(text, id) {
      const key = byId.get(id)
      if (!key) throw new Error(`this node has no key ${id} to encrypt with`)
      if (isSealed(text)) throw new Error('the text is encrypted already')
      const nonce = randomBytes(NONCE_BYTES)
      const cipher = createCipheriv(ALGORITHM, key, nonce).setAAD(bound)
      const parts = [nonce, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()]
      return `${PREFIX}${id}:${Buffer.concat(parts).toString('base64url')}`
    },
    open(stored) {
      if (!isSealed(stored)) return stored
      const key = byId.get(sealedWith(stored) ?? '')
      const bytes = Buffer.from(stored.slice(stored.lastIndexOf(':') + 1), 'base64url')
      if (!key || bytes.length < NONCE_BYTES + TAG_BYTES) return undefined
      const decipher = createDecipheriv(ALGORITHM, key, bytes.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES })
      decipher.setAAD(bound).setAuthTag(bytes.subarray(-TAG_BYTES))
      try {
        const text = decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES), undefined, 'utf8')
        return text + decipher.final('utf8')
      } catch {
        // The tag does not fit: the text was changed, or cut.
        return undefined
      }
    },
  }
}

/** A ring without keys: opens only what is not sealed. */
export const EMPTY_RING: Keyring = createKeyring([], '')

export const isSealed = (stored: string): boolean => stored.startsWith(PREFIX)

/** @returns the id of the key that opens it; undefined for a text that is not sealed */
export const sealedWith = (stored: string): string | undefined => /^hgs1:(\w+):/.exec(stored)?.[1]
