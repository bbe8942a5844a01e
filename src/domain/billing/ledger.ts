/**
 * The ledger of one worker, wired together: memory, outbox, flush, and the loops that keep them in step with the database.
 * The path of a call is holds.ts and `journal` below: memory and one insert into the outbox.
 */
import { type Db, DbError } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import { eachOf } from '../../lib/each-of.ts'
import type { Log } from '../../lib/log.ts'
import { createLoop, type Loop } from '../../lib/loop.ts'
import type { Checkpoint } from '../../lib/wal.ts'
import type { State } from '../../state/index.ts'
import { createInstances, createWatch, type InstanceInfo } from '../cluster/index.ts'
import { type Account, addCharge, createAccount } from './account.ts'
import { createAllotments } from './allotments.ts'
import { QUOTA_CHANGED } from './balances.ts'
import { type CallRecord, decodeCharge, encodeCharge } from './charge.ts'
import { createFlush } from './flush.ts'
import { createHolds } from './holds.ts'
import { createIdlePass } from './idle.ts'
import type { AccountKey } from './kinds.ts'
import type { Outbox, OutboxSync } from './outbox.ts'
import { createOutboxes } from './outboxes.ts'
import {
  type AnswerMessage,
  createSupply,
  QUOTA_ANSWER,
  QUOTA_RECALL,
  type RecallMessage,
  type Tenancy,
} from './supply.ts'
import { createSweep } from './sweep.ts'
import { createTenure } from './tenure.ts'
import type { Ledger } from './types.ts'

/** How often own rows are looked through for recalls, while there are any, ms. */
const RECALL_POLL_MS = 250
/** How often the disk and the outboxes are brought up to date: a power cut can lose what was journalled since, ms. */
const SYNC_MS = 250
const KEEP_BYTES = 1024 * 1024 * 1024

export interface LedgerOptions {
  readonly db: Db
  /** where log rows go; `db` itself unless there is a log database */
  readonly logDb: Db
  /** connections for the heartbeat alone: what keeps the others busy must not cost the lease; `db` if not given */
  readonly heartbeatDb?: Db
  readonly bus: State
  readonly log: Log
  readonly clock: Clock
  readonly dataDir: string
  readonly instance: InstanceInfo
  /**
   * L, one per cluster: heartbeat L/3, silence 2L, idle pass and watch L/9, a row at 0 is kept L, orphans are looked for and
   * the databases looked at each 2L/3, applied charges are kept 10L
   */
  readonly leaseMs: number
  /** Charges that are applied leave sooner if an outbox is larger than this, bytes; 1 GiB if not given */
  readonly keepBytes?: number
  readonly sync: OutboxSync
  readonly flush: { readonly isBatch: boolean; readonly intervalMs: number }
  /** This node alone has the database (SQLite): no lease, no sweeper, and nothing is kept that is applied. */
  readonly isSingleNode: boolean
  /** Are consumed calls written to the log; option LogConsumeEnabled */
  readonly isLogged: () => boolean
  /** Is hourly usage kept; option DataExportEnabled */
  readonly isExported: () => boolean
  /** of another process, for the outboxes; this one does it if not given */
  readonly checkpoint?: Checkpoint | undefined
  /** a limit to the size of the outbox, for tests of a full disk */
  readonly maxOutboxPages?: number
}

