/** A TCP proxy before a MySQL server that decides the fate of each COMMIT, and of the whole connection. */

import type { AddressInfo } from 'node:net'
import { connect, createServer, type Socket } from 'node:net'

/**
 * - `pass`: nothing happens to it
 * - `lost`: the connection breaks before the server hears of the commit
 * - `unseen`: the server commits, its answer never arrives
 * - `late`: the client's connection breaks; the server hears of the commit a while later
 */
export type Fate = 'pass' | 'lost' | 'unseen' | 'late'

export interface SqlProxy {
  readonly port: number
  /** Asked for every COMMIT. */
  fate: () => Fate
  /** `refuse`: no connection; `hang`: connections that say nothing more */
  mode: 'on' | 'refuse' | 'hang'
  readonly fates: Record<Fate, number>
  cut(): void
  close(): Promise<void>
}

/** A query packet that says `commit`; servers with query attributes get two counts before the text. */
const COMMIT = ['\u0003commit', '\u0003\u0000\u0001commit']

export async function openSqlProxy(target: { readonly host: string; readonly port: number }): Promise<SqlProxy> {
  const pairs = new Set<() => void>()
  const server = createServer((client: Socket) => {
    if (proxy.mode === 'refuse') return void client.destroy()
    const upstream = connect({ host: target.host, port: target.port, noDelay: true })
    client.setNoDelay(true)
    let isMuted = false
    const end = (): void => {
      client.destroy()
      upstream.destroy()
      pairs.delete(end)
    }
    pairs.add(end)
    client.on('error', end).on('close', () => (isMuted ? undefined : end()))
    upstream.on('error', end).on('close', end)
    upstream.on('data', (bytes) => {
      if (!isMuted && proxy.mode !== 'hang') client.write(bytes)
    })
    client.on('data', (bytes) => {
      if (proxy.mode === 'hang') return
      if (!COMMIT.some((text) => bytes.toString('latin1').includes(text))) return void upstream.write(bytes)
      const fate = proxy.fate()
      proxy.fates[fate]++
      if (fate === 'pass') return void upstream.write(bytes)
      if (fate === 'lost') return end()
      isMuted = true
      if (fate === 'unseen') {
        upstream.once('data', end)
        upstream.write(bytes)
        return
      }
      client.destroy()
      setTimeout(() => {
        upstream.once('data', end)
        upstream.write(bytes)
      }, 150)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const proxy: SqlProxy = {
    port: (server.address() as AddressInfo).port,
    fate: () => 'pass',
    mode: 'on',
    fates: { pass: 0, lost: 0, unseen: 0, late: 0 },
    cut() {
      for (const end of [...pairs]) end()
    },
    async close() {
      this.cut()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return proxy
}
