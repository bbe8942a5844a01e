/** Content blocks of Claude's Messages dialect ⇄ blocks of the IR: the same shapes in requests and in answers. */
import type { Block, FileBlock, ImageBlock, MediaSource, ToolCallBlock, ToolResultBlock } from '../ir.ts'
import {
  cacheControl,
  cacheOf,
  extrasOf,
  invalid,
  isObject,
  type JsonObject,
  type Losses,
  parseJson,
  textOf,
} from '../shape.ts'

export const PROTOCOL = 'claude'

const TEXT_KEYS = new Set(['type', 'text', 'cache_control'])
const IMAGE_KEYS = new Set(['type', 'source', 'cache_control'])
const DOCUMENT_KEYS = new Set(['type', 'source', 'title', 'cache_control'])
const THINKING_KEYS = new Set(['type', 'thinking', 'signature', 'cache_control'])
const REDACTED_KEYS = new Set(['type', 'data', 'cache_control'])
const TOOL_USE_KEYS = new Set(['type', 'id', 'name', 'input', 'cache_control'])
const TOOL_RESULT_KEYS = new Set(['type', 'tool_use_id', 'content', 'is_error', 'cache_control'])

/** @param where for the message of the error, such as `messages[2].content` */
export function decodeContent(content: unknown, where: string): Block[] {
  if (content === undefined || content === null || content === '') return []
  if (typeof content === 'string') return [{ type: 'text', text: content }]
  if (!Array.isArray(content)) throw invalid(`${where} must be a string or an array of content blocks`)
  return content.map((block: unknown, index) => {
    if (!isObject(block)) throw invalid(`${where}[${index}] must be an object`)
    return decodeBlock(block, `${where}[${index}]`)
  })
}

export function decodeBlock(block: JsonObject, where: string): Block {
  const cache = cacheOf(block['cache_control'])
  const unknown: Block = { type: 'unknown', protocol: PROTOCOL, value: block }
  switch (block['type']) {
    case 'text':
      return { type: 'text', text: textOf(block['text']), ...cache, ...extrasOf(PROTOCOL, block, TEXT_KEYS) }
    case 'image': {
      const source = decodeSource(block['source'])
      if (!source) return unknown
      return { type: 'image', source, ...cache, ...extrasOf(PROTOCOL, block, IMAGE_KEYS) }
    }
    case 'document': {
      const source = decodeSource(block['source'])
      if (!source) return unknown
      const name = textOf(block['title'])
      const named = name === '' ? {} : { name }
      return { type: 'file', source, ...named, ...cache, ...extrasOf(PROTOCOL, block, DOCUMENT_KEYS) }
    }
    case 'thinking': {
      const signature = textOf(block['signature'])
      const signed = signature === '' ? {} : { signature }
      return {
        type: 'thinking',
        text: textOf(block['thinking']),
        ...signed,
        ...extrasOf(PROTOCOL, block, THINKING_KEYS),
      }
    }
    case 'redacted_thinking': {
      const redacted = textOf(block['data'])
      return { type: 'thinking', text: '', redacted, ...extrasOf(PROTOCOL, block, REDACTED_KEYS) }
    }
    case 'tool_use':
      return {
        type: 'tool-call',
        id: textOf(block['id']),
        name: textOf(block['name']),
        arguments: JSON.stringify(block['input'] ?? {}),
        ...cache,
        ...extrasOf(PROTOCOL, block, TOOL_USE_KEYS),
      }
    case 'tool_result': {
      const content = decodeContent(block['content'], `${where}.content`).filter(isResultContent)
      return {
        type: 'tool-result',
        callId: textOf(block['tool_use_id']),
        content,
        ...(block['is_error'] === true ? { isError: true } : {}),
        ...cache,
        ...extrasOf(PROTOCOL, block, TOOL_RESULT_KEYS),
      }
    }
    default:
      return unknown
  }
}

type ResultContent = ToolResultBlock['content'][number]

const isResultContent = (block: Block): block is ResultContent =>
  block.type === 'text' || block.type === 'image' || block.type === 'file' || block.type === 'unknown'

/** @returns undefined for a source the IR has no word for */
function decodeSource(value: unknown): MediaSource | undefined {
  if (!isObject(value)) return undefined
  const mediaType = textOf(value['media_type'])
  switch (value['type']) {
    case 'base64':
      return { kind: 'base64', mediaType, data: textOf(value['data']) }
    case 'url':
      return { kind: 'url', url: textOf(value['url']) }
    case 'file':
      return { kind: 'file', fileId: textOf(value['file_id']) }
    case 'text':
      return { kind: 'text', mediaType: mediaType || 'text/plain', text: textOf(value['data']) }
    default:
      return undefined
  }
}

export interface EncodeContext {
  readonly losses: Losses
  /** An id as this dialect takes it. */
  readonly toolId: (id: string) => string
}

