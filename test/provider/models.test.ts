/** The model list of each provider: where it is asked for, with which credential, and how failures are told. */
import { afterAll, describe, expect, test } from 'bun:test'
import { GatewayError } from '../../src/errors.ts'
import type { UpstreamChannel } from '../../src/provider/provider.ts'
import { createProviders } from '../../src/provider/registry.ts'

const providers = createProviders({ azureApiVersion: 'v1' })
const seen: { path: string; headers: Headers }[] = []
const LISTS: Record<string, unknown> = {
  '/api/tags': { models: [{ name: 'llama3:8b' }, { name: 'llama3:8b' }, { size: 1 }] },
  '/denied/v1/models': undefined,
  '/odd/v1/models': 'not json',
}
const server = Bun.serve({
  port: 0,
  fetch: (request) => {
    const { pathname, search } = new URL(request.url)
    seen.push({ path: pathname + search, headers: request.headers })
    if (pathname === '/denied/v1/models') return new Response('no, sk-secret', { status: 401 })
    if (pathname === '/odd/v1/models') return new Response('<html>')
    return Response.json(LISTS[pathname] ?? { data: [{ id: 'b' }, { id: 'a' }, { id: 'b' }, null, { id: 7 }] })
  },
})
afterAll(() => server.stop(true))

const list = (id: number, base = '', more: Partial<UpstreamChannel> = {}) => {
  const channel: UpstreamChannel = {
    id: 1,
    baseUrl: `http://localhost:${server.port}${base}`,
    key: 'k',
    other: '',
    organization: '',
    createdAtSec: 0,
    settings: {},
    ...more,
  }
  return providers.find(id)?.listModels?.(channel, (url, init) => fetch(url, init))
}

describe('model lists', () => {
  test.each([
    [1, '', '/v1/models', 'authorization', 'Bearer k'],
    [3, '', '/openai/models?api-version=v1', 'api-key', 'k'],
    [14, '', '/v1/models?limit=1000', 'x-api-key', 'k'],
    [43, '', '/models', 'authorization', 'Bearer k'],
    [20, '', '/v1/models', 'authorization', 'Bearer k'],
    [8, '/x/v1/chat/completions', '/x/v1/models', 'authorization', 'Bearer k'],
    [22, '/api/openapi', '/api/openapi/v1/models', 'authorization', 'Bearer k'],
  ])('provider %d asks for the list with its key, and gives each id once', async (id, base, path, header, value) => {
    expect(await list(id, base)).toEqual(['b', 'a'])
    expect(seen.at(-1)?.path).toBe(path)
    expect(seen.at(-1)?.headers.get(header)).toBe(value)
  })
  test('Ollama lists its local models', async () => {
    expect(await list(4)).toEqual(['llama3:8b'])
  })
  test('a refusal says its status, and nothing of what the upstream wrote', async () => {
    const error = await list(1, '/denied')?.then(undefined, (thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(GatewayError)
    expect((error as GatewayError).public).toBe('The upstream answered 401')
  })
  test('what is no list and what cannot be reached are errors of their own', async () => {
    expect(await codeOf(list(1, '/odd'))).toBe('bad_response_body')
    expect(await codeOf(list(1, '', { baseUrl: 'http://localhost:1' }))).toBe('do_request_failed')
  })
})

const codeOf = async (work: Promise<unknown> | undefined): Promise<string> => {
  try {
    await work
    return 'no error'
  } catch (error) {
    return error instanceof GatewayError ? error.code : String(error)
  }
}
