/**
 * Operations that one dialect has: legacy completions and embeddings. They are carried as they are; here is only what
 * routing, the estimate and the bill need to read of them, by way of the chat codec of the same dialect.
 */
import { GatewayError } from '../errors.ts'
import { type Countable, codecs, type Peek } from '../protocol/index.ts'
import {
  invalid,
  isObject,
  listOf,
  optionalBoolean,
  optionalObject,
  requestObject,
  requiredText,
  tokenLimit,
} from '../protocol/shape.ts'
import type { Reading } from './types.ts'

const chat = codecs['openai-chat']

const texts = (value: unknown): readonly string[] =>
  typeof value === 'string' ? [value] : listOf(value).filter((item): item is string => typeof item === 'string')

/** Prompts and inputs may also be lists of token numbers: each is a token, written here as a word of its own. */
const tokenTexts = (value: unknown): readonly string[] =>
  listOf(value).flatMap((item) =>
    typeof item === 'number' ? ['a '] : listOf(item).flatMap((inner) => (typeof inner === 'number' ? ['a '] : [])),
  )

const countableOf = (value: unknown): Countable => ({
  texts: [...texts(value), tokenTexts(value).join('')],
  messages: 0,
  names: 0,
  tools: 0,
  images: 0,
  audios: 0,
  videos: 0,
  files: 0,
})

export const completions: Reading = {
  peek(value): Peek {
    const json = requestObject(value)
    const model = requiredText(json, 'model')
    const { prompt } = json
    if (prompt === undefined || prompt === null) throw invalid('`prompt` is missing')
    if (typeof prompt !== 'string' && !Array.isArray(prompt)) throw invalid('`prompt` must be a text or a list')
    const maxOutputTokens = tokenLimit(json, ['max_tokens'])
    const choices = Math.max(tokenLimit(json, ['n', 'best_of']) ?? 1, 1)
    const prompts = Array.isArray(prompt) && typeof prompt[0] !== 'number' ? Math.max(prompt.length, 1) : 1
    const includeUsage = optionalBoolean(optionalObject(json, 'stream_options') ?? {}, 'include_usage')
    return {
      model,
      isStream: optionalBoolean(json, 'stream') === true,
      choices: choices * prompts,
      ...(maxOutputTokens !== undefined && { maxOutputTokens }),
      ...(includeUsage !== undefined && { includeUsage }),
    }
  },
  countable: (json) => countableOf(requestObject(json)['prompt']),
  // The chat codec reads the legacy `text` of choices, too.
  decodeResponse: chat.decodeResponse,
  usageOf: chat.usageOf,
  streamDecoder: chat.streamDecoder,
}

export const embeddings: Reading = {
  peek(value): Peek {
    const json = requestObject(value)
    const model = requiredText(json, 'model')
    const { input } = json
    if (input === undefined || input === null || (typeof input !== 'string' && !Array.isArray(input)))
      throw invalid('`input` must be a text or a list')
    return { model, isStream: false, maxOutputTokens: 0 }
  },
  countable: (json) => countableOf(requestObject(json)['input']),
  decodeResponse(json) {
    if (!isObject(json) || !Array.isArray(json['data'])) throw new GatewayError('bad_response_body')
    const usage = isObject(json['usage']) ? { completion_tokens: 0, ...json['usage'] } : undefined
    return chat.decodeResponse({
      id: '',
      model: '',
      choices: [{ index: 0, message: { role: 'assistant', content: '' }, finish_reason: 'stop' }],
      usage,
    })
  },
  usageOf: chat.usageOf,
  streamDecoder: () => chat.streamDecoder(),
}

/** A count of tokens: the request of a message, an answer of one number. */
export const countTokens: Reading = {
  ...codecs.claude,
  usageOf: () => undefined,
  decodeResponse(json) {
    const tokens = isObject(json) ? json['input_tokens'] : undefined
    if (typeof tokens !== 'number') throw new GatewayError('bad_response_body')
    const message = { id: '', type: 'message', role: 'assistant', model: '', content: [], stop_reason: 'end_turn' }
    return codecs.claude.decodeResponse({ ...message, usage: { input_tokens: tokens, output_tokens: 0 } })
  },
}
