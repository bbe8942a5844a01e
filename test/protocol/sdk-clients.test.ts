/** The official clients understand what the codecs write. They get our bytes through their own `fetch` option. */
import { describe, expect, test } from 'bun:test'
import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
import { GatewayError } from '../../src/errors.ts'
import { codecs, type EncodedError } from '../../src/protocol/index.ts'
import { decodeStream, encodeStream, readFixture, readJson } from './kit.ts'

/** A body in pieces of seven bytes. */
function inPieces(text: string): ReadableStream<Uint8Array> {
  const bytes = new TextEncoder().encode(text)
  let at = 0
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close()
      controller.enqueue(bytes.slice(at, at + 7))
      at += 7
    },
  })
}

const answering = (make: () => Response) => async () => make()
const sse = (text: string) =>
  answering(() => new Response(inPieces(text), { headers: { 'content-type': 'text/event-stream' } }))
const json = (body: unknown) => answering(() => Response.json(body))
const failing = ({ status, headers, json: body }: EncodedError) =>
  answering(() => Response.json(body, { status, headers }))

type Fetch = () => Promise<Response>
const anthropic = (fetch: Fetch) => new Anthropic({ apiKey: 'k', baseURL: 'http://localhost', maxRetries: 0, fetch })
const openai = (fetch: Fetch) => new OpenAI({ apiKey: 'k', baseURL: 'http://localhost/v1', maxRetries: 0, fetch })

const ask = { model: 'm', max_tokens: 10, messages: [{ role: 'user' as const, content: 'hi' }] }
const askChat = { model: 'm', messages: [{ role: 'user' as const, content: 'hi' }] }

describe("Anthropic's client", () => {
  test('puts a stream together that came from a chat upstream', async () => {
    const events = decodeStream('openai-chat', readFixture('openai/stream-tools.sse'))
    const message = await anthropic(sse(encodeStream('claude', events).text))
      .messages.stream(ask)
      .finalMessage()
    expect(message.content).toMatchObject([
      { type: 'text', text: 'Ich sehe nach. 🌦' },
      { type: 'tool_use', id: 'call_1', name: 'get_weather', input: { city: 'Paris' } },
      { type: 'tool_use', id: 'call_2', name: 'now', input: {} },
    ])
    expect(message.stop_reason).toBe('tool_use')
    expect(message.usage).toMatchObject({ input_tokens: 176, cache_read_input_tokens: 1024, output_tokens: 90 })
  })

  test('hears of each block once and in order, also when calls interleave', async () => {
    const events = decodeStream('openai-chat', readFixture('openai/stream-interleaved.sse'))
    const blocks: unknown[] = []
    const stream = anthropic(sse(encodeStream('claude', events).text)).messages.stream(ask)
    stream.on('contentBlock', (block) => blocks.push(block))
    await stream.finalMessage()
    expect(blocks).toMatchObject([
      { id: 'call_1', input: { city: 'Paris' } },
      { id: 'call_2', input: { city: 'Nice' } },
    ])
  })

  test('reads thinking with its signature', async () => {
    const events = decodeStream('openai-chat', readFixture('openrouter/stream-signed.sse'))
    const message = await anthropic(sse(encodeStream('claude', events).text))
      .messages.stream(ask)
      .finalMessage()
    expect(message.content).toMatchObject([
      { type: 'thinking', thinking: 'Check the sky.', signature: 'c2lnbmVk' },
      { type: 'redacted_thinking', data: 'b3BhcXVl' },
      { type: 'text', text: 'Blue.' },
    ])
  })

  test('reads a whole answer', async () => {
    const { json: body } = codecs.claude.encodeResponse(
      codecs['openai-chat'].decodeResponse(readJson('openai/response.json')),
    )
    const message = await anthropic(json(body)).messages.create(ask)
    expect(message.content.map((block) => block.type)).toEqual(['text', 'tool_use', 'tool_use'])
  })

  test('throws the class of our error, before a stream and within it', async () => {
    const error = new GatewayError('rate_limit_exceeded', { retryAfterSec: 3 })
    const client = anthropic(failing(codecs.claude.encodeError(error, 'r')))
    const refusal = await client.messages.create(ask).catch((thrown: unknown) => thrown)
    expect(refusal).toBeInstanceOf(Anthropic.RateLimitError)
    expect((refusal as Error).message).toContain('request id: r')
    const broken = codecs.claude.encodeStreamError(new GatewayError('upstream_timeout'), 'r')
    await expect(anthropic(sse(broken)).messages.stream(ask).finalMessage()).rejects.toThrow('did not answer in time')
  })
})

describe("OpenAI's client", () => {
  test('puts a stream together that came from Claude', async () => {
    const events = decodeStream('claude', readFixture('anthropic/stream-tools.sse'))
    const stream = openai(sse(encodeStream('openai-chat', events).text)).chat.completions.stream({
      ...askChat,
      stream_options: { include_usage: true },
    })
    const { choices, usage } = await stream.finalChatCompletion()
    expect(choices[0]?.message.content).toBe('Ich schaue. 🌦')
    expect(choices[0]?.message.tool_calls).toMatchObject([
      { id: 'toolu_1', function: { name: 'get_weather', arguments: '{"city": "Paris"}' } },
      { id: 'toolu_2', function: { name: 'now', arguments: '{}' } },
    ])
    expect(choices[0]?.finish_reason).toBe('tool_calls')
    expect(usage).toMatchObject({
      prompt_tokens: 3800,
      completion_tokens: 60,
      prompt_tokens_details: { cached_tokens: 3000 },
    })
  })

  test('reads a whole answer', async () => {
    const { json: body } = codecs['openai-chat'].encodeResponse(
      codecs.claude.decodeResponse(readJson('anthropic/response.json')),
    )
    const { choices } = await openai(json(body)).chat.completions.create(askChat)
    expect(choices[0]?.message.content).toBe('I look.')
    expect(choices[0]?.message.tool_calls).toHaveLength(2)
  })

  test('throws the class of our error, before a stream and within it', async () => {
    const client = openai(failing(codecs['openai-chat'].encodeError(new GatewayError('invalid_api_key'), 'r')))
    const refusal = await client.chat.completions.create(askChat).catch((thrown: unknown) => thrown)
    expect(refusal).toBeInstanceOf(OpenAI.AuthenticationError)
    expect(refusal).toMatchObject({ code: 'invalid_api_key' })
    const broken = codecs['openai-chat'].encodeStreamError(new GatewayError('upstream_timeout'), 'r')
    const stream = await openai(sse(broken)).chat.completions.create({ ...askChat, stream: true })
    await expect(
      (async () => {
        for await (const _ of stream);
      })(),
    ).rejects.toThrow('did not answer in time')
  })
})
