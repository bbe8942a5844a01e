/**
 * Looks for what an operator should hear of: nodes that are lost, a cluster without a master, an outbox that grows. Every
 * node looks, since the one that should may be the one that is lost; the alerts are told once all the same.
 */
import type { ClusterView } from '../domain/cluster/index.ts'
import type { Job } from './job.ts'

export interface ClusterWatch {
  readonly view: () => Promise<Pick<ClusterView, 'nodes' | 'nowMs'>>
  readonly nodeName: string
  /** Charges on the disk of this worker that a database does not have yet. */
  readonly unflushed: () => number
  readonly raise: (alert: { readonly kind: string; readonly key: string; readonly text: string }) => void
  readonly everyMs?: number
}

const EVERY_MS = 10_000
/** A rolling update leaves the cluster without a master for less than these looks. */
const LOOKS = 3
/** An outbox is emptied every few seconds; one that is not has at least this much in it. */
const MANY_CHARGES = 100
/** A node that was lost longer ago is no news. */
const NEWS_MS = 600_000

export function watchClusterJob({ view, nodeName, unflushed, raise, everyMs = EVERY_MS }: ClusterWatch): Job {
  let looksWithoutMaster = 0
  let looksGrown = 0
  let before = 0
  return {
    name: 'watch-cluster',
    everyMs,
    on: 'every-node',
    timeoutMs: 30_000,
    async run() {
      const now = unflushed()
      looksGrown = now >= MANY_CHARGES && now >= before ? looksGrown + 1 : 0
      before = now
      if (looksGrown >= LOOKS)
        raise({
          kind: 'outbox-growing',
          key: nodeName,
          text: `${now} charges wait on the disk of ${nodeName} and are not taken by the database.`,
        })

      const { nodes, nowMs } = await view()
      for (const node of nodes) {
        const toldAtMs = Math.max(...node.workers.map((worker) => worker.toldAtMs))
        if ((node.state === 'silent' || node.state === 'lost') && toldAtMs > 0 && nowMs - toldAtMs < NEWS_MS)
          raise({
            kind: 'node-lost',
            key: node.name,
            text: `The node ${node.name} was last heard of ${Math.round((nowMs - toldAtMs) / 1000)} s ago.`,
          })
      }
      const isThere = nodes.some(({ role, state }) => role === 'master' && (state === 'live' || state === 'draining'))
      looksWithoutMaster = isThere ? 0 : looksWithoutMaster + 1
      if (looksWithoutMaster >= LOOKS)
        raise({
          kind: 'no-master',
          key: 'cluster',
          text: 'No master is there: calls go on, but clean-up, channel tests and schema changes wait.',
        })
    },
  }
}
