/** The module on a real database: what a node has, without its HTTP. */

import { type Db, readTopicVersions } from '../../../src/db/index.ts'
import { type ChannelsDeps, createChannels } from '../../../src/domain/channels/index.ts'
import { createOptions } from '../../../src/domain/options/index.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { EMPTY_RING } from '../../../src/lib/sealed-text.ts'
import { createMemoryState, createTopics, type State } from '../../../src/state/index.ts'
import { providers, seeded } from './support.ts'

export type Node = Awaited<ReturnType<typeof startNode>>

/** One node; two of them on one database share nothing but it. */
export const startNode = async (
  db: Db,
  log = silentLog,
  keyring = EMPTY_RING,
  more: { readonly state?: State; readonly alert?: ChannelsDeps['alert'] } = {},
) => {
  const state = more.state ?? createMemoryState({ clock: systemClock, log })
  const topics = createTopics({
    state,
    readVersions: () => readTopicVersions(db),
    everyMs: 20,
    fullReloadMs: 3_600_000,
    log,
    clock: systemClock,
  })
  const options = createOptions({ db, topics, log, clock: systemClock })
  const channels = createChannels({
    db,
    topics,
    bus: state,
    options,
    providers,
    keyring,
    log,
    clock: systemClock,
    random: seeded(),
    fetch: (url, init) => fetch(url, init),
    ...(more.alert && { alert: more.alert }),
  })
  await options.ready()
  await channels.ready()
  topics.start()
  const stop = async (): Promise<void> => {
    await topics.stop()
    await channels.idle()
    channels.close()
    options.close()
    await state.close()
  }
  return { db, channels, options, topics, state, stop }
}

/** Ids of those that would be tried first for a model. */
export const servedBy = ({ channels }: Pick<Node, 'channels'>, model: string, group = 'default'): readonly number[] => {
  const candidates = channels.candidates({ model, group })
  const tried = new Set<number>()
  for (;;) {
    const next = candidates.next(0, tried)
    if (!next) return [...tried].sort((a, b) => a - b)
    tried.add(next.id)
  }
}
