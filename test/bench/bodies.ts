/**
 * Large bodies: 8 requests of 10 MB at once on one worker, and small calls beside them. What is resident at most, compared
 * with the bytes in flight, and how much longer the small calls take than alone. The upstream compares what arrives with
 * what was sent. Runnable as that upstream and as the generator, so that none of them makes another wait.
 */
import { openGateway } from './gateway.ts'
import { cpuOf, peakOf, resetPeak, residentOf } from './processes.ts'
import type { Program, Rig } from './rig.ts'
import type { Row } from './table.ts'
import { CALL_REPLY, PATHS } from './wire.ts'

/** Has an upstream of its own: small calls shall wait for the gateway alone. */
const MODEL = 'gpt-4o'
const BODY_BYTES = 10_000_000
const AT_ONCE = 8
/** How long the upstream thinks, so that all bodies are in flight together. */
const THINK_MS = 300
const SMALL_PER_SECOND = 200
const ALONE_SECONDS = 2
/** Until the engine has compiled what is hot. */
const WARM_UP_MS = 2_000
/** Until memory that small calls took for a moment is given back. */
const SETTLE_MS = 1_000
const KEYS = 20

const BODY_KINDS = {
  image: 'an image',
  text: 'long texts',
  converted: 'long texts, converted',
} as const
type Kind = keyof typeof BODY_KINDS

export interface BodySizes {
  readonly rounds: number
  /** How long bodies of each kind are sent. */
  readonly seconds: number
  readonly kinds: readonly Kind[]
}

interface Target {
  readonly url: string
  readonly pid: number
  readonly keys: readonly string[]
}

/** One value per round. */
interface Figures {
  /** MB above idle */
  readonly peak: number[]
  /** ms */
  readonly wait: number[]
  /** ms per body, small calls beside it included */
  readonly cpu: number[]
}

export async function measureBodies(rig: Rig, sizes: BodySizes): Promise<readonly Row[]> {
  const upstream = await rig.start(FILE, 'upstream')
  try {
    const rows: Row[] = []
    for (const kind of sizes.kinds) rows.push(...(await measureKind(rig, upstream, kind, sizes)))
    return rows
  } finally {
    await upstream.stop()
  }
}

async function measureKind(rig: Rig, upstream: Program, kind: Kind, sizes: BodySizes): Promise<readonly Row[]> {
  const own: Figures = { peak: [], wait: [], cpu: [] }
  const bare: Figures = { peak: [], wait: [], cpu: [] }
  // New processes each time: a peak starts from an idle one. The bare proxy converts nothing.
  for (let round = 0; round < sizes.rounds; round++) {
    if (kind !== 'converted') {
      const reference = await rig.startReference(rig.mock.url, upstream.url)
      await measureRound(rig, { ...reference, keys: ['any'] }, kind, sizes, bare).finally(reference.stop)
    }
    const options = { folder: rig.folder, engine: 'sqlite', upstreamUrl: rig.mock.url, keysPerUser: KEYS } as const
    const gateway = await openGateway(options)
    try {
      await gateway.admin.channel({ name: 'large bodies', baseUrl: upstream.url, models: [MODEL] })
      const calls = await measureRound(rig, { ...gateway, pid: gateway.workerPid }, kind, sizes, own)
      await gateway.settled(calls, calls)
    } finally {
      await gateway.close()
    }
  }
  const row = (name: string, unit: string, figure: keyof Figures, most?: number): Row => ({
    figure: `${AT_ONCE} bodies of 10 MB, ${BODY_KINDS[kind]}: ${name}`,
    unit,
    values: own[figure],
    ...(bare[figure].length > 0 && { reference: bare[figure] }),
    ...(most !== undefined && { aim: { kind: 'at most', value: most } }),
  })
  return [
    row('most that is resident, above idle', 'MB', 'peak', (3 * AT_ONCE * BODY_BYTES) / 1e6),
    row('a small call beside them waits longer, p99', 'ms', 'wait', 20),
    row('each', 'ms CPU', 'cpu'),
  ]
}

