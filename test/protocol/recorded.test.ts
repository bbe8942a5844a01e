/**
 * Answers of true upstreams go through the codecs without loss of text or counts. FIXTURES_DIR names a folder of recorded
 * replies by provider (`*.json`: a body; `*.chunks.txt`: the JSON of one event per line); our own fixtures always run.
 */
import { expect, test } from 'bun:test'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  type ChatResponse,
  codecs,
  type Protocol,
  producedBy,
  producedIn,
  type StreamEvent,
  type Usage,
} from '../../src/protocol/index.ts'
import { assemble, decodeStream, encodeStream, FIXTURES, OTHER } from './kit.ts'

type Json = Record<string, unknown>

const PROVIDERS: readonly (readonly [Protocol, string, RegExp])[] = [
  ['claude', 'anthropic', /./],
  ['openai-chat', 'deepseek', /./],
  ['openai-chat', 'groq', /./],
  ['openai-chat', 'mistral', /^(?!.*transcription)/],
  ['openai-chat', 'moonshotai', /./],
  ['openai-chat', 'openrouter', /./],
  // The rest of these folders is of other operations and dialects.
  ['openai-chat', 'xai', /^(xai-text\.|xai-tool-call|response)/],
  ['openai-chat', 'alibaba', /./],
  ['openai-chat', 'openai-compatible', /./],
  ['openai-chat', 'openai', /^(openai-completion|response|stream)/],
]

const roots = [FIXTURES, process.env['FIXTURES_DIR']].filter((root) => root !== undefined)

function* recordings(): Generator<readonly [Protocol, string, string]> {
  for (const root of roots) {
    for (const [protocol, provider, wanted] of PROVIDERS) {
      const folder = join(root, provider)
      for (const name of existsSync(folder) ? readdirSync(folder).sort() : []) {
        if (wanted.test(name) && !name.startsWith('request')) {
          yield [protocol, `${provider}/${name}`, readFileSync(join(folder, name), 'utf8')]
        }
      }
    }
  }
}

const toSse = (name: string, text: string): string =>
  name.endsWith('.sse')
    ? text
    : text
        .trim()
        .split('\n')
        .map((line) => `data: ${line}\n\n`)
        .join('')

