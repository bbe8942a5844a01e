/** What may be called and what it costs: groups, models, the price list, the ratios. */
import { Elysia, type Static, t } from 'elysia'
import type { Prices, Rates } from '../domain/billing/index.ts'
import type { Channels } from '../domain/channels/index.ts'
import { autoGroups, groupRatio, type Options, selectableGroups, usableGroups } from '../domain/options/index.ts'
import type { Endpoint, ModelCatalog, ModelDescription } from '../domain/usage/index.ts'
import { GatewayError } from '../errors.ts'
import { type AdminHttp, envelope, ok } from './http.ts'

const [USER, ADMIN] = [1, 10] as const
const endpointJson = t.Object({ path: t.String(), method: t.String() })
const modelJson = t.Object({
  model_name: t.String(),
  description: t.Optional(t.String()),
  icon: t.Optional(t.String()),
  tags: t.Optional(t.String()),
  vendor_id: t.Optional(t.Integer()),
  quota_type: t.Integer({ description: '0 by tokens, 1 per call' }),
  model_ratio: t.Number(),
  model_price: t.Number(),
  owner_by: t.String(),
  completion_ratio: t.Number(),
  cache_ratio: t.Optional(t.Number()),
  create_cache_ratio: t.Optional(t.Number()),
  image_ratio: t.Optional(t.Number()),
  audio_ratio: t.Optional(t.Number()),
  audio_completion_ratio: t.Optional(t.Number()),
  enable_groups: t.Array(t.String()),
  supported_endpoint_types: t.Array(t.String()),
})
const pricingJson = t.Object({
  success: t.Boolean(),
  data: t.Array(modelJson),
  vendors: t.Array(t.Object({ id: t.Integer(), name: t.String(), icon: t.String() })),
  group_ratio: t.Record(t.String(), t.Number()),
  usable_group: t.Record(t.String(), t.String()),
  supported_endpoint: t.Record(t.String(), endpointJson),
  auto_groups: t.Array(t.String()),
  pricing_version: t.String(),
})
const factors = t.Record(t.String(), t.Number())
const groupsJson = t.Record(t.String(), t.Object({ ratio: t.Union([t.Number(), t.String()]), desc: t.String() }))

/** How models are called through this gateway; both dialects reach every chat model. */
const ENDPOINTS: Readonly<Record<string, Endpoint>> = {
  openai: { path: '/v1/chat/completions', method: 'POST' },
  anthropic: { path: '/v1/messages', method: 'POST' },
  embeddings: { path: '/v1/embeddings', method: 'POST' },
}
/** Shown in place of a factor for the group that picks another one. */
const AUTO_RATIO = '自动'