/** @returns how many calls were made */
async function measureRound(
  rig: Rig,
  { url, pid, keys }: Target,
  kind: Kind,
  { seconds }: BodySizes,
  figures: Figures,
): Promise<number> {
  const small = async (forSeconds: number) => {
    const count = forSeconds * SMALL_PER_SECOND
    const { timesMs } = await rig.time({ kind: 'timed', url, keys, count, perSecond: SMALL_PER_SECOND, unmeasured: 0 })
    return { count, p99Ms: timesMs[Math.floor(timesMs.length * 0.99)] ?? 0 }
  }
  const large = async (job: Omit<LargeJob, 'url' | 'keys'>) =>
    JSON.parse(await rig.run(FILE, 'large', JSON.stringify({ url, keys, ...job } satisfies LargeJob))) as LargeResult
  const warm = await small(ALONE_SECONDS)
  const alone = await small(ALONE_SECONDS)
  await Bun.sleep(SETTLE_MS)
  const idle = await residentOf(pid)
  await resetPeak(pid)
  const first = await large({ kind, ms: WARM_UP_MS })
  const start = await cpuOf(pid)
  const [beside, { bodies }] = await Promise.all([small(seconds), large({ kind, ms: seconds * 1000 })])
  figures.peak.push((await peakOf(pid)) - idle)
  figures.wait.push(Math.max(0, beside.p99Ms - alone.p99Ms))
  figures.cpu.push(((await cpuOf(pid)) - start) / bodies / 1000)
  return warm.count + alone.count + beside.count + first.bodies + bodies
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
  readonly ms: number
}

interface LargeResult {
  readonly bodies: number
}

/** A closed loop of `AT_ONCE` connections. */
async function sendLarge({ url, keys, kind, ms }: LargeJob): Promise<LargeResult> {
  const body = new Blob([bodyOf(kind).sent])
  const path = PATHS[kind === 'converted' ? 'claude' : 'chat']
  const untilMs = performance.now() + ms
  let bodies = 0
  const loop = async (): Promise<void> => {
    while (performance.now() < untilMs) {
      const key = keys[bodies++ % keys.length]
      const headers = { 'content-type': 'application/json', authorization: `Bearer ${key}` }
      const answer = await fetch(`${url}${path}`, { method: 'POST', headers, body })
      const text = await answer.text()
      if (answer.status !== 200) throw new Error(`${answer.status} ${text.slice(0, 300)}`)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, loop))
  return { bodies }
}

/**
 * Answers a small call at once and a large one after a while, if it is to the byte what was sent. Looks at it piece by
 * piece, so that small calls do not wait for the upstream.
 */
function startUpstream(): string {
  const messagesOf = (body: string): string => JSON.stringify((JSON.parse(body) as { messages: unknown }).messages)
  const known = [...new Set((Object.keys(BODY_KINDS) as Kind[]).map((kind) => bodyOf(kind).arrives))].map((text) =>
    Buffer.from(text),
  )
  const converted = messagesOf(bodyOf('converted').sent)
  const headers = { 'content-type': 'application/json' }
  const server = Bun.serve({
    hostname: '127.0.0.1',
    port: 0,
    idleTimeout: 0,
    async fetch(request) {
      const parts: Uint8Array[] = []
      let size = 0
      let same = known
      for await (const part of request.body ?? []) {
        parts.push(part)
        same = same.filter((body) => body.subarray(size, size + part.length).equals(part))
        size += part.length
      }
      if (size < BODY_BYTES / 2) return new Response(CALL_REPLY, { headers })
      let isGood = same.some((body) => body.length === size)
      if (!isGood) {
        // Read once; after that it must be the same to the byte.
        const body = Buffer.concat(parts)
        isGood = messagesOf(body.toString()) === converted
        if (isGood) known.push(body)
      }
      await Bun.sleep(THINK_MS)
      return isGood ? new Response(CALL_REPLY, { headers }) : new Response('another body', { status: 400 })
    },
  })
  return server.url.origin
}

const FILE = 'bodies.ts'
if (import.meta.main) {
  const [role, job = '{}'] = process.argv.slice(2)
  if (role === 'upstream') console.log(startUpstream())
  else console.log(JSON.stringify(await sendLarge(JSON.parse(job) as LargeJob)))
}
