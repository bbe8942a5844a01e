/**
 * Ends instances that nobody has heard of for long, and returns what ended instances had to the balances. Work of one master
 * at a time; done by two at once, or cut off anywhere, it comes out the same.
 */
import type { Log } from '../../lib/log.ts'
import type { Instances, Watch } from '../cluster/index.ts'
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

  const endSilent = async (): Promise<void> => {
    for (const { id, node, beat } of watch.silent(silenceMs)) {
      // Only if it still is as it was seen: a beat that comes now is faster, or too late.
      const isEnded = beat === undefined ? await instances.bury(id) : await instances.reclaim({ id, beat })
      if (isEnded) log.error('an instance was silent for two leases and is ended', { instanceId: id, node })
    }
  }

  /** One row per transaction: a sweeper that freezes in one keeps a single account waiting. */
  const returnRows = async (instanceId: string, signal: AbortSignal): Promise<void> => {
    let returned = 0
    let failure: { readonly error: unknown } | undefined
    for (const { account } of await allotments.own(instanceId)) {
      signal.throwIfAborted()
      // Of a kind that only a later release knows: a later release returns it.
      if (!parseAccount(account)) continue
      try {
        returned += await allotments.returnOne(instanceId, account)
      } catch (error) {
        // One account that cannot be written keeps nothing of the others here.
        failure = { error }
      }
    }
    if (returned > 0) log.info('what an ended instance had parked is returned', { instanceId, quotaUnits: returned })
    if (failure) throw failure.error
  }

  return async (signal) => {
    await watch.read()
    await endSilent()
    await watch.read()
    let failure: { readonly error: unknown } | undefined
    for (const id of watch.ended()) {
      signal.throwIfAborted()
      try {
        await returnRows(id, signal)
      } catch (error) {
        failure = { error }
      }
    }
    if (failure) throw failure.error
  }
}
