/**
 * Tells whether an upstream's host takes connections. `fetch` does not say when it is connected, and a slow model must not be
 * taken for a dead host: so a call that waits long looks here, and a host that answered lately is not asked.
 */
import type { Clock } from '../lib/clock.ts'

export interface Reach {
  /** An answer came from this host. */
  noteContact(url: string): void
  /** @param withinMs what a connection may take; a contact that is at most twice as old counts, too */
  isReachable(url: string, withinMs: number): Promise<boolean>
}

/** Opens and closes a connection. @throws when it is refused or the name is unknown */
export type Connect = (host: string, port: number) => Promise<void>

/** More than an operator has upstreams; past it the memory starts anew. */
const MAX_HOSTS = 10_000

export function createReach({
  clock,
  connect = openAndClose,
}: {
  readonly clock: Clock
  readonly connect?: Connect
}): Reach {
  const contacts = new Map<string, number>()
  /** One look serves all calls that wait for the same host. */
  const looks = new Map<string, Promise<boolean>>()

  const noteContact = (url: string): void => {
    if (contacts.size >= MAX_HOSTS) contacts.clear()
    contacts.set(originOf(url), clock.monotonic())
  }
  const look = async (origin: string, withinMs: number): Promise<boolean> => {
    let timer: ReturnType<typeof setTimeout> | undefined
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(resolve, withinMs, false)
    })
    const { hostname, port, protocol } = new URL(origin)
    const connected = connect(
      hostname.replace(/^\[|\]$/g, ''),
      Number(port) || (protocol === 'https:' ? 443 : 80),
    ).then(
      () => true,
      // The call itself meets the same refusal and says so better.
      () => true,
    )
    const isReachable = await Promise.race([connected, late])
    clearTimeout(timer)
    if (isReachable) noteContact(origin)
    return isReachable
  }

  return {
    noteContact,
    isReachable(url, withinMs) {
      const origin = originOf(url)
      const lastAtMs = contacts.get(origin)
      if (lastAtMs !== undefined && clock.monotonic() - lastAtMs <= 2 * withinMs) return Promise.resolve(true)
      const running = looks.get(origin) ?? look(origin, withinMs).finally(() => looks.delete(origin))
      looks.set(origin, running)
      return running
    },
  }
}

/** Scheme, host and port, by cutting: this runs once for each call. */
function originOf(url: string): string {
  const slash = url.indexOf('/', url.indexOf('://') + 3)
  return slash < 0 ? url : url.slice(0, slash)
}

const openAndClose: Connect = async (hostname, port) => {
  const socket = await Bun.connect({ hostname, port, socket: { data: () => {} } })
  socket.end()
}
