/**
 * Brings charges from the outboxes to the databases: one loop per part (money, log rows), each charge applied exactly
 * once. Owns pace, repeats, what to do when a database is elsewhere, and poison; the transactions are apply.ts's.
 */
import { type Db, DbError } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { createMutex } from '../../lib/mutex.ts'
import {
  APPLY_DEADLINE_MS,
  type Applied,
  applyLog,
  applyMain,
  type Batch,
  confirmMark,
  type Refusal,
  readMarks,
  restoreMark,
} from './apply.ts'
import { asciiText, basicPlaneText, type Charge, decodeCharge } from './charge.ts'
import type { AccountKey } from './kinds.ts'
import type { JournalledEntry, Mark, Outbox, Part, Tenure } from './outbox.ts'
import { clampQuota } from './quota.ts'
import { createUsageRows } from './usage-rows.ts'

/**
 * Most charges of a transaction, and characters of their texts. The more charges, the less each costs: money is written once
 * for each row that it touches, and SQLite writes each page of an index once, whose rows of one user or key stand together.
 */
const BATCH = { charges: 4_000, chars: 4_000_000 } as const
/**
 * A flush begins at once, but no sooner than this after the one before began: under load, charges gather into groups, and
 * the rows that many of them touch are written once. They are safe in the journal meanwhile.
 */
const GATHER_MS = 500
/** So long do log rows wait for others, if there are some already but less than is worth a transaction. */
const GATHER_ROWS_MS = 2_000
const FEW_ROWS = 100
const MANY_ROWS = BATCH.charges / 2
/** A database that is far away is left alone for as long as a flush takes: its rows are locked meanwhile, and others need them. */
const GATHER_MAX_MS = 3_000
/** Charges, with each batch that was taken in time: from three quarters to all in a hundred. */
const MOST_GROWS_BY = 10
/** An unknown outcome is looked at again this soon. */
const LOOK_AGAIN_MS = 25
const BACKOFF_MS = 100
const BACKOFF_MAX_MS = 5_000

/** What texts are put through before a database that refuses them is asked again, in this order. */
const CLEANERS: readonly ((text: string) => string)[] = [(text) => text, basicPlaneText, asciiText]

/** What memory hears of a flush of the main database. Called without a wait between the commit's answer and the call. */
export interface FlushEvents {
  /** @param sums what each account was charged, and what of it its allotment row paid */
  applied(instanceId: string, charged: ReadonlyMap<AccountKey, number>, paid: ReadonlyMap<AccountKey, number>): void
  /** These were applied by a commit whose answer never came: what the rows paid is not known. */
  appliedUnseen(instanceId: string, charged: ReadonlyMap<AccountKey, number>): void
  /** Nobody knows yet whether charges of these accounts were applied. */
  unknown(instanceId: string, accounts: Iterable<AccountKey>): void
  /** A database has gone back to what it was: these are to be applied again. The other instances may not know of it yet. */
  wentBack(instanceId: string, part: Part, charged: ReadonlyMap<AccountKey, number>): void
  /** The database does not fit this outbox; what was unapplied has been set aside. The instance must not go on. */
  misfit(instanceId: string): Promise<void>
}

export interface Flush {
  /** Charges were journalled. */
  kick(): void
  /** Begins now, whatever the pace. */
  soon(): void
  /** Flushes until all of an outbox, or all of all, is applied in the main database. @returns false: not all, later again */
  main(outbox?: Outbox): Promise<boolean>
  log(outbox?: Outbox): Promise<boolean>
  /**
   * Looks where a database is with all instances of an outbox; where it is elsewhere, the next flush goes on from there.
   * @returns by instance the number of the last charge that it was just seen to have, of those we know to be applied
   * @throws DbError
   */
  look(part: Part, outbox: Outbox): Promise<ReadonlyMap<string, number>>
  /** Runs `work` when no transaction of a main flush is under way. */
  between<T>(work: () => Promise<T>): Promise<T>
  quarantined(): number
  /** No further pass begins. @returns when those under way have ended */
  stop(): Promise<void>
}

