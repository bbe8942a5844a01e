/** A port that closes its door: nobody new comes in, and nobody who is in is hung up on. */
import { expect, test } from 'bun:test'
import { connect, type Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import { refuseNewConnections } from '../../src/lib/listener.ts'
import { eventually } from '../support/eventually.ts'

const GET = 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'

const isLinux = process.platform === 'linux'
if (!isLinux) console.log('left out: closing the door of a port (Linux only)')

/** @returns the socket, and what it has received */
function dial(port: number): { readonly socket: Socket; readonly received: string[]; code?: string } {
  const socket = connect(port, '127.0.0.1')
  const client: { socket: Socket; received: string[]; code?: string } = { socket, received: [] }
  socket.on('data', (bytes) => client.received.push(String(bytes)))
  socket.on('error', (error: { code?: string }) => {
    client.code = error.code ?? 'unknown'
  })
  return client
}

/** One address of IPv4, and all addresses of both kinds where there are both. */
const HOSTS = [
  '127.0.0.1',
  ...(Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === '::1')) ? ['::'] : []),
]

if (isLinux) {
  test('an idle connection is still answered after the port refuses new ones, and the runtime can stop as ever', async () => {
    const server = Bun.serve({ port: 0, hostname: '127.0.0.1', idleTimeout: 0, fetch: () => new Response('ok') })
    const port = server.port ?? 0
    const idle = dial(port)
    idle.socket.write(GET)
    await eventually('the first answer', () => idle.received.length === 1)
    expect(await refuseNewConnections(port)).toBe(true)
    const late = dial(port)
    await eventually('a new connection is refused', () => late.code === 'ECONNREFUSED')
    idle.socket.write(GET)
    await eventually('the second answer on the same connection', () => idle.received.length === 2)
    expect(idle.code).toBeUndefined()
    await server.stop(true)
    await eventually('the stop hangs up', () => idle.socket.destroyed)
  })

  test.each(HOSTS)(
    'no call that arrives at %s while the door closes is lost: it is answered, or was never let in',
    async (hostname) => {
      // Slow to take its calls in, so that they queue.
      const server = Bun.serve({
        port: 0,
        hostname,
        idleTimeout: 0,
        fetch() {
          Bun.sleepSync(3)
          return new Response('ok', { headers: { connection: 'close' } })
        },
      })
      const port = server.port ?? 0
      const clients: ReturnType<typeof dial>[] = []
      const dialling = setInterval(() => {
        const client = dial(port)
        clients.push(client)
        client.socket.on('connect', () => client.socket.write(GET))
      }, 2)
      await eventually('calls queue', () => clients.length > 50)
      await refuseNewConnections(port)
      await eventually('somebody is refused', () => clients.some(({ code }) => code === 'ECONNREFUSED'))
      clearInterval(dialling)
      await eventually('everybody has an answer', () =>
        clients.every(({ received, code }) => received.length > 0 || code !== undefined),
      )
      const ends = clients.map(({ received, code }) => (received.length > 0 ? 'answered' : code))
      expect(new Set(ends)).toEqual(new Set(['answered', 'ECONNREFUSED']))
      await server.stop(true)
    },
  )
}

test('a port that is not ours is left alone', async () => {
  expect(await refuseNewConnections(1)).toBe(false)
})
