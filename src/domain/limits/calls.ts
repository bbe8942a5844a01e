/**
 * Admits the calls of callers with limits, and ends what they took. A call takes all of its limits before it starts: one
 * request, its estimated tokens, one of the places. At its end the tokens become those that were used, the place is free
 * again, and a call that was not served leaves no success behind. A node that dies renews its places no longer.
 */
import { GatewayError } from '../../errors.ts'
import { createBag, type Placed } from '../../lib/bag.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Counts } from './counts.ts'
import type { Limit, Limits } from './limit.ts'

/** A call that asks. */
export interface Asking {
  /** Unique among all calls. */
  readonly id: string
  readonly inputTokens: number
  /** The output that it names as its maximum; 0 when it names none. */
  readonly outputTokens: number
}

export interface Outcome {
  /** It was served and billed, whole or in part. */
  readonly isSuccess: boolean
  /** Input and output as in its log row; 0 for a call that was not served. */
  readonly tokens: number
}

/** Where a caller stands with the limit that leaves least. */
export interface Standing {
  readonly limit: number
  readonly remaining: number
  readonly windowMs: number
}

export interface Admission {
  /** `rate_limit_exceeded`, with the seconds to wait; then nothing is taken. Undefined: the call may go. */
  readonly refusal: GatewayError | undefined
  readonly requests: Standing | undefined
  readonly tokens: Standing | undefined
  /** The call has ended; only the first word counts. */
  done(outcome: Outcome): void
}

export interface CallLimits {
  admit(limits: Limits, asking: Asking): Promise<Admission>
  /** Resolves when what ended calls give back is given back. */
  close(): Promise<void>
}

/** One limit, asked for one call. */
interface Taken {
  readonly limit: Limit
  readonly isTaken: boolean
  readonly n: number
  readonly remaining: number
  readonly retryAfterMs: number
  /** Its place, of a limit on calls at once. */
  readonly held?: Held | undefined
}

interface Held extends Placed {
  readonly limit: Limit
  readonly holder: string
}

/** What ended calls took, on its way back. */
interface Giving extends Placed {
  readonly work: Promise<void>
}

/** How long the place of a call outlives its node. */
const HOLD_MS = 10_000
/** When a place becomes free is not known; this is when asking again is no burden. */
const PLACE_RETRY_MS = 1_000

export function createCallLimits(deps: {
  readonly counts: Counts
  readonly clock: Clock
  /** How long a place is held without being renewed, ms; 10,000. */
  readonly holdMs?: number
}): CallLimits {
  const { counts, clock, holdMs = HOLD_MS } = deps
  const places = createPlaces(counts, holdMs)
  const giving = createBag<Giving>()

  const give = (work: Promise<void>): void => {
    const given: Giving = { place: -1, work: work.finally(() => giving.delete(given)) }
    giving.add(given)
  }

  const take = async (limit: Limit, asking: Asking): Promise<Taken> => {
    if (limit.counts === 'concurrency') {
      const held = await places.take(limit, asking.id)
      return { limit, isTaken: held !== undefined, n: 1, remaining: 0, retryAfterMs: held ? 0 : PLACE_RETRY_MS, held }
    }
    const n = limit.counts === 'tokens' ? tokensToTake(limit, asking) : 1
    const { taken, used, retryAfterMs } = await counts.take(limit.key, {
      n,
      limit: limit.limit,
      windowMs: limit.windowMs,
    })
    return { limit, isTaken: taken, n, remaining: Math.max(0, limit.limit - used), retryAfterMs }
  }

  const end = async ({ limit, n, held }: Taken, outcome: Outcome | undefined, isLate: boolean) => {
    const { key, windowMs } = limit
    if (held) return places.release(held)
    const change = outcome ? changeAtEnd(limit, n, outcome) : -n
    // What left the window by itself is not given back once more.
    if (change > 0 || (change < 0 && !isLate)) await counts.correct(key, { n: change, windowMs })
  }

  return {
    async admit(limits, asking) {
      const startedAtMs = clock.monotonic()
      const asked: Taken[] = []
      // The narrowest scope first: what one key asks in vain does not stand in the way of the others of its user or group.
      for (const scope of limits) {
        const answers = await Promise.all(scope.map((limit) => take(limit, asking)))
        asked.push(...answers)
        if (answers.some(({ isTaken }) => !isTaken)) break
      }
      const refused = asked.filter(({ isTaken }) => !isTaken)
      let isOpen = true
      const finish = (outcome: Outcome | undefined): void => {
        if (!isOpen) return
        isOpen = false
        const passedMs = clock.monotonic() - startedAtMs
        for (const each of asked) if (each.isTaken) give(end(each, outcome, passedMs >= each.limit.windowMs))
      }
      if (refused.length > 0) finish(undefined)
      return {
        refusal: refused.length > 0 ? refusalOf(refused, asking) : undefined,
        requests: standingIn(asked, ['requests', 'successes']),
        tokens: standingIn(asked, ['tokens']),
        done: finish,
      }
    },
    async close() {
      places.close()
      while (giving.size > 0) {
        const works: Promise<void>[] = []
        giving.each(({ work }) => works.push(work))
        await Promise.all(works)
      }
    },
  }
}

