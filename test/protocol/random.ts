/** A seeded random source, so that a failing property can be run again. */
export interface Random {
  readonly int: (below: number) => number
  readonly chance: (probability: number) => boolean
  readonly pick: <T>(items: readonly T[]) => T
  readonly text: () => string
}

const PIECES = [
  'a',
  'B7',
  ' ',
  '\n',
  '"',
  '\\',
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '\t',
  'é',
  '你好',
  '🎉',
  '\u2028',
  '\u0000',
  '/',
  'null',
]

export function seeded(seed: number): Random {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  const int = (below: number) => Math.floor(next() * below)
  const pick = <T>(items: readonly T[]) => items[int(items.length)] as T
  return {
    int,
    pick,
    chance: (probability) => next() < probability,
    text: () => Array.from({ length: 1 + int(8) }, () => pick(PIECES)).join(''),
  }
}