export function createFlush(deps: {
  readonly db: Db
  readonly logDb: Db
  readonly clock: Clock
  readonly log: Log
  readonly outboxes: () => readonly Outbox[]
  /** false: at once; true: every `intervalMs` */
  readonly isBatch: boolean
  readonly intervalMs: number
  readonly events: FlushEvents
}): Flush {
  const { db, logDb, clock, log, outboxes, events } = deps
  const transactions = createMutex()
  const usageRows = createUsageRows({ db })
  /** Index into CLEANERS: a database that once refused a text keeps its level. */
  const level: Record<Part, number> = { main: 0, log: 0 }
  /** Charges per batch: halved when a database takes too long for so many, and slowly more again. */
  const size: Record<Part, number> = { main: BATCH.charges, log: BATCH.charges }
  /** What it may come to again: below what was too much, and only slowly beyond, for each time costs an error and a wait. */
  const most: Record<Part, number> = { ...size }
  let quarantined = 0

  const applyOnce = async (part: Part, batch: Batch, at: number, refusal?: Refusal): Promise<Applied> => {
    const clean = CLEANERS[at] ?? asciiText
    if (part === 'log') return applyLog(logDb, clock, batch, clean, refusal)
    const usage = refusal ? { known: [], fresh: [] } : await usageRows.locate(batch.charges, clean)
    return applyMain(db, clock, batch, usage, refusal)
  }

  /** @returns false: the database is elsewhere, look again */
  const applyBatch = async (
    part: Part,
    outbox: Outbox,
    batch: Batch,
    at: number,
    refusal?: Refusal,
  ): Promise<boolean> => {
    const run = async (): Promise<boolean> => {
      let answer: Applied
      const startMs = clock.monotonic()
      try {
        answer = await applyOnce(part, batch, at, refusal)
      } catch (error) {
        if (clock.monotonic() - startMs >= APPLY_DEADLINE_MS) {
          size[part] = Math.max(1, batch.charges.length >> 1)
          most[part] = Math.max(1, Math.ceil((batch.charges.length * 3) / 4))
        }
        if (part === 'main' && error instanceof DbError && error.kind === 'unknown-outcome')
          events.unknown(
            batch.instanceId,
            batch.charges.flatMap((charge) => charge.accounts),
          )
        throw error
      }
      if (answer.kind === 'applied') {
        if (part === 'main') events.applied(batch.instanceId, answer.charged, answer.paid)
        for (const account of answer.saturated)
          log.error('a balance or a counter is at its limit: what is beyond it is lost', { account })
        outbox.mark(batch.instanceId, part, batch.to)
        most[part] = Math.min(BATCH.charges, most[part] + MOST_GROWS_BY)
        size[part] = Math.min(most[part], size[part] + Math.ceil(size[part] / 4))
        return true
      }
      await reconcile(part, outbox, batch.instanceId, answer.at)
      return false
    }
    return part === 'main' ? transactions.run(run) : run()
  }

  const misfits = new Set<string>()
  const dbOf = (part: Part): Db => (part === 'main' ? db : logDb)

  /** The database is not where the outbox left it: finds out why, and goes on from there or not at all. */
  const reconcile = async (part: Part, outbox: Outbox, instanceId: string, at: Mark): Promise<void> => {
    const tenure = outbox.tenures().find((t) => t.instanceId === instanceId)
    if (!tenure || isAt(at, tenure[part])) return
    const mark = tenure[part]
    const last = outbox.lastSeq(instanceId)
    if (at.seq > mark.seq && at.seq <= last) {
      const charges = chargesOf(outbox, instanceId, mark.seq, at.seq)
      if (charges.length === at.seq - mark.seq && charges.at(-1)?.requestId === at.last) {
        // Our own commit, whose answer never came.
        if (part === 'main') events.appliedUnseen(instanceId, sumAccounts(charges))
        return outbox.mark(instanceId, part, at)
      }
    }
    if (at.seq > last && tenure !== outbox.current()) {
      log.warn('an outbox is older than the database: all of it is applied', {
        outbox: outbox.path,
        instanceId,
        part,
        last,
        at,
      })
      return outbox.mark(instanceId, part, { seq: last, last: '' })
    }
    if (at.seq < mark.seq) return goBack(part, outbox, tenure)
    misfits.add(instanceId)
  }

  /** A replica was promoted, or the log database is a new one: what is still kept is applied again. */
  const goBack = async (part: Part, outbox: Outbox, tenure: Tenure): Promise<void> => {
    const { instanceId } = tenure
    const mark = tenure[part]
    const at = await confirmMark(dbOf(part), clock, instanceId, part)
    // Another server of the cluster was asked, which was behind.
    if (at.seq >= mark.seq) return isAt(at, mark) ? undefined : reconcile(part, outbox, instanceId, at)
    const first = outbox.firstKept(instanceId)
    const [named] = at.seq >= first ? chargesOf(outbox, instanceId, at.seq - 1, at.seq) : []
    if (named && named.requestId !== at.last) return void misfits.add(instanceId)
    if (at.seq + 1 >= first) {
      const charges = chargesOf(outbox, instanceId, at.seq, mark.seq)
      log.error('a database has gone back: what it lost is applied again', {
        part,
        instanceId,
        mark,
        at,
        count: charges.length,
      })
      outbox.mark(instanceId, part, at)
      // Ids of rows that are remembered may be those of others by now.
      if (part === 'main') usageRows.forget()
      return events.wentBack(instanceId, part, part === 'main' ? sumAccounts(charges) : new Map())
    }
    if (part === 'main') return void misfits.add(instanceId)
    const from = { seq: Math.min(first - 1, mark.seq), last: first - 1 < mark.seq ? '' : mark.last }
    log.error('the log database has lost log rows that are no longer kept: going on from the first that is', {
      instanceId,
      mark,
      at,
      from,
    })
    await restoreMark(logDb, clock, instanceId, part, from)
    outbox.mark(instanceId, part, from)
    events.wentBack(instanceId, part, new Map())
  }

  const setMisfitAside = async (outbox: Outbox, part: Part, instanceId: string): Promise<void> => {
    const tenure = outbox.tenures().find((t) => t.instanceId === instanceId)
    if (!tenure) return
    outbox.commit()
    const reason = `the ${part} database does not fit`
    // What is charged already is still logged; log rows that a log database does not take leave the money alone.
    const count = outbox.setAside(instanceId, part, tenure[part].seq, reason, clock.now())
    log.error('the database does not fit the outbox: its charges were set aside', {
      outbox: outbox.path,
      instanceId,
      part,
      count,
    })
    misfits.delete(instanceId)
    await events.misfit(instanceId)
  }

  /** Poison: a batch refused for its content is halved until the charge stands alone; nothing behind it waits. */
  const applyRange = async (part: Part, outbox: Outbox, batch: Batch): Promise<boolean> => {
    const isContent = (error: unknown): boolean => error instanceof DbError && error.kind === 'content'
    for (let at = level[part]; at <= 1; at++) {
      try {
        const isApplied = await applyBatch(part, outbox, batch, at)
        level[part] = at
        return isApplied
      } catch (error) {
        if (!isContent(error)) throw error
      }
    }
    const [alone, second] = batch.charges
    if (!alone) throw new DbError('other', 'the mark of a flush was refused for its content')
    if (second) {
      const middle = batch.charges.length >> 1
      const firstTo = { seq: batch.from.seq + middle, last: batch.charges[middle - 1]!.requestId }
      return (
        (await applyRange(part, outbox, { ...batch, to: firstTo, charges: batch.charges.slice(0, middle) })) &&
        (await applyRange(part, outbox, { ...batch, from: firstTo, charges: batch.charges.slice(middle) }))
      )
    }
    try {
      return await applyBatch(part, outbox, batch, 2)
    } catch (error) {
      if (!isContent(error)) throw error
      const isApplied = await applyBatch(part, outbox, batch, 2, { charge: alone, error: String(error) })
      quarantined++
      log.error('a charge was refused for its content and is in quarantine', {
        part,
        requestId: alone.requestId,
        error,
      })
      return isApplied
    }
  }

  /** A charge that nobody can read costs nothing; it stands alone, in quarantine and as a row of the log that says so. */
  const applyUnreadable = async (part: Part, outbox: Outbox, batch: Batch, error: string): Promise<void> => {
    const [charge] = batch.charges
    if (part === 'log' || !charge) return void (await applyBatch(part, outbox, batch, 2))
    if (!(await applyBatch(part, outbox, batch, 2, { charge, error }))) return
    quarantined++
    log.error('a charge of the outbox cannot be read and is in quarantine', {
      outbox: outbox.path,
      requestId: charge.requestId,
      error,
    })
  }

  /** Is the database where we left it? Asked also when nothing waits: else nobody would hear of a loss. */
  const lookAt = async (part: Part, outbox: Outbox): Promise<ReadonlyMap<string, number>> => {
    const tenures = outbox.tenures()
    const ids = tenures.map(({ instanceId }) => instanceId)
    const marks = await readMarks(dbOf(part), ids, part)
    const seen = new Map<string, number>()
    for (const { instanceId, [part]: mark } of tenures) {
      const at = marks.get(instanceId) ?? { seq: 0, last: '' }
      // What was set aside, or is of an older copy, has no charge that could be compared.
      if (!isAt(at, mark) && (mark.last !== '' || mark.seq === 0)) await reconcile(part, outbox, instanceId, at)
      else seen.set(instanceId, mark.seq)
    }
    return seen
  }

  /** What comes meanwhile is left to the next pass: else, under load, this one would go on for ever with a few at a time. */
  const flushTenure = async (part: Part, outbox: Outbox, instanceId: string): Promise<void> => {
    let end: number | undefined
    for (;;) {
      const tenure = outbox.tenures().find((t) => t.instanceId === instanceId)
      if (!tenure) return
      end ??= endOf(part, outbox, tenure)
      const next = misfits.has(instanceId) ? undefined : nextBatch(part, outbox, tenure, end, size[part])
      if (next?.unreadable !== undefined) await applyUnreadable(part, outbox, next.batch, next.unreadable)
      else if (next) await applyRange(part, outbox, next.batch)
      if (misfits.has(instanceId)) await setMisfitAside(outbox, part, instanceId)
      else if (!next) return
      // SQLite may answer without leaving the turn: a backlog would keep every call waiting until its last batch.
      await new Promise(setImmediate)
    }
  }

  const isDone = (part: Part, outbox: Outbox): boolean =>
    outbox.tenures().every((tenure) => tenure[part].seq >= endOf(part, outbox, tenure))

  const createPart = (part: Part) => {
    const passes = createMutex()
    let timer: Timer | undefined
    let dueAtMs = Infinity
    let lastStartMs = -Infinity
    let tookMs = 0
    let failures = 0
    let isStopped = false

    /** @returns whether everything there was is applied */
    const pass = (only?: Outbox): Promise<boolean> =>
      passes.run(async () => {
        lastStartMs = clock.monotonic()
        let failed = 0
        for (const outbox of only ? [only] : outboxes())
          for (const { instanceId } of outbox.tenures()) {
            try {
              await flushTenure(part, outbox, instanceId)
            } catch (error) {
              // One tenure that cannot be flushed keeps none of the others back.
              const kind = error instanceof DbError ? error.kind : 'other'
              // An unknown outcome is found out by the next look, soon.
              if (kind === 'unknown-outcome') soon(LOOK_AGAIN_MS)
              else if (failed++ === 0 && (failures === 0 || kind === 'other'))
                log.error('a flush failed; it is tried again', { part, outbox: outbox.path, instanceId, error })
            }
          }
        if (failed > 0) failures++
        else if (failures > 0) {
          log.info('flushing again', { part })
          failures = 0
        }
        tookMs = clock.monotonic() - lastStartMs
        if (part === 'main' && !outboxes().every((outbox) => isDone('log', outbox))) parts.log.kick()
        return (only ? [only] : outboxes()).every((outbox) => isDone(part, outbox))
      })

    const waiting = (): number =>
      outboxes().reduce(
        (sum, outbox) => sum + outbox.tenures().reduce((n, each) => n + endOf(part, outbox, each) - each[part].seq, 0),
        0,
      )
    const gatherMs = (): number => {
      const ms = Math.max(GATHER_MS, Math.min(2 * tookMs, GATHER_MAX_MS))
      if (part === 'main') return ms
      const rows = waiting()
      return rows > FEW_ROWS && rows < MANY_ROWS ? Math.max(ms, GATHER_ROWS_MS) : ms
    }
    const soon = (ms: number): void => {
      const at = clock.monotonic() + ms
      if (isStopped || at >= dueAtMs) return
      clearTimeout(timer)
      dueAtMs = at
      timer = setTimeout(tick, ms)
    }
    const tick = async (): Promise<void> => {
      dueAtMs = Infinity
      timer = undefined
      if (!(await pass())) kick()
    }
    const kick = (): void => {
      if (failures > 0) soon(Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** failures) * (0.75 + Math.random() / 2))
      else soon(deps.isBatch ? deps.intervalMs : Math.max(0, lastStartMs + gatherMs() - clock.monotonic()))
    }
    return {
      pass,
      look: (outbox: Outbox) =>
        passes.run(() => (part === 'main' ? transactions.run(() => lookAt(part, outbox)) : lookAt(part, outbox))),
      soon,
      kick,
      async stop(): Promise<void> {
        isStopped = true
        clearTimeout(timer)
        timer = undefined
        await passes.run(async () => {})
      },
    }
  }

  const parts = { main: createPart('main'), log: createPart('log') }
  return {
    kick: parts.main.kick,
    soon() {
      parts.main.soon(0)
    },
    main: (outbox) => parts.main.pass(outbox),
    log: (outbox) => parts.log.pass(outbox),
    look: (part, outbox) => parts[part].look(outbox),
    between: (work) => transactions.run(work),
    quarantined: () => quarantined,
    async stop() {
      await Promise.all([parts.main.stop(), parts.log.stop()])
    },
  }
}

