/**
 * What Headgate is compared with, the least that a proxy on Bun can do: (a) a call that is not streamed is read whole and
 * parsed both ways, (b) a stream is read and handed on chunk by chunk. No keys, no routing, no accounts. Runnable with the
 * upstream's address and, if it is another, that for large bodies; prints its own.
 */
const [upstream = '', upstreamOfLargeBodies = ''] = process.argv.slice(2)

const server = Bun.serve({
  hostname: '127.0.0.1',
  port: 0,
  idleTimeout: 0,
  async fetch(request) {
    const body = await request.text()
    const { stream } = JSON.parse(body) as { stream?: boolean }
    const target = body.length > 1_000_000 && upstreamOfLargeBodies ? upstreamOfLargeBodies : upstream
    const answer = await fetch(`${target}${new URL(request.url).pathname}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: 'Bearer reference' },
      body,
      signal: request.signal,
    })
    const headers = { 'content-type': answer.headers.get('content-type') ?? '' }
    if (stream) return new Response(byChunks(answer.body!), { status: answer.status, headers })
    const text = await answer.text()
    JSON.parse(text)
    return new Response(text, { status: answer.status, headers })
  },
})
console.log(server.url.origin)

function byChunks(body: ReadableStream<Uint8Array>): ReadableStream<Uint8Array> {
  const reader = body.getReader()
  return new ReadableStream(
    {
      async pull(controller) {
        const { done, value } = await reader.read()
        if (done) controller.close()
        else controller.enqueue(value)
      },
      cancel: () => reader.cancel(),
    },
    { highWaterMark: 0 },
  )
}