/** @returns undefined for what a block cannot hold; the loss is noted. Empty text is for the caller to judge. */
export function encodeBlock(block: Block, context: EncodeContext): JsonObject | undefined {
  const bare = encodeBare(block, context)
  if (!bare) return undefined
  context.losses.extras(block.extras, PROTOCOL, 'messages[].content[].')
  const cache = block.cache && block.type !== 'thinking' ? { cache_control: cacheControl(block.cache) } : {}
  return { ...bare, ...cache, ...block.extras?.[PROTOCOL] }
}

function encodeBare(block: Block, context: EncodeContext): JsonObject | undefined {
  const { losses } = context
  switch (block.type) {
    case 'text':
      return { type: 'text', text: block.text }
    case 'refusal':
      return { type: 'text', text: block.text }
    case 'image':
      return encodeImage(block, losses)
    case 'file':
      return encodeFile(block, losses)
    case 'thinking':
      if (block.redacted !== undefined) return { type: 'redacted_thinking', data: block.redacted }
      return { type: 'thinking', thinking: block.text, signature: block.signature ?? '' }
    case 'tool-call':
      return encodeToolUse(block, context)
    case 'tool-result':
      return encodeToolResult(block, context)
    case 'unknown':
      if (block.protocol === PROTOCOL && isObject(block.value)) return block.value
      losses.add(`messages[].content[].type.${typeOf(block.value)}`, `not a block of ${PROTOCOL}`)
      return undefined
  }
}

const typeOf = (value: unknown): string => (isObject(value) && textOf(value['type'])) || 'unknown'

function encodeImage({ source, detail }: ImageBlock, losses: Losses): JsonObject {
  if (detail !== undefined && detail !== 'auto') {
    losses.add('messages[].content[].image_url.detail', 'the resolution cannot be chosen')
  }
  if (source.kind === 'base64' && source.mediaType === 'image/jpg') {
    return { type: 'image', source: encodeSource({ ...source, mediaType: 'image/jpeg' }) }
  }
  return { type: 'image', source: encodeSource(source) }
}

function encodeFile({ source, name }: FileBlock, losses: Losses): JsonObject | undefined {
  const title = name === undefined ? {} : { title: name }
  const mediaType = source.kind === 'file' ? '' : (source.mediaType ?? '')
  if (/^(audio|video)\//.test(mediaType)) {
    const kind = mediaType.startsWith('audio/') ? 'input_audio' : 'video_url'
    losses.add(`messages[].content[].type.${kind}`, `${PROTOCOL} takes no audio and no video`)
    return undefined
  }
  if (source.kind === 'base64' && mediaType.startsWith('text/')) {
    const text = Buffer.from(source.data, 'base64').toString('utf8')
    return { type: 'document', source: { type: 'text', media_type: 'text/plain', data: text }, ...title }
  }
  return { type: 'document', source: encodeSource(source), ...title }
}

function encodeSource(source: MediaSource): JsonObject {
  switch (source.kind) {
    case 'base64':
      return { type: 'base64', media_type: source.mediaType, data: source.data }
    case 'url':
      return { type: 'url', url: source.url }
    case 'file':
      return { type: 'file', file_id: source.fileId }
    case 'text':
      return { type: 'text', media_type: source.mediaType, data: source.text }
  }
}

function encodeToolUse(block: ToolCallBlock, { losses, toolId }: EncodeContext): JsonObject {
  return { type: 'tool_use', id: toolId(block.id), name: block.name, input: inputOf(block.arguments, losses) }
}

/** Arguments must be an object here. What a model wrote otherwise is kept as text, so that it can see its mistake. */
function inputOf(text: string, losses: Losses): unknown {
  if (text.trim() === '') return {}
  const value = parseJson(text)
  if (isObject(value)) return value
  losses.add('messages[].tool_calls[].function.arguments', 'arguments that are not a JSON object become text in one')
  return { arguments: text }
}

function encodeToolResult(block: ToolResultBlock, context: EncodeContext): JsonObject {
  const blocks: JsonObject[] = []
  for (const item of block.content) {
    if (item.type === 'text' && item.text.trim() === '') continue
    const encoded = encodeBlock(item, context)
    if (encoded) blocks.push(encoded)
  }
  const [only] = blocks
  const isPlain = blocks.length === 1 && only?.['type'] === 'text' && Object.keys(only).length === 2
  return {
    type: 'tool_result',
    tool_use_id: context.toolId(block.callId),
    ...(blocks.length === 0 ? {} : { content: isPlain ? only?.['text'] : blocks }),
    ...(block.isError ? { is_error: true } : {}),
  }
}

/**
 * Ids of this dialect hold letters, digits, `_` and `-` only, and two calls never share one.
 * @returns a function that answers the same for the same id
 */
export function createToolIds(): (id: string) => string {
  const given = new Map<string, string>()
  const taken = new Set<string>()
  return (id) => {
    const known = given.get(id)
    if (known !== undefined) return known
    const clean = id.replace(/[^a-zA-Z0-9_-]/g, '_') || 'call'
    let unique = clean
    for (let n = 2; taken.has(unique); n++) unique = `${clean}_${n}`
    given.set(id, unique)
    taken.add(unique)
    return unique
  }
}
