/**
 * Internet addresses as text: one spelling per address, sets of networks, and whose address a request really came from.
 * An address is held as four 32-bit words; IPv4 as its mapped IPv6 form, so that one comparison serves both.
 */

type Words = readonly [number, number, number, number]

const MAPPED = 0x0000ffff

export interface CidrSet {
  /** Is this address in one of the networks? False for what is no address. */
  has(ip: string): boolean
  /** Entries that are neither an address nor a network. They match nothing. */
  readonly invalid: readonly string[]
}

/** Loopback, private and link-local networks: what a proxy in front of a node usually has. */
export const PRIVATE_NETWORKS: readonly string[] = [
  '127.0.0.0/8',
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '169.254.0.0/16',
  '::1/128',
  'fc00::/7',
  'fe80::/10',
]

/**
 * One spelling per address: IPv4 dotted (also when it arrives as `::ffff:a.b.c.d` from a dual-stack listener), IPv6 in
 * lower case and shortest form, without brackets, port or zone. What is no address is returned trimmed.
 */
export function normaliseIp(text: string): string {
  const words = parseIp(text)
  return words ? formatIp(words) : text.trim()
}

export function isIp(text: string): boolean {
  return parseIp(text) !== undefined
}

/** @param list addresses and networks in CIDR notation; blank entries are skipped */
export function parseCidrs(list: readonly string[]): CidrSet {
  const networks: { readonly base: Words; readonly mask: Words }[] = []
  const invalid: string[] = []
  for (const entry of list) {
    const text = entry.trim()
    if (text === '') continue
    const network = parseCidr(text)
    if (network) networks.push(network)
    else invalid.push(text)
  }
  return {
    invalid,
    has(ip) {
      if (networks.length === 0) return false
      const words = parseIp(ip)
      if (!words) return false
      return networks.some(({ base, mask }) => base.every((word, i) => ((words[i]! ^ word) & mask[i]!) === 0))
    },
  }
}

/**
 * Whose request this is. The peer itself, unless it is a trusted proxy: then the right-most address in
 * `X-Forwarded-For` that is not a trusted proxy (what stands left of it was written by the client), else `X-Real-IP`.
 * @param peerIp address of the connection's other end
 * @returns a normalised address
 */
export function clientIp(request: Request, peerIp: string, trusted: CidrSet): string {
  const peer = normaliseIp(peerIp)
  if (!trusted.has(peer)) return peer
  const forwarded = request.headers.get('x-forwarded-for')
  if (forwarded) {
    const hops = forwarded.split(',')
    let outermost: string | undefined
    for (let i = hops.length - 1; i >= 0; i--) {
      const hop = hops[i]!
      if (!isIp(hop)) break
      outermost = normaliseIp(hop)
      if (!trusted.has(outermost)) break
    }
    if (outermost) return outermost
  }
  const real = request.headers.get('x-real-ip')
  return real && isIp(real) ? normaliseIp(real) : peer
}

function parseCidr(text: string): { base: Words; mask: Words } | undefined {
  const slash = text.lastIndexOf('/')
  const address = slash < 0 ? text : text.slice(0, slash)
  const base = parseIp(address)
  if (!base) return undefined
  const isV4 = !address.includes(':')
  const widest = isV4 ? 32 : 128
  const digits = slash < 0 ? String(widest) : text.slice(slash + 1)
  if (!/^\d{1,3}$/.test(digits) || Number(digits) > widest) return undefined
  const bits = Number(digits) + (isV4 ? 96 : 0)
  const wordMask = (index: number): number => {
    const covered = Math.min(Math.max(bits - index * 32, 0), 32)
    return covered === 0 ? 0 : (0xffffffff << (32 - covered)) >>> 0
  }
  return { base, mask: [wordMask(0), wordMask(1), wordMask(2), wordMask(3)] }
}

/** Accepts `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]`, `[::1]:80`, `fe80::1%eth0`. */
function parseIp(input: string): Words | undefined {
  let text = input.trim()
  if (text.startsWith('[')) {
    const end = text.indexOf(']')
    if (end < 0 || !/^(:\d+)?$/.test(text.slice(end + 1))) return undefined
    text = text.slice(1, end)
  } else if (/^[\d.]+:\d+$/.test(text)) {
    text = text.slice(0, text.indexOf(':'))
  }
  if (!text.includes(':')) {
    const v4 = parseV4(text)
    return v4 === undefined ? undefined : [0, 0, MAPPED, v4]
  }
  return parseV6(text.replace(/%.*$/, ''))
}

function parseV4(text: string): number | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text)
  if (!match) return undefined
  let value = 0
  for (let i = 1; i <= 4; i++) {
    const part = Number(match[i])
    if (part > 255) return undefined
    value = value * 256 + part
  }
  return value
}

function parseV6(text: string): Words | undefined {
  const halves = text.split('::')
  if (halves.length > 2) return undefined
  const head = parseGroups(halves[0]!)
  const tail = halves.length === 2 ? parseGroups(halves[1]!) : []
  if (!head || !tail) return undefined
  const missing = 8 - head.length - tail.length
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined
  const groups = [...head, ...new Array<number>(missing).fill(0), ...tail]
  const word = (i: number): number => groups[i]! * 65536 + groups[i + 1]!
  return [word(0), word(2), word(4), word(6)]
}

/** Colon-separated groups of 16 bits; the last may be a dotted IPv4 address. */
function parseGroups(text: string): number[] | undefined {
  if (text === '') return []
  const groups: number[] = []
  const parts = text.split(':')
  for (const [i, part] of parts.entries()) {
    if (i === parts.length - 1 && part.includes('.')) {
      const v4 = parseV4(part)
      if (v4 === undefined) return undefined
      groups.push(v4 >>> 16, v4 & 0xffff)
    } else if (/^[0-9a-f]{1,4}$/i.test(part)) groups.push(Number.parseInt(part, 16))
    else return undefined
  }
  return groups
}

function formatIp(words: Words): string {
  const [a, b, c, d] = words
  if (a === 0 && b === 0 && c === MAPPED) return [d >>> 24, (d >>> 16) & 255, (d >>> 8) & 255, d & 255].join('.')
  const groups = words.flatMap((word) => [word >>> 16, word & 0xffff])
  const run = longestZeroRun(groups)
  const hex = (from: number, to: number): string =>
    groups
      .slice(from, to)
      .map((group) => group.toString(16))
      .join(':')
  return run ? `${hex(0, run.start)}::${hex(run.end, 8)}` : hex(0, 8)
}

/** The longest run of at least two zero groups, the first of equals (RFC 5952). */
function longestZeroRun(groups: readonly number[]): { start: number; end: number } | undefined {
  let best: { start: number; end: number } | undefined
  for (let start = 0; start < groups.length; start++) {
    let end = start
    while (groups[end] === 0) end++
    if (end - start >= 2 && (!best || end - start > best.end - best.start)) best = { start, end }
    if (end > start) start = end
  }
  return best
}
