/**
 * A scripted upstream over real HTTP: OpenAI chat, completions, embeddings and models, Claude messages and
 * count_tokens, Ollama. What it does is chosen per request; it records what it received and keeps a ledger of its own,
 * so that a test can compare what was produced with what was billed. Also runnable: `bun test/support/upstream.ts`.
 */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import { parseArgs } from 'node:util'
import {
  claudeMessages,
  type Dialect,
  ollamaChat,
  ollamaGenerate,
  openaiChat,
  openaiCompletions,
  type ScriptedTool,
  type TrueUsage,
} from './upstream-dialects.ts'

/**
 * What the upstream does with one request. Everything is optional; the default is a short text with usage.
 * Chosen in this order: the script queue (`next`), the model's entry (`on`), then options in the model's own name:
 * `any-name?chunks=100&pace=20&status=500&usage=none&…` (numbers of milliseconds and pieces).
 */
export interface Behaviour {
  /** Answers an error of this status in the dialect of the path. */
  readonly status?: number
  readonly error?: { readonly message?: string; readonly type?: string; readonly code?: string }
  readonly headers?: Readonly<Record<string, string>>
  /** Default `Hello from upstream.`; `?size=n` makes a text of n characters. */
  readonly text?: string
  /** How many pieces the text is streamed in (default: by words), or how many `word`s when there is no text. */
  readonly chunks?: number
  readonly thinking?: string
  readonly tools?: readonly ScriptedTool[]
  readonly finish?: string
  /** `none`: the upstream reports no usage. Counts left out are true ones: a token per content frame, a quarter of the body. */
  readonly usage?: 'none' | Partial<TrueUsage>
  /** Silence before the headers. */
  readonly delayMs?: number
  /** Silence after the headers, before the first frame. */
  readonly firstFrameMs?: number
  /** Silence between frames. */
  readonly paceMs?: number
  /** Falls silent after this many content frames until `resume()`. */
  readonly pauseAfter?: number
  /** Destroys the socket after this many content frames; 0: before any header. */
  readonly cutAfter?: number
  readonly isEndless?: boolean
  /** Answers with how many images (OpenAI and Claude form) the request carried. */
  readonly echoesImages?: boolean
  /** Sends exactly these bytes, one write each, instead of a dialect's answer. */
  readonly raw?: { readonly contentType: string; readonly parts: readonly (string | Uint8Array<ArrayBuffer>)[] }
}

export interface RecordedRequest {
  readonly method: string
  readonly path: string
  readonly query: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array<ArrayBuffer>
  readonly model: string
  /** The parsed body. */
  json(): Record<string, unknown>
}

/** One line of the upstream's own ledger, written when an answer ended. */
export interface LedgerLine {
  /** The upstream's own id, which it also sends as `x-request-id`. */
  readonly id: string
  /** `x-client-request-id` of the request. */
  readonly requestId: string
  readonly model: string
  readonly path: string
  readonly isStream: boolean
  readonly status: number
  readonly usage: TrueUsage
  readonly end: 'complete' | 'aborted' | 'cut'
  readonly atMs: number
  /** Milliseconds from the request's arrival to the end. */
  readonly tookMs: number
}

const DEFAULT_TEXT = 'Hello from upstream.'
const encoder = new TextEncoder()
const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

export interface UpstreamOptions {
  readonly port?: number
  readonly hostname?: string
  /** JSON lines; without it the ledger is only kept in memory. */
  readonly ledgerFile?: string
  /** Off for load: neither requests nor ledger lines are kept in memory. */
  readonly isRecording?: boolean
}

