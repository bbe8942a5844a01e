/** One small call, as tests of money and of clusters make it by the hundred. */
import type { MadeKey } from './admin-client.ts'

export interface Answered {
  readonly status: number
  /** Of the gateway; empty if it gave none. */
  readonly id: string
  readonly retryAfter: string | null
}

type Caller = Pick<MadeKey, 'key'>

/** @param options.isFresh on a connection of its own, so that each call may meet another worker */
export async function chat(
  url: string,
  { key }: Caller,
  model: string,
  options: { readonly isFresh?: boolean; readonly maxTokens?: number } = {},
): Promise<Answered> {
  const reply = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    keepalive: !options.isFresh,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      model,
      messages: [{ role: 'user', content: 'hello' }],
      ...(options.maxTokens !== undefined && { max_tokens: options.maxTokens }),
    }),
  })
  await reply.bytes()
  return {
    status: reply.status,
    id: reply.headers.get('x-oneapi-request-id') ?? '',
    retryAfter: reply.headers.get('retry-after'),
  }
}

/** Asks again as long as a 503 says so. @returns the final status. @throws Error for a 503 that does not say when */
export async function chatUntilDecided(url: string, caller: Caller, model: string): Promise<number> {
  for (;;) {
    const { status, retryAfter } = await chat(url, caller, model)
    if (status !== 503) return status
    if (retryAfter === null) throw new Error('a 503 without Retry-After')
    await Bun.sleep(100)
  }
}

/** Names of the models that a key may use. */
export async function modelsOf(url: string, { key }: Caller): Promise<readonly string[]> {
  const reply = await fetch(`${url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })
  return ((await reply.json()) as { data: readonly { id: string }[] }).data.map(({ id }) => id)
}
