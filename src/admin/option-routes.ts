/** Options for root: list, change one or several together, built-in prices again. Secrets can be written, never read. */

import { Elysia, t } from 'elysia'
import { ROLE } from '../domain/accounts/index.ts'
import type { Prices } from '../domain/billing/index.ts'
import { hasSecretEnding, type Options } from '../domain/options/index.ts'
import { type AdminHttp, envelope, ok, plainEnvelope } from './http.ts'

const optionText = t.Object({ key: t.String(), value: t.String() })
/** Stored as text, whatever it is sent as. */
const optionValue = t.Union([t.String(), t.Boolean(), t.Number()])

export const optionRoutes = (deps: {
  readonly options: Options
  readonly prices: Pick<Prices, 'completionRatios'>
  readonly http: AdminHttp
}) => {
  const { options, prices, http } = deps
  const secrets = new Set(options.definitions.filter(({ isSecret }) => isSecret).map(({ key }) => key))
  const isShown = (key: string): boolean => !secrets.has(key) && !hasSecretEnding(key)

  return new Elysia({ prefix: '/api/option', detail: { tags: ['options'] } })
    .get(
      '/',
      async ({ request }) => {
        await http.actor(request, ROLE.root)
        const shown = options.list().filter(({ key }) => isShown(key))
        return ok([...shown, { key: 'CompletionRatioMeta', value: JSON.stringify(prices.completionRatios()) }])
      },
      { response: envelope(t.Array(optionText)), detail: { summary: 'All options as texts, without secrets' } },
    )
    .put(
      '/',
      async ({ request, body }) => {
        const actor = await http.actor(request, ROLE.root)
        await options.set({ [body.key]: String(body.value) })
        await http.audit(actor, 'option.update', { key: body.key })
        return ok()
      },
      {
        body: t.Object({ key: t.String(), value: optionValue }),
        response: plainEnvelope,
        detail: { summary: 'Change an option' },
      },
    )
    .post(
      '/batch',
      async ({ request, body }) => {
        const actor = await http.actor(request, ROLE.root)
        const entries = Object.entries(body.options).map(([key, value]) => [key, String(value)])
        await options.set(Object.fromEntries(entries))
        await http.audit(actor, 'option.update', { keys: Object.keys(body.options) })
        return ok()
      },
      {
        body: t.Object({ options: t.Record(t.String(), optionValue) }),
        response: plainEnvelope,
        detail: { summary: 'Change several options, all or none' },
      },
    )
    .post(
      '/rest_model_ratio',
      async ({ request }) => {
        const actor = await http.actor(request, ROLE.root)
        const standard = options.definitions.find(({ key }) => key === 'ModelRatio')?.defaultText ?? '{}'
        await options.set({ ModelRatio: standard })
        await http.audit(actor, 'option.reset_model_ratio', { key: 'ModelRatio' })
        return ok()
      },
      { response: plainEnvelope, detail: { summary: 'Put the model ratios back to the built-in table' } },
    )
}
