/** Limits of the API and the pages: how often one address, or one user, may ask in a window, counted over all nodes. */
import { GatewayError } from '../../errors.ts'
import type { Counts } from './counts.ts'

/**
 * `api`: everything below `/api` · `web`: pages · `critical`: log-ins and the like · `search`: of lists ·
 * `mail-code`: mails that carry a code
 */
export type WebLimitName = 'api' | 'web' | 'critical' | 'search' | 'mail-code'

export interface WebLimit {
  readonly count: number
  readonly windowSec: number
}

export interface WebLimits {
  /**
   * Counts one request. @param who a client's address, or a user's name for it such as `user 7`
   * @throws GatewayError 429 `rate_limit_exceeded`, with the seconds to wait
   */
  check(name: WebLimitName, who: string): Promise<void>
}

/** @param limits one that is absent is off */
export function createWebLimits(deps: {
  readonly counts: Counts
  readonly limits: Readonly<Partial<Record<WebLimitName, WebLimit>>>
}): WebLimits {
  const { counts, limits } = deps
  return {
    async check(name, who) {
      const limit = limits[name]
      if (!limit) return
      const { taken, retryAfterMs } = await counts.take(`limit:${name}:${who}`, {
        n: 1,
        limit: limit.count,
        windowMs: limit.windowSec * 1000,
      })
      if (!taken)
        throw new GatewayError('rate_limit_exceeded', { retryAfterSec: Math.max(1, Math.ceil(retryAfterMs / 1000)) })
    },
  }
}
