/**
 * Keeps a stream within its hold: asks for more when three quarters are used, and tells when the whole is. Works on counted
 * output tokens, so that a chunk costs one comparison.
 */
import type { Hold, Price, Prices } from '../domain/billing/index.ts'

export interface Gauge {
  /** Is the hold used up? Then nothing more may be read until `ready` says so. */
  isSpent(outputTokens: number): boolean
  /** @returns false when the extension was refused: the stream ends */
  ready(): Promise<boolean>
}

const NO_LIMIT: Gauge = { isSpent: () => false, ready: () => Promise.resolve(true) }
/** Large enough that rounding does not show in the price of one token. */
const SAMPLE_TOKENS = 100_000
const ASK_SHARE = 0.75

export function createGauge(options: {
  readonly prices: Prices
  readonly price: Price
  readonly hold: Hold
  readonly inputTokens: number
  /** The client named a maximum, which the hold covers: our count must not end what the upstream will end itself. */
  readonly isCovered: boolean
}): Gauge {
  const { prices, price, hold, inputTokens, isCovered } = options
  if (isCovered || price.mode !== 'ratio' || hold.amount === 0) return NO_LIMIT
  const costOf = (input: number, output: number): number =>
    prices.estimate(price, { inputTokens: input, maxOutputTokens: output, isStream: true })
  const perToken = (costOf(0, SAMPLE_TOKENS) - costOf(0, 0)) / SAMPLE_TOKENS
  if (perToken <= 0) return NO_LIMIT
  const inputCost = costOf(inputTokens, 0)
  let askAtTokens = 0
  let spentAtTokens = 0
  let asking: Promise<boolean> | undefined

  const measure = (): void => {
    askAtTokens = (hold.amount * ASK_SHARE - inputCost) / perToken
    spentAtTokens = (hold.amount - inputCost) / perToken
  }
  const ask = async (): Promise<boolean> => {
    const isGranted = await hold.extend(hold.amount)
    if (isGranted) {
      measure()
      asking = undefined
    }
    return isGranted
  }
  measure()
  return {
    isSpent(outputTokens) {
      if (outputTokens >= askAtTokens) asking ??= ask()
      return outputTokens >= spentAtTokens
    },
    ready: () => asking ?? Promise.resolve(true),
  }
}
