/** An API key with its owner, as authentication reads them: one query, parsed once, no secret kept. */
import { and, eq, isNull, type SQL } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { type CidrSet, parseCidrs } from '../../lib/ip.ts'
import { type Bounds, boundsOf } from '../limits/index.ts'
import { parseUserSetting } from './user-setting.ts'

/** Values of `tokens.status`. */
export const KEY_STATUS = { enabled: 1, disabled: 2, expired: 3, exhausted: 4 } as const

export interface KeyOwner {
  readonly apiKeyId: number
  readonly apiKeyName: string
  readonly status: number
  /** Unix seconds; −1 never. */
  readonly expiresAtSec: number
  readonly isUnlimited: boolean
  /** undefined: any model. */
  readonly modelLimits: ReadonlySet<string> | undefined
  /** undefined: any address. */
  readonly allowedIps: CidrSet | undefined
  /** '' the owner's group, `auto`, or the name of a group. */
  readonly tokenGroup: string
  readonly autoGroups: readonly string[]
  readonly crossGroupRetry: boolean
  readonly userId: number
  readonly username: string
  readonly role: number
  readonly userStatus: number
  readonly userGroup: string
  readonly acceptsUnpriced: boolean
  readonly recordsIp: boolean
  readonly keyBounds: Bounds
  readonly userBounds: Bounds
}

/** @returns undeleted keys of undeleted users; `key` is for an exact comparison, since a collation may find too much */
export async function readKeyOwners(db: Db, where: SQL): Promise<{ readonly key: string; readonly owner: KeyOwner }[]> {
  const { tokens, users } = db.tables
  const rows = await db
    .select({
      key: tokens.key,
      id: tokens.id,
      name: tokens.name,
      status: tokens.status,
      expiredTime: tokens.expiredTime,
      unlimitedQuota: tokens.unlimitedQuota,
      modelLimitsEnabled: tokens.modelLimitsEnabled,
      modelLimits: tokens.modelLimits,
      allowIps: tokens.allowIps,
      group: tokens.group,
      autoGroups: tokens.autoGroups,
      crossGroupRetry: tokens.crossGroupRetry,
      rpmLimit: tokens.rpmLimit,
      tpmLimit: tokens.tpmLimit,
      concurrencyLimit: tokens.concurrencyLimit,
      userRpmLimit: users.rpmLimit,
      userTpmLimit: users.tpmLimit,
      userConcurrencyLimit: users.concurrencyLimit,
      userId: users.id,
      username: users.username,
      role: users.role,
      userStatus: users.status,
      userGroup: users.group,
      setting: users.setting,
    })
    .from(tokens)
    .innerJoin(users, eq(users.id, tokens.userId))
    .where(and(where, isNull(tokens.deletedAt), isNull(users.deletedAt)))
  return rows.map((row) => {
    const setting = parseUserSetting(row.setting)
    return {
      key: row.key ?? '',
      owner: {
        apiKeyId: row.id,
        apiKeyName: row.name ?? '',
        status: row.status ?? 0,
        expiresAtSec: row.expiredTime ?? 0,
        isUnlimited: row.unlimitedQuota ?? false,
        modelLimits: row.modelLimitsEnabled ? new Set(splitList(row.modelLimits)) : undefined,
        allowedIps: ipList(row.allowIps),
        tokenGroup: row.group ?? '',
        autoGroups: parseGroupList(row.autoGroups) ?? [],
        crossGroupRetry: row.crossGroupRetry ?? false,
        userId: row.userId,
        username: row.username ?? '',
        role: row.role ?? 0,
        userStatus: row.userStatus ?? 0,
        userGroup: row.userGroup ?? '',
        acceptsUnpriced: setting.accept_unset_model_ratio_model === true,
        recordsIp: setting.record_ip_log === true,
        keyBounds: boundsOf(row),
        userBounds: boundsOf({
          rpmLimit: row.userRpmLimit,
          tpmLimit: row.userTpmLimit,
          concurrencyLimit: row.userConcurrencyLimit,
        }),
      },
    }
  })
}

/** Entries of `allow_ips`: one a line; commas are read as line ends. */
export const splitIps = (text: string | null): string[] => (text ?? '').split(/[\s,]+/).filter((entry) => entry !== '')

/** A list in which no entry can be read lets nobody in. */
function ipList(text: string | null): CidrSet | undefined {
  const entries = splitIps(text)
  return entries.length === 0 ? undefined : parseCidrs(entries)
}

const splitList = (text: string | null): string[] =>
  (text ?? '')
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')

/** @returns undefined for an empty text or one that is no JSON array */
export function parseGroupList(text: string | null): string[] | undefined {
  if (!text) return undefined
  try {
    const value: unknown = JSON.parse(text)
    return Array.isArray(value) ? value.filter((item): item is string => typeof item === 'string') : undefined
  } catch {
    // A text that another program wrote; without a list the system's own groups apply.
    return undefined
  }
}
