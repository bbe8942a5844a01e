/**
 * A large body is converted without its long strings. Whatever stands where, the upstream must get what a conversion of the
 * parsed body makes.
 */
import { describe, expect, test } from 'bun:test'
import { readLongStrings } from '../../src/lib/long-strings.ts'
import { createTurns } from '../../src/lib/turns.ts'
import { codecs, type Encoded, PROTOCOLS, type Protocol } from '../../src/protocol/index.ts'
import { withOpened } from '../../src/relay/opened.ts'
import { uploadOf } from '../../src/relay/upload.ts'
import { OTHER } from '../protocol/kit.ts'
import { type Random, seeded } from '../protocol/random.ts'

type Json = Record<string, unknown>

const turns = createTurns({ monotonic: () => performance.now() })
const BASE64 = 'iVBORw0KGgo/+'.repeat(200)

/** Every block and field that a codec reads. */
const chat = {
  messages: [
    { role: 'system', content: 'a', name: 'n' },
    { role: 'developer', content: [{ type: 'text', text: 'b', cache_control: { type: 'ephemeral', ttl: '1h' } }, 'c'] },
    {
      role: 'user',
      name: 'Ada',
      vendor: 'v',
      content: [
        { type: 'text', text: 'd', vendor: 'v' },
        'plain',
        { type: 'image_url', image_url: { url: `data:image/png;base64,${BASE64}`, detail: 'low' } },
        { type: 'image_url', image_url: `data:image/jpg;name=x;base64,${BASE64}` },
        { type: 'image_url', image_url: { url: `data:application/pdf;base64,${BASE64}` } },
        { type: 'image_url', image_url: { url: `data:text/plain;charset=utf-8;base64,${BASE64}` } },
        { type: 'image_url', image_url: { url: `data:;base64,${BASE64}` } },
        { type: 'image_url', image_url: { url: `data:image/svg+xml,%3Csvg%3E${BASE64}` } },
        { type: 'image_url', image_url: { url: 'https://example.com/a.png' } },
        { type: 'input_audio', input_audio: { data: BASE64, format: 'mp3' } },
        { type: 'file', file: { filename: 'a.pdf', file_data: `data:application/pdf;base64,${BASE64}` } },
        { type: 'file', file: { filename: 'a.pdf', file_data: BASE64 } },
        { type: 'file', file: { filename: 'a.txt', file_data: BASE64 } },
        { type: 'file', file: { file_data: `data:text/csv;base64,${BASE64}` } },
        { type: 'file', file: { file_id: 'file-1', filename: 'b.pdf' } },
        { type: 'video_url', video_url: { url: `data:video/mp4;base64,${BASE64}` } },
        { type: 'video_url', video_url: 'https://example.com/a.mp4' },
        { type: 'strange', text: 'e' },
      ],
    },
    {
      role: 'assistant',
      content: null,
      reasoning_content: 'hm',
      reasoning: 'hm',
      reasoning_details: [
        { type: 'reasoning.text', text: 'hm', signature: 's', format: 'anthropic-claude-v1' },
        { type: 'reasoning.encrypted', data: 'x' },
        { type: 'reasoning.summary', summary: 'y' },
      ],
      tool_calls: [
        { id: 'call.1', type: 'function', function: { name: 'f', arguments: '{"a":"b\\n","c":["d"]}' } },
        { id: 'call:1', type: 'function', function: { name: 'f', arguments: { text: 'b', url: 'c' } } },
        { id: 'c3', type: 'function', function: { name: 'f', arguments: 'no JSON' } },
        { id: 'c4', type: 'custom', custom: { name: 'g', input: 'x' } },
      ],
      function_call: { name: 'old', arguments: '{"a":1}' },
    },
    { role: 'tool', tool_call_id: 'call.1', content: 'f' },
    {
      role: 'tool',
      tool_call_id: 'call:1',
      content: [
        { type: 'text', text: 'g' },
        { type: 'text', text: 'h' },
      ],
    },
    { role: 'tool', tool_call_id: 'nobody', content: 'i' },
    { role: 'function', name: 'old', content: 'j' },
    { role: 'user', content: 'k' },
    {
      role: 'assistant',
      content: [
        { type: 'refusal', refusal: 'l' },
        { type: 'thinking', thinking: 'm' },
      ],
    },
    { role: 'assistant', content: 'n', refusal: 'o' },
  ],
  tools: [
    {
      type: 'function',
      function: {
        name: 'f',
        description: 'p',
        parameters: { type: 'object', description: 'q', properties: { input: { enum: ['r'] } } },
      },
    },
    { type: 'web_search', content: 's' },
  ],
  functions: [{ name: 'old', description: 't', parameters: { type: 'string' } }],
  tool_choice: { type: 'function', function: { name: 'f' } },
  stop: ['END', ' '],
  user: 'u',
  reasoning_effort: 'high',
  response_format: { type: 'json_schema', json_schema: { name: 'n', description: 'v', schema: { description: 'w' } } },
  vendor: { text: 'x', deep: [{ content: 'y' }] },
}

