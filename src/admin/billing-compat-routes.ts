/**
 * What holders of an API key may ask about it: OpenAI's old billing addresses and the usage of a key. Answers have no
 * envelope, and errors have the shapes that clients of these addresses know.
 */
import { Elysia, t } from 'elysia'
import type { Accounts, KeyOwner } from '../domain/accounts/index.ts'
import type { Options } from '../domain/options/index.ts'
import { asGatewayError, GatewayError } from '../errors.ts'
import { bearerOf } from '../lib/headers.ts'
import type { AdminHttp } from './http.ts'

/** Shown for a key without a limit. */
const UNLIMITED = 100_000_000

const CORS = {
  'access-control-allow-origin': '*',
  'access-control-allow-headers': '*',
  'access-control-allow-methods': 'GET, OPTIONS',
}

export interface BillingCompatDeps {
  readonly accounts: Pick<Accounts, 'authenticate' | 'identifyKey' | 'apiKeys' | 'self'>
  readonly options: Options
  readonly http: AdminHttp
}

export const billingCompatRoutes = (deps: BillingCompatDeps) => {
  const { accounts, options, http } = deps

  /** Left and spent in the display currency, of the key or of its user. */
  const standing = async (request: Request) => {
    const caller = await accounts.authenticate(bearerOf(request.headers), () => http.ip(request))
    const key = await accounts.identifyKey(bearerOf(request.headers))
    const isOfKey = options.get('DisplayTokenStatEnabled')
    const money = isOfKey ? await accounts.apiKeys.money(key.apiKeyId) : await moneyOfUser(caller.userId)
    return {
      key,
      isUnlimited: isOfKey && key.isUnlimited,
      left: shown(options, money.remain),
      used: shown(options, money.used),
    }
  }
  const moneyOfUser = async (userId: number) => {
    const user = await accounts.self.view(userId)
    return { remain: user.quota, used: user.used_quota }
  }

  const subscription = async ({ request }: { readonly request: Request }) => {
    const { key, isUnlimited, left, used } = await standing(request)
    const limit = isUnlimited ? UNLIMITED : left + used
    return {
      object: 'billing_subscription',
      has_payment_method: true,
      soft_limit_usd: limit,
      hard_limit_usd: limit,
      system_hard_limit_usd: limit,
      access_until: Math.max(key.expiresAtSec, 0),
    }
  }
  const usage = async ({ request }: { readonly request: Request }) => {
    const { used } = await standing(request)
    return { object: 'list', total_usage: used * 100 }
  }
  const subscriptionRoute = {
    response: t.Object({
      object: t.String(),
      has_payment_method: t.Boolean(),
      soft_limit_usd: t.Number(),
      hard_limit_usd: t.Number(),
      system_hard_limit_usd: t.Number(),
      access_until: t.Integer(),
    }),
    detail: { summary: 'What an API key may spend', tags: ['API key holders'] },
  }
  const usageRoute = {
    response: t.Object({
      object: t.String(),
      total_usage: t.Number({ description: 'Hundredths of the display currency' }),
    }),
    detail: { summary: 'What an API key has spent', tags: ['API key holders'] },
  }

  const billing = new Elysia()
    .onError(({ error, request, set }) => {
      const failure = asGatewayError(error)
      set.status = failure.status
      const message = `${failure.public} (request id: ${http.requestId(request)})`
      return Response.json(
        { error: { message, type: 'new_api_error', code: failure.code } },
        { status: failure.status },
      )
    })
    .get('/dashboard/billing/subscription', subscription, subscriptionRoute)
    .get('/v1/dashboard/billing/subscription', subscription, subscriptionRoute)
    .get('/dashboard/billing/usage', usage, usageRoute)
    .get('/v1/dashboard/billing/usage', usage, usageRoute)

  const usageOfKey = new Elysia()
    .onError(({ error, request, set }) => {
      const failure = asGatewayError(error)
      const status = failure.status === 403 ? 401 : failure.status
      set.status = status
      Object.assign(set.headers, CORS)
      if (failure.retryAfterSec !== undefined) set.headers['retry-after'] = String(failure.retryAfterSec)
      if (failure.code === 'rate_limit_exceeded') return new Response(null, { status })
      const message = http.language(request) === 'zh' ? failure.publicZh : failure.public
      return Response.json({ success: false, message }, { status })
    })
    .options('/api/usage/token', () => new Response(null, { status: 204, headers: CORS }), { detail: { hide: true } })
    .get(
      '/api/usage/token',
      async ({ request, set }) => {
        await http.limitCritical(request)
        if (!/^bearer\s/i.test(request.headers.get('authorization') ?? '')) throw new GatewayError('invalid_api_key')
        const key = await accounts.identifyKey(bearerOf(request.headers))
        Object.assign(set.headers, CORS)
        return { code: true, message: 'ok', data: usageView(key, await accounts.apiKeys.money(key.apiKeyId)) }
      },
      {
        response: t.Object({
          code: t.Boolean(),
          message: t.String(),
          data: t.Object({
            object: t.String(),
            name: t.String(),
            total_granted: t.Integer(),
            total_used: t.Integer(),
            total_available: t.Integer(),
            unlimited_quota: t.Boolean(),
            model_limits: t.Record(t.String(), t.Boolean()),
            model_limits_enabled: t.Boolean(),
            expires_at: t.Integer({ description: 'Unix seconds; 0 never' }),
          }),
        }),
        detail: { summary: 'Quota of an API key', tags: ['API key holders'] },
      },
    )

  return new Elysia().use(billing).use(usageOfKey)
}

const usageView = (key: KeyOwner, money: { readonly remain: number; readonly used: number }) => ({
  object: 'token_usage',
  name: key.apiKeyName,
  total_granted: money.remain + money.used,
  total_used: money.used,
  total_available: money.remain,
  unlimited_quota: key.isUnlimited,
  model_limits: Object.fromEntries([...(key.modelLimits ?? [])].map((model) => [model, true])),
  model_limits_enabled: key.modelLimits !== undefined,
  expires_at: Math.max(key.expiresAtSec, 0),
})

/** Quota units in the currency that is displayed. */
function shown(options: Options, units: number): number {
  const usd = units / options.get('QuotaPerUnit')
  switch (options.get('general_setting.quota_display_type')) {
    case 'TOKENS':
      return units
    case 'CNY':
      return usd * options.get('USDExchangeRate')
    case 'CUSTOM':
      return usd * options.get('general_setting.custom_currency_exchange_rate')
    default:
      return usd
  }
}
