/**
 * Encrypts, decrypts or re-encrypts all stored upstream keys of a cluster that is running. First the rule for writes
 * changes, then each row in a transaction of its own; so it may be interrupted anywhere and run again, and meanwhile both
 * forms are read everywhere.
 */
import { eq } from 'drizzle-orm'
import { bumpTopic, type Db } from '../../db/index.ts'
import { isSealed, type Keyring, sealedWith } from '../../lib/sealed-text.ts'
import { CHANNEL_STATUS } from './channel.ts'
import { type KeysState, lockState, readKeysState, writeState } from './keys-at-rest.ts'
import { lockRow, writeStatus } from './rows.ts'

export interface RewriteResult {
  /** Rows that were written. */
  readonly changed: number
  /** Ids of channels whose key no secret here opens. */
  readonly unreadable: readonly number[]
}

export interface KeysReport {
  readonly state: KeysState
  /** Channels with a key that lies plain, without a key, and by the id of the key they are sealed with. */
  readonly plain: number
  readonly empty: number
  readonly sealed: ReadonlyMap<string, number>
  /** Ids of channels whose key no secret here opens. */
  readonly unreadable: readonly number[]
}

const TOPIC = 'channels'

/** @param to `encrypted` with the current key of the ring, or `plain` */
export async function rewriteKeys(db: Db, keyring: Keyring, to: 'encrypted' | 'plain'): Promise<RewriteResult> {
  const target = await db.transaction(async (tx) => {
    const before = await lockState(tx)
    const next = targetOf(keyring, to)
    const old = [...(before.isEncrypted ? [before.with] : []), ...before.also].filter((id) => id !== next.with)
    const state = { ...next, also: [...new Set(old)] }
    await writeState(tx, state)
    return state
  })
  const rest = await rowsOtherThan(db, target)
  let changed = 0
  for (const id of rest) if (await rewriteRow(db, keyring, id, target)) changed++
  const unreadable = await finish(db, target)
  return { changed, unreadable }
}

/**
 * Gives up keys that no secret here opens: their channels stay, without a key and disabled. For a cluster that lost its
 * secret; no node may be running.
 * @returns ids of these channels
 */
export async function discardUnreadable(db: Db, keyring: Keyring, nowSec: number): Promise<readonly number[]> {
  const { unreadable, state } = await reportKeys(db, keyring)
  for (const id of unreadable) {
    await db.transaction(async (tx) => {
      const row = await lockRow(tx, id)
      if (keyring.open(row.key) !== undefined) return
      await writeStatus(tx, row, CHANNEL_STATUS.disabledByHand, 'its key was given up', nowSec, { key: '' })
    })
  }
  await rewriteKeys(db, keyring, state.isEncrypted ? 'encrypted' : 'plain')
  return unreadable
}

export async function reportKeys(db: Db, keyring: Keyring): Promise<KeysReport> {
  const state = await readKeysState(db)
  const rows = await db.select({ id: db.tables.channels.id, key: db.tables.channels.key }).from(db.tables.channels)
  const sealed = new Map<string, number>()
  for (const { key } of rows) {
    const id = sealedWith(key)
    if (id !== undefined) sealed.set(id, (sealed.get(id) ?? 0) + 1)
  }
  return {
    state,
    plain: rows.filter(({ key }) => key !== '' && !isSealed(key)).length,
    empty: rows.filter(({ key }) => key === '').length,
    sealed,
    unreadable: rows.filter(({ key }) => keyring.open(key) === undefined).map(({ id }) => id),
  }
}

function targetOf(keyring: Keyring, to: 'encrypted' | 'plain'): KeysState {
  const [current] = keyring.ids
  if (to === 'plain') return { isEncrypted: false, with: '', also: [] }
  if (current === undefined) throw new Error('there is no secret to encrypt with')
  return { isEncrypted: true, with: current, also: [] }
}

const isAsWanted = (key: string, target: KeysState): boolean =>
  key === '' || (target.isEncrypted ? sealedWith(key) === target.with : !isSealed(key))

const rowsOtherThan = async (db: Db, target: KeysState): Promise<readonly number[]> => {
  const { channels } = db.tables
  const rows = await db.select({ id: channels.id, key: channels.key }).from(channels).orderBy(channels.id)
  return rows.filter(({ key }) => !isAsWanted(key, target)).map(({ id }) => id)
}

const rewriteRow = (db: Db, keyring: Keyring, id: number, target: KeysState): Promise<boolean> =>
  db.transaction(async (tx) => {
    const { channels } = tx.tables
    const [row] = await tx.lock(tx.select({ key: channels.key }).from(channels).where(eq(channels.id, id)))
    const keys = row && !isAsWanted(row.key, target) ? keyring.open(row.key) : undefined
    if (keys === undefined) return false
    const key = target.isEncrypted ? keyring.seal(keys, target.with) : keys
    return (await tx.changes(tx.update(channels).set({ key }).where(eq(channels.id, id)))) > 0
  })

/** What is left says which old keys are still needed. @returns ids of channels that could not be rewritten */
const finish = (db: Db, target: KeysState): Promise<readonly number[]> =>
  db.transaction(async (tx) => {
    const now = await lockState(tx)
    if (now.isEncrypted !== target.isEncrypted || now.with !== target.with)
      throw new Error('another command changed how keys are stored; look at `headgate keys status`')
    const { channels } = tx.tables
    const rows = await tx.select({ id: channels.id, key: channels.key }).from(channels)
    const left = rows.filter(({ key }) => !isAsWanted(key, target))
    const also = [...new Set(left.flatMap(({ key }) => sealedWith(key) ?? []))]
    await writeState(tx, { ...target, also })
    await bumpTopic(tx, TOPIC)
    return left.map(({ id }) => id)
  })
