/** A trial of the alerts, so that an operator knows that they arrive. */
import { Elysia } from 'elysia'
import { ROLE } from '../domain/accounts/index.ts'
import type { Alerts } from '../domain/notify/index.ts'
import { type AdminHttp, ok, plainEnvelope } from './http.ts'

export const alertRoutes = (deps: { readonly http: AdminHttp; readonly raise: Alerts['raise'] }) =>
  new Elysia({ prefix: '/api/alert', detail: { tags: ['operation'] } }).post(
    '/test',
    async ({ request }) => {
      const actor = await deps.http.actor(request, ROLE.root)
      // Each trial is an event of its own: it must not be kept back as a repetition.
      deps.raise({ kind: 'test', key: crypto.randomUUID(), text: `${actor.username} tries whether alerts arrive.` })
      return ok()
    },
    { response: plainEnvelope, detail: { summary: 'Send an alert to try webhook and mail' } },
  )
