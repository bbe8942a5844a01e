/**
 * The kinds of account the ledger knows: where a balance stands and what a caller hears when it is used up. The only
 * place that ties an account's letter to a table; a further kind is one more entry.
 */
import type { MySqlColumn, MySqlTable } from 'drizzle-orm/mysql-core'
import type { Tables } from '../../db/index.ts'
import type { ErrorCode } from '../../errors.ts'

/** `<letter>:<id>`, e.g. `u:7`; what `quota_allotments.account` holds. */
export type AccountKey = string

export type KindName = 'user' | 'api-key'

export interface AccountRef {
  readonly kind: KindName
  readonly id: number
}

export interface Kind {
  readonly name: KindName
  readonly letter: string
  /** What a caller hears when the account has not enough. */
  readonly refusal: ErrorCode
  table(tables: Tables): MySqlTable
  id(tables: Tables): MySqlColumn
  /** quota units that no instance has parked */
  balance(tables: Tables): MySqlColumn
  deletedAt(tables: Tables): MySqlColumn
  /** The balance's name in an update of `table`. */
  readonly field: string
}

/** In the order in which their rows are locked. */
export const KINDS: readonly Kind[] = [
  {
    name: 'user',
    letter: 'u',
    refusal: 'insufficient_user_quota',
    table: (t) => t.users,
    id: (t) => t.users.id,
    balance: (t) => t.users.quota,
    deletedAt: (t) => t.users.deletedAt,
    field: 'quota',
  },
  {
    name: 'api-key',
    letter: 't',
    refusal: 'pre_consume_token_quota_failed',
    table: (t) => t.tokens,
    id: (t) => t.tokens.id,
    balance: (t) => t.tokens.remainQuota,
    deletedAt: (t) => t.tokens.deletedAt,
    field: 'remainQuota',
  },
]

const byName = new Map(KINDS.map((kind) => [kind.name, kind]))
const byLetter = new Map(KINDS.map((kind) => [kind.letter, kind]))

export function kindOf(name: KindName): Kind {
  const kind = byName.get(name)
  if (!kind) throw new TypeError(`no such kind of account: ${name}`)
  return kind
}

export const accountKey = ({ kind, id }: AccountRef): AccountKey => `${kindOf(kind).letter}:${id}`
export const userAccount = (id: number): AccountKey => `u:${id}`
export const apiKeyAccount = (id: number): AccountKey => `t:${id}`

/** @returns undefined for a kind that this release does not know */
export function parseAccount(key: AccountKey): { readonly kind: Kind; readonly id: number } | undefined {
  const kind = byLetter.get(key.slice(0, key.indexOf(':')))
  const id = Number(key.slice(key.indexOf(':') + 1))
  return kind && Number.isSafeInteger(id) ? { kind, id } : undefined
}

/** The order of locks: kind by kind, by id within each. Unknown kinds come last and are nobody's to lock. */
export function compareAccounts(a: AccountKey, b: AccountKey): number {
  const left = parseAccount(a)
  const right = parseAccount(b)
  if (!left || !right) return left ? -1 : right ? 1 : a < b ? -1 : 1
  return KINDS.indexOf(left.kind) - KINDS.indexOf(right.kind) || left.id - right.id
}
