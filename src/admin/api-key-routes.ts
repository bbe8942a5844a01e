/** The caller's own API keys. The table and the paths call them tokens. */
import { Elysia, type Static, t } from 'elysia'
import { type Accounts, type ApiKeyInput, ROLE } from '../domain/accounts/index.ts'
import { GatewayError } from '../errors.ts'
import {
  type AdminHttp,
  envelope,
  idParams,
  ok,
  pageFields,
  pageOf,
  pageQuery,
  pageSchema,
  parsePage,
  plainEnvelope,
} from './http.ts'
import { limitFields, limitInput, optionalLimitFields } from './schemas.ts'

const MAX_REVEALED = 100
const MAX_DELETED = 1000

const keyJson = t.Object({
  id: t.Integer(),
  user_id: t.Integer(),
  key: t.String({ description: 'Masked' }),
  status: t.Integer({ description: '1 enabled, 2 disabled, 3 expired, 4 used up' }),
  name: t.String(),
  created_time: t.Integer(),
  accessed_time: t.Integer(),
  expired_time: t.Integer({ description: 'Unix seconds; -1 never' }),
  remain_quota: t.Integer(),
  unlimited_quota: t.Boolean(),
  model_limits_enabled: t.Boolean(),
  model_limits: t.String({ description: 'Comma-separated' }),
  allow_ips: t.String({ description: 'Addresses and networks, one a line' }),
  used_quota: t.Integer(),
  group: t.String(),
  cross_group_retry: t.Boolean(),
  DeletedAt: t.Null(),
  auto_groups: t.Union([t.Array(t.String()), t.Null()]),
  ...limitFields,
})

/** Clients send null for an empty text. */
const nullableText = t.Union([t.String(), t.Null()])

const fields = {
  name: t.Optional(t.String()),
  expired_time: t.Optional(t.Integer()),
  remain_quota: t.Optional(t.Integer()),
  used_quota: t.Optional(
    t.Integer({ description: 'As read together with remain_quota: then what was spent since stays spent' }),
  ),
  unlimited_quota: t.Optional(t.Boolean()),
  model_limits_enabled: t.Optional(t.Boolean()),
  model_limits: t.Optional(nullableText),
  allow_ips: t.Optional(nullableText),
  group: t.Optional(nullableText),
  cross_group_retry: t.Optional(t.Boolean()),
  auto_groups: t.Optional(t.Union([t.Array(t.String()), t.Null()])),
  ...optionalLimitFields,
}
const keyBody = t.Object(fields)

