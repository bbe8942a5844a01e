/**
 * Keeps a flood of equal refusals out of the log: past a number in a minute, equal ones of one API key (same code, same
 * model) are joined into one row that carries their count.
 */
import type { CallRecord } from '../domain/billing/index.ts'
import type { Clock } from '../lib/clock.ts'

export interface Refusals {
  /** @returns the row to write now, or undefined when it was joined */
  admit(record: CallRecord, code: string): CallRecord | undefined
  /** Writes what was joined; at a stop. */
  flush(): Promise<void>
}

interface Bucket {
  count: number
  /** The last one joined. */
  joined: CallRecord | undefined
  joinedCount: number
}

const MINUTE_MS = 60_000
/** Rows of their own in a minute. */
const SINGLE_ROWS = 60
/** Model names are the client's words: past this many kinds for one key the rest counts as one. */
const MAX_KINDS_PER_KEY = 100

/** @param write puts a row into the log */
export function createRefusals(deps: {
  readonly clock: Clock
  readonly write: (record: CallRecord) => Promise<void>
}): Refusals {
  const { clock, write } = deps
  let buckets = new Map<string, Bucket>()
  let kindsOfKey = new Map<number, number>()
  let minute = 0
  let timer: ReturnType<typeof setTimeout> | undefined

  const flush = async () => {
    clearTimeout(timer)
    timer = undefined
    const ended = buckets
    buckets = new Map()
    kindsOfKey = new Map()
    const rows: CallRecord[] = []
    for (const { joined, joinedCount } of ended.values()) {
      if (joined) rows.push({ ...joined, other: { ...joined.other, refusals_joined: joinedCount } })
    }
    await Promise.all(rows.map(write))
  }

  const bucketOf = (record: CallRecord, code: string): Bucket => {
    const kind = `${record.apiKeyId} ${code} ${record.modelName}`
    const known = buckets.get(kind)
    if (known) return known
    const kinds = (kindsOfKey.get(record.apiKeyId) ?? 0) + 1
    kindsOfKey.set(record.apiKeyId, kinds)
    const name = kinds > MAX_KINDS_PER_KEY ? `${record.apiKeyId}` : kind
    const bucket = buckets.get(name) ?? { count: 0, joined: undefined, joinedCount: 0 }
    buckets.set(name, bucket)
    return bucket
  }

  return {
    admit(record, code) {
      const now = Math.floor(clock.now() / MINUTE_MS)
      // The timer only runs while rows are waiting, so a new minute may also be noticed here.
      if (now !== minute) {
        minute = now
        void flush()
      }
      const bucket = bucketOf(record, code)
      bucket.count += 1
      if (bucket.count <= SINGLE_ROWS) return record
      bucket.joined = record
      bucket.joinedCount += 1
      timer ??= setTimeout(() => void flush(), MINUTE_MS - (clock.now() % MINUTE_MS))
      return undefined
    },
    flush,
  }
}
