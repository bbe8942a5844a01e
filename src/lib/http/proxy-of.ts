/**
 * The proxy that the environment names for a URL, as most programs read `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
 * @source https://curl.se/docs/manpage.html (environment), https://pkg.go.dev/golang.org/x/net/http/httpproxy
 */
import { isIp } from '../ip.ts'

type Environment = Readonly<Record<string, string | undefined>>

/** @returns for an origin, such as `https://host:8443`, the URL of its proxy; '' for none */
export function createProxyOf(env: Environment): (origin: string) => string {
  const read = (name: string): string => env[name.toLowerCase()]?.trim() || env[name]?.trim() || ''
  const proxies = { 'http:': withScheme(read('HTTP_PROXY')), 'https:': withScheme(read('HTTPS_PROXY')) } as const
  if (proxies['http:'] === '' && proxies['https:'] === '') return () => ''
  const exempt = read('NO_PROXY')
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== '')
  return (origin) => {
    const { protocol, hostname, port } = new URL(origin)
    const proxy = protocol === 'https:' ? proxies['https:'] : proxies['http:']
    const host = hostname.replace(/^\[|\]$/g, '')
    const at = { host, port: port || (protocol === 'https:' ? '443' : '80') }
    return proxy === '' || exempt.some((entry) => covers(entry, at)) ? '' : proxy
  }
}

const withScheme = (url: string): string => (url === '' || url.includes('://') ? url : `http://${url}`)

/** `*`, an address, or a name that stands for those below it, too; a port behind it must be the same. */
function covers(entry: string, { host, port }: { readonly host: string; readonly port: string }): boolean {
  if (entry === '*') return true
  const [, name = entry, entryPort] = isIp(entry) ? [] : (/^\[?(.*?)\]?(?::(\d+))?$/.exec(entry) ?? [])
  if (entryPort !== undefined && entryPort !== port) return false
  const bare = name.replace(/^\*?\./, '')
  return host === bare || (!isIp(host) && host.endsWith(`.${bare}`))
}
