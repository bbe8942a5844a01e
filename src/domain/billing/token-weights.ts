/**
 * Tokens times weights: what is paid for, told apart by kind, and the exact sums over it. Whole numbers all the way; plain
 * numbers where they provably suffice, big ones where not.
 */
import type { Usage } from '../../protocol/ir.ts'
import { coefficientAt, type Decimal, divideRounded, tenTo } from './decimal.ts'
import type { TokenRates } from './rates.ts'

export const KINDS = [
  'input',
  'output',
  'cacheRead',
  'cacheWrite',
  'cacheWrite1h',
  'imageInput',
  'audioInput',
  'audioOutput',
] as const
/** Tokens or weights by what is paid for. `cacheWrite` is all that does not live an hour. */
export type ByKind<T> = { readonly [Kind in (typeof KINDS)[number]]: T }

/** Quota units per token as whole numbers over one divisor. */
export interface Weights {
  readonly exact: ByKind<bigint>
  readonly exactDivisor: bigint
  /** The same as numbers; undefined when one of them is too long to be exact. */
  readonly quick: (ByKind<number> & { readonly divisor: number }) | undefined
}

export function weightsOf(decimals: ByKind<Decimal>): Weights {
  const scale = Math.max(...KINDS.map((kind) => decimals[kind].scale))
  const exact = mapKinds((kind) => coefficientAt(decimals[kind], scale))
  const exactDivisor = tenTo(scale)
  const isShort = [...KINDS.map((kind) => exact[kind]), exactDivisor].every((part) => part <= MAX_EXACT)
  return {
    exact,
    exactDivisor,
    quick: isShort ? { ...mapKinds((kind) => Number(exact[kind])), divisor: Number(exactDivisor) } : undefined,
  }
}

const MAX_EXACT = BigInt(Number.MAX_SAFE_INTEGER)

const mapKinds = <T>(make: (kind: (typeof KINDS)[number]) => T): ByKind<T> =>
  Object.fromEntries(KINDS.map((kind) => [kind, make(kind)])) as ByKind<T> // All kinds are there by construction.

/** An upstream's count as a whole number; what is none, or negative, is 0. */
export const count = (tokens: number): number =>
  tokens > 0 ? Math.min(Math.trunc(tokens), Number.MAX_SAFE_INTEGER) : 0

/**
 * Each token once. Upstreams may count a token in two parts (a cached one that is audio, too), so the rest is clamped at 0;
 * parts without a price of their own stay in it.
 */
export function tokensByKind(rates: TokenRates, usage: Usage): ByKind<number> {
  const cacheRead = count(usage.cacheReadTokens)
  const cacheWrite1h = count(usage.cacheWrite1hTokens)
  const cacheWrite = Math.max(count(usage.cacheWriteTokens) - cacheWrite1h, count(usage.cacheWrite5mTokens))
  const imageInput = rates.imageRatio === undefined ? 0 : count(usage.imageInputTokens)
  const hasAudioInput = rates.audio !== undefined || rates.audioInputUsd !== undefined
  const audioInput = hasAudioInput ? count(usage.audioInputTokens) : 0
  const audioOutput = rates.audio === undefined ? 0 : count(usage.audioOutputTokens)
  return {
    input: Math.max(0, count(usage.inputTokens) - cacheRead - cacheWrite - cacheWrite1h - imageInput - audioInput),
    output: Math.max(0, count(usage.outputTokens) - audioOutput),
    cacheRead,
    cacheWrite,
    cacheWrite1h,
    imageInput,
    audioInput,
    audioOutput,
  }
}

/** Σ tokens × weight, rounded; whole numbers all the way, so exact. */
export function sum({ quick, exact, exactDivisor }: Weights, tokens: ByKind<number>): number {
  if (quick) {
    // All terms are ≥ 0: a total within the safe range proves that no partial sum or product left it.
    const total =
      tokens.input * quick.input +
      tokens.output * quick.output +
      tokens.cacheRead * quick.cacheRead +
      tokens.cacheWrite * quick.cacheWrite +
      tokens.cacheWrite1h * quick.cacheWrite1h +
      tokens.imageInput * quick.imageInput +
      tokens.audioInput * quick.audioInput +
      tokens.audioOutput * quick.audioOutput
    if (total < Number.MAX_SAFE_INTEGER) {
      const rest = total % quick.divisor
      return (total - rest) / quick.divisor + (rest * 2 >= quick.divisor ? 1 : 0)
    }
  }
  const total = KINDS.reduce((units, kind) => units + BigInt(tokens[kind]) * exact[kind], 0n)
  return Number(divideRounded(total, exactDivisor))
}
