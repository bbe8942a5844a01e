/**
 * The upstream of the benchmark: a fixed answer to a small call, at once or after a while, and streams whose chunks go out
 * one write each at the pace that the prompt asks for. Cheap, so that it never is the limit. Keeps its own ledger of what it
 * served, by the key that it was called with. Runnable; prints its address.
 */
import {
  CALL_REPLY,
  CALL_USAGE,
  LEDGER_PATH,
  type MockLedger,
  readOrder,
  type StreamOrder,
  streamWrites,
  usageOf,
} from './wire.ts'

const ledger = new Map<string, { -readonly [K in keyof MockLedger]: MockLedger[K] }>()
function note(request: Request, usage: Omit<MockLedger, 'calls'>): void {
  const key = request.headers.get('authorization') ?? ''
  const served = ledger.get(key) ?? { calls: 0, promptTokens: 0, completionTokens: 0 }
  ledger.set(key, served)
  served.calls++
  served.promptTokens += usage.promptTokens
  served.completionTokens += usage.completionTokens
}

async function* paced(order: StreamOrder): AsyncGenerator<Uint8Array> {
  const utf8 = new TextEncoder()
  for (const text of streamWrites(order)) {
    yield utf8.encode(text)
    await Bun.sleep(order.paceMs)
  }
}

/** A base URL may end with it: answers come so many milliseconds late, and one in so many is an error. */
const ON_DEMAND = /\/after\/(\d+)\/failing\/(\d+)\//
const reply = new TextEncoder().encode(CALL_REPLY)
let demanded = 0
const server = Bun.serve({
  hostname: '127.0.0.1',
  port: 0,
  idleTimeout: 0,
  async fetch(request) {
    if (request.url.endsWith(LEDGER_PATH)) return Response.json(Object.fromEntries(ledger))
    const order = readOrder(await request.text())
    if (order) {
      note(request, usageOf(order))
      return new Response(paced(order) as unknown as BodyInit, { headers: { 'content-type': 'text/event-stream' } })
    }
    const [, waitMs, oneIn] = ON_DEMAND.exec(request.url) ?? []
    if (waitMs) await Bun.sleep(Number(waitMs))
    if (Number(oneIn) > 0 && ++demanded % Number(oneIn) === 0)
      return Response.json({ error: { message: 'as was asked for', type: 'server_error' } }, { status: 500 })
    note(request, CALL_USAGE)
    return new Response(reply, { headers: { 'content-type': 'application/json' } })
  },
})
console.log(server.url.origin)
