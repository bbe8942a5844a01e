/**
 * Where pages have a public home, a slave sends a browser there that asked it under another name. Never in a circle: a
 * page is served where it was asked for if the hosts are the same, and wherever a redirect has led once.
 */

/** @param isProxyTrusted asked only for pages: may whoever sent this request tell the host that was asked? */
export type PageRedirect = (request: Request, isProxyTrusted: () => boolean) => Response | undefined

/** Marks an address that a redirect led to: a balancer that hides the host from its nodes sends it to a slave again. */
const MARK = 'redirected'

/** Paths that no browser opens as a page. */
const NOT_A_PAGE = /^\/(api|v1|v1beta|mj|suno|kling|jimeng|pg|dashboard\/billing|healthz|readyz|metrics)(\/|$)/

/** @param baseUrl `FRONTEND_BASE_URL`: an http or https address without a slash at its end */
export function createPageRedirect(baseUrl: string): PageRedirect {
  const home = new URL(baseUrl).hostname
  return (request, isProxyTrusted) => {
    const { method, headers } = request
    if ((method !== 'GET' && method !== 'HEAD') || !headers.get('accept')?.includes('text/html')) return undefined
    const { pathname, search, searchParams } = new URL(request.url)
    if (NOT_A_PAGE.test(pathname) || searchParams.has(MARK)) return undefined
    const hosts = [headers.get('host'), ...(isProxyTrusted() ? (headers.get('x-forwarded-host') ?? '').split(',') : [])]
    if (hosts.some((host) => hostName(host ?? '') === home)) return undefined
    const location = `${baseUrl}${pathname}${search}${search === '' ? '?' : '&'}${MARK}=1`
    return new Response(null, { status: 307, headers: { location, 'cache-control': 'no-store', vary: 'Host, Accept' } })
  }
}

/** Without the port: a balancer may listen on another one than it says. */
const hostName = (host: string): string | undefined => URL.parse(`http://${host.trim()}`)?.hostname