/** Starts listening; call `stop()` in the end. */
export function startUpstream(options: UpstreamOptions = {}) {
  const isRecording = options.isRecording ?? true
  const requests: RecordedRequest[] = []
  const ledger: LedgerLine[] = []
  const queue: Behaviour[] = []
  const byModel = new Map<string, Behaviour | (() => Behaviour)>()
  const paused = new Set<() => void>()
  const file = options.ledgerFile === undefined ? undefined : openSync(options.ledgerFile, 'a')
  let count = 0
  let active = 0
  let isStopped = false

  const note = (line: LedgerLine) => {
    active -= 1
    if (isRecording) ledger.push(line)
    if (file !== undefined && !isStopped) writeSync(file, `${JSON.stringify(line)}\n`)
  }

  async function answer(request: Request): Promise<Response> {
    const url = new URL(request.url)
    const path = url.pathname
    const body = request.method === 'POST' ? await request.bytes() : new Uint8Array()
    const json = body.length === 0 ? {} : (JSON.parse(new TextDecoder().decode(body)) as Record<string, unknown>)
    const model = String(json['model'] ?? /\/deployments\/([^/]+)\//.exec(path)?.[1] ?? '')
    if (isRecording) {
      const headers = Object.fromEntries(request.headers)
      requests.push({ method: request.method, path, query: url.search, headers, body, model, json: () => json })
    }
    const scripted = queue.shift() ?? byModel.get(model) ?? behaviourOf(model)
    const behaviour = typeof scripted === 'function' ? scripted() : scripted
    if (request.method === 'GET') return Response.json(modelList(byModel))
    return perform(request, { path, json, model, bodyBytes: body.length }, behaviour, dialectOf(path))
  }

  async function perform(
    request: Request,
    asked: { path: string; json: Record<string, unknown>; model: string; bodyBytes: number },
    behaviour: Behaviour,
    dialect: Dialect | undefined,
  ): Promise<Response> {
    const { json, model, path } = asked
    const arrivedAtMs = performance.now()
    const id = `up-${process.pid}-${++count}`
    const isOllama = dialect === ollamaChat || dialect === ollamaGenerate
    const isStream = dialect !== undefined && (isOllama ? json['stream'] !== false : json['stream'] === true)
    const fullText = textOf(behaviour, json)
    let delivered = 0
    const usage = (): TrueUsage => ({
      input: Math.ceil(asked.bodyBytes / 4),
      output: delivered,
      cacheRead: 0,
      cacheWrite: 0,
      cacheWrite1h: 0,
      reasoning: 0,
      ...(behaviour.usage === 'none' ? {} : behaviour.usage),
    })
    let hasEnded = false
    const end = (how: LedgerLine['end'], status: number) => {
      if (hasEnded) return
      hasEnded = true
      const tookMs = Math.round(performance.now() - arrivedAtMs)
      const requestId = request.headers.get('x-client-request-id') ?? ''
      note({ id, requestId, model, path, isStream, status, usage: usage(), end: how, atMs: Date.now(), tookMs })
    }
    active += 1
    const status = behaviour.status ?? 200
    request.signal.addEventListener('abort', () => end('aborted', status))

    const headers = { 'x-request-id': id, ...behaviour.headers }
    if (behaviour.delayMs) await sleep(behaviour.delayMs)
    if (behaviour.cutAfter === 0) {
      end('cut', 0)
      return cutResponse(headers)
    }
    if (behaviour.raw) {
      const { contentType, parts } = behaviour.raw
      const frames = parts.map((part) => ({ text: part, isContent: true }))
      const rawHeaders = { ...headers, 'content-type': contentType }
      return new Response(stream(frames.values()), { status, headers: rawHeaders })
    }
    if (behaviour.status !== undefined && behaviour.status >= 400) {
      const { message, type, code } = behaviour.error ?? {}
      const said = (dialect ?? openaiChat).error(
        status,
        message ?? `scripted ${status}`,
        type ?? 'scripted_error',
        code,
      )
      end('complete', status)
      return Response.json(said, { status, headers })
    }
    const say = {
      id: `chatcmpl-${id}`,
      model,
      createdAtSec: Math.floor(Date.now() / 1000),
      pieces: piecesOf(behaviour, fullText),
      thinking: behaviour.thinking,
      tools: behaviour.tools ?? [],
      finish: behaviour.finish,
      includeUsage: (json['stream_options'] as { include_usage?: boolean } | undefined)?.include_usage === true,
      usage: () => (behaviour.usage === 'none' ? undefined : usage()),
    }
    if (!isStream) {
      const all = dialect ? [...say.pieces] : []
      delivered = all.length + say.tools.length
      if (behaviour.paceMs) await sleep(behaviour.paceMs * all.length)
      const whole = dialect ? dialect.whole(say, all.join('')) : plain(path, json, behaviour)
      if (whole === undefined) {
        end('complete', 404)
        return Response.json(openaiChat.error(404, `no such path: ${path}`, 'not_found', undefined), { status: 404 })
      }
      if (behaviour.cutAfter !== undefined) {
        const body = JSON.stringify(whole)
        const cutHeaders = { ...headers, 'content-type': 'application/json' }
        const half = [{ text: body.slice(0, body.length / 2), isContent: true }]
        delivered = behaviour.cutAfter - 1
        return new Response(stream(half.values()), { status, headers: cutHeaders })
      }
      end('complete', status)
      return Response.json(whole, { status, headers })
    }
    return new Response(stream((dialect as Dialect).frames(say)), {
      status,
      headers: { ...headers, 'content-type': dialect.contentType, 'cache-control': 'no-cache' },
    })

    function stream(frames: Iterator<{ text: string | Uint8Array<ArrayBuffer>; isContent: boolean }>) {
      let isFirst = true
      let hasPaused = false
      return new ReadableStream<Uint8Array>(
        {
          async pull(controller) {
            const waitMs = isFirst ? behaviour.firstFrameMs : behaviour.paceMs
            isFirst = false
            if (waitMs) await sleep(waitMs)
            if (behaviour.cutAfter !== undefined && delivered >= behaviour.cutAfter) {
              end('cut', status)
              return controller.error()
            }
            if (behaviour.pauseAfter !== undefined && delivered >= behaviour.pauseAfter && !hasPaused) {
              hasPaused = true
              await new Promise<void>((resume) => paused.add(resume))
            }
            const next = frames.next()
            if (next.done) {
              end('complete', status)
              return controller.close()
            }
            if (next.value.isContent) delivered += 1
            controller.enqueue(typeof next.value.text === 'string' ? encoder.encode(next.value.text) : next.value.text)
          },
        },
        { highWaterMark: 0 },
      )
    }
  }

  const server = Bun.serve({
    port: options.port ?? 0,
    hostname: options.hostname ?? '127.0.0.1',
    idleTimeout: 0,
    maxRequestBodySize: 1 << 30,
    fetch: answer,
    error: (error) => Response.json({ error: { message: error.message, type: 'upstream_bug' } }, { status: 500 }),
  })

  return {
    url: `http://${server.hostname}:${server.port}`,
    port: server.port as number,
    /** What was received, oldest first. */
    requests: requests as readonly RecordedRequest[],
    ledger: ledger as readonly LedgerLine[],
    /** Answers under way. */
    active: () => active,
    last: (): RecordedRequest => {
      const last = requests.at(-1)
      if (!last) throw new Error('the upstream received nothing')
      return last
    },
    /** From now on, what requests for this model get; a function is asked at each. */
    on: (model: string, behaviour: Behaviour | (() => Behaviour)) => void byModel.set(model, behaviour),
    /** What the next requests get, one each, whatever their model. */
    next: (...behaviours: readonly Behaviour[]) => void queue.push(...behaviours),
    /** Lets answers go on that fell silent by `pauseAfter`. */
    resume: () => {
      for (const go of paused) go()
      paused.clear()
    },
    clear: () => {
      requests.length = 0
      ledger.length = 0
      queue.length = 0
      byModel.clear()
    },
    stop: async () => {
      isStopped = true
      for (const go of paused) go()
      await server.stop(true)
      if (file !== undefined) closeSync(file)
    },
  }
}
export type Upstream = ReturnType<typeof startUpstream>

/** A base URL that refuses connections: its port was free a moment ago. */
export async function refusingUrl(): Promise<string> {
  const server = Bun.serve({ port: 0, hostname: '127.0.0.1', fetch: () => new Response() })
  const { port } = server
  await server.stop(true)
  return `http://127.0.0.1:${port}`
}

export const readLedgerFile = (path: string): readonly LedgerLine[] =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as LedgerLine)

