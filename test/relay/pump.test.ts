/** What the pump promises about time and order, which no client can provoke at will. */
import { describe, expect, test } from 'bun:test'
import { GatewayError } from '../../src/errors.ts'
import { silentLog } from '../../src/lib/log.ts'
import { codecs, type StreamEncoder } from '../../src/protocol/index.ts'
import { createPump, type PumpOptions } from '../../src/relay/pump.ts'
import { Tally } from '../../src/relay/tally.ts'
import type { Ending } from '../../src/relay/types.ts'
import type { AbortReason, Exchange } from '../../src/relay/upstream.ts'

const utf8 = new TextEncoder()
const frame = (text: string) => `data: {"id":"c","choices":[{"index":0,"delta":{"content":"${text}"}}]}\n\n`
const FINISH = 'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
const DONE = 'data: [DONE]\n\n'

/** An upstream that says what the test lets it say. */
function scripted(options: Partial<PumpOptions> = {}) {
  let upstream!: ReadableStreamDefaultController<Uint8Array>
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      upstream = controller
    },
  })
  const ends: { ending: Ending; error: GatewayError | undefined }[] = []
  const calls: { silence?: () => void; stall?: () => void; abortedBy?: AbortReason } = {}
  const exchange: Exchange = {
    answer: { status: 200, fields: {}, read: () => Promise.reject(new Error('the pump has a reader of its own')) },
    abort(reason) {
      if (calls.abortedBy) return
      calls.abortedBy = reason
      if (reason !== 'done') upstream.error(new Error(reason))
    },
    abortedBy: () => calls.abortedBy,
    waiting: () => {},
    onSilence(_everyMs, call) {
      calls.silence = call
    },
    onStall(call) {
      calls.stall = call
    },
    close: () => {},
  }
  const pump = createPump({
    exchange,
    reader: body.getReader(),
    decoder: codecs['openai-chat'].streamDecoder(),
    encoder: undefined,
    hidesUsage: false,
    tally: new Tally({ model: 'm', inputTokens: 1, isTextCounted: true }),
    gauge: {
      isSpent: () => false,
      ready: () => Promise.resolve(true),
      refusal: () => new GatewayError('insufficient_user_quota'),
    },
    maxLineChars: 1_000_000,
    keepAliveMs: 1_000,
    drains: false,
    hangUp: () => {},
    log: silentLog,
    requestId: 'id',
    encodeError: (error) => codecs['openai-chat'].encodeStreamError(error, 'id'),
    onFirstByte: () => {},
    settle: async (ending, error) => void ends.push({ ending, error }),
    ...options,
  })
  return {
    pump,
    ends,
    calls,
    say: (text: string) => upstream.enqueue(utf8.encode(text)),
    close: () => upstream.close(),
    fail: () => upstream.error(new Error('reset')),
  }
}

const LONG_MS = 60_000

