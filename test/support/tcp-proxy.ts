/** A TCP proxy in front of a server that misbehaves on demand: cuts, freezes, delays, refuses, counts, leads elsewhere. */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface TcpProxy {
  readonly port: number
  /** connections accepted so far */
  accepted(): number
  /** connections open now */
  openNow(): number
  /**
   * What to do with the next bytes of a client that contain `text`:
   * `cut-before` the server sees them, `cut-after` it has them but the client gets no answer, `freeze` they are kept.
   */
  onText(text: string, action: 'cut-before' | 'cut-after' | 'freeze'): void
  /** Ends every connection. */
  cutAll(): void
  /** Keeps all bytes in both directions from now on: a black hole, to which one can even connect. */
  freeze(): void
  thaw(): void
  /** Ends every connection, and each new one at once, until `admit`. */
  refuse(): void
  admit(): void
  /** Every piece arrives this much later, each way, ms; 0 ends it. */
  delay(ms: number): void
  /** New connections lead to another server; those that are open stay. */
  lead(target: { readonly host: string; readonly port: number }): void
  /** Stops listening and ends everything. */
  close(): Promise<void>
}

/** @param port to listen on; a free one if not given */
export async function openTcpProxy(
  target: { readonly host: string; readonly port: number },
  port = 0,
): Promise<TcpProxy> {
  const pairs = new Set<{ client: Socket; server: Socket }>()
  let accepted = 0
  let trap: { readonly text: string; readonly action: 'cut-before' | 'cut-after' | 'freeze' } | undefined
  let isFrozen = false
  let held: (() => void)[] = []

  let isRefusing = false
  let delayMs = 0
  let leadsTo = target

  const arrive = (to: Socket, bytes: Buffer | string): void => {
    if (isFrozen) held.push(() => to.write(bytes))
    else to.write(bytes)
  }
  const pass = (to: Socket, bytes: Buffer | string): void => {
    // Timers of one length end in the order in which they began.
    if (delayMs > 0) setTimeout(() => arrive(to, bytes), delayMs)
    else arrive(to, bytes)
  }
  const listener = createServer((client) => {
    if (isRefusing) return void client.destroy()
    accepted++
    const server = connect({ host: leadsTo.host, port: leadsTo.port, noDelay: true })
    const pair = { client, server }
    pairs.add(pair)
    let isMute = false
    const end = (): void => {
      pairs.delete(pair)
      client.destroy()
      server.destroy()
    }
    client.on('data', (bytes) => {
      if (!trap || !bytes.includes(trap.text)) return pass(server, bytes)
      const { action } = trap
      trap = undefined
      if (action === 'cut-before') return end()
      if (action === 'freeze') {
        isFrozen = true
        return pass(server, bytes)
      }
      isMute = true
      // The server has answered: so it has done what it was told.
      server.once('data', end)
      server.write(bytes)
    })
    server.on('data', (bytes) => {
      if (!isMute) pass(client, bytes)
    })
    for (const socket of [client, server]) socket.on('error', end).on('close', end)
  })
  await new Promise<void>((resolve) => listener.listen(port, '127.0.0.1', resolve))

  const cutAll = (): void => {
    for (const { client, server } of [...pairs]) {
      client.destroy()
      server.destroy()
    }
  }
  return {
    port: (listener.address() as AddressInfo).port,
    accepted: () => accepted,
    openNow: () => pairs.size,
    onText: (text, action) => {
      trap = { text, action }
    },
    cutAll,
    freeze: () => {
      isFrozen = true
    },
    thaw: () => {
      isFrozen = false
      for (const send of held) send()
      held = []
    },
    refuse: () => {
      isRefusing = true
      cutAll()
    },
    admit: () => {
      isRefusing = false
    },
    delay: (ms) => {
      delayMs = ms
    },
    lead: (to) => {
      leadsTo = to
    },
    close: () =>
      new Promise((resolve) => {
        listener.close(() => resolve())
        cutAll()
      }),
  }
}
