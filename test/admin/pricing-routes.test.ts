import { describe, expect, test } from 'bun:test'
import { pricingRoutes } from '../../src/admin/pricing-routes.ts'
import { createPrices } from '../../src/domain/billing/prices.ts'
import type { ModelCatalog } from '../../src/domain/usage/index.ts'
import { optionsOf } from '../domain/unit/options-of.ts'
import { asPeople } from './as-people.ts'

const SERVED: Readonly<Record<string, readonly string[]>> = {
  default: ['gpt-4o', 'text-embedding-3-small', 'mystery-1'],
  vip: ['gpt-4o', 'dall-e-3'],
  hidden: ['o1'],
}
const catalog: ModelCatalog = {
  load: async () => ({
    vendors: [{ id: 1, name: 'OpenAI', icon: 'OpenAI' }],
    describe: (model) =>
      model === 'gpt-4o'
        ? { description: 'Omni', icon: '', tags: 'chat', vendorId: 1, endpoints: undefined }
        : undefined,
  }),
  byChannelType: async () => new Map([[1, ['gpt-4o']]]),
}

/** Prices and groups at these options; the channels above. */
function peopleAt(texts: Readonly<Record<string, string>> = {}) {
  const options = optionsOf({
    GroupRatio: '{"default":1,"vip":2,"hidden":3}',
    UserUsableGroups: '{"default":"Standard","gone":"Gone"}',
    ...texts,
  })
  return asPeople((http) => [
    pricingRoutes({
      options,
      prices: createPrices(options),
      channels: { models: (groups) => [...new Set(groups.flatMap((group) => SERVED[group] ?? []))].sort() },
      catalog,
      channelTypes: [1, 14],
      http,
    }),
  ])
}

describe('groups and models', () => {
  const { ask } = peopleAt({ AutoGroups: '["vip","default"]' })
  const data = async (person: string, path: string) => (await ask(person, 'GET', path)).json.data

  test('administrators see all groups, users do not', async () => {
    expect(await data('admin', '/api/group/')).toEqual(['default', 'vip', 'hidden'])
    expect(await data('admin', '/api/group')).toEqual(['default', 'vip', 'hidden'])
    expect((await ask('alice', 'GET', '/api/group/')).status).toBe(403)
  })

  test('a user sees the groups open to all and the own one, a visitor those open to all', async () => {
    expect(await data('alice', '/api/user/self/groups')).toEqual({
      default: { ratio: 1, desc: 'Standard' },
      vip: { ratio: 2, desc: 'vip' },
    })
    expect(await data('', '/api/user/groups')).toEqual({ default: { ratio: 1, desc: 'Standard' } })
  })

  test('the group that picks another has a word for its ratio', async () => {
    const { ask: askAuto } = peopleAt({ UserUsableGroups: '{"default":"D","auto":"Automatic"}' })
    expect((await askAuto('alice', 'GET', '/api/user/self/groups')).json.data).toMatchObject({
      auto: { ratio: '自动', desc: 'Automatic' },
    })
  })

  test('models of one’s groups, of one group, of the automatic ones, of no other group', async () => {
    expect(await data('alice', '/api/user/models')).toEqual([
      'dall-e-3',
      'gpt-4o',
      'mystery-1',
      'text-embedding-3-small',
    ])
    expect(await data('alice', '/api/user/models?group=vip')).toEqual(['dall-e-3', 'gpt-4o'])
    expect(await data('admin', '/api/user/models?group=auto')).toEqual([
      'gpt-4o',
      'mystery-1',
      'text-embedding-3-small',
    ])
    expect(await data('alice', '/api/user/models?group=hidden')).toEqual([])
  })

  test('models by kind of channel', async () => {
    expect(await data('alice', '/api/models')).toEqual({ 1: ['gpt-4o'], 14: [] })
  })
})

describe('price list', () => {
  test('has the priced models of the caller’s groups, with their prices and groups', async () => {
    const { json } = await peopleAt().ask('alice', 'GET', '/api/pricing')
    expect(json).not.toHaveProperty('message')
    expect(json).toMatchObject({
      success: true,
      vendors: [{ id: 1, name: 'OpenAI', icon: 'OpenAI' }],
      group_ratio: { default: 1, vip: 2 },
      usable_group: { default: 'Standard', vip: 'vip' },
      auto_groups: ['default'],
    })
    expect(json.data).toEqual([
      {
        model_name: 'gpt-4o',
        description: 'Omni',
        tags: 'chat',
        vendor_id: 1,
        quota_type: 0,
        model_ratio: 1.25,
        model_price: 0,
        owner_by: '',
        completion_ratio: 4,
        cache_ratio: 0.5,
        create_cache_ratio: 1.25,
        enable_groups: ['default', 'vip'],
        supported_endpoint_types: ['openai', 'anthropic'],
      },
      {
        model_name: 'text-embedding-3-small',
        quota_type: 0,
        model_ratio: 0.01,
        model_price: 0,
        owner_by: '',
        completion_ratio: 1,
        cache_ratio: 1,
        create_cache_ratio: 1.25,
        enable_groups: ['default'],
        supported_endpoint_types: ['embeddings'],
      },
      {
        model_name: 'dall-e-3',
        quota_type: 1,
        model_ratio: 0,
        model_price: 0.04,
        owner_by: '',
        completion_ratio: 0,
        enable_groups: ['vip'],
        supported_endpoint_types: ['openai', 'anthropic'],
      },
    ])
    expect(json['supported_endpoint']).toMatchObject({ openai: { path: '/v1/chat/completions', method: 'POST' } })
  })

  test('a visitor sees what is open to all', async () => {
    const { json } = await peopleAt().ask('', 'GET', '/api/pricing')
    expect((json.data as { model_name: string }[]).map(({ model_name }) => model_name)).toEqual([
      'gpt-4o',
      'text-embedding-3-small',
    ])
  })

  test('the top menu can switch it off, or ask for a log-in', async () => {
    const off = peopleAt({ HeaderNavModules: '{"pricing":{"enabled":false}}' })
    expect((await off.ask('alice', 'GET', '/api/pricing')).status).toBe(403)
    expect((await peopleAt({ HeaderNavModules: '{"pricing":false}' }).ask('', 'GET', '/api/pricing')).status).toBe(403)
    const login = peopleAt({ HeaderNavModules: '{"pricing":{"enabled":true,"requireAuth":true}}' })
    expect((await login.ask('', 'GET', '/api/pricing')).status).toBe(401)
    expect((await login.ask('alice', 'GET', '/api/pricing')).status).toBe(200)
    expect((await peopleAt({ HeaderNavModules: '{"pricing":true}' }).ask('', 'GET', '/api/pricing')).status).toBe(200)
  })

  test('all ratios are shown only where the operator shows them', async () => {
    expect((await peopleAt().ask('', 'GET', '/api/ratio_config')).status).toBe(403)
    const { json } = await peopleAt({ ExposeRatioEnabled: 'true' }).ask('', 'GET', '/api/ratio_config')
    expect(json.data).toMatchObject({
      model_ratio: { 'gpt-4o': 1.25 },
      completion_ratio: { 'gpt-image-1': 8 },
      cache_ratio: { 'gpt-4o': 0.5 },
      create_cache_ratio: { 'claude-sonnet-4-5': 1.25 },
      model_price: { 'dall-e-3': 0.04 },
    })
  })
})
