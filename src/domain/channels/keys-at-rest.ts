/**
 * How upstream keys lie in the database: as they are, or encrypted. One row of the cluster's facts says which, for all
 * nodes; every write of a key holds that row, so that a change of it meets no write under way. A database is encrypted
 * from its beginning or by a command, never by the way: it may be shared with a system that reads plain keys only.
 */
import { eq } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Keyring } from '../../lib/sealed-text.ts'

export interface KeysState {
  readonly isEncrypted: boolean
  /** Id of the key that writes use; '' while plain. */
  readonly with: string
  /** Ids of further keys that texts may still be sealed with: a command that changes them has begun and not ended. */
  readonly also: readonly string[]
}

/** Reads and writes the text of `channels.key`. */
export interface StoredKeys {
  /** @returns the keys; a text that no secret here opens comes back as it is, and `readKeys` refuses it */
  open(stored: string): string
  /**
   * What to store, within the transaction that stores it.
   * @throws GatewayError `channel_key_locked` when this node lacks the secret that the cluster encrypts with
   */
  seal(tx: Db, keys: string): Promise<string>
}

const STATE_KEY = 'keys_at_rest'
const PLAIN: KeysState = { isEncrypted: false, with: '', also: [] }

export const createStoredKeys = (keyring: Keyring): StoredKeys => ({
  open: (stored) => keyring.open(stored) ?? stored,
  async seal(tx, keys) {
    if (keys === '') return keys
    const state = await lockState(tx)
    if (!state.isEncrypted) return keys
    if (!keyring.ids.includes(state.with)) throw new GatewayError('channel_key_locked')
    return keyring.seal(keys, state.with)
  },
})

export async function readKeysState(db: Db): Promise<KeysState> {
  const { clusterMeta } = db.tables
  const [row] = await db.select().from(clusterMeta).where(eq(clusterMeta.key, STATE_KEY))
  return row ? parseState(row.value) : PLAIN
}

/** As `readKeysState`, and nobody else writes a key until the transaction ends. */
export async function lockState(tx: Db): Promise<KeysState> {
  const { clusterMeta } = tx.tables
  const [row] = await tx.lock(tx.select().from(clusterMeta).where(eq(clusterMeta.key, STATE_KEY)))
  return row ? parseState(row.value) : PLAIN
}

export async function writeState(tx: Db, state: KeysState): Promise<void> {
  const { clusterMeta } = tx.tables
  const value = JSON.stringify(state)
  await tx.upsert(clusterMeta, { key: STATE_KEY, value }, { key: [clusterMeta.key], set: { value } })
}

/**
 * Decides for a database of which nothing is decided yet: encrypted if that is wanted and nobody has used the database,
 * plain otherwise. Of several nodes the first decides.
 */
export async function beginKeysAtRest(db: Db, keyring: Keyring, isWanted: boolean): Promise<void> {
  const { channels, clusterMeta, users } = db.tables
  const [known] = await db.select({ key: clusterMeta.key }).from(clusterMeta).where(eq(clusterMeta.key, STATE_KEY))
  if (known) return
  const [current = ''] = keyring.ids
  const isNew = async () => (await db.$count(users)) === 0 && (await db.$count(channels)) === 0
  const isEncrypted = isWanted && current !== '' && (await isNew())
  const state: KeysState = isEncrypted ? { isEncrypted, with: current, also: [] } : PLAIN
  await db.insertIgnore(clusterMeta, { key: STATE_KEY, value: JSON.stringify(state) })
}

/** @returns what of the stored keys the secrets here cannot read, in words for an operator; undefined if nothing */
export async function lockedKeys(db: Db, keyring: Keyring): Promise<string | undefined> {
  const state = await readKeysState(db)
  const needed = [...(state.isEncrypted ? [state.with] : []), ...state.also]
  const isLocked = needed.some((id) => !keyring.ids.includes(id))
  return isLocked
    ? 'CRYPTO_SECRET: upstream keys in the database are encrypted with another value; set that one, here or as CRYPTO_SECRET_PREVIOUS (see `headgate keys`)'
    : undefined
}

function parseState(text: string): KeysState {
  try {
    const { isEncrypted, with: current, also } = JSON.parse(text) as Partial<KeysState>
    return {
      isEncrypted: isEncrypted === true,
      with: typeof current === 'string' ? current : '',
      also: Array.isArray(also) ? also.map(String) : [],
    }
  } catch (cause) {
    throw new Error(`the row ${STATE_KEY} of cluster_meta cannot be read`, { cause })
  }
}
