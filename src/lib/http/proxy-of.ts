/**
 * The proxy that the environment names for a URL, as most programs read `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
 * @source https://curl.se/docs/manpage.html (environment), https://pkg.go.dev/golang.org/x/net/http/httpproxy
 */
import { isIp, normaliseIp, parseCidrs } from '../ip.ts'

/** As the variables of these names say; '' for none. */
export interface Proxies {
  readonly http: string
  readonly https: string
  /** Hosts that are called without one. */
  readonly no: string
}

/** @returns for an origin, such as `https://host:8443`, the URL of its proxy; '' for none */
export function createProxyOf(proxies: Proxies): (origin: string) => string {
  const http = withScheme(proxies.http)
  const https = withScheme(proxies.https)
  if (http === '' && https === '') return () => ''
  const exempt = proxies.no
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== '')
  return (origin) => {
    const { protocol, hostname, port } = new URL(origin)
    const proxy = protocol === 'https:' ? https : http
    const host = hostname.replace(/^\[|\]$/g, '')
    const at = { host, port: port || (protocol === 'https:' ? '443' : '80') }
    return proxy === '' || exempt.some((entry) => covers(entry, at)) ? '' : proxy
  }
}

const withScheme = (url: string): string => (url === '' || url.includes('://') ? url : `http://${url}`)

const ADDRESS_6 = /^\[(.*)\](?::(\d+))?$/
const NAME = /^([^:]*)(?::(\d+))?$/

/** `*`, an address, a network as `10.0.0.0/8`, or a name that stands for those below it, too; a port behind it must be the same. */
function covers(entry: string, { host, port }: { readonly host: string; readonly port: string }): boolean {
  if (entry === '*') return true
  if (entry.includes('/')) return parseCidrs([entry]).has(host)
  // A bare address of IPv6 is full of colons, and has no port.
  const [, name = entry, entryPort] = ADDRESS_6.exec(entry) ?? NAME.exec(entry) ?? []
  if (entryPort !== undefined && entryPort !== port) return false
  const bare = normaliseIp(name.replace(/^\*?\./, ''))
  return host === bare || (!isIp(host) && host.endsWith(`.${bare}`))
}