/** Is the database where the outbox left it? A mark that names no charge is met by its number alone. */
const isAt = (at: Mark, mark: Mark): boolean => at.seq === mark.seq && (mark.last === '' || at.last === mark.last)

/** The charges after number `after`, up to number `to`, as far as they are kept. */
const chargesOf = (outbox: Outbox, instanceId: string, after: number, to: number): readonly Charge[] =>
  outbox.read(instanceId, after, to - after).map((entry) => decode(instanceId, entry).charge)

/** @returns for a charge that cannot be read one that costs nothing, and the reason */
function decode(instanceId: string, entry: JournalledEntry): { readonly charge: Charge; readonly unreadable?: string } {
  try {
    return { charge: decodeCharge(entry) }
  } catch (error) {
    const requestId = `unreadable-${instanceId}-${entry.seq}`.slice(0, 64)
    const other = JSON.stringify({ unreadable: entry.body.slice(0, 60_000) })
    return { charge: { ...UNREADABLE_CHARGE, requestId, other }, unreadable: String(error) }
  }
}

const UNREADABLE_CHARGE = {
  type: 5,
  createdAtSec: 0,
  userId: 0,
  username: '',
  apiKeyId: 0,
  apiKeyName: '',
  modelName: '',
  channelId: 0,
  group: '',
  ip: '',
  content: 'a charge of the outbox could not be read',
  promptTokens: 0,
  completionTokens: 0,
  useTimeSec: 0,
  isStream: false,
  isCounted: false,
  quota: 0,
  accounts: [],
  node: '',
} as const

