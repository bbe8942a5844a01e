/** How the limits of API keys and users are stored, edited and shown; both tables have the same three columns. */
import { GatewayError } from '../../errors.ts'
import { type Bounds, MAX_BOUND } from './limit.ts'

/** As stored; NULL, which another program may have left, is no limit. */
export interface LimitColumns {
  readonly rpmLimit: number | null
  readonly tpmLimit: number | null
  readonly concurrencyLimit: number | null
}

/** What an edit sets; an absent field keeps what is stored. 0: no limit. */
export interface LimitInput {
  readonly rpmLimit?: number
  readonly tpmLimit?: number
  readonly concurrencyLimit?: number
}

const COLUMNS = ['rpmLimit', 'tpmLimit', 'concurrencyLimit'] as const

/** The columns that an edit sets. @throws GatewayError invalid_parameters */
export function limitColumns(input: LimitInput): LimitInput {
  const set = COLUMNS.filter((column) => input[column] !== undefined).map((column) => [column, input[column]] as const)
  for (const [column, value] of set) {
    if (!Number.isInteger(value) || (value ?? 0) < 0 || (value ?? 0) > MAX_BOUND) {
      throw new GatewayError('invalid_parameters', { params: { reason: `${column}: a number from 0 to ${MAX_BOUND}` } })
    }
  }
  return Object.fromEntries(set)
}

/** By the names of the API. */
export const limitView = (row: LimitColumns) => ({
  rpm_limit: row.rpmLimit ?? 0,
  tpm_limit: row.tpmLimit ?? 0,
  concurrency_limit: row.concurrencyLimit ?? 0,
})

export const boundsOf = (row: LimitColumns): Bounds => ({
  rpm: row.rpmLimit ?? 0,
  tpm: row.tpmLimit ?? 0,
  concurrency: row.concurrencyLimit ?? 0,
})
