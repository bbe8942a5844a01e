/** The content of OpenAI's chat messages: parts ⇄ blocks, and what an assistant message holds beside them. */
import type { Block, FileBlock, ImageBlock, MediaSource, TextBlock, ThinkingBlock, UnknownBlock } from '../ir.ts'
import {
  cacheControl,
  cacheOf,
  dataUrl,
  extrasOf,
  invalid,
  isObject,
  type JsonObject,
  type Losses,
  listOf,
  sourceOfUrl,
  textOf,
} from '../shape.ts'

export const PROTOCOL = 'openai-chat'

const TEXT_KEYS = new Set(['type', 'text', 'cache_control'])
const IMAGE_KEYS = new Set(['type', 'image_url', 'cache_control'])
const AUDIO_KEYS = new Set(['type', 'input_audio', 'cache_control'])
const FILE_KEYS = new Set(['type', 'file', 'cache_control'])
const VIDEO_KEYS = new Set(['type', 'video_url', 'cache_control'])

/** @param where for the message of the error, such as `messages[2].content` */
export function decodeContent(content: unknown, where: string): Block[] {
  if (content === undefined || content === null || content === '') return []
  if (typeof content === 'string') return [{ type: 'text', text: content }]
  if (!Array.isArray(content)) throw invalid(`${where} must be a string or an array of parts`)
  return content.map((part: unknown, index) => {
    if (typeof part === 'string') return { type: 'text', text: part }
    if (!isObject(part)) throw invalid(`${where}[${index}] must be an object`)
    return decodePart(part)
  })
}

function decodePart(part: JsonObject): Block {
  const cache = cacheOf(part['cache_control'])
  switch (part['type']) {
    case 'text':
      return { type: 'text', text: textOf(part['text']), ...cache, ...extrasOf(PROTOCOL, part, TEXT_KEYS) }
    case 'image_url':
      return decodeImage(part)
    case 'input_audio': {
      const audio = isObject(part['input_audio']) ? part['input_audio'] : {}
      const format = textOf(audio['format'])
      const mediaType = `audio/${format === 'mp3' ? 'mpeg' : format || 'wav'}`
      const source: MediaSource = { kind: 'base64', mediaType, data: textOf(audio['data']) }
      return { type: 'file', source, ...cache, ...extrasOf(PROTOCOL, part, AUDIO_KEYS) }
    }
    case 'file':
      return decodeFile(part)
    case 'video_url': {
      const url = isObject(part['video_url']) ? textOf(part['video_url']['url']) : textOf(part['video_url'])
      const source = sourceOfUrl(url)
      return {
        type: 'file',
        source: source.kind === 'url' ? { ...source, mediaType: 'video/*' } : source,
        ...cache,
        ...extrasOf(PROTOCOL, part, VIDEO_KEYS),
      }
    }
    case 'refusal':
      return { type: 'refusal', text: textOf(part['refusal']) }
    case 'thinking':
      return { type: 'thinking', text: thinkingText(part['thinking']) }
    default:
      return { type: 'unknown', protocol: PROTOCOL, value: part, ...cache }
  }
}

function decodeImage(part: JsonObject): Block {
  const image = isObject(part['image_url']) ? part['image_url'] : { url: part['image_url'] }
  const source = sourceOfUrl(textOf(image['url']))
  const common = { ...cacheOf(part['cache_control']), ...extrasOf(PROTOCOL, part, IMAGE_KEYS) }
  // A document may travel as the data URL of an image part.
  if (source.kind === 'base64' && !source.mediaType.startsWith('image/')) return { type: 'file', source, ...common }
  const detail = textOf(image['detail'])
  return { type: 'image', source, ...(detail === '' ? {} : { detail }), ...common }
}

