/**
 * Redemption codes: administered by administrators, redeemed by users. They need no confirmed payment terms here: a code
 * costs nobody money, so only online payments ask for that.
 */
import { Elysia, t } from 'elysia'
import { type Accounts, ROLE } from '../domain/accounts/index.ts'
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

const codeJson = t.Object({
  id: t.Integer(),
  user_id: t.Integer(),
  key: t.String(),
  status: t.Integer({ description: '1 unused, 2 disabled, 3 used' }),
  name: t.String(),
  quota: t.Integer(),
  created_time: t.Integer(),
  redeemed_time: t.Integer(),
  count: t.Integer(),
  used_user_id: t.Integer(),
  DeletedAt: t.Null(),
  expired_time: t.Integer({ description: 'Unix seconds; 0 never' }),
})

export const redemptionRoutes = (deps: {
  readonly accounts: Pick<Accounts, 'redemptions'>
  readonly http: AdminHttp
}) => {
  const { http } = deps
  const { redemptions } = deps.accounts

  const administration = new Elysia({ prefix: '/api/redemption', detail: { tags: ['redemption codes'] } })
    .get(
      '/',
      async ({ request, query }) => {
        await http.actor(request, ROLE.admin)
        const page = parsePage(query)
        const { items, total } = await redemptions.list(page.size, page.offset)
        return ok(pageOf(items, total, page))
      },
      {
        query: pageQuery,
        response: envelope(pageSchema(codeJson)),
        detail: { summary: 'Redemption codes, newest first' },
      },
    )
    .get(
      '/search',
      async ({ request, query }) => {
        await http.actor(request, ROLE.admin)
        const page = parsePage(query)
        const { items, total } = await redemptions.search({
          ...(query.keyword && { keyword: query.keyword.trim() }),
          ...(query.status && { status: query.status }),
          limit: page.size,
          offset: page.offset,
        })
        return ok(pageOf(items, total, page))
      },
      {
        query: t.Object({
          ...pageFields,
          keyword: t.Optional(t.String({ maxLength: 200, description: 'Id, or how the name begins' })),
          status: t.Optional(t.String({ description: '1, 2, 3 or expired' })),
        }),
        response: envelope(pageSchema(codeJson)),
        detail: { summary: 'Search redemption codes' },
      },
    )
    .get(
      '/:id',
      async ({ request, params }) => {
        await http.actor(request, ROLE.admin)
        return ok(await redemptions.get(params.id))
      },
      { params: idParams, response: envelope(codeJson), detail: { summary: 'A redemption code' } },
    )
    .post(
      '/',
      async ({ request, body }) => {
        const actor = await http.actor(request, ROLE.admin)
        const { name, count, quota, expired_time: expiredTime = 0 } = body
        const codes = await redemptions.create(actor.userId, { name, count, quota, expiredTime })
        await http.audit(actor, 'redemption.create', { name, count, quota, expired_time: expiredTime })
        return ok(codes)
      },
      {
        body: t.Object({
          name: t.String(),
          count: t.Integer({ description: '1 to 100' }),
          quota: t.Integer(),
          expired_time: t.Optional(t.Integer()),
        }),
        response: envelope(t.Array(t.String())),
        detail: { summary: 'Create redemption codes' },
      },
    )
    .put(
      '/',
      async ({ request, query, body }) => {
        const actor = await http.actor(request, ROLE.admin)
        const isStatusOnly = query.status_only === 'true'
        const code = isStatusOnly
          ? await redemptions.setStatus(body.id, body.status ?? 0)
          : await redemptions.edit(body.id, {
              name: body.name ?? '',
              quota: body.quota ?? 0,
              expiredTime: body.expired_time ?? 0,
            })
        const { id, name, quota, status, expired_time } = code
        await http.audit(actor, 'redemption.update', isStatusOnly ? { id, status } : { id, name, quota, expired_time })
        return ok(code)
      },
      {
        query: t.Object({ status_only: t.Optional(t.String()) }),
        body: t.Object({
          id: t.Integer(),
          name: t.Optional(t.String()),
          quota: t.Optional(t.Integer()),
          expired_time: t.Optional(t.Integer()),
          status: t.Optional(t.Integer()),
        }),
        response: envelope(codeJson),
        detail: { summary: 'Edit a redemption code, or switch it on or off' },
      },
    )
    .delete(
      '/invalid',
      async ({ request }) => {
        const actor = await http.actor(request, ROLE.admin)
        const removed = await redemptions.removeInvalid()
        await http.audit(actor, 'redemption.delete_invalid', { removed })
        return ok(removed)
      },
      { response: envelope(t.Integer()), detail: { summary: 'Delete used, disabled and expired codes' } },
    )
    .delete(
      '/:id',
      async ({ request, params }) => {
        const actor = await http.actor(request, ROLE.admin)
        await redemptions.remove(params.id)
        await http.audit(actor, 'redemption.delete', { id: params.id })
        return ok()
      },
      { params: idParams, response: plainEnvelope, detail: { summary: 'Delete a redemption code' } },
    )

  return new Elysia().use(administration).post(
    '/api/user/topup',
    async ({ request, body }) => {
      await http.limitCritical(request)
      const { userId } = await http.actor(request, ROLE.user)
      return ok(
        await redemptions.redeem(userId, body.key, { ip: http.ip(request), requestId: http.requestId(request) }),
      )
    },
    {
      body: t.Object({ key: t.String({ maxLength: 200 }) }),
      response: envelope(t.Integer({ description: 'Quota units credited' })),
      detail: { summary: 'Redeem a code', tags: ['own account'] },
    },
  )
}
