/** Channels as parsed rows, for tests that need no database. */
import { type Channel, type ChannelRow, parseChannel } from '../../../src/domain/channels/channel.ts'
import type { Provider } from '../../../src/provider/provider.ts'
import { createProviders } from '../../../src/provider/registry.ts'

export const providers = createProviders({ azureApiVersion: 'v' })

export const channelRow = (row: Partial<ChannelRow> = {}): ChannelRow => ({
  id: 1,
  type: 1,
  key: 'k',
  openAiOrganization: null,
  testModel: null,
  status: 1,
  name: 'a channel',
  weight: 0,
  createdTime: 0,
  baseUrl: '',
  other: null,
  models: 'm',
  group: 'default',
  modelMapping: null,
  statusCodeMapping: null,
  priority: 0,
  autoBan: 1,
  tag: null,
  setting: null,
  paramOverride: null,
  headerOverride: null,
  channelInfo: null,
  settings: null,
  ...row,
})

export const channel = (row: Partial<ChannelRow> = {}, warnings: string[] = []): Channel => {
  const full = channelRow(row)
  const provider = providers.find(full.type ?? 0) as Provider
  return parseChannel(full, provider, (column) => warnings.push(column))
}

export const multiKeyInfo = (mode: string, statuses: Record<string, number> | null = null, index = 0): string =>
  JSON.stringify({
    is_multi_key: true,
    multi_key_size: 3,
    multi_key_status_list: statuses,
    multi_key_polling_index: index,
    multi_key_mode: mode,
  })

/** Numbers in [0, 1) that are the same in every run (mulberry32). */
export const seeded = (seed = 1): (() => number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
