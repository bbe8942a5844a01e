/** Lists of models in the dialects of the clients that ask: what the caller's groups have a channel and a price for. */
import type { Caller } from '../domain/accounts/index.ts'
import type { Prices } from '../domain/billing/index.ts'
import { type Channels, normaliseModel } from '../domain/channels/index.ts'
import { GatewayError } from '../errors.ts'
import type { Provider } from '../provider/provider.ts'

export type ListDialect = 'openai' | 'claude' | 'gemini'

/** Models have no date of their own here: a fixed one, as clients expect some. */
const CREATED_SEC = 1_626_777_600

/**
 * By the headers that only their clients send. Anthropic's SDK puts its key into `x-api-key` or `authorization`, depending on
 * its version, and always names the version of the API.
 */
export function listDialect(request: Request, url: URL): ListDialect {
  if (request.headers.has('anthropic-version')) return 'claude'
  if (request.headers.has('x-goog-api-key') || url.searchParams.has('key')) return 'gemini'
  return 'openai'
}

export function createModelLists({ channels, prices }: { readonly channels: Channels; readonly prices: Prices }) {
  const namesFor = (caller: Caller): readonly string[] =>
    channels
      .models(caller.groups)
      .filter(
        (model) =>
          !caller.modelLimits || caller.modelLimits.has(model) || caller.modelLimits.has(normaliseModel(model)),
      )
      .filter((model) => caller.acceptsUnpriced || prices.has(model))

  /** Of a channel that would serve the model next, in the first group that has one. */
  const providerOf = (model: string, groups: readonly string[]): Provider | undefined => {
    for (const group of groups) {
      const channel = channels.candidates({ model, group }).any()
      if (channel) return channel.provider
    }
    return undefined
  }
  const openaiModel = (model: string, caller: Caller) => {
    const provider = providerOf(model, caller.groups)
    return {
      id: model,
      object: 'model',
      created: CREATED_SEC,
      owned_by: provider?.name ?? 'custom',
      // What the upstream speaks itself; the other dialect is converted.
      supported_endpoint_types: provider?.speaks.chat?.claude === undefined ? ['openai'] : ['anthropic', 'openai'],
    }
  }
  const claudeModel = (model: string) => ({
    id: model,
    created_at: new Date(CREATED_SEC * 1000).toISOString(),
    display_name: model,
    type: 'model',
  })

  return {
    list(caller: Caller, dialect: ListDialect): unknown {
      const names = namesFor(caller)
      switch (dialect) {
        case 'claude':
          return {
            data: names.map(claudeModel),
            first_id: names[0] ?? null,
            has_more: false,
            last_id: names.at(-1) ?? null,
          }
        case 'gemini':
          return { models: names.map((name) => ({ name, displayName: name })), nextPageToken: null }
        case 'openai':
          return { success: true, object: 'list', data: names.map((name) => openaiModel(name, caller)) }
      }
    },
    /** @throws GatewayError 404 for a model that the caller cannot use */
    find(caller: Caller, model: string, dialect: ListDialect): unknown {
      if (!namesFor(caller).includes(model)) throw new GatewayError('unknown_model', { params: { model } })
      return dialect === 'claude' ? claudeModel(model) : openaiModel(model, caller)
    },
  }
}
