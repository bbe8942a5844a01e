/**
 * Clients that call without a pause, streamed and not, in both dialects, and note what became of each call. They do not
 * mind that the node is killed beneath them.
 */
import { seeded } from '../protocol/random.ts'

export interface LoadOptions {
  /** Of the nodes; each call meets one of them. */
  readonly urls: readonly string[]
  readonly keys: readonly string[]
  readonly models: readonly string[]
  readonly clients: number
  readonly seed: number
  /** Hears of each call when it has ended. */
  readonly onEnd?: (call: EndedCall) => void
}

export interface EndedCall {
  readonly end: End
  /** Of HTTP; 0: there was no answer. */
  readonly status: number
  readonly key: string
  readonly startedAtMs: number
  readonly endedAtMs: number
}

export interface Load {
  /** Ids of the calls whose whole answer a client has: the full body, or the stream's final frame. */
  readonly complete: ReadonlySet<string>
  /** How the calls ended. */
  readonly ends: Readonly<Record<End, number>>
  /** Lets every client finish its call. */
  stop(): Promise<void>
}

/** `left`: the client went away by itself. `broken`: the answer ended early. `down`: there was none. */
export type End = 'complete' | 'refused' | 'left' | 'broken' | 'down'

const ENTRANCES = [
  { path: '/v1/chat/completions', finalFrame: 'data: [DONE]' },
  { path: '/v1/messages', finalFrame: 'event: message_stop' },
] as const
/** No answer takes this long; a client that waited for ever would keep the test from ending. */
const PATIENCE_MS = 20_000

export function startLoad({ urls, keys, models, clients, seed, onEnd = () => {} }: LoadOptions): Load {
  const complete = new Set<string>()
  const ends = { complete: 0, refused: 0, left: 0, broken: 0, down: 0 }
  let isStopping = false

  const client = async (number: number): Promise<void> => {
    const random = seeded(seed * 1_000 + number)
    while (!isStopping) {
      const { path, finalFrame } = random.pick(ENTRANCES)
      const stream = random.chance(0.6)
      const leaveAfterMs = stream && random.chance(0.06) ? random.int(150) : undefined
      const body = JSON.stringify({
        model: random.pick(models),
        stream,
        // Far more than is said: a hold covers any charge, so no account may end below zero.
        max_tokens: 200,
        messages: [{ role: 'user', content: `call ${random.int(1e9)} ${'x'.repeat(random.int(400))}` }],
      })
      const url = `${random.pick(urls)}${path}`
      const key = random.pick(keys)
      const startedAtMs = Date.now()
      const { end, status, id } = await call(url, key, body, stream ? finalFrame : undefined, leaveAfterMs)
      onEnd({ end, status, key, startedAtMs, endedAtMs: Date.now() })
      ends[end] += 1
      if (end === 'complete') complete.add(id)
      await Bun.sleep(end === 'complete' || end === 'left' ? random.int(30) : 50)
    }
  }
  const running = Array.from({ length: clients }, (_, number) => client(number))
  return {
    complete,
    ends,
    async stop() {
      isStopping = true
      await Promise.all(running)
    },
  }
}

/**
 * @param finalFrame of a stream; absent: the answer is one body
 * @param leaveAfterMs the client goes away that long after its stream has begun
 */
async function call(
  url: string,
  apiKey: string,
  body: string,
  finalFrame: string | undefined,
  leaveAfterMs: number | undefined,
): Promise<{ readonly end: End; readonly status: number; readonly id: string }> {
  const leave = new AbortController()
  let leaving = setTimeout(() => leave.abort(), PATIENCE_MS)
  let id = ''
  let status = 0
  let text = ''
  try {
    const reply = await fetch(url, {
      method: 'POST',
      headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
      body,
      signal: leave.signal,
    })
    id = reply.headers.get('x-oneapi-request-id') ?? ''
    status = reply.status
    if (reply.status !== 200) {
      await reply.bytes()
      return { end: 'refused', status, id }
    }
    if (finalFrame === undefined) {
      JSON.parse(await reply.text())
      return { end: 'complete', status, id }
    }
    if (leaveAfterMs !== undefined) {
      clearTimeout(leaving)
      leaving = setTimeout(() => leave.abort(), leaveAfterMs)
    }
    const decoder = new TextDecoder()
    for await (const part of reply.body as ReadableStream<Uint8Array>) text += decoder.decode(part, { stream: true })
    return { end: text.includes(finalFrame) ? 'complete' : 'broken', status, id }
  } catch {
    // Whatever became of the connection: who has the final frame has the answer.
    if (finalFrame !== undefined && text.includes(finalFrame)) return { end: 'complete', status, id }
    if (leave.signal.aborted) return { end: leaveAfterMs === undefined ? 'broken' : 'left', status, id }
    return { end: id === '' ? 'down' : 'broken', status, id }
  } finally {
    clearTimeout(leaving)
  }
}
