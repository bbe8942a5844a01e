/** Calls through the client under test. */
import { expect } from 'bun:test'
import { concat } from '../../../src/lib/bytes.ts'
import type { Clock } from '../../../src/lib/clock.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { createHttpClient, type HttpAnswer, type HttpCall, type HttpRequest } from '../../../src/lib/http/client.ts'
import { eventually } from '../../support/eventually.ts'

export const NO_PROXIES = { http: '', https: '', no: '' } as const

export function openClient({
  clock = systemClock,
  isTlsChecked = false,
  proxies = NO_PROXIES,
}: Partial<Parameters<typeof createHttpClient>[0]> = {}) {
  const client = createHttpClient({ clock, isTlsChecked, proxies })
  const post = (url: string, { headers = new Headers(), body = '', proxy = '' }: Partial<HttpRequest> = {}): HttpCall =>
    client.post({ url, headers, body, proxy })
  return { post, close: client.close }
}

export interface Outcome {
  readonly status: number
  readonly fields: HttpAnswer['fields']
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly text: string
}

/** Reads it to its end. Each piece must be plain bytes. */
export async function whole(call: HttpCall): Promise<Outcome> {
  const answer = await call.answer
  const { status, fields } = answer
  const parts: Uint8Array<ArrayBuffer>[] = []
  for (;;) {
    const { done, value } = await answer.read()
    if (done) break
    // Of a `Buffer` `slice` would be a view.
    expect(Object.getPrototypeOf(value)).toBe(Uint8Array.prototype)
    expect(value.length).toBeGreaterThan(0)
    parts.push(value)
  }
  expect(await answer.read()).toEqual({ done: true, value: undefined })
  const bytes = concat(parts)
  return { status, fields, bytes, text: Buffer.from(bytes).toString('latin1') }
}

/** @returns the code of the error with which a call ends, and what came of its body before */
export async function failure(call: HttpCall): Promise<{ readonly code: unknown; readonly text: string }> {
  let text = ''
  try {
    const answer = await call.answer
    for (;;) {
      const { done, value } = await answer.read()
      if (done) return { code: 'none', text }
      text += Buffer.from(value).toString('latin1')
    }
  } catch (error) {
    return { code: (error as { code?: unknown }).code, text }
  }
}

/** A clock that stands until it is moved. */
export function openClock(): Clock & { move(ms: number): void } {
  let nowMs = 1_000
  return {
    now: () => nowMs,
    monotonic: () => nowMs,
    move: (ms) => {
      nowMs += ms
    },
  }
}

export const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

export const sha256 = (bytes: Uint8Array): string => new Bun.CryptoHasher('sha256').update(bytes).digest('hex')

/** Bytes of which none is where it could be by mistake. */
export function noise(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(length / 4))
  let state = seed
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    words[i] = state
  }
  return new Uint8Array(words.buffer, 0, length).slice()
}

/** Waits until a count that has begun goes up no more. */
export async function standsStill(count: () => number): Promise<void> {
  let seen = 0
  await eventually(
    'it stands still',
    () => {
      const isSame = count() > 0 && count() === seen
      seen = count()
      return isSame
    },
    { everyMs: 100 },
  )
}
