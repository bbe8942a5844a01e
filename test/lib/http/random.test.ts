/** Many calls on few connections: answers of every framing, cut at random, always give the bodies that were sent. */
import { expect, test } from 'bun:test'
import { openWireServer } from '../../support/wire-server.ts'
import { noise, openClient, sha256, whole } from './support.ts'

/** @source https://en.wikipedia.org/wiki/Linear_congruential_generator */
function createRandom(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

const SEEDS = [1, 2, 3, Date.now() % 1e9]
const CALLS = 300

for (const seed of SEEDS)
  test(`with seed ${seed}`, async () => {
    const random = createRandom(seed)
    const bodies = Array.from({ length: CALLS }, (_, i) =>
      noise(random(8) === 0 ? random(300_000) : random(200), seed + i),
    )
    const framed = (body: Uint8Array): Uint8Array => {
      const hint = random(4) === 0 ? 'HTTP/1.1 103 Hint\r\nLink: x\r\n\r\n' : ''
      const padding = random(3) === 0 ? `X-Pad: ${'x'.repeat(random(300))}\r\n` : ''
      if (random(2) === 0)
        return Buffer.concat([
          Buffer.from(`${hint}HTTP/1.1 200 OK\r\n${padding}Content-Length: ${body.length}\r\n\r\n`),
          body,
        ])
      const parts = [Buffer.from(`${hint}HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n${padding}\r\n`)]
      for (let at = 0; at < body.length; ) {
        const piece = body.subarray(at, at + 1 + random(random(2) === 0 ? 20 : 100_000))
        at += piece.length
        const extension = random(5) === 0 ? `;x="${'y'.repeat(random(20))}"` : ''
        const size = `${'0'.repeat(random(3))}${piece.length.toString(16)}`
        parts.push(Buffer.from(`${size}${extension}\r\n`), Buffer.from(piece), Buffer.from('\r\n'))
      }
      const trailer = random(5) === 0 ? 'X-Sum: 1\r\n' : ''
      return Buffer.concat([...parts, Buffer.from(`0\r\n${trailer}\r\n`)])
    }
    const server = await openWireServer({
      answer: async (socket, { body }) => {
        const bytes = framed(bodies[Number(body.toString())]!)
        // A few cuts of any size, or all of one size.
        const most = random(3) === 0 ? 1 + random(9) : 1 + random(bytes.length)
        for (let at = 0, cuts = 0; at < bytes.length; cuts++) {
          const size = cuts > 40 ? bytes.length : 1 + random(most)
          socket.write(bytes.subarray(at, at + size))
          at += size
          if (random(3) > 0) await new Promise((resolve) => setImmediate(resolve))
        }
      },
    })
    const client = openClient()
    let next = 0
    const caller = async (): Promise<void> => {
      while (next < CALLS) {
        const id = next++
        const { bytes } = await whole(client.post(server.url, { body: String(id) }))
        expect({ seed, id, length: bytes.length, hash: sha256(bytes) }).toEqual({
          seed,
          id,
          length: bodies[id]!.length,
          hash: sha256(bodies[id]!),
        })
      }
    }
    await Promise.all([caller(), caller(), caller()])
    expect(server.accepted()).toBe(3)
    client.close()
    server.stop()
  })