/** Log rows follow the money: what was not charged is not logged. */
const endOf = (part: Part, outbox: Outbox, tenure: Tenure): number =>
  part === 'main' ? outbox.lastSeq(tenure.instanceId) : tenure.main.seq

/** @returns the next charges up to number `end` that are readable, or one that is not, alone; undefined: nothing is left */
function nextBatch(
  part: Part,
  outbox: Outbox,
  tenure: Tenure,
  end: number,
  size: number,
): { readonly batch: Batch; readonly unreadable?: string } | undefined {
  const { instanceId } = tenure
  const from = tenure[part]
  if (end <= from.seq) return undefined
  const entries = outbox.read(instanceId, from.seq, Math.min(size, end - from.seq), BATCH.chars)
  if (entries.length === 0) {
    // The rest was set aside.
    outbox.mark(instanceId, part, { seq: end, last: '' })
    return undefined
  }
  const charges: Charge[] = []
  let unreadable: string | undefined
  for (const entry of entries) {
    const decoded = decode(instanceId, entry)
    if (decoded.unreadable !== undefined && charges.length > 0) break
    charges.push(decoded.charge)
    unreadable = decoded.unreadable
    if (unreadable !== undefined) break
  }
  const to = { seq: from.seq + charges.length, last: charges.at(-1)!.requestId }
  const batch = { instanceId, from, to, charges }
  return unreadable === undefined ? { batch } : { batch, unreadable }
}

function sumAccounts(charges: readonly Charge[]): Map<AccountKey, number> {
  const sums = new Map<AccountKey, number>()
  for (const charge of charges)
    for (const account of charge.accounts) sums.set(account, clampQuota((sums.get(account) ?? 0) + charge.quota))
  return sums
}