/** Options in a model's name, after its question mark. */
function behaviourOf(model: string): Behaviour {
  const mark = model.indexOf('?')
  if (mark < 0) return {}
  const query = new URLSearchParams(model.slice(mark + 1))
  const number = (name: string) => (query.has(name) ? Number(query.get(name)) : undefined)
  const size = number('size')
  const tools = number('tools')
  const fields = {
    status: number('status'),
    text: size === undefined ? (query.get('text') ?? undefined) : 'x'.repeat(size),
    chunks: number('chunks'),
    thinking: query.get('thinking') ?? undefined,
    tools:
      tools === undefined
        ? undefined
        : Array.from({ length: tools }, (_, index) => ({ name: `tool_${index}`, arguments: `{"number":${index}}` })),
    usage: query.get('usage') === 'none' ? ('none' as const) : undefined,
    delayMs: number('delay'),
    firstFrameMs: number('first'),
    paceMs: number('pace'),
    pauseAfter: number('pause'),
    cutAfter: number('cut'),
    isEndless: query.has('endless') ? true : undefined,
  }
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
}

function dialectOf(path: string): Dialect | undefined {
  if (path.endsWith('/chat/completions')) return openaiChat
  if (path.endsWith('/completions')) return openaiCompletions
  if (path.endsWith('/messages')) return claudeMessages
  if (path.endsWith('/api/chat')) return ollamaChat
  if (path.endsWith('/api/generate')) return ollamaGenerate
  return undefined
}

