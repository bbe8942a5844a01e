/** Kills of workers and of whole nodes at random moments, in calm and in the middle of a start. */
import type { seeded } from '../protocol/random.ts'
import { eventually } from '../support/eventually.ts'
import { killProcess, type RealNode } from '../support/node.ts'
import type { Moment } from './money.ts'

export interface Kills {
  readonly workers: number
  readonly nodes: number
  readonly moments: readonly Moment[]
}

/**
 * Resolves when every node is ready again with all its workers.
 * @param options.workers of each node
 * @param options.around goes on around each kill, e.g. takes Redis away
 */
export async function killAtRandom(
  nodes: readonly RealNode[],
  options: {
    readonly workers: number
    readonly count: number
    readonly random: ReturnType<typeof seeded>
    readonly around?: (kill: () => Promise<void>) => Promise<void>
  },
): Promise<Kills> {
  const { workers, count, random, around = (kill) => kill() } = options
  const moments: Moment[] = []
  const killedPids = new Set<number>()
  // A supervisor waits longer before each start of a worker that keeps dying; a new one does not.
  const sinceNode = new Map<RealNode, number>()
  const killed = { workers: 0, nodes: 0 }

  const killNode = async (node: RealNode): Promise<void> => {
    const fromMs = Date.now()
    await node.kill()
    moments.push({ fromMs, toMs: Date.now() })
    node.start()
    killed.nodes += 1
    sinceNode.set(node, 0)
  }
  const killWorker = async (node: RealNode): Promise<void> => {
    const pids = await eventually('a worker lives', async () => {
      const alive = await node.workerPids()
      return alive.length > 0 ? alive : undefined
    })
    const fromMs = Date.now()
    const pid = random.pick(pids)
    killProcess(pid)
    killedPids.add(pid)
    moments.push({ fromMs, toMs: Date.now() })
    killed.workers += 1
    sinceNode.set(node, (sinceNode.get(node) ?? 0) + 1)
  }

  while (moments.length < count) {
    const node = random.pick(nodes)
    if (random.chance(0.75)) {
      await node.ready()
      await Bun.sleep(200 + random.int(1_300))
    } else await Bun.sleep(random.int(500))
    const isNode = (sinceNode.get(node) ?? 0) >= 5 || random.chance(0.25)
    await around(() => (isNode ? killNode(node) : killWorker(node)))
  }
  for (const node of nodes) {
    // Until a killed worker has its successor, the node's readiness does not know of its death.
    await eventually(
      'every killed worker has a successor',
      async () => {
        const pids = await node.workerPids()
        return pids.length === workers && !pids.some((pid) => killedPids.has(pid))
      },
      { withinMs: 60_000 },
    )
    await node.ready(60_000)
  }
  return { ...killed, moments }
}
