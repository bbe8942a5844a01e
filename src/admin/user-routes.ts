/** Users, for administrators. */
import { Elysia, type Static, t } from 'elysia'
import { type Accounts, channelPermissions, ROLE, type Trail } from '../domain/accounts/index.ts'
import {
  type AdminHttp,
  envelope,
  idParams,
  ok,
  pageFields,
  pageOf,
  pageSchema,
  parsePage,
  plainEnvelope,
} from './http.ts'
import { limitInput, optionalLimitFields, userJson } from './schemas.ts'

const sorted = { ...pageFields, sort_by: t.Optional(t.String()), sort_order: t.Optional(t.String()) }
const searchQuery = t.Object({
  ...sorted,
  keyword: t.Optional(t.String({ maxLength: 200 })),
  group: t.Optional(t.String()),
  role: t.Optional(t.String()),
  status: t.Optional(t.String({ description: '1 enabled, 2 disabled, -1 deleted' })),
})

export const userRoutes = (deps: { readonly accounts: Pick<Accounts, 'users'>; readonly http: AdminHttp }) => {
  const { http } = deps
  const { users } = deps.accounts
  const trail = (request: Request): Trail => ({ ip: http.ip(request), requestId: http.requestId(request) })

  const find = async (query: Static<typeof searchQuery>) => {
    const page = parsePage(query)
    const { items, total } = await users.list({
      ...(query.keyword && { keyword: query.keyword.trim() }),
      ...(query.group && { group: query.group }),
      ...numberField('role', query.role),
      ...numberField('status', query.status),
      ...(query.sort_by && { sortBy: query.sort_by }),
      isAscending: query.sort_order === 'asc',
      offset: page.offset,
      limit: page.size,
    })
    return ok(pageOf(items, total, page))
  }

  return new Elysia({ prefix: '/api/user', detail: { tags: ['users'] } })
    .get(
      '/',
      async ({ request, query }) => {
        await http.actor(request, ROLE.admin)
        return find(query)
      },
      {
        query: t.Object(sorted),
        response: envelope(pageSchema(userJson)),
        detail: { summary: 'Users, deleted ones included' },
      },
    )
    .get(
      '/search',
      async ({ request, query }) => {
        await http.actor(request, ROLE.admin)
        return find(query)
      },
      { query: searchQuery, response: envelope(pageSchema(userJson)), detail: { summary: 'Search users' } },
    )
    .get(
      '/:id',
      async ({ request, params }) => {
        const actor = await http.actor(request, ROLE.admin)
        const user = await users.get(actor, params.id)
        return ok({ ...user, admin_permissions: { channel: { ...channelPermissions(user.role) } } })
      },
      {
        params: idParams,
        response: envelope(
          t.Composite([
            userJson,
            t.Object({ admin_permissions: t.Object({ channel: t.Record(t.String(), t.Boolean()) }) }),
          ]),
        ),
        detail: { summary: 'A user' },
      },
    )
    .post(
      '/',
      async ({ request, body }) => {
        const actor = await http.actor(request, ROLE.admin)
        const id = await users.create(
          actor,
          {
            username: body.username,
            password: body.password,
            ...(body.display_name !== undefined && { displayName: body.display_name }),
            ...(body.role !== undefined && { role: body.role }),
          },
          trail(request),
        )
        await http.audit(actor, 'user.create', { id, username: body.username, role: body.role ?? 1 })
        return ok({ id })
      },
      {
        body: t.Object({
          username: t.String(),
          password: t.String(),
          display_name: t.Optional(t.String()),
          role: t.Optional(t.Integer({ description: '1 or 10, below the own role' })),
        }),
        response: envelope(t.Object({ id: t.Integer() })),
        detail: { summary: 'Create a user' },
      },
    )
    .put(
      '/',
      async ({ request, body }) => {
        const actor = await http.actor(request, ROLE.admin)
        await users.edit(actor, {
          id: body.id,
          ...(body.username !== undefined && { username: body.username }),
          ...(body.display_name !== undefined && { displayName: body.display_name }),
          ...(body.group !== undefined && { group: body.group }),
          ...(body.remark !== undefined && { remark: body.remark }),
          ...(body.password !== undefined && { password: body.password }),
          ...(body.role !== undefined && { role: body.role }),
          ...limitInput(body),
        })
        const fields = Object.keys(body).filter(
          (field) => field !== 'id' && (field !== 'password' || body.password !== ''),
        )
        await http.audit(actor, 'user.update', { id: body.id, fields })
        return ok()
      },
      {
        body: t.Object({
          id: t.Integer(),
          username: t.Optional(t.String()),
          display_name: t.Optional(t.String()),
          group: t.Optional(t.String()),
          remark: t.Optional(t.String()),
          password: t.Optional(t.String({ description: 'Empty keeps it' })),
          role: t.Optional(t.Integer({ description: 'Unchanged or 0' })),
          ...optionalLimitFields,
        }),
        response: plainEnvelope,
        detail: {
          summary: 'Edit a user',
          description: 'A new group or password ends the user’s sessions. The balance is not changed here.',
        },
      },
    )
    .post(
      '/manage',
      async ({ request, body }) => {
        const actor = await http.actor(request, ROLE.admin)
        const state = await users.manage(
          actor,
          {
            id: body.id,
            action: body.action,
            ...(body.mode !== undefined && { mode: body.mode }),
            ...(body.value !== undefined && { value: body.value }),
          },
          trail(request),
        )
        // A change of money has its row in the transaction that moved it.
        if (body.action === 'add_quota') http.audited(actor)
        else await http.audit(actor, `user.${body.action}`, { id: body.id })
        return state ? ok(state) : ok()
      },
      {
        body: t.Object({
          id: t.Integer(),
          action: t.String({ description: 'enable, disable, delete, promote, demote, add_quota' }),
          mode: t.Optional(t.String({ description: 'Of add_quota: add, subtract, override' })),
          value: t.Optional(t.Integer()),
        }),
        response: envelope(t.Object({ role: t.Integer(), status: t.Integer() })),
        detail: { summary: 'Enable, disable, delete, promote, demote, or change the balance' },
      },
    )
    .delete(
      '/:id',
      async ({ request, params }) => {
        const actor = await http.actor(request, ROLE.admin)
        await users.remove(actor, params.id)
        await http.audit(actor, 'user.delete', { id: params.id })
        return ok()
      },
      { params: idParams, response: plainEnvelope, detail: { summary: 'Remove a user for good' } },
    )
}

/** A filter that is no whole number is no filter. */
const numberField = <Name extends string>(name: Name, text: string | undefined): { readonly [Key in Name]?: number } =>
  text !== undefined && /^-?\d{1,9}$/.test(text) ? ({ [name]: Number(text) } as { [Key in Name]: number }) : {}
