/** The caller's own account. */
import { Elysia, t } from 'elysia'
import { type Accounts, ROLE } from '../domain/accounts/index.ts'
import { issuedView } from './auth-routes.ts'
import { type AdminHttp, envelope, ok, plainEnvelope } from './http.ts'
import { rotationJson, selfJson } from './schemas.ts'

const settingJson = t.Object({
  notify_type: t.Optional(t.String()),
  quota_warning_threshold: t.Optional(t.Number()),
  webhook_url: t.Optional(t.String({ maxLength: 2000 })),
  webhook_secret: t.Optional(t.String({ maxLength: 500 })),
  notification_email: t.Optional(t.String({ maxLength: 200 })),
  bark_url: t.Optional(t.String({ maxLength: 2000 })),
  gotify_url: t.Optional(t.String({ maxLength: 2000 })),
  gotify_token: t.Optional(t.String({ maxLength: 500 })),
  gotify_priority: t.Optional(t.Integer()),
  upstream_model_update_notify_enabled: t.Optional(t.Boolean()),
  accept_unset_model_ratio_model: t.Optional(t.Boolean()),
  record_ip_log: t.Optional(t.Boolean()),
})

export const selfRoutes = (deps: { readonly accounts: Pick<Accounts, 'self'>; readonly http: AdminHttp }) => {
  const { http } = deps
  const { self } = deps.accounts
  return new Elysia({ prefix: '/api/user', detail: { tags: ['own account'] } })
    .get(
      '/self',
      async ({ request }) => {
        const { userId } = await http.actor(request, ROLE.user)
        return ok(await self.view(userId))
      },
      { response: envelope(selfJson), detail: { summary: 'The caller’s account' } },
    )
    .put(
      '/self',
      async ({ request, body }) => {
        const actor = await http.actor(request, ROLE.user)
        if (body.sidebar_modules !== undefined) {
          await self.setSidebar(actor.userId, body.sidebar_modules)
          return ok(null)
        }
        if (body.language !== undefined) {
          await self.setLanguage(actor.userId, body.language)
          return ok(null)
        }
        const issued = await self.updateProfile(actor, {
          username: body.username,
          displayName: body.display_name,
          password: body.password,
          originalPassword: body.original_password,
        })
        return issued ? ok(issuedView(issued)) : ok()
      },
      {
        body: t.Object({
          sidebar_modules: t.Optional(t.String({ maxLength: 8000 })),
          language: t.Optional(t.String({ maxLength: 16 })),
          username: t.Optional(t.String()),
          display_name: t.Optional(t.String()),
          password: t.Optional(t.String()),
          original_password: t.Optional(t.String()),
        }),
        response: envelope(t.Union([rotationJson, t.Null()])),
        detail: {
          summary: 'Change the side bar, or the language, or profile and password',
          description:
            'A new password needs a login session and the old password; the reply then holds a new access token.',
        },
      },
    )
    .delete(
      '/self',
      async ({ request }) => {
        const { userId } = await http.actor(request, ROLE.user)
        await self.leave(userId)
        return ok()
      },
      { response: plainEnvelope, detail: { summary: 'Delete the caller’s account' } },
    )
    .put(
      '/setting',
      async ({ request, body }) => {
        const actor = await http.actor(request, ROLE.user)
        await self.updateSetting(actor, body)
        return ok(null)
      },
      {
        body: settingJson,
        response: envelope(t.Null()),
        detail: { summary: 'Change notifications and call settings' },
      },
    )
    .get(
      '/token',
      async ({ request }) => {
        const { userId } = await http.actor(request, ROLE.user)
        await http.limitCritical(request, { userId, purpose: 'access-token' })
        return ok(await self.issuePersonalToken(userId))
      },
      { response: envelope(t.String()), detail: { summary: 'A new personal access token; the old one ends' } },
    )
    .get(
      '/aff',
      async ({ request }) => {
        const { userId } = await http.actor(request, ROLE.user)
        return ok(await self.invitationCode(userId))
      },
      { response: envelope(t.String()), detail: { summary: 'The caller’s invitation code' } },
    )
}
