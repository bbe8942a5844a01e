/** Looks once which nodes live: by watching their beats move, never by comparing clocks. For whoever is no instance yet. */
import type { Db } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import { readAgreed, readPeers } from './fingerprints.ts'

const LOOK_MS = 250

/**
 * @param query.exceptNodeId a node whose instances do not count
 * @param query.leaseMs of the one who asks; the cluster's, if that is longer, is waited for as well
 * @param query.onWait told the nodes whose beats are waited for
 * @returns names of the nodes that live: at once when one moves or nobody is there, else after a whole lease
 */
export async function findLivingNodes(
  db: Db,
  query: {
    readonly exceptNodeId?: string
    readonly leaseMs: number
    readonly clock: Clock
    readonly onWait: (nodes: readonly string[]) => void
  },
): Promise<readonly string[]> {
  const { exceptNodeId, leaseMs, clock, onWait } = query
  const others = async () =>
    (await readPeers(db)).filter(({ nodeId }) => nodeId === undefined || nodeId !== exceptNodeId)
  const first = await others()
  if (first.length === 0) return []
  onWait([...new Set(first.map(({ node }) => node))])
  const beats = new Map(first.map(({ id, beat }) => [id, beat]))
  const clusterLeaseMs = Number((await readAgreed(db))?.LEDGER_LEASE ?? 0) * 1000
  const until = clock.monotonic() + Math.max(leaseMs, clusterLeaseMs)
  while (clock.monotonic() < until) {
    await Bun.sleep(LOOK_MS)
    const now = await others()
    const living = now.filter(({ id, beat }) => beats.get(id) !== beat)
    if (living.length > 0) return [...new Set(living.map(({ node }) => node))]
    if (now.length === 0) return []
  }
  return []
}
