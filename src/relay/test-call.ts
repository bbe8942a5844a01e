/** The body of a channel test: the smallest call that shows that a model answers. */
import type { TestQuery } from '../domain/channels/index.ts'
import type { Endpoint } from './types.ts'

const EMBEDDING = /embed|m3e|bge/i

/** @returns the endpoint that suits the wanted type or the model's name, and a body for it */
export function testBody(
  { endpointType, isStream }: TestQuery,
  model: string,
  endpoints: readonly Endpoint[],
): { readonly endpoint: Endpoint; readonly json: Record<string, unknown> } {
  const at = (path: string): Endpoint => endpoints.find((endpoint) => endpoint.path === path)!
  if (endpointType === 'embeddings' || (endpointType === '' && EMBEDDING.test(model)))
    return { endpoint: at('/v1/embeddings'), json: { model, input: ['hi'] } }
  const json = { model, max_tokens: 16, messages: [{ role: 'user', content: 'hi' }], ...(isStream && { stream: true }) }
  return { endpoint: at(endpointType === 'anthropic' ? '/v1/messages' : '/v1/chat/completions'), json }
}
