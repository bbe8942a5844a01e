/** A trial of the alerts, so that an operator knows that they arrive. */
import { Elysia } from 'elysia'
import { ROLE } from '../domain/accounts/index.ts'
import type { Alerts } from '../domain/notify/index.ts'
import { type AdminHttp, plainEnvelope } from './http.ts'

export const alertRoutes = (deps: { readonly http: AdminHttp; readonly trial: Alerts['trial'] }) =>
  new Elysia({ prefix: '/api/alert', detail: { tags: ['operation'] } }).post(
    '/test',
    async ({ request }) => {
      const actor = await deps.http.actor(request, ROLE.root)
      const tried = await deps.trial(`${actor.username} tries whether alerts arrive.`)
      return {
        // One way that works is enough to hear of things; the message tells of the other.
        success: tried.some(({ problem }) => problem === ''),
        message: tried.map(({ way, problem }) => problem || `${way}: delivered`).join('; '),
      }
    },
    { response: plainEnvelope, detail: { summary: 'Send an alert to try webhook and mail' } },
  )