/** Some recordings hold several answers, one after the other. */
function firstMessage(sse: string): string {
  const stop = /data: \{"type":"message_stop"[^\n]*\n\n/.exec(sse)
  return stop ? sse.slice(0, stop.index + stop[0].length) : sse
}

/** The JSON of each event, read without the code under test. */
const eventsOf = (sse: string): Json[] =>
  sse
    .split('\n')
    .filter((line) => line.startsWith('data: {'))
    .map((line) => JSON.parse(line.slice(6)))

const list = (value: unknown): Json[] => (Array.isArray(value) ? value : [])
const string = (value: unknown): string => (typeof value === 'string' ? value : '')

function piecesOf(content: unknown): string {
  if (typeof content === 'string') return content
  return list(content)
    .map((part) => string(part['text']) || piecesOf(part['thinking']))
    .join('')
}

/** All text of a chat message or delta, in the order of the codec. */
function chatText(message: Json): string {
  const calls = list(message['tool_calls']).map((call) => {
    const fn = call['function'] as Json
    const args = fn['arguments']
    return string(fn['name']) + (typeof args === 'object' && args !== null ? JSON.stringify(args) : string(args))
  })
  const reasoning = string(message['reasoning_content']) || string(message['reasoning'])
  return [reasoning, piecesOf(message['content']), string(message['refusal']), ...calls].join('')
}

function claudeText(block: Json): string {
  if (block['type'] === 'tool_use') return string(block['name']) + JSON.stringify(block['input'])
  return string(block['thinking']) + string(block['text'])
}

function expectUsage(protocol: Protocol, usage: Usage | undefined, raw: Json | undefined): void {
  if (!raw) {
    expect(usage).toBeUndefined()
    return
  }
  const number = (value: unknown) => (typeof value === 'number' ? value : 0)
  if (protocol === 'claude') {
    const cached = number(raw['cache_read_input_tokens'])
    const written = number(raw['cache_creation_input_tokens'])
    const compactions = list(raw['iterations']).filter((one) => one['type'] === 'compaction')
    const sum = (key: string) => compactions.reduce((total, one) => total + number(one[key]), number(raw[key]))
    expect(usage?.inputTokens).toBe(sum('input_tokens') + cached + written)
    expect(usage?.outputTokens).toBe(sum('output_tokens'))
    expect([usage?.cacheReadTokens, usage?.cacheWriteTokens]).toEqual([cached, written])
    return
  }
  const details = (raw['prompt_tokens_details'] ?? {}) as Json
  expect(usage?.inputTokens).toBe(number(raw['prompt_tokens']))
  // Whatever is inside and what beside, the total is what was counted.
  expect((usage?.inputTokens ?? 0) + (usage?.outputTokens ?? 0)).toBe(number(raw['total_tokens']))
  const cached =
    number(details['cached_tokens']) || number(raw['prompt_cache_hit_tokens']) || number(raw['cached_tokens'])
  expect(usage?.cacheReadTokens).toBe(cached)
}

const lastUsage = (events: readonly StreamEvent[]) => events.findLast((event) => event.type === 'usage')?.usage

function rawStreamUsage(protocol: Protocol, events: readonly Json[]): Json | undefined {
  if (protocol === 'openai-chat') {
    const groq = (event: Json) => (event['x_groq'] as Json | undefined)?.['usage']
    return (
      events.map((event) => (event['usage'] ?? groq(event)) as Json | null | undefined).findLast(Boolean) ?? undefined
    )
  }
  const started = (events.find((event) => event['type'] === 'message_start')?.['message'] as Json | undefined)?.[
    'usage'
  ]
  const ended = events.findLast((event) => event['type'] === 'message_delta')?.['usage']
  return ended ? { ...(started as Json), ...(ended as Json) } : undefined
}

for (const [protocol, name, text] of recordings()) {
  if (name.endsWith('.json')) {
    test(`the recorded answer ${name} keeps its text and its counts`, () => {
      const raw = JSON.parse(text) as Json
      const response = codecs[protocol].decodeResponse(raw)
      expect(codecs[protocol].usageOf(raw)).toEqual(response.usage!)
      const expected =
        protocol === 'claude'
          ? list(raw['content']).map(claudeText)
          : list(raw['choices']).map((choice) => chatText((choice['message'] as Json) ?? { content: choice['text'] }))
      expect(producedIn(response).text).toBe(expected.join(''))
      expectUsage(protocol, response.usage, raw['usage'] as Json)
      // The other dialect carries all that it has words for.
      const encoded = codecs[OTHER[protocol]].encodeResponse(response, { createdAtSec: 1 })
      const back = codecs[OTHER[protocol]].decodeResponse(encoded.json)
      const plain = (answer: ChatResponse) => producedIn({ ...answer, otherChoices: [] }).text.replace(/\s|\{\}/g, '')
      expect(plain(back)).toBe(plain(response))
      expect(back.usage?.inputTokens).toBe(response.usage?.inputTokens)
      expect(back.usage?.outputTokens).toBe(response.usage?.outputTokens)
    })
    continue
  }
  test(`the recorded stream ${name} keeps its text and its counts, in chunks of any size`, () => {
    const sse = firstMessage(toSse(name, text))
    const raw = eventsOf(sse)
    const events = decodeStream(protocol, sse)
    const small = sse.length < 20_000
    for (const size of small ? [1, 2, 7, 64] : [61, 1024]) expect(decodeStream(protocol, sse, size)).toEqual(events)
    if (protocol === 'openai-chat') {
      const deltas = raw.flatMap((event) => list(event['choices']))
      const parts = deltas.map((choice) => chatText((choice['delta'] as Json) ?? { content: choice['text'] }))
      expect(sortedText(events.map(producedBy).join(''))).toBe(sortedText(parts.join('')))
    } else {
      const deltas = raw.map((event) => (event['delta'] ?? {}) as Json)
      const names = raw
        .map((event) => (event['content_block'] ?? {}) as Json)
        .filter((one) => one['type'] === 'tool_use')
      const parts = deltas.map((d) => string(d['text']) + string(d['thinking']) + string(d['partial_json']))
      // A call that comes whole brings its input at its start.
      const inputs = events.length > 0 ? names.map((one) => wholeInput(one, raw)) : []
      const all = [...names.map((one) => string(one['name'])), ...parts, ...inputs].join('')
      expect(sortedText(events.map(producedBy).join(''))).toBe(sortedText(all))
    }
    expectUsage(protocol, lastUsage(events), rawStreamUsage(protocol, raw))

    const other = encodeStream(OTHER[protocol], events)
    const back = assemble(decodeStream(OTHER[protocol], other.text))
    const known = (blocks: readonly Json[]) =>
      blocks.map((block) => string(block['type']).replace('refusal', 'text')).filter((type) => type !== 'unknown')
    const blocks = assemble(events).blocks
    if (other.losses.length === 0) expect(known(back.blocks)).toEqual(known(blocks))
    expect(back.usage?.outputTokens ?? 0).toBe(lastUsage(events)?.outputTokens ?? 0)
  })
}

/** Deltas of parallel calls may change places with each other, so only the letters are compared. */
const sortedText = (text: string): string => [...text].sort().join('')

function wholeInput(block: Json, raw: readonly Json[]): string {
  const start = raw.find((event) => (event['content_block'] as Json | undefined)?.['id'] === block['id'])
  const isStreamed = raw.some((event) => {
    const delta = (event['delta'] ?? {}) as Json
    return event['index'] === start?.['index'] && string(delta['partial_json']) !== ''
  })
  const input = block['input'] as Json
  return isStreamed || Object.keys(input).length === 0 ? '' : JSON.stringify(input)
}