function decodeFile(part: JsonObject): Block {
  const file = isObject(part['file']) ? part['file'] : {}
  const name = textOf(file['filename'])
  const fileId = textOf(file['file_id'])
  const data = textOf(file['file_data'])
  const common = {
    ...(name === '' ? {} : { name }),
    ...cacheOf(part['cache_control']),
    ...extrasOf(PROTOCOL, part, FILE_KEYS),
  }
  if (fileId !== '') return { type: 'file', source: { kind: 'file', fileId }, ...common }
  const isUrl = /^(data|https?):/i.test(data.slice(0, 8))
  const source: MediaSource = isUrl ? sourceOfUrl(data) : { kind: 'base64', mediaType: mediaTypeOfName(name), data }
  if (source.kind === 'base64' && source.mediaType.startsWith('image/')) return { type: 'image', source, ...common }
  return { type: 'file', source, ...common }
}

const mediaTypeOfName = (name: string): string => (/\.txt$/i.test(name) ? 'text/plain' : 'application/pdf')

/** Mistral's thinking part holds text parts; others hold plain text. */
function thinkingText(value: unknown): string {
  if (typeof value === 'string') return value
  return listOf(value)
    .map((part) => (isObject(part) ? textOf(part['text']) : textOf(part)))
    .join('')
}

/**
 * Reasoning of a message: DeepSeek's `reasoning_content`, OpenRouter's `reasoning` and its signed `reasoning_details`.
 * @source https://openrouter.ai/docs/use-cases/reasoning-tokens (reasoning_details), read 2026-11
 */
export function decodeThinking(message: JsonObject): ThinkingBlock[] {
  const text = textOf(message['reasoning_content']) || textOf(message['reasoning'])
  const blocks: ThinkingBlock[] = []
  for (const detail of listOf(message['reasoning_details'])) {
    const block = isObject(detail) ? decodeDetail(detail) : undefined
    if (block) blocks.push(block)
  }
  const [only] = blocks
  if (!only) return text === '' ? [] : [{ type: 'thinking', text }]
  // A stream's collector may have kept the signature apart from the text.
  const hasText = blocks.some((block) => block.text !== '')
  if (!hasText && text !== '') {
    return only.redacted === undefined
      ? [{ ...only, text }, ...blocks.slice(1)]
      : [{ type: 'thinking', text }, ...blocks]
  }
  return blocks
}

export function decodeDetail(detail: JsonObject): ThinkingBlock | undefined {
  const format = textOf(detail['format'])
  const isClaude = format === '' || format === 'unknown' || format.startsWith('anthropic')
  if (detail['type'] === 'reasoning.text') {
    const signature = isClaude ? textOf(detail['signature']) : ''
    return { type: 'thinking', text: textOf(detail['text']), ...(signature === '' ? {} : { signature }) }
  }
  if (detail['type'] === 'reasoning.summary') return { type: 'thinking', text: textOf(detail['summary']) }
  const data = textOf(detail['data'])
  if (detail['type'] === 'reasoning.encrypted' && isClaude && data !== '')
    return { type: 'thinking', text: '', redacted: data }
  return undefined
}

/** OpenRouter's form of signed and of encrypted thinking. @param index among the thinking blocks of the message */
export function encodeDetail(block: ThinkingBlock, index: number): JsonObject {
  const format = 'anthropic-claude-v1'
  if (block.redacted !== undefined) return { type: 'reasoning.encrypted', data: block.redacted, format, index }
  return { type: 'reasoning.text', text: block.text, signature: block.signature ?? null, format, index }
}

export interface EncodeContext {
  readonly losses: Losses
  /** See `EncodeRequestOptions.carriesClaudeFields`. */
  readonly carriesClaudeFields: boolean
}

type PartBlock = TextBlock | ImageBlock | FileBlock | UnknownBlock

/** @returns undefined for what a part cannot hold; the loss is noted */
export function encodePart(block: PartBlock, context: EncodeContext): JsonObject | undefined {
  const part = encodeBarePart(block, context)
  if (!part) return undefined
  context.losses.extras(block.extras, PROTOCOL, 'messages[].content[].')
  const own = block.extras?.[PROTOCOL]
  return { ...part, ...encodeCache(block, context), ...own }
}

