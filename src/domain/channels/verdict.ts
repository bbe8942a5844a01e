/** What the end of an attempt says about the upstream that it was made at. */
import type { GatewayError } from '../../errors.ts'

export type Verdict = 'good' | 'bad' | 'neither'

/** Statuses below 500 that are no fault of the call: the account, the time, the number of calls. */
const FAULTS = new Set([401, 402, 403, 408, 429])

/**
 * A call that was wrong says nothing, nor does one whose client left. An upstream that does not know a model may know others.
 * @param error absent: it served
 */
export const verdictOn = (error: GatewayError | undefined): Verdict => {
  if (!error) return 'good'
  if (error.blame !== 'upstream') return 'neither'
  // No connection, no answer in time, or an answer that is none.
  const { upstream } = error
  if (upstream === undefined) return 'bad'
  return upstream.status >= 500 || FAULTS.has(upstream.status) ? 'bad' : 'neither'
}
