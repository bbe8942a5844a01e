/**
 * What goes over the wire in the benchmark: requests of the generator and answers of the mock upstream, in one place, so
 * that whoever reads can compare to the byte with what was sent.
 */

export const MODEL = 'gpt-4o-mini'

/** The path a client calls, and with it the client's dialect; `unasked` is OpenAI's for those who ask for no usage. */
export const PATHS = {
  chat: '/v1/chat/completions',
  unasked: '/v1/chat/completions',
  claude: '/v1/messages',
} as const
export type Dialect = keyof typeof PATHS

/** What the mock has served to one key, as it knows it. */
export interface MockLedger {
  readonly calls: number
  readonly promptTokens: number
  readonly completionTokens: number
}
export const LEDGER_PATH = '/ledger'

const PROMPT =
  'You are a careful assistant. Answer in one short sentence: which of the planets of the solar system has the most moons?'

/** Body of a small call, about 250 bytes. */
export const CALL_BODY = JSON.stringify({
  model: MODEL,
  messages: [
    { role: 'system', content: 'Be brief and exact.' },
    { role: 'user', content: PROMPT },
  ],
  temperature: 0.2,
  max_tokens: 64,
})

export const CALL_USAGE = { promptTokens: 43, completionTokens: 11 } as const

/** The upstream's answer to it, about 500 bytes. */
export const CALL_REPLY = JSON.stringify({
  id: 'chatcmpl-BenchmarkReply0000000001',
  object: 'chat.completion',
  created: 1_760_000_000,
  model: `${MODEL}-2024-07-18`,
  choices: [
    {
      index: 0,
      message: { role: 'assistant', content: 'Saturn has the most known moons of all planets.', refusal: null },
      logprobs: null,
      finish_reason: 'stop',
    },
  ],
  usage: {
    prompt_tokens: CALL_USAGE.promptTokens,
    completion_tokens: CALL_USAGE.completionTokens,
    total_tokens: CALL_USAGE.promptTokens + CALL_USAGE.completionTokens,
    prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 },
  },
  service_tier: 'default',
  system_fingerprint: 'fp_0123456789',
})

/** What a streamed call asks the mock for; it stands in the prompt, so that it survives any conversion. */
export interface StreamOrder {
  /** Stands in every frame: a frame that reaches another's client is seen. */
  readonly id: number
  readonly chunks: number
  readonly paceMs: number
  /** Makes each chunk longer by so much; absent: by nothing. */
  readonly padChars?: number
}

export function streamBody(dialect: Dialect, { id, chunks, paceMs, padChars = 0 }: StreamOrder): string {
  const common = {
    model: MODEL,
    messages: [{ role: 'user', content: `#${id} ${chunks} ${paceMs} ${padChars}#` }],
    max_tokens: 2 * chunks,
    stream: true,
  }
  return JSON.stringify(dialect === 'chat' ? { ...common, stream_options: { include_usage: true } } : common)
}

/** @returns undefined for a request that asks for no stream */
export function readOrder(body: string): StreamOrder | undefined {
  const found = /#(\d+) (\d+) (\d+) (\d+)#/.exec(body)?.slice(1).map(Number)
  return found && { id: found[0]!, chunks: found[1]!, paceMs: found[2]!, padChars: found[3]! }
}

/** Some with what has to be escaped in JSON, as texts of models have. */
export const pieceOf = (id: number, chunk: number): string =>
  `${chunk === 0 ? '' : ' '}word-${id}-${chunk}${chunk % 8 === 7 ? ', "so" –\n' : ''}`

export const usageOf = ({ chunks }: StreamOrder): Omit<MockLedger, 'calls'> => ({
  promptTokens: 12,
  completionTokens: chunks,
})

/** What clients get who did not ask for the usage. */
export const withoutUsage = (text: string): string => text.replace(/data: [^\n]*"choices":\[\],[^\n]*\n\n/, '')

/** One text per write of the mock: a frame per chunk, and one last write with finish, usage and end. */
export function* streamWrites(order: StreamOrder): Generator<string> {
  const { id, chunks, padChars = 0 } = order
  const frame = (choices: readonly unknown[], usage: unknown = null): string =>
    `data: ${JSON.stringify({ id: `chatcmpl-${id}`, object: 'chat.completion.chunk', created: 1_760_000_000, model: MODEL, choices, usage })}\n\n`
  const pad = 'x'.repeat(padChars)
  for (let chunk = 0; chunk < chunks; chunk++) {
    const delta = { ...(chunk === 0 && { role: 'assistant' }), content: pieceOf(id, chunk) + pad }
    yield frame([{ index: 0, delta, finish_reason: null }])
  }
  const { promptTokens, completionTokens } = usageOf(order)
  const usage = {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  }
  yield `${frame([{ index: 0, delta: {}, finish_reason: 'stop' }])}${frame([], usage)}data: [DONE]\n\n`
}
