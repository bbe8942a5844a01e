/** Reading of request headers that every entrance needs: the credential, the language, and the id a request is known by. */
import { randomBytes } from 'node:crypto'

export type Language = 'en' | 'zh'

/**
 * The credential of an `Authorization` header, with or without the word `Bearer`.
 * @returns '' when there is none
 */
export function bearerOf(headers: Headers): string {
  const value = headers.get('authorization')?.trim() ?? ''
  return /^bearer(\s|$)/i.test(value) ? value.slice(6).trim() : value
}

/** The better liked of our two languages in an `Accept-Language` header; English when it names neither. */
export function preferredLanguage(acceptLanguage: string | null): Language {
  let best: Language = 'en'
  let bestWeight = 0
  for (const part of (acceptLanguage ?? '').slice(0, 1000).split(',')) {
    const [tag = '', ...parameters] = part.trim().toLowerCase().split(';')
    const language = languageOf(tag)
    if (!language) continue
    const q = parameters.map((text) => /^\s*q=([\d.]+)\s*$/.exec(text)?.[1]).find((text) => text !== undefined)
    const weight = q === undefined ? 1 : Number(q)
    if (weight > bestWeight) {
      best = language
      bestWeight = weight
    }
  }
  return best
}

/** `zh-CN`, `zh_TW` → zh; `en-GB` → en; anything else is none of ours. */
export function languageOf(tag: string): Language | undefined {
  const primary = tag.trim().toLowerCase().split(/[-_]/, 1)[0]
  return primary === 'zh' || primary === 'en' ? primary : undefined
}

/**
 * A new request id: UTC time to the second, nine digits of the fraction, sixteen random hexadecimal characters. Sorts by
 * time and fits `logs.request_id`.
 */
export function newRequestId(nowMs: number): string {
  const digits = new Date(nowMs).toISOString().replace(/\D/g, '')
  const bytes = randomBytes(11)
  const fraction = String(bytes.readUIntBE(8, 3) % 1_000_000).padStart(6, '0')
  return `${digits}${fraction}${bytes.toString('hex', 0, 8)}`
}
