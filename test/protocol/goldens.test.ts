/**
 * Whole conversions between every ordered pair of dialects, compared with files that people have read. A run with
 * UPDATE_GOLDENS=1 writes them anew; read the difference before you keep it.
 */
import { expect, test } from 'bun:test'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { codecs, type Protocol } from '../../src/protocol/index.ts'
import { decodeStream, encodeStream, FIXTURES, OTHER, readFixture, readJson } from './kit.ts'

const CASES: readonly (readonly [Protocol, readonly string[]])[] = [
  [
    'openai-chat',
    [
      'openai/request.json',
      'openai/response.json',
      'openai/stream-tools.sse',
      'openai/stream-interleaved.sse',
      'openai/stream-azure.sse',
      'openai/stream-refusal.sse',
      'openai/stream-completions.sse',
      'deepseek/response.json',
      'deepseek/stream-reasoning.sse',
      'openrouter/response.json',
      'openrouter/stream-signed.sse',
      'mistral/response.json',
      'mistral/stream.sse',
      'xai/response.json',
    ],
  ],
  [
    'claude',
    [
      'anthropic/request.json',
      'anthropic/response.json',
      'anthropic/response-refusal.json',
      'anthropic/response-compaction.json',
      'anthropic/stream-tools.sse',
      'anthropic/stream-server-tool.sse',
      'anthropic/stream-stop-sequence.sse',
    ],
  ],
]

function matchesGolden(name: string, actual: string): void {
  const path = join(FIXTURES, 'golden', name)
  if (process.env['UPDATE_GOLDENS'] === '1') writeFileSync(path, actual)
  expect(existsSync(path)).toBe(true)
  expect(actual).toBe(readFileSync(path, 'utf8'))
}

const print = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`

for (const [source, names] of CASES) {
  for (const target of [OTHER[source], source]) {
    for (const name of names) {
      const golden = `${name.replace('/', '-').replace(/\.\w+$/, '')}.to-${target}`
      test(`${name} becomes the known ${target}`, () => {
        if (name.endsWith('.sse')) {
          const { text, losses } = encodeStream(target, decodeStream(source, readFixture(name)))
          const notes = losses.map((loss) => `: loss ${loss.path}: ${loss.reason}\n`).join('')
          matchesGolden(`${golden}.sse`, notes + text)
          return
        }
        const json = readJson(name)
        const encoded = name.includes('request')
          ? codecs[target].encodeRequest(codecs[source].decodeRequest(json).value)
          : codecs[target].encodeResponse(codecs[source].decodeResponse(json), {
              id: 'req-1',
              createdAtSec: 1_764_000_000,
            })
        matchesGolden(`${golden}.json`, print(encoded))
      })
    }
  }
}
