/** What a caller can act on when the database fails, whatever the engine. */

/**
 * - `unavailable`: nothing was changed and a later try may succeed (server gone, full, read-only, locked too long). For a
 *   write outside a transaction whose connection broke it may have been done all the same.
 * - `unknown-outcome`: only from `transaction`; COMMIT was sent and nobody knows whether it took effect, or will.
 * - `duplicate`: a unique key refused the row.
 * - `content`: the values were refused (too long, not in the character set, out of range): trying again cannot help.
 * - `other`: a mistake of ours, or something nobody foresaw.
 */
export type DbErrorKind = 'unavailable' | 'unknown-outcome' | 'duplicate' | 'content' | 'other'

export class DbError extends Error {
  readonly kind: DbErrorKind
  constructor(kind: DbErrorKind, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = 'DbError'
    this.kind = kind
  }
}
