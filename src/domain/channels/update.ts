/** Changes of a channel's fields, of one or of all channels of a tag. */
import { eq, inArray } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import { isSealed } from '../../lib/sealed-text.ts'
import { type KeyState, keyStates, readChannelInfo, withKeyStates } from './channel-info.ts'
import { checkKind, checkMultiKeyMode, type Kinds } from './create.ts'
import {
  type ChannelInput,
  COLUMN_FIELDS,
  checkInput,
  columnOf,
  KEPT_WHEN_EMPTY,
  SENSITIVE_FIELDS,
  toColumns,
} from './input.ts'
import { readKeys, writeKeys } from './key-text.ts'
import type { StoredKeys } from './keys-at-rest.ts'
import { lockRow, type Row, type RowPatch, updateRow } from './rows.ts'

export interface UpdateInput extends ChannelInput {
  readonly id: number
  /** With several keys: `append` adds, `replace` (the default) puts these in their place. */
  readonly key_mode?: string | undefined
  readonly multi_key_mode?: string | undefined
}

/** Known to clients, and not changed here. */
const IGNORED: ReadonlySet<string> = new Set([
  'id',
  'created_time',
  'test_time',
  'response_time',
  'balance',
  'balance_updated_time',
  'used_quota',
  'channel_info',
  'other_info',
  'multi_key_mode',
])

export interface Rights {
  /** May change where calls and keys go. */
  readonly isSensitiveAllowed: boolean
}

/**
 * @param given the body as it came: names we do not know count as sensitive, and are not stored
 * @returns the row as it is now, and the names of the fields that changed
 * @throws GatewayError
 */
export const updateChannelRow = async (
  tx: Db,
  input: UpdateInput,
  given: readonly string[],
  rights: Rights,
  kinds: Kinds,
  stored: StoredKeys,
): Promise<{ readonly row: Row; readonly changed: readonly string[] }> => {
  const row = await lockRow(tx, input.id)
  const patch = fieldPatch(row, input)
  const keys = keyPatch({ ...row, key: stored.open(row.key) }, input)
  const changed = COLUMN_FIELDS.filter((field) => columnOf(field) in patch).map(String)
  if (keys.key !== undefined) changed.push('key')
  if (!rights.isSensitiveAllowed) refuseSensitive(changed, given)
  if (patch.type !== undefined && patch.type !== null) checkKind(patch.type, kinds)
  checkInput(input)
  const all = { ...patch, ...keys, ...(keys.key !== undefined && { key: await stored.seal(tx, keys.key) }) }
  return { row: Object.keys(all).length === 0 ? row : await updateRow(tx, row, all), changed }
}

/** Only what differs from the row; a zero value of some fields says nothing. */
const fieldPatch = (row: Row, input: ChannelInput): RowPatch => {
  const said = Object.fromEntries(
    Object.entries(input).filter(([field, value]) => {
      const isEmpty = value === '' || value === 0 || value === null
      return value !== undefined && !(isEmpty && KEPT_WHEN_EMPTY.has(field as keyof ChannelInput))
    }),
  ) as ChannelInput
  const columns = Object.entries(toColumns(said)) as [keyof RowPatch, unknown][]
  return Object.fromEntries(columns.filter(([column, value]) => (row[column] ?? '') !== (value ?? '')))
}

const keyPatch = (row: Row, input: UpdateInput): RowPatch => {
  const info = readChannelInfo(row.channelInfo)
  if (!info.is_multi_key) {
    const key = input.key?.trim() ?? ''
    // One that cannot be read here can be replaced all the same.
    return key === '' || key === row.key ? {} : { key: writeKeys([key], false) }
  }
  if (input.multi_key_mode) checkMultiKeyMode(input.multi_key_mode)
  const mode = input.multi_key_mode || info.multi_key_mode
  const isReplacing = input.key?.trim() && input.key_mode !== 'append'
  const own = isReplacing && isSealed(row.key) ? [] : keyStates(readKeys(row.key, true), info)
  const states = input.key?.trim() ? mergeKeys(own, readKeys(input.key, true), !isReplacing) : own
  const key = keyText(states)
  if (mode === info.multi_key_mode && key === keyText(own)) return {}
  const channelInfo = JSON.stringify({ ...withKeyStates(info, states), multi_key_mode: mode })
  return key === row.key ? { channelInfo } : { key, channelInfo }
}

const keyText = (states: readonly KeyState[]): string =>
  writeKeys(
    states.map(({ key }) => key),
    true,
  )

/** A key that stays keeps what is known of it, wherever it stands now. */
const mergeKeys = (own: readonly KeyState[], given: readonly string[], isAppending: boolean): readonly KeyState[] => {
  const known = new Map(own.map((state) => [state.key, state]))
  const keys = [...new Set(isAppending ? [...known.keys(), ...given] : given)]
  return keys.map((key) => known.get(key) ?? { key, status: 1 })
}

const refuseSensitive = (changed: readonly string[], given: readonly string[]): void => {
  const known = new Set<string>([...COLUMN_FIELDS, 'key', 'key_mode'])
  const unknown = given.filter((name) => !known.has(name) && !IGNORED.has(name))
  const fields = [...changed.filter((name) => SENSITIVE_FIELDS.has(name)), ...unknown]
  if (fields.length > 0) throw new GatewayError('channel_fields_forbidden', { params: { fields: fields.join(', ') } })
}

export interface TagInput {
  readonly tag: string
  /** '' takes the tag away. */
  readonly newTag?: string | null | undefined
  readonly fields: Pick<
    ChannelInput,
    'priority' | 'weight' | 'model_mapping' | 'models' | 'group' | 'param_override' | 'header_override'
  >
}

/** @returns how many channels the tag has; fields that are absent or null stay as they are */
export const updateTagRows = async (tx: Db, { tag, newTag, fields }: TagInput): Promise<number> => {
  const said = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null))
  checkInput(said)
  const rows = await rowsOfTag(tx, tag)
  const tagPatch: RowPatch = newTag === undefined || newTag === null ? {} : { tag: newTag === '' ? null : newTag }
  for (const row of rows) await updateRow(tx, row, { ...fieldPatch(row, said), ...tagPatch })
  return rows.length
}

/** Compared again here: the database may ignore case and trailing blanks. */
export const rowsOfTag = async (tx: Db, tag: string): Promise<readonly Row[]> => {
  const { channels } = tx.tables
  const rows = await tx.lock(tx.select().from(channels).where(eq(channels.tag, tag)).orderBy(channels.id).$dynamic())
  return rows.filter((row) => row.tag === tag)
}

/** @returns how many of the channels there are */
export const setTagOf = async (tx: Db, ids: readonly number[], tag: string | null): Promise<number> => {
  checkInput({ tag })
  const { channels } = tx.tables
  if (ids.length === 0) return 0
  const rows = await tx.lock(
    tx
      .select()
      .from(channels)
      .where(inArray(channels.id, [...ids]))
      .orderBy(channels.id)
      .$dynamic(),
  )
  for (const row of rows) await updateRow(tx, row, { tag: tag === '' ? null : tag })
  return rows.length
}