describe('before the first byte', () => {
  test('a failure is thrown, settles nothing, and so may be tried elsewhere', async () => {
    const { pump, ends, fail } = scripted()
    const primed = pump.prime(LONG_MS)
    fail()
    await expect(primed).rejects.toMatchObject({ code: 'do_request_failed' })
    expect(ends).toEqual([])
  })

  test('past the patience the client gets its headers and comments, and a failure becomes an error event that is settled', async () => {
    const { pump, ends, calls, fail } = scripted()
    await pump.prime(1)
    const text = new Response(pump.body).text()
    calls.silence!()
    fail()
    expect(await text).toMatch(/^: PING\n\ndata: \{"error":/)
    expect(ends).toMatchObject([{ ending: 'upstream-cut' }])
  })

  test('what arrives between the end of the patience and the first pull is not lost', async () => {
    const { pump, say, ends } = scripted()
    await pump.prime(1)
    say(frame('one'))
    await Bun.sleep(0)
    say(FINISH + DONE)
    expect(await new Response(pump.body).text()).toBe(frame('one') + FINISH + DONE)
    expect(ends).toMatchObject([{ ending: 'complete' }])
  })

  test('no comment is sent while the upstream may still fail silently', async () => {
    const { pump, calls, say } = scripted()
    const primed = pump.prime(LONG_MS)
    calls.silence!()
    say(frame('one') + FINISH + DONE)
    await primed
    expect(await new Response(pump.body).text()).not.toContain('PING')
  })
})

describe('the last byte', () => {
  for (const isConverted of [false, true]) {
    test(`waits for the journal (${isConverted ? 'converted' : 'forwarded'})`, async () => {
      let journalled!: () => void
      const journal = new Promise<void>((resolve) => {
        journalled = resolve
      })
      const encoder: StreamEncoder | undefined = isConverted
        ? codecs.claude.streamEncoder({
            model: 'm',
            id: 'i',
            createdAtSec: 1,
            includeUsage: true,
            inputTokensEstimate: 1,
          })
        : undefined
      const { pump, say } = scripted({ encoder, settle: () => journal })
      const primed = pump.prime(LONG_MS)
      say(frame('one'))
      await primed
      const reader = pump.body.getReader()
      expect(new TextDecoder().decode((await reader.read()).value)).toContain('one')
      say(FINISH + DONE)
      let isOver = false
      const rest = (async () => {
        let text = ''
        for (let read = await reader.read(); !read.done; read = await reader.read())
          text += new TextDecoder().decode(read.value)
        isOver = true
        return text
      })()
      await Bun.sleep(20)
      expect(isOver).toBe(false)
      journalled()
      expect(await rest).toContain(isConverted ? 'message_stop' : '[DONE]')
    })
  }

  test('is an error event when the journal does not take the charge', async () => {
    const { pump, say } = scripted({ settle: () => Promise.reject(new GatewayError('dependency_unavailable')) })
    const primed = pump.prime(LONG_MS)
    say(frame('one') + FINISH + DONE)
    await primed
    const text = await new Response(pump.body).text()
    expect(text).toContain('"error"')
    expect(text).not.toContain('[DONE]')
  })
})

describe('one end', () => {
  test('a call that is abandoned, interrupted and cut at once is settled once', async () => {
    const { pump, say, ends, fail } = scripted()
    const primed = pump.prime(LONG_MS)
    say(frame('one'))
    await primed
    const reader = pump.body.getReader()
    await reader.read()
    const pending = reader.read().catch(() => undefined)
    await Promise.all([pump.abandon(), pump.interrupt('shutting-down'), reader.cancel(), pending])
    try {
      fail()
    } catch {
      // The abort has ended it already.
    }
    await Bun.sleep(0)
    expect(ends).toMatchObject([{ ending: 'client-gone' }])
  })

  test('a client that stalls is settled once, its stream is closed and its connection too', async () => {
    let hangUps = 0
    const hangUp = (): void => {
      hangUps++
    }
    const { pump, say, ends, calls } = scripted({ hangUp })
    const primed = pump.prime(LONG_MS)
    say(frame('one'))
    await primed
    calls.stall!()
    await Bun.sleep(0)
    expect(ends).toMatchObject([{ ending: 'client-gone' }])
    expect(hangUps).toBe(1)
    expect(await new Response(pump.body).text()).toContain('one')
  })
})

test('a forwarded stream whose lines outgrow the limit goes on to the byte, no longer metered', async () => {
  const { pump, say, close, ends } = scripted({ maxLineChars: 100 })
  const long = frame('x'.repeat(500))
  const primed = pump.prime(LONG_MS)
  say(frame('one'))
  await primed
  const text = new Response(pump.body).text()
  say(long)
  say(FINISH + DONE)
  close()
  expect(await text).toBe(frame('one') + long + FINISH + DONE)
  expect(ends).toMatchObject([{ ending: 'complete' }])
})
