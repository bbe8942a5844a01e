/** Reading of request headers that every entrance needs: the credential, the language, and the id a request is known by. */
export type Language = 'en' | 'zh'

/**
 * The credential of an `Authorization` header, with or without the word `Bearer`.
 * @returns '' when there is none
 */
export function bearerOf(headers: Headers): string {
  const value = headers.get('authorization')?.trim() ?? ''
  return /^bearer(\s|$)/i.test(value) ? value.slice(6).trim() : value
}

/**
 * A field's value without the blanks at its ends. Each letter is a byte: `trim` would also take the last byte of some
 * characters of UTF-8 for a blank.
 */
export const trimField = (value: string): string => value.replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, '')

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
  const time = new Date(nowMs)
  const date = (time.getUTCFullYear() * 100 + time.getUTCMonth() + 1) * 100 + time.getUTCDate()
  const seconds = ((date * 100 + time.getUTCHours()) * 100 + time.getUTCMinutes()) * 100 + time.getUTCSeconds()
  // Of a random UUID all digits but the two that are not random: cheaper than random bytes made into text.
  const random = crypto.randomUUID()
  const fraction = 1e9 + time.getUTCMilliseconds() * 1e6 + (Number.parseInt(random.slice(28), 16) % 1e6)
  return `${seconds}${String(fraction).slice(1)}${random.slice(0, 8)}${random.slice(9, 13)}${random.slice(24, 28)}`
}