const claude = {
  max_tokens: 9000,
  system: [
    { type: 'text', text: 'a', cache_control: { type: 'ephemeral' } },
    { type: 'text', text: 'b' },
  ],
  messages: [
    { role: 'system', content: 'c' },
    {
      role: 'user',
      content: [
        { type: 'text', text: 'd', citations: ['v'] },
        { type: 'image', source: { type: 'base64', media_type: 'image/png', data: BASE64 } },
        { type: 'image', source: { type: 'url', url: 'https://example.com/a.png' } },
        { type: 'image', source: { type: 'url', url: `data:image/png;base64,${BASE64}` } },
        { type: 'image', source: { type: 'text', media_type: 'image/svg+xml', data: '<svg/>' } },
        { type: 'image', source: { type: 'file', file_id: 'f1' } },
        { type: 'image', source: { type: 'strange', data: 'x' } },
        { type: 'document', title: 'e', source: { type: 'base64', media_type: 'application/pdf', data: BASE64 } },
        { type: 'document', source: { type: 'base64', media_type: 'text/plain', data: BASE64 } },
        { type: 'document', source: { type: 'base64', media_type: 'audio/mpeg', data: BASE64 } },
        { type: 'document', source: { type: 'base64', media_type: 'video/mp4', data: BASE64 } },
        { type: 'document', title: 'f', source: { type: 'text', media_type: 'text/plain', data: 'g' } },
        { type: 'document', source: { type: 'text', data: 'h' }, context: 'v' },
        { type: 'document', source: { type: 'content', content: 'i' } },
        { type: 'document', title: 'j', source: { type: 'content', content: [{ type: 'text', text: 'k' }] } },
        { type: 'document', source: { type: 'url', url: 'https://example.com/a.pdf' } },
        { type: 'search_result', title: 'l', source: 'm', content: [{ type: 'text', text: 'n' }] },
        { type: 'strange', text: 'o' },
      ],
    },
    {
      role: 'assistant',
      content: [
        { type: 'thinking', thinking: 'p', signature: 'q' },
        { type: 'redacted_thinking', data: 'r' },
        { type: 'text', text: 's' },
        { type: 'text', text: 't' },
        { type: 'tool_use', id: 't1', name: 'f', input: { text: 'u', url: 'v', data: { content: ['w'] } } },
        { type: 'tool_use', id: 't2', name: 'f', input: 'x' },
        { type: 'server_tool_use', id: 's1', name: 'web_search', input: { query: 'y' } },
      ],
    },
    {
      role: 'user',
      content: [
        { type: 'tool_result', tool_use_id: 't1', content: 'z', is_error: true },
        {
          type: 'tool_result',
          tool_use_id: 't2',
          content: [
            { type: 'text', text: 'A' },
            { type: 'text', text: 'B' },
            { type: 'image', source: { type: 'base64', media_type: 'image/png', data: BASE64 } },
          ],
        },
        { type: 'text', text: 'C' },
      ],
    },
    { role: 'assistant', content: 'D' },
  ],
  tools: [
    { name: 'f', description: 'E', input_schema: { type: 'object', description: 'F', properties: { text: {} } } },
    { type: 'bash_20250124', name: 'bash' },
  ],
  tool_choice: { type: 'tool', name: 'f' },
  thinking: { type: 'enabled', budget_tokens: 1500, vendor: 'G' },
  output_config: { format: { type: 'json_schema', schema: { description: 'H' } }, effort: 'low' },
  stop_sequences: ['END'],
  metadata: { user_id: 'I', other: 'J' },
  vendor: { text: 'K' },
}

