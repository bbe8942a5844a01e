/**
 * The life of this worker in the ledger: its outbox, its instance and the ones before it. Flushes what earlier lives left,
 * ends them and returns their rows; goes on as a new instance when the current one was ended; lets go of charges that both
 * databases have had for long enough.
 */
import { type Db, DbError, readClusterId } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import { eachOf } from '../../lib/each-of.ts'
import { messageOf } from '../../lib/error-text.ts'
import type { Log } from '../../lib/log.ts'
import { createHeartbeat, type InstanceInfo, type Instances } from '../cluster/index.ts'
import type { Allotments } from './allotments.ts'
import type { Flush } from './flush.ts'
import type { Outbox, Part } from './outbox.ts'
import type { Outboxes } from './outboxes.ts'

const CLUSTER_ID = 'cluster_id'
/** After the database failed to answer, callers are not asking it again sooner than this, ms. */
const ASK_AGAIN_MS = 100
/** Charges stay for so many leases after both databases had them. */
const KEEP_LEASES = 10

export function createTenure(deps: {
  readonly db: Db
  /** connections for the heartbeat alone */
  readonly heartbeatDb: Db
  readonly log: Log
  readonly clock: Clock
  readonly leaseMs: number
  /** Nobody else has the database. */
  readonly isAlone: boolean
  /** What an outbox may hold before charges that are applied go sooner, bytes. */
  readonly keepBytes: number
  readonly outboxes: Outboxes
  readonly instances: Instances
  readonly allotments: Allotments
  readonly flush: Flush
  readonly instance: InstanceInfo
  /** Syncs the databases and writes down in the outboxes what they have. @returns false: not yet, try again later */
  readonly settle: () => Promise<boolean>
  /** Another instance spends from now on: memory forgets what the one before it had. */
  readonly onRenewed: () => void
}) {
  const { db, log, clock, leaseMs, isAlone, outboxes, instances, allotments, flush } = deps
  const heartbeat = createHeartbeat({
    db: deps.heartbeatDb,
    instances,
    instance: deps.instance,
    clock,
    leaseMs,
    isAlone,
  })
  let own: Outbox | undefined
  let clusterId = ''
  let id = ''
  let beating: Promise<void> | undefined
  let beatAtMs = -Infinity
  let failed: { readonly error: unknown; readonly atMs: number } | undefined
  let isLeaving = false
  let isTrimming = false

  /** Charges for another database are not ours to apply here: they are kept, and reported. */
  const checkCluster = (outbox: Outbox): void => {
    const noted = outbox.meta(CLUSTER_ID)
    if (noted !== undefined && noted !== clusterId) {
      const reason = `belongs to the database of cluster ${noted}`
      for (const { instanceId, main, log: logMark } of outbox.tenures()) {
        const count = outbox.setAside(instanceId, 'main', main.seq, reason, clock.now())
        outbox.setAside(instanceId, 'log', logMark.seq, reason, clock.now())
        log.error('an outbox belongs to another database: its charges were set aside', {
          outbox: outbox.path,
          noted,
          count,
        })
        outbox.forget(instanceId)
      }
    }
    if (noted !== clusterId) outbox.setMeta(CLUSTER_ID, clusterId)
  }

  /**
   * Ends the earlier instances of an outbox whose charges the main database has; forgets those that are done. The lock on
   * the file proves that they are dead, but for those of another file: whether they live is for the sweeper to see.
   */
  const finish = async (outbox: Outbox): Promise<void> => {
    for (const { instanceId, isForeign, main, log: logMark } of outbox.tenures()) {
      const last = outbox.lastSeq(instanceId)
      if (instanceId === outbox.current()?.instanceId || main.seq < last) continue
      if (!isForeign) {
        await instances.setState([instanceId], 'gone')
        const returned = await allotments.returnAll(instanceId)
        if (returned > 0)
          log.info('what an earlier instance had parked is returned', { instanceId, quotaUnits: returned })
      }
      const isKept = outbox.firstKept(instanceId) <= last
      if (logMark.seq >= last && (await deps.settle()) && (isAlone || !isKept)) outbox.forget(instanceId)
    }
    if (outbox !== own && outbox.tenures().length === 0) outboxes.release(outbox)
  }

  const finishAll = (): Promise<void> => eachOf(outboxes.all(), finish)

  /**
   * Removes charges that both databases have had for long, and more if they take too much room: of those that both were just
   * seen to have, because either may have gone back since.
   */
  const letGo = async (
    outbox: Outbox,
    main: ReadonlyMap<string, number>,
    logs: ReadonlyMap<string, number>,
  ): Promise<void> => {
    const seenOf = (instanceId: string): number => Math.min(main.get(instanceId) ?? 0, logs.get(instanceId) ?? 0)
    /** @param isEnough asked between the pieces, each of which is short enough for calls to wait for */
    const remove = async (instanceId: string, upTo: number, isEnough = () => false): Promise<number> => {
      let count = 0
      for (let some = -1; some !== 0 && !isEnough() && outboxes.all().includes(outbox); count += some) {
        some = outbox.remove(instanceId, upTo)
        await new Promise(setImmediate)
      }
      return count
    }
    const longAgo = clock.now() - KEEP_LEASES * leaseMs
    for (const { instanceId } of outbox.tenures())
      await remove(instanceId, Math.min(seenOf(instanceId), outbox.appliedBy(instanceId, longAgo)))
    const isSmall = (): boolean => outbox.usedBytes() <= deps.keepBytes
    if (isSmall()) {
      isTrimming = false
      return
    }
    let count = 0
    for (const { instanceId } of outbox.tenures()) count += await remove(instanceId, seenOf(instanceId), isSmall)
    if (count > 0 && !isTrimming)
      log.warn('charges that are applied leave the outbox sooner than they should: it takes too much room', {
        outbox: outbox.path,
        count,
        keepBytes: deps.keepBytes,
      })
    isTrimming = count > 0
  }

  /** @returns undefined while the database cannot be asked */
  const look = async (part: Part, outbox: Outbox): Promise<ReadonlyMap<string, number> | undefined> => {
    try {
      return await flush.look(part, outbox)
    } catch (error) {
      if (!(error instanceof DbError && error.kind === 'unavailable'))
        log.warn('it could not be seen what a database has of an outbox; the next pass looks again', {
          part,
          outbox: outbox.path,
          error: messageOf(error),
        })
      return undefined
    }
  }

  /** On a database of our own nobody else lives: whoever has rows is dead, wherever its outbox went. */
  const returnOthers = async (): Promise<void> => {
    const ours = new Set(outboxes.all().flatMap((outbox) => outbox.tenures().map((tenure) => tenure.instanceId)))
    const working = (await instances.working()).map((other) => other.id).filter((other) => !ours.has(other))
    await instances.setState(working, 'gone')
    for (const holder of await allotments.holders()) if (!ours.has(holder)) await allotments.returnAll(holder)
  }

  const renew = (outbox: Outbox, before: string, why: string): Promise<void> =>
    flush.between(async () => {
      // Two may have found it out.
      if (before !== id) return
      const next = Bun.randomUUIDv7()
      outbox.begin(next)
      id = next
      deps.onRenewed()
      log.error('this instance has ended; another goes on in its place', { before, after: next, why })
      await heartbeat.begin(next)
    })

  const beat = async (): Promise<void> => {
    const beaten = id
    const state = await heartbeat.send()
    beatAtMs = clock.monotonic()
    if (own && !isLeaving && beaten === id && state !== 'live' && state !== 'missing') await renew(own, beaten, state)
  }
  /** One at a time; who comes while one is under way shares it. */
  const beatOnce = (): Promise<void> => {
    beating ??= beat()
      .then(
        () => {
          failed = undefined
        },
        (error: unknown) => {
          failed = { error, atMs: clock.monotonic() }
          throw error
        },
      )
      .finally(() => {
        beating = undefined
      })
    return beating
  }

  return {
    id: (): string => id,
    outbox: (): Outbox | undefined => own,

    /** @throws Error that names the directory, DbError */
    async open(): Promise<Outbox> {
      own = outboxes.openOwn()
      clusterId = await readClusterId(db)
      checkCluster(own)
      id = Bun.randomUUIDv7()
      try {
        own.begin(id)
      } catch (error) {
        throw new Error(`the ledger's directory ${outboxes.directory} is full or not writable: ${String(error)}`, {
          cause: error,
        })
      }
      await heartbeat.begin(id)
      beatAtMs = clock.monotonic()
      return own
    },
    /**
     * Looks where the databases are with all instances of all outboxes here, those that nobody holds any more included;
     * flushes, ends and returns what earlier lives left. @returns false: not all of it yet, call again
     */
    async settleEarlier(): Promise<boolean> {
      outboxes.adopt(checkCluster)
      const seen = new Map<Outbox, ReadonlyMap<string, number> | undefined>()
      for (const outbox of outboxes.all()) seen.set(outbox, await look('main', outbox))
      const isFlushed = await flush.main()
      for (const outbox of outboxes.all()) {
        const logs = await look('log', outbox)
        const main = seen.get(outbox)
        if (!isAlone && main && logs) await letGo(outbox, main, logs)
      }
      await finishAll()
      return isFlushed
    },
    /** Only where one node alone has the database: rows of all other instances are left over then. */
    returnOthers,

    isLeased: heartbeat.isLeased,
    leaseLeftMs: heartbeat.leaseLeftMs,
    /** Asks the database whether the current instance lives, and goes on as another if it does not. @throws DbError */
    async regain(): Promise<void> {
      if (failed && !beating && clock.monotonic() - failed.atMs < ASK_AGAIN_MS) throw failed.error
      await beatOnce()
    },
    /** The current instance was found ended, or its row is missing. Resolves when one may go on. */
    async ended(ended: string): Promise<void> {
      if (ended === id) await beatOnce()
    },
    /** The database does not fit the outbox of this instance. */
    async misfit(instanceId: string): Promise<void> {
      if (own && instanceId === id) await renew(own, instanceId, 'the database does not fit the outbox')
    },
    /** Shows that this instance lives, if it is time, half a look more or less, or its lease is over. To be called each L/9. */
    async beat(): Promise<void> {
      const isDue = clock.monotonic() - beatAtMs >= leaseMs / 3 - leaseMs / 18
      if (isDue || !heartbeat.isLeased()) await beatOnce()
    },
    setDraining: (): Promise<void> => instances.setState([id], 'draining'),
    /** Returns all rows of this instance and ends it. Everything must be flushed, nothing held. */
    async leave(): Promise<void> {
      if (!own) return
      isLeaving = true
      own.end()
      await finish(own)
    },
    /** Forgets, in the files, the instances of which nothing is left to do. */
    finish: finishAll,
  }
}
