/** Many calls on few connections: answers of every framing, cut at random, always give the bodies that were sent. */
import { expect, test } from 'bun:test'
import { openAuthority } from '../../support/certificates.ts'
import { eventually } from '../../support/eventually.ts'
import { openSocks5 } from '../../support/proxies.ts'
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

for (const isFar of [false, true])
  test(`calls that are left at any moment, by either side, disturb no other, and leave nothing open${isFar ? ', by TLS through SOCKS5' : ''}`, async () => {
    const authority = isFar ? openAuthority() : undefined
    const socks = isFar ? await openSocks5() : undefined

    const seed = Date.now() % 1e9
    const random = createRandom(seed)
    const ticks = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve))
    }
    const server = await openWireServer({
      tls: authority?.sign('DNS:localhost'),
      answer: async (socket, { body }) => {
        const bytes = noise(Number(body.subarray(0, 5).toString()), 7)
        const answer = Buffer.concat([
          Buffer.from(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${bytes.length.toString(16)}\r\n`),
          bytes,
          Buffer.from('\r\n0\r\n\r\n'),
        ])
        const isCut = random(20) === 0
        for (let at = 0; at < answer.length; ) {
          const size = 1 + random(answer.length)
          if (isCut && random(3) === 0) return void (random(2) === 0 ? socket.destroy() : socket.end())
          socket.write(answer.subarray(at, at + size))
          at += size
          await ticks(random(3))
        }
      },
    })
    const client = openClient()
    let ends = 0
    let begun = 0
    let isDone = 0
    const caller = async (): Promise<void> => {
      for (let i = 0; i < 100; i++) {
        const length = 10_000 + random(80_000)
        const head = Buffer.from(String(length))
        const call = client.post(server.url, {
          proxy: socks?.url ?? '',
          body:
            random(2) === 0
              ? Buffer.concat([head, noise(random(200_000))])
              : {
                  length: head.length + 100_000,
                  async *pieces() {
                    begun++
                    try {
                      yield head
                      for (let at = 0; at < 100_000; at += 10_000) {
                        if (random(3) === 0) await ticks(1)
                        yield noise(10_000)
                      }
                    } finally {
                      ends++
                    }
                  },
                },
        })
        const outcome = whole(call).then(
          ({ bytes }) => sha256(bytes),
          (error: { code?: unknown }) => error.code,
        )
        const isLeft = random(3) === 0

        if (isLeft) void ticks(random(12)).then(() => call.abort(Object.assign(new Error('left'), { code: 'E_LEFT' })))
        const ending = await outcome
        const isWhole = ending === sha256(noise(length, 7))
        if (isWhole) isDone++
        expect({ seed, i, isFine: isWhole || ending === 'ECONNRESET' || (isLeft && ending === 'E_LEFT') }).toEqual({
          seed,
          i,
          isFine: true,
        })
      }
    }
    await Promise.all([caller(), caller(), caller(), caller()])
    expect(isDone).toBeGreaterThan(150)
    await eventually('each upload is told of its end', () => ends === begun)
    client.close()
    await eventually('nothing is open', () => server.open() === 0)
    if (socks) await eventually('nothing is open at the proxy', () => socks.open() === 0)
    server.stop()
    socks?.stop()
    authority?.close()
  })