const BODIES: Readonly<Record<Protocol, Json>> = { 'openai-chat': chat, claude }
const MODELS = ['gpt-4o', 'claude-sonnet-4-5', 'claude-opus-4-7'] as const

const MARK = '<9b2f1c1e-0000-4000-8000-000000000000:10:2000>'
const ENDS = [
  '',
  ' ',
  '\n\n',
  ' \t\r\n\f\u00a0\u3000\ufeff\u2028',
  '\\',
  '\\n',
  '"',
  '\u{1f600}',
  '\ud83d',
  '。',
  'u00a0',
]
const STARTS = ['', ' \n', '\ufeff', '\ude00', '狐狸', '{"a":"', MARK]

/** A long string around a short one; which of its characters are escaped is for `written`. */
function lengthened(random: Random, text: string): string {
  if (random.chance(0.05)) return random.pick([' ', '\n', ' \u00a0', '\u2003\\']).repeat(1500)
  if (random.chance(0.2)) return text + 'x'.repeat(1200)
  const filler = random.text().repeat(1 + random.int(10)) + random.pick(['x', '狐', '\n']).repeat(1024)
  return random.pick(STARTS) + text + filler + random.pick(ENDS)
}

/** The body with some of its strings lengthened, or gone. */
function changed(random: Random, value: unknown, chance: number): unknown {
  if (typeof value === 'string') return random.chance(chance) ? lengthened(random, value) : value
  if (Array.isArray(value)) {
    return value.filter(() => !random.chance(0.1)).map((item) => changed(random, item, chance))
  }
  if (typeof value !== 'object' || value === null) return value
  const { type, ...rest } = value as Json
  const entries = Object.entries(rest).filter(() => !random.chance(0.03))
  // Kinds and roles are mostly as they should be, or little would be converted.
  const kind = type === undefined ? [] : [['type', random.chance(chance / 20) ? changed(random, type, 1) : type]]
  return Object.fromEntries([
    ...kind,
    ...entries.map(([key, item]) => [key, changed(random, item, key === 'role' ? chance / 20 : chance)]),
  ])
}

/** JSON with escapes as other serialisers write them. */
function written(random: Random, value: unknown): string {
  let text = JSON.stringify(value)
  const asCode = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is meant
  if (random.chance(0.4)) text = text.replace(/[^\x00-\x7f]/g, asCode)
  if (random.chance(0.4)) text = text.replaceAll('/', '\\/')
  if (random.chance(0.4)) text = text.replaceAll(' ', '\\u0020')
  if (random.chance(0.4)) text = text.replace(/\\\\|\\n/g, (found) => (found === '\\n' ? '\\u000A' : found))
  if (random.chance(0.2)) text = text.replaceAll(';base64,', ';base64\\u002c')
  if (random.chance(0.2)) text = text.replaceAll('data:', 'd\\u0061ta:')
  return text
}

type Outcome = { readonly json: string; readonly losses: unknown } | { readonly error: string }

function converted(from: Protocol, json: unknown, text: (encoded: Encoded) => string): Outcome {
  try {
    const decoded = codecs[from].decodeRequest(json)
    const encoded = codecs[OTHER[from]].encodeRequest(decoded.value)
    return { json: text(encoded), losses: [...decoded.losses, ...encoded.losses] }
  } catch (error) {
    return { error: String(error) }
  }
}

