/** What an account at an upstream still holds, in the upstream's own currency. */
import { GatewayError } from '../errors.ts'
import { fetchJson, headersFor } from './http.ts'
import type { Provider } from './provider.ts'

type ReadBalance = NonNullable<Provider['readBalance']>
type Fields = Readonly<Record<string, unknown>>

/**
 * OpenAI's former billing routes, which gateways of this kind offer: a limit in USD, and what was used in hundredths.
 */
export const billingBalance =
  (auth: Provider['auth']): ReadBalance =>
  async (channel, fetch) => {
    const headers = await headersFor(channel, auth)
    const at = (path: string) => fetchJson(fetch, `${channel.baseUrl}/v1/dashboard/billing/${path}`, headers)
    const limit = numberOf(fieldsOf(await at('subscription')).hard_limit_usd)
    return limit - numberOf(fieldsOf(await at('usage')).total_usage) / 100
  }

/** @source https://api-docs.deepseek.com/api/get-user-balance (`balance_infos[].total_balance`, a text), read 2026-11 */
export const deepseekBalance =
  (auth: Provider['auth']): ReadBalance =>
  async (channel, fetch) => {
    const json = fieldsOf(await fetchJson(fetch, `${channel.baseUrl}/user/balance`, await headersFor(channel, auth)))
    const infos = Array.isArray(json.balance_infos) ? json.balance_infos : []
    if (infos.length === 0) throw new GatewayError('bad_response_body')
    // One entry per currency: an account that is empty in one of them still pays in the other.
    return Math.max(...infos.map((info) => numberOf(fieldsOf(info).total_balance)))
  }

/** @source https://openrouter.ai/docs/api-reference/credits/get-credits (`total_credits`, `total_usage`), read 2026-11 */
export const openrouterBalance =
  (auth: Provider['auth']): ReadBalance =>
  async (channel, fetch) => {
    const json = fieldsOf(await fetchJson(fetch, `${channel.baseUrl}/v1/credits`, await headersFor(channel, auth)))
    const { total_credits: credits, total_usage: usage } = fieldsOf(json.data)
    return numberOf(credits) - numberOf(usage)
  }

const fieldsOf = (json: unknown): Fields => (typeof json === 'object' && json !== null ? (json as Fields) : {})

/** An answer without the number must not look like an empty account. */
const numberOf = (value: unknown): number => {
  const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
  if (typeof number !== 'number' || !Number.isFinite(number)) throw new GatewayError('bad_response_body')
  return number
}
