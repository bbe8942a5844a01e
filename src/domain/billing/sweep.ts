/**
 * Ends instances that nobody has heard of for long, and returns what ended instances had to the balances. Work of one master
 * at a time; done by two at once, or cut off anywhere, it comes out the same.
 */
import { eachOf } from '../../lib/each-of.ts'
import type { Log } from '../../lib/log.ts'
import type { Instances, Silent, Watch } from '../cluster/index.ts'
import type { Allotments } from './allotments.ts'
import { parseAccount } from './kinds.ts'

export type Sweep = (signal: AbortSignal) => Promise<void>

export function createSweep(deps: {
  readonly watch: Watch
  readonly instances: Instances
  readonly allotments: Allotments
  readonly log: Log
  /** 2L: an instance lives by what it has for one lease, and clocks need not run alike */
  readonly silenceMs: number
}): Sweep {
  const { watch, instances, allotments, log, silenceMs } = deps

  const endSilent = async ({ id, node, beat }: Silent): Promise<void> => {
    // Only if it still is as it was seen: a beat that comes now is faster, or too late.
    const isEnded = beat === undefined ? await instances.bury(id) : await instances.reclaim({ id, beat })
    if (isEnded) log.error('an instance was silent for two leases and is ended', { instanceId: id, node })
  }

  /** One row per transaction: a sweeper that freezes in one keeps a single account waiting. */
  const returnRows = async (instanceId: string, signal: AbortSignal): Promise<void> => {
    let returned = 0
    await eachOf(await allotments.own(instanceId), async ({ account }) => {
      signal.throwIfAborted()
      // Of a kind that only a later release knows: a later release returns it.
      if (parseAccount(account)) returned += await allotments.returnOne(instanceId, account)
    })
    if (returned > 0) log.info('what an ended instance had parked is returned', { instanceId, quotaUnits: returned })
  }

  return async (signal) => {
    await watch.read()
    // What cannot be written, since somebody froze with a lock on it, keeps nothing of the others here.
    const ending = eachOf(watch.silent(silenceMs), endSilent)
    const failure = await ending.then(
      () => undefined,
      (error: unknown) => ({ error }),
    )
    await watch.read()
    await eachOf(watch.ended(), (id) => returnRows(id, signal))
    if (failure) throw failure.error
  }
}
