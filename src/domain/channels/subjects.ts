/** Whose health is kept: each channel as a whole, and each key of a channel with several. Made when first spoken of. */
import { createOutcomes, type Outcomes } from './outcomes.ts'
import type { Permit } from './probe.ts'

/** A channel as a whole, or one of its keys. */
export interface Subject {
  /** `<channel id>`, or `<channel id>:<index of the key>`: what all nodes call it. */
  readonly name: string
  readonly channelId: number
  readonly keyIndex: number | undefined
  readonly outcomes: Outcomes
  isOpen: boolean
  /** Of the state, as the database has it; 0: it has none. */
  version: number
  level: number
  /** No call before this, on the monotonic clock. */
  untilMs: number
  permit: Permit | undefined
  isAsking: boolean
  askAgainMs: number
  /** Changes on their way to the database. */
  pending: number
  /** What the others were told last. */
  told: string
}

export interface ChannelHealth {
  readonly whole: Subject
  readonly keys: ReadonlyMap<number, Subject>
}

export interface Subjects {
  of(channelId: number, keyIndex?: number): Subject
  named(name: string): Subject
  /** Undefined while nothing was heard of the channel. */
  channel(channelId: number): ChannelHealth | undefined
  all(): Iterable<Subject>
  /** Forgets those that are gone and for which nothing is under way. @returns them */
  drop(isGone: (channelId: number, keyIndex: number | undefined) => boolean): readonly Subject[]
  /** Channels that something was heard of. */
  size(): number
}

export function createSubjects(): Subjects {
  const channels = new Map<number, { readonly whole: Subject; readonly keys: Map<number, Subject> }>()

  const of = (channelId: number, keyIndex?: number): Subject => {
    let known = channels.get(channelId)
    if (!known) {
      known = { whole: newSubject(channelId, undefined), keys: new Map() }
      channels.set(channelId, known)
    }
    if (keyIndex === undefined) return known.whole
    let key = known.keys.get(keyIndex)
    if (!key) {
      key = newSubject(channelId, keyIndex)
      known.keys.set(keyIndex, key)
    }
    return key
  }
  return {
    of,
    named(name) {
      const [channelId, keyIndex] = name.split(':')
      return of(Number(channelId), keyIndex === undefined ? undefined : Number(keyIndex))
    },
    channel: (channelId) => channels.get(channelId),
    *all() {
      for (const { whole, keys } of channels.values()) {
        yield whole
        yield* keys.values()
      }
    },
    drop(isGone) {
      const dropped: Subject[] = []
      const isDropped = (subject: Subject): boolean => {
        const { channelId, keyIndex, isOpen, pending, isAsking } = subject
        const isOver = isGone(channelId, keyIndex) && !isOpen && pending === 0 && !isAsking
        if (isOver) dropped.push(subject)
        return isOver
      }
      for (const [id, { whole, keys }] of channels) {
        for (const [index, key] of keys) if (isDropped(key)) keys.delete(index)
        if (keys.size === 0 && isDropped(whole)) channels.delete(id)
      }
      return dropped
    },
    size: () => channels.size,
  }
}

const newSubject = (channelId: number, keyIndex: number | undefined): Subject => ({
  name: keyIndex === undefined ? `${channelId}` : `${channelId}:${keyIndex}`,
  channelId,
  keyIndex,
  outcomes: createOutcomes(),
  isOpen: false,
  version: 0,
  level: 0,
  untilMs: 0,
  permit: undefined,
  isAsking: false,
  askAgainMs: 0,
  pending: 0,
  told: '',
})
