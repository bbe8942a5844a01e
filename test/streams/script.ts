/** What the upstream of the stream tests says, byte for byte; known to upstream, clients and test alike. */

export const STREAM_MODEL = 'slow-stream'
export const PLAIN_MODEL = 'slow-answer'
/** Content frames of a stream, one a second. */
export const CONTENT_FRAMES = 30
export const PACE_MS = 1_000
/** Silence before an answer that is not streamed: long enough for all to be under way at once. */
export const PLAIN_DELAY_MS = 8_000
export const USAGE = {
  prompt_tokens: 10,
  completion_tokens: CONTENT_FRAMES,
  total_tokens: 10 + CONTENT_FRAMES,
} as const

const chunk = (fields: object): string =>
  `data: ${JSON.stringify({ id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1_700_000_000, model: STREAM_MODEL, ...fields })}\n\n`
const delta = (content: string) => chunk({ choices: [{ index: 0, delta: { content }, finish_reason: null }] })

export const FRAMES: readonly string[] = [
  ...Array.from({ length: CONTENT_FRAMES }, (_, index) => delta(`word ${index} 世界 `)),
  chunk({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }) +
    chunk({ choices: [], usage: USAGE }) +
    'data: [DONE]\n\n',
]
