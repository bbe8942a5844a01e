/** What a call asks of its caller's limits, and how the client sees where it stands, in the words of its dialect. */
import type { Admission, Asking, Standing } from '../domain/limits/index.ts'
import type { Protocol } from '../protocol/index.ts'
import type { Call } from './types.ts'

/** The counting of tokens uses none. */
export const askingOf = ({ id, endpoint, inputTokens, maxOutputTokens = 0, choices = 1 }: Call): Asking => {
  const isCount = endpoint.operation === 'count-tokens'
  return { id, inputTokens: isCount ? 0 : inputTokens, outputTokens: isCount ? 0 : maxOutputTokens * choices }
}

/** An upstream's own limits are the operator's business; those of the caller take their place. */
const UPSTREAM_LIMITS = /^(?:x-ratelimit-|anthropic-ratelimit-)/

export function showLimits(headers: Headers, { requests, tokens }: Admission, protocol: Protocol, nowMs: number): void {
  for (const name of [...headers.keys()]) if (UPSTREAM_LIMITS.test(name)) headers.delete(name)
  const show = protocol === 'claude' ? asClaude : asOpenAi
  if (requests) show(headers, 'requests', requests, nowMs)
  if (tokens) show(headers, 'tokens', tokens, nowMs)
}

/** @source https://platform.openai.com/docs/guides/rate-limits (rate limits in headers), read 2026-11 */
function asOpenAi(headers: Headers, what: string, { limit, remaining, windowMs }: Standing): void {
  headers.set(`x-ratelimit-limit-${what}`, String(limit))
  headers.set(`x-ratelimit-remaining-${what}`, String(remaining))
  // Everything has left the window by then.
  headers.set(`x-ratelimit-reset-${what}`, `${windowMs / 1000}s`)
}

/** @source https://docs.anthropic.com/en/api/rate-limits (response headers), read 2026-11 */
function asClaude(headers: Headers, what: string, { limit, remaining, windowMs }: Standing, nowMs: number): void {
  headers.set(`anthropic-ratelimit-${what}-limit`, String(limit))
  headers.set(`anthropic-ratelimit-${what}-remaining`, String(remaining))
  headers.set(`anthropic-ratelimit-${what}-reset`, new Date(nowMs + windowMs).toISOString())
}
