/** What this node's environment came to, for root: effective values with secrets masked. */
import { Elysia, t } from 'elysia'
import { ROLE } from '../domain/accounts/index.ts'
import { type AdminHttp, envelope, ok } from './http.ts'

const variableJson = t.Object({
  name: t.String(),
  section: t.String(),
  value: t.String({ description: 'Secrets are masked' }),
  is_default: t.Boolean(),
  description: t.String(),
})

export const configRoutes = (deps: {
  readonly variables: () => readonly {
    readonly name: string
    readonly section: string
    readonly value: string
    readonly isDefault: boolean
    readonly description: string
  }[]
  readonly http: AdminHttp
}) =>
  new Elysia({ prefix: '/api/config', detail: { tags: ['operation'] } }).get(
    '/',
    async ({ request }) => {
      await deps.http.actor(request, ROLE.root)
      return ok(deps.variables().map(({ isDefault, ...variable }) => ({ ...variable, is_default: isDefault })))
    },
    { response: envelope(t.Array(variableJson)), detail: { summary: 'Effective environment of this node' } },
  )
