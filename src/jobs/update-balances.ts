/** Reads the balances of channels at their upstreams: on one master, so that each is asked once per period. */
import type { Channels } from '../domain/channels/index.ts'
import type { Job } from './job.ts'

/** @param minutes 0: never */
export const updateBalancesJob = (channels: Pick<Channels, 'updateBalances'>, minutes: number): Job => ({
  name: 'update-balances',
  everyMs: minutes * 60_000,
  on: 'master',
  timeoutMs: 3_600_000,
  run: (signal) => channels.updateBalances(signal),
})
