/**
 * What a settled call leaves behind: who pays how much, and the record that becomes its log row. Owns the text form in
 * the outbox, which only gains fields: an absent one means what the release before did.
 */
import type { Db } from '../../db/index.ts'
import type { AccountKey } from './kinds.ts'
import type { Entry } from './outbox.ts'
import { clampCharge } from './quota.ts'

/** What becomes a row of `logs`, moves the counters and the hourly usage. Times in seconds, quota in quota units. */
export interface CallRecord {
  readonly requestId: string
  readonly upstreamRequestId?: string
  /** 2 consumed, 5 error */
  readonly type: 2 | 5
  readonly createdAtSec: number
  readonly userId: number
  readonly username: string
  readonly apiKeyId: number
  readonly apiKeyName: string
  readonly modelName: string
  readonly channelId: number
  readonly group: string
  readonly ip: string
  readonly content: string
  readonly promptTokens: number
  readonly completionTokens: number
  readonly useTimeSec: number
  readonly isStream: boolean
  readonly other: Readonly<Record<string, unknown>>
  /** false: the row is written, but no counter moves and quota_data is left alone (error rows, channel tests) */
  readonly isCounted: boolean
}

/** A charge as the flush reads it back. */
export interface Charge extends Omit<CallRecord, 'other' | 'type'> {
  readonly type: number
  readonly quota: number
  /** Who pays; each pays all of it. */
  readonly accounts: readonly AccountKey[]
  readonly node: string
  /** Absent: true. */
  readonly isLogged?: boolean
  readonly isExported?: boolean
  /** JSON object as text */
  readonly other: string
}

export type LogRow = Db['tables']['logs']['$inferInsert']

/** Widths of the columns that take these texts, in characters. Longer texts are cut when they are journalled. */
const WIDTH = { name: 191, requestId: 64, upstreamRequestId: 128, content: 65_535, node: 64 } as const
/** A log row's details past this are replaced by a note: one row must fit into one statement. */
const MAX_OTHER_CHARS = 262_144

/** @returns at most `width` characters, counted as databases count: by code point */
export function cutText(text: string, width: number): string {
  if (text.length <= width) return text
  let end = 0
  for (let count = 0; count < width && end < text.length; count++) end += text.codePointAt(end)! > 0xffff ? 2 : 1
  return text.slice(0, end)
}

/** Characters outside the basic plane become U+FFFD: what a three-byte utf8 column holds. */
export const basicPlaneText = (text: string): string => text.replace(/[\u{10000}-\u{10ffff}]|\p{Surrogate}/gu, '\ufffd')
/** What every character set holds. */
export const asciiText = (text: string): string => text.replace(/[^\t\n\r\x20-\x7e]/gu, '?')

const count = (n: number): number => (n > 0 ? Math.min(Math.trunc(n), Number.MAX_SAFE_INTEGER) : 0)

/**
 * The outbox entry of one ended call.
 * @param quota quota units; brought into 0 … 2³¹−1
 * @param accounts who pays: what the call held on, in that order
 */
export function encodeCharge(charge: {
  readonly quota: number
  readonly accounts: readonly AccountKey[]
  readonly record: CallRecord
  readonly node: string
  readonly isLogged: boolean
  readonly isExported: boolean
}): Entry & { readonly quota: number; readonly memo: Charge } {
  const { record } = charge
  const quota = clampCharge(charge.quota)
  const memo: Omit<Charge, 'other'> & { other?: string } = {
    requestId: cutText(record.requestId, WIDTH.requestId),
    upstreamRequestId: cutText(record.upstreamRequestId ?? '', WIDTH.upstreamRequestId),
    type: record.type,
    createdAtSec: count(record.createdAtSec),
    userId: record.userId,
    username: cutText(record.username, WIDTH.name),
    apiKeyId: record.apiKeyId,
    apiKeyName: cutText(record.apiKeyName, WIDTH.name),
    modelName: cutText(record.modelName, WIDTH.name),
    channelId: record.channelId,
    group: cutText(record.group, WIDTH.name),
    ip: cutText(record.ip, WIDTH.name),
    content: cutText(record.content, WIDTH.content),
    promptTokens: count(record.promptTokens),
    completionTokens: count(record.completionTokens),
    useTimeSec: count(record.useTimeSec),
    isStream: record.isStream,
    isCounted: record.isCounted,
    quota,
    accounts: charge.accounts,
    node: cutText(charge.node, WIDTH.node),
    ...(charge.isLogged ? undefined : { isLogged: false }),
    ...(charge.isExported ? undefined : { isExported: false }),
  }
  const body = JSON.stringify(memo)
  const details = jsonOf(record.other)
  const other = details.length <= MAX_OTHER_CHARS ? details : JSON.stringify({ omitted_chars: details.length })
  memo.other = other
  // Now it has all that a charge has.
  return { body, other, quota, memo: memo as Charge }
}

/** Details that JSON cannot hold must not cost a charge. */
function jsonOf(other: CallRecord['other']): string {
  try {
    return JSON.stringify(other)
  } catch (error) {
    return JSON.stringify({ unwritable: String(error) })
  }
}

/** @throws SyntaxError when the text is no charge */
export function decodeCharge({ body, other, memo }: Entry): Charge {
  // Only `encodeCharge` makes memos.
  if (memo) return memo as Charge
  const charge: unknown = JSON.parse(body)
  if (!isCharge(charge)) throw new SyntaxError('not a charge')
  return { ...charge, other }
}

const TEXTS = ['requestId', 'username', 'apiKeyName', 'modelName', 'group', 'ip', 'content', 'node'] as const
const COUNTS = [
  'type',
  'createdAtSec',
  'userId',
  'apiKeyId',
  'channelId',
  'promptTokens',
  'completionTokens',
  'useTimeSec',
  'quota',
] as const

/** What a flush relies on: one charge of another shape must not stop those behind it. */
function isCharge(value: unknown): value is Omit<Charge, 'other'> {
  if (typeof value !== 'object' || value === null) return false
  const charge = value as Readonly<Record<string, unknown>>
  return (
    TEXTS.every((name) => typeof charge[name] === 'string') &&
    COUNTS.every((name) => Number.isSafeInteger(charge[name]) && (charge[name] as number) >= 0) &&
    Array.isArray(charge['accounts']) &&
    charge['accounts'].every((account) => typeof account === 'string' && /^[a-z]+:\d{1,15}$/.test(account))
  )
}

/** @param clean applied to every text, for databases whose character set does not hold all of it */
export function logRowOf(charge: Charge, clean: (text: string) => string = (text) => text): LogRow {
  return {
    userId: charge.userId,
    createdAt: charge.createdAtSec,
    type: charge.type,
    content: clean(charge.content),
    username: clean(charge.username),
    tokenName: clean(charge.apiKeyName),
    modelName: clean(charge.modelName),
    quota: charge.quota,
    promptTokens: charge.promptTokens,
    completionTokens: charge.completionTokens,
    useTime: charge.useTimeSec,
    isStream: charge.isStream,
    channelId: charge.channelId,
    tokenId: charge.apiKeyId,
    group: clean(charge.group),
    ip: clean(charge.ip),
    requestId: charge.requestId,
    upstreamRequestId: charge.upstreamRequestId ?? '',
    other: clean(charge.other),
  }
}

/** The charge as ASCII JSON, for where no character set may refuse it. */
export const asciiCharge = (charge: Charge): string =>
  JSON.stringify(charge).replace(/[^\x20-\x7e]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
