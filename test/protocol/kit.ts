/** What the codec tests share: fixtures, frames, whole conversions, and what a stream amounts to. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createSseParser, type SseFrame } from '../../src/lib/sse.ts'
import {
  codecs,
  type Loss,
  type Protocol,
  type StreamEncoderOptions,
  type StreamEvent,
  type Usage,
} from '../../src/protocol/index.ts'

export const FIXTURES = join(import.meta.dir, '..', 'fixtures')

export const OTHER: Readonly<Record<Protocol, Protocol>> = { 'openai-chat': 'claude', claude: 'openai-chat' }

export const readFixture = (name: string): string => readFileSync(join(FIXTURES, name), 'utf8')
export const readJson = (name: string): Record<string, unknown> => JSON.parse(readFixture(name))

export function framesOf(text: string, chunkBytes = Number.POSITIVE_INFINITY): SseFrame[] {
  const bytes = new TextEncoder().encode(text)
  const parser = createSseParser()
  const frames: SseFrame[] = []
  for (let at = 0; at < bytes.length; at += chunkBytes) frames.push(...parser.feed(bytes.subarray(at, at + chunkBytes)))
  return [...frames, ...parser.end()]
}

export function decodeStream(protocol: Protocol, text: string, chunkBytes?: number): StreamEvent[] {
  const decoder = codecs[protocol].streamDecoder()
  return [...framesOf(text, chunkBytes).flatMap((frame) => [...decoder.feed(frame)]), ...decoder.end()]
}

export const STREAM_OPTIONS: StreamEncoderOptions = {
  model: 'asked-model',
  id: 'req-1',
  createdAtSec: 1_764_000_000,
  includeUsage: true,
  inputTokensEstimate: 11,
}

export function encodeStream(
  protocol: Protocol,
  events: readonly StreamEvent[],
  options: Partial<StreamEncoderOptions> = {},
): { readonly text: string; readonly losses: readonly Loss[] } {
  const encoder = codecs[protocol].streamEncoder({ ...STREAM_OPTIONS, ...options })
  const text = events.map((event) => encoder.event(event)).join('') + encoder.end()
  return { text, losses: encoder.losses() }
}

/** A stream as one value: its blocks with all their deltas joined, its end and its usage. */
export function assemble(events: readonly StreamEvent[], choice = 0) {
  const blocks: Record<string, unknown>[] = []
  let finish: string | undefined
  let stopSequence: string | undefined
  let usage: Usage | undefined
  const errors: string[] = []
  for (const event of events) {
    const isOfChoice = event.type.startsWith('block') || event.type === 'finish'
    if (isOfChoice && (('choice' in event ? event.choice : undefined) ?? 0) !== choice) continue
    if (event.type === 'block-start') blocks[event.index] = { ...event.block }
    else if (event.type === 'block-delta') {
      const block = blocks[event.index] as Record<string, unknown>
      const { type, ...fields } = event.delta
      for (const [key, value] of Object.entries(fields)) {
        const name = type === 'arguments' ? 'arguments' : key
        block[name] = typeof value === 'string' && name !== 'protocol' ? `${block[name] ?? ''}${value}` : value
      }
    } else if (event.type === 'finish') {
      finish = event.finish
      stopSequence = event.stopSequence
    } else if (event.type === 'usage') usage = event.usage
    else if (event.type === 'error') errors.push(event.message)
  }
  return { blocks, finish, ...(stopSequence === undefined ? {} : { stopSequence }), usage: countsOf(usage), errors }
}

/** Usage without the upstream's own object and the dialect that counted it. */
export function countsOf(usage: Usage | undefined): Omit<Usage, 'raw' | 'semantic'> | undefined {
  if (!usage) return undefined
  const { raw: _raw, semantic: _semantic, ...counts } = usage
  return counts
}
