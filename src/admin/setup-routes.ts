/** The first set-up: is it done, and doing it. */
import { Elysia, t } from 'elysia'
import type { Accounts } from '../domain/accounts/index.ts'
import { type AdminHttp, ok, plainEnvelope } from './http.ts'

export const setupRoutes = (deps: {
  readonly accounts: Pick<Accounts, 'setup'>
  readonly http: AdminHttp
  /** For the first page of the console. */
  readonly databaseType: 'sqlite' | 'mysql'
}) => {
  const { setup } = deps.accounts
  return new Elysia({ prefix: '/api/setup', detail: { tags: ['set-up'] } })
    .get(
      '/',
      () => {
        const status = setup.isDone()
        return { success: true, data: { status, root_init: false, database_type: status ? '' : deps.databaseType } }
      },
      {
        response: t.Object({
          success: t.Boolean(),
          data: t.Object({ status: t.Boolean(), root_init: t.Boolean(), database_type: t.String() }),
        }),
        detail: { summary: 'Is the installation set up?' },
      },
    )
    .post(
      '/',
      async ({ request, body }) => {
        await deps.http.limitCritical(request)
        await setup.run({
          username: body.username,
          password: body.password,
          confirmPassword: body.confirmPassword ?? body.password,
          isSelfUse: body.SelfUseModeEnabled ?? false,
          isDemo: body.DemoSiteEnabled ?? false,
        })
        return ok()
      },
      {
        body: t.Object({
          username: t.String(),
          password: t.String(),
          confirmPassword: t.Optional(t.String()),
          SelfUseModeEnabled: t.Optional(t.Boolean()),
          DemoSiteEnabled: t.Optional(t.Boolean()),
        }),
        response: plainEnvelope,
        detail: { summary: 'Set the installation up: creates the root user' },
      },
    )
}
