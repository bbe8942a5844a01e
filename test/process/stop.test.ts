/** How a node takes its leave of those who keep connections to it: answered to the last, told to close, and nobody new let in. */
import { expect, test } from 'bun:test'
import { connect, type Socket } from 'node:net'
import { eventually } from '../support/eventually.ts'
import { createNode } from '../support/node.ts'

interface Client {
  readonly socket: Socket
  received: string
  code?: string
}

function dial(url: string): Client {
  const { hostname, port } = new URL(url)
  const client: Client = { socket: connect(Number(port), hostname), received: '' }
  client.socket.on('data', (bytes) => {
    client.received += String(bytes)
  })
  client.socket.on('error', (error: { code?: string }) => {
    client.code = error.code ?? 'unknown'
  })
  return client
}

/** @param host as a client writes it; also one with a short name */
async function ask(client: Client, host: string): Promise<string> {
  client.received = ''
  client.socket.write(`GET /healthz HTTP/1.1\r\nHost: ${host}\r\n\r\n`)
  await eventually(`an answer to ${host}`, () => client.received.endsWith('ok\n'))
  return client.received
}

test('a node that stops answers on every open connection, says that it will close it, and refuses new ones', async () => {
  const node = await createNode()
  try {
    node.start()
    await node.ready()
    const idle = Array.from({ length: 100 }, () => dial(node.url))
    for (const client of idle) expect(await ask(client, 'localhost')).not.toMatch(/^connection: close/im)
    const stopped = node.stop()
    const late: Client[] = []
    let asked = 0
    // Each was open before the stop, and the node cannot know that it will ask once more.
    const askNext = async (): Promise<string> => {
      const client = idle.shift()
      if (!client) throw new Error('no connection is left')
      asked += 1
      const text = await ask(client, asked % 2 === 0 ? 'localhost' : 'gw')
      expect(text).toStartWith('HTTP/1.1 200')
      if (!/^connection: close/im.test(text)) idle.push(client)
      return text
    }
    while (!late.some(({ code }) => code === 'ECONNREFUSED')) {
      late.push(dial(node.url))
      await askNext()
      await Bun.sleep(15)
    }
    for (const host of ['one', 'two'])
      expect([host, await askNext()]).toEqual([host, expect.stringMatching(/^connection: close/im)])
    expect(await stopped).toBe(0)
    for (const { socket } of [...late, ...idle]) socket.destroy()
  } finally {
    await node.remove()
  }
}, 60_000)
