/**
 * A gateway between plain HTTP and a scripted upstream. Each test takes a model of its own, so that behaviours and rows of one
 * never meet those of another. Closing it audits the money.
 */
import type { LogRow } from '../support/admin-client.ts'
import { openApp, type TestApp } from '../support/app.ts'
import { ENGINES } from '../support/engines.ts'
import { type Behaviour, startUpstream, type Upstream } from '../support/upstream.ts'

/** Provider ids of the channels in these tests. */
export const PROVIDER = { openai: 1, ollama: 4, plain: 7, anthropic: 14, openrouter: 20, deepseek: 43 } as const

/** Prices of every model here: one unit per input token, three per output token. */
const RATIO = 1
export const COMPLETION_RATIO = 3

export interface RelayWorld {
  readonly app: TestApp
  readonly upstream: Upstream
  /** A fresh model with its price, and a channel that serves it. @returns names and ids */
  model(options?: {
    readonly type?: number
    readonly behaviour?: Behaviour
    readonly fields?: Readonly<Record<string, unknown>>
    readonly baseUrl?: string
    readonly modelMapping?: (model: string) => Readonly<Record<string, string>>
  }): Promise<{ readonly model: string; readonly channel: number }>
  /** One more channel for a model. */
  channel(options: {
    readonly model: string
    readonly type?: number
    readonly baseUrl?: string
    readonly sentAs?: string
    readonly fields?: Readonly<Record<string, unknown>>
  }): Promise<number>
  post(path: string, body: unknown, options?: PostOptions): Promise<Response>
  row(reply: Response): Promise<LogRow>
  close(): Promise<void>
}

export interface PostOptions {
  readonly headers?: Readonly<Record<string, string>>
  readonly signal?: AbortSignal
  readonly key?: string
}

export async function openRelayWorld(
  options: {
    readonly env?: Readonly<Record<string, string>>
    readonly settings?: Readonly<Record<string, unknown>>
  } = {},
): Promise<RelayWorld> {
  const upstream = startUpstream()
  const app = await openApp(ENGINES[0]!, { env: options.env ?? {} })
  if (options.settings) await app.admin.options(options.settings)
  const ratios: Record<string, number> = {}
  let made = 0

  const world: RelayWorld = {
    app,
    upstream,
    async model({ type, behaviour, fields, baseUrl, modelMapping } = {}) {
      const model = `model-${++made}`
      ratios[model] = RATIO
      await app.admin.options({
        ModelRatio: ratios,
        CompletionRatio: Object.fromEntries(Object.keys(ratios).map((name) => [name, COMPLETION_RATIO])),
      })
      if (behaviour) upstream.on(model, behaviour)
      const channel = await app.admin.channel({
        name: `channel of ${model}`,
        baseUrl: baseUrl ?? upstream.url,
        models: [model],
        ...(type !== undefined && { type }),
        ...(fields && { fields }),
        ...(modelMapping && { modelMapping: modelMapping(model) }),
      })
      return { model, channel }
    },
    channel: ({ model, type, baseUrl, sentAs, fields }) =>
      app.admin.channel({
        name: `channel ${++made}`,
        baseUrl: baseUrl ?? upstream.url,
        models: [model],
        ...(type !== undefined && { type }),
        ...(fields && { fields }),
        ...(sentAs !== undefined && { modelMapping: { [model]: sentAs } }),
      }),
    post: (path, body, { headers = {}, signal, key = app.key.key } = {}) =>
      fetch(`${app.url}${path}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' || body instanceof Uint8Array ? (body as BodyInit) : JSON.stringify(body),
        ...(signal && { signal }),
      }),
    row: (reply) => app.admin.logOf(reply.headers.get('x-oneapi-request-id') ?? ''),
    async close() {
      try {
        await app.stop()
      } finally {
        await upstream.stop()
      }
    },
  }
  return world
}

export const CHAT = '/v1/chat/completions'
export const MESSAGES = '/v1/messages'

/** A body that both dialects understand. */
export const ask = (model: string, fields: Readonly<Record<string, unknown>> = {}) => ({
  model,
  max_tokens: 100,
  messages: [{ role: 'user', content: 'Say hello.' }],
  ...fields,
})

/** What it costs by the prices of these tests. */
export const costOf = (inputTokens: number, outputTokens: number): number =>
  Math.round((inputTokens + outputTokens * COMPLETION_RATIO) * RATIO)

interface AdminInfo {
  readonly attempts: readonly {
    readonly channel: number
    readonly key: number
    readonly status: number
    readonly ms: number
    readonly reason: string
    readonly way: string
  }[]
  readonly use_channel: readonly string[]
  readonly left_out?: readonly { readonly channelId: number; readonly reason: string }[]
  readonly local_count_tokens?: boolean
  readonly [name: string]: unknown
}
export const adminInfo = (row: LogRow): AdminInfo => row.other['admin_info'] as AdminInfo

/** Frames of an event stream, in order: the event's name, if it has one, and its data, parsed where it is JSON. */
export function framesOf(text: string): readonly { readonly event?: string; readonly data: unknown }[] {
  return text
    .split('\n\n')
    .filter((block) => block.includes('data:'))
    .map((block) => {
      const event = /^event: (.*)$/m.exec(block)?.[1]
      const data = /^data: (.*)$/m.exec(block)?.[1] ?? ''
      return {
        ...(event !== undefined && { event }),
        data: data.startsWith('{') ? (JSON.parse(data) as unknown) : data,
      }
    })
}

/** Reads a stream until a text was seen; the reader stays open. */
export async function readUntil(reader: ReadableStreamDefaultReader<Uint8Array>, wanted: string): Promise<string> {
  const decoder = new TextDecoder()
  let text = ''
  while (!text.includes(wanted)) {
    const { done, value } = await reader.read()
    if (done) throw new Error(`the stream ended before ${JSON.stringify(wanted)}: ${text}`)
    text += decoder.decode(value, { stream: true })
  }
  return text
}
