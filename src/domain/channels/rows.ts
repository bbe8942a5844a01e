/** Reading and writing rows of channels, and the abilities that are derived from them; always within a transaction. */
import { eq, type InferSelectModel } from 'drizzle-orm'
import type { Db, Tables } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import { CHANNEL_STATUS, commaList, groupList, isRecord, parseJson } from './channel.ts'

export type Row = InferSelectModel<Tables['channels']>
export type RowPatch = Partial<Omit<Row, 'id'>>

/** Rows of abilities in one statement. */
const CHUNK = 500

/**
 * Locks the row, so that verbs on one channel follow each other.
 * @throws GatewayError `channel_not_found`
 */
export const lockRow = async (tx: Db, id: number): Promise<Row> => {
  const { channels } = tx.tables
  const [row] = await tx.lock(tx.select().from(channels).where(eq(channels.id, id)).$dynamic())
  if (!row) throw new GatewayError('channel_not_found', { params: { id } })
  return row
}

/** @throws GatewayError `channel_not_found` */
export const readRow = async (db: Db, id: number): Promise<Row> => {
  const { channels } = db.tables
  const [row] = await db.select().from(channels).where(eq(channels.id, id))
  if (!row) throw new GatewayError('channel_not_found', { params: { id } })
  return row
}

/** Writes the change and what follows from it. @returns the row as it is now */
export const updateRow = async (tx: Db, row: Row, patch: RowPatch): Promise<Row> => {
  const { channels } = tx.tables
  await tx.update(channels).set(patch).where(eq(channels.id, row.id))
  const updated = { ...row, ...patch }
  await rewriteAbilities(tx, updated)
  return updated
}

/** @returns the id of the new channel */
export const insertRow = async (tx: Db, row: Omit<Row, 'id'>): Promise<number> => {
  const id = await tx.insertId(tx.tables.channels, row)
  await insertAbilities(tx, { ...row, id })
  return id
}

export const deleteRow = async (tx: Db, id: number): Promise<boolean> => {
  const { abilities, channels } = tx.tables
  await tx.delete(abilities).where(eq(abilities.channelId, id))
  return (await tx.changes(tx.delete(channels).where(eq(channels.id, id)))) > 0
}

/** A change of status alone keeps the rows and flips them. */
export const writeStatus = async (
  tx: Db,
  row: Row,
  status: number,
  reason: string,
  atSec: number,
  more: RowPatch = {},
) => {
  const { abilities, channels } = tx.tables
  const otherInfo = JSON.stringify({ ...otherInfoOf(row), status_reason: reason, status_time: atSec })
  await tx
    .update(channels)
    .set({ ...more, status, otherInfo })
    .where(eq(channels.id, row.id))
  await tx
    .update(abilities)
    .set({ enabled: status === CHANNEL_STATUS.enabled })
    .where(eq(abilities.channelId, row.id))
}

const otherInfoOf = (row: Row): Record<string, unknown> => {
  const info = parseJson(row.otherInfo, 'other_info', () => {})
  return isRecord(info) ? info : {}
}

export const rewriteAbilities = async (tx: Db, row: Row): Promise<void> => {
  await tx.delete(tx.tables.abilities).where(eq(tx.tables.abilities.channelId, row.id))
  await insertAbilities(tx, row)
}

/** A database that ignores case keeps one of two names that differ in it; calls are routed by the channel, not by these. */
const insertAbilities = async (tx: Db, row: Row): Promise<void> => {
  const rows = groupList(row.group).flatMap((group) =>
    commaList(row.models).map((model) => ({
      group,
      model,
      channelId: row.id,
      enabled: row.status === CHANNEL_STATUS.enabled,
      priority: row.priority ?? 0,
      weight: row.weight ?? 0,
      tag: row.tag,
    })),
  )
  for (let start = 0; start < rows.length; start += CHUNK) {
    await tx.insertIgnore(tx.tables.abilities, rows.slice(start, start + CHUNK))
  }
}
