/**
 * Large bodies: 8 requests of 10 MB at once on one worker. What is resident at most, compared with the bytes in flight, and
 * how much longer small calls beside them wait. The upstream compares what arrives with what was sent. Runnable as that
 * upstream and as the two generators, each a process of its own, so that none of them makes another wait.
 */
import { openGateway } from './gateway.ts'
import { cpuOf, peakOf, resetPeak, residentOf } from './processes.ts'
import type { Program, Rig } from './rig.ts'
import type { Row } from './table.ts'
import { CALL_BODY, CALL_REPLY, MODEL, PATHS } from './wire.ts'

const BODY_BYTES = 10_000_000
const AT_ONCE = 8
/** How long the upstream thinks, so that all bodies are in flight together. */
const THINK_MS = 300
/** Small calls start every so often, whether or not those before them have ended. */
const PACE_MS = 5
const ALONE_MS = 2_000
const WARM_UP_MS = 3_000
const SETTLE_MS = 1_500
const KEYS = 20

const KINDS = {
  image: 'an image',
  text: 'long texts',
  converted: 'long texts, converted',
} as const
type Kind = keyof typeof KINDS

export interface BodySizes {
  readonly rounds: number
  /** Large bodies of each kind and round. */
  readonly bodies: number
}

interface Target {
  readonly url: string
  readonly pid: number
  readonly keys: readonly string[]
}

export async function measureBodies(rig: Rig, sizes: BodySizes): Promise<readonly Row[]> {
  const rows: Row[] = []
  const upstream = await rig.start(FILE, 'upstream')
  try {
    for (const kind of Object.keys(KINDS) as Kind[]) {
      const own = emptyFigures()
      const bare = emptyFigures()
      for (let round = 0; round < sizes.rounds; round++) {
        await withReference(rig, upstream, (target) => measureRound(rig, target, kind, sizes.bodies, bare))
        // A worker of its own each time: its peak starts from an idle node.
        const gateway = await openGateway({
          folder: rig.folder,
          engine: 'sqlite',
          upstreamUrl: upstream.url,
          keysPerUser: KEYS,
        })
        try {
          const target = { url: gateway.url, pid: gateway.workerPid, keys: gateway.keys }
          await gateway.settled(await measureRound(rig, target, kind, sizes.bodies, own))
        } finally {
          await gateway.close()
        }
      }
      // The bare proxy converts nothing.
      const reference = (values: readonly number[]) => (kind === 'converted' ? {} : { reference: values })
      const figure = `${AT_ONCE} bodies of 10 MB, ${KINDS[kind]}`
      rows.push(
        {
          figure: `${figure}: peak above idle`,
          unit: 'MB',
          values: own.peak,
          ...reference(bare.peak),
          aim: { kind: 'at most', value: (3 * AT_ONCE * BODY_BYTES) / 1e6 },
        },
        {
          figure: `${figure}: small calls wait longer, p99`,
          unit: 'ms',
          values: own.wait,
          ...reference(bare.wait),
          aim: { kind: 'at most', value: 20 },
        },
        { figure: `${figure}: each`, unit: 'ms CPU', values: own.cpu, ...reference(bare.cpu) },
      )
    }
  } finally {
    await upstream.stop()
  }
  return rows
}

const emptyFigures = () => ({ peak: [] as number[], wait: [] as number[], cpu: [] as number[] })

/** @returns how many calls were made */
async function measureRound(
  rig: Rig,
  { url, pid, keys }: Target,
  kind: Kind,
  bodies: number,
  figures: ReturnType<typeof emptyFigures>,
): Promise<number> {
  const small = (ms: number) => runSmall(rig, { url, keys, ms })
  const warm = await small(WARM_UP_MS)
  const alone = await small(ALONE_MS)
  await Bun.sleep(SETTLE_MS)
  const idle = await residentOf(pid)
  await resetPeak(pid)
  const [start, startedAtMs] = [await cpuOf(pid), performance.now()]
  await rig.run(FILE, 'large', JSON.stringify({ url, keys, kind, bodies } satisfies LargeJob))
  const ms = performance.now() - startedAtMs
  figures.cpu.push(((await cpuOf(pid)) - start) / bodies / 1000)
  const isolatedPeak = await peakOf(pid)
  // Again with small calls beside them; the peak is that of both.
  const [beside] = await Promise.all([
    small(ms),
    rig.run(FILE, 'large', JSON.stringify({ url, keys, kind, bodies } satisfies LargeJob)),
  ])
  figures.peak.push(Math.max(isolatedPeak, await peakOf(pid)) - idle)
  figures.wait.push(Math.max(0, beside.p99Ms - alone.p99Ms))
  return warm.calls + alone.calls + beside.calls + 2 * bodies
}

async function withReference(rig: Rig, upstream: Program, work: (target: Target) => Promise<unknown>): Promise<void> {
  const reference = await rig.startReference(upstream.url)
  try {
    await work({ url: reference.url, pid: reference.pid, keys: ['any'] })
  } finally {
    await reference.stop()
  }
}

// What goes over the wire

/** Not the same over and over, or a processor would guess it. */
const PARAGRAPH =
  'The quick brown fox, aged 12, jumps over "lazy" dogs.\nIt does so each morning (at 7:30 a.m.), and nobody minds: Füchse sind schlau, 狐狸也是。\n'

