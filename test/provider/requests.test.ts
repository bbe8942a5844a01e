/** Each provider: a call goes in, and this is the upstream request that comes out. */
import { describe, expect, test } from 'bun:test'
import type { Operation, UpstreamCall, UpstreamChannel } from '../../src/provider/provider.ts'
import { createProviders } from '../../src/provider/registry.ts'

const providers = createProviders({ azureApiVersion: '2025-04-01-preview' })

type Json = Record<string, unknown>

interface Row {
  readonly name: string
  readonly provider: number
  readonly operation?: Operation
  readonly protocol?: UpstreamCall['protocol']
  readonly model?: string
  readonly isStream?: boolean
  readonly query?: string
  readonly headers?: Record<string, string>
  readonly channel?: Partial<UpstreamChannel>
  readonly body?: Json
  readonly url: string
  readonly sent: Record<string, string>
  /** Undefined: the bytes are forwarded. */
  readonly patched?: Json
}

const MESSAGES = [{ role: 'user', content: 'Hi' }]
const MAY_2025 = Date.UTC(2025, 4, 10) / 1000

const TABLE: readonly Row[] = [
  {
    name: 'OpenAI: a plain call is forwarded',
    provider: 1,
    url: 'https://api.openai.com/v1/chat/completions',
    sent: { authorization: 'Bearer k' },
  },
  {
    name: 'OpenAI: the organisation is named',
    provider: 1,
    operation: 'embeddings',
    channel: { organization: 'org-1' },
    url: 'https://api.openai.com/v1/embeddings',
    sent: { authorization: 'Bearer k', 'openai-organization': 'org-1' },
  },
  {
    name: 'OpenAI: behind the gateway of Cloudflare the version prefix is in the base',
    provider: 1,
    channel: { baseUrl: 'https://gateway.ai.cloudflare.com/v1/acc/gw/openai' },
    url: 'https://gateway.ai.cloudflare.com/v1/acc/gw/openai/chat/completions',
    sent: { authorization: 'Bearer k' },
  },
  {
    name: 'OpenAI: an effort at the end of a reasoning model is a setting',
    provider: 1,
    model: 'gpt-5-high',
    url: 'https://api.openai.com/v1/chat/completions',
    sent: { authorization: 'Bearer k' },
    patched: { model: 'gpt-5', messages: MESSAGES, reasoning_effort: 'high' },
  },
  {
    name: 'OpenAI: reasoning models have another name for the limit',
    provider: 1,
    model: 'o3',
    body: { max_tokens: 5, temperature: 0.5 },
    url: 'https://api.openai.com/v1/chat/completions',
    sent: { authorization: 'Bearer k' },
    patched: { model: 'o3', messages: MESSAGES, max_completion_tokens: 5, temperature: 0.5 },
  },
  {
    name: 'OpenAI: other models that end in an effort keep their name',
    provider: 1,
    model: 'my-model-high',
    body: { max_tokens: 5 },
    url: 'https://api.openai.com/v1/chat/completions',
    sent: { authorization: 'Bearer k' },
  },
  {
    name: 'Azure: deployment, default version, api-key',
    provider: 3,
    model: 'gpt-4.1',
    channel: { baseUrl: 'https://x.openai.azure.com', createdAtSec: MAY_2025 },
    url: 'https://x.openai.azure.com/openai/deployments/gpt-4.1/chat/completions?api-version=2025-04-01-preview',
    sent: { 'api-key': 'k' },
  },
  {
    name: 'Azure: dots are dropped for channels of old; the channel names the version',
    provider: 3,
    model: 'gpt-3.5-turbo',
    operation: 'embeddings',
    channel: { baseUrl: 'https://x.openai.azure.com', createdAtSec: MAY_2025 - 1, other: '2024-06-01' },
    url: 'https://x.openai.azure.com/openai/deployments/gpt-35-turbo/embeddings?api-version=2024-06-01',
    sent: { 'api-key': 'k' },
  },
  {
    name: 'Azure: the client names the version; the deployment is the model without its effort',
    provider: 3,
    model: 'o4-mini-low',
    query: 'api-version=2024-10-21',
    channel: { baseUrl: 'https://x.openai.azure.com', createdAtSec: MAY_2025, other: '2024-06-01' },
    url: 'https://x.openai.azure.com/openai/deployments/o4-mini/chat/completions?api-version=2024-10-21',
    sent: { 'api-key': 'k' },
    patched: { model: 'o4-mini', messages: MESSAGES, reasoning_effort: 'low' },
  },
  {
    name: 'Azure: behind the gateway of Cloudflare the path begins with the deployment',
    provider: 3,
    model: 'gpt-4o',
    channel: { baseUrl: 'https://gateway.ai.cloudflare.com/v1/a/g/azure-openai/r', createdAtSec: MAY_2025 },
    url: 'https://gateway.ai.cloudflare.com/v1/a/g/azure-openai/r/gpt-4o/chat/completions?api-version=2025-04-01-preview',
    sent: { 'api-key': 'k' },
  },
  {
    name: 'Anthropic: own key header and the version when the client names none',
    provider: 14,
    protocol: 'claude',
    model: 'claude-sonnet-4-5',
    url: 'https://api.anthropic.com/v1/messages',
    sent: { 'x-api-key': 'k', 'anthropic-version': '2023-06-01' },
  },
  {
    name: 'Anthropic: version and beta of the client; the beta query of the client',
    provider: 14,
    protocol: 'claude',
    model: 'claude-sonnet-4-5',
    query: 'beta=true',
    headers: { 'anthropic-version': '2024-01-01', 'anthropic-beta': 'a,b', 'x-api-key': 'sk-client' },
    url: 'https://api.anthropic.com/v1/messages?beta=true',
    sent: { 'x-api-key': 'k', 'anthropic-version': '2024-01-01', 'anthropic-beta': 'a,b' },
  },
  {
    name: 'Anthropic: counting tokens; the beta query of the channel',
    provider: 14,
    operation: 'count-tokens',
    protocol: 'claude',
    model: 'claude-sonnet-4-5',
    channel: { settings: { claude_beta_query: true } },
    url: 'https://api.anthropic.com/v1/messages/count_tokens?beta=true',
    sent: { 'x-api-key': 'k', 'anthropic-version': '2023-06-01' },
  },
  {
    name: 'Anthropic: -thinking gives a budget below the limit',
    provider: 14,
    protocol: 'claude',
    model: 'claude-sonnet-4-5-thinking',
    body: { max_tokens: 4000, top_p: 0.5, temperature: 0.2 },
    url: 'https://api.anthropic.com/v1/messages',
    sent: { 'x-api-key': 'k', 'anthropic-version': '2023-06-01' },
    patched: {
      model: 'claude-sonnet-4-5',
      messages: MESSAGES,
      max_tokens: 4000,
      temperature: 1,
      thinking: { type: 'enabled', budget_tokens: 3200 },
    },
  },
  {
    name: 'Anthropic: -thinking raises a limit that leaves no room',
    provider: 14,
    protocol: 'claude',
    model: 'claude-sonnet-4-5-thinking',
    body: { max_tokens: 100 },
    url: 'https://api.anthropic.com/v1/messages',
    sent: { 'x-api-key': 'k', 'anthropic-version': '2023-06-01' },
    patched: {
      model: 'claude-sonnet-4-5',
      messages: MESSAGES,
      max_tokens: 1280,
      temperature: 1,
      thinking: { type: 'enabled', budget_tokens: 1024 },
    },
  },
  {
    name: 'Anthropic: an effort on the first adaptive model',
    provider: 14,
    protocol: 'claude',
    model: 'claude-opus-4-6-max',
    body: { max_tokens: 100, top_p: 0.5 },
    url: 'https://api.anthropic.com/v1/messages',
    sent: { 'x-api-key': 'k', 'anthropic-version': '2023-06-01' },
    patched: {
      model: 'claude-opus-4-6',
      messages: MESSAGES,
      max_tokens: 100,
      temperature: 1,
      thinking: { type: 'adaptive' },
      output_config: { effort: 'max' },
    },
  },
  {
    name: 'Anthropic: models that only think adaptively take no sampling, and show a summary',
    provider: 14,
    protocol: 'claude',
    model: 'claude-opus-4-8-thinking',
    body: { max_tokens: 100, temperature: 0.3, top_k: 3, top_p: 0.5 },
    url: 'https://api.anthropic.com/v1/messages',
    sent: { 'x-api-key': 'k', 'anthropic-version': '2023-06-01' },
    patched: {
      model: 'claude-opus-4-8',
      messages: MESSAGES,
      max_tokens: 100,
      thinking: { type: 'adaptive', display: 'summarized' },
      output_config: { effort: 'high' },
    },
  },
  {
    name: 'DeepSeek: chat',
    provider: 43,
    url: 'https://api.deepseek.com/v1/chat/completions',
    sent: { authorization: 'Bearer k' },
  },
  {
    name: 'DeepSeek: the dialect of Claude has a path of its own',
    provider: 43,
    protocol: 'claude',
    model: 'deepseek-chat',
    url: 'https://api.deepseek.com/anthropic/v1/messages',
    sent: { authorization: 'Bearer k' },
  },
  {
    name: 'DeepSeek: completions fill in the middle on the beta path',
    provider: 43,
    operation: 'completions',
    url: 'https://api.deepseek.com/beta/completions',
    sent: { authorization: 'Bearer k' },
  },
  {
    name: 'DeepSeek: -none switches thinking off',
    provider: 43,
    model: 'deepseek-v4-flash-none',
    url: 'https://api.deepseek.com/v1/chat/completions',
    sent: { authorization: 'Bearer k' },
    patched: { model: 'deepseek-v4-flash', messages: MESSAGES, thinking: { type: 'disabled' } },
  },
  {
    name: 'DeepSeek: -max in the dialect of Claude',
    provider: 43,
    protocol: 'claude',
    model: 'deepseek-v4-pro-max',
    url: 'https://api.deepseek.com/anthropic/v1/messages',
    sent: { authorization: 'Bearer k' },
    patched: {
      model: 'deepseek-v4-pro',
      messages: MESSAGES,
      thinking: { type: 'enabled' },
      output_config: { effort: 'max' },
    },
  },
  {
    name: 'OpenRouter: a plain call, an effort included, is forwarded under our name',
    provider: 20,
    model: 'openai/gpt-5',
    body: { reasoning_effort: 'low' },
    url: 'https://openrouter.ai/api/v1/chat/completions',
    sent: { authorization: 'Bearer k', 'x-title': 'Headgate' },
  },
  {
    name: 'OpenRouter: -thinking becomes its own word for it',
    provider: 20,
    model: 'anthropic/claude-sonnet-4-thinking',
    body: { reasoning_effort: 'low' },
    url: 'https://openrouter.ai/api/v1/chat/completions',
    sent: { authorization: 'Bearer k', 'x-title': 'Headgate' },
    patched: {
      model: 'anthropic/claude-sonnet-4',
      messages: MESSAGES,
      reasoning: { enabled: true, effort: 'low' },
    },
  },
  {
    name: 'OpenRouter: a model whose name ends in -thinking keeps it',
    provider: 20,
    model: 'moonshotai/kimi-k2-thinking',
    url: 'https://openrouter.ai/api/v1/chat/completions',
    sent: { authorization: 'Bearer k', 'x-title': 'Headgate' },
  },
  {
    name: 'OpenRouter: a thinking budget for Claude models',
    provider: 20,
    model: 'anthropic/claude-sonnet-4',
    body: { thinking: { type: 'enabled', budget_tokens: 2000 } },
    url: 'https://openrouter.ai/api/v1/chat/completions',
    sent: { authorization: 'Bearer k', 'x-title': 'Headgate' },
    patched: { model: 'anthropic/claude-sonnet-4', messages: MESSAGES, reasoning: { max_tokens: 2000 } },
  },
  {
    name: 'Custom: the base URL is the whole URL',
    provider: 8,
    channel: { baseUrl: 'https://h/x/chat' },
    url: 'https://h/x/chat',
    sent: { authorization: 'Bearer k' },
  },
  {
    name: 'Custom: the model stands in the URL where the operator put it',
    provider: 8,
    model: 'a b',
    channel: { baseUrl: 'https://h/{model}/chat' },
    url: 'https://h/a%20b/chat',
    sent: { authorization: 'Bearer k' },
  },
  {
    name: 'a plain compatible one without a key sends none',
    provider: 47,
    channel: { baseUrl: 'http://h:9997', key: '' },
    url: 'http://h:9997/v1/chat/completions',
    sent: {},
  },
  ...[6, 7, 9, 10, 12, 13, 19, 22, 31].map((provider) => ({
    name: `plain compatible ${provider}: base and path`,
    provider,
    operation: 'completions' as const,
    url: `${providers.find(provider)?.baseUrl}/v1/completions`,
    sent: { authorization: 'Bearer k' },
  })),
]

