/**
 * What is asked from outside whether a node is well, while a black hole stands in the place of each thing it depends on:
 * the process's own sign of life, its readiness with what is away by name, and the status that the guide's health check reads.
 */
import { expect, test } from 'bun:test'
import { openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE, sqlServer } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { openTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts'

const API_LIMIT = 20
/** A probe that waits for a black hole would take far longer. */
const PROMPT_MS = 5_000

interface Readiness {
  readonly ready: boolean
  readonly missing: readonly string[]
  readonly dependencies: readonly { readonly name: string; readonly up: boolean }[]
}

const ask = (url: string): Promise<Response> => fetch(url, { signal: AbortSignal.timeout(PROMPT_MS) })

async function readinessOf(url: string): Promise<Readiness> {
  const reply = await ask(`${url}/readyz`)
  const readiness = (await reply.json()) as Readiness
  expect(reply.status).toBe(readiness.ready ? 200 : 503)
  return readiness
}

const away = ({ dependencies }: Readiness): readonly string[] =>
  dependencies.filter(({ up }) => !up).map(({ name }) => name)

/** The guide's line, with the port alone replaced. @returns exit code and output */
async function guideCheck(url: string): Promise<{ readonly code: number; readonly text: string }> {
  const line = `wget -q -O - ${url}/api/status | grep -o '"success":\\s*true' | awk -F: '{print $2}'`
  const child = Bun.spawn(['sh', '-c', line], { stdin: 'ignore', stdout: 'pipe', stderr: 'ignore' })
  const text = (await new Response(child.stdout).text()).trim()
  return { code: await child.exited, text }
}

const engine = SERVER_ENGINE
if (engine) {
  test('each probe tells the truth about a dependency in a black hole, at once, and no limit ever hits it', async () => {
    const logs = await engine.freshDb({ isEmpty: true, only: 'logs' })
    const logProxy = await openTcpProxy(await sqlServer())
    const cluster = await openCluster({
      slaves: 0,
      env: {
        LOG_SQL_DSN: (logs.env.SQL_DSN ?? '').replace(/:\d+\)/, `:${logProxy.port})`),
        GLOBAL_API_RATE_LIMIT_ENABLE: 'true',
        GLOBAL_API_RATE_LIMIT: String(API_LIMIT),
      },
    })
    try {
      const url = cluster.nodes[0]?.url ?? ''
      const proxies: readonly (readonly [string, TcpProxy | undefined])[] = [
        ['database', cluster.databaseProxy],
        ['log database', logProxy],
        ['Redis', cluster.redisProxy],
      ]
      const all = await eventually(
        'everything is found',
        async () => {
          const readiness = await readinessOf(url)
          return away(readiness).length === 0 ? readiness : undefined
        },
        { withinMs: 20_000, everyMs: 50 },
      )
      const names = all.dependencies.map(({ name }) => name)
      for (const [name] of proxies) expect(names).toContain(name)
      expect(all.ready).toBe(true)

      const frozen: string[] = []
      for (const [name, proxy] of proxies) {
        proxy?.freeze()
        frozen.push(name)
        await eventually(
          `the ${name} is said to be away`,
          async () => {
            const readiness = await readinessOf(url)
            // It serves those whom it knows; a whole cluster that is taken out would serve nobody.
            expect(readiness.ready).toBe(true)
            return frozen.every((each) => away(readiness).includes(each)) && away(readiness).length === frozen.length
          },
          { withinMs: 30_000, everyMs: 100 },
        )
        expect((await ask(`${url}/healthz`)).status).toBe(200)
        expect(await guideCheck(url)).toEqual({ code: 0, text: 'true' })
      }
      for (const [, proxy] of proxies) proxy?.thaw()
      await eventually('everything is back', async () => away(await readinessOf(url)).length === 0, {
        withinMs: 60_000,
        everyMs: 100,
      })

      // Any other route of the API has a limit for an address; the status that checks read has none.
      for (let n = 0; n < 3 * API_LIMIT; n += 1) expect((await ask(`${url}/api/status`)).status).toBe(200)
      const others: number[] = []
      for (let n = 0; n < 2 * API_LIMIT; n += 1) others.push((await ask(`${url}/api/notice`)).status)
      expect(others).toContain(429)
      expect((await ask(`${url}/api/status`)).status).toBe(200)
      expect((await readinessOf(url)).ready).toBe(true)

      await cluster.nodes[0]?.kill()
      expect((await guideCheck(url)).text).toBe('')
      cluster.nodes[0]?.start()
      await cluster.nodes[0]?.ready(60_000)
      await cluster.settled(1)
      await cluster.stop()
    } finally {
      await cluster.remove()
      await logProxy.close()
      await logs.close()
    }
  }, 180_000)
}
