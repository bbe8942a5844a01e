/**
 * A gateway between an official SDK and a scripted upstream, with a channel of each protocol, known prices, and the ids of
 * the calls that ended well. Closing it audits the money.
 */

import type { LogRow } from '../support/admin-client.ts'
import { openApp, type TestApp } from '../support/app.ts'
import { ENGINES } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { type Behaviour, type LedgerLine, startUpstream, type Upstream } from '../support/upstream.ts'

/** Models by the protocol of the upstream that serves them. The names tell nothing, so no built-in price or rule applies. */
export const MODELS = { 'openai-chat': 'model-of-chat', claude: 'model-of-messages' } as const
export type UpstreamProtocol = keyof typeof MODELS
export const PROTOCOLS = Object.keys(MODELS) as readonly UpstreamProtocol[]
export const EMBEDDING_MODEL = 'model-of-vectors'

export const PRICES = {
  ModelRatio: { [MODELS['openai-chat']]: 2, [MODELS.claude]: 2, [EMBEDDING_MODEL]: 1 },
  CompletionRatio: { [MODELS['openai-chat']]: 3, [MODELS.claude]: 3 },
  CacheRatio: { [MODELS['openai-chat']]: 0.25, [MODELS.claude]: 0.25 },
} as const

export interface SdkWorld {
  readonly app: TestApp
  readonly upstream: Upstream
  readonly channels: Readonly<Record<UpstreamProtocol, number>>
  /** Notes that a client saw this call end well. @returns its log row, once it is there */
  completed(headers: Headers): Promise<LogRow>
  /** Notes that the gateway answered this call itself. @returns its log row */
  answeredHere(headers: Headers): Promise<LogRow>
  /** The upstream's own record of the call that it began last. */
  upstreamLine(since: number): Promise<LedgerLine>
  close(): Promise<void>
}

export async function openWorld(): Promise<SdkWorld> {
  const upstream = startUpstream()
  const app = await openApp(ENGINES[0]!)
  const { admin } = app
  await admin.options(PRICES)
  const chat = await admin.channel({
    name: 'chat',
    baseUrl: upstream.url,
    models: [MODELS['openai-chat'], EMBEDDING_MODEL],
  })
  const claude = await admin.channel({ name: 'messages', type: 14, baseUrl: upstream.url, models: [MODELS.claude] })
  const complete: string[] = []
  const local: string[] = []
  const completed = (headers: Headers): Promise<LogRow> => {
    const id = requestIdOf(headers)
    complete.push(id)
    return admin.logOf(id)
  }
  return {
    app,
    upstream,
    channels: { 'openai-chat': chat, claude },
    completed,
    answeredHere(headers) {
      local.push(requestIdOf(headers))
      return completed(headers)
    },
    upstreamLine: (since) => eventually("the upstream's record of a call", () => upstream.ledger[since]),
    async close() {
      try {
        await app.stop({ complete, upstream: [...upstream.ledger.map((line) => line.requestId), ...local] })
      } finally {
        await upstream.stop()
      }
    },
  }
}

export function requestIdOf(headers: Headers): string {
  const id = headers.get('x-oneapi-request-id')
  if (!id) throw new Error('the answer names no request id')
  return id
}

/** 100 tokens in, 40 of them from a cache; 20 out: (60 + 40 × 0.25 + 20 × 3) × 2. */
export const CACHED_USAGE = { input: 100, output: 20, cacheRead: 40 } as const
export const CACHED_QUOTA = 260

export const TWO_TOOLS: Behaviour = {
  tools: [
    { name: 'weather', arguments: '{"city":"Zürich","days":3}' },
    { name: 'clock', arguments: '{"zone":"Asia/Shanghai"}' },
  ],
  usage: { input: 50, output: 30 },
}
/** (50 + 30 × 3) × 2 */
export const TOOLS_QUOTA = 280

/** A picture of one pixel. */
export const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

/** What an SDK throws. @throws Error if it does not throw */
export async function failureOf<T extends Error>(work: PromiseLike<unknown>, type: new (...args: never[]) => T) {
  try {
    await work
  } catch (error) {
    if (error instanceof type) return error
    throw error
  }
  throw new Error(`no ${type.name} was thrown`)
}