const build = async (row: Row) => {
  const provider = providers.find(row.provider)
  if (!provider) throw new Error(`no provider ${row.provider}`)
  const { operation = 'chat', protocol = 'openai-chat', model = 'gpt-4o' } = row
  const json: Json = { model, messages: MESSAGES, ...row.body }
  const channel: UpstreamChannel = {
    id: 1,
    baseUrl: provider.baseUrl,
    key: 'k',
    other: '',
    organization: '',
    createdAtSec: MAY_2025,
    settings: {},
    ...row.channel,
  }
  const call: UpstreamCall = {
    operation,
    protocol,
    model,
    isStream: row.isStream ?? false,
    query: new URLSearchParams(row.query),
    clientHeaders: new Headers(row.headers),
    json,
  }
  const path = provider.speaks[operation]?.[protocol]
  if (path === undefined) throw new Error('not offered')
  const headers = new Headers()
  await provider.auth(headers, channel, call)
  const isPatched = provider.patch !== undefined && (provider.needsPatch?.(call) ?? true)
  const before = structuredClone(json)
  const patched = isPatched ? provider.patch?.(json, call, channel) : undefined
  expect(json).toEqual(before)
  return {
    url: provider.url?.(path, call, channel) ?? channel.baseUrl + path,
    sent: Object.fromEntries(headers),
    patched,
  }
}