export function createLedger(options: LedgerOptions): Ledger {
  const { db, logDb, bus, clock, instance, leaseMs } = options
  const log = options.log.child({ part: 'ledger' })
  const accounts = new Map<AccountKey, Account>()
  let isDraining = false
  let isOpen = false

  const accountOf = (key: AccountKey): Account | undefined => {
    const known = accounts.get(key)
    if (known) return known
    const account = createAccount(key, clock.monotonic())
    if (account) accounts.set(key, account)
    return account
  }
  const isWritable = (): boolean => tenure.outbox()?.isWritable() ?? false

  const outboxes = createOutboxes({
    dataDir: options.dataDir,
    sync: options.sync,
    log,
    clock,
    isAlone: options.isSingleNode,
    checkpoint: options.checkpoint,
    ...(options.maxOutboxPages === undefined ? {} : { maxPages: options.maxOutboxPages }),
  })
  const flush = createFlush({
    db,
    logDb,
    clock,
    log,
    outboxes: outboxes.all,
    ...options.flush,
    events: {
      applied(instanceId, charged, paid) {
        if (instanceId !== tenure.id()) return
        for (const [key, quota] of charged) {
          const account = accounts.get(key)
          if (!account) continue
          account.pending -= quota
          const payment = paid.get(key) ?? 0
          // The row had less than memory thought: it was returned behind our back.
          if (payment < Math.min(account.amount, quota)) account.isUnknown = true
          account.amount -= payment
        }
      },
      appliedUnseen(instanceId, charged) {
        if (instanceId !== tenure.id()) return
        for (const [key, quota] of charged) {
          const account = accounts.get(key)
          if (!account) continue
          account.pending -= quota
          account.isUnknown = true
        }
      },
      unknown(instanceId, keys) {
        if (instanceId !== tenure.id()) return
        for (const key of keys) {
          const account = accounts.get(key)
          if (account) account.isUnknown = true
        }
      },
      wentBack(instanceId, part, charged) {
        // Where one instance's charges are lost, those of the others may be.
        settling?.wake()
        if (part === 'log') return
        if (instanceId === tenure.id())
          for (const [key, quota] of charged) {
            const account = accountOf(key)
            if (account) account.pending += quota
          }
        // What the rows have now, nobody knows.
        for (const account of accounts.values()) account.isUnknown = true
      },
      misfit: (instanceId) => tenure.misfit(instanceId),
    },
  })
  /**
   * What the databases have is written down in the outboxes, and there charges begin to leave, only when the databases would
   * still have it after a power cut. In steps of their own, and not with each flush: it may wait for the disk.
   */
  const settle = async (): Promise<boolean> => {
    const marked = outboxes.all().map((outbox) => ({ outbox, tenures: outbox.tenures() }))
    if (!marked.some(({ outbox }) => outbox.isUnsettled())) return true
    if (!(await db.sync()) || (logDb !== db && !(await logDb.sync()))) return false
    for (const { outbox, tenures } of marked)
      while (outboxes.all().includes(outbox) && outbox.settle(tenures, clock.now())) await new Promise(setImmediate)
    return true
  }
  const allotments = createAllotments({
    db,
    clock,
    onSaturated: (account) => log.error('a balance is at its limit: what is beyond it is lost', { account }),
  })
  const instances = createInstances({ db, clock })
  const watch = createWatch({
    instances,
    holders: options.isSingleNode ? async () => [] : allotments.holders,
    clock,
    gapMs: leaseMs / 3,
  })
  const sweep = createSweep({ watch, instances, allotments, log, silenceMs: 2 * leaseMs })
  const tenure = createTenure({
    db,
    heartbeatDb: options.heartbeatDb ?? db,
    log,
    clock,
    leaseMs,
    isAlone: options.isSingleNode,
    keepBytes: options.keepBytes ?? KEEP_BYTES,
    outboxes,
    instances,
    allotments,
    flush,
    settle,
    instance,
    onRenewed() {
      // Open holds stay: they settle under the new instance. Its parts are still to be acquired.
      for (const account of accounts.values())
        Object.assign(account, {
          amount: 0,
          version: 0,
          pending: 0,
          answered: 0,
          answering: 0,
          lowFree: 0,
          aheadBelow: 0,
          isUnknown: false,
          proof: undefined,
        })
    },
  })
  const tenancy: Tenancy = {
    id: tenure.id,
    instances: watch.instances,
    isLeased: tenure.isLeased,
    regain: tenure.regain,
    ended: tenure.ended,
    appliedSeq: () => tenure.outbox()?.current()?.main.seq ?? 0,
    betweenFlushes: flush.between,
    flushSoon: flush.soon,
  }
  const supply = createSupply({ allotments, tenancy, bus, clock, log })
  const idlePass = createIdlePass({ accounts, accountOf, allotments, supply, tenancy, clock, keepMs: leaseMs })

  const unwritable = (cause?: unknown): GatewayError =>
    new GatewayError('dependency_unavailable', { retryAfterSec: 5, detail: { disk: outboxes.directory }, cause })

  /** Writes a charge down and counts it against its accounts; when the disk refuses, it never was. */
  const journal = async (keys: readonly AccountKey[], quota: number, record: CallRecord): Promise<void> => {
    const outbox = tenure.outbox()
    if (!outbox) throw unwritable()
    const entry = encodeCharge({
      quota,
      accounts: keys,
      record,
      node: instance.node,
      isLogged: record.type !== 2 || options.isLogged(),
      isExported: options.isExported(),
    })
    if (entry.quota !== quota)
      log.warn('a charge was brought into its bounds', {
        requestId: record.requestId,
        quotaUnits: quota,
        charged: entry.quota,
      })
    const instanceId = tenure.id()
    const now = clock.monotonic()
    if (entry.quota > 0)
      for (const key of keys) {
        const account = accountOf(key)
        if (account) addCharge(account, entry.quota, now)
      }
    try {
      await outbox.append(entry)
    } catch (error) {
      log.error('a charge could not be journalled: it is lost, and its call ends in an error', {
        requestId: record.requestId,
        quotaUnits: entry.quota,
        error,
      })
      if (instanceId === tenure.id() && entry.quota > 0)
        for (const key of keys) {
          const account = accounts.get(key)
          if (account) addCharge(account, -entry.quota, now)
        }
      throw unwritable(error)
    }
  }

  const holds = createHolds({ accountOf, supply, journal, isWritable, isLeased: tenure.isLeased, clock })

  const loops: Loop[] = []
  /** Goes on to the end of a drain: calls in flight may still extend. */
  let heartbeat: Loop | undefined
  /** Settles what earlier lives left, again and again. */
  let settling: Loop | undefined
  const unsubscribes: (() => void)[] = []
  const every = (name: string, everyMs: number, run: () => unknown): Loop => {
    const onError = (error: unknown): void => {
      const isAway = error instanceof DbError && error.kind === 'unavailable'
      log[isAway ? 'debug' : 'error']('a loop of the ledger failed', { loop: name, error })
    }
    return createLoop({ everyMs, run, onError })
  }
  const listen = <T>(topic: string, listener: (message: T) => void): void => {
    unsubscribes.push(
      bus.subscribe(topic, (text) => {
        try {
          listener(JSON.parse(text) as T)
        } catch (error) {
          log.warn('a message of the bus could not be read', { topic, error })
        }
      }),
    )
  }
  /** More may be there than was proven; who waits looks again. */
  const hint = (key: AccountKey, isMore: boolean): void => {
    const account = accounts.get(key)
    if (!account) return
    if (isMore) account.proof = undefined
    account.wake?.()
  }

  const startLoops = (): void => {
    listen<{ account: AccountKey }>(QUOTA_CHANGED, ({ account }) => hint(account, true))
    listen<AnswerMessage>(QUOTA_ANSWER, (answer) => {
      if (answer.instance !== tenure.id()) hint(answer.account, answer.amount > 0)
    })
    listen<RecallMessage>(QUOTA_RECALL, ({ account: key, instances }) => {
      const number = instances[tenure.id()]
      const account = accounts.get(key)
      if (account && number !== undefined) void supply.answer(account, number)
    })
    const recall = every('recall', RECALL_POLL_MS, async () => {
      if (accounts.size === 0) return
      for (const [key, number] of await allotments.recalled(tenure.id())) {
        const account = accountOf(key)
        if (account) void supply.answer(account, number, true)
      }
    })
    const sync = every('sync', SYNC_MS, async () => {
      try {
        await settle()
      } finally {
        const outbox = tenure.outbox()
        if (outbox && !outbox.isWritable()) outbox.probe()
        await eachOf(outboxes.all(), (each) => each.sync())
      }
    })
    const looking = every('watch', leaseMs / 9, watch.read)
    const idle = every('idle', leaseMs / 9, idlePass)
    // Looked at more often than it is due: a beat that failed comes again soon.
    heartbeat = every('heartbeat', leaseMs / 9, tenure.beat)
    settling = every('adopt', (leaseMs * 2) / 3, tenure.settleEarlier)
    loops.push(recall, sync, looking, idle, settling)
  }

  /** @returns whether `work` came to its end in time, well */
  const within = async (untilMs: number, what: string, work: () => Promise<unknown>): Promise<boolean> => {
    const late = Promise.withResolvers<false>()
    const timer = setTimeout(() => late.resolve(false), Math.max(0, untilMs - clock.monotonic()))
    try {
      const isDone = await Promise.race([work().then(() => true), late.promise])
      if (!isDone) log.warn('a part of the drain took too long; the next start does it', { what })
      return isDone
    } catch (error) {
      log.warn('a part of the drain failed; the next start does it', { what, error })
      return false
    } finally {
      clearTimeout(timer)
    }
  }

  /** Flushes until the database has everything, or until then. */
  const untilDone = async (untilMs: number, flushOnce: () => Promise<boolean>): Promise<void> => {
    while (!(await flushOnce()) && clock.monotonic() < untilMs) await Bun.sleep(100)
  }

  return {
    async open() {
      try {
        await tenure.open()
      } catch (error) {
        outboxes.close()
        throw error
      }
      tenure.outbox()?.onCommitted(flush.kick)
      isOpen = true
      try {
        await watch.read()
        if (!(await tenure.settleEarlier())) log.warn('not all charges of earlier lives could be flushed yet')
        if (options.isSingleNode) await tenure.returnOthers()
      } catch (error) {
        log.error('what earlier lives left could not be settled yet', { error })
      }
      startLoops()
      flush.kick()
    },

    async hold(payer, estimate, signal) {
      if (isDraining || !isOpen) throw new GatewayError('shutting_down')
      if (!isWritable()) throw unwritable()
      return holds.open(payer, estimate, signal)
    },

    note: (record) => journal([], 0, record),
    isWritable,
    hasLease: tenure.isLeased,

    async drain(deadlineMs) {
      if (!isOpen) return
      isDraining = true
      const startMs = clock.monotonic()
      /** Each part leaves some of the time to those that are worth more: others wait for what is parked here. */
      const by = (share: number): number => startMs + deadlineMs * share
      // Calls have ended before; should one be late, its charge is worth waiting for.
      await within(by(0.5), 'holds', holds.allEnded)
      for (const unsubscribe of unsubscribes) unsubscribe()
      supply.close(accounts.values())
      await within(by(0.6), 'loops', () => Promise.all(loops.map((loop) => loop.stop())))
      tenure.outbox()?.commit()
      await within(by(0.7), 'state', tenure.setDraining)
      await within(by(0.8), 'flush', () => untilDone(by(0.8), flush.main))
      await within(by(0.8), 'operations', async () => {
        for (const account of accounts.values()) await account.operation
      })
      const current = tenure.outbox()?.current()
      const isFlushed = current !== undefined && current.main.seq >= (tenure.outbox()?.lastSeq(current.instanceId) ?? 0)
      if (heartbeat) await within(by(0.85), 'heartbeat', heartbeat.stop)
      if (isFlushed && holds.count() === 0) await within(by(0.9), 'return', tenure.leave)
      await within(by(1), 'log rows', () => untilDone(by(1), flush.log))
      await within(by(1), 'stop', flush.stop)
      await within(by(1), 'outbox', async () => {
        await settle()
        if (tenure.outbox()?.current() === undefined) await tenure.finish()
      })
      isOpen = false
      outboxes.close()
    },

    async sweep(signal) {
      if (isOpen && !options.isSingleNode) await sweep(signal)
    },
    liveNodes: watch.nodes,

    stats() {
      let allotted = 0
      let held = 0
      let waiting = 0
      for (const account of accounts.values()) {
        allotted += account.amount
        held += account.held
        waiting += account.waiters.length
      }
      const all = outboxes.all()
      const unflushed = (part: 'main' | 'log'): number =>
        all.reduce(
          (sum, outbox) =>
            sum + outbox.tenures().reduce((n, each) => n + outbox.lastSeq(each.instanceId) - each[part].seq, 0),
          0,
        )
      return {
        instanceId: tenure.id(),
        accounts: accounts.size,
        allotted,
        held,
        openHolds: holds.count(),
        waiting,
        unflushedMain: unflushed('main'),
        unflushedLog: unflushed('log'),
        adopted: outboxes.adopted().length,
        ...supply.stats(),
        quarantined: flush.quarantined(),
        setAside: all.reduce((sum, outbox) => sum + outbox.setAsideCount(), 0),
        isWritable: isWritable(),
        oldestChargeMs: oldestChargeMs(all, clock.now()),
        outboxBytes: all.reduce((sum, outbox) => sum + outbox.usedBytes(), 0),
        leaseLeftMs: Math.round(tenure.leaseLeftMs()),
        liveInstances: watch.instances(),
        liveNodes: watch.nodes(),
      }
    },
  }
}

/** By when its call was logged: to the second. */
function oldestChargeMs(outboxes: readonly Outbox[], nowMs: number): number {
  let oldestSec = Infinity
  for (const outbox of outboxes)
    for (const { instanceId, main, log } of outbox.tenures()) {
      const [entry] = outbox.read(instanceId, Math.min(main.seq, log.seq), 1)
      if (!entry) continue
      try {
        oldestSec = Math.min(oldestSec, decodeCharge(entry).createdAtSec)
      } catch {
        // A charge that cannot be read has no age; the flush tells of it.
      }
    }
  return oldestSec === Infinity ? 0 : Math.max(0, nowMs - oldestSec * 1000)
}
