/**
 * Keeps what is in memory in step with the database: a change bumps its topic's version in the same transaction, then
 * tells the bus. A message is only a hint that saves time; the versions are read every fraction of a second, so a lost
 * message costs less than a second. A reload may look at what changed alone; a full one now and then catches edits made
 * behind our back.
 */
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import type { State } from './state.ts'

export interface Topics {
  /** Calls `reload` after each change of the topic, never twice at once. @returns a function that ends this */
  watch(topic: string, reload: Reload): () => void
  /** As `watch`, with a handle that can reload at once. */
  track(topic: string, reload: Reload): Tracked
  /** Call after the commit of a change: tells the others, and resolves when this process has reloaded (or failed to, logged). */
  changed(topic: string): Promise<void>
  /** What is in memory here, by topic: compared with the database's versions it is the lag. A topic without a load is absent. */
  versions(): Versions
  start(): void
  /** Ends the loops; resolves when a running reload is done. */
  stop(): Promise<void>
}

/** @param isFull load everything; else what changed, as the topic's changes tell, is enough */
type Reload = (isFull: boolean) => Promise<void>

export interface Tracked {
  /** Reloads everything now; what was committed before this call is in. Rejects if the reload fails. */
  refresh(): Promise<void>
  close(): void
}

type Versions = ReadonlyMap<string, number>

/** The bus topic that carries names of changed topics: `<sender> <topic>`. */
const CHANNEL = 'topics'

export function createTopics(deps: {
  readonly state: State
  /** Version per topic; a topic that never changed may be absent. One cheap query. */
  readonly readVersions: () => Promise<Versions>
  /** Runs a reload so that the versions and all it reads are of one moment; as they come if not given. */
  readonly together?: (work: () => Promise<void>) => Promise<void>
  readonly everyMs?: number
  readonly fullReloadMs: number
  readonly log: Log
  readonly clock: Clock
}): Topics {
  const { state, readVersions, together = (work) => work(), everyMs = 400, fullReloadMs, log, clock } = deps
  const sender = crypto.randomUUID()
  const watchers = new Set<Watcher>()
  const unsubscribe = state.subscribe(CHANNEL, (message) => {
    const [from, topic] = splitMessage(message)
    if (from !== sender) void refreshTopic(topic)
  })
  let timer: ReturnType<typeof setTimeout> | undefined
  let polling: Promise<void> = Promise.resolve()
  let isStopped = false
  let isFailing = false
  let fullAtMs = 0

  const refreshTopic = async (topic: string): Promise<void> => {
    const due = [...watchers].filter((watcher) => watcher.topic === topic)
    await Promise.all(due.map((watcher) => refreshLogged(watcher, false)))
  }
  const refreshLogged = async (watcher: Watcher, isFull: boolean): Promise<void> => {
    try {
      await watcher.refresh(isFull)
    } catch (error) {
      log.warn('a reload failed; the last good state stays', { topic: watcher.topic, error })
    }
  }

  const poll = async (): Promise<void> => {
    let versions: Versions
    try {
      versions = await readVersions()
    } catch (error) {
      // Said once per outage: the database's own log lines tell the rest.
      if (!isFailing) log.warn('the versions of topics cannot be read', { error })
      isFailing = true
      return
    }
    if (isFailing) log.info('the versions of topics can be read again')
    isFailing = false
    const isFull = clock.monotonic() >= fullAtMs
    if (isFull) fullAtMs = nextFullAt()
    const due = [...watchers].filter((watcher) => isFull || watcher.isBehind(versions))
    await Promise.all(due.map((watcher) => refreshLogged(watcher, isFull)))
  }
  // Up to a tenth sooner, so that nodes started together do not all reload at the same moment.
  const nextFullAt = (): number => clock.monotonic() + fullReloadMs * (0.9 + 0.1 * Math.random())
  const schedule = (): void => {
    if (isStopped) return
    timer = setTimeout(() => {
      polling = poll().finally(schedule)
    }, everyMs)
  }

  const track = (topic: string, reload: Reload): Tracked => {
    const watcher = createWatcher(topic, { reload, readVersions, together })
    watchers.add(watcher)
    return { refresh: () => watcher.refresh(true), close: () => void watchers.delete(watcher) }
  }

  return {
    track,
    watch: (topic, reload) => track(topic, reload).close,
    async changed(topic) {
      await Promise.all([state.publish(CHANNEL, `${sender} ${topic}`), refreshTopic(topic)])
    },
    versions() {
      const lowest = new Map<string, number>()
      for (const { topic, seen } of watchers) {
        const version = seen()
        if (version !== undefined) lowest.set(topic, Math.min(version, lowest.get(topic) ?? version))
      }
      return lowest
    },
    start() {
      fullAtMs = nextFullAt()
      schedule()
    },
    async stop() {
      isStopped = true
      clearTimeout(timer)
      unsubscribe()
      await polling
      await Promise.all([...watchers].map((watcher) => watcher.idle()))
    },
  }
}

interface Watcher {
  readonly topic: string
  refresh(isFull: boolean): Promise<void>
  isBehind(versions: Versions): boolean
  /** The version that is surely in memory. */
  seen(): number | undefined
  idle(): Promise<void>
}

/** One reload at a time; calls during a reload share the next one, which starts after them and so sees what they saw. */
function createWatcher(
  topic: string,
  deps: {
    readonly reload: Reload
    readonly readVersions: () => Promise<Versions>
    readonly together: (work: () => Promise<void>) => Promise<void>
  },
): Watcher {
  const { reload, readVersions, together } = deps
  let seen: number | undefined
  let running: Promise<void> | undefined
  let next: Promise<void> | undefined
  let isNextFull = false

  const once = (isFull: boolean): Promise<void> =>
    together(async () => {
      // Read before the reload: a change between the two is loaded, and looked at once more.
      const versions = await readVersions().catch(() => undefined)
      await reload(isFull)
      if (versions) seen = versions.get(topic) ?? 0
    })
  const begin = (isFull: boolean): Promise<void> => {
    running = once(isFull).finally(() => {
      running = undefined
    })
    return running
  }
  return {
    topic,
    isBehind: (versions) => (versions.get(topic) ?? 0) !== seen,
    seen: () => seen,
    refresh(isFull) {
      if (!running) return begin(isFull)
      isNextFull ||= isFull
      next ??= running
        .catch(() => undefined)
        .then(() => {
          const wasFull = isNextFull
          next = undefined
          isNextFull = false
          return begin(wasFull)
        })
      return next
    },
    async idle() {
      while (running || next) await (next ?? running)?.catch(() => undefined)
    },
  }
}

function splitMessage(message: string): readonly [sender: string, topic: string] {
  const space = message.indexOf(' ')
  return [message.slice(0, space), message.slice(space + 1)]
}