/**
 * The prompt and what may come of it. A call that names more output than a minute may have takes all of the minute, so that
 * it can run alone; one whose prompt alone is more can not.
 */
const tokensToTake = ({ limit }: Limit, { inputTokens, outputTokens }: Asking): number =>
  Math.max(inputTokens, Math.min(inputTokens + outputTokens, limit))

function changeAtEnd({ counts }: Limit, n: number, { isSuccess, tokens }: Outcome): number {
  if (counts === 'tokens') return Math.round(tokens) - n
  return counts === 'successes' && !isSuccess ? -n : 0
}

const standingIn = (asked: readonly Taken[], counts: readonly Limit['counts'][]): Standing | undefined =>
  asked
    .filter(({ limit }) => counts.includes(limit.counts))
    .map(({ limit, remaining }) => ({ limit: limit.limit, remaining, windowMs: limit.windowMs }))
    .reduce<Standing | undefined>(
      (least, next) => (least && least.remaining <= next.remaining ? least : next),
      undefined,
    )

/** Names the limit that keeps the call waiting longest. */
function refusalOf(refused: readonly Taken[], asking: Asking): GatewayError {
  const longest = refused.reduce((a, b) => (b.retryAfterMs > a.retryAfterMs ? b : a))
  const { counts, scope, limit, windowMs } = longest.limit
  const of = `of this ${scope}`
  const minutes = windowMs / 60_000
  const window = minutes === 1 ? 'a minute' : `${minutes} minutes`
  const text =
    counts === 'concurrency'
      ? `Too many calls ${of} at once: the limit is ${limit}`
      : `Rate limit ${of} reached: ${limit} ${counts === 'successes' ? 'served requests' : counts} in ${window}`
  return new GatewayError('rate_limit_exceeded', {
    public: counts === 'tokens' ? `${text}; this request needs ${tokensToTake(longest.limit, asking)}` : text,
    retryAfterSec: Math.max(1, Math.ceil(longest.retryAfterMs / 1000)),
    detail: { scope, counts, limit },
  })
}

/** Places of running calls, renewed while they run by one timer, which stands still while there are none. */
function createPlaces(counts: Counts, holdMs: number) {
  const held = createBag<Held>()
  let timer: ReturnType<typeof setTimeout> | undefined
  let renewal: Promise<unknown> = Promise.resolve()

  const ask = ({ limit, holder }: Held): Promise<boolean> =>
    counts.hold(limit.key, { holder, limit: limit.limit, ttlMs: holdMs })
  /** A store that has forgotten them learns of the running calls again. */
  const renew = (): void => {
    timer = undefined
    const asked: Promise<boolean>[] = []
    held.each((place) => asked.push(ask(place)))
    renewal = Promise.all(asked).finally(schedule)
  }
  const schedule = (): void => {
    if (held.size > 0) timer ??= setTimeout(renew, holdMs / 3)
  }

  return {
    /** @returns undefined when all places are taken */
    async take(limit: Limit, holder: string): Promise<Held | undefined> {
      const place = { place: -1, limit, holder }
      if (!(await ask(place))) return undefined
      held.add(place)
      schedule()
      return place
    },
    async release(place: Held): Promise<void> {
      held.delete(place)
      // A renewal that is under way must not come after the release.
      await renewal
      await counts.release(place.limit.key, place.holder)
    },
    close(): void {
      clearTimeout(timer)
      timer = undefined
      held.each((place) => held.delete(place))
    },
  }
}
