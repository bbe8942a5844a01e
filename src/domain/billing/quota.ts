/** Arithmetic of quota units: integers that saturate instead of wrapping or losing their last digits. */

/** The largest amount a balance or a sum may be, in either direction: beyond it a number is no longer exact. */
export const MAX_QUOTA = Number.MAX_SAFE_INTEGER
/** The largest single charge, and the ceiling of what an API shows (signed 32-bit, as the reference keeps it). */
const MAX_CHARGE = 2_147_483_647

/** @returns the integer nearest to zero's side of `n`, within ±MAX_QUOTA; what is no number is 0 */
export function clampQuota(n: number): number {
  if (!(n > -MAX_QUOTA)) return Number.isNaN(n) ? 0 : -MAX_QUOTA
  return n < MAX_QUOTA ? Math.trunc(n) : MAX_QUOTA
}

/** @returns a charge: an integer from 0 to MAX_CHARGE */
export const clampCharge = (n: number): number => Math.max(0, Math.min(MAX_CHARGE, clampQuota(n)))

/** A number as a driver gives it (NULL is 0, a sum may be text). */
export const quotaOf = (value: unknown): number => (value == null ? 0 : clampQuota(Number(value)))