describe('a call becomes this upstream request', () => {
  for (const row of TABLE) {
    test(row.name, async () => {
      const { url, sent, patched } = await build(row)
      expect(url).toBe(row.url)
      expect(sent).toEqual(row.sent)
      expect(patched).toEqual(row.patched as Json)
    })
  }
})

describe('the registry', () => {
  test('ids are those that databases store, each once', () => {
    expect(providers.list.map(({ id }) => id)).toEqual([0, 1, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 19, 20, 22, 31, 43, 47])
  })
  test('an unknown id is no provider', () => {
    expect(providers.find(9999)).toBeUndefined()
  })
  test('settings about Claude models are read at each call', async () => {
    let isThinkingSwitch = false
    const { find } = createProviders({
      azureApiVersion: 'v',
      claude: () => ({
        isThinkingSwitch,
        thinkingShare: 0.5,
        plainThinkingNames: [],
        headers: { m: { 'Anthropic-Beta': ['x', 'y'] } },
      }),
    })
    const anthropic = find(14)
    const call = { model: 'claude-a-thinking', operation: 'chat', json: {} } as UpstreamCall
    expect(anthropic?.needsPatch?.(call)).toBe(false)
    isThinkingSwitch = true
    expect(anthropic?.needsPatch?.(call)).toBe(true)
    const headers = new Map<string, string>()
    const clientHeaders = new Headers({ 'anthropic-beta': 'y, z' })
    await anthropic?.auth(headers, { key: 'k' } as UpstreamChannel, { model: 'm', clientHeaders } as UpstreamCall)
    expect(Object.fromEntries(headers)).toEqual({
      'x-api-key': 'k',
      'anthropic-version': '2023-06-01',
      'anthropic-beta': 'y,z,x',
    })
  })
})

describe('answers', () => {
  test('OpenRouter: enterprise answers are unwrapped, others are the same object', () => {
    const openrouter = providers.find(20)
    const channel = { settings: { openrouter_enterprise: true } } as unknown as UpstreamChannel
    const call = {} as UpstreamCall
    expect(openrouter?.unwrap?.({ success: true, data: { id: 1 } }, call, channel)).toEqual({ id: 1 })
    const plain = { id: 2, data: [] }
    expect(openrouter?.unwrap?.(plain, call, { settings: {} } as UpstreamChannel)).toBe(plain)
  })
})