function textOf(behaviour: Behaviour, json: Record<string, unknown>): string {
  if (behaviour.echoesImages) {
    const images = JSON.stringify(json).match(/"type":"(?:image|image_url)"/g) ?? []
    return `I see ${images.length} images.`
  }
  if (behaviour.text !== undefined) return behaviour.text
  return behaviour.chunks === undefined && behaviour.tools === undefined ? DEFAULT_TEXT : ''
}

function* piecesOf(behaviour: Behaviour, text: string): Generator<string, void> {
  if (behaviour.isEndless) for (;;) yield 'word '
  if (text === '') {
    for (let index = 0; index < (behaviour.chunks ?? 0); index += 1) yield `word${index} `
    return
  }
  if (behaviour.chunks === undefined) return yield* text.match(/\s*\S+/g) ?? [text]
  const step = Math.ceil(text.length / behaviour.chunks)
  for (let at = 0; at < text.length; at += step) yield text.slice(at, at + step)
}

/** A reset before any header: the headers leave with the first chunk, which never comes. */
const cutResponse = (headers: Record<string, string>) =>
  new Response(
    new ReadableStream({
      async pull(controller) {
        await sleep(0)
        controller.error()
      },
    }),
    { headers },
  )

const modelList = (byModel: ReadonlyMap<string, unknown>) => ({
  object: 'list',
  data: [...(byModel.size > 0 ? byModel.keys() : ['gpt-4o-mini', 'claude-sonnet-4-5'])].map((id) => ({
    id,
    object: 'model',
    created: 1_700_000_000,
    owned_by: 'upstream',
  })),
})

/** The answer of an operation without a stream, or undefined for a path that is none. */
function plain(path: string, json: Record<string, unknown>, behaviour: Behaviour): unknown {
  const given = behaviour.usage === 'none' ? undefined : behaviour.usage
  if (path.endsWith('/count_tokens'))
    return { input_tokens: given?.input ?? Math.ceil(JSON.stringify(json).length / 4) }
  const inputs = Array.isArray(json['input']) ? (json['input'] as unknown[]) : [json['input']]
  const tokens = given?.input ?? inputs.reduce<number>((sum, one) => sum + Math.ceil(String(one).length / 4), 0)
  if (path.endsWith('/api/embed')) {
    return { model: json['model'], embeddings: inputs.map(() => [0.1, 0.2, 0.3]), prompt_eval_count: tokens }
  }
  if (!path.endsWith('/embeddings')) return undefined
  const vector = new Float32Array([0.5, -0.25, 0.125])
  const isBase64 = json['encoding_format'] === 'base64'
  const embedding = isBase64 ? Buffer.from(vector.buffer).toString('base64') : [...vector]
  const data = inputs.map((_, index) => ({ object: 'embedding', index, embedding }))
  const usage = behaviour.usage === 'none' ? {} : { usage: { prompt_tokens: tokens, total_tokens: tokens } }
  return { object: 'list', data, model: json['model'], ...usage }
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      port: { type: 'string', default: '9100' },
      host: { type: 'string', default: '127.0.0.1' },
      ledger: { type: 'string' },
    },
  })
  const upstream = startUpstream({
    port: Number(values.port),
    hostname: values.host,
    ...(values.ledger !== undefined && { ledgerFile: values.ledger }),
    isRecording: false,
  })
  console.log(upstream.url)
}
