/**
 * The upstream of the benchmark: a fixed answer to a small call, and streams whose chunks go out one write each at the
 * pace that the prompt asks for. Cheap, so that it never is the limit. Runnable; prints its address.
 */
import { CALL_REPLY, readOrder, type StreamOrder, streamWrites } from './wire.ts'

async function* paced(order: StreamOrder): AsyncGenerator<Uint8Array> {
  const utf8 = new TextEncoder()
  for (const text of streamWrites(order)) {
    yield utf8.encode(text)
    await Bun.sleep(order.paceMs)
  }
}

const reply = new TextEncoder().encode(CALL_REPLY)
const server = Bun.serve({
  hostname: '127.0.0.1',
  port: 0,
  idleTimeout: 0,
  async fetch(request) {
    const order = readOrder(await request.text())
    return order
      ? new Response(paced(order) as unknown as BodyInit, { headers: { 'content-type': 'text/event-stream' } })
      : new Response(reply, { headers: { 'content-type': 'application/json' } })
  },
})
console.log(server.url.origin)