export const pricingRoutes = (deps: {
  readonly options: Pick<Options, 'get'>
  readonly prices: Prices
  readonly channels: Pick<Channels, 'models'>
  readonly catalog: ModelCatalog
  /** Kinds of channels there are. */
  readonly channelTypes: readonly number[]
  readonly http: AdminHttp
}) => {
  const { options, prices, channels, catalog, channelTypes, http } = deps

  const groupsFor = (userGroup: string): Static<typeof groupsJson> => {
    const groups = [...selectableGroups(options, userGroup)].map(([group, desc]) => [
      group,
      { ratio: groupRatio(options, userGroup, group), desc },
    ])
    const auto = usableGroups(options, userGroup).get('auto')
    return Object.fromEntries(auto === undefined ? groups : [...groups, ['auto', { ratio: AUTO_RATIO, desc: auto }]])
  }

  return new Elysia({ prefix: '/api', detail: { tags: ['models and prices'] } })
    .get(
      '/group',
      async ({ request }) => {
        await http.actor(request, ADMIN)
        return ok(Object.keys(options.get('GroupRatio')))
      },
      { response: envelope(t.Array(t.String())), detail: { summary: 'Names of all groups' } },
    )
    .get(
      '/user/self/groups',
      async ({ request }) => {
        const { group } = await http.actor(request, USER)
        return ok(groupsFor(group))
      },
      { response: envelope(groupsJson), detail: { summary: 'Groups the caller may use' } },
    )
    .get('/user/groups', () => ok(groupsFor('')), {
      response: envelope(groupsJson),
      detail: { summary: 'Groups anyone may use' },
    })
    .get(
      '/user/models',
      async ({ request, query }) => {
        const { group } = await http.actor(request, USER)
        const wanted = query.group ?? ''
        const selectable = [...selectableGroups(options, group).keys()]
        if (wanted === '') return ok([...channels.models(selectable)])
        if (wanted === 'auto') return ok([...channels.models(autoGroups(options, group))])
        return ok(selectable.includes(wanted) ? [...channels.models([wanted])] : [])
      },
      {
        query: t.Object({ group: t.Optional(t.String()) }),
        response: envelope(t.Array(t.String())),
        detail: { summary: 'Models the caller may use' },
      },
    )
    .get(
      '/models',
      async ({ request }) => {
        await http.actor(request, USER)
        const known = await catalog.byChannelType()
        return ok(Object.fromEntries(channelTypes.map((type) => [String(type), [...(known.get(type) ?? [])]])))
      },
      {
        response: envelope(t.Record(t.String(), t.Array(t.String()))),
        detail: { summary: 'Models by kind of channel' },
      },
    )
    .get(
      '/pricing',
      async ({ request }) => {
        const access = pricingAccess(options)
        if (!access.isEnabled) throw new GatewayError('access_denied', { public: 'The price list is switched off' })
        const actor = access.needsLogin ? await http.actor(request, USER) : await http.optionalActor(request)
        return priceList(actor?.group ?? '')
      },
      { response: pricingJson, detail: { summary: 'Price list of the models the caller may use' } },
    )
    .get(
      '/ratio_config',
      async ({ request }) => {
        await http.limitCritical(request)
        if (!options.get('ExposeRatioEnabled'))
          throw new GatewayError('access_denied', { public: 'Ratios are not shown' })
        return ok({
          model_ratio: { ...options.get('ModelRatio') },
          completion_ratio: { ...options.get('CompletionRatio') },
          cache_ratio: { ...options.get('CacheRatio') },
          create_cache_ratio: { ...options.get('CreateCacheRatio') },
          model_price: { ...options.get('ModelPrice') },
        })
      },
      {
        response: envelope(
          t.Object({
            model_ratio: factors,
            completion_ratio: factors,
            cache_ratio: factors,
            create_cache_ratio: factors,
            model_price: factors,
          }),
        ),
        detail: { summary: 'All ratios, where the operator shows them' },
      },
    )

  async function priceList(userGroup: string): Promise<Static<typeof pricingJson>> {
    const groups = selectableGroups(options, userGroup)
    const { vendors, describe } = await catalog.load()
    const groupsByModel = new Map<string, string[]>()
    for (const group of groups.keys()) {
      for (const model of channels.models([group])) {
        const serving = groupsByModel.get(model)
        if (serving) serving.push(group)
        else groupsByModel.set(model, [group])
      }
    }
    const endpoints: Record<string, Endpoint> = {}
    const data = [...groupsByModel].flatMap(([model, serving]) => {
      const rates = prices.rates(model)
      if (!rates) return []
      const description = describe(model)
      const ways = endpointsOf(model, description)
      Object.assign(endpoints, ways)
      return [modelView(model, rates, serving, description, Object.keys(ways))]
    })
    return {
      success: true,
      data,
      vendors: [...vendors],
      group_ratio: Object.fromEntries(
        [...groups.keys()].map((group) => [group, groupRatio(options, userGroup, group)]),
      ),
      usable_group: Object.fromEntries(groups),
      supported_endpoint: endpoints,
      auto_groups: [...autoGroups(options, userGroup)],
      pricing_version: new Bun.CryptoHasher('md5').update(JSON.stringify(data)).digest('hex'),
    }
  }
}

/** The top menu's setting of the price list: a switch, or a switch with a demand to log in. */
function pricingAccess(options: Pick<Options, 'get'>): { readonly isEnabled: boolean; readonly needsLogin: boolean } {
  const setting = options.get('HeaderNavModules')['pricing']
  if (typeof setting === 'boolean') return { isEnabled: setting, needsLogin: false }
  const { enabled, requireAuth } = Object(setting) as { enabled?: unknown; requireAuth?: unknown }
  return { isEnabled: enabled !== false, needsLogin: requireAuth === true }
}

function endpointsOf(model: string, description: ModelDescription | undefined): Readonly<Record<string, Endpoint>> {
  if (description?.endpoints) return description.endpoints
  const { openai, anthropic, embeddings } = ENDPOINTS as Record<'openai' | 'anthropic' | 'embeddings', Endpoint>
  return /embed|^bge-|(?:^|\/)m3e/i.test(model) ? { embeddings } : { openai, anthropic }
}

const modelView = (
  model: string,
  rates: Rates,
  groups: readonly string[],
  description: ModelDescription | undefined,
  endpointTypes: readonly string[],
): Static<typeof modelJson> => ({
  model_name: model,
  ...(description?.description ? { description: description.description } : {}),
  ...(description?.icon ? { icon: description.icon } : {}),
  ...(description?.tags ? { tags: description.tags } : {}),
  ...(description?.vendorId ? { vendor_id: description.vendorId } : {}),
  owner_by: '',
  enable_groups: [...groups],
  supported_endpoint_types: [...endpointTypes],
  ...ratesView(rates),
})

const ratesView = (rates: Rates) =>
  rates.mode === 'per-call'
    ? { quota_type: 1, model_ratio: 0, model_price: rates.usdPerCall, completion_ratio: 0 }
    : {
        quota_type: 0,
        model_ratio: rates.modelRatio,
        model_price: 0,
        completion_ratio: rates.completionRatio,
        cache_ratio: rates.cacheRatio,
        create_cache_ratio: rates.cacheWriteRatio,
        ...(rates.imageRatio === undefined ? {} : { image_ratio: rates.imageRatio }),
        ...(rates.audio
          ? { audio_ratio: rates.audio.inputRatio, audio_completion_ratio: rates.audio.completionRatio }
          : {}),
      }
