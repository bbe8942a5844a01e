/** Figures for Prometheus. They are told to this machine, to addresses that the operator names, and to who has the token. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { Elysia } from 'elysia'
import { type CidrSet, normaliseIp } from '../lib/ip.ts'
import type { PeerSource } from './http.ts'

/** Who puts one of these on has passed a request on: the machine that we see did not ask by itself. */
const FORWARDED = ['x-forwarded-for', 'x-real-ip', 'forwarded', 'via', 'x-forwarded-host', 'x-forwarded-proto'] as const

export const metricsRoutes = (deps: {
  readonly text: () => Promise<string>
  readonly contentType: string
  readonly clientIp: (request: Request, server: PeerSource | null) => string
  readonly loopback: CidrSet
  /** `METRICS_ALLOW` */
  readonly allowed: CidrSet
  /** `METRICS_TOKEN`; empty: no token opens it */
  readonly token: string
}) => {
  const isToken = (request: Request): boolean => {
    const given = /^bearer\s+(.*)$/i.exec(request.headers.get('authorization') ?? '')?.[1]
    return given !== undefined && deps.token !== '' && timingSafeEqual(digest(given), digest(deps.token))
  }
  return new Elysia().get(
    '/metrics',
    async ({ request, server }) => {
      const ip = deps.clientIp(request, server)
      const isForwarded = FORWARDED.some((name) => request.headers.has(name))
      const isLocal = deps.loopback.has(ip) && !isForwarded
      // Through a proxy that is not trusted, its own address is all that is known: anybody may be behind it.
      const isHidden = isForwarded && ip === normaliseIp(server?.requestIP(request)?.address ?? '')
      const isAllowed = deps.allowed.has(ip) && !isHidden
      if (!isLocal && !isAllowed && !isToken(request))
        return new Response('Ask from this machine, from an address in METRICS_ALLOW, or with METRICS_TOKEN.\n', {
          status: 403,
        })
      return new Response(await deps.text(), { headers: { 'content-type': deps.contentType } })
    },
    { detail: { hide: true } },
  )
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
