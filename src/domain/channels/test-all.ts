/**
 * Tests channels one by one: brings back what was disabled automatically, and has those disabled that are too slow. Which
 * ones is an option. What a person disabled is never tested.
 */
import { asc, eq } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Log } from '../../lib/log.ts'
import type { Options } from '../options/index.ts'
import { CHANNEL_STATUS, type Channel } from './channel.ts'
import type { Channels } from './channels.ts'

/** How far it is; kept with the task. */
export interface TestProgress {
  /** Ids rise: those up to this one are done. */
  readonly last_channel_id: number
  readonly total: number
  readonly tested: number
  readonly failed: number
  readonly enabled: number
}

/**
 * @param from of a run that was cut short
 * @returns the last progress
 * @throws what `signal` was aborted with, and DbError
 */
export type TestChannels = (run: {
  readonly from?: TestProgress | undefined
  readonly signal: AbortSignal
  readonly progress: (state: TestProgress) => Promise<void>
}) => Promise<TestProgress>

const NOTHING: TestProgress = { last_channel_id: 0, total: 0, tested: 0, failed: 0, enabled: 0 }
/** A channel that does not answer holds the others up for this long, or ten thresholds. */
const LONGEST_MS = 60_000

export function createTestChannels(deps: {
  readonly db: Db
  readonly channels: Pick<Channels, 'test' | 'find' | 'report' | 'idle'>
  readonly options: Pick<Options, 'get'>
  /** Between two channels. */
  readonly pauseMs: number
  readonly log: Log
}): TestChannels {
  const { db, channels, options, pauseMs, log } = deps

  /** The owner of the system, under whom tests are logged. */
  const root = async () => {
    const { users } = db.tables
    const [owner] = await db
      .select({ id: users.id, name: users.username })
      .from(users)
      .where(eq(users.role, ROOT))
      .orderBy(asc(users.id))
      .limit(1)
    return { id: owner?.id ?? 0, name: owner?.name ?? '' }
  }
  const wanted = async (): Promise<readonly Wanted[]> => {
    const { channels: table } = db.tables
    const rows = await db
      .select({ id: table.id, status: table.status, autoBan: table.autoBan })
      .from(table)
      .orderBy(asc(table.id))
    const mode = options.get('monitor_setting.channel_test_mode')
    return rows.filter(
      ({ id, status, autoBan }) =>
        status !== CHANNEL_STATUS.disabledByHand &&
        isTestable(channels.find(id)) &&
        (mode !== 'auto_ban_only' || (autoBan ?? 1) === 1) &&
        (mode !== 'passive_recovery' || status === CHANNEL_STATUS.disabledAutomatically),
    )
  }

  /** @returns whether it served in time */
  const testOne = async ({ id, status }: Wanted, user: Owner, signal: AbortSignal): Promise<boolean> => {
    const limitMs = thresholdMs(options)
    const longest = AbortSignal.timeout(Math.max(LONGEST_MS, 10 * limitMs))
    try {
      const { isOk, message, ms } = await channels.test(id, {
        model: '',
        endpointType: '',
        isStream: false,
        user,
        signal: AbortSignal.any([signal, longest]),
      })
      const isSlow = (isOk || longest.aborted) && limitMs > 0 && ms > limitMs
      // What an upstream said of the account was heard on the way; time is judged here. One key says nothing of the others.
      const isJudged = isSlow && status === CHANNEL_STATUS.enabled && channels.find(id)?.multiKey === undefined
      if (isJudged && options.get('monitor_setting.channel_test_mode') !== 'passive_recovery')
        channels.report({ channelId: id, keyIndex: 0, error: new GatewayError('channel:response_time_exceeded') })
      if (!isOk) log.info('a channel failed its test', { channelId: id, reason: message })
      return isOk && !isSlow
    } catch (error) {
      if (signal.aborted) throw error
      // Gone since, or of a kind that this build does not know.
      log.info('a channel could not be tested', { channelId: id, error })
      return false
    }
  }

  return async ({ from, signal, progress }) => {
    const [all, user] = [await wanted(), await root()]
    let state: TestProgress = { ...(from ?? NOTHING), total: all.length }
    for (const channel of all.filter(({ id }) => id > state.last_channel_id)) {
      signal.throwIfAborted()
      const isGood = await testOne(channel, user, signal)
      signal.throwIfAborted()
      const isBack =
        channel.status === CHANNEL_STATUS.disabledAutomatically &&
        isGood &&
        options.get('AutomaticEnableChannelEnabled')
      state = {
        last_channel_id: channel.id,
        total: all.length,
        tested: state.tested + 1,
        failed: state.failed + (isGood ? 0 : 1),
        enabled: state.enabled + (isBack ? 1 : 0),
      }
      await progress(state)
      if (pauseMs > 0) await pause(pauseMs, signal)
    }
    await channels.idle()
    return state
  }
}

/** Kinds without a plain call, such as those that make videos, would make something that costs. */
const isTestable = (channel: Channel | undefined): boolean => {
  const speaks = channel?.provider.speaks
  return speaks?.chat !== undefined || speaks?.embeddings !== undefined
}

interface Wanted {
  readonly id: number
  readonly status: number | null
}
type Owner = { readonly id: number; readonly name: string }

const ROOT = 100

/** Longer than this a test has failed; 0: never. */
export const thresholdMs = (options: Pick<Options, 'get'>): number => options.get('ChannelDisableThreshold') * 1000

const pause = async (ms: number, signal: AbortSignal): Promise<void> => {
  const { promise, resolve } = Promise.withResolvers<void>()
  const end = (): void => resolve()
  const timer = setTimeout(end, ms)
  signal.addEventListener('abort', end)
  await promise
  clearTimeout(timer)
  signal.removeEventListener('abort', end)
}
