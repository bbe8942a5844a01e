/** `FRONTEND_BASE_URL` never sends a browser in a circle: behind nginx of the guide, behind one that hides the host, and in a chain. */
import { expect, test } from 'bun:test'
import { SERVER_ENGINE } from '../support/engines.ts'
import { type Nginx, startNginx } from '../support/nginx.ts'
import type { RealNode } from '../support/node.ts'
import { withNodes } from '../support/nodes.ts'

/** The guide's block; without the line of the host, nginx tells its nodes the name of the upstream. */
const blockOf = (hostLine: string): string => `
upstream new_api_cluster {
    server master-node-ip:3000 weight=3;
    server slave-node1-ip:3000 weight=5;
    server slave-node2-ip:3000 weight=5;
}
server {
    listen 80;
    server_name your-domain.com;
    location / {
        proxy_pass http://new_api_cluster;
        ${hostLine}
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
    }
}`
const ROUNDS = 13
const MOST_REDIRECTS = 3

const follow = async (start: string): Promise<{ redirects: number; status: number; url: string }> => {
  let url = start
  for (let redirects = 0; ; redirects++) {
    const reply = await fetch(url, { redirect: 'manual', headers: { accept: 'text/html' } })
    await reply.arrayBuffer()
    const location = reply.headers.get('location')
    if (location === null || redirects > MOST_REDIRECTS) return { redirects, status: reply.status, url }
    // Temporary, so that no browser keeps it.
    expect([302, 307]).toContain(reply.status)
    url = new URL(location, url).href
  }
}

if (SERVER_ENGINE)
  test(
    'a page is reached within three redirects, whatever stands in front, and only pages are redirected',
    () =>
      withNodes(0, {}, async ({ add }) => {
        const nodes: RealNode[] = [await add(), await add(), await add()]
        const [master, slave, chained] = nodes as [RealNode, RealNode, RealNode]
        const hostOf = (node: RealNode): string => new URL(node.url).host
        const addresses = {
          'master-node-ip:3000': hostOf(master),
          'slave-node1-ip:3000': hostOf(slave),
          'slave-node2-ip:3000': hostOf(chained),
        }
        const proxies: Nginx[] = []
        try {
          const guide = await startNginx(blockOf('proxy_set_header Host $host;'), { addresses })
          proxies.push(guide)
          const hiding = await startNginx(blockOf(''), { addresses })
          proxies.push(hiding)
          master.start({ FRONTEND_BASE_URL: `${guide.url}/` })
          slave.start({ FRONTEND_BASE_URL: guide.url })
          // One whose home is another node, which sends pages on by itself.
          chained.start({ FRONTEND_BASE_URL: slave.url.replace('127.0.0.1', 'localhost') })
          await Promise.all(nodes.map((node) => node.ready(60_000)))

          const seen = new Map<string, number>()
          for (const [front, url] of [
            ['guide', guide.url],
            ['hiding', hiding.url],
            ['other name', guide.url.replace('127.0.0.1', 'localhost')],
          ] as const)
            for (let round = 0; round < ROUNDS; round++) {
              const { redirects, status } = await follow(`${url}/?round=${round}`)
              expect([front, status]).toEqual([front, 200])
              expect(redirects).toBeLessThanOrEqual(MOST_REDIRECTS)
              seen.set(front, Math.max(seen.get(front) ?? 0, redirects))
            }
          // Each of them met a node that redirects: here the one whose home is elsewhere.
          expect([...seen.values()].every((redirects) => redirects > 0)).toBe(true)
          console.log(`redirects at most: ${JSON.stringify(Object.fromEntries(seen))}`)
          // The master and the slave that are asked by their own host serve pages themselves.
          expect(await follow(`${master.url.replace('127.0.0.1', 'localhost')}/`)).toMatchObject({
            redirects: 0,
            status: 200,
          })
          expect(await follow(`${slave.url}/`)).toMatchObject({ redirects: 0, status: 200 })
          const sent = await follow(`${slave.url.replace('127.0.0.1', 'localhost')}/`)
          expect(sent).toEqual({ redirects: 1, status: 200, url: `${guide.url}/?redirected=1` })

          for (const path of ['/api/status', '/healthz', '/readyz', '/api/setup'])
            expect(await follow(`${slave.url.replace('127.0.0.1', 'localhost')}${path}`)).toMatchObject({
              redirects: 0,
            })
          // The public address, without the slash at its end, is what links begin with, on every node.
          for (const node of [master, slave]) {
            const status = (await (await fetch(`${node.url}/api/status`)).json()) as {
              data: { server_address: string }
            }
            expect(status.data.server_address).toBe(guide.url)
          }
        } finally {
          for (const proxy of proxies) await proxy.stop()
        }
      }),
    90_000,
  )
