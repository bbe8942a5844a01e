/** The syntax of options that list HTTP status codes: `401,500-503`, the full-width comma too. */

export interface StatusRange {
  readonly from: number
  readonly to: number
}

/** @returns the ranges in the order given; undefined when a part is no code or range within 100–599 */
export function parseStatusCodes(text: string): readonly StatusRange[] | undefined {
  const parts = text
    .split(/[,，]/)
    .map((part) => part.trim())
    .filter((part) => part !== '')
  const ranges = parts.map(parseRange)
  return ranges.every((range) => range !== undefined) ? ranges : undefined
}

export const hasStatus = (ranges: readonly StatusRange[], status: number): boolean =>
  ranges.some((range) => status >= range.from && status <= range.to)

function parseRange(part: string): StatusRange | undefined {
  const match = /^(\d{3})(?:\s*-\s*(\d{3}))?$/.exec(part)
  if (!match) return undefined
  const from = Number(match[1])
  const to = Number(match[2] ?? match[1])
  return from >= 100 && to <= 599 && from <= to ? { from, to } : undefined
}
