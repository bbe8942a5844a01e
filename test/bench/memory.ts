/** Memory with thousands of slow streams open on one worker, compared to the byte with what was sent. */
import { openGateway } from './gateway.ts'
import { residentOf } from './processes.ts'
import type { Program, Rig } from './rig.ts'
import type { Row } from './table.ts'

const PACE_MS = 1_000
const AIMS_MB = new Map([
  [3_000, 250],
  [5_000, 400],
])
const KEYS = 20
const SETTLE_MS = 2_500
const SAMPLE_MS = 250

export interface MemorySizes {
  readonly rounds: number
  readonly streams: readonly number[]
  /** Of each stream, one a second: enough that all are open together also on a busy machine. */
  readonly chunks: number
}

export async function measureMemory(rig: Rig, sizes: MemorySizes): Promise<readonly Row[]> {
  const crowds = sizes.streams.map((count) => ({
    count,
    bare: [] as number[],
    worker: [] as number[],
    lost: [] as number[],
    open: [] as number[],
  }))
  /** @returns the most that was resident while `count` streams were open, in MB, and how they went */
  const crowd = async (url: string, keys: readonly string[], pid: number, count: number) => {
    const shape = { streams: count, open: count, chunks: sizes.chunks, paceMs: PACE_MS }
    const job = { kind: 'streams', url, keys, dialect: 'chat', ...shape } as const
    let most = 0
    let isOver = false
    const sampling = (async () => {
      while (!isOver) {
        most = Math.max(most, await residentOf(pid))
        await Bun.sleep(SAMPLE_MS)
      }
    })()
    const result = await rig.load(job, true).finally(() => {
      isOver = true
    })
    await sampling
    return { most, result }
  }

  for (let round = 0; round < sizes.rounds; round++) {
    for (const { count, bare, worker, lost, open } of crowds) {
      await withReference(rig, async ({ url, pid }) => {
        await Bun.sleep(SETTLE_MS)
        bare.push((await crowd(url, ['any'], pid, count)).most)
      })
      const gateway = await openGateway({
        folder: rig.folder,
        engine: 'sqlite',
        upstreamUrl: rig.mock.url,
        keysPerUser: KEYS,
      })
      try {
        const { url, keys, workerPid } = gateway
        await Bun.sleep(SETTLE_MS)
        const { most, result } = await crowd(url, keys, workerPid, count)
        worker.push(most)
        lost.push(result.lostEvents + (count - result.good))
        open.push(result.openAtOnce)
        if (result.failures.length > 0) process.stderr.write(`${result.failures.join('\n')}\n`)
        if (result.good === count) await gateway.settled(count)
      } finally {
        await gateway.close()
      }
    }
  }
  return [
    ...crowds.flatMap(({ count, bare, worker, lost, open }): Row[] => [
      {
        figure: `${count} slow streams: worker`,
        unit: 'MB',
        values: worker,
        reference: bare,
        aim: { kind: 'at most', value: AIMS_MB.get(count) ?? 0 },
      },
      { figure: `${count} slow streams: events lost`, unit: '', values: lost, aim: { kind: 'at most', value: 0 } },
      { figure: `${count} slow streams: open at once`, unit: '', values: open },
    ]),
  ]
}

async function withReference(rig: Rig, work: (reference: Program) => Promise<void>): Promise<void> {
  const reference = await rig.startReference()
  try {
    await work(reference)
  } finally {
    await reference.stop()
  }
}
