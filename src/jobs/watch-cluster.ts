/**
 * Looks for what an operator should hear of: nodes that are lost, a cluster without a master, an outbox that grows. Every
 * node looks, since the one that should may be the one that is lost; the alerts are told once all the same.
 */
import type { ClusterView } from '../domain/cluster/index.ts'
import type { Alerts } from '../domain/notify/index.ts'
import type { Job } from './job.ts'

export interface ClusterWatch {
  /** Absent: another worker of the node looks at the cluster. */
  readonly nodes?: (() => Promise<Pick<ClusterView, 'nodes' | 'nowMs'>>) | undefined
  readonly nodeName: string
  /** How long the oldest charge on the disk of this worker has waited for a database, ms; 0: none waits. */
  readonly oldestChargeMs: () => number
  /** Longer than this none should wait, ms. */
  readonly patienceMs: number
  readonly raise: Alerts['raise']
  readonly everyMs?: number
}

const EVERY_MS = 10_000
/** A rolling update leaves the cluster without a master for less than these looks. */
const LOOKS = 3
/** A node that was lost longer ago is no news. */
const NEWS_MS = 600_000

export function watchClusterJob(deps: ClusterWatch): Job {
  const { nodes: readNodes, nodeName, oldestChargeMs, patienceMs, raise, everyMs = EVERY_MS } = deps
  let looksWithoutMaster = 0
  return {
    name: 'watch-cluster',
    everyMs,
    on: 'every-node',
    timeoutMs: 30_000,
    async run() {
      const waitedMs = oldestChargeMs()
      if (waitedMs === 0)
        raise({ kind: 'outbox-growing', key: nodeName, text: `No charge waits on ${nodeName} any more.`, isOver: true })
      else if (waitedMs > patienceMs)
        raise({
          kind: 'outbox-growing',
          key: nodeName,
          text: `Charges have waited on the disk of ${nodeName} for ${Math.round(waitedMs / 1000)} s: a database does not take them.`,
        })
      if (!readNodes) return
      const { nodes, nowMs } = await readNodes()
      for (const node of nodes) {
        if (node.state === 'live')
          raise({ kind: 'node-lost', key: node.name, text: `The node ${node.name} is back.`, isOver: true })
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
      if (isThere) raise({ kind: 'no-master', key: 'cluster', text: 'A master is there again.', isOver: true })
      if (looksWithoutMaster >= LOOKS)
        raise({
          kind: 'no-master',
          key: 'cluster',
          text: 'No master is there: calls go on, but clean-up, channel tests and schema changes wait.',
        })
    },
  }
}