/** @returns what the client sends and, where the bytes are forwarded, what must arrive */
function bodyOf(kind: Kind): { readonly sent: string; readonly arrives: string } {
  const head = `"model":${JSON.stringify(MODEL)},"max_tokens":64`
  if (kind === 'image') {
    const noise = Buffer.from(noiseBytes(3 << 16)).toString('base64')
    const url = `data:image/png;base64,${noise.repeat(Math.ceil(BODY_BYTES / noise.length)).slice(0, BODY_BYTES)}`
    const content = [
      { type: 'text', text: 'What is it?' },
      { type: 'image_url', image_url: { url } },
    ]
    const sent = `{${head},"messages":${JSON.stringify([{ role: 'user', content }])}}`
    return { sent, arrives: sent }
  }
  const each = PARAGRAPH.repeat(600)
  const messages = Array.from({ length: Math.ceil(BODY_BYTES / Buffer.byteLength(JSON.stringify(each))) }, (_, at) => ({
    role: at % 2 === 0 ? 'user' : 'assistant',
    content: each,
  }))
  const rest = `"messages":${JSON.stringify(messages)}}`
  // A field that a channel must allow is taken out of the bytes.
  return { sent: `{${head},"service_tier":"auto",${rest}`, arrives: `{${head},${rest}` }
}

/** The same in every process. */
function noiseBytes(length: number): Uint8Array {
  let state = 1
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return state >>> 24
  })
}

interface LargeJob {
  readonly url: string
  readonly keys: readonly string[]
  readonly kind: Kind
  readonly bodies: number
}

/** A closed loop of `AT_ONCE` connections. */
async function sendLarge({ url, keys, kind, bodies }: LargeJob): Promise<void> {
  const body = new Blob([bodyOf(kind).sent])
  let begun = 0
  const loop = async (): Promise<void> => {
    while (begun < bodies) {
      const key = keys[begun++ % keys.length]
      await post(`${url}${PATHS[kind === 'converted' ? 'claude' : 'chat']}`, key, body, kind === 'converted')
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, loop))
}

async function post(url: string, key: string | undefined, body: string | Blob, isConverted = false): Promise<void> {
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${key}` }
  const answer = await fetch(url, { method: 'POST', headers, body })
  const text = await answer.text()
  if (answer.status !== 200 || (text !== CALL_REPLY && !isConverted))
    throw new Error(`${answer.status} ${text.slice(0, 300)}`)
}

interface SmallJob {
  readonly url: string
  readonly keys: readonly string[]
  readonly ms: number
}

interface SmallResult {
  readonly calls: number
  /** From the intended start to the whole answer. */
  readonly p99Ms: number
}

const runSmall = async (rig: Rig, job: SmallJob): Promise<SmallResult> =>
  JSON.parse(await rig.run(FILE, 'small', JSON.stringify(job))) as SmallResult

async function sendSmall({ url, keys, ms }: SmallJob): Promise<SmallResult> {
  const startedAtMs = performance.now()
  const waits: number[] = []
  const calls: Promise<void>[] = []
  for (let number = 0; number * PACE_MS < ms; number++) {
    const dueAtMs = startedAtMs + number * PACE_MS
    const early = dueAtMs - performance.now()
    if (early > 0) await Bun.sleep(early)
    const call = post(`${url}${PATHS.chat}`, keys[number % keys.length], CALL_BODY)
    calls.push(call.then(() => void waits.push(performance.now() - dueAtMs)))
  }
  await Promise.all(calls)
  waits.sort((a, b) => a - b)
  return { calls: waits.length, p99Ms: waits[Math.floor(waits.length * 0.99)] ?? 0 }
}

/**
 * Answers a small call at once and a large one after a while, if it is to the byte what was sent. Looks at it piece by
 * piece, so that small calls do not wait for the upstream.
 */
function startUpstream(): string {
  const digest = (...parts: readonly (Uint8Array | string)[]): string => {
    const hasher = new Bun.CryptoHasher('sha1')
    for (const part of parts) hasher.update(part)
    return hasher.digest('hex')
  }
  const messagesOf = (body: string): string => JSON.stringify((JSON.parse(body) as { messages: unknown }).messages)
  const good = new Set((Object.keys(KINDS) as Kind[]).map((kind) => digest(bodyOf(kind).arrives)))
  const converted = digest(messagesOf(bodyOf('converted').sent))
  const headers = { 'content-type': 'application/json' }
  const server = Bun.serve({
    hostname: '127.0.0.1',
    port: 0,
    idleTimeout: 0,
    async fetch(request) {
      const parts: Uint8Array[] = []
      const hasher = new Bun.CryptoHasher('sha1')
      for await (const part of request.body ?? []) {
        parts.push(part)
        hasher.update(part)
      }
      if (parts.length === 1 && parts[0]!.length < BODY_BYTES / 2) return new Response(CALL_REPLY, { headers })
      const hash = hasher.digest('hex')
      // Read once; after that it must be the same to the byte.
      if (!good.has(hash) && digest(messagesOf(Buffer.concat(parts).toString())) === converted) good.add(hash)
      await Bun.sleep(THINK_MS)
      return good.has(hash) ? new Response(CALL_REPLY, { headers }) : new Response('another body', { status: 400 })
    },
  })
  return server.url.origin
}

const FILE = 'bodies.ts'
if (import.meta.main) {
  const [role, job = '{}'] = process.argv.slice(2)
  if (role === 'upstream') console.log(startUpstream())
  else if (role === 'large') await sendLarge(JSON.parse(job) as LargeJob)
  else console.log(JSON.stringify(await sendSmall(JSON.parse(job) as SmallJob)))
}