async function sent(from: Protocol, bytes: Uint8Array<ArrayBuffer>): Promise<Outcome> {
  const long = (await readLongStrings(bytes, turns))!
  const opened = withOpened(long.json as Json, long)!
  const parts: (string | Uint8Array<ArrayBuffer>)[] = []
  const outcome = converted(from, opened, ({ json }) => {
    parts.push(...long.parts(JSON.stringify(json)))
    return ''
  })
  if ('error' in outcome) return outcome
  const upload = uploadOf(parts)
  const whole = Buffer.concat(await Array.fromAsync(upload.pieces()))
  expect(whole.length).toBe(upload.length)
  const text = new TextDecoder('utf-8', { fatal: true }).decode(whole)
  return { ...outcome, json: JSON.stringify(JSON.parse(text)) }
}

describe.each(PROTOCOLS.map((protocol) => [protocol]))('from %s', (from) => {
  test('any long strings arrive as those of a parsed body', async () => {
    let good = 0
    for (let seed = 1; seed <= 400; seed++) {
      const random = seeded(seed)
      const model = random.pick(MODELS)
      const body = { model, long: BASE64, ...(changed(random, BODIES[from], random.pick([0, 0.1, 0.5, 0.9])) as Json) }
      const text = written(random, body)
      const plain = converted(from, JSON.parse(text), ({ json }) => JSON.stringify(json))
      const marked = await sent(from, new TextEncoder().encode(text))
      if ('json' in marked) good++
      expect({ seed, ...marked }).toEqual({ seed, ...plain })
    }
    expect(good).toBeGreaterThan(200)
  })

  test('any single string may be long, whatever it begins and ends with', async () => {
    const places: (readonly (string | number)[])[] = []
    const find = (value: unknown, path: readonly (string | number)[]): void => {
      if (typeof value === 'string') places.push(path)
      else if (typeof value === 'object' && value !== null)
        for (const [key, item] of Object.entries(value)) find(item, [...path, key])
    }
    find(BODIES[from], [])
    expect(places.length).toBeGreaterThan(80)
    for (const path of places)
      for (const [number, end] of ENDS.entries()) {
        const body: Json = { model: MODELS[number % 2], ...structuredClone(BODIES[from]) }
        let holder: Json = body
        for (const key of path.slice(0, -1)) holder = holder[key] as Json
        const last = path.at(-1)!
        holder[last] = `${holder[last]}${'y'.repeat(1024)}${end}`
        const plain = converted(from, body, ({ json }) => JSON.stringify(json))
        const marked = await sent(from, new TextEncoder().encode(JSON.stringify(body)))
        expect({ path, end, ...marked }).toEqual({ path, end, ...plain })
      }
  })
})

test('texts and media are not made strings', async () => {
  const long = 'words, "words" 狐狸\n'.repeat(100)
  const bodies: readonly (readonly [Protocol, Json])[] = [
    [
      'openai-chat',
      {
        model: 'claude-sonnet-4-5',
        messages: [
          { role: 'user', content: [{ type: 'image_url', image_url: { url: `data:image/png;base64,${BASE64}` } }] },
          { role: 'user', content: [{ type: 'text', text: long }] },
          { role: 'assistant', content: long },
        ],
      },
    ],
    [
      'claude',
      {
        model: 'gpt-4o',
        system: long,
        messages: [
          {
            role: 'user',
            content: [
              { type: 'image', source: { type: 'base64', media_type: 'image/png', data: BASE64 } },
              { type: 'document', source: { type: 'text', media_type: 'text/plain', data: long } },
            ],
          },
        ],
      },
    ],
  ]
  for (const [from, body] of bodies) {
    const read = (await readLongStrings(new TextEncoder().encode(JSON.stringify(body)), turns))!
    const opened = withOpened(read.json as Json, read)
    const { value } = codecs[from].decodeRequest(opened)
    expect(JSON.stringify(codecs[OTHER[from]].encodeRequest(value).json).length).toBeLessThan(1000)
  }
})

test('what is nested too deep is left to those who parse it whole', async () => {
  const text = `{"a":"${'x'.repeat(2000)}","b":${'['.repeat(20_000)}${']'.repeat(20_000)}}`
  const read = (await readLongStrings(new TextEncoder().encode(text), turns))!
  expect(withOpened(read.json as Json, read)).toBeUndefined()
})