export const apiKeyRoutes = (deps: { readonly accounts: Pick<Accounts, 'apiKeys'>; readonly http: AdminHttp }) => {
  const { http } = deps
  const { apiKeys } = deps.accounts
  return new Elysia({ prefix: '/api/token', detail: { tags: ['API keys'] } })
    .get(
      '/',
      async ({ request, query }) => {
        const { userId } = await http.actor(request, ROLE.user)
        const page = parsePage(query)
        const { items, total } = await apiKeys.list(userId, page.size, page.offset)
        return ok(pageOf(items, total, page))
      },
      { query: pageQuery, response: envelope(pageSchema(keyJson)), detail: { summary: 'API keys, newest first' } },
    )
    .get(
      '/search',
      async ({ request, query }) => {
        const actor = await http.actor(request, ROLE.user)
        await http.limitSearch(actor)
        const page = parsePage(query)
        const { items, total } = await apiKeys.search(actor.userId, {
          ...(query.keyword && { keyword: query.keyword }),
          ...(query.token && { token: query.token }),
          limit: page.size,
          offset: page.offset,
        })
        return ok(pageOf(items, total, page))
      },
      {
        query: t.Object({
          ...pageFields,
          keyword: t.Optional(t.String({ maxLength: 200, description: 'Name; % stands for anything' })),
          token: t.Optional(t.String({ maxLength: 200, description: 'Key; % stands for anything' })),
        }),
        response: envelope(pageSchema(keyJson)),
        detail: { summary: 'Search API keys' },
      },
    )
    .get(
      '/auto-groups',
      async ({ request }) => {
        const { group } = await http.actor(request, ROLE.user)
        return ok(apiKeys.selectableAutoGroups(group))
      },
      {
        response: envelope(t.Object({ groups: t.Array(t.String()), max_count: t.Integer() })),
        detail: { summary: 'Groups that an automatic key may list' },
      },
    )
    .get(
      '/:id',
      async ({ request, params }) => {
        const { userId } = await http.actor(request, ROLE.user)
        return ok(await apiKeys.get(userId, params.id))
      },
      { params: idParams, response: envelope(keyJson), detail: { summary: 'An API key' } },
    )
    .post(
      '/:id/key',
      async ({ request, params }) => {
        await http.limitCritical(request)
        const { userId } = await http.actor(request, ROLE.user)
        const key = (await apiKeys.reveal(userId, [params.id])).get(params.id)
        if (key === undefined) throw new GatewayError('api_key_not_found')
        return ok({ key })
      },
      {
        params: idParams,
        response: envelope(t.Object({ key: t.String({ description: 'In full, without sk-' }) })),
        detail: { summary: 'Reveal an API key' },
      },
    )
    .post(
      '/',
      async ({ request, body }) => {
        const { userId } = await http.actor(request, ROLE.user)
        return ok(await apiKeys.create(userId, inputOf(body)))
      },
      {
        body: keyBody,
        response: envelope(t.Object({ id: t.Integer(), key: t.String({ description: 'In full, without sk-' }) })),
        detail: { summary: 'Create an API key' },
      },
    )
    .put(
      '/',
      async ({ request, query, body }) => {
        const { userId } = await http.actor(request, ROLE.user)
        if (query.status_only === 'true') return ok(await apiKeys.setStatus(userId, body.id, body.status ?? 0))
        return ok(await apiKeys.edit(userId, body.id, inputOf(body)))
      },
      {
        query: t.Object({ status_only: t.Optional(t.String()) }),
        body: t.Object({ ...fields, id: t.Integer(), status: t.Optional(t.Integer()) }),
        response: envelope(keyJson),
        detail: { summary: 'Edit an API key, or switch it on or off' },
      },
    )
    .post(
      '/batch',
      async ({ request, body }) => {
        const { userId } = await http.actor(request, ROLE.user)
        return ok(await apiKeys.remove(userId, body.ids))
      },
      {
        body: t.Object({ ids: t.Array(t.Integer(), { maxItems: MAX_DELETED }) }),
        response: envelope(t.Integer()),
        detail: { summary: 'Delete several API keys' },
      },
    )
    .post(
      '/batch/keys',
      async ({ request, body }) => {
        await http.limitCritical(request)
        const { userId } = await http.actor(request, ROLE.user)
        return ok({ keys: Object.fromEntries(await apiKeys.reveal(userId, body.ids)) })
      },
      {
        body: t.Object({ ids: t.Array(t.Integer(), { maxItems: MAX_REVEALED }) }),
        response: envelope(t.Object({ keys: t.Record(t.String(), t.String()) })),
        detail: { summary: 'Reveal several API keys' },
      },
    )
    .delete(
      '/:id',
      async ({ request, params }) => {
        const { userId } = await http.actor(request, ROLE.user)
        if ((await apiKeys.remove(userId, [params.id])) === 0) throw new GatewayError('api_key_not_found')
        return ok()
      },
      { params: idParams, response: plainEnvelope, detail: { summary: 'Delete an API key' } },
    )
}

/** Wire names → ours; what is absent stays absent. */
function inputOf(body: Static<typeof keyBody>): ApiKeyInput {
  const input = {
    name: body.name,
    expiredTime: body.expired_time,
    remainQuota: body.remain_quota,
    usedQuota: body.used_quota,
    unlimitedQuota: body.unlimited_quota,
    modelLimitsEnabled: body.model_limits_enabled,
    modelLimits: orEmpty(body.model_limits),
    allowIps: orEmpty(body.allow_ips),
    group: orEmpty(body.group),
    crossGroupRetry: body.cross_group_retry,
    autoGroups: body.auto_groups,
    ...limitInput(body),
  }
  return Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined))
}

const orEmpty = (text: string | null | undefined): string | undefined => (text === null ? '' : text)