export function encodeCache(
  block: { readonly cache?: TextBlock['cache'] },
  { losses, carriesClaudeFields }: EncodeContext,
): JsonObject {
  if (!block.cache) return {}
  if (carriesClaudeFields) return { cache_control: cacheControl(block.cache) }
  losses.add('messages[].content[].cache_control', 'only Claude models know cache breakpoints')
  return {}
}

function encodeBarePart(block: PartBlock, { losses }: EncodeContext): JsonObject | undefined {
  switch (block.type) {
    case 'text':
      return { type: 'text', text: block.text }
    case 'image': {
      const url = urlOf(block.source)
      if (url === undefined) {
        losses.add('messages[].content[].source.file_id', 'files are known only to the provider that stored them')
        return undefined
      }
      return { type: 'image_url', image_url: block.detail === undefined ? { url } : { url, detail: block.detail } }
    }
    case 'file':
      return encodeFile(block, losses)
    case 'unknown':
      if (block.protocol === PROTOCOL && isObject(block.value)) return block.value
      return encodeForeign(block.value, losses)
  }
}

function urlOf(source: MediaSource): string | undefined {
  if (source.kind === 'url') return source.url
  if (source.kind === 'base64') return dataUrl(source.mediaType, source.data)
  if (source.kind === 'text') return dataUrl(source.mediaType, Buffer.from(source.text).toString('base64'))
  return undefined
}

function encodeFile({ source, name }: FileBlock, losses: Losses): JsonObject | undefined {
  const filename = name === undefined ? {} : { filename: name }
  if (source.kind === 'file') {
    // An id is re-emitted as it came: in this dialect it is known, and from another one the upstream says so.
    return { type: 'file', file: { file_id: source.fileId, ...filename } }
  }
  if (source.kind === 'text') {
    losses.add('messages[].content[].source.type', 'a text document becomes a text part')
    return { type: 'text', text: name === undefined ? source.text : `${name}\n\n${source.text}` }
  }
  const mediaType = source.mediaType ?? ''
  if (mediaType.startsWith('video/')) return { type: 'video_url', video_url: { url: urlOf(source) } }
  if (mediaType.startsWith('audio/') && source.kind === 'base64') {
    const format = mediaType
      .slice('audio/'.length)
      .replace(/^(mpeg|mpga)$/, 'mp3')
      .replace(/^x-/, '')
    return { type: 'input_audio', input_audio: { data: source.data, format } }
  }
  return { type: 'file', file: { filename: name ?? 'document.pdf', file_data: urlOf(source) } }
}

/** Claude's blocks without a counterpart; what is text in them is kept. */
function encodeForeign(value: unknown, losses: Losses): JsonObject | undefined {
  const block = isObject(value) ? value : {}
  const type = textOf(block['type'])
  if (type === 'search_result') {
    losses.add('messages[].content[].type.search_result', 'a search result becomes a text part')
    const texts = listOf(block['content']).map(partText)
    return {
      type: 'text',
      text: [textOf(block['title']), textOf(block['source']), ...texts].filter(Boolean).join('\n'),
    }
  }
  const source = isObject(block['source']) ? block['source'] : {}
  if (type === 'document' && source['type'] === 'content') {
    losses.add('messages[].content[].source.type', 'a text document becomes a text part')
    const texts = [textOf(block['title']), textOf(source['content']), ...listOf(source['content']).map(partText)]
    return { type: 'text', text: texts.filter(Boolean).join('\n\n') }
  }
  losses.add(`messages[].content[].type.${type || 'unknown'}`, `not a part of ${PROTOCOL}`)
  return undefined
}

const partText = (part: unknown): string => (isObject(part) ? textOf(part['text']) : '')

/** Parts that are all plain text, as one string: many compatible servers take nothing else outside user messages. */
export function joinTexts(parts: readonly JsonObject[], separator: string): string | undefined {
  const texts: string[] = []
  for (const part of parts) {
    if (part['type'] !== 'text' || Object.keys(part).length !== 2) return undefined
    texts.push(textOf(part['text']))
  }
  return texts.join(separator)
}
