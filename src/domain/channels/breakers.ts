/**
 * Keeps calls away from channels, and from single keys, whose attempts fail: open for a while, then half open for one call
 * at a time over the cluster, then closed. Calls read and write memory alone. Changes of a state go through the database,
 * so that each happens once and reaches nodes that share nothing else; counts of outcomes go over the bus.
 */
import type { Db } from '../../db/index.ts'
import type { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { createLoop, type Loop } from '../../lib/loop.ts'
import type { State, Topics } from '../../state/index.ts'
import type { Alerts } from '../notify/index.ts'
import type { Options } from '../options/index.ts'
import { BREAKER_TOPIC, createBreakerRows, type Known } from './breaker-rows.ts'
import { CHANNEL_STATUS, type Channel } from './channel.ts'
import { createUsableKeys, type KeyGate } from './key-choice.ts'
import { dutyOf, newPermit, PERMIT_MS } from './probe.ts'
import { createSubjects, type Subject } from './subjects.ts'
import { type Verdict, verdictOn } from './verdict.ts'

/** The end of an attempt, or its first byte. */
export interface Outcome {
  readonly channelId: number
  readonly keyIndex: number
  /** Absent: the upstream served. */
  readonly error?: GatewayError | undefined
  /** When the attempt began, on the monotonic clock; now if absent. */
  readonly startedAtMs?: number | undefined
  /** The answer has begun: enough for a channel that was tried out, not for one that is counted. */
  readonly isUnderWay?: boolean
}

/** What the choice of a channel asks. */
export interface ChannelGate {
  /** Nothing cools down: there is nothing to ask. */
  isQuiet(): boolean
  /** Ids of channels that cool down, or a key of which does; one may come several times. */
  cooling(): Iterable<number>
  isCooling(channel: Channel): boolean
  /** For the channel in turn: may a call go there now? A probe is handed over with it. */
  enter(channel: Channel): boolean
  /** The call that entered does not start. */
  leave(channel: Channel): void
  /** Until when the channel cools down, on the monotonic clock. */
  untilMs(channel: Channel): number
}

export type Alert = Alerts['raise']

export interface Breakers extends ChannelGate, KeyGate {
  /** Loads what the other nodes know. */
  ready(): Promise<void>
  report(outcome: Outcome): void
  /** An attempt at the channel starts. */
  start(channelId: number): void
  /** Resolves when what was decided here is written, or could not be. */
  idle(): Promise<void>
  /** Channels whose health is kept in memory. */
  size(): number
  close(): void
}

/** The bus topic of counts: `{ from, counts: [subject, version, good, bad][] }`. */
const COUNTS = 'channel-outcomes'
const SHARE_MS = 250
/** Between two requests for a permit. */
const ASK_MS = 250
/** Nobody has tried for so long that a crowd at the door is not to be feared. */
const STALE_MS = 120_000
const LEAST_WAIT_MS = 1_000
/** Where some attempts serve, it takes so many times the failures: of few outcomes half fail easily when a third does in the long run. */
const MIXED = 3
const MOST_LEVEL = 20

export function createBreakers(deps: {
  readonly db: Db
  readonly topics: Pick<Topics, 'track' | 'changed'>
  readonly bus: Pick<State, 'publish' | 'subscribe'>
  readonly options: Pick<Options, 'get'>
  readonly find: (id: number) => Channel | undefined
  readonly alert: Alert
  readonly log: Log
  readonly clock: Clock
}): Breakers {
  const { db, topics, bus, options, find, alert, log, clock } = deps
  const self = crypto.randomUUID()
  const rows = createBreakerRows({ db, clock, holder: self })
  const usableKeys = createUsableKeys()
  const subjects = createSubjects()
  /** Those whose counts the others must know: one of their attempts failed. */
  const suspects = new Set<Subject>()
  const queue: { readonly subject: Subject; readonly work: () => Promise<void> }[] = []
  let writing: Promise<void> | undefined
  const asking = new Set<Promise<void>>()
  let caring: Promise<void> | undefined
  const opened = new Set<Subject>()
  let loop: Loop | undefined
  let isFailing = false
  let isClosed = false

  const isOn = (): boolean => options.get('channel_health_setting.enabled')
  const windowMs = (): number => Math.max(10, options.get('channel_health_setting.window_seconds') * 1000)
  const leastMs = (): number => options.get('channel_health_setting.cool_down_seconds') * 1000
  const mostMs = (): number => Math.max(leastMs(), options.get('channel_health_setting.max_cool_down_seconds') * 1000)
  const coolDownMs = (level: number): number => Math.min(leastMs() * 2 ** Math.min(level, MOST_LEVEL), mostMs())
  const calmMs = (level: number): number => Math.max(windowMs(), 2 * coolDownMs(level))

  // States

  const setOpen = (subject: Subject, isOpen: boolean): void => {
    if (isOpen) opened.add(subject)
    else opened.delete(subject)
    subject.isOpen = isOpen
    subject.permit = undefined
    forget(subject)
    if (isOpen) wakeLoop()
  }
  const forget = (subject: Subject): void => {
    subject.outcomes.clear()
    suspects.delete(subject)
  }

  /** What the database says goes before what was thought here, unless that is on its way there. */
  const adopt = (known: ReadonlyMap<string, Known>): void => {
    for (const [name, row] of known) if (row.isOpen) subjects.named(name)
    for (const subject of subjects.all()) {
      if (subject.pending > 0) continue
      const row = known.get(subject.name)
      const version = row?.version ?? 0
      const isOpen = row?.isOpen ?? false
      if (version !== subject.version || isOpen !== subject.isOpen) setOpen(subject, isOpen)
      // A channel that begins anew does so with all its keys.
      if (version !== subject.version && subject.keyIndex === undefined)
        for (const key of subjects.channel(subject.channelId)?.keys.values() ?? []) if (!key.isOpen) forget(key)
      subject.version = version
      subject.level = row?.level ?? 0
      if (!subject.permit) subject.untilMs = row?.untilMs ?? 0
    }
    // Channels and keys that were deleted leave nothing behind, however many come and go.
    for (const gone of subjects.drop((channelId, keyIndex) => !isThere(channelId, keyIndex))) suspects.delete(gone)
  }
  const isThere = (channelId: number, keyIndex: number | undefined): boolean => {
    const channel = find(channelId)
    return keyIndex === undefined
      ? channel !== undefined
      : channel?.multiKey !== undefined && keyIndex < channel.keys.length
  }
  const tracked = topics.track(BREAKER_TOPIC, async () => adopt(await rows.read()))

  /** Behind the calls, one after the other; a database that is away leaves this process to what it sees itself. */
  const write = (subject: Subject, work: () => Promise<void>): void => {
    subject.pending++
    queue.push({ subject, work })
    writing ??= writeAll().finally(() => {
      writing = undefined
    })
  }
  const writeAll = async (): Promise<void> => {
    while (queue.length > 0) {
      let isAway = false
      for (const { subject, work } of queue.splice(0)) {
        try {
          // What a database that is away does not hear of is decided anew when it is back.
          if (!isAway) await work()
          if (!isAway) noteDatabase()
        } catch (error) {
          isAway = true
          noteDatabase(error)
        } finally {
          subject.pending--
        }
      }
      if (!isClosed) await topics.changed(BREAKER_TOPIC)
    }
  }
  const noteDatabase = (error?: unknown): void => {
    if (error !== undefined && !isFailing)
      log.warn('the health of channels is not shared: the database is away', { error })
    isFailing = error !== undefined
  }

  const open = (
    subject: Subject,
    why: { readonly isReopening: boolean; readonly waitMs: number; readonly isAsked: boolean },
  ): void => {
    const { isReopening, waitMs, isAsked } = why
    const { name, channelId, version } = subject
    const askedMs = Math.min(waitMs, Math.max(mostMs(), LEAST_WAIT_MS))
    const forMs = (level: number): number => Math.max(isAsked ? LEAST_WAIT_MS : coolDownMs(level), askedMs)
    setOpen(subject, true)
    subject.untilMs = clock.monotonic() + forMs(isReopening ? subject.level + 1 : 0)
    write(subject, async () => {
      const level = await rows.open({
        subject: name,
        channelId,
        version,
        isReopening,
        coolDownMs: forMs,
        calmMs,
        keepsLevel: isAsked,
      })
      if (level !== undefined) tell(subject, level, forMs(level), why)
    })
  }
  /** Said by the process that made the change, so once over the cluster. */
  const tell = (
    subject: Subject,
    level: number,
    forMs: number,
    why: { isReopening: boolean; isAsked: boolean },
  ): void => {
    const { channelId, keyIndex } = subject
    const channelName = find(channelId)?.name ?? ''
    const facts = { channelId, name: channelName, keyIndex, forMs: Math.round(forMs), inARow: level + 1 }
    if (why.isAsked) {
      log.info('a channel asked to be left alone for a while', facts)
      return
    }
    if (why.isReopening || level > 0) {
      log.info('a channel still fails and is left alone for longer', facts)
      return
    }
    log.warn('a channel fails and is left alone for a while', facts)
    const part = keyIndex === undefined ? '' : `, key ${keyIndex}`
    alert({
      kind: 'channel-disabled',
      key: `channel:${subject.name}:cooling`,
      text: `Channel ${channelId} (${channelName}${part}) fails and is left alone for ${Math.ceil(forMs / 1000)} s or until it works again`,
    })
  }
  const shut = (subject: Subject): void => {
    const { name, channelId, keyIndex, version } = subject
    setOpen(subject, false)
    write(subject, async () => {
      if (await rows.close(name, version)) log.info('a channel works again', { channelId, keyIndex })
    })
  }

  // Outcomes

  const note = (subject: Subject, channel: Channel, outcome: Outcome, verdict: Verdict): void => {
    const nowMs = clock.monotonic()
    const retryAfterMs = outcome.error?.upstream?.status === 429 ? (outcome.error.retryAfterSec ?? 0) * 1000 : 0
    if (subject.isOpen) {
      noteOpen(subject, outcome.startedAtMs ?? nowMs, verdict, retryAfterMs)
      return
    }
    if (outcome.isUnderWay || verdict === 'neither') return
    subject.outcomes.add(verdict === 'good', nowMs, windowMs())
    if (verdict === 'good') return
    suspects.add(subject)
    wakeLoop()
    // Where there are several keys it is the key that was refused.
    const isAsked = retryAfterMs > 0 && (subject.keyIndex !== undefined || !channel.multiKey)
    judge(subject, channel, nowMs, retryAfterMs)
    if (isAsked && !subject.isOpen) open(subject, { isReopening: false, waitMs: retryAfterMs, isAsked })
  }
  /** Only what was tried after the cool-down says how things are; the rest had left before, or had no other way to go. */
  const noteOpen = (subject: Subject, startedAtMs: number, verdict: Verdict, retryAfterMs: number): void => {
    if (startedAtMs < subject.untilMs) return
    if (verdict === 'good') shut(subject)
    else if (verdict === 'bad') open(subject, { isReopening: true, waitMs: retryAfterMs, isAsked: false })
    else if (subject.permit) Object.assign(subject.permit, { state: 'free', sinceMs: clock.monotonic() })
  }
  const judge = (subject: Subject, channel: Channel, nowMs: number, waitMs: number): void => {
    if (subject.isOpen || !channel.isAutoBan) return
    const { good, bad } = subject.outcomes.total(nowMs, windowMs())
    const most = options.get('channel_health_setting.failure_count')
    // One bad key of two must not take the other with it: as a whole such a channel fails only if nothing works.
    const isOfKeys = channel.multiKey !== undefined && subject.keyIndex === undefined
    const percent = options.get('channel_health_setting.failure_percent')
    const isShareTooHigh = !isOfKeys && bad >= MIXED * most && bad * 100 >= (good + bad) * percent
    if (bad < most || (good > 0 && !isShareTooHigh)) return
    open(subject, { isReopening: false, waitMs, isAsked: false })
  }

  // Probes

  /** @returns whether a call may go there now */
  const admit = (subject: Subject, state: 'handed' | 'started'): boolean => {
    const nowMs = clock.monotonic()
    const { permit } = subject
    if (permit?.state === 'free' && nowMs <= permit.endsMs) {
      Object.assign(permit, { state, sinceMs: nowMs })
      return true
    }
    if (nowMs < subject.untilMs || permit) return false
    ask(subject, nowMs)
    if (nowMs - subject.untilMs < STALE_MS) return false
    subject.permit = { ...newPermit(nowMs, nowMs), state }
    return true
  }
  const ask = (subject: Subject, askedAtMs: number): void => {
    if (subject.isAsking || askedAtMs < subject.askAgainMs || subject.pending > 0) return
    const { name, version } = subject
    subject.isAsking = true
    subject.askAgainMs = askedAtMs + ASK_MS
    const grant = (): void => {
      if (!subject.isOpen || subject.version !== version) return
      subject.permit ??= newPermit(askedAtMs, clock.monotonic())
      // The database's clock decided that it is time.
      subject.untilMs = Math.min(subject.untilMs, askedAtMs)
    }
    const asked = rows
      .takeProbe(name, version, PERMIT_MS)
      .then((isOurs) => {
        noteDatabase()
        if (isOurs) grant()
      })
      .catch((error: unknown) => {
        noteDatabase(error)
        grant()
      })
      .finally(() => {
        subject.isAsking = false
        asking.delete(asked)
      })
    asking.add(asked)
  }
  const careForPermits = async (nowMs: number): Promise<void> => {
    for (const subject of subjects.all()) {
      const { permit, name, version } = subject
      if (!permit) continue
      const duty = dutyOf(permit, nowMs)
      if (duty === 'wait') continue
      try {
        if (duty === 'end') {
          subject.permit = undefined
          await rows.dropProbe(name, version)
        } else if (await rows.keepProbe(name, version, PERMIT_MS)) permit.endsMs = newPermit(nowMs, nowMs).endsMs
        else subject.permit = undefined
      } catch (error) {
        noteDatabase(error)
      }
    }
  }

  // Counts, told to and heard from the others

  const tellCounts = async (nowMs: number): Promise<void> => {
    const counts: [string, number, number, number][] = []
    for (const subject of suspects) {
      const { good, bad } = subject.outcomes.own(nowMs, windowMs())
      const text = `${subject.version} ${good} ${bad}`
      if (text !== subject.told) counts.push([subject.name, subject.version, good, bad])
      subject.told = text
      const total = subject.outcomes.total(nowMs, windowMs())
      if (total.bad === 0) suspects.delete(subject)
    }
    if (counts.length > 0) await bus.publish(COUNTS, JSON.stringify({ from: self, counts }))
  }
  const unsubscribe = bus.subscribe(COUNTS, (text) => {
    const { from, counts } = JSON.parse(text) as { from: string; counts: [string, number, number, number][] }
    if (from === self || !isOn()) return
    const nowMs = clock.monotonic()
    for (const [name, version, good, bad] of counts) {
      const subject = subjects.named(name)
      const channel = find(subject.channelId)
      // Counts of another stretch: one of us does not know yet that the state has changed since.
      if (channel?.status !== CHANNEL_STATUS.enabled || subject.isOpen || subject.version !== version) continue
      subject.outcomes.hear(from, { good, bad }, nowMs)
      suspects.add(subject)
      wakeLoop()
      judge(subject, channel, nowMs, 0)
    }
  })

  /** Runs while something fails or cools down; a cluster that is well has no timer here. */
  const wakeLoop = (): void => {
    if (isClosed) return
    loop ??= createLoop({
      everyMs: SHARE_MS,
      run: async () => {
        const nowMs = clock.monotonic()
        await tellCounts(nowMs)
        // A database that is slow must not keep the others waiting for what is seen here.
        caring ??= careForPermits(nowMs).finally(() => {
          caring = undefined
        })
        if (suspects.size > 0 || opened.size > 0) return
        void loop?.stop()
        loop = undefined
      },
      onError: (error) => log.error('the health of channels could not be looked after', { error }),
    })
  }

  const isOpenKey = (channelId: number, index: number): boolean =>
    subjects.channel(channelId)?.keys.get(index)?.isOpen ?? false
  /** All keys that could be used cool down. */
  const lacksKeys = (channel: Channel): boolean => {
    const keys = channel.multiKey && subjects.channel(channel.id)?.keys
    return keys !== undefined && keys.size > 0 && usableKeys(channel).every((index) => keys.get(index)?.isOpen)
  }

  return {
    ready: tracked.refresh,
    report(outcome) {
      if (!isOn()) return
      const channel = find(outcome.channelId)
      // One that is disabled serves tests alone, which say nothing of calls.
      if (!channel?.isAutoBan || channel.status !== CHANNEL_STATUS.enabled) return
      const verdict = verdictOn(outcome.error)
      note(subjects.of(channel.id), channel, outcome, verdict)
      if (channel.multiKey) note(subjects.of(channel.id, outcome.keyIndex), channel, outcome, verdict)
    },
    start(channelId) {
      const permit = subjects.channel(channelId)?.whole.permit
      if (permit?.state === 'handed') Object.assign(permit, { state: 'started', sinceMs: clock.monotonic() })
    },
    isQuiet: () => opened.size === 0 || !isOn(),
    *cooling() {
      for (const { channelId } of opened) yield channelId
    },
    isCooling: (channel) =>
      channel.isAutoBan && ((subjects.channel(channel.id)?.whole.isOpen ?? false) || lacksKeys(channel)),
    enter(channel) {
      const whole = subjects.channel(channel.id)?.whole
      if (!whole || !channel.isAutoBan) return true
      if (lacksKeys(channel)) {
        const keys = usableKeys(channel).map((index) => subjects.of(channel.id, index))
        const nowMs = clock.monotonic()
        const isOneFree = keys.some(({ permit }) => permit?.state === 'free' && nowMs <= permit.endsMs)
        if (!isOneFree) for (const key of keys) if (nowMs >= key.untilMs && !key.permit) ask(key, nowMs)
        if (!isOneFree) return false
      }
      return !whole.isOpen || admit(whole, 'handed')
    },
    leave(channel) {
      const permit = subjects.channel(channel.id)?.whole.permit
      if (permit?.state === 'handed') Object.assign(permit, { state: 'free', sinceMs: clock.monotonic() })
    },
    untilMs(channel) {
      const known = subjects.channel(channel.id)
      if (!known) return 0
      if (known.whole.isOpen) return known.whole.untilMs
      return Math.min(...usableKeys(channel).map((index) => known.keys.get(index)?.untilMs ?? 0))
    },
    hasCoolingKeys(channelId) {
      if (opened.size === 0 || !isOn()) return false
      for (const key of subjects.channel(channelId)?.keys.values() ?? []) if (key.isOpen) return true
      return false
    },
    isKeyCooling: isOpenKey,
    enterKey: (channelId, index) => !isOpenKey(channelId, index) || admit(subjects.of(channelId, index), 'started'),
    keyUntilMs: (channelId, index) => subjects.channel(channelId)?.keys.get(index)?.untilMs ?? 0,
    size: subjects.size,
    async idle() {
      while (writing || caring || asking.size > 0) await Promise.all([writing, caring, ...asking])
    },
    close() {
      isClosed = true
      unsubscribe()
      tracked.close()
      void loop?.stop()
      loop = undefined
    },
  }
}
