/**
 * Keeps a stream within its hold: asks for as much output again when three quarters of what is held for output are used,
 * and tells when all is. Works on counted output tokens, so that a chunk costs one comparison.
 */
import type { Hold, Price, Prices } from '../domain/billing/index.ts'
import { GatewayError } from '../errors.ts'
import type { Tally } from './tally.ts'

export interface Gauge {
  /** Is the hold used up? Then nothing more may be read until `ready` says so. */
  isSpent(tally: Pick<Tally, 'outputTokens'>): boolean
  /** @returns false when the extension was refused: the stream ends */
  ready(): Promise<boolean>
  /** Why it was refused. */
  refusal(): GatewayError
}

/** Of an extension that was not granted; a hold that has ended gives no reason. */
export const refusalOf = (hold: Pick<Hold, 'refusal'>): GatewayError =>
  hold.refusal ?? new GatewayError('insufficient_user_quota')
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
  const noLimit: Gauge = { isSpent: () => false, ready: () => Promise.resolve(true), refusal: () => refusalOf(hold) }
  if (isCovered || price.mode !== 'ratio' || hold.amount === 0) return noLimit
  const costOf = (input: number, output: number): number =>
    prices.estimate(price, { inputTokens: input, maxOutputTokens: output, isStream: true })
  const perToken = (costOf(0, SAMPLE_TOKENS) - costOf(0, 0)) / SAMPLE_TOKENS
  if (perToken <= 0) return noLimit
  const inputCost = costOf(inputTokens, 0)
  const firstUnits = hold.amount - inputCost
  let askAtTokens = 0
  let spentAtTokens = 0
  let asking: Promise<boolean> | undefined

  const measure = (): void => {
    spentAtTokens = (hold.amount - inputCost) / perToken
    askAtTokens = spentAtTokens * ASK_SHARE
  }
  const ask = async (): Promise<boolean> => {
    const units = hold.amount - inputCost
    // Who has not as much again may still have another piece.
    const isGranted = (await hold.extend(units)) || (units > firstUnits && (await hold.extend(firstUnits)))
    if (isGranted) {
      measure()
      asking = undefined
    }
    return isGranted
  }
  measure()
  return {
    isSpent(tally) {
      const outputTokens = tally.outputTokens()
      if (outputTokens >= askAtTokens) asking ??= ask()
      return outputTokens >= spentAtTokens
    },
    ready: () => asking ?? Promise.resolve(true),
    refusal: () => refusalOf(hold),
  }
}
