/** Where an API key stands in a request, and what its text means. Pure; knows nothing of who owns the key. */
import { bearerOf } from '../../lib/headers.ts'

export interface Credential {
  /** As stored, without `sk-` and suffix; '' when there is none. */
  readonly key: string
  /** What stands behind the key's dash: the channel an administrator wants. */
  readonly channel: string | undefined
}

const SOCKET_PROTOCOL = 'openai-insecure-api-key.'
const GEMINI_PATH = /^\/v1(?:beta|beta\/openai)?\/models/

/**
 * The credential of a relay request: the first of the places that applies to its path and is not empty.
 * @param path by which it was routed
 * @returns '' when there is none
 */
export function credentialOf({ headers }: Request, path: string, query: URLSearchParams): string {
  return (
    socketCredential(headers) ||
    (/\/v1\/(messages|models)/.test(path) && headers.get('x-api-key')?.trim()) ||
    (GEMINI_PATH.test(path) && (headers.get('x-goog-api-key')?.trim() || query.get('key')?.trim())) ||
    authorization(headers) ||
    headers.get('mj-api-secret')?.trim() ||
    ''
  )
}

/** Browsers cannot set headers on a WebSocket; they name the key as a subprotocol. */
function socketCredential(headers: Headers): string {
  if (headers.get('upgrade')?.toLowerCase() !== 'websocket') return ''
  const protocols = (headers.get('sec-websocket-protocol') ?? '').split(',').map((part) => part.trim())
  return protocols.find((part) => part.startsWith(SOCKET_PROTOCOL))?.slice(SOCKET_PROTOCOL.length) ?? ''
}

/** Midjourney clients send a fixed word here and their key in a header of its own. */
function authorization(headers: Headers): string {
  const credential = bearerOf(headers)
  return credential === 'midjourney-proxy' ? '' : credential
}

/** `sk-<key>-<channel id>` → its parts; the prefix and the suffix are optional. */
export function parseCredential(text: string): Credential {
  const bare = text.startsWith('sk-') ? text.slice(3) : text
  const dash = bare.indexOf('-')
  if (dash < 0) return { key: bare, channel: undefined }
  return { key: bare.slice(0, dash), channel: bare.slice(dash + 1).split('-', 1)[0] || undefined }
}
