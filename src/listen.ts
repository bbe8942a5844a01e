/**
 * The port of a node: opens it, and closes it so that no call which is on its way is lost. Balancers see a node that is not
 * ready, clients that keep a connection are told to open another, what is arriving comes in, and then calls end.
 */
import type { AnyElysia } from 'elysia'
import type { Clock } from './lib/clock.ts'
import { refuseNewConnections } from './lib/listener.ts'

export interface Port {
  readonly number: number
  /**
   * @param drain waits for live calls, and ends what is left after so many milliseconds
   * @param onClosed called when nobody can connect any more
   */
  close(
    remainingMs: number,
    steps: { readonly drain: (deadlineMs: number) => Promise<void>; readonly onClosed: () => void },
  ): Promise<void>
}

/** Balancers and keep-alive clients look away in this time, before the listener closes. */
const LOOK_AWAY_MS = 500
/** Open connections on which nothing came for this long may be closed; a busy node waits no longer than the next. */
const QUIET_MS = 300
const QUIET_AT_MOST_MS = 5_000
/** Beyond Bun's own default: the relay and the admin API bound bodies themselves, with a clear error. */
const NO_LIMIT_BYTES = Number.MAX_SAFE_INTEGER

/** @param at.isShared several workers take connections of one port */
export function listen(
  web: AnyElysia,
  at: { readonly hostname: string; readonly port: number; readonly isShared: boolean },
  clock: Clock,
): Port {
  const { server } = web.listen({
    hostname: at.hostname,
    port: at.port,
    reusePort: at.isShared,
    // Quiet streams are normal here; silence is judged by the relay.
    idleTimeout: 0,
    maxRequestBodySize: NO_LIMIT_BYTES,
  })
  const number = server?.port
  if (!server || number === undefined) throw new Error('the server did not start to listen')
  return {
    number,
    async close(remainingMs, { drain, onClosed }) {
      const endAtMs = clock.monotonic() + remainingMs
      let lastRequestAtMs = clock.monotonic()
      server.reload({
        async fetch(request: Request) {
          lastRequestAtMs = clock.monotonic()
          return lastAnswer(await web.handle(withFindablePath(request)))
        },
        // Those that the framework had handed to the runtime would go on answering past the function above.
        routes: {},
      } as never)
      await Bun.sleep(Math.min(LOOK_AWAY_MS, remainingMs / 10))
      // A balancer that keeps connections uses them up before it finds the port closed and looks elsewhere.
      if (await refuseNewConnections(number)) {
        const untilMs = clock.monotonic() + Math.min(QUIET_AT_MOST_MS, remainingMs / 4)
        while (clock.monotonic() < Math.min(untilMs, lastRequestAtMs + QUIET_MS)) await Bun.sleep(QUIET_MS / 10)
      }
      const closed = server.stop()
      onClosed()
      await drain(endAtMs - clock.monotonic() - LOOK_AWAY_MS)
      await Promise.race([closed, Bun.sleep(LOOK_AWAY_MS)])
      await server.stop(true)
    },
  }
}

/** Without the runtime's router, the framework looks for the path behind the eleventh character of a URL, and misses it behind the name of a short host. */
function withFindablePath(request: Request): Request {
  const at = request.url.indexOf('/', 'http://'.length)
  return at < 11 ? new Request(`http://localhost${request.url.slice(at)}`, request) : request
}

/** A connection that is kept alive would meet a closed port next. */
function lastAnswer(response: Response): Response {
  response.headers.set('connection', 'close')
  return response
}
