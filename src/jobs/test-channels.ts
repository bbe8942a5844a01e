/** Asks for a test of the channels when one is due; and what is done then, also when a person asks. */
import type { TestChannels, TestProgress } from '../domain/channels/index.ts'
import type { Options } from '../domain/options/index.ts'
import type { Job } from './job.ts'
import type { Task } from './task.ts'

export const CHANNEL_TEST = 'channel_test'

/**
 * @param request asks for the task; one that is live already is as good
 * @param everyMs 0 while channels are not tested regularly
 */
export const testChannelsJob = (request: () => Promise<unknown>, everyMs: () => number): Job => ({
  name: 'test-channels',
  everyMs,
  on: 'master',
  timeoutMs: 60_000,
  run: async () => void (await request()),
})

export const testChannelsTask = (test: TestChannels): Task => ({
  type: CHANNEL_TEST,
  isResumable: true,
  run: ({ state, progress, signal }) => test({ from: isProgress(state) ? state : undefined, progress, signal }),
})

/**
 * @param config `CHANNEL_TEST_FREQUENCY` in minutes, which turns the tests on; `CHANNEL_TEST_ENABLED`, which has the final say
 * @returns milliseconds between tests of all channels; 0: none
 */
export function testPeriodMs(
  config: { readonly channelTestMinutes: number; readonly channelTestWanted: string },
  options: Pick<Options, 'get'>,
): number {
  const isOn =
    config.channelTestWanted === ''
      ? config.channelTestMinutes > 0 || options.get('monitor_setting.auto_test_channel_enabled')
      : config.channelTestWanted === 'true' || config.channelTestWanted === '1'
  return isOn ? (config.channelTestMinutes || options.get('monitor_setting.auto_test_channel_minutes')) * 60_000 : 0
}

/** Read from the database: of a run of ours that was given back. */
const isProgress = (state: unknown): state is TestProgress =>
  typeof state === 'object' &&
  state !== null &&
  ['last_channel_id', 'total', 'tested', 'failed', 'enabled'].every((name) =>
    Number.isSafeInteger((state as Record<string, unknown>)[name]),
  )
