/** Whether a failed attempt is followed by another one, on another channel. */
import type { GatewayError } from '../../errors.ts'
import { hasStatus, parseStatusCodes } from '../options/index.ts'

export interface RetryQuestion {
  readonly error: GatewayError
  /** Attempts that may still follow. */
  readonly attemptsLeft: number
  /** The caller's key names the channel. */
  readonly isForced: boolean
  /** Text of the option `AutomaticRetryStatusCodes`: codes and ranges. */
  readonly statusCodes: string
}

/** A time-out of an upstream says nothing good about a second try: the client has waited long enough. */
const NEVER = new Set([504, 524])

/** @returns the answer of the first rule that applies; the caller has made sure that no byte went to the client */
export const shouldRetry = ({ error, attemptsLeft, isForced, statusCodes }: RetryQuestion): boolean => {
  if (attemptsLeft <= 0) return false
  if (isForced) return false
  if (!error.retry) return false
  if (error.code.startsWith('channel:')) return true
  // The upstream's own status; a failure without one (no connection, no answer in time) has the catalogue's word.
  const status = error.upstream === undefined && error.code !== 'bad_response_status_code' ? undefined : error.status
  if (status === undefined) return true
  if (status >= 200 && status < 300) return false
  if (status < 100 || status > 599) return true
  return !NEVER.has(status) && hasStatus(parseStatusCodes(statusCodes) ?? [], status)
}
