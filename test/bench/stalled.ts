/**
 * Readers that stall: clients that ask for a fast stream, take its beginning and read no more. What they cost in memory, that
 * it comes to rest, and what a small call costs and waits beside them. Run as a program, it is the crowd of clients.
 */
import { eventually } from '../support/eventually.ts'
import { requestOf } from './connection.ts'
import { type Gateway, openGateway } from './gateway.ts'
import { cpuOf, residentOf } from './processes.ts'
import type { Program, Rig } from './rig.ts'
import type { Row } from './table.ts'
import { PATHS, streamBody } from './wire.ts'

export interface StalledSizes {
  readonly rounds: number
  readonly readers: number
}

/** Chunks of 8 kB, more than any buffer on the way holds. */
const FAST = { chunks: 100_000, paceMs: 0, padChars: 8_000 } as const
const SMALL = { perSecond: 200, count: 800, unmeasured: 100 } as const
const WARM_UP = { ...SMALL, count: 2_000 } as const
const KEYS = 20
/** A program that moves on uses more of a processor than this. */
const AT_REST = 0.1
const LOOK_MS = 1_000
const REST_MS = 120_000
/** How long what is at rest is watched. */
const WATCHED_MS = 5_000
/** What the runtime may hold of each before it holds the upstream back: it reads up to a megabyte ahead. */
const MB_PER_READER = 2
/** Connections opened within one turn; more at once would only fill the listener's queue. */
const WAVE = 50

interface Crowd {
  readonly url: string
  readonly keys: readonly string[]
  readonly readers: number
}

export async function measureStalled(rig: Rig, { rounds, readers }: StalledSizes): Promise<readonly Row[]> {
  const own = figures()
  const bare = figures()
  for (let round = 0; round < rounds; round++) {
    const reference = await rig.startReference()
    try {
      await measureOne(rig, { ...reference, workerPid: reference.pid, keys: ['any'] }, readers, bare)
    } finally {
      await reference.stop()
    }
    const gateway = await openGateway({
      folder: rig.folder,
      engine: 'sqlite',
      upstreamUrl: rig.mock.url,
      keysPerUser: KEYS,
    })
    try {
      const calls = await measureOne(rig, { ...gateway, pid: gateway.supervisorPid, gateway }, readers, own)
      // Who left is billed for what was produced until then.
      await gateway.settled(calls + readers)
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
      values: own.cpu.beside,
      reference: own.cpu.alone,
      aim: { kind: 'at most × reference', times: 1.2 },
    },
    ...(['p50', 'p99'] as const).map(
      (name): Row => ({
        figure: `small call beside ${crowd}, ${name}; reference: without them`,
        unit: 'ms',
        values: own[name].beside,
        reference: own[name].alone,
      }),
    ),
  ]
}

const pair = () => ({ alone: [] as number[], beside: [] as number[] })
const figures = () => ({ grown: [] as number[], growing: [] as number[], cpu: pair(), p50: pair(), p99: pair() })

interface Target {
  readonly url: string
  readonly keys: readonly string[]
  /** Of all its processes. */
  readonly pid: number
  readonly workerPid: number
  readonly gateway?: Gateway
}

/** @returns how many small calls were made */
async function measureOne(
  rig: Rig,
  target: Target,
  readers: number,
  into: ReturnType<typeof figures>,
): Promise<number> {
  const { url, keys, pid, workerPid } = target
  let calls = 0
  const small = async (at: 'alone' | 'beside'): Promise<void> => {
    const start = await cpuOf(pid)
    const { timesMs } = await rig.time({ kind: 'timed', url, keys, ...SMALL })
    into.cpu[at].push(((await cpuOf(pid)) - start) / SMALL.count)
    into.p50[at].push(timesMs[Math.floor(timesMs.length * 0.5)]!)
    into.p99[at].push(timesMs[Math.floor(timesMs.length * 0.99)]!)
    calls += SMALL.count
  }
  await rig.time({ kind: 'timed', url, keys, ...WARM_UP })
  calls += WARM_UP.count
  await small('alone')
  const before = await residentOf(workerPid)
  const crowd: Program = await rig.start('stalled.ts', JSON.stringify({ url, keys, readers } satisfies Crowd))
  try {
    await atRest(pid)
    const rested = await residentOf(workerPid)
    await Bun.sleep(WATCHED_MS)
    into.grown.push((rested - before) / readers)
    into.growing.push(Math.max(0, (await residentOf(workerPid)) - rested))
    await small('beside')
  } finally {
    await crowd.stop()
  }
  return calls
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
