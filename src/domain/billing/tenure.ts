/**
 * The life of this worker in the ledger: its outbox, its instance and the ones before it. Flushes what earlier lives left,
 * ends them and returns their rows; goes on as a new instance when the current one was ended.
 */
import { type Db, readClusterId } from '../../db/index.ts'
import type { Log } from '../../lib/log.ts'
import type { InstanceInfo, Instances } from '../cluster/index.ts'
import type { Allotments } from './allotments.ts'
import type { Flush } from './flush.ts'
import type { Outbox } from './outbox.ts'
import type { Outboxes } from './outboxes.ts'

const CLUSTER_ID = 'cluster_id'

export function createTenure(deps: {
  readonly db: Db
  readonly log: Log
  readonly clock: { now(): number }
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
  const { db, log, clock, outboxes, instances, allotments, flush } = deps
  let own: Outbox | undefined
  let clusterId = ''
  let id = ''
  let sharing = 1
  let renewing: Promise<void> | undefined

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

  /** Ends the earlier instances of an outbox whose charges the main database has; forgets those that are done. */
  const finish = async (outbox: Outbox): Promise<void> => {
    for (const tenure of outbox.tenures()) {
      const { instanceId } = tenure
      const last = outbox.lastSeq(instanceId)
      if (tenure.instanceId === outbox.current()?.instanceId || tenure.main.seq < last) continue
      await instances.setState([instanceId], 'gone')
      const returned = await allotments.returnAll(instanceId)
      if (returned > 0)
        log.info('what an earlier instance had parked is returned', { instanceId, quotaUnits: returned })
      if (tenure.log.seq >= last && (await deps.settle())) outbox.forget(instanceId)
    }
    if (outbox !== own && outbox.tenures().length === 0) outboxes.release(outbox)
  }

  const finishAll = async (): Promise<void> => {
    let failure: { readonly error: unknown } | undefined
    for (const outbox of outboxes.all()) {
      try {
        await finish(outbox)
      } catch (error) {
        failure = { error }
      }
    }
    if (failure) throw failure.error
  }

  /** On a database of our own nobody else lives: whoever has rows is dead, wherever its outbox went. */
  const returnOthers = async (): Promise<void> => {
    const ours = new Set(outboxes.all().flatMap((outbox) => outbox.tenures().map((tenure) => tenure.instanceId)))
    const working = (await instances.working()).filter((other) => !ours.has(other))
    await instances.setState(working, 'gone')
    for (const holder of await allotments.holders()) if (!ours.has(holder)) await allotments.returnAll(holder)
  }

  const count = async (): Promise<void> => {
    sharing = Math.max(1, (await instances.working()).length)
  }

  const renew = (outbox: Outbox, why: string): Promise<void> =>
    flush.between(async () => {
      const before = id
      const next = Bun.randomUUIDv7()
      outbox.begin(next)
      id = next
      deps.onRenewed()
      log.error('this instance has ended; another goes on in its place', { before, after: next, why })
      await instances.register(next, deps.instance)
    })

  const end = async (ended: string): Promise<void> => {
    if (!own || ended !== id) return
    const state = await instances.stateOf(ended)
    if (ended !== id || state === 'live' || state === 'draining') return
    if (state === 'missing') await instances.register(ended, deps.instance)
    else await renew(own, state)
  }

  return {
    id: (): string => id,
    instances: (): number => sharing,
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
      await instances.register(id, deps.instance)
      await count()
      return own
    },
    /** Flushes, ends and returns what earlier lives left here. @returns false: not all of it yet, call again */
    async settleEarlier(): Promise<boolean> {
      outboxes.adopt(checkCluster)
      const isFlushed = await flush.main()
      await finishAll()
      return isFlushed
    },
    /** Only where one node alone has the database: rows of all other instances are left over then. */
    returnOthers,

    /** The current instance was found ended, or its row is missing. Resolves when one may go on. */
    ended(ended: string): Promise<void> {
      renewing ??= end(ended).finally(() => {
        renewing = undefined
      })
      return renewing
    },
    /** The database does not fit the outbox of this instance. */
    async misfit(instanceId: string): Promise<void> {
      if (own && instanceId === id) await renew(own, 'the database does not fit the outbox')
    },
    /** Shows that this instance lives. */
    async beat(): Promise<void> {
      const beating = id
      const state = await instances.beat(beating)
      if (state !== 'live') await this.ended(beating)
      await count()
    },
    count,
    setDraining: (): Promise<void> => instances.setState([id], 'draining'),
    /** Returns all rows of this instance and ends it. Everything must be flushed, nothing held. */
    async leave(): Promise<void> {
      if (!own) return
      own.end()
      await finish(own)
    },
    /** Forgets, in the files, the instances of which nothing is left to do. */
    finish: finishAll,
  }
}
