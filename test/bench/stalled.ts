/**
 * Readers that stall: clients that ask for a fast stream, take its beginning and read no more. What they cost in memory, that
 * it comes to rest, and what a small call costs and waits beside them. Run as a program, it is the crowd of clients.
 */
import { eventually } from '../support/eventually.ts'
import { callGateway, callProgram } from './calls.ts'
import { requestOf } from './connection.ts'
import { openGateway } from './gateway.ts'
import { cpuOf, residentOf } from './processes.ts'
import type { Rig } from './rig.ts'
import type { Row } from './table.ts'
import { PATHS, streamBody } from './wire.ts'

export interface StalledSizes {
  readonly rounds: number
  readonly readers: number
}

/** Chunks of 8 kB, more than any buffer on the way holds. */
const FAST = { chunks: 100_000, paceMs: 0, padChars: 8_000 } as const
const SMALL = { perSecond: 300, count: 900, unmeasured: 100 } as const
const KEYS = 20
/** A program that moves on uses more of a processor than this. */
const AT_REST = 0.1
const WARM_UP_CALLS = 10_000
const LOOK_MS = 500
const REST_MS = 120_000
/** How long what is at rest is watched. */
const WATCHED_MS = 3_000
/** Of each: the runtime reads up to a megabyte ahead before it holds the upstream back, and a chunk in hand is another. */
const MB_PER_READER = 4
/** Connections opened within one turn; more at once would only fill the listener's queue. */
const WAVE = 50

interface Crowd {
  readonly url: string
  readonly keys: readonly string[]
  readonly readers: number
}

export async function measureStalled(rig: Rig, { rounds, readers }: StalledSizes): Promise<readonly Row[]> {
  const own = { grown: [] as number[], growing: [] as number[] }
  const bare = { grown: [] as number[], growing: [] as number[] }
  const [alone, beside, bareBeside] = [times(), times(), times()]
  const small = async (url: string, keys: readonly string[], pid: number, into: ReturnType<typeof times>) => {
    const start = await cpuOf(pid)
    const { timesMs } = await rig.time({ kind: 'timed', url, keys, ...SMALL })
    into.cpu.push(((await cpuOf(pid)) - start) / SMALL.count)
    into.p50.push(timesMs[Math.floor(timesMs.length * 0.5)]!)
    into.p99.push(timesMs[Math.floor(timesMs.length * 0.99)]!)
  }
  for (let round = 0; round < rounds; round++) {
    const reference = await rig.startReference()
    try {
      const { url, pid } = reference
      const keys = ['any']
      await callProgram(rig, reference, WARM_UP_CALLS)
      await withCrowd(rig, { url, keys, readers }, pid, bare, () => small(url, keys, pid, bareBeside))
    } finally {
      await reference.stop()
    }
    const common = { folder: rig.folder, engine: 'sqlite', upstreamUrl: rig.mock.url, keysPerUser: KEYS } as const
    const gateway = await openGateway(common)
    try {
      const { url, keys, supervisorPid, workerPid } = gateway
      await callGateway(rig, gateway, WARM_UP_CALLS)
      await small(url, keys, supervisorPid, alone)
      await withCrowd(rig, { url, keys, readers }, workerPid, own, () => small(url, keys, supervisorPid, beside))
      // Who left is billed for what was produced until then.
      await gateway.settled(2 * SMALL.count + readers, readers)
    } finally {
      await gateway.close()
    }
  }
  const crowd = `${readers} stalled readers`
  return [
    {
      figure: `${crowd}: worker grows by, for each`,
      unit: 'MB',
      values: own.grown,
      reference: bare.grown,
      aim: { kind: 'at most', value: MB_PER_READER },
    },
    {
      figure: `${crowd}: and in ${WATCHED_MS / 1000} s more, in all`,
      unit: 'MB',
      values: own.growing,
      reference: bare.growing,
      aim: { kind: 'at most', value: MB_PER_READER },
    },
    {
      figure: `small call beside ${crowd}; reference: without them`,
      unit: 'µs CPU',
      values: beside.cpu,
      reference: alone.cpu,
      aim: { kind: 'at most × reference', times: 1.2 },
    },
    ...PERCENTILES.flatMap((name): Row[] => [
      { figure: `small call before, ${name}`, unit: 'ms', values: alone[name] },
      {
        figure: `small call beside ${crowd}, ${name}; reference: bare proxy beside its own`,
        unit: 'ms',
        values: beside[name],
        reference: bareBeside[name],
      },
    ]),
  ]
}

const PERCENTILES = ['p50', 'p99'] as const
const times = () => ({ cpu: [] as number[], p50: [] as number[], p99: [] as number[] })

interface Grown {
  /** MB for each reader, when they had come to rest. */
  readonly grown: number[]
  /** MB in all, since then. */
  readonly growing: number[]
}

/** @param beside work while the crowd stands still */
async function withCrowd(
  rig: Rig,
  crowd: Crowd,
  workerPid: number,
  into: Grown,
  beside?: () => Promise<void>,
): Promise<void> {
  const before = await residentOf(workerPid)
  const program = await rig.start('stalled.ts', JSON.stringify(crowd))
  try {
    await atRest(workerPid)
    const rested = await residentOf(workerPid)
    await Bun.sleep(WATCHED_MS)
    into.grown.push((rested - before) / crowd.readers)
    into.growing.push(Math.max(0, (await residentOf(workerPid)) - rested))
    await beside?.()
  } finally {
    await program.stop()
  }
}

/** An upstream that is not held back never comes to rest. */
async function atRest(pid: number): Promise<void> {
  let last = await cpuOf(pid)
  await eventually(
    'the streams stand still',
    async () => {
      await Bun.sleep(LOOK_MS)
      const used = (await cpuOf(pid)) - last
      last += used
      return used < AT_REST * LOOK_MS * 1_000
    },
    { withinMs: REST_MS },
  )
}

async function stall({ url, keys, readers }: Crowd): Promise<void> {
  const { hostname, port } = new URL(url)
  const open = async (id: number): Promise<void> => {
    const key = keys[id % keys.length]!
    const request = requestOf(url, PATHS.chat, { Authorization: `Bearer ${key}` }, streamBody('chat', { id, ...FAST }))
    const stalled = Promise.withResolvers<void>()
    await Bun.connect({
      hostname,
      port: Number(port),
      socket: {
        open: (socket) => void socket.write(request),
        data(socket) {
          socket.pause()
          stalled.resolve()
        },
      },
    })
    return stalled.promise
  }
  const all: Promise<void>[] = []
  for (let id = 0; id < readers; id++) {
    all.push(open(id))
    if (id % WAVE === WAVE - 1) await Bun.sleep(20)
  }
  await Promise.all(all)
}

if (import.meta.main) {
  await stall(JSON.parse(process.argv[2] ?? '{}') as Crowd)
  console.log('stalled')
}
